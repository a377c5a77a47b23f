"""What the library refuses is one line for the reader of a notebook; all other errors are shown in full."""

import nbformat
import pytest
from built import ROOT
from nbclient import NotebookClient

from cause_lib.errors import Refusal

CHAPTER = nbformat.read(ROOT / "notebooks/08_evaluation.ipynb", as_version=4)


@pytest.fixture(scope="module")
def outputs():
    """The errors of chapter 8's parameters under mistakes of the reader and one of the code, all in one kernel."""
    code = [cell.source for cell in CHAPTER.cells if cell.cell_type == "code"]
    (parameters,) = [cell.source for cell in CHAPTER.cells if "parameters" in cell.metadata.get("tags", [])]
    check = code[code.index(parameters) + 1]
    cells = {"# Parameters\nbatch_size = 'many'": check, "# Parameters\nbatch_size = 4": check,
             "1": "from cause_lib.segmenter import Segmenter\nSegmenter.load('nowhere')",
             "2": "def mine():\n    return int('three')\nmine()", "# Parameters\nlearning_rat = 1": check}
    sources = [parameters, *(source for pair in cells.items() for source in pair)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, kernel_name="python3", timeout=300, allow_errors=True).execute()
    return [[output for output in cell.outputs if output.output_type == "error"] for cell in notebook.cells[2::2]]


@pytest.mark.parametrize(("number", "sentence"), [
    (0, "Parameter batch_size must be int"), (2, ""), (4, "Unknown parameter 'learning_rat'")])
def test_a_refusal_is_one_line_and_still_an_error(outputs, number, sentence):
    [output] = outputs[number]
    [line] = output.traceback
    assert output.ename in {kind.__name__ for kind in Refusal.__subclasses__()}
    assert line.startswith(f"{output.ename}: {sentence}") and "\n" not in line
    assert output.evalue == line.removeprefix(f"{output.ename}: ")


def test_errors_of_ones_own_are_shown_in_full(outputs):
    assert outputs[1] == []
    [output] = outputs[3]
    assert output.ename == "ValueError" and "mine()" in "".join(output.traceback) and len(output.traceback) > 2
