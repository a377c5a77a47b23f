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

SETTINGS = dict(recipe="alive", head="mlp", crf=False, device="cpu")  # of the run that is exported, beside the defaults
READOUT = "modularity"
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
    segment = Segmenter.load(stages.evaluate(experiment), readout=READOUT)
    book = stages.load_clusterbook(stages.fit_clusterbook(experiment))
    tokens = torch.cat([segment.backbone(picture) for picture, _ in _pictures("train")])  # (g, n, d)
    graph = Graph(segment, book, *principal_axes(tokens.flatten(0, 1)))
    concepts = F.normalize(graph.book.prototypes, dim=1) * tokens.norm(dim=2).mean()  # (k, d), as long as tokens are
    atlas, scene = draw_atlas()
    about = {"classes": segment.classes, "colors": segment.colors.tolist(), "scene": scene,
             "concept_colors": graph.colors(concepts).tolist(), "judged": judge(graph, len(segment.classes)),
             "experiment": experiment.replace(run_dir="runs").to_dict(), "readout": READOUT,
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


def judge(graph: Graph, classes: int) -> dict[str, float]:
    """mIoU and pixel accuracy of what the page shows, on the judged scenes; clusters keep the classes that they have."""
    metrics = SegmentationMetrics(classes, match=False)
    for picture, label in _pictures("val"):
        pixels = (255 * picture[0].permute(1, 2, 0)).round().to(torch.uint8)  # (s, s, 3)
        metrics.update(graph(F.pad(pixels, (0, 1), value=255))[2][None].long(), label)
    found = metrics.compute()
    return {"pictures": SPLITS["val"]} | {name: round(100 * float(found[name]), 2) for name in ("miou", "pacc")}


def preview(graph: Graph, pixels: np.ndarray, about: dict[str, Any]) -> Image.Image:
    """Picture and colours above, concepts and mask below: a picture of twice the side of `pixels` (s, s, 4)."""
    colors, concepts, mask = (found.numpy() for found in graph(torch.from_numpy(pixels)))
    side = pixels.shape[0] // graph.rows

    def patches(values: Any) -> np.ndarray:
        return np.asarray(values, dtype=np.uint8).reshape(graph.rows, graph.rows, 3).repeat(side, 0).repeat(side, 1)

    above = pixels[..., :3], patches(colors)
    below = patches(np.array(about["concept_colors"])[concepts]), np.array(about["colors"], dtype=np.uint8)[mask]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in (above, below)]))
