"""`Experiment`: presets, errors that help, keys of artefacts, parameters of notebooks."""

import dataclasses
import json
import re
from pathlib import Path

import papermill
import pytest
from papermill.parameterize import parameterize_notebook

from cause_lib.config import OTHER_NAMES, PASS_FIELDS, PRESETS, RULES, STAGE_FIELDS, Experiment
from cause_lib.data import DATASETS
from cause_lib.rules import LARGEST
from cause_lib.runs.notebook import experiment_from, read_parameters

CHAPTER = Path(__file__).resolve().parents[2] / "notebooks/08_evaluation.ipynb"
FIELDS = {field.name: field.type for field in dataclasses.fields(Experiment)}


def test_presets_are_concrete_and_follow_dataset_head_and_patch():
    scenes, camvid = Experiment(), Experiment(dataset="camvid", backbone="dino_vits16")
    assert (scenes.image_size, scenes.train_size, scenes.test_split) == (160, 160, "val")
    assert (camvid.image_size, camvid.train_size, camvid.test_split, camvid.num_concepts) == (320, 320, "test", 2048)
    assert Experiment(dataset="camvid", backbone="dino_vits16", head="mlp").train_size == 224
    patch14 = Experiment(dataset="camvid", backbone="dinov2_vitb14", head="mlp")
    assert (patch14.image_size, patch14.train_size) == (322, 224)
    assert (camvid.clip_norm, camvid.replace(head="mlp").clip_norm) == (2.0, 0.1)
    assert camvid.probe_decay_steps == 80 and camvid.replace(head="mlp").probe_decay_steps == 200
    open_ended = {"num_classes", "train_images", "test_images", "num_heads", "layer", "image_mean", "image_std", "test_view",
                  "positive_quantile", "negative_quantile", "probe_clip_norm"}  # no bound without labels
    assert {f.name for f in dataclasses.fields(scenes) if getattr(scenes, f.name) is None} == open_ended


def test_published_sets_take_the_published_settings():
    for name in ("cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc"):
        run = Experiment(dataset=name, backbone="dino_vitb8")
        assert (run.image_size, run.train_size, run.test_split) == (320, 320, "val")
        assert (run.num_concepts, run.thin, run.projection_dim) == (2048, 4, 2048)
        assert (run.head_steps, run.probe_steps) == (2 * run.concept_steps, 5 * run.concept_steps)
        assert run.probe_decay_steps == 2 * run.concept_steps  # halved after every second epoch
        assert run.replace(head="mlp").probe_steps == run.concept_steps == run.replace(head="mlp").probe_decay_steps
        assert run.crops == {"pascalvoc": "super", "coco81": "double", "coco171": "double"}.get(name, "five")
    assert Experiment(dataset="cityscapes", backbone="dino_vitb8").concept_steps == 930
    assert run.replace(dataset="camvid").concept_steps == 1500


@pytest.mark.parametrize("name, head, clip, decay, last_clip", [
    ("cocostuff27", "tr", 2, 1e-4, 2), ("cocostuff27", "mlp", 0.1, 1e-4, 0.1), ("cityscapes", "tr", 1, 0, 1),
    ("cityscapes", "mlp", 1, 0, 1), ("coco81", "tr", 2, 1e-4, 1e9), ("pascalvoc", "mlp", 0.1, 1e-4, 1e9)])
def test_a_data_set_alone_means_what_the_released_scripts_run(name, head, clip, decay, last_clip):
    run = Experiment(dataset=name, head=head, backbone="dino_vitb8")
    assert (run.clip_norm, run.weight_decay, run.probe_clip_norm, run.lr, run.batch_size) == (clip, decay, None, 1e-3, 16)
    assert run.replace(label_free=False).probe_clip_norm == last_clip


def test_what_a_reading_decides():
    paper, released = Experiment(), Experiment(reading="released")
    changed = {name for name, value in released.to_dict().items() if value != paper.to_dict()[name]}
    assert changed == {"reading", "resize", "thinning", "shared_start", "bank_draw", "crf_picture", "probe_dropout"}
    assert released.replace(reading="paper") == paper
    assert Experiment(reading="released", bank_draw="batch").bank_draw == "batch"
    msn = Experiment(dataset="camvid", backbone="msn_vits16", reading="released")
    assert (msn.positions, msn.replace(backbone="dino_vits16").positions) == ("exact", "dino")
    for stage in STAGE_FIELDS:  # the paper's is in no name
        assert not changed & set(paper.key(stage))
    with pytest.raises(ValueError, match='thinning "picture" keeps complete blocks alone'):
        Experiment(reading="released", image_size=24, thin=4)


