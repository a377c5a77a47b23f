"""What earlier versions left is found, read and gone on from: names, files and runs made by the version MADE_BY.

tests/data/make_golden.py wrote what is compared here, from the same functions:

    golden_folders.json   the digits that name each stage's folder, whole names, and every field's resolved value
    golden_keys.json      names, shapes and dtypes of every tensor of every artefact, and the keys of its records
    golden_runs.tar.xz    a finished run; a run killed in each of four stages; a saved Segmenter and a mask of it
"""

import hashlib
import itertools
import json
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from PIL import Image
from safetensors import safe_open

import cause_lib
from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.segmenter import Segmenter

MADE_BY = "0.1.0+ffce4a70"  # library_version() of commit 18f7e0d
DATA = Path(__file__).resolve().parents[1] / "data"
SETS = ("scenes", "camvid", "folder", "cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc")  # of MADE_BY
CASES = list(itertools.product(("published", "alive"), SETS, ("mlp", "tr")))

#: Other values of the fields, each by itself.
VARIANTS = [
    dict(label_free=False), dict(release="x"), dict(train_images=5), dict(positive_quantile=0.9, negative_quantile=0.5),
    dict(resize="antialiased"), dict(seed=3), dict(allow_corrupt="skip"), dict(num_classes=5), dict(image_size=96),
    dict(train_size=96), dict(crops="double"), dict(crops="none"), dict(crop_ratio=0.8), dict(train_split="val"),
    dict(test_split="train"), dict(test_images=5), dict(backbone="dino_vits16"), dict(backbone="dinov2_vitb14"),
    dict(num_heads=6), dict(positions="antialiased"), dict(num_concepts=64), dict(prototype_start="tokens"),
    dict(prototype_start="uniform"), dict(concept_steps=7), dict(modularity_temperature=0.2), dict(thin=3),
    dict(reduced_dim=70), dict(projection_dim=64), dict(head_steps=7), dict(bank_capacity=10), dict(bank_capacity=0),
    dict(bank_fraction=0.25), dict(contrast_temperature=0.1), dict(positive_threshold=0.4),
    dict(negative_threshold=0.2), dict(ema_decay=0.9), dict(shared_start=True), dict(dropout=0.2), dict(clip_norm=1),
    dict(weight_decay=0), dict(probe_start="kmeans"), dict(probe_start="uniform"), dict(probe_steps=7),
    dict(probe_decay_steps=3), dict(lr=1), dict(batch_size=4), dict(order_seed=3), dict(concept_readout=99),
    dict(concept_readout=0), dict(smoothing=0.2), dict(smoothing=0), dict(kmeans_restarts=1), dict(crf=False),
    dict(crf_iterations=3), dict(crf_backend="pydensecrf"), dict(run_dir="elsewhere"), dict(device="cpu"),
    dict(precision="bf16"), dict(cache_gb=0), dict(num_workers=2), dict(checkpoint_steps=3),
    dict(release="x", seed=3, label_free=False, concept_steps=7),
]

#: The run of golden_runs.tar.xz: small enough for a file of this size, with steps beyond a checkpoint.
RUN = dict(dataset="scenes", head="mlp", image_size=48, train_images=4, test_images=4, num_concepts=12, thin=2,
           reduced_dim=16, projection_dim=16, concept_steps=8, head_steps=8, probe_steps=8, batch_size=2, lr=0.01,
           bank_capacity=4, kmeans_restarts=2, checkpoint_steps=2, device="cpu", crf=True, crf_iterations=2)
RENAMED = {"results[].miou_all": "results[].miou_present"}  # what was `miou_all` then is `miou` now; see store.as_now
OWN = "some place/Our pictures, 2nd (é)"
MAKERS = {"clusterbook": stages.fit_clusterbook, "head": stages.fit_head, "probe": stages.fit_probe,
          "evaluation": stages.evaluate, "baseline": stages.fit_baseline,
          "baseline_evaluation": stages.evaluate_baseline}
KILLED = {"clusterbook": 6, "head": 6, "probe": 6, "evaluation": 2}  # stage: updates, or pictures, in its checkpoint
STEP = 1000  # seconds that passed, by the clock with which the fixture was made, whenever it was read


# --- what is compared, as make_golden.py stores it too ---

def golden(name):
    return json.loads((DATA / name).read_text())


def case_name(recipe, dataset, head, changes=None):
    return " ".join([recipe, dataset, head, *(f"{name}={value}" for name, value in (changes or {}).items())])


#: What these data sets meant to MADE_BY, where they mean something else now: there, they are given by hand.
OF_BEFORE = {"coco81": dict(crops="five", probe_steps=610_640), "coco171": dict(crops="five", probe_steps=610_640),
             "cocostuff27": dict(probe_steps=152_660), "pascalvoc": dict(crops="five", probe_steps=22_875),
             "cityscapes": dict(weight_decay=1e-4, probe_steps=4_650)}


