"""The generated scenes: the same bytes from the same seed, labels aligned to the pixel, every class there."""

import time

import numpy as np
import pytest

from cause_lib.data import load_dataset, scenes
from cause_lib.data.scenes import CLASSES, draw_scene


def test_same_seed_same_bytes_other_seed_other_scene():
    image, label = draw_scene(3, "train", 48, seed=0)
    again, label_again = draw_scene(3, "train", 48, seed=0)
    assert image.tobytes() == again.tobytes() and label.tobytes() == label_again.tobytes()
    for other in (draw_scene(4, "train", 48), draw_scene(3, "val", 48), draw_scene(3, "train", 48, seed=1)):
        assert other[0].tobytes() != image.tobytes()


def test_sizes_of_the_splits():
    assert len(load_dataset("scenes", "train", image_size=16)) == 96
    assert len(load_dataset("scenes", "val", image_size=16)) == 48
    assert len(load_dataset("scenes", "train", image_size=16, limit=200)) == 200


@pytest.mark.parametrize("size", [1, 2, 17, 160])
def test_any_size(size):
    image, label = draw_scene(0, "train", size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert label.shape == (size, size) and label.dtype == np.uint8


def test_the_same_scene_at_two_sizes():
    for index in range(4):
        small, large = draw_scene(index, "train", 50)[1], draw_scene(index, "train", 150)[1]
        assert (large[1::3, 1::3] == small).mean() > 0.99  # the middle pixel of nine is the same point of the scene


def test_labels_are_aligned_with_the_image(monkeypatch):
    """Painted in one flat colour a class, without light, shadow and grain, the image must be its label."""
    tones = np.linspace(0, 1, len(CLASSES))
    paint = scenes.Canvas.paint
    monkeypatch.setattr(
        scenes.Canvas, "paint", lambda self, window, mask, color, concept, shade=0.0:
        paint(self, window, mask, np.full(3, tones[concept]), concept)
    )
    monkeypatch.setattr(scenes.Canvas, "shadow", lambda *_: None)
    monkeypatch.setattr(scenes.Canvas, "finish", lambda self, random: (self.image, self.label))
    for index in range(12):
        image, label = draw_scene(index, "val", 96)
        assert np.array_equal(image[..., 0], tones[label])


def test_every_class_is_there_and_none_is_everywhere():
    labels = np.stack([draw_scene(i, "val", 64)[1] for i in range(48)])
    share = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    assert share.min() > 0.005 and share.max() < 0.5


def test_colour_varies_within_a_class():
    """A house is not known by its colour: over scenes its mean colour varies more than a jitter."""
    means = []
    for index in range(48):
        image, label = draw_scene(index, "train", 64)
        if (label == scenes.HOUSE).sum() > 20:
            means.append(image[label == scenes.HOUSE].mean(0))
    assert len(means) > 10 and np.std(means, axis=0).min() > 15


def test_drawing_is_quick():
    draw_scene(0, "train", 160)
    seconds = []
    for index in range(10):
        start = time.perf_counter()
        draw_scene(index, "train", 160)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
