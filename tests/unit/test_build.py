"""book/build.py: what counts as a changed library, and whose runs are thrown away. What it builds: tests/book/test_build.py."""

import importlib.util
import json
from pathlib import Path

import nbformat

SCRIPT = Path(__file__).resolve().parents[2] / "book/build.py"
spec = importlib.util.spec_from_file_location("book_build", SCRIPT)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def test_fingerprint_sees_every_byte_and_name_but_no_bytecode(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.py").write_text("x = 1")
    seen = [build.library_fingerprint(tmp_path)]
    (tmp_path / "data/__pycache__").mkdir()
    (tmp_path / "data/__pycache__/a.pyc").write_bytes(b"1")
    assert build.library_fingerprint(tmp_path) == seen[0]
    (tmp_path / "data/a.py").write_text("x = 2")
    seen.append(build.library_fingerprint(tmp_path))
    (tmp_path / "data/a.py").rename(tmp_path / "data/b.py")
    seen.append(build.library_fingerprint(tmp_path))
    (tmp_path / "weights.safetensors").write_bytes(b"\x00")
    seen.append(build.library_fingerprint(tmp_path))
    assert len(set(seen)) == 4


def test_only_the_embedded_defaults_runs_are_dropped(tmp_path):
    for stage in ("head", "evaluation"):
        for backbone in ("bundled", "bundled.random", "dino_vits16"):
            folder = tmp_path / stage / f"scenes-{backbone}-12345678"
            folder.mkdir(parents=True)
            for name in ("artefact.json", "metrics.json"):
                (folder / name).write_text(json.dumps({"experiment": {"backbone": backbone}}))
            (tmp_path / stage / f"{folder.name}.checkpoint.safetensors").write_bytes(b"")
    build.drop_default_runs(tmp_path)
    build.drop_default_runs(tmp_path / "absent")
    assert {path.name for path in tmp_path.glob("*/*")} == {
        "scenes-dino_vits16-12345678", "scenes-dino_vits16-12345678.checkpoint.safetensors",
    }


def test_a_fingerprint_of_a_file_is_of_its_bytes(tmp_path):
    (tmp_path / "sizes").write_text("a")
    before = build.library_fingerprint(tmp_path / "sizes")
    (tmp_path / "sizes").write_text("b")
    assert build.library_fingerprint(tmp_path / "sizes") != before


def test_outputs_name_no_place_of_this_machine():
    text = f"{build.ROOT}/cause_lib/data/folder.py:46: UserWarning: in the labels of '/home/me/my \"Grüße\"/holiday' ..."
    outputs = [nbformat.v4.new_output("stream", name="stderr", text=text),
               nbformat.v4.new_output("display_data", {"text/plain": "/home/me/w/a.pth", "image/png": "iVBORw0KGgo="})]
    places = {"CAUSE_DATA": '/home/me/my "Grüße"', "CAUSE_WEIGHTS": "/home/me/w/"}
    stream, shown = build.without_places(outputs, places)
    assert stream.text == "cause_lib/data/folder.py:46: UserWarning: in the labels of 'holiday' ..."
    assert shown.data == {"text/plain": "a.pth", "image/png": "iVBORw0KGgo="}
    assert build.without_places(outputs, {"CAUSE_DATA": "/"})[1] == outputs[1]
