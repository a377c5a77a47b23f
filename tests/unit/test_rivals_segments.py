"""Methods that cut pictures into segments: whole runs, killed ones, labels that are noise, and their read-out."""

import contextlib

import pytest
import torch
from conftest import draw_folder

from cause_lib.runs import loop
from cause_lib.runs.store import read_record
from cause_rivals import evaluate, fit, load, rival
from cause_rivals.acseg import ConceptHead, Settings
from cause_rivals.segments import border_segment

RUNS = {"deepspectral": "segments=4 restarts=2", "eigensegments": "side=2 share=1 rank=192 eigenvectors=3",
        "acseg": "steps=8 blocks=1 hidden=16 concepts=5",
        "dinosaur": "steps=8 hidden=16 width=16 slots=3 flip=True",
        "dinosaur transformer": "decoder=transformer steps=8 width=16 slots=3 layers=2"}
TINY = dict(dataset="folder", image_size=48, train_size=32, batch_size=4, kmeans_restarts=2, checkpoint_steps=3,
            device="cpu", crf=False, crops="five")


@pytest.fixture
def run(tmp_path):
    folder = str(draw_folder(tmp_path / "data"))
    return lambda name, more="", place="runs", **fields: rival(
        name.split()[0], f"{RUNS[name]} {more}", **TINY | {"folder": folder, "run_dir": str(tmp_path / place)} | fields)


def bits(folder):
    return (folder / "rival.safetensors").read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_from_nothing_to_numbers(run, name):
    folder = evaluate(run(name))
    results = read_record(folder)["results"]
    assert [row["readout"] for row in results] == ["own", "kmeans"]
    assert all(0 < row["pacc"] <= 1 for row in results)
    trained = fit(run(name))
    record = read_record(trained)
    assert 1 <= record["notes"]["segments_of_a_view"] <= 5 and len(record["history"].get("loss", [])) in (0, 8)
    _, head, readouts = load(trained)
    widths = {"deepspectral": 384, "eigensegments": 384}
    features = head(torch.randn(2, 36, widths.get(name, 192)), (6, 6))
    assert features.shape == (2, 36, 192) and (features[0].unique(dim=0).shape[0] <= 5)
    assert torch.linalg.vector_norm(readouts["own"].centroids, dim=1).tolist() == pytest.approx([1] * 3, abs=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits_after_a_kill_and_with_noise_in_place_of_labels(run, name, tmp_path, monkeypatch):
    whole, save, stopped = fit(run(name)), loop.Run.save, []

    def stop(self):
        save(self)
        stopped.append(self.done)
        raise KeyboardInterrupt

    other = dict(folder=str(draw_folder(tmp_path / "noise" / "data", label_seed=1)), place="other")
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(loop.Run, "save", stop)
        fit(run(name, **other))
    assert stopped == ([] if name in ("deepspectral", "eigensegments") else [3])
    again = fit(run(name, **other))
    assert bits(again) == bits(whole) and read_record(again)["history"] == read_record(whole)["history"]


@pytest.mark.parametrize("name", ["deepspectral", "acseg"])
def test_background_has_a_cluster_of_its_own(run, name):
    made = run(name, "background=border")
    folder = fit(made)
    _, head, readouts = load(folder)
    torch.manual_seed(0)
    tokens = torch.randn(3, 36, 384 if name == "deepspectral" else 192)
    features = head(tokens, (6, 6))  # (3, 36, 193)
    own = head.segments(tokens, (6, 6))[1]
    background = own == border_segment(own, int(own.max()) + 1, (6, 6))[:, None]
    assert torch.equal(features[:, :, -1] == 1, background)
    clusters = readouts["own"].log_probabilities(features).argmax(dim=-1)
    assert torch.equal(clusters == 2, background)
    assert evaluate(made).exists()


def test_pictures_that_are_background_alone_are_named(run):
    with pytest.raises(RuntimeError, match="Every segment of the training pictures is background: set background to"):
        fit(run("acseg", "background=border concepts=1"))


def test_features_are_the_vectors_of_the_segments():
    torch.manual_seed(0)
    head, tokens = ConceptHead(12, Settings(heads=2, blocks=1, hidden=8)), torch.randn(2, 20, 12)
    vectors, own = head.segments(tokens, (4, 5))
    for t, v, segments, found in zip(tokens, vectors, own, head(tokens, (4, 5))):
        for i, s in enumerate(segments.tolist()):
            mean = t[segments == s].mean(dim=0)
            torch.testing.assert_close(found[i], mean / mean.norm(), rtol=1e-5, atol=1e-6)
            assert torch.equal(found[i], v[s])
