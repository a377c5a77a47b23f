"""One sentence for what the library refuses, in notebooks and on the command line; all the rest in full."""

import pytest

from cause_lib import stages
from cause_lib.__main__ import main
from cause_lib.config import Experiment
from cause_lib.errors import Refusal
from cause_lib.runs.store import artefact_folder


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


def test_the_command_line_ends_with_the_sentence(tmp_path, monkeypatch, capsys):
    arguments = ["-p", "dataset", "folder", "-p", "folder", str(tmp_path / "none"), "-p", "device", "cpu"]
    with pytest.raises(SystemExit, match="^NotFound: there is no folder"):
        main(arguments)
    with pytest.raises(SystemExit):
        main(["-p", "sede", "1"])
    assert "Unknown parameter 'sede': did you mean 'seed'?" in capsys.readouterr().err
    monkeypatch.setattr(stages, "find", lambda *_: int("three"))
    with pytest.raises(ValueError, match="invalid literal"):  # a mistake of ours, in full
        main(["-p", "device", "cpu"])
