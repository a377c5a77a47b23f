"""The script behind the shipped backbone: its objective, its views, its judges, and a whole run on tiny pictures."""

import copy
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import pretraining.train
import pretraining.views
from cause_lib.backbones import small_vit
from pretraining.judge import judge_tokens, kmeans_score, knn_score, linear_score, patch_labels, rgb_statistics
from pretraining.objective import Distilled, at_places, balance, distillation
from pretraining.train import (QUICK, Settings, architecture, as_backbone, cosine, groups, new_vit, objective, pretrain,
                               standardise)
from pretraining.views import cut, hide, places_in, recolour, views_for

TINY = Settings(**QUICK)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- objective ---

def test_balance_is_sinkhorn():
    cosines = torch.rand(40, 6, dtype=torch.float64, generator=generator()) * 2 - 1
    q = (cosines / 0.2).exp()
    for _ in range(3):
        for k in range(6):
            q[:, k] *= 40 / 6 / q[:, k].sum()
        for i in range(40):
            q[i] /= q[i].sum()
    torch.testing.assert_close(balance(cosines, 0.2), q.float())
    many = balance(cosines, 0.2, iterations=50)
    torch.testing.assert_close(many.sum(dim=1), torch.ones(40))
    torch.testing.assert_close(many.sum(dim=0), torch.full((6,), 40 / 6))


def test_distillation_is_cross_entropy():
    q = torch.rand(12, 5, dtype=torch.float64, generator=generator()).softmax(dim=-1)
    cosines = torch.randn(12, 5, dtype=torch.float64, generator=generator(1)).requires_grad_()
    naive = -sum(q[i, k] * (cosines[i, k] / 0.1 - (cosines[i] / 0.1).exp().sum().log())
                 for i in range(12) for k in range(5)) / 12
    loss = distillation(q, cosines, 0.1)
    torch.testing.assert_close(loss.double(), naive, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, cosines)[0], torch.autograd.grad(naive, cosines)[0],
                               rtol=1e-4, atol=1e-7)


def model(seed=0):
    torch.manual_seed(seed)
    return Distilled(new_vit(TINY), prototypes=5, hidden_dim=8, bottleneck_dim=4)


def test_student_sees_as_the_shipped_backbone_does():
    one = model().eval()
    torch.nn.init.normal_(one.vit.pos_embed)
    images, corner = torch.rand(2, 3, 48, 48), torch.zeros(2, 2, dtype=torch.int64)
    seen = as_backbone(one.vit, TINY)(images)
    torch.testing.assert_close(one(images, corner), seen)
    hidden = torch.zeros(2, 36, dtype=torch.bool)
    torch.testing.assert_close(one(images, corner, hidden), seen)


def test_hidden_patches_are_not_seen():
    one = model().eval()
    images, corner, hidden = torch.rand(2, 3, 48, 48), torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 36) > 0
    torch.testing.assert_close(one(images, corner, hidden), one(torch.rand(2, 3, 48, 48), corner, hidden))
    hidden[:, :3] = False
    assert not torch.allclose(one(images, corner, hidden), one(torch.rand(2, 3, 48, 48), corner, hidden), atol=1e-3)


def test_views_are_put_at_their_place_among_the_positions():
    one = model().eval()
    torch.nn.init.normal_(one.vit.pos_embed)
    images, place = torch.rand(2, 3, 24, 32), torch.tensor([[3, 1], [0, 2]])
    moved = copy.deepcopy(one)
    for i, (row, column) in enumerate(place.tolist()):
        positions = one.vit.pos_embed[0, 1:].unflatten(0, (6, 6))[row:row + 3, column:column + 4]
        moved.vit.pos_embed.data[0, 1:].unflatten(0, (6, 6))[:3, :4] = positions
        torch.testing.assert_close(one(images[i:i + 1], place[i:i + 1]),
                                   moved(images[i:i + 1], torch.zeros(1, 2, dtype=torch.int64)))