def test_what_labels_decide():
    free, leak = Experiment(), Experiment(label_free=False)
    changed = {name for name, value in leak.to_dict().items() if value != free.to_dict()[name]}
    assert changed == {"label_free", "labels_in_norm", "probe_clip_norm", "probe_dropout"}
    assert leak.replace(label_free=True) == free
    for name, value in (("labels_in_norm", True), ("probe_clip_norm", 2.0)):
        with pytest.raises(ValueError, match=f"{name} {value} lets labels act on training, and label_free is True"):
            Experiment(**{name: value})


def test_replace_keeps_what_was_set_by_hand():
    run = Experiment(clip_norm=0.7, train_size=96).replace(head="mlp")
    assert (run.clip_norm, run.train_size) == (0.7, 96)
    assert Experiment(seed=3).replace(seed=4) == Experiment(seed=4)


def test_the_order_of_pictures_follows_the_seed_unless_it_was_set():
    assert Experiment(seed=3).order_seed == 3 and Experiment(seed=3).replace(seed=4).order_seed == 4
    assert Experiment(seed=3, order_seed=0).replace(seed=4).order_seed == 0
    assert Experiment().replace(seed=4, order_seed=0).order_seed == 0
    for stage in ("clusterbook", "head", "probe", "evaluation"):
        assert Experiment().key(stage) != Experiment(order_seed=1).key(stage)
    assert Experiment().key("baseline") == Experiment(order_seed=1).key("baseline")


def test_round_trip():
    run = Experiment(dataset="camvid", head="mlp", lr=0.01)
    assert Experiment.from_dict(run.to_dict()) == run


@pytest.mark.parametrize("wrong, said", [
    (dict(num_concept=3), "did you mean 'num_concepts'"),
    (dict(qqqqqq=3), "the parameters are: recipe, reading, dataset"),
    (dict(num_concepts="many"), "num_concepts must be int or None, not 'many'"),
    (dict(seed=True), "seed must be int"),
    (dict(label_free="False"), "label_free must be bool"),
    (dict(head="cnn"), "head must be one of tr, mlp"),
    (dict(ema_decay=1.5), "ema_decay must be between 0.0 and 1.0"),
    (dict(lr=float("nan")), "lr must be at least"),
    (dict(negative_threshold=0.5), "must not be above"),
    (dict(dataset="folder"), "needs the parameter folder"),
    (dict(folder="here"), 'set dataset to "folder"'),
    (dict(contrast_temperature=0.0), "must be at least 1e-06, not 0.0: cosines are divided by it."),
    (dict(dataset="camvit"), "must be one of scenes, .* \\(did you mean 'camvid'\\?\\), not 'camvit'"),
    (dict(head="TR"), "did you mean 'tr'"),
    (dict(lr=10**400), "lr must be at most 1000000000"),
    (dict(seed=10**5000), "between 0 and 2147483647, not a number of thousands of digits"),
    (dict(backbone="x" * 10_000), "backbone must be a text of at most 4096 characters, not 'xxx.*\\.\\.\\.: it names"),
    (dict(run_dir="~nobody-of-that-name/runs"), "a home folder that is known"),
    (dict(run_dir=f"{CHAPTER}/runs"), "run_dir must be a folder, .*08_evaluation.ipynb is a file"),
    (dict(image_size=4), "image_size 4 is smaller than a patch of bundled, 8 pixels"),
    (dict(train_size=4), "train_size 4 is smaller than a patch of bundled"),
    (dict(dataset="camvid", backbone="dino_vits16", image_size=160, crop_ratio=0.05), "crop_ratio 0.05 of image_size"),
    (dict(num_classes=9, concept_readout=5), "concept_readout 5 is less than num_classes 9"),
    (dict(positive_quantile=0.9), "go together"),
    (dict(positive_quantile=0.1, negative_quantile=0.9), "must not be above"),
    (dict(learning_rate=0.1), "did you mean 'lr'"),
    (dict(n_clusters=5), "did you mean 'num_classes'"),
    (dict(Batch_Size=5), "did you mean 'batch_size'"),
])
def test_bad_parameters_end_with_a_clear_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        Experiment.from_dict(wrong)
    assert one_sentence(str(caught.value))


def one_sentence(text):
    return "\n" not in text and text[-1] in ".?" and ". " not in text and len(text) < 2000


def refused(**wrong):
    with pytest.raises(ValueError) as caught:
        Experiment(**wrong)
    return str(caught.value)


