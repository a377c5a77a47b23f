"""The files of the live page: what they hold is what the record says, the library's weights, and its numbers."""

import gzip
import hashlib
import json

import numpy as np
import pytest
import torch
from live_network import FOLDER, RECORD, agreement, library, stored_weights
from PIL import Image

from cause_book.live import READOUTS, SETTINGS
from cause_book.live.model import Graph, principal_axes
from cause_book.live.scene import SIZE, THINGS, WEATHERS, arrange, draw_atlas
from cause_lib.backbones import load_backbone
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.data.scenes import OBJECTS, draw_scene
from cause_lib.heads import MLPHead
from cause_lib.masks import winners
from cause_lib.probes import ClusterProbe
from cause_lib.segmenter import Segmenter
from cause_lib.weights import file_sha256, read_tensors


def test_files_are_those_of_the_record():
    assert {name: file_sha256(FOLDER / name) for name in RECORD["sha256"]} == RECORD["sha256"]
    assert b".py" not in (FOLDER / "model.onnx").read_bytes()  # no file of the machine that wrote it
    assert {path.name for path in FOLDER.iterdir()} == {*RECORD["sha256"], "live.json"}
    assert Experiment.from_dict(RECORD["experiment"]) == Experiment(run_dir="runs", **SETTINGS)
    assert [one["readout"] for one in RECORD["readouts"]] == list(READOUTS.values())
    assert RECORD["classes"] == list(OBJECTS) and len(RECORD["colors"]) == len(OBJECTS)
    assert RECORD["backbone_sha256"] == load_backbone("bundled").weights_sha256


def test_the_page_states_what_is_loaded_and_scored():
    page = (FOLDER.parents[1] / "live.md").read_text()
    loaded = [FOLDER / name for name in ("model.onnx", "scene.png", "live.json")]
    loaded += [FOLDER.parent / "onnxruntime" / name for name in ("ort.js", "ort.wasm.gz")]
    assert f"Loads {sum(path.stat().st_size for path in loaded) / 1e6:.0f} MB, once" in page
    clusters, linear = ((one["segmenter"]["miou"], one["miou"]) for one in RECORD["readouts"])
    assert "mIoU {:.1f} instead of {:.1f} by clusters, {:.1f} instead of {:.1f} by".format(*clusters, *linear) in page
    settings = RECORD["experiment"]
    assert f"on {settings['train_images']} generated scenes" in page and settings["smoothing"] == 0.0


def test_the_runtime_is_the_published_one():
    folder = FOLDER.parent / "onnxruntime"
    stated = json.loads((folder / "source.json").read_text())
    assert file_sha256(folder / "ort.js") == stated["sha256"]["ort.js"]
    wasm = gzip.decompress((folder / "ort.wasm.gz").read_bytes())
    assert hashlib.sha256(wasm).hexdigest() == stated["sha256"]["ort.wasm"]
    assert f"v{stated['version']}" in (folder / "ort.js").read_text()[:100]
    assert "MIT License" in (folder / "LICENSE").read_text()


def test_the_scene_is_the_generators():
    atlas, scene = draw_atlas()
    assert np.array_equal(np.array(Image.open(FOLDER / "scene.png")), np.array(atlas))
    assert RECORD["scene"] == json.loads(json.dumps(scene))
    pixels = np.array(atlas)
    for weather in WEATHERS:
        assert arrange(atlas, scene, weather)[..., 3].min() == 255  # no hole
        for thing in THINGS:
            left, top, wide, high, x, y = scene["pieces"][weather][thing]
            alpha = pixels[top:top + high, left:left + wide, 3]
            assert 300 < (alpha == 255).sum() < SIZE ** 2 / 2 and ((alpha > 0) & (alpha < 255)).sum() > 50  # a shadow
            assert 0 <= x <= wide and 0 <= y <= high


def test_weights_are_the_librarys():
    pytest.importorskip("onnx")
    stored = stored_weights()
    bundled, path = read_tensors(load_backbone("bundled").weights_path), "backbone.vit."
    assert len(bundled) > 70
    for name, weights in bundled.items():
        if path + name in stored:
            assert torch.equal(stored[path + name].reshape(weights.shape).float(), weights.float()), name
    missing = {name for name in bundled if path + name not in stored}
    assert all(bundled[name].numel() <= 128 or name == "cls_token" for name in missing), missing  # folded into others


def test_onnxruntime_gives_the_librarys_numbers():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    session, look = onnxruntime.InferenceSession(FOLDER / "model.onnx"), library()
    atlas, scene = draw_atlas()
    pictures = [np.pad(draw_scene(i, "val", SIZE)[0], ((0, 0), (0, 0), (0, 1))) for i in range(4)]
    for pixels in [*pictures, *(arrange(atlas, scene, weather) for weather in WEATHERS)]:
        _, concepts, masks = session.run(None, {"pixels": pixels})
        same = agreement((concepts, masks), look(pixels))
        assert min(same.values()) >= 0.99 and len(np.unique(masks)) > 2, same


def test_a_graph_reads_out_as_segmenters_do():
    """Clusters matched to other classes, and a linear probe beside them; weights become float16's."""
    torch.manual_seed(0)
    backbone, head = load_backbone("bundled"), MLPHead(192, 8)
    same = dict(image_size=SIZE, classes=list("abcd"), colors=np.zeros((4, 3)))
    both = [Segmenter(backbone, head, ClusterProbe(4, 8), assignment=order, **same)
            for order in ([2, 0, 3, 1], [0, 1, 2, 3])]
    tokens = torch.randn(3, 400, 192)
    graph = Graph(both, Clusterbook(torch.randn(5, 192)), *principal_axes(tokens))
    pixels = torch.from_numpy(draw_scene(0, "val", SIZE)[0])
    colors, concepts, masks = graph(pixels)
    assert colors.shape == (400, 3) and concepts.shape == (400,) and masks.shape == (2, SIZE, SIZE)
    for segment, mask in zip(both, masks):
        features = head(backbone(pixels.permute(2, 0, 1)[None] / 255)).mT.unflatten(2, (20, 20))
        expected = segment.assignment[winners(features, (SIZE, SIZE), [segment.probe])[0, 0]]
        assert (expected == mask).double().mean() > 0.99
    for weights in (*head.parameters(), *graph.line.parameters()):
        assert torch.equal(weights, weights.half().float())
    shown = graph.colors(tokens)
    assert shown.min() == 0 and shown.max() == 255 and 0.01 < (shown == 255).double().mean() < 0.03