def experiment_of(recipe, dataset, head, changes=None):
    folder = {"folder": "golden"} if dataset == "folder" else {}
    before = OF_BEFORE.get(dataset, {})
    if recipe == "alive":  # has its own number of updates, on every data set
        before = {name: value for name, value in before.items() if name != "probe_steps"}
    if dataset == "cityscapes":
        before = before | {"clip_norm": 2.0 if head == "tr" else 0.1}
    return Experiment(**dict(recipe=recipe, dataset=dataset, head=head) | folder | before | (changes or {}))


def means_more(case):
    """Whether a case means another run than it did: with labels, steps 2 and 3 are now the released ones."""
    return "label_free=False" in case


def digits(experiment):
    """The eight digits of each stage's folder, in the stages' alphabetical order; fingerprints of data are "0"."""
    stages_of_before = golden("golden_folders.json")["stages"]
    depends = [experiment.key(stage) | {"data": "0", "weights": "0"} for stage in stages_of_before]
    return " ".join(hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()[:8] for one in depends)


def all_digits():
    cases = {case_name(*case): experiment_of(*case) for case in CASES}
    for recipe, head, dataset in itertools.product(("published", "alive"), ("mlp", "tr"), ("scenes", "camvid")):
        for changes in VARIANTS:
            cases[case_name(recipe, dataset, head, changes)] = experiment_of(recipe, dataset, head, changes)
    return {name: digits(experiment) for name, experiment in cases.items()}


def named_runs():
    """Experiments whose folders' whole names are compared: of scenes, and of pictures that are drawn here.

    The latter are in a folder below the current one: its path, as it is given, is a part of the names.
    """
    draw_pictures(Path(OWN))
    for recipe, head in itertools.product(("published", "alive"), ("mlp", "tr")):
        for changes in ({}, {"seed": 3}, {"label_free": False}):
            yield case_name(recipe, "scenes", head, changes), experiment_of(recipe, "scenes", head, changes)
            own = changes | {"folder": OWN}
            yield case_name(recipe, "folder", head, own), experiment_of(recipe, "folder", head, own)


