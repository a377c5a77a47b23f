"""The switches of the audit: each changes what it should, and nothing at all where it is left alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_stages import bits

from cause_lib import stages, steps
from cause_lib.backbones import load_backbone
from cause_lib.clusterbook import Clusterbook, thin_pictures
from cause_lib.config import STAGE_FIELDS, Experiment
from cause_lib.data import load_dataset, resize_and_crop
from cause_lib.runs import judging
from cause_lib.runs.features import FrozenFeatures, open_dataset
from cause_lib.runs.loop import generator_for, kept_patches, session
from cause_lib.runs.parallel import WHOLE, Part
from cause_lib.segmenter import Segmenter

AWAY = {"resize": "antialiased", "num_heads": 6, "positions": "antialiased", "shared_start": True}


def tokens(run: Experiment, size: int = 48) -> torch.Tensor:
    """The tokens of all training views, (b, n, d)."""
    with session(run) as accelerator:
        features = FrozenFeatures(run, "train", size, accelerator)
        return torch.cat(list(features.stream(torch.arange(len(features)).split(7))))


def test_left_alone_they_are_in_no_name():
    for stage in STAGE_FIELDS:
        assert not set(AWAY) & set(Experiment().key(stage))


@pytest.mark.parametrize("name", AWAY)
def test_set_they_are_in_the_names_of_all_that_depends_on_them(name):
    run = Experiment(**{name: AWAY[name]})
    changed = {stage for stage in STAGE_FIELDS if run.key(stage) != Experiment().key(stage)}
    of_a_head = {"head", "probe", "evaluation"}
    assert changed == (of_a_head if name == "shared_start" else set(STAGE_FIELDS))


@pytest.mark.parametrize("wrong, said", [
    (dict(resize="bicubic"), "resize must be one of nearest, pillow, antialiased"),
    (dict(positions="timm"), "positions must be one of dino, exact, antialiased"),
    (dict(num_heads=0), "num_heads must be between 1 and"),
])
def test_what_a_switch_may_be(wrong, said):
    with pytest.raises(ValueError, match=said):
        Experiment(**wrong)


def test_a_data_set_knows_its_two_ways_of_resizing():
    with pytest.raises(ValueError, match="unknown resize 'antialised' .did you mean 'antialiased'"):
        load_dataset("scenes", "val", image_size=16, resize="antialised")


# --- pictures ---


@pytest.mark.parametrize("height, width, size", [(90, 120, 32), (37, 23, 64)])
def test_antialiased_pictures_are_pillows_bilinear(height, width, size):
    """Pillow's filter is as wide as a new pixel; both round to 8 bits, after a pass in each direction."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = torch.from_numpy(picture).permute(2, 0, 1)
    long = size * max(height, width) // min(height, width)
    target = (long, size) if width > height else (size, long)
    left, top = (round((side - size) / 2) for side in target)
    expected = np.asarray(Image.fromarray(picture).resize(target, Image.Resampling.BILINEAR)).astype(int)
    ours = resize_and_crop(image, size, "antialiased").permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - expected[top:top + size, left:left + size]).max() <= 1
    squashed = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_and_crop(image, size, "antialiased", squash=True).permute(1, 2, 0).numpy() - squashed).max() <= 1


def test_pictures_are_resized_as_said_and_labels_never_are(tiny):
    for size in (24, 96):
        plain, smooth = (open_dataset(tiny(**change), "train", size) for change in ({}, {"resize": "antialiased"}))
        for one, other in zip(plain, smooth):
            assert torch.equal(one["label"], other["label"]) and not torch.equal(one["image"], other["image"])
            assert set(one["label"].unique().tolist()) <= {0, 1, 2}
            assert 0 <= other["image"].min() and other["image"].max() <= 1
    assert plain.fingerprint == smooth.fingerprint and plain.names == smooth.names


# --- tokens ---


@pytest.mark.parametrize("name", ["resize", "num_heads", "positions"])
@pytest.mark.parametrize("cache_gb", [0.0, 4.0])
def test_tokens_follow_the_switch_kept_or_not(tiny, name, cache_gb):
    plain = tiny(cache_gb=cache_gb)
    run = plain.replace(**{name: AWAY[name]})
    found = tokens(run)
    images = torch.stack([item["image"] for item in open_dataset(run, "train", 48)])
    read = {"num_heads": run.num_heads, "positions": run.positions}
    expected = torch.cat([load_backbone(run.backbone, 48, **read)(part) for part in images.split(7)])
    assert torch.equal(found, expected)
    assert not torch.allclose(found, tokens(plain), atol=1e-3)
    assert torch.equal(tokens(run), found)  # from the run's own cache, not the other's


def test_positions_matter_only_away_from_the_native_size(tiny):
    plain, other = tiny(train_images=1), tiny(train_images=1, positions="antialiased")
    assert torch.equal(tokens(plain, 160), tokens(other, 160))