def just_outside(name):
    """For every field of a kind the values that it must refuse."""
    rule, kinds = RULES[name], FIELDS[name].split(" | ")
    values = [object(), [1], b"x", {"a": 1}, *([] if "None" in kinds else [None])]
    if "str" in kinds:
        values += [1, True, f" {name}", f"{name} ", "a\0b", "a\nb", "a" * 5000]
        values += [] if rule.empty else [""]
        values += ["something else"] if rule.choices else []
    elif "bool" in kinds:
        values += [0, 1, "False", "yes", float("nan")]
    else:
        values += ["1", True, float("nan"), float("inf"), -float("inf"), rule.low - 1, 10**400]
        values += [LARGEST + 1] if rule.high is None else []
        values += [rule.low - 1e-9] if "float" in kinds else [rule.low + 0.5]
        values += [rule.high + 1, rule.high + 1e-9 if "float" in kinds else 1e300] if rule.high is not None else []
    return values


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_rule_and_says_why(name):
    for value in just_outside(name):
        said = refused(**{name: value})
        assert said.startswith(f"Parameter {name} must be ") and one_sentence(said), said
        assert said.endswith(f": {RULES[name].reason}."), said


@pytest.mark.parametrize("name", [name for name in FIELDS if "int" in FIELDS[name] or "float" in FIELDS[name]])
def test_both_ends_of_every_range_belong_to_it(name):
    rule = RULES[name]
    assert rule.low is not None and (rule.high is None or rule.low < rule.high)
    friends = {"train_size": dict(image_size=4096, head="tr"), "positive_threshold": dict(negative_threshold=-1.0),
               "negative_threshold": dict(positive_threshold=1.0), "positive_quantile": dict(negative_quantile=0.0),
               "negative_quantile": dict(positive_quantile=1.0), "probe_clip_norm": dict(label_free=False)}.get(name, {})
    low = max(rule.low, 8) if "size" in name and name != "batch_size" else rule.low
    crops = {"crops": "none"} if low == 8 else {}
    for value in (low, LARGEST if rule.high is None else rule.high):
        assert getattr(Experiment(**friends | crops | {name: value}), name) == value


def test_rules_are_of_the_fields_and_of_the_data_sets_that_there_are():
    assert list(RULES) == list(FIELDS)
    assert RULES["dataset"].choices == tuple(DATASETS) and set(PRESETS) <= {*DATASETS, "*"}
    for rule in RULES.values():
        for text in (rule.doc, rule.reason):
            assert text and not text[0].isupper() or text.startswith(("True", "Adam's")), text
            assert text[-1] not in ".:;", text
    assert set(OTHER_NAMES.values()) <= set(FIELDS) and not set(OTHER_NAMES) & set(FIELDS)


def test_the_home_folder_is_understood_and_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Experiment(run_dir="~/runs").run_dir == "/home/somebody/runs" and Experiment(run_dir="a~b").run_dir == "a~b"


def test_names_in_any_script_are_names():
    for name in ("Ferien am Meer", "写真", "été/à la plage", "\u3000-", "👩‍🌾"):
        assert Experiment(dataset="folder", folder=f"a{name}b", run_dir=f"a{name}b").folder == f"a{name}b"


def test_numbers_of_the_other_kind_pass_when_nothing_is_lost():
    run = Experiment(lr=1, seed=2.0)
    assert isinstance(run.lr, float) and isinstance(run.seed, int)


def test_heads_share_a_clusterbook_and_every_field_is_known():
    tr, mlp = Experiment(), Experiment(head="mlp")
    assert tr.key("clusterbook") == mlp.key("clusterbook") and tr.key("head") != mlp.key("head")
    assert tr.key("head") == tr.replace(label_free=False, labels_in_norm=False).key("head")
    assert tr.key("head") != tr.replace(label_free=False).key("head")
    assert tr.key("probe") != tr.replace(label_free=False).key("probe")
    fields = {f.name for f in dataclasses.fields(Experiment)}
    free = {"recipe", "reading", "run_dir", "device", "cache_gb", "num_workers", "checkpoint_steps"}
    assert set().union(*STAGE_FIELDS.values()) == fields - free
    assert set(PASS_FIELDS) <= fields and not {"seed", "head", "checkpoint_steps"} & set(PASS_FIELDS)


def test_a_field_is_declared_once_and_its_stages_follow():
    stages = {*STAGE_FIELDS, "released", "pass"}
    assert all(set(rule.stages.split()) <= stages for rule in RULES.values())
    order = ("features", "clusterbook", "head", "probe", "evaluation")
    for earlier, later in zip(order, order[1:]):
        assert set(STAGE_FIELDS[earlier]) < set(STAGE_FIELDS[later])
    assert set(STAGE_FIELDS["features"]) < set(STAGE_FIELDS["baseline"]) < set(STAGE_FIELDS["baseline_evaluation"])
    listed = re.findall(r"^    (\w+): ", Experiment.__doc__.split("Fields, with")[1], re.M)
    assert listed == list(FIELDS)


