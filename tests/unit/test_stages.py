"""The stages: from nothing to numbers, the same bits, stopped and gone on with, label-free."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, draw_folder
from safetensors.torch import load_file

from cause_lib import stages, steps
from cause_lib.config import Experiment
from cause_lib.runs import judging, loop, stage
from cause_lib.runs.features import open_dataset
from cause_lib.runs.store import checkpoint_path, load_checkpoint, read_record


def bits(folder):
    """Every tensor of an artefact, as bytes."""
    return {f"{path.name}/{name}": tensor.numpy().tobytes()
            for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("head", ["tr", "mlp"])
def test_from_nothing_to_numbers_and_twice_costs_nothing(tiny, head, monkeypatch):
    run = tiny(head=head)
    folder = stages.evaluate(run)
    record = read_record(folder)
    assert [(r["method"], r["readout"], r["crf"]) for r in record["results"]] == [
        (f"CAUSE-{head.upper()}", "modularity", False), (f"CAUSE-{head.upper()}", "kmeans", False)]
    for result in record["results"]:
        assert 0 <= result["miou"] <= result["pacc"] <= 1 or result["miou"] <= 1
        assert 1 <= result["clusters_used"] <= 3 and len(result["iou"]) == 3
    assert record["dataset"]["images"] == 4 and record["weights"]["sha256"] and record["concepts"]["num_concepts"] == 12
    table = stages.collect_metrics(run.run_dir)
    assert set(table.method) == {"k-means", f"CAUSE-{head.upper()}"} and table.miou.between(0, 1).all()
    gallery = stages.load_gallery(folder)
    assert gallery["modularity"].shape == gallery["label"].shape == (4, 48, 48)
    # The gallery's masks are the ones that were counted, already in class ids.
    known = gallery["label"] >= 0
    pacc = (gallery["modularity"] == gallery["label"])[known].double().mean()
    assert float(pacc) == pytest.approx(record["results"][0]["pacc"])
    monkeypatch.setattr(stage, "session", lambda experiment: pytest.fail("work was done twice"))
    assert stages.evaluate(run) == folder


def test_three_colours_are_found_by_the_baseline(tiny):
    # by the network that passes colours on; the trained one has learned to look past them
    record = read_record(stages.evaluate_baseline(tiny(backbone="bundled.random")))
    assert record["results"][0]["miou"] > 0.5


def test_heads_share_the_clusterbook(tiny):
    assert stages.fit_clusterbook(tiny(head="tr")) == stages.fit_clusterbook(tiny(head="mlp"))
    assert stages.fit_head(tiny(head="tr")) != stages.fit_head(tiny(head="mlp"))


MEMBERS = [dict(head="tr"), dict(head="mlp"), dict(head="tr", positive_threshold=0.5, head_steps=5),
           dict(head="mlp", seed=1, bank_capacity=0)]


def members(tiny, run_dir, **changes):
    """Four heads that see the same batches."""
    return [tiny(train_size=48, concept_steps=3, order_seed=0, run_dir=str(run_dir), **changes | member)
            for member in MEMBERS]


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_heads_from_one_pass_have_the_bits_of_each_alone(tiny, tmp_path, monkeypatch, cache_gb):
    together, passes, train = members(tiny, tmp_path / "together", cache_gb=cache_gb), [], stages.train
    monkeypatch.setattr(stages, "train", lambda runs, stage, *rest, **options: (
        passes.append((stage, len(runs))), train(runs, stage, *rest, **options)))
    folders = stages.fit_heads(together + together[:1])
    assert [count for stage, count in passes if stage == "head"] == [4]
    assert len(set(folders)) == 4 and folders[4] == folders[0]
    for folder, alone in zip(folders, members(tiny, tmp_path / "alone", cache_gb=cache_gb)):
        single = stages.fit_head(alone)
        assert bits(folder) == bits(single) and folder.name == single.name
        one, other = read_record(folder), read_record(single)
        assert one["history"] == other["history"] and len(one["history"]["loss"]) == alone.head_steps
        assert (one["notes"].pop("heads_in_the_pass"), other["notes"].pop("heads_in_the_pass")) == (4, 1)
        assert one["notes"] == other["notes"]
    monkeypatch.setattr(stage, "session", lambda experiment: pytest.fail("work was done twice"))
    assert stages.fit_heads(together) == folders[:4]


def test_heads_that_see_other_batches_are_trained_one_after_the_other(tiny, tmp_path):
    changes = [dict(), dict(head="mlp"), dict(seed=1), dict(dropout=0.0)]  # MLP: smaller pictures; seed: another order
    runs = [tiny(concept_steps=3, head_steps=3, **change) for change in changes]
    folders = stages.fit_heads(runs)
    assert [read_record(folder)["notes"]["heads_in_the_pass"] for folder in folders] == [2, 1, 1, 2]
    assert [read_record(folder)["experiment"] for folder in folders] == [run.to_dict() for run in runs]


def test_heads_stopped_at_different_updates_go_on_to_the_same_bits(tiny, tmp_path, monkeypatch):
    def made(place):
        every = (3, 2, 4, 7)  # the third is done after five updates
        return [run.replace(checkpoint_steps=steps) for run, steps in zip(members(tiny, tmp_path / place), every)]

    whole = [bits(folder) for folder in stages.fit_heads(made("whole"))]
    runs = made("cut")
    for run in runs:
        stages.fit_clusterbook(run)

    def stop(at):
        """Train until the checkpoint after `at` updates of anyone, then stop as ^C does."""
        def save(run, write=loop.Run.save):
            write(run)
            if run.done == at:
                raise KeyboardInterrupt
        with monkeypatch.context() as patch:
            patch.setattr(loop.Run, "save", save)
            with pytest.raises(KeyboardInterrupt):
                stages.fit_heads(runs)

    def updates(folder):
        saved = load_checkpoint(folder)
        return 0 if saved is None else saved[0]["done"]

    places = [stages.folder_of(run, "head") for run in runs]
    stages.fit_heads([runs[3]])  # done before the others begin
    stop(3)
    assert [updates(place) for place in places] == [3, 2, 0, 0] and places[3].exists()
    stop(5)  # from nothing again for the one that kept nothing, while the others wait
    assert [updates(place) for place in places] == [3, 4, 5, 0]
    assert [bits(folder) for folder in stages.fit_heads(runs)] == whole
    assert not [path for path in (tmp_path / "cut").rglob("*checkpoint*")]


def test_one_head_that_diverges_says_so_and_leaves_the_others_their_checkpoints(tiny, tmp_path, monkeypatch):
    good, bad = tiny(concept_steps=3), tiny(concept_steps=3, contrast_temperature=0.5)
    loss = steps.concept_contrastive_loss
    monkeypatch.setattr(steps, "concept_contrastive_loss", lambda student, *rest, **options: (
        loss(student, *rest, **options) * (float("nan") if options["temperature"] == 0.5 else 1)))
    with pytest.raises(RuntimeError, match="Stage head diverged: the loss of .* is not finite by update 3; lower lr"):
        stages.fit_heads([good, bad])
    assert load_checkpoint(stages.folder_of(good, "head"))[0]["done"] == 3
    assert load_checkpoint(stages.folder_of(bad, "head")) is None
    monkeypatch.undo()
    assert bits(stages.fit_head(good)) == bits(stages.fit_head(good.replace(run_dir=str(tmp_path / "alone"))))


@pytest.mark.parametrize("head", ["tr", "mlp"])
def test_same_seed_same_bits_another_seed_others(tiny, tmp_path, head):
    one, two = (stages.fit_probe(tiny(head=head, run_dir=str(tmp_path / name))) for name in "ab")
    other = stages.fit_probe(tiny(head=head, run_dir=str(tmp_path / "c"), seed=1))
    assert bits(one) == bits(two) != bits(other)


@pytest.mark.parametrize("head", ["tr", "mlp"])
def test_labels_of_noise_leave_head_and_probe_as_they_are(tmp_path, head):
    """Label-freedom: with label_free=True, the labels could be anything at all."""
    true = draw_folder(tmp_path / "true")
    noise = draw_folder(tmp_path / "noise", label_seed=7)
    assert (true / "train/images/0.png").read_bytes() == (noise / "train/images/0.png").read_bytes()
    assert (true / "train/labels/0.png").read_bytes() != (noise / "train/labels/0.png").read_bytes()

    def fit(folder, **changes):
        run = Experiment(dataset="folder", folder=str(folder), run_dir=str(folder / "runs"), head=head,
                         **TINY | changes)
        return bits(stages.fit_head(run)) | bits(stages.fit_probe(run))

    assert fit(true) == fit(noise)
    # The test can see a leak: the released step 3 is one.
    assert fit(true, label_free=False) != fit(noise, label_free=False)


def test_released_step_three_trains_the_head_with_labels(tiny):
    free, leak = tiny(), tiny(label_free=False)
    assert stages.fit_head(free) == stages.fit_head(leak.replace(labels_in_norm=False)) != stages.fit_head(leak)
    head = load_file(stages.fit_head(free) / "head.safetensors")
    beside_labels = load_file(stages.fit_head(leak) / "head.safetensors")  # one norm bounds its gradient and theirs
    assert any(not torch.equal(head[name], beside_labels[name]) for name in head)
    untouched = load_file(stages.fit_probe(free) / "head.safetensors")
    trained = load_file(stages.fit_probe(leak) / "head.safetensors")
    assert all(torch.equal(head[name], untouched[name]) for name in head)
    assert any(not torch.equal(beside_labels[name], trained[name]) for name in head)
    record = read_record(stages.evaluate(leak))
    assert [r["readout"] for r in record["results"]] == ["modularity", "kmeans", "linear"]


@pytest.mark.parametrize("changes, dropped", [({}, 0), ({"label_free": False}, 0.2), ({"reading": "released"}, 0.2),
                                              ({"label_free": False, "labels_in_norm": False}, 0.2),
                                              ({"label_free": False, "probe_dropout": 0.0}, 0), ({"probe_dropout": 0.5}, 0.5)])
def test_step_three_begins_where_step_two_ended(tiny, monkeypatch, changes, dropped):
    """With its head and, if it has one, its linear probe; features are dropped while centroids train, or not."""
    run, begun, probe_run = tiny(concept_steps=2, head_steps=2, probe_steps=1, dropout=0.2, **changes), [], stages.probe_run

    def seen(experiment, folder, head, *rest):
        made = probe_run(experiment, folder, head, *rest)
        begun.append((head.dropout if head.training else 0,
                      {name: value.clone() for name, value in head.state_dict().items()},
                      {name: value.clone() for name, value in made.state.get("linear", torch.nn.Module()).state_dict().items()}))
        return made

    monkeypatch.setattr(stages, "probe_run", seen)
    stages.fit_probe(run)
    (share, head, linear), = begun
    assert share == dropped
    before = load_file(stages.fit_head(run) / "head.safetensors")
    assert head.keys() == before.keys() and all(torch.equal(head[name], before[name]) for name in head)
    assert bool(linear) != run.label_free
    if run.labels_in_norm:
        trained = load_file(stages.fit_head(run) / "probe.safetensors")
        assert all(torch.equal(value, trained[f"linear.{name}"]) for name, value in linear.items())


@pytest.mark.parametrize("stage, changes", [("fit_clusterbook", {}), ("fit_head", {}), ("fit_probe", {}),
                                            ("fit_probe", {"label_free": False}), ("evaluate", {}),
                                            ("fit_head", {"label_free": False, "reading": "released"}),
                                            ("fit_probe", {"label_free": False, "reading": "released"})])
def test_a_stage_stopped_on_its_way_goes_on_to_the_same_bits(tiny, tmp_path, stage, changes, monkeypatch):
    whole = getattr(stages, stage)(tiny(run_dir=str(tmp_path / "whole"), **changes))
    run = tiny(run_dir=str(tmp_path / "cut"), **changes)
    for upstream in ("fit_clusterbook", "fit_head", "fit_probe", "evaluate_baseline"):
        if upstream == stage:
            break
        getattr(stages, upstream)(run)
    saves, save = [], loop.save_checkpoint

    def stop_after_save(*arguments):
        save(*arguments)
        saves.append(arguments[0])
        raise KeyboardInterrupt

    for module in (loop, judging):
        monkeypatch.setattr(module, "save_checkpoint", stop_after_save)
    monkeypatch.setattr(judging, "batch_pictures", lambda *_: 1)
    with pytest.raises(KeyboardInterrupt):
        getattr(stages, stage)(run)
    for module in (loop, judging):
        monkeypatch.setattr(module, "save_checkpoint", save)
    assert checkpoint_path(saves[0]).is_file() and not saves[0].exists()
    resumed = getattr(stages, stage)(run)
    assert bits(resumed) == bits(whole) and resumed.name == whole.name
    assert not checkpoint_path(resumed).exists()
    if stage == "evaluate":
        assert read_record(resumed)["results"] == read_record(whole)["results"]


def both_evaluations(run):
    """Bits, results and seconds of a run's two evaluations."""
    folders = stages.evaluate_baseline(run), stages.evaluate(run)
    return [(bits(folder), read_record(folder)["results"]) for folder in folders], [
        read_record(folder)["seconds"] for folder in folders]


