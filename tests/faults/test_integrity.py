"""A finished run, one bit, file or number of which has changed: one sentence at the next read, or nothing is different."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest import TINY, draw_folder, without_digests

from cause_lib import stages, weights
from cause_lib.config import Experiment
from cause_lib.errors import Refusal
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.store import checkpoint_path, load_checkpoint, read_record, save_checkpoint
from cause_lib.segmenter import Segmenter
from faults.fault import judge_message
from workflow import results
from workflow.rows import read_rows

FLIPS = 100
PLACES = ("clusterbook", "head", "probe", "evaluation", "baseline", "baseline_evaluation")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished runs of two seeds, and all that is read of the first."""
    home = tmp_path_factory.mktemp("made")
    folder = draw_folder(home / "data", pictures=2)
    small = dict(concept_steps=2, head_steps=2, probe_steps=2, train_size=48, head="mlp", crops="none")
    one, other = (Experiment(dataset="folder", folder=str(folder), run_dir=str(home / "runs"), seed=seed, **TINY | small)
                  for seed in (0, 1))
    for run in (one, other):
        stages.evaluate(run)
    return one, other, all_of(one)


@pytest.fixture
def runs(made, tmp_path):
    """A copy of both runs to be damaged: their experiments."""
    shutil.copytree(made[0].run_dir, tmp_path / "runs")
    return [run.replace(run_dir=str(tmp_path / "runs")) for run in made[:2]]


def all_of(run):
    """What a new process finds of a finished run: numbers, a mask, tokens, kept masks. Any warning is an error."""
    weights._sha256_of.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*left out")
        folder = stages.evaluate(run)
        table = stages.collect_metrics(run.run_dir).drop(columns="folder")
    found = [table[table["seed"] == run.seed].to_json(), json.dumps(read_record(folder)["dataset"])]
    for role, mirrored in (("train", False), ("test", False), ("test", True)):
        seen = FrozenFeatures(run, role, run.image_size, Accelerator(cpu=True), mirrored=mirrored)
        found += seen.stream([torch.arange(len(seen))])
    segment = Segmenter.load(stages.fit_probe(run))
    found += [segment(Path(run.folder) / "val/images/0.png"), torch.from_numpy(segment.colors)]
    found += [json.dumps(segment.classes), stages.load_clusterbook(stages.fit_clusterbook(run)).prototypes]
    return found + [value for _, value in sorted(stages.load_gallery(folder).items())]


def same(found, expected):
    return len(found) == len(expected) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(found, expected))


def files_of(run):
    """Every file of one run, its cached tokens among them."""
    folders = [*(Path(run.run_dir) / "features").iterdir(), *(stages.folder_of(run, stage) for stage in PLACES)]
    return sorted(path for folder in folders for path in folder.iterdir())


def test_a_finished_run_is_read_without_a_word(made, runs):
    assert same(all_of(runs[0]), made[2])
    names = {path.name for path in files_of(runs[0])}
    assert names == {"artefact.json", "metrics.json", "clusterbook.safetensors", "head.safetensors", "tokens.npy",
                     "probe.safetensors", "gallery.safetensors"}


def test_no_flipped_bit_changes_anything_in_silence(made, runs):
    chance, paths, noticed = random.Random(0), files_of(runs[0]), 0
    for _ in range(FLIPS):
        path = chance.choice(paths)
        whole, i, bit = path.read_bytes(), chance.randrange(path.stat().st_size), chance.randrange(8)
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1:])
        try:
            assert same(all_of(runs[0]), made[2]), f"in silence: bit {bit} of byte {i} of {path}"
        except Refusal as error:
            noticed += 1
            judge_message(error, str(path.parent))
        path.write_bytes(whole)
    assert noticed > 0.9 * FLIPS  # the others: blanks in the head of tokens.npy
    assert same(all_of(runs[0]), made[2])


@pytest.mark.parametrize("name", ["clusterbook.safetensors", "head.safetensors", "probe.safetensors", "metrics.json",
                                  "gallery.safetensors", "artefact.json"])
def test_a_file_of_another_seed_is_not_taken_for_this_ones(runs, name):
    paths = [path for path in files_of(runs[0]) if path.name == name and path.parents[1].name != "features"]
    theirs = {path: (stages.folder_of(runs[1], path.parents[1].name) / name).read_bytes() for path in paths}
    others = [path for path in paths if theirs[path] != path.read_bytes()]
    assert others
    for path in others:
        whole = path.read_bytes()
        path.write_bytes(theirs[path])
        with pytest.raises(Refusal) as caught:
            all_of(runs[0])
        judge_message(caught.value, str(path))
        path.write_bytes(whole)


def test_tokens_of_other_pictures_are_not_taken_for_these(runs):
    one, other, *_ = (path for path in files_of(runs[0]) if path.name == "tokens.npy")
    shutil.copyfile(other, one)
    with pytest.raises(Refusal, match=r"tokens.npy are damaged \(view 0 is not what was written\): remove .* run again"):
        all_of(runs[0])


