"""The start and the end of a run: a misspelt parameter is refused before PyTorch is loaded, a signal ends in a sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import TINY, draw_folder
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "workflow" / "baseline.ipynb"]
HEAVY = ("torch", "timm", "transformers", "pandas", "matplotlib")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

#: Runs code that must end in a refusal; then says what of the heavy libraries is loaded.
ASK = """
import sys
try:
    {code}
except (SystemExit, Exception) as error:
    print(str(error))
else:
    print("nothing was refused")
print([name for name in {heavy} if name in sys.modules])
"""


def asked(code, **options):
    """The last two lines that a new process prints, and its errors."""
    script = ASK.format(code="\n    ".join(code.splitlines()), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, **options)
    return done.stdout.splitlines()[-2:], done.stderr


def test_the_command_line_refuses_before_anything_is_loaded():
    (_, loaded), said = asked("from cause_lib.__main__ import main\nmain(['-p', 'lerning_rate', '1'])")
    assert loaded == "[]" and "Unknown parameter 'lerning_rate': did you mean 'lr'?" in said


def test_a_table_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "mine.csv").write_text("lerning_rate\n1\n")
    (said, loaded), errors = asked(f"from workflow.check import main\nsys.exit(main([{str(tmp_path / 'mine.csv')!r}]))")
    assert loaded == "[]" and said == "1" and "line 1: Unknown parameter 'lerning_rate': did you mean 'lr'?" in errors


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_refuses_before_anything_is_loaded(path):
    """The cells up to the one that checks the parameters, as papermill has them run."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (own,) = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    cells = ["import cause_lib", code[own].source, "# Parameters\nsede = 3\n", code[own + 1].source]
    (said, loaded), _ = asked(f"space = {{'In': {cells!r}}}\nfor cell in space['In']:\n    exec(cell, space)")
    assert loaded == "[]" and said == "Unknown parameter 'sede': did you mean 'seed'?"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are as Linux keeps them")
def test_too_little_memory_for_pytorch_is_one_sentence():
    code = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)\n"
    (said, _), _ = asked(code + "from cause_lib.__main__ import main\nmain([])")
    assert said.startswith("PyTorch cannot be loaded (") and "give this process more memory" in said


def test_a_signal_ends_in_one_sentence_and_the_same_command_goes_on(tmp_path):
    settings = TINY | dict(dataset="folder", folder=draw_folder(tmp_path / "data"), run_dir=tmp_path / "runs",
                           concept_steps=100_000, checkpoint_steps=5)
    command = [sys.executable, "-m", "cause_lib", "--stage", "clusterbook"]
    command += [word for name, value in settings.items() for word in ("-p", name, str(value))]
    done = [0]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with (tmp_path / "said").open("w") as said:
            child = subprocess.Popen(command, stdout=said, stderr=said, env=ENVIRONMENT)
            while updates(tmp_path / "runs") < done[-1] + 15:
                assert child.poll() is None
                time.sleep(0.02)
            child.send_signal(number)
            assert child.wait(60) == code
        lines = [one for one in (tmp_path / "said").read_text().splitlines() if "Stopped" in one or "Traceback" in one]
        assert lines == [f"Stopped by {number.name}: nothing half-written is left in run_dir, and the same command, run "
                         "again, goes on from what is finished there and from the last checkpoint."]
        left = [path.name for path in (tmp_path / "runs/clusterbook").iterdir()]
        assert len(left) == 1 and left[0].endswith(".checkpoint.safetensors")
        assert {path.name for path in (tmp_path / "runs").rglob(".*")} <= {".opened"}
        done.append(updates(tmp_path / "runs"))
    assert 0 < done[1] < done[2]


def updates(run_dir):
    """Those that the checkpoint of step 1 has; 0 where there is none."""
    for path in run_dir.glob("clusterbook/[!.]*.checkpoint.safetensors"):
        with safe_open(path, framework="np") as file:
            return json.loads(file.metadata()["state"])["done"]
    return 0
