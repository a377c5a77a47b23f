"""`Experiment`: presets, errors that help, keys of artefacts, parameters of notebooks."""

import dataclasses

import pytest

from cause_lib.config import PASS_FIELDS, STAGE_FIELDS, Experiment, read_parameters


def test_presets_are_concrete_and_follow_dataset_head_and_patch():
    scenes, camvid = Experiment(), Experiment(dataset="camvid", backbone="dino_vits16")
    assert (scenes.image_size, scenes.train_size, scenes.test_split) == (160, 160, "val")
    assert (camvid.image_size, camvid.train_size, camvid.test_split, camvid.num_concepts) == (320, 320, "test", 2048)
    assert Experiment(dataset="camvid", backbone="dino_vits16", head="mlp").train_size == 224
    patch14 = Experiment(dataset="camvid", backbone="dinov2_vitb14", head="mlp")
    assert (patch14.image_size, patch14.train_size) == (322, 224)
    assert (camvid.clip_norm, camvid.replace(head="mlp").clip_norm) == (2.0, 0.1)
    assert camvid.probe_decay_steps == 80 and camvid.replace(head="mlp").probe_decay_steps == 200
    open_ended = {"num_classes", "train_images", "test_images", "num_heads", "positive_quantile", "negative_quantile"}
    assert {f.name for f in dataclasses.fields(scenes) if getattr(scenes, f.name) is None} == open_ended


def test_published_sets_take_the_published_settings():
    for name in ("cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc"):
        run = Experiment(dataset=name, backbone="dino_vitb8")
        assert (run.image_size, run.train_size, run.test_split) == (320, 320, "val")
        assert (run.num_concepts, run.thin, run.projection_dim) == (2048, 4, 2048)
        assert (run.head_steps, run.probe_steps) == (2 * run.concept_steps, 5 * run.concept_steps)
        assert run.probe_decay_steps == 2 * run.concept_steps  # halved after every second epoch
    assert Experiment(dataset="cityscapes", backbone="dino_vitb8").concept_steps == 930
    assert run.replace(dataset="camvid").concept_steps == 1500


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
    (dict(qqqqqq=3), "the parameters are: recipe, dataset"),
    (dict(num_concepts="many"), "num_concepts must be int or None, not 'many'"),
    (dict(seed=True), "seed must be int"),
    (dict(label_free="False"), "label_free must be bool"),
    (dict(head="cnn"), "head must be one of tr, mlp"),
    (dict(ema_decay=1.5), "ema_decay must be between 0.0 and 1.0"),
    (dict(lr=float("nan")), "lr must be at least"),
    (dict(negative_threshold=0.5), "must not be above"),
    (dict(dataset="folder"), "needs the parameter folder"),
    (dict(folder="here"), 'set dataset to "folder"'),
])
def test_bad_parameters_end_with_a_clear_sentence(wrong, said):
    with pytest.raises(ValueError, match=said):
        Experiment.from_dict(wrong)


def test_numbers_of_the_other_kind_pass_when_nothing_is_lost():
    run = Experiment(lr=1, seed=2.0)
    assert isinstance(run.lr, float) and isinstance(run.seed, int)


def test_heads_share_a_clusterbook_and_every_field_is_known():
    tr, mlp = Experiment(), Experiment(head="mlp")
    assert tr.key("clusterbook") == mlp.key("clusterbook") and tr.key("head") != mlp.key("head")
    assert tr.key("head") == tr.replace(label_free=False).key("head")
    assert tr.key("probe") != tr.replace(label_free=False).key("probe")
    fields = {f.name for f in dataclasses.fields(Experiment)}
    free = {"recipe", "run_dir", "device", "cache_gb", "num_workers", "checkpoint_steps"}
    assert set().union(*STAGE_FIELDS.values()) == fields - free
    assert set(PASS_FIELDS) <= fields and not {"seed", "head", "checkpoint_steps"} & set(PASS_FIELDS)


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
        Experiment.from_namespace(namespace)
    # Corrected in a live session: only the latest run of the parameters cell counts.
    namespace["In"] += ["# Parameters\nseed = 5", "check"]
    namespace["seed"] = 5
    assert Experiment.from_namespace(namespace).seed == 5


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
