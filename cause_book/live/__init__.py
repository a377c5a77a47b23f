"""The live page: what it loads to run the method in a browser, made by `python -m cause_book.live FOLDER`.

    model.onnx   backbone, clusterbook, head and read-out of one picture size (`cause_book.live.model`)
    scene.png    backdrops and things of the generated world, cut out (`cause_book.live.scene`)
    preview.png  picture, colours, concepts and mask of the first scene, as Python computes them
    live.json    classes, colours, places in scene.png, and the record: experiment, library, scores, SHA-256 of all

The page itself is book/live.md with book/_static/live.js, which computes in a thread of its own, live-worker.js.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cause_book.live.model import Graph, principal_axes, write_onnx
from cause_book.live.scene import SIZE, WEATHERS, arrange, draw_atlas
from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.data.scenes import SPLITS, read_scene
from cause_lib.metrics import SegmentationMetrics
from cause_lib.runs.store import library_version, whole
from cause_lib.segmenter import Segmenter
from cause_lib.weights import file_sha256

# Of the run that is exported, beside the defaults.
SETTINGS = dict(recipe="alive", head="mlp", label_free=False, smoothing=0.0, crops="none", train_split="pretrain",
                train_images=640, probe_steps=1500, crf=False, device="cpu")
READOUTS = {"clusters": "kmeans", "linear probe": "linear"}  # what the page calls them, and the library
RECORD = "live.json"


def build(folder: str | Path, run_dir: str = "runs") -> Path:
    """Train, where that is not done yet, and write the files of the live page.

    Args:
        folder: made if it is not there; files of these names are replaced.
        run_dir: where the run's artefacts are kept.

    Returns:
        The record's path.

    Raises:
        RuntimeError: onnx or onnxscript is not installed. OSError: the folder cannot be written.
    """
    folder, experiment = Path(folder).expanduser(), Experiment(run_dir=run_dir, **SETTINGS)
    run = stages.evaluate(experiment)
    segments = [Segmenter.load(run, readout=readout) for readout in READOUTS.values()]
    segment = segments[0]
    book = stages.load_clusterbook(stages.fit_clusterbook(experiment))
    tokens = torch.cat([segment.backbone(picture) for picture, _ in _pictures("train")])  # (g, n, d)
    graph = Graph(segments, book, *principal_axes(tokens))
    atlas, scene = draw_atlas()
    about = {"classes": segment.classes, "colors": segment.colors.tolist(), "scene": scene,
             "concept_colors": concept_colors(graph, tokens).tobytes().hex(),
             "readouts": judge(graph, stages.read_record(run)),
             "experiment": experiment.replace(run_dir="runs").to_dict(),
             "library": library_version(), "torch": torch.__version__, "backbone": segment.backbone.name,
             "backbone_sha256": segment.backbone.weights_sha256}
    with whole(folder, "the live page's files", last=RECORD) as beside:
        beside.mkdir()
        write_onnx(graph, beside / "model.onnx")
        atlas.save(beside / "scene.png", optimize=True)
        preview(graph, arrange(atlas, scene, next(iter(WEATHERS))), about).save(beside / "preview.png", optimize=True)
        about["sha256"] = {path.name: file_sha256(path) for path in sorted(beside.iterdir())}
        (beside / RECORD).write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
    return folder / RECORD


def _pictures(split: str) -> Any:
    """Pictures (1, 3, s, s) floating in [0, 1] and labels int64 (1, s, s), one after the other."""
    for i in range(SPLITS[split]):
        image, label = read_scene(split, SIZE, "object", i)
        yield image[None].float() / 255, label[None].long()


def concept_colors(graph: Graph, tokens: torch.Tensor) -> np.ndarray:
    """The mean colour of the tokens (g, n, d) that each concept has, grey where it has none: uint8 (k, 3)."""
    own, shown = graph.book.assign(tokens).flatten(), graph.colors(tokens).flatten(0, 1).double()  # (g n,), (g n, 3)
    sums = torch.zeros(len(graph.book.prototypes), 3).double().index_add(0, own, shown)
    count = torch.bincount(own, minlength=len(sums))[:, None]
    return torch.where(count > 0, sums / count, 128.0).round().to(torch.uint8).numpy()


def judge(graph: Graph, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each read-out its name, and mIoU and pixel accuracy in per cent on the judged scenes, of what the page shows
    and of a Segmenter, which sees the mirror image, too."""
    counts = [SegmentationMetrics(len(evaluation["dataset"]["classes"]), match=False) for _ in READOUTS]
    for picture, label in _pictures("val"):
        pixels = (255 * picture[0].permute(1, 2, 0)).round().to(torch.uint8)  # (s, s, 3)
        for count, mask in zip(counts, graph(F.pad(pixels, (0, 1), value=255))[2]):
            count.update(mask[None].long(), label)

    def scores(of: dict[str, Any]) -> dict[str, float]:
        return {name: round(100 * float(of[name]), 2) for name in ("miou", "pacc")}

    return [{"name": name, "readout": readout, **scores(count.compute()),
             "segmenter": next(scores(row) for row in evaluation["results"] if row["readout"] == readout)}
            for (name, readout), count in zip(READOUTS.items(), counts)]


def preview(graph: Graph, pixels: np.ndarray, about: dict[str, Any]) -> Image.Image:
    """Picture and colours above, concepts and mask below: a picture of twice the side of `pixels` (s, s, 4)."""
    colors, concepts, masks = (found.numpy() for found in graph(torch.from_numpy(pixels)))
    side = pixels.shape[0] // graph.rows

    def patches(values: Any) -> np.ndarray:
        return np.asarray(values, dtype=np.uint8).reshape(graph.rows, graph.rows, 3).repeat(side, 0).repeat(side, 1)

    above = pixels[..., :3], patches(colors)
    painted = np.frombuffer(bytes.fromhex(about["concept_colors"]), dtype=np.uint8).reshape(-1, 3)  # (k, 3)
    below = patches(painted[concepts]), np.array(about["colors"], dtype=np.uint8)[masks[0]]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in (above, below)]))
