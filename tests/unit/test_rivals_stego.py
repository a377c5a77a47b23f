"""STEGO (cause_rivals/stego.py) against values of its authors' code; a tiny run of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, draw_folder
from safetensors.torch import load_file

from cause_rivals import evaluate, fit, load, rival
from cause_rivals.heads import Centroids, ChannelHead, drop_channels
from cause_rivals.stego import Settings, correlation, sample, stego_loss
from cause_rivals.views import nearest_views, others_of, photometric

SETTINGS = "steps=8 rank=6 samples=3"


@pytest.fixture(scope="module")
def a():
    with np.load(Path(__file__).resolve().parents[1] / "data/rivals/stego.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def flat(x):
    return x.flatten(2).mT  # (b, n, d)


@pytest.mark.parametrize("case", ["base", "nopointwise"])
def test_loss_and_gradients(a, case):
    codes = [a[name].clone().requires_grad_() for name in ("code", "code_pos")]
    at = [a[name].flatten(1, 2) for name in ("coords1", "coords2")]
    settings = Settings(pointwise=case == "base", samples=3)
    tokens = [flat(a[name]) for name in ("feats", "feats_pos")]
    loss = stego_loss(tokens, [*map(flat, codes)], at, a["neg_perms"], (7, 6), settings)
    loss.backward()
    torch.testing.assert_close(loss.detach(), a[f"{case}_total"], rtol=1e-12, atol=0)
    for code, name in zip(codes, ("code", "code_pos")):
        torch.testing.assert_close(code.grad, a[f"{case}_grad_{name}"], rtol=1e-9, atol=1e-12)


def test_samples_orders_head_and_centroids(a):
    at = a["coords1"]  # (b, S, S, 2); sampled[:, :, i, j] belongs to coords[:, j, i]
    sampled = a["sampled_feats"].permute(0, 3, 2, 1).flatten(1, 2)
    torch.testing.assert_close(sample(flat(a["feats"]), (7, 6), at.flatten(1, 2)), sampled)
    orders = torch.stack([others_of(6, torch.Generator().manual_seed(seed)) for seed in range(40)])
    assert torch.equal(orders, a["super_perm_6_seed0to39"]) and not (orders == torch.arange(6)).any()
    head = ChannelHead(8, 6).double().eval()
    names = {"f1.weight": "linear_w", "f1.bias": "linear_b", "f2.0.weight": "mlp_w0", "f2.0.bias": "mlp_b0",
             "f2.2.weight": "mlp_w2", "f2.2.bias": "mlp_b2"}
    head.load_state_dict({key: a[f"head_{name}"].flatten(1) if key.endswith("weight") else a[f"head_{name}"]
                          for key, name in names.items()})
    torch.testing.assert_close(head(flat(a["feats"])), flat(a["head_out"]))
    own = Centroids(5, 6).double()
    own.load_state_dict({"centroids": a["probe_clusters"]})
    loss = own.loss(flat(a["code"]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), a["probe_hard_loss"])
    torch.testing.assert_close(own.centroids.grad, a["probe_hard_grad"])
    torch.testing.assert_close(own.log_probabilities(flat(a["code"])), flat(a["probe_2_logp"]))


def test_nearest_views_are_not_the_view_itself():
    means = F.normalize(torch.randn(1500, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    near = nearest_views(means, 7)  # more views than one block has
    expected = (means @ means.T - 3 * torch.eye(1500)).topk(7).indices
    assert torch.equal(near.sort().values, expected.sort().values)
    assert nearest_views(means[:3], 7).shape == (3, 2)


def test_whole_channels_are_dropped():
    torch.manual_seed(0)
    found = drop_channels(torch.ones(4, 9, 50), 0.2)
    assert (found == found[:, :1]).all() and sorted(found.unique().tolist()) == [0.0, 1.25]
    assert not torch.equal(found[0], found[1]) and torch.equal(drop_channels(found, 0.2, False), found)


def test_photometric_views_depend_on_picture_and_index_alone():
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    how = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "grey": 0.5, "blur": 0.5}
    before = torch.random.get_rng_state()
    whole = photometric(images, torch.tensor([4, 5, 6]), **how)
    assert torch.equal(before, torch.random.get_rng_state()) and 0 <= float(whole.min()) < float(whole.max()) <= 1
    assert torch.equal(photometric(images[1:2], torch.tensor([5]), **how)[0], whole[1])
    assert not torch.equal(photometric(images, torch.tensor([7, 8, 9]), **how), whole)
    assert not torch.equal(photometric(images, torch.tensor([4, 5, 6]), **how, seed=1), whole)
    assert torch.equal(photometric(images, torch.tensor([4, 5, 6])), images)
    grey = photometric(images, torch.tensor([4, 5, 6]), grey=1.0)
    assert torch.equal(grey[:, :1].expand_as(grey), grey)


@pytest.mark.parametrize("method, settings", [
    ("stego", SETTINGS), ("hp", "steps=8 rank=6 warmup=2 pool=30 pool_every=3 keep=0.2")])
def test_a_tiny_run(tmp_path, monkeypatch, method, settings):
    """Trained and judged; the same bits after a kill, and whatever the labels are."""
    def run(place, noise=None):
        folder = place / "data"
        if not folder.exists():
            draw_folder(folder, label_seed=noise)
        return rival(method, settings, dataset="folder", folder=str(folder), run_dir=str(place / "runs"), **TINY)

    whole = run(tmp_path / "a")
    metrics = json.loads((evaluate(whole) / "metrics.json").read_text())["results"]
    assert [row["readout"] for row in metrics] == ["own", "kmeans"] and all(0 < row["miou"] <= 1 for row in metrics)
    expected = load_file(fit(whole) / "rival.safetensors")
    assert load(fit(whole))[1](torch.zeros(1, 36, 192)).shape == (1, 36, 6)
    noisy = load_file(fit(run(tmp_path / "b", noise=1)) / "rival.safetensors")

    module, done = whole.module, []
    descend = module.descend

    def killed(*arguments, **more):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(descend(*arguments, **more))

    monkeypatch.setattr(module, "descend", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(run(tmp_path / "c"))
    monkeypatch.setattr(module, "descend", lambda *a, **m: done.append(descend(*a, **m)))
    done.clear()
    again = load_file(fit(run(tmp_path / "c")) / "rival.safetensors")
    assert len(done) == 2  # from the checkpoint at 6
    for other in (noisy, again):
        assert expected.keys() == other.keys() and all(torch.equal(expected[key], other[key]) for key in expected)


def test_a_share_below_0_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1, not -0.1"):
        rival("stego", "shifts=shares shift_knn=-0.1")


def test_one_view_alone_is_refused(tmp_path):
    draw_folder(tmp_path / "data", pictures=1)
    with pytest.raises(ValueError, match="add pictures or crops"):
        fit(rival("stego", SETTINGS, dataset="folder", folder=str(tmp_path / "data"), run_dir=str(tmp_path / "runs"),
                  **TINY, crops="none"))


def test_shifts_as_shares(tmp_path):
    """Of pairs at other places the share asked for has an F below the shift, and the record says the cosines."""
    draw_folder(tmp_path / "data")
    shares = "steps=1 rank=6 target_dropout=0 shifts=shares shift_self=0.25 shift_knn=0.5 shift_rand=0.9 samples=6"
    where = {"folder": str(tmp_path / "data"), "run_dir": str(tmp_path / "runs")}
    run = rival("stego", shares, dataset="folder", **where, **TINY)
    notes = json.loads((fit(run) / "artefact.json").read_text())["notes"]
    assert notes["settings"]["shift_rand"] == 0.9 and set(notes["shifts"]) == {"shift_self", "shift_knn", "shift_rand"}
    tokens = torch.from_numpy(np.load(next((tmp_path / "runs/features").glob("*-train-*/tokens.npy"))))
    at = torch.rand(2, len(tokens), 50, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    here, there = (F.normalize(sample(tokens, (4, 4), places), dim=-1) for places in at)
    every = torch.cat([there.roll(by, 0) for by in range(1, len(there))])  # each view against all others
    pairs = {"self": (here, here, 0.25), "rand": (here.repeat(len(there) - 1, 1, 1), every, 0.9)}
    for name, (one, other, share) in pairs.items():
        found = (correlation(one, other, pointwise=True) < notes["shifts"][f"shift_{name}"]).float().mean()
        assert abs(float(found) - share) < 0.1, name