def test_head_and_baseline_are_judged_in_one_pass(tiny, tmp_path, monkeypatch):
    """To the bits of two passes; the seconds are shared by read-outs."""
    passes, read_out = [], judging.read_out
    monkeypatch.setattr(judging, "read_out", lambda images, looks, **settings: (
        passes.append([len(readouts) for _, readouts in looks]), read_out(images, looks, **settings))[1])
    monkeypatch.setattr(judging, "batch_pictures", lambda *_: 1)
    changes = dict(crf=True, crf_iterations=2, smoothing=0.1, per_image=True)
    apart, together = (tiny(run_dir=str(tmp_path / name), **changes) for name in ("apart", "together"))
    alone, _ = both_evaluations(apart)
    assert passes == [[1]] * (len(passes) // 2) + [[2]] * (len(passes) // 2)
    passes.clear()
    stages.evaluate(together)
    judged, (baseline, head) = both_evaluations(together)
    assert judged == alone and passes == [[1, 2]] * len(passes) and passes
    assert head == pytest.approx(2 * baseline, rel=0.5, abs=0.02)
    assert read_record(stages.evaluate(together))["upstream"].keys() == {"probe"}


@pytest.mark.parametrize("saves", [1, 2])
def test_a_pass_stopped_between_its_two_checkpoints_goes_on_to_the_same_bits(tiny, tmp_path, saves, monkeypatch):
    whole, cut = (tiny(run_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    expected, _ = both_evaluations(whole)
    stages.fit_probe(cut)
    made, save = [], judging.save_checkpoint

    def stop_after_saves(folder, *rest):
        save(folder, *rest)
        made.append(checkpoint_path(folder))
        if len(made) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(judging, "save_checkpoint", stop_after_saves)
    monkeypatch.setattr(judging, "batch_pictures", lambda *_: 1)
    with pytest.raises(KeyboardInterrupt):
        stages.evaluate(cut)
    monkeypatch.setattr(judging, "save_checkpoint", save)
    assert [path.parent.name for path in made] == ["baseline_evaluation", "evaluation"][:saves]
    stages.evaluate(cut)
    assert both_evaluations(cut)[0] == expected and not any(path.exists() for path in made)


def test_features_too_big_for_the_cache_give_the_same_numbers(tiny, tmp_path):
    kept, live = tiny(run_dir=str(tmp_path / "kept")), tiny(run_dir=str(tmp_path / "live"), cache_gb=0.0)
    a, b = (load_file(stages.fit_clusterbook(run) / "clusterbook.safetensors")["prototypes"] for run in (kept, live))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert not (tmp_path / "live" / "features").exists() and (tmp_path / "kept" / "features").exists()


def test_pictures_without_labels_get_masks_and_no_scores(tmp_path):
    folder = draw_folder(tmp_path / "data", labels=False)
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), num_classes=3, **TINY)
    record = read_record(stages.evaluate(run))
    assert record["results"][0]["miou"] is None and record["results"][0]["clusters_used"] >= 1
    for late in (stages.evaluate, stages.fit_probe, stages.fit_head):  # before anything is trained
        with pytest.raises(ValueError, match="label_free=False needs labels, and folder .* has none: set label_free"):
            late(run.replace(label_free=False, run_dir=str(tmp_path / "refused")))
    assert not list((tmp_path / "refused").rglob("*.*"))


def test_one_picture_one_concept_one_class(tmp_path):
    folder = draw_folder(tmp_path / "data", pictures=1, labels=False)
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), num_classes=1,
                     **TINY | dict(num_concepts=1, crops="none"))
    assert read_record(stages.evaluate(run))["results"][0]["clusters_used"] == 1
    history = read_record(stages.fit_head(run))["history"]["loss"]
    assert np.isfinite(history).all()