@pytest.mark.parametrize("stage", PLACES)
def test_a_folder_of_another_seed_is_not_taken_for_this_ones(runs, stage):
    ours, theirs = (stages.folder_of(run, stage) for run in runs)
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    with pytest.raises(Refusal) as caught:
        all_of(runs[0])
    judge_message(caught.value, f"it is that of {theirs.name}")


def test_a_copy_may_have_any_name(runs, tmp_path):
    shutil.copytree(stages.folder_of(runs[0], "probe"), tmp_path / "elsewhere" / "mine")
    assert not Segmenter.load(tmp_path / "elsewhere" / "mine").matched


def test_what_is_gone_is_missed(runs):
    for path in files_of(runs[0]):
        if path.name in ("artefact.json", "tokens.npy"):  # without the first it is no artefact; see test_faults
            continue
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(Refusal) as caught:
            all_of(runs[0])
        judge_message(caught.value, str(path))
        path.write_bytes(whole)


def test_a_run_that_is_read_in_part_needs_its_own_part(runs):
    """Its evaluation is there, and what it was made of is not: nothing is read of that, and nothing asked."""
    for stage in ("clusterbook", "head", "baseline"):
        shutil.rmtree(stages.folder_of(runs[0], stage))
    assert stages.find(runs[0], "evaluation") == stages.evaluate(runs[0])


# --- numbers that no evaluation gives: of artefacts without digests too ---

def changed(folder, change):
    record = json.loads((folder / "metrics.json").read_text())
    change(record)
    (folder / "metrics.json").write_text(json.dumps(record))


EDITS = {
    "beyond 1": (lambda r: r["results"][0].update(miou=7.5), r"results\[0\] has the miou 7.5, which is not in \[0, 1\]"),
    "below 0": (lambda r: r["results"][1].update(pacc=-0.1), r"results\[1\] has the pacc -0.1, which"),
    "NaN": (lambda r: r["results"][0].update(miou_present=float("nan")), "miou_present nan, which"),
    "a text": (lambda r: r["results"][0].update(miou="0.5"), "miou 0.5, which"),
    "true": (lambda r: r["results"][0].update(miou=True), "miou True, which"),
    "another": (lambda r: r["results"][0].update(miou=0.987), "another miou than its confusion gives"),
    "none": (lambda r: r["results"][0].update(pacc=None), "another pacc than its confusion gives"),
    "of a class": (lambda r: r["results"][0]["iou"].__setitem__(0, 0.987), "another iou than its confusion gives"),
    "99": (lambda r: r["results"][0].update(assignment=[99] * 3), "an assignment that matches no 3 clusters to 3 classes"),
    "one twice": (lambda r: r["results"][0].update(assignment=[0, 0, 1]), "an assignment that matches no 3 clusters"),
    "too short": (lambda r: r["results"][0].update(assignment=[0, 1]), "an assignment that matches no 3 clusters"),
    "counts": (lambda r: r["results"][0]["confusion"][0].__setitem__(0, -4), "a confusion that is no square table"),
    "ragged": (lambda r: r["results"][0]["confusion"].pop(), "a confusion that is no square table"),
    "no results": (lambda r: r.update(results=[]), "it has no results"),
    "results a number": (lambda r: r.update(results=3), "is damaged"),
    "no classes": (lambda r: r.pop("dataset"), "dataset"),
}


@pytest.mark.parametrize("digests", [True, False], ids=["now", "before"])
@pytest.mark.parametrize("edit", EDITS)
def test_numbers_that_no_evaluation_gives_are_left_out_of_a_table_and_said(runs, edit, digests):
    change, says = EDITS[edit]
    if digests:
        says = "its SHA-256 is not the one in artefact.json"
    else:
        without_digests(runs[0].run_dir)
    folder = stages.folder_of(runs[0], "evaluation")
    changed(folder, change)
    with pytest.warns(UserWarning, match=r"^1 of the evaluations below .* left out of the table; the first: .*" + says):
        table = stages.collect_metrics(runs[0].run_dir)
    assert sorted(table["folder"].unique()) == sorted(stages.folder_of(run, stage).as_posix() for run, stage in (
        (runs[0], "baseline_evaluation"), (runs[1], "evaluation"), (runs[1], "baseline_evaluation")))
    (said,) = table.attrs["left_out"]
    assert str(folder) in said and "remove" in said and "run its stage again" in said
    if edit != "no classes" or digests:
        with pytest.raises(Refusal, match=str(folder)):
            Segmenter.load(stages.folder_of(runs[0], "probe"))


