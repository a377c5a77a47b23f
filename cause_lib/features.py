"""Frozen features: the tokens T of every view of a data set, computed once where they fit.

The backbone never learns, so its tokens never change: with room for them on disk (`cache_gb`), one forward pass serves
every epoch, both heads and all seeds. Without, they are computed batch by batch as they are asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from cause_lib.artefacts import artefact_folder, is_complete, library_version, read_record, write_artefact
from cause_lib.backbones import Backbone, load_backbone, weights_fingerprint
from cause_lib.config import Experiment
from cause_lib.data import SegmentationDataset, load_dataset


def open_dataset(experiment: Experiment, role: str, image_size: int) -> SegmentationDataset:
    """The pictures of a run: role `train` gives its training views, `test` the whole pictures it is judged on."""
    training = role == "train"
    return load_dataset(experiment.dataset, experiment.train_split if training else experiment.test_split,
                        image_size=image_size, folder=experiment.folder,
                        crops=experiment.crops if training else "none", crop_ratio=experiment.crop_ratio,
                        limit=experiment.train_images if training else experiment.test_images,
                        num_classes=experiment.num_classes)


class FrozenFeatures:
    """Tokens of the views of a data set, from disk or straight from the backbone.

    Attributes: `grid` rows and columns of patches, `dim` d, `weights` {"name", "sha256", "description"}; `len()` views.
    """

    def __init__(self, experiment: Experiment, role: str, image_size: int, accelerator: Accelerator, *,
                 mirrored: bool = False) -> None:
        """Find the tokens in the run's cache, or compute them, or make ready to compute them on the way.

        Args:
            role: `train` (views of the training split) or `test`.
            image_size: side in pixels. mirrored: the tokens of the mirrored pictures instead.
        """
        self.experiment, self.accelerator, self.mirrored = experiment, accelerator, mirrored
        self.dataset = open_dataset(experiment, role, image_size)
        self._backbone: Backbone | None = None
        key = {name: getattr(experiment, name) for name in ("dataset", "folder", "backbone", "precision")}
        key |= {"role": role, "size": image_size, "mirrored": mirrored, "views": self.dataset.names,
                "data": self.dataset.fingerprint, "crop_ratio": experiment.crop_ratio,
                "weights": weights_fingerprint(experiment.backbone)}
        label = f"{experiment.dataset}-{self.dataset.split}-{experiment.backbone}-{image_size}"
        folder = artefact_folder(experiment.run_dir, "features", label + ("-mirrored" if mirrored else ""), key)
        self._tokens: np.ndarray | None = None
        if not is_complete(folder):
            patch = self.backbone(image_size).patch_size
            self.grid, self.dim = (image_size // patch,) * 2, self._backbone.dim
            self.weights = {"name": experiment.backbone, "sha256": self._backbone.weights_sha256,
                            "description": self._backbone.description}
            # Both directions of the test pictures, and the training views at up to two sizes, share the budget.
            if len(self) * self.grid[0] * self.grid[1] * self.dim * 4 > experiment.cache_gb * 1e9 / 2:
                return
            self._fill(folder)
        notes = read_record(folder)["notes"]
        self.grid, self.dim, self.weights = tuple(notes["grid"]), notes["dim"], notes["weights"]
        self._tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)  # (views, n, d)

    def __len__(self) -> int:
        return len(self.dataset)

    def backbone(self, image_size: int | None = None) -> Backbone:
        """The backbone, loaded when first needed, on the run's device."""
        if self._backbone is None:
            self._backbone = load_backbone(self.experiment.backbone, image_size).to(self.accelerator.device)
        return self._backbone

    def stream(self, batches: Sequence[Tensor], patches: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """The tokens of batch after batch, on the run's device.

        Args:
            batches: for each batch its views, (b,) int64. patches: for each batch the patches wanted, (n',) int64.

        Yields:
            (b, n or n', d) float32.
        """
        if self._tokens is not None:
            for i, views in enumerate(batches):
                rows = views.numpy()
                part = self._tokens[rows] if patches is None else self._tokens[rows[:, None], patches[i].numpy()]
                yield torch.from_numpy(np.ascontiguousarray(part)).to(self.accelerator.device, non_blocking=True)
            return
        loader = DataLoader(self.dataset, batch_sampler=[views.tolist() for views in batches],
                            num_workers=self.experiment.num_workers)
        for i, items in enumerate(loader):
            tokens = self._see(items["image"])
            yield tokens if patches is None else tokens[:, patches[i].to(tokens.device)]

    def _see(self, images: Tensor) -> Tensor:
        """images (b, 3, h, w) -> tokens (b, n, d) float32 on the device, mirrored if that is what is asked for."""
        images = images.to(self.accelerator.device, non_blocking=True)
        with self.accelerator.autocast():
            return self.backbone()(images.flip(-1) if self.mirrored else images).float()

    def _fill(self, folder: Path) -> None:
        """One pass over all views; straight to disk, so that memory holds one batch."""
        started = time.time()
        n = self.grid[0] * self.grid[1]
        beside = folder.with_name(f".{folder.name}.{os.getpid()}.npy")
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            tokens = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=(len(self), n, self.dim))
            batches = torch.arange(len(self)).split(self.experiment.batch_size)
            done = 0
            for batch in tqdm(self.stream(batches), total=len(batches), desc="backbone", leave=False):
                tokens[done:done + len(batch)] = batch.cpu().numpy()
                done += len(batch)
            tokens.flush()
            del tokens
            record = {"stage": "features", "experiment": self.experiment.to_dict(), "library": library_version(),
                      "weights": self.weights, "device": device_name(self.accelerator),
                      "seconds": round(time.time() - started, 2),
                      "notes": {"grid": self.grid, "dim": self.dim, "weights": self.weights, "views": len(self)}}
            write_artefact(folder, json.loads(json.dumps(record)), files={"tokens.npy": beside})
        except OSError as error:
            raise OSError(f"Cannot write features to {folder.parent} ({error.strerror or error}): choose a run_dir "
                          "with room that can be written, or set cache_gb to 0.") from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


def device_name(accelerator: Accelerator) -> str:
    """The device in words: `cpu, 2 threads`, or the GPU's name."""
    if accelerator.device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(accelerator.device)}"
    return f"{accelerator.device.type}, {torch.get_num_threads()} threads"