def test_all_void_labels_are_no_scores_and_leave_step_three_finite(tmp_path):
    from PIL import Image
    folder = draw_folder(tmp_path / "data")
    for path in folder.rglob("labels/*.png"):
        Image.fromarray(np.full((56, 64), 255, np.uint8)).save(path)
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), label_free=False, **TINY)
    assert {r["miou"] for r in read_record(stages.evaluate(run))["results"]} == {None}


def test_new_pictures_in_a_folder_are_a_new_run(tiny):
    run = tiny()
    before = stages.fit_clusterbook(run)
    (Path(run.folder) / "train/images/3.png").unlink()
    (Path(run.folder) / "train/labels/3.png").unlink()
    assert stages.fit_clusterbook(run) != before


def test_new_names_and_colours_are_new_read_outs_of_the_same_head(tiny):
    run = tiny()
    head, probe, baseline = stages.fit_head(run), stages.fit_probe(run), stages.fit_baseline(run)
    (Path(run.folder) / "classes.json").write_text('["sky", "meadow", {"name": "house", "color": [9, 9, 9]}]')
    assert stages.find(run, "head") == head
    assert stages.find(run, "probe") is None and stages.find(run, "baseline") is None
    again, record = stages.fit_probe(run), read_record(stages.evaluate(run))
    assert bits(again) == bits(probe) and again != probe and bits(stages.fit_baseline(run)) == bits(baseline)
    for said in (read_record(again)["notes"], record["dataset"]):
        assert said["classes"] == ["sky", "meadow", "house"] and said["colors"][2] == [9, 9, 9]