# --- patches ---

def test_patches_are_kept_as_said_and_of_each_part_its_own():
    """By `thinning`: one pattern, the edge too; or of each picture its own, complete blocks alone. Of any two parts."""
    def kept(thinning, part=WHOLE):
        run = Experiment(thinning=thinning, thin=4)
        return kept_patches(run, (14, 15), generator_for(run, "head", 3), 5, part)

    one, own = kept("batch"), kept("picture")
    assert one.shape == (16,) and own.shape == (5, 9) and len({tuple(row) for row in own.tolist()}) == 5
    assert torch.equal(own, thin_pictures((14, 15), 4, generator_for(Experiment(), "head", 3), 5))
    parts = [Part(0, 2, 5), Part(2, 5, 5)]
    assert torch.equal(torch.cat([kept("picture", part) for part in parts]), own)
    assert all(torch.equal(kept("batch", part), one) for part in parts)


def test_step_one_learns_from_the_patches_that_are_kept(tiny, monkeypatch):
    seen, loss = [], steps.modularity_loss
    monkeypatch.setattr(steps, "modularity_loss", lambda tokens, *rest: (seen.append(tokens.shape[1]), loss(tokens, *rest))[1])
    for thinning in ("batch", "picture"):
        stages.fit_clusterbook(tiny(concept_steps=1, thin=4, thinning=thinning))
    assert seen == [4, 1]  # of 6 x 6


def test_the_teacher_drops_features_too(tiny):
    run = tiny()
    with session(run) as accelerator:
        features = FrozenFeatures(run, "train", 48, accelerator)
        made = steps.head_run(run, None, Clusterbook(torch.rand(12, features.dim)), accelerator, features)
    assert all(made.state[name].training and made.state[name]["head"].dropout == 0.1 for name in ("student", "teacher"))


def test_labels_are_those_of_the_pictures_whose_tokens_are_seen(tiny, monkeypatch):
    asked = {"stream": [], "pictures": []}
    for name, views in asked.items():
        method = getattr(FrozenFeatures, name)
        monkeypatch.setattr(FrozenFeatures, name, lambda self, batches, *rest, method=method, views=views: (
            views.append([batch.tolist() for batch in batches]), method(self, batches, *rest))[1])
    run = tiny(head="mlp", label_free=False, concept_steps=1, head_steps=9, probe_steps=7)
    stages.fit_probe(run)
    assert [len(views) for views in asked["pictures"] if len(views) in (9, 7)] == [9, 7]
    for steps_made in (9, 7):  # of step 2, of step 3
        (labels,), tokens = ([views for views in asked[name] if len(views) == steps_made] for name in ("pictures", "stream"))
        assert labels in tokens


def test_the_crf_sees_the_picture_as_said(tiny, monkeypatch):
    seen, read_out = [], judging.read_out
    monkeypatch.setattr(judging, "read_out", lambda *rest, **options: (seen.append(options["picture"]), read_out(*rest, **options))[1])
    for picture in ("rgb", "released"):
        stages.evaluate_baseline(tiny(crf=True, crf_iterations=1, crf_picture=picture))
    assert list(dict.fromkeys(seen)) == ["rgb", "released"]


# --- the teacher's start ---


def test_a_shared_start_is_the_student_after_its_first_update(tiny):
    """The teacher that an average without any past would have, for one update; after that both have a past."""
    def teacher(**changes):
        return bits(stages.fit_head(tiny(concept_steps=3, **changes)))

    assert teacher(head_steps=1, shared_start=True) == teacher(head_steps=1, ema_decay=0.0)
    assert teacher(head_steps=1, shared_start=True) != teacher(head_steps=1)
    assert teacher(head_steps=3, shared_start=True) != teacher(head_steps=3, ema_decay=0.0)
    assert teacher(head_steps=3, shared_start=True) != teacher(head_steps=3)


# --- one picture in, one mask out ---


def test_a_segmenter_sees_as_its_run_did(tiny):
    run = tiny(concept_steps=2, head_steps=2, probe_steps=2, resize="antialiased", num_heads=6, positions="antialiased")
    segment = Segmenter.load(stages.fit_probe(run))
    assert segment.resize == "antialiased" and segment.backbone.positions == "antialiased"
    assert {block.attn.num_heads for block in segment.backbone.vit.blocks} == {6}
    image, seen = torch.rand(3, 70, 96), []
    segment.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    segment(image)
    assert torch.equal(seen[0], F.interpolate(image[None], size=(48, 64), mode="bilinear", antialias=True))
    plain, seen = Segmenter.load(stages.fit_probe(tiny(concept_steps=2, head_steps=2, probe_steps=2))), []
    plain.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plain(image)
    assert torch.equal(seen[0], F.interpolate(image[None], size=(48, 64), mode="nearest-exact"))
