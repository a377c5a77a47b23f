"""Every fault ends in a result or in one sentence that names the file and the way out; nothing in a file is run."""

import collections
import copy
import functools
import warnings

import pytest

from cause_lib import backbones, segmenter
from faults.corpus import FAULTS
from faults.fault import judge_message, within
from faults.pictures import open_folder

PATIENCE = 30  # seconds; a fault takes a fraction of one, or for ever


@pytest.fixture(scope="module", autouse=True)
def one_backbone():
    """The embedded backbone is built once, not for every fault that has to do with something else."""
    empty, whole = backbones._own_vit("bundled"), functools.cache(backbones.load_backbone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "_own_vit", lambda name: copy.deepcopy(empty))
        patch.setattr(segmenter, "open_backbone", lambda experiment, image_size: whole(experiment.backbone, image_size))
        yield


@pytest.fixture
def folder(tmp_path):
    """A place for the fault's files, apart from the marker that code in a file would leave."""
    (tmp_path / "files").mkdir()
    yield tmp_path / "files"
    assert not (tmp_path / "files" / "ran").exists(), "something in a file was run"


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_result_or_one_sentence(fault, folder):
    fault.make(folder)
    with within(PATIENCE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = fault.meet(folder)
        except Exception as error:  # the corpus asks what comes, whatever it is
            if fault.check is not None and not fault.either:
                raise
            judge_message(error, fault.named)
            return
    assert fault.check is not None, f"taken without a word: {result!r:.200}"
    fault.check(result)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.skippable], ids=str)
def test_skipping_goes_on_and_counts(fault, folder):
    fault.make(folder)
    with within(PATIENCE), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset, items = open_folder(folder, allow_corrupt="skip")
    said = [str(warning.message) for warning in said if "allow_corrupt" in str(warning.message)]
    if fault.either and not dataset.skipped:  # what could be decoded after all
        fault.check((dataset, items))
        return
    assert dataset.names == ["good.png"] and len(items) == 1
    ((name, reason),) = dataset.skipped
    assert name == fault.skippable and fault.named in reason
    assert len(said) == 1 and "1 of 2 pictures" in said[0]


def test_names_tell_faults_apart():
    assert [name for name, count in collections.Counter(map(str, FAULTS)).items() if count > 1] == []