def draw_pictures(root):
    """Two bitmaps a split, whose bytes no compression changes."""
    for split, i in itertools.product(("train", "val"), range(2)):
        (root / split / "images").mkdir(parents=True, exist_ok=True)
        pixels = (np.arange(56 * 64 * 3).reshape(56, 64, 3) * (i + 3) // 7 % 256).astype(np.uint8)
        Image.fromarray(pixels).save(root / split / "images" / f"{i}.bmp")


def described(folder):
    """What an artefact folder holds: the tensors of each of its files, and the keys of its records, two levels deep."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found[path.name] = {name: [str(file.get_slice(name).get_dtype()), *file.get_slice(name).get_shape()]
                                    for name in sorted(file.keys())}
        elif path.suffix == ".json":
            found[path.name] = sorted(keys(json.loads(path.read_text())))
        else:
            found[path.name] = "file"
    return found


def keys(record, depth=2, before=""):
    """The names of a record's entries, `a`, and of the entries of those, `a.b`; of entries in a list, `a[].b`."""
    names = set()
    for name, value in record.items():
        names.add(before + name)
        if depth > 1 and isinstance(value, dict):
            names |= keys(value, depth - 1, f"{before}{name}.")
        elif depth > 1 and isinstance(value, list):
            names |= set().union(*(keys(entry, depth - 1, f"{before}{name}[].") for entry in value
                                   if isinstance(entry, dict)))
    return names


def described_runs(run_dir):
    """`described` of every artefact of tiny runs, by a name of the run and the stage."""
    found = {}
    for head, label_free in itertools.product(("mlp", "tr"), (True, False)):
        run = Experiment(**TINY | dict(head=head, label_free=label_free, concept_readout=30, run_dir=str(run_dir),
                                       train_images=2, test_images=2, concept_steps=2, head_steps=2, probe_steps=2,
                                       crf=True, crf_iterations=1))
        for stage, make in MAKERS.items():
            found[f"{head} {'label-free' if label_free else 'with labels'} {stage}"] = described(make(run))
    for path in sorted((Path(run_dir) / "features").iterdir()):
        found[f"features {path.name.rpartition('-')[0]}"] = described(path)
    return found


def tensors_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


# --- names ---

def test_folders_have_the_names_of_before():
    """Every stage, recipe, data set and head, and other values of every field."""
    varied = {name for changes in VARIANTS for name in changes} | {"recipe", "dataset", "head", "folder"}
    assert set(golden("golden_folders.json")["fields"]["all"]) <= varied  # fields that came later have `since`
    expected, found = golden("golden_folders.json")["digits"], all_digits()
    assert set(found) == set(expected)
    assert {name: found[name] for name in found if found[name] != expected[name] and not means_more(name)} == {}
    for name in filter(means_more, found):  # no folder of before is taken for one of these
        stages_of_before = zip(golden("golden_folders.json")["stages"], found[name].split(), expected[name].split())
        assert {stage for stage, ours, theirs in stages_of_before if ours != theirs} == (
            {"head", "probe"} if "release=" in name else {"head", "probe", "evaluation"})


def test_fields_have_the_values_of_before():
    expected = golden("golden_folders.json")["fields"]
    for case in CASES:
        of_before = expected["all"] | expected[case_name(*case)]
        found = experiment_of(*case).to_dict()
        assert {name: found[name] for name in of_before} == of_before, case_name(*case)


def test_whole_names_are_those_of_before(unpacked, monkeypatch):
    """A folder of the stored name is taken for the artefact: label, pictures, weights and class names count too."""
    monkeypatch.chdir(unpacked)
    runs, names = dict(named_runs()), golden("golden_folders.json")["names"]
    assert set(runs) == set(names)
    for case, expected in names.items():
        run = runs[case].replace(run_dir=str(unpacked / "named"))
        for stage, name in expected.items():
            if means_more(case) and stage in ("head", "probe", "evaluation"):
                assert stages.find(run, stage) is None, f"{case}: {stage}"
                continue
            place = unpacked / "named" / stage / name
            if not place.exists():
                shutil.copytree(next((unpacked / "finished" / stage).glob("*/")), place)
            assert stages.find(run, stage) == place, f"{case}: {stage}"


# --- files ---

def test_artefacts_hold_the_names_shapes_and_keys_of_before(tmp_path):
    expected, found = golden("golden_keys.json"), described_runs(tmp_path / "runs")
    assert sorted(found) == sorted(expected)
    for name, files in expected.items():
        beside = {"probe.safetensors"} if name.endswith("with labels head") else set()  # step 2 has a linear probe now
        assert set(found[name]) == {*files, *beside}, name
        for file, holds in files.items():  # records may have more entries than they had
            holds = [RENAMED.get(key, key) for key in holds] if file.endswith(".json") else holds
            assert found[name][file] == holds or file.endswith(".json") and set(holds) <= set(found[name][file]), name


# --- runs ---

@pytest.fixture
def unpacked(tmp_path):
    with tarfile.open(DATA / "golden_runs.tar.xz") as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return tmp_path


@pytest.fixture
def updates(monkeypatch):
    """A list that grows by one with each update of an optimiser."""
    made, step = [], torch.optim.Adam.step

    def counted(self, *args, **kwargs):
        made.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    return made


def everything(folder):
    return {path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in Path(folder).rglob("*")}


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_finished_run_is_found(unpacked, updates, monkeypatch, place):
    """Every stage returns what is there; nothing is trained, nothing is written, no feature is computed."""
    monkeypatch.chdir(unpacked)
    run = Experiment(**RUN, run_dir="finished" if place == "relative" else str(unpacked / "finished"))
    before = everything(unpacked)
    for stage, make in MAKERS.items():
        assert stages.find(run, stage) == make(run)
        assert make(run).parent == Path(run.run_dir) / stage
    assert not updates and everything(unpacked) == before


def test_records_of_a_finished_run_say_who_made_it_and_what_of(unpacked):
    paths = sorted((unpacked / "finished").glob("*/*/*.json"))
    assert len(paths) == 8  # artefact.json of six stages, metrics.json of two
    for path in paths:
        record = stages.read_record(path.parent)
        assert record["library"] == MADE_BY and record["stage"] == path.parent.parent.name
        for name, upstream in json.loads(path.read_text())["upstream"].items():
            assert not Path(upstream).is_absolute() and (unpacked / "finished" / upstream / "artefact.json").is_file()
            assert upstream.split("/")[0] == name
        assert Experiment.from_dict(record["experiment"]) == Experiment(**RUN, run_dir="finished")
    table = stages.collect_metrics(unpacked / "finished")
    assert len(table) == 6 and set(table["library"]) == {MADE_BY}


def test_scores_of_before_are_read_with_the_names_of_now(unpacked):
    """What was `miou_all` is `miou`, what was `miou` is `miou_present`, in records, tables and a saved Segmenter."""
    paths = sorted((unpacked / "finished").glob("*/*/metrics.json"))
    written = [result for path in paths for result in json.loads(path.read_text())["results"]]
    found = [result for path in paths for result in stages.read_record(path.parent)["results"]]
    assert len(written) == 6 and not any("miou_present" in result for result in written)
    for old, new in zip(written, found, strict=True):
        assert (new.pop("miou"), new.pop("miou_present")) == (old.pop("miou_all"), old.pop("miou"))
        assert new == old  # class 0 occurs nowhere here, and no cluster of it wins a pixel: None, then and now
    table = stages.collect_metrics(unpacked / "finished")
    assert (table["miou"] <= table["miou_present"]).all() and "miou_all" not in table
    shutil.copyfile(next(Path(cause_lib.__file__).parent.rglob("bundled.safetensors")),
                    unpacked / "segmenter" / "backbone.safetensors")
    results = Segmenter.from_pretrained(unpacked / "segmenter").record["results"]
    assert all(result["miou"] == result["miou_present"] and "miou_all" not in result for result in results)


@pytest.mark.parametrize("stage", KILLED)
def test_a_killed_run_goes_on_from_its_checkpoint(unpacked, updates, stage):
    """Seconds and updates tell that it does; and it comes to what the run that was not killed came to."""
    run = Experiment(**RUN, run_dir=str(unpacked / f"killed-{stage}"))
    [checkpoint] = Path(run.run_dir).glob(f"{stage}/*.checkpoint.safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        assert file.metadata()["library"] == MADE_BY
        state = json.loads(file.metadata()["state"])
    assert state["done"] == KILLED[stage] and state["seconds"] >= STEP
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        folder = MAKERS[stage](run)
    assert not [str(one.message) for one in told if "checkpoint" in str(one.message).lower()]
    assert len(updates) == (0 if stage == "evaluation" else RUN[f"{stage.replace('clusterbook', 'concept')}_steps"]
                            - state["done"])
    record = json.loads((folder / "artefact.json").read_text())
    assert state["seconds"] <= record["seconds"] < state["seconds"] + STEP
    assert not checkpoint.exists()
    same(folder, next((unpacked / "finished" / stage).glob("*/")))


def same(folder, expected):
    """Two artefacts of one name, with the same numbers; another processor may round differently."""
    assert folder.name == expected.name
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}
    for path in expected.glob("*.safetensors"):
        found = tensors_of(folder / path.name)
        for name, value in tensors_of(path).items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
            if value.is_floating_point():
                assert torch.allclose(found[name], value, rtol=0, atol=1e-5), name
            else:
                assert (found[name] == value).double().mean() > 0.999, name
        assert set(found) == set(tensors_of(path))
    record, other = (json.loads((place / "artefact.json").read_text()) for place in (folder, expected))
    assert record["upstream"] == other["upstream"]
    assert record.get("history", {}).get("step") == other.get("history", {}).get("step")
    assert record.get("history", {}).get("loss") == pytest.approx(other.get("history", {}).get("loss"), abs=1e-4)
    if (expected / "metrics.json").is_file():
        results, others = (stages.read_record(place)["results"] for place in (folder, expected))
        for result, theirs in zip(results, others, strict=True):
            assert [result[name] for name in ("method", "readout", "crf")] == \
                [theirs[name] for name in ("method", "readout", "crf")]
            assert (result["miou"], result["pacc"]) == pytest.approx((theirs["miou"], theirs["pacc"]), abs=0.005)


@pytest.mark.parametrize("way", ["saved", "run", "probe", "evaluation"])
def test_a_segmenter_gives_the_mask_of_before(unpacked, way):
    """From what save_pretrained wrote, from the run's folder, and from the folders of two of its stages."""
    if way == "saved":
        [weights] = Path(cause_lib.__file__).parent.rglob("bundled.safetensors")
        shutil.copyfile(weights, unpacked / "segmenter" / "backbone.safetensors")
        segment = Segmenter.from_pretrained(unpacked / "segmenter")
    else:
        segment = Segmenter.load(unpacked / "finished" if way == "run" else
                                 next((unpacked / "finished" / way).glob("*/")))
    expected = np.load(unpacked / "mask.npy", allow_pickle=False)
    assert segment.matched and segment.record["library"] == MADE_BY
    # MADE_BY resized by another nearest neighbour than the data sets (torch's "nearest"): done here, there and back, so
    # that the Segmenter resizes nothing
    picture = torch.from_numpy(np.array(Image.open(unpacked / "scene.png"))).permute(2, 0, 1)  # (3, 80, 96) uint8
    small = F.interpolate(picture[None].float() * (1 / 255), size=(48, 56), mode="nearest")[0]
    for image in (small, (small * 255).round().to(torch.uint8)):
        mask = segment(image)
        assert mask.shape == (48, 56) and mask.dtype == torch.int64
        mask = F.interpolate(mask[None, None].double(), size=expected.shape, mode="nearest")[0, 0].numpy()
        assert (mask == expected).mean() >= 0.999
    whole = segment(unpacked / "scene.png")
    assert len(np.unique(expected)) > 2 and segment.color(whole).shape == (*expected.shape, 3)
    assert torch.equal(whole, segment(Image.open(unpacked / "scene.png")))