def test_at_places_reads_between_patches():
    ramp = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), dim=-1)  # row, column
    cosines = ramp.view(1, 16, 2)
    places = torch.tensor([[[0.125, 0.125], [0.5, 0.375], [0.875, 0.25], [0.0, 1.0]]])
    expected = torch.tensor([[[0.0, 0.0], [1.5, 1.0], [3.0, 0.5], [0.0, 3.0]]])
    torch.testing.assert_close(at_places(cosines, places), expected)


def test_only_the_student_learns():
    student = model()
    teacher = copy.deepcopy(student).requires_grad_(False)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 3, 48, 48), dtype=np.uint8)
    views = views_for(pictures, TINY, 0, torch.device("cpu"))
    views["hidden"][:, 3] = True
    with pretraining.train.session(TINY) as accelerator:
        loss = objective(accelerator, student, teacher, views, TINY)
        loss.backward()
    assert loss > 0
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    counted = [id(parameter) for group in groups(student, 0.1) for parameter in group["params"]]
    assert sorted(counted) == sorted(map(id, student.parameters()))


def test_what_the_teacher_does_not_see_counts_for_nothing():
    student = model()
    teacher = copy.deepcopy(student).requires_grad_(False)
    views = views_for(np.random.default_rng(0).integers(0, 256, (8, 3, 48, 48), dtype=np.uint8), TINY, 0,
                      torch.device("cpu"))
    views["places"][:, :4, 0] = torch.tensor([-0.5, 1.5, -0.01, 1.0])
    with pretraining.train.session(TINY) as accelerator:
        before = objective(accelerator, student, teacher, views, TINY)
        views["places"][:, :4, 1] = torch.rand(len(views["places"]), 4)
        assert torch.equal(objective(accelerator, student, teacher, views, TINY), before)


def test_standardised_tokens_have_mean_nought_and_variance_one():
    torch.manual_seed(0)
    vit, pictures = new_vit(TINY), np.random.default_rng(0).integers(0, 256, (20, 3, 48, 48), dtype=np.uint8)
    before = as_backbone(vit, TINY)(torch.from_numpy(pictures).float() / 255).flatten(0, 1)
    standardise(vit, pictures, TINY)
    after = as_backbone(vit, TINY)(torch.from_numpy(pictures).float() / 255).flatten(0, 1)
    expected = (before - before.mean(dim=0)) / before.std(dim=0, correction=0)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_cosine_goes_from_end_to_end():
    assert [round(cosine((0.9, 1.0), share), 12) for share in (0, 0.5, 1)] == [0.9, 0.95, 1.0]


# --- views ---

def test_places_are_those_of_the_picture():
    """Cut a picture whose colours are its coordinates: a patch and its place in the other view show the same."""
    ramp = torch.arange(64).expand(64, 64)
    pictures = torch.stack([ramp, ramp.T, ramp * 0]).byte()[None].expand(24, -1, -1, -1)  # red: column, green: row
    narrow, box, mirrored = cut(pictures, (24, 40), 32, generator())
    wide, wide_box, wide_mirrored = cut(pictures, (56, 64), 48, generator(1))
    places = places_in(box, mirrored, 4, wide_box, wide_mirrored)  # (24, 16, 2)
    inside = ((places > 0.1) & (places < 0.9)).all(dim=-1)
    shown = F.avg_pool2d(narrow, 8).flatten(2).transpose(1, 2)[..., :2] * 255
    there = at_places(wide.flatten(2).transpose(1, 2), places)[..., :2] * 255
    assert (shown - there)[inside].abs().max() < 1.0  # pixels of the picture
    assert inside.float().mean() > 0.5 and mirrored.any() and not mirrored.all()
    assert (box[:, 2] >= 24).all() and (box[:, 2] <= 40).all() and (box[:, :2] + box[:, 2:] <= 64).all()