def test_released_files_owe_nothing_to_training():
    trained, released = Experiment(), Experiment(release="files")
    for change in (dict(seed=3), dict(head_steps=9), dict(label_free=False), dict(crops="none")):
        assert released.key("evaluation") == released.replace(**change).key("evaluation")
        assert trained.key("evaluation") != trained.replace(**change).key("evaluation")
    for change in (dict(release="others"), dict(head="mlp"), dict(image_size=96), dict(crf=False), dict(num_heads=6)):
        assert released.key("evaluation") != released.replace(**change).key("evaluation")
    assert released.key("probe") == trained.key("probe") and "release" not in trained.key("evaluation")


def test_notebook_parameters_find_what_papermill_only_warns_of():
    own, injected = "# Parameters\nseed = 0\nhead = 'tr'", "# Parameters\nsede = 3\n"
    namespace = {"In": ["", "import os", own, injected, "check"], "seed": 0, "head": "tr", "sede": 3, "miou": 0.3}
    with pytest.raises(ValueError, match="Unknown parameter 'sede': did you mean 'seed'"):
        experiment_from(namespace)
    # Corrected in a live session: only the latest run of the parameters cell counts.
    namespace["In"] += ["# Parameters\nseed = 5", "check"]
    namespace["seed"] = 5
    assert experiment_from(namespace).seed == 5


@pytest.mark.parametrize("wrong, right", [
    ("sede", "seed"), ("learning_rate", "lr"), ("epochs", "head_steps"), ("temperature", "contrast_temperature"),
    ("gpu", "device"), ("batchsize", "batch_size"), ("n_clusters", "num_classes"), ("num_concept", "num_concepts"),
    ("LR", "lr"), ("datset", "dataset"), ("workers", "num_workers"), ("back_bone", "backbone"), ("model", "backbone"),
])
def test_what_papermill_injects_under_another_name_is_stopped_before_any_work(wrong, right):
    """The cells as papermill writes them; the chapter itself goes on right after."""
    chapter = parameterize_notebook(papermill.iorw.load_notebook_node(str(CHAPTER)), {wrong: 3, "seed": 7})
    cells = [cell.source for cell in chapter.cells if cell.cell_type == "code"]
    before = cells[:next(i for i, cell in enumerate(cells) if "experiment_from(globals())" in cell) + 1]
    (injected,) = [cell for cell in before if f"{wrong} = 3" in cell]
    assert injected.startswith("# Parameters") and len(before) == 4  # install, ours, papermill's, and what refuses
    namespace = {"In": ["", *before]}
    for cell in before[1:-1]:
        exec(cell, namespace)  # noqa: S102
    with pytest.raises(ValueError, match=f"Unknown parameter '{wrong}': did you mean '{right}'\\?"):
        experiment_from(namespace)
    del namespace["In"], namespace[wrong]
    assert experiment_from(namespace).seed == 7


def test_papermill_may_give_a_field_that_the_chapter_does_not_declare():
    namespace = {"In": ["", "# Parameters\nseed = 0", "# Parameters\nprobe_steps = 3\n", "check"], "seed": 0,
                 "probe_steps": 3}
    assert experiment_from(namespace) == Experiment(seed=0, probe_steps=3)


def test_a_notebook_may_have_parameters_beside_the_fields():
    own = {"seeds": int, "results": (str, type(None))}
    namespace = {"In": ["", "# Parameters\nseed = 4\nseeds = 2.0\nresults = None", "check"], "seed": 4, "seeds": 2.0,
                 "results": None}
    assert experiment_from(namespace, own) == Experiment(seed=4)
    with pytest.raises(ValueError, match="Parameter seeds must be int, not 'x'"):
        experiment_from(namespace | {"seeds": "x"}, own)
    with pytest.raises(ValueError, match="'results' is missing"):
        experiment_from({"seeds": 1}, own)
    with pytest.raises(ValueError, match="Unknown parameter 'result': did you mean 'results'"):
        experiment_from(namespace | {"In": ["", "# Parameters\nresult = 1"], "result": 1}, own)


def test_stored_experiments_are_read_as_they_were_written():
    for recipe in ("published", "alive"):
        for dataset in DATASETS:
            run = Experiment(recipe=recipe, dataset=dataset, folder="x" if dataset == "folder" else "")
            assert Experiment.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_other_notebooks_parameters():
    namespace = {"In": ["", "# Parameters\nsamples = 10\nsed = 1"], "samples": 10, "sed": 1}
    with pytest.raises(ValueError, match="'sed'"):
        read_parameters(namespace, {"samples": int, "seed": int})
    namespace = {"samples": 10, "seed": 1, "other": object()}
    assert read_parameters(namespace, {"samples": int, "seed": int}) == {"samples": 10, "seed": 1}
    with pytest.raises(ValueError, match="missing"):
        read_parameters({"samples": 10}, {"samples": int, "seed": int})
    with pytest.raises(ValueError, match="samples must be int"):
        read_parameters({"samples": "x", "seed": 1}, {"samples": int, "seed": int})
