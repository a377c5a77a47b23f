"""A trained run as one object: image in, mask out.

    segment = Segmenter.load("runs/camvid")
    mask = segment("street.jpg")            # int64 (h, w), class ids, at the picture's own size
    masks = segment("my_pictures/")         # {"a.jpg": mask, ...}
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision
from tqdm.auto import tqdm

from cause_lib.artefacts import is_complete, read_record
from cause_lib.backbones import Backbone
from cause_lib.config import Experiment
from cause_lib.crf import dense_crf
from cause_lib.data import load_image, to_rgb
from cause_lib.data.source import list_pictures
from cause_lib.features import open_backbone
from cause_lib.judge import mirror_mean
from cause_lib.stages import load_head, load_probe


class Segmenter:
    """Backbone, head, read-out and matching of one run.

    Attributes:
        classes: c names; colors: uint8 (c, 3); a mask holds indices into both.
        resize: how pictures are brought to the working size, as in the run, see `Experiment`.
        matched: whether clusters were matched to classes by an evaluation with labels; if not, ids are clusters.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, probe: nn.Module, *, image_size: int, classes: list[str],
                 colors: np.ndarray, assignment: list[int] | None = None, readout: str = "modularity",
                 resize: str = "nearest") -> None:
        self.backbone, self.head, self.probe = backbone, head, probe
        self.image_size, self.classes, self.colors, self.readout = image_size, classes, colors, readout
        self.resize = resize
        self.matched = assignment is not None
        self._assignment = torch.tensor(assignment if self.matched else range(len(classes)))

    @classmethod
    def load(cls, run: str | Path, *, readout: str = "modularity", device: str | torch.device = "cpu") -> "Segmenter":
        """From what the stages left.

        Args:
            run: a folder of `evaluate` or `fit_probe`, or a run_dir that holds exactly one such run.
            readout: `modularity`, `kmeans`, or `linear` of a run with `label_free=False`.

        Raises:
            FileNotFoundError: nothing trained there. ValueError: several runs there, the message lists them; no such
            read-out; or the backbone's weights are not those that the run was trained with.
        """
        folder = _probe_folder(Path(run))
        record = read_record(folder)
        experiment = Experiment.from_dict(record["experiment"])
        backbone = open_backbone(experiment, experiment.image_size)
        if backbone.weights_sha256 != record["weights"]["sha256"]:
            raise ValueError(f"{folder} was trained with other weights of {experiment.backbone} "
                             f"(SHA-256 {record['weights']['sha256'][:8]}..., here {backbone.weights_sha256[:8]}...): "
                             "put those into CAUSE_WEIGHTS, or train again.")
        assignment, match = None, readout != "linear"
        for path in sorted((folder.parent.parent / "evaluation").glob("*/metrics.json")):
            metrics = read_record(path.parent)
            if metrics["upstream"]["probe"] == f"probe/{folder.name}" and metrics["dataset"]["labelled"] and match:
                assignment = next(result["assignment"] for result in metrics["results"] if result["readout"] == readout)
        return cls(backbone.to(device), load_head(folder).to(device), load_probe(folder, readout).to(device),
                   image_size=experiment.image_size, classes=record["notes"]["classes"],
                   colors=np.array(record["notes"]["colors"], dtype=np.uint8), assignment=assignment, readout=readout,
                   resize=experiment.resize)

    @torch.no_grad()
    def __call__(self, image: str | Path | Image.Image | Tensor, *, crf: bool = False) -> Tensor | dict[str, Tensor]:
        """The mask of a picture, or of every picture in a folder.

        Args:
            image: a file, a folder, a PIL picture, or a tensor (3, h, w) floating in [0, 1].
            crf: sharpen with the dense CRF, at the working size.

        Returns:
            int64 (h, w) of class ids at the picture's own size; for a folder, file name -> mask.

        Raises:
            FileNotFoundError: no such file. ValueError: the file is damaged, the folder has no pictures, or the tensor
            is of another shape.
        """
        if isinstance(image, (str, Path)) and Path(image).is_dir():
            paths = list_pictures(Path(image))
            if not paths:
                raise ValueError(f"{image} holds no pictures (jpg, png, webp, bmp, tif).")
            return {path.name: self(path, crf=crf) for path in tqdm(paths, desc="segment", leave=False)}
        if isinstance(image, (str, Path)):
            image = load_image(Path(image))
        if isinstance(image, Image.Image):
            image = vision.to_dtype(vision.pil_to_tensor(to_rgb(image)), torch.float32, scale=True)
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(f"Segmenter takes a tensor (3, h, w), floating in [0, 1], "
                             f"not {tuple(image.shape)} of {image.dtype}.")
        h, w = image.shape[1:]
        patch = self.backbone.patch_size
        # The short side as in training, the long side as the picture has it, both whole patches.
        scale = self.image_size / min(h, w)
        size = [max(1, round(side * scale / patch)) * patch for side in (h, w)]
        device = self.backbone.mean.device
        how = {"nearest": {"mode": "nearest"}, "antialiased": {"mode": "bilinear", "antialias": True}}[self.resize]
        small = F.interpolate(image[None].to(device), size=size, **how)  # (1, 3, rows p, columns p)
        grid = (size[0] // patch, size[1] // patch)
        features = mirror_mean(self.backbone(small), self.backbone(small.flip(-1)), grid, self.head)
        features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        scores = self.probe.log_probabilities(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (1, c, rows p, ...)
        if crf:
            scores = dense_crf(small, scores)
        mask = self._assignment[scores.argmax(dim=1).cpu()]  # (1, rows p, columns p)
        return F.interpolate(mask[:, None].double(), size=(h, w), mode="nearest")[0, 0].long()

    def color(self, mask: Tensor) -> np.ndarray:
        """A mask (h, w) as a picture: uint8 (h, w, 3)."""
        return self.colors[mask.numpy()]


def _probe_folder(run: Path) -> Path:
    if is_complete(run):
        record = read_record(run)
        if record["stage"] == "probe":
            return run
        if record["stage"] == "evaluation":
            return run.parent.parent / record["upstream"]["probe"]
        raise FileNotFoundError(f"{run} is a {record['stage']} artefact: give the folder of a probe or an evaluation.")
    found = [path.parent for path in sorted(run.glob("probe/*/artefact.json"))]
    if not found:
        raise FileNotFoundError(f"{run} holds no trained run: train one with evaluate(Experiment(run_dir=...)).")
    if len(found) > 1:
        raise ValueError(f"{run} holds {len(found)} runs; choose one: {', '.join(map(str, found))}.")
    return found[0]