def test_views_depend_on_the_update_alone():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 3, 48, 48), dtype=np.uint8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, other, next_one = (views_for(pictures, TINY, step, torch.device("cpu")) for step in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], next_one[name]) for name in ("wide", "narrow", "places"))
    assert one["wide"].shape == (4, 3, 40, 40) and one["narrow"].shape == (8, 3, 32, 32)
    assert one["hidden"].shape == (8, 16) and one["places"].shape == (8, 16, 2)
    for name, grid in (("wide", 5), ("narrow", 4)):
        assert 0 <= one[name].min() and one[name].max() <= 1
        assert 0 <= one[f"{name}_at"].min() and one[f"{name}_at"].max() <= 6 - grid


def test_recolouring_leaves_greys_grey_and_nothing_at_strength_zero():
    views = torch.rand(50, 3, 4, 4, generator=generator())
    torch.testing.assert_close(recolour(views, 0.0, generator(1)), views, rtol=0, atol=1e-5)
    grey = views.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    turned = recolour(grey, 1.0, generator(1))
    torch.testing.assert_close(turned, turned[:, :1].expand_as(turned), rtol=0, atol=1e-5)
    colours = recolour(0.5 + 0.1 * (views - 0.5), 1.0, generator(1))
    spread = colours.std(dim=1).amax(dim=(1, 2))
    assert 2 <= (spread < 1e-5).sum() <= 15  # some views turn grey, most do not


def test_hidden_patches_come_in_the_share_asked_for():
    counts = hide(400, 12, 0.5, generator()).sum(dim=1) / 144
    assert counts.max() <= 0.86 and 0.15 < (counts == 0).float().mean() < 0.3
    assert 0.35 < counts[counts > 0].mean() < 0.45
    neighbours = hide(400, 12, 0.5, generator()).view(-1, 12, 12)
    alike = (neighbours[:, 1:] == neighbours[:, :-1]).float().mean()
    assert alike > 0.7  # blobs: half would be alike by chance


# --- judges ---

def blobs(m=60, seed=0):
    """Points (m, 4) around three directions, and which."""
    labels = torch.arange(m) % 3
    return torch.eye(4)[labels] + 0.1 * torch.randn(m, 4, generator=generator(seed)), labels


def test_judges_find_what_is_easy_to_tell_apart():
    (train, train_labels), (test, test_labels) = blobs(), blobs(30, seed=1)
    for score in (knn_score, linear_score):
        assert score(train, train_labels, test, test_labels, 3) == {"miou": 1.0, "pacc": 1.0}
        void = train_labels.masked_fill(train_labels == 2, -1)
        assert score(train, void, test, test_labels, 3)["pacc"] == pytest.approx(2 / 3)
    maps = test[:16].view(1, 16, 4)
    assert kmeans_score(train, maps, test_labels[:16].view(1, 4, 4), 3) == {"miou": 1.0, "pacc": 1.0}


def test_nearest_neighbours_vote():
    train, test = torch.randn(30, 4, generator=generator()), torch.randn(9, 4, generator=generator(1))
    labels = torch.randint(0, 3, (30,), generator=generator(2))
    expected = []
    for x in test:
        cosine = F.cosine_similarity(train, x[None], dim=1)
        votes = torch.zeros(3)
        for i in cosine.argsort(descending=True)[:5].tolist():
            votes[labels[i]] += (cosine[i] / 0.07).exp()
        expected.append(votes.argmax())
    assert knn_score(train, labels, test, torch.stack(expected), 3, neighbours=5)["pacc"] == 1.0


def test_patches_have_colours_and_the_class_of_most_pixels():
    image, label = torch.rand(2, 3, 8, 12, generator=generator()), torch.full((2, 8, 12), -1)
    label[:, :4, :4], label[:, 0, 4:8], label[1, 4:, 8:] = 1, 2, 0
    statistics, labels = rgb_statistics(image, 4), patch_labels(label, 4, 3)
    patch = image[1, :, 4:, 8:].flatten(1)
    torch.testing.assert_close(statistics[1, 5], torch.cat([patch.mean(dim=1), patch.std(dim=1)]))
    assert labels.tolist() == [[1, -1, -1, -1, -1, -1], [1, -1, -1, -1, -1, 0]]