@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_the_gallery_is_spread_over_the_split_and_workers_change_nothing(tmp_path, cache_gb):
    folder = draw_folder(tmp_path / "data", pictures=11)

    def judged(workers):
        run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / f"runs{workers}"),
                         num_workers=workers, cache_gb=cache_gb, **TINY | dict(crf=True, crf_iterations=2))
        place = stages.evaluate_baseline(run)
        return run, stages.load_gallery(place), read_record(place)["results"]

    run, gallery, results = judged(0)
    assert [result["crf"] for result in results] == [False, True] and results[0] != results[1]
    assert gallery["kmeans.crf"].shape == (8, 48, 48)
    dataset = open_dataset(run, "test", 48)
    assert gallery["index"].tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    for place, index in enumerate(gallery["index"].tolist()):
        assert torch.equal(gallery["image"][place], (dataset[index]["image"] * 255).round().byte())
        assert torch.equal(gallery["label"][place].long(), dataset[index]["label"])
    _, other, same = judged(1)
    assert same == results and all(torch.equal(gallery[name], other[name]) for name in gallery)


def test_a_loss_that_diverges_stops_with_a_sentence(tiny, monkeypatch):
    monkeypatch.setattr(steps, "modularity_loss", lambda tokens, prototypes, tau: prototypes.sum() * float("nan"))
    with pytest.raises(RuntimeError, match="Stage clusterbook diverged"):
        try:
            stages.fit_clusterbook(tiny())
        finally:  # the sentence stands on a line of its own
            assert not loop.tqdm._instances, "a bar is still open"


