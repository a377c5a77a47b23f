"""One sentence for what the library refuses, in notebooks and on the command line; all the rest in full."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cause_lib import stages
from cause_lib.__main__ import main
from cause_lib.config import Experiment
from cause_lib.errors import Refusal
from cause_lib.runs.store import artefact_folder

NAMESPACE = "# Parameters\nlr = 1e-3"
VALIDATE = "from cause_lib.runs.notebook import experiment_from\nexperiment = experiment_from(globals())"


def caught(function, *arguments, **options):
    with pytest.raises(Exception) as info:
        function(*arguments, **options)
    return info.value


def test_only_what_the_library_raises_on_purpose_is_a_refusal():
    assert isinstance(caught(Experiment, lr="fast"), Refusal)
    assert isinstance(caught(stages.read_record, "/nowhere"), Refusal)  # an OSError
    assert not isinstance(caught(int, "three"), Refusal)  # raised by Python, for us
    assert not isinstance(caught(Experiment.from_dict, 3), Refusal)  # a TypeError within the library: a bug of whoever calls
    assert not isinstance(caught(artefact_folder, "runs", "head", "name", {"a": {1, 2}}), Refusal)  # raised by json, below us


def fails(*cells):
    """The error output of the cell that fails, as a reader of the notebook sees it."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    [output] = [output for cell in notebook.cells for output in cell.outputs if output.output_type == "error"]
    return output


@pytest.mark.notebook
@pytest.mark.parametrize(("cells", "kind", "sentence"), [
    ([NAMESPACE + "\nlearning_rat = 1", VALIDATE], "InputError", "Unknown parameter 'learning_rat'"),
    ([NAMESPACE + "\nbatch_size = 'many'", VALIDATE], "InputError", "Parameter batch_size must be int"),
    ([NAMESPACE, VALIDATE, "from cause_lib.runs.store import read_record\nread_record('nowhere')"],
     "NotFound", "nowhere is not an artefact"),
])
def test_a_notebook_shows_a_refusal_as_one_line_and_still_fails(cells, kind, sentence):
    output = fails(*cells)
    [line] = output.traceback
    assert output.ename == kind and line.startswith(f"{kind}: {sentence}") and "\n" not in line
    assert output.evalue == line.removeprefix(f"{kind}: ")


@pytest.mark.notebook
def test_a_notebook_shows_its_own_errors_in_full():
    output = fails(NAMESPACE, VALIDATE, "def mine():\n    return int('three')\nmine()")
    assert output.ename == "ValueError" and "mine()" in "".join(output.traceback) and len(output.traceback) > 2


def test_the_command_line_ends_with_the_sentence(tmp_path, monkeypatch, capsys):
    arguments = ["-p", "dataset", "folder", "-p", "folder", str(tmp_path / "none"), "-p", "device", "cpu"]
    with pytest.raises(SystemExit, match="^NotFound: there is no folder"):
        main(arguments)
    with pytest.raises(SystemExit):
        main(["-p", "sede", "1"])
    assert "Unknown parameter 'sede': did you mean 'seed'?" in capsys.readouterr().err
    monkeypatch.setattr(stages, "find", lambda *_: int("three"))
    with pytest.raises(ValueError, match="invalid literal"):  # a mistake of ours, in full
        main(arguments)