@pytest.mark.parametrize("digests", [True, False], ids=["now", "before"])
def test_an_evaluation_without_its_numbers_is_said(runs, digests):
    if not digests:
        without_digests(runs[0].run_dir)
    folder = stages.folder_of(runs[0], "evaluation")
    (folder / "metrics.json").unlink()
    with pytest.warns(UserWarning, match="1 of the evaluations .*metrics.json is missing: remove .* run its stage again"):
        assert len(stages.collect_metrics(runs[0].run_dir)) == 4
    with pytest.warns(UserWarning, match="1 of the evaluations .*metrics.json is missing"):
        assert stages.collect_metrics(folder).empty
    with pytest.raises(Refusal, match="metrics.json is missing"):
        Segmenter.load(stages.folder_of(runs[0], "probe"))


def test_what_another_process_is_writing_is_no_evaluation_yet(runs):
    folder = stages.folder_of(runs[0], "evaluation")
    beside = folder.with_name(f".{folder.name}.0123abcd") / folder.name
    beside.mkdir(parents=True)
    (beside / "metrics.json").write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(stages.collect_metrics(runs[0].run_dir)) == 6


@pytest.mark.parametrize("name", ["evaluation/metrics.json", "head/head.safetensors", "head/artefact.json"])
def test_a_table_of_experiments_goes_on_without_a_damaged_line(runs, tmp_path, name):
    names = [*TINY, "head", "crops", "train_size", "dataset", "folder", "run_dir", "seed"]
    lines = [",".join(str(run.to_dict()[key]) for key in names) for run in runs]
    (tmp_path / "mine.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    rows = read_rows(tmp_path / "mine.csv")
    assert sorted(results.results(rows)["line"].unique()) == [1, 2]
    stage, file = name.split("/")
    path = stages.folder_of(runs[0], stage) / file
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    if name.endswith(".json"):
        with pytest.warns(UserWarning, match="left out: .*is damaged"):
            assert list(results.results(rows)["line"].unique()) == [2]
    else:  # numbers need no head
        assert sorted(results.results(rows)["line"].unique()) == [1, 2]


# --- the weights of a backbone, and a saved Segmenter ---

def test_the_bundled_weights_are_those_of_their_card(made, tmp_path, monkeypatch):
    for path in (weights.BUNDLED_PATH, weights.BUNDLED_PATH.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    path = tmp_path / weights.BUNDLED_PATH.name
    monkeypatch.setattr(weights, "BUNDLED_PATH", path)
    assert same(all_of(made[0]), made[2])
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(Refusal) as caught:
        all_of(made[0])
    judge_message(caught.value, str(path))


def test_no_flipped_bit_of_a_saved_segmenter_changes_anything_in_silence(made, tmp_path):
    folder = Segmenter.load(stages.fit_probe(made[0])).save_pretrained(tmp_path / "mine")
    chance, whole = random.Random(0), {path: path.read_bytes() for path in sorted(folder.glob("*.*[s]*"))}
    expected, noticed = used(folder, made[0]), 0
    for path in chance.choices([*whole], k=40):
        i, bit = chance.randrange(len(whole[path])), chance.randrange(8)
        path.write_bytes(whole[path][:i] + bytes([whole[path][i] ^ 1 << bit]) + whole[path][i + 1:])
        try:
            assert same(used(folder, made[0]), expected), f"in silence: bit {bit} of byte {i} of {path}"
        except Refusal as error:
            noticed += 1
            judge_message(error, str(folder))
        path.write_bytes(whole[path])
    assert noticed >= 36 and {path.name for path in whole} == {"config.json", "model.safetensors", "backbone.safetensors"}


def used(folder, run):
    segment = Segmenter.from_pretrained(folder)
    return [segment(Path(run.folder) / "val/images/0.png"), torch.from_numpy(segment.colors), json.dumps(segment.record)]


# --- checkpoints ---

def test_no_flipped_bit_of_a_checkpoint_is_gone_on_from(tmp_path):
    chance = random.Random(0)
    state = {"done": 3, "seconds": 1.5, "scaler": None}
    tensors = {"a": torch.arange(40.0), "b": torch.tensor(3), "c": torch.ones(7, dtype=torch.bool),
               "d": torch.ones(2, 3).bfloat16().T}
    for _ in range(200):
        save_checkpoint(tmp_path / "x", state, tensors)
        path = checkpoint_path(tmp_path / "x")
        whole, i, bit = path.read_bytes(), chance.randrange(path.stat().st_size), chance.randrange(8)
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1:])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = load_checkpoint(tmp_path / "x")
        if found is None:
            assert len(said) == 1 and "the stage begins anew" in str(said[0].message) and not path.exists()
        else:  # a blank, or a name of one of the digests
            assert found[0] == state and all(torch.equal(found[1][name], value) for name, value in tensors.items())


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path):
    save_checkpoint(tmp_path / "x", {"done": 3}, {"a": torch.ones(2)})
    shutil.copyfile(checkpoint_path(tmp_path / "x"), checkpoint_path(tmp_path / "y"))
    assert load_checkpoint(tmp_path / "x")[0] == {"done": 3}
    with pytest.warns(UserWarning, match=r"is damaged \(it is that of x\): it is removed, and the stage begins anew"):
        assert load_checkpoint(tmp_path / "y") is None