def test_a_gpu_that_is_not_there_and_a_place_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match='device "cuda" was asked for'):
        stages.fit_clusterbook(tiny(device="cuda"))
    run = tiny(run_dir=str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")  # since it was described
    with pytest.raises(OSError, match="choose a run_dir"):
        stages.fit_clusterbook(run)
    with pytest.raises(ValueError, match="Parameter run_dir"):
        tiny(run_dir=str(tmp_path / "file"))


def test_a_folder_that_has_lost_its_record_is_refused_before_any_work(tiny, monkeypatch):
    run = tiny()
    folder = stages.fit_head(run)
    left = sorted(path.name for path in folder.iterdir() if path.name != "artefact.json")
    (folder / "artefact.json").unlink()
    monkeypatch.setattr(stages, "_fit_heads", lambda *_: pytest.fail("a head was trained"))
    for stage_of in (stages.fit_head, stages.evaluate):
        with pytest.raises(FileNotFoundError, match="artefact.json is missing: remove .* and run its stage again"):
            stage_of(run)
    assert sorted(path.name for path in folder.iterdir()) == left


def test_bf16_runs_on_the_cpu(tiny):
    record = read_record(stages.evaluate(tiny(precision="bf16")))
    assert record["results"][0]["miou"] > 0


def test_without_the_crf_installed_its_rows_wait(tiny, monkeypatch):
    """An evaluation that had to leave the CRF out is not taken for one with it."""
    published = tiny(crf=True, crf_backend="pydensecrf")
    monkeypatch.setattr(stage, "crf_backends", lambda: ("torch",))
    monkeypatch.setattr(judging, "crf_backends", lambda: ("torch",))
    with pytest.warns(UserWarning, match="pydensecrf is not installed: the rows with CRF are left out"):
        folder = stages.evaluate(published)
    assert not any(result["crf"] for result in read_record(folder)["results"])
    assert folder == stages.evaluate(published.replace(crf=False))
    monkeypatch.setattr(stage, "crf_backends", lambda: ("torch", "pydensecrf"))
    assert stages.find(published, "evaluation") is None


def test_loading_what_is_not_there_names_what_is(tiny, tmp_path):
    folder = stages.fit_baseline(tiny())
    with pytest.raises(ValueError, match="it has kmeans"):
        stages.load_probe(folder, "modularity")
    with pytest.raises(FileNotFoundError, match="is not an artefact"):
        read_record(tmp_path)
    (folder / "probe.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="is damaged"):
        stages.load_probe(folder, "kmeans")


def test_collect_metrics_of_nothing_is_an_empty_table(tmp_path):
    assert list(stages.collect_metrics(tmp_path).columns)[:3] == ["dataset", "backbone", "method"]