def test_tokens_are_judged_whatever_makes_them():
    items = [{"image": torch.rand(3, 16, 16), "label": torch.randint(-1, 2, (16, 16))} for _ in range(3)]
    scores = judge_tokens(lambda images: rgb_statistics(images, 4), items, items, 2, 4)
    assert set(scores) == {"k-means", "k-NN", "linear"}
    assert all(0 <= value <= 1 for score in scores.values() for value in score.values())


# --- a whole run ---

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on tiny pictures that nothing disturbs."""
    return pretrain(dataclasses.replace(TINY, run_dir=str(tmp_path_factory.mktemp("runs"))))


def weights(folder):
    with safe_open(folder / "bundled.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def test_run_leaves_weights_and_a_card(run):
    card = json.loads((run / "card.json").read_text())
    content = (run / "bundled.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(content).hexdigest() and card["bytes"] == len(content)
    assert card["steps"] == TINY.steps == len(card["loss"]["mean"]) and np.isfinite(card["loss"]["mean"]).all()
    assert set(card["scores"]) == {"trained", "random", "rgb"} and "k-NN" in card["scores"]["trained"]
    assert card["on the way"][0]["step"] == TINY.judge_steps
    assert card["command"].startswith("python -m pretraining --split train --pictures 12 ")
    state, metadata = weights(run)
    vit = small_vit(**json.loads(metadata["vit"]))
    vit.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    assert card["vit"] == architecture(TINY) and card["parameters"] == sum(p.numel() for p in vit.parameters())


def test_the_same_again_costs_nothing(run):
    before = (run / "bundled.safetensors").stat().st_mtime_ns
    assert pretrain(dataclasses.replace(TINY, run_dir=str(run.parent.parent))) == run
    assert (run / "bundled.safetensors").stat().st_mtime_ns == before


def test_a_killed_run_ends_with_the_same_bits(run, tmp_path, monkeypatch):
    settings, save = dataclasses.replace(TINY, run_dir=str(tmp_path)), pretraining.train.save_checkpoint

    def save_and_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretraining.train, "save_checkpoint", save_and_die)
        pretrain(settings)
    again = pretrain(settings)
    assert again.name == run.name
    assert (again / "bundled.safetensors").read_bytes() == (run / "bundled.safetensors").read_bytes()
    ours, theirs = (json.loads((folder / "card.json").read_text()) for folder in (again, run))
    assert ours["loss"] == theirs["loss"] and ours["scores"] == theirs["scores"]
    assert not list(tmp_path.rglob("*checkpoint*"))


def test_labels_make_no_difference(run, tmp_path, monkeypatch):
    honest = pretraining.train.load_dataset

    def noisy(*arguments, **options):
        dataset = honest(*arguments, **options)
        source, noise = dataset.source, np.random.default_rng(0)

        def read(index):
            image, label = source.read(index)
            return image, torch.from_numpy(noise.integers(0, len(source.classes), label.shape)).to(label.dtype)

        dataset.source = dataclasses.replace(source, read=read)
        return dataset

    monkeypatch.setattr(pretraining.train, "load_dataset", noisy)
    monkeypatch.setattr(pretraining.views, "load_dataset", noisy)
    blind = pretrain(dataclasses.replace(TINY, run_dir=str(tmp_path)))
    assert (blind / "bundled.safetensors").read_bytes() == (run / "bundled.safetensors").read_bytes()
    ours, theirs = (json.loads((folder / "card.json").read_text())["scores"] for folder in (blind, run))
    assert ours["trained"] != theirs["trained"]  # judged by noise


def test_the_command_names_what_differs():
    settings = Settings(seed=3, narrow_share=(0.3, 1.0), run_dir="elsewhere")
    assert pretraining.train.command(settings) == "python -m pretraining --seed 3 --narrow-share 0.3 1.0"
