"""`Segmenter.export`: one ONNX file that gives the Segmenter's masks."""

import json
import logging

import numpy as np
import pytest
import torch

from cause_lib.backbones import POSITIONS, load_backbone, resize_positions
from cause_lib.heads import MLPHead, TRHead
from cause_lib.probes import ClusterProbe
from cause_lib.use.exported import Graph, positions_by_products
from cause_lib.segmenter import Segmenter


def made(kind="mlp", **changes):
    """A Segmenter of an untrained head whose clusters all occur."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = MLPHead(192, 8) if kind == "mlp" else TRHead(torch.randn(12, 192), (7, 7), 8)
        settings = dict(image_size=56, classes=["sky", "grass", "house", "sea"], assignment=[2, 0, 3, 1],
                        colors=[[90, 150, 230], [60, 140, 50], [210, 60, 40], [0, 60, 120]])
        return Segmenter(load_backbone("bundled"), head.eval(), ClusterProbe(4, 8), **(settings | changes))


def picture(h, w):
    rng = np.random.default_rng(h)
    coarse = torch.from_numpy(rng.random((1, 3, h // 16 + 1, w // 16 + 1), dtype=np.float32))
    return torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")[0]


@pytest.mark.parametrize("rule", POSITIONS)
@pytest.mark.parametrize("new", [(6, 6), (6, 9), (3, 4), (13, 5), (20, 31)])
def test_positions_are_those_of_the_backbone(rule, new):
    positions = torch.randn(1, 2 + 36, 5, generator=torch.Generator().manual_seed(0))
    expected = resize_positions(positions, (6, 6), new, 2, rule=rule)
    found = positions_by_products(positions, (6, 6), new, 2, rule=rule)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if new == (6, 6):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind, changes", [("mlp", {}), ("tr", {"smoothing": 0.02})])
def test_onnxruntime_gives_the_same_masks(tmp_path, monkeypatch, kind, changes):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    segment = made(kind, **changes)
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would keep every line of it
    path = segment.export(tmp_path / "a.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    assert b"exported.py" not in path.read_bytes()  # nor any other file of this machine
    session = onnxruntime.InferenceSession(path)
    for h, w in ((56, 56), (56, 104), (160, 160)):  # the head's grid, an oblong, the backbone's own
        segment.image_size = min(h, w)
        image = picture(h, w)
        scores, mask = session.run(["scores", "mask"], {"picture": image[None].numpy()})
        expected = segment(image)
        assert scores.shape == (1, 4, h, w) and mask.shape == (1, h, w) and len(expected.unique()) > 1
        assert (torch.from_numpy(mask[0]) == expected).double().mean() >= 0.999
        assert np.array_equal(scores.argmax(axis=1), mask)
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert told["classes"] == segment.classes and told["colors"] == segment.colors.tolist()
    assert (told["patch"], told["image_size"], told["resize"], told["squash"]) == (8, 56, "nearest", False)
    assert not segment.head.training


def test_scores_are_of_classes():
    """Also where several clusters are given one class, and a class none."""
    image = picture(56, 80)
    for assignment in ([2, 0, 3, 1], [0, 0, 1, 3], None):
        segment = made(assignment=assignment)
        with torch.no_grad():
            scores, mask = Graph(segment)(image[None])
        assert scores.shape == (1, 4, 56, 80) and (mask[0] == segment(image)).double().mean() >= 0.999


def test_export_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="a.pt would not be known .* ends in .onnx"):
        made().export(tmp_path / "a.pt")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(RuntimeError, match=r"onnx is not installed.*cause-book\[onnx\]"):
        made().export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_tracer_took_for_a_constant_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    segment = made()
    whole, rows = segment.backbone.forward, torch.arange(4.0)

    def fixed(images):  # as timm's rotary positions: the side becomes a Python number while PyTorch traces
        return whole(images) + 0 * rows[:int(float(images.shape[2] // 8)) and 1]

    monkeypatch.setattr(segment.backbone, "forward", fixed)
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    with pytest.raises(RuntimeError, match="cannot write bundled with this head as ONNX .* learned positions"):
        segment.export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
