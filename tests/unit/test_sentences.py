"""What is wrong or odd is said in one sentence, once, with the way out: at the command line and where files are read."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import TINY, draw_folder
from PIL import Image

from cause_book.plots.data import main as draw
from cause_lib.data.__main__ import main as data
from cause_lib.data.images import load_image
from cause_lib.data.labels import read_classes
from cause_lib.data.report import report
from cause_lib.errors import InputError, NotFound
from cause_lib.names import three_numbers
from cause_lib.data import noted


@pytest.mark.parametrize("name, value", [("mean", "123.675 116.28 103.53"), ("mean", 128), ("image_std", 255),
                                         ("std", (58.4, 57.1, 57.4)), ("mean", 1.01)])
def test_statistics_of_pixels_from_0_to_255_are_refused(name, value):
    with pytest.raises(InputError, match=f"Parameter {name} must be three numbers.*in .0, 1.*: divide by 255"):
        three_numbers(name, value)


def test_a_standard_deviation_is_above_0():
    with pytest.raises(InputError, match=r'in \[0, 1\] and above 0, such as "0.229 0.224 0.225", not \'0\'\.$'):
        three_numbers("std", 0)
    assert three_numbers("std", 1) == (1.0,) * 3 and three_numbers("mean", "0 0.5 1") == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("listed", [["a", "a", "b"], [{"name": "b", "color": [1, 2, 3]}, "a", "a"]])
def test_a_list_names_each_class_once(tmp_path, listed):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"classes.json' names the class 'a' more than once: .*\{\"0\": \"a name\""):
        read_classes(path)
    path.write_text('{"0": "a", "1": "a", "2": "b"}')  # two values, one class
    assert read_classes(path)[0] == ["a", "b"]


def test_the_report_refuses_what_would_lose_pixels(tmp_path):
    draw_folder(tmp_path / "pictures")
    (tmp_path / "pictures" / "classes.json").write_text('["a", "a", "b"]')
    assert "names the class 'a' more than once" in " ".join(report("folder", folder=str(tmp_path / "pictures")).refused)


@pytest.mark.parametrize("name, said", [
    ("nowhere.png", "there is no picture at 'nowhere.png': put one there or take the name out"),
    (".", "there is no picture at '.' (but a folder, a pipe, or a link to nothing): put one there or take the name out"),
    ("http:/x/y.png", "there is no picture at 'http:/x/y.png': addresses are not fetched, download it first")])
def test_no_picture_is_said_once(name, said):
    with pytest.raises(NotFound) as error:
        load_image(name)
    assert str(error.value) == said


def test_values_are_listed_of_labels_alone(tmp_path, capsys):
    draw_folder(tmp_path / "bare", labels=False)
    with pytest.raises(SystemExit) as stop:
        data(["classes", str(tmp_path / "bare")])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out and "has no label of a picture" in err


@pytest.mark.parametrize("text, target, said", [
    (None, "a.png", "cannot be read"), ("", "a.png", "no report on a data set"), ("[1]", "a.png", "no report on a data"),
    ("3", "a.png", "no report on a data"), ('{"a": 3}', "a.png", "no report on a data"),
    ('{"a": {"splits": {"all": 3}}}', "a.png", "no report on a data"), ('{"a": {}, "b": {}}', "a.png", "2 reports on data sets"),
    ('{"a": {"splits": {}}}', "a.xyz", "cannot be written"), ('{"a": {"splits": {}}}', "no/a.png", "cannot be written")])
def test_the_figure_is_refused_in_a_sentence(tmp_path, capsys, text, target, said):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        draw([str(tmp_path / "report.json"), str(tmp_path / target)])
    assert stop.value.code == 2 and said in capsys.readouterr().err and not list(tmp_path.glob("a.*"))


def test_the_figure_is_drawn_and_no_argument_is_usage(tmp_path, capsys):
    draw_folder(tmp_path / "pictures")
    assert data(["check", str(tmp_path / "pictures"), "--json"]) == 0
    (tmp_path / "report.json").write_text(capsys.readouterr().out)
    draw([str(tmp_path / "report.json"), str(tmp_path / "a.png")])
    assert np.asarray(Image.open(tmp_path / "a.png")).size
    with pytest.raises(SystemExit):
        draw([])
    assert capsys.readouterr().err.startswith("usage: python -m cause_book.plots.data")


def test_the_command_line_shows_a_warning_once_and_without_code(tmp_path):
    draw_folder(tmp_path / "pictures")
    (tmp_path / "pictures" / "train" / "images" / "notes.txt").write_text("")
    settings = TINY | dict(dataset="folder", folder=str(tmp_path / "pictures"), run_dir=str(tmp_path / "runs"))
    words = [word for name, value in settings.items() for word in ("-p", name, str(value))]
    done = subprocess.run([sys.executable, "-m", "cause_lib", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("are not read as pictures") == 1 and "UserWarning" not in done.stderr, done.stderr


def test_a_warning_is_given_again_from_its_own_place_once(monkeypatch):
    monkeypatch.setattr(noted, "SAID", set())
    with pytest.warns(UserWarning, match="odd") as said:
        for _ in range(2):
            with noted.said_once() as heard:
                warnings.warn("odd", stacklevel=1)
            assert len(heard) == 1
    assert len(said) == 1 and said[0].filename == __file__
