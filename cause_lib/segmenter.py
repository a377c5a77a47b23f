"""A trained run as one object: image in, mask out.

    segment = Segmenter.load("runs/camvid")
    mask = segment("street.jpg")            # int64 (h, w), class ids, at the picture's own size
    masks = segment("my_pictures/")         # {"a.jpg": mask, ...}
    segment.save_mask(mask, "street.png")   # ids, with the classes' colours as its palette
    segment.write("my_pictures/", "masks/")  # masks, overlays and a table of the classes' shares, in constant memory
    for name, mask in segment.stream(frames): ...  # any iterable of pictures, one by one
    segment.export("segment.onnx")          # for onnxruntime

To give it away, `save_pretrained` and `push_to_hub` write a folder that `from_pretrained` reads, as the Hugging Face
hub's libraries do: weights as safetensors, the rest as JSON, a model card. `from_release` reads the authors' files.

Not by huggingface_hub's ModelHubMixin (2.4): it deletes config.json before anything is written, reads it before our
checks, and takes neither name nor licence. The card, use/card.md, says what config.json says, hence nothing that was
not measured; its form is the hub's (Mitchell et al. 2019, "Model cards for model reporting").
"""

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.backbones import BUNDLED, Backbone, load_backbone
from cause_lib.data import CORRUPT, is_squashed, palette
from cause_lib.data.images import resize_picture
from cause_lib.errors import InputError
from cause_lib.masks import read_out
from cause_lib.probes import mirror_mean
from cause_lib.runs.integrity import sealed
from cause_lib.runs.released import load_released, released_fingerprint
from cause_lib.runs.results import evaluation_of
from cause_lib.runs.saved import (BACKBONE, CARD, CONFIG, CRF, MAKE_ANEW, MATCHINGS, READ, WEIGHTS, judged_as,
                                  load_head, load_probe, open_backbone, read_config, read_experiment, refuse_others,
                                  refused, restore, run_folder)
from cause_lib.runs.store import read_record, whole
from cause_lib.use.given import config_of, fetched, model_card, upload
from cause_lib.use.pictures import mask_ids, picture_tensor, usable_device, write_mask
from cause_lib.use.streaming import left_out, named, prepared
from cause_lib.use.tiled import at_size, mask_of, working_size
from cause_lib.use.writing import Written, write_masks
from cause_lib.weights import file_sha256


class Segmenter:
    """Backbone, head, read-out and matching of one run.

    Attributes:
        classes: c names, `cluster 0` and so on where not matched; colors: uint8 (c, 3); a mask has indices into both.
        resize, squash, crf_iterations, crf_backend, crf_picture: how pictures are brought to the working size, and the
            CRF's settings, as in the run, see `Experiment`; squash: to a square, as the pictures of VOC's tables are.
        matched: whether clusters were matched to classes by an evaluation with labels; if not, ids are clusters.
        assignment, crf_assignment: int64 (c,), the class of each cluster, in masks without and with CRF.
        record: the `metrics.json` (or `artefact.json`) that it comes from, or None.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, probe: nn.Module, *, image_size: int, classes: list[str],
                 colors: Sequence[Sequence[int]] | np.ndarray, assignment: list[int] | None = None,
                 crf_assignment: list[int] | None = None, readout: str = "modularity", resize: str = "nearest",
                 smoothing: float = 0.0, squash: bool = False, record: dict[str, Any] | None = None,
                 crf_iterations: int = 10, crf_backend: str = "torch", crf_picture: str = "rgb",
                 device: str | torch.device | None = None) -> None:
        device = usable_device(device)
        self.backbone, self.head, self.probe = (module.to(device) for module in (backbone, head, probe))
        self.crf_iterations, self.crf_backend, self.crf_picture = crf_iterations, crf_backend, crf_picture
        self.image_size, self.readout, self.matched = image_size, readout, assignment is not None
        self.classes = classes if self.matched or readout == "linear" else [f"cluster {i}" for i in range(len(classes))]
        self.colors = np.array(colors, dtype=np.uint8)
        self.resize, self.squash, self.smoothing, self.record = resize, squash, smoothing, record
        self.assignment = torch.tensor(assignment if self.matched else range(len(classes)))
        self.crf_assignment = self.assignment if crf_assignment is None else torch.tensor(crf_assignment)

    @classmethod
    def load(cls, run: str | Path, *, readout: str = "modularity", device: str | torch.device = "cpu") -> "Segmenter":
        """From what the stages left.

        Args:
            run: a folder of `evaluate` or `fit_probe`, or a run_dir that holds exactly one such run; without an
                evaluation clusters are unmatched. Where the authors' released files were judged, those are read again.
            readout: `modularity`, `kmeans`, or what the run has of `concepts` and `linear`.
            device: such as `cpu`, `cuda`, or `auto`: the GPU where there is one.

        Raises:
            RuntimeError: no such device. FileNotFoundError: nothing trained there. ValueError: several runs there, the
            message lists them; no such read-out; or the backbone's weights are not those that the run was trained with.
        """
        folder, device = run_folder(run := Path(run).expanduser()), usable_device(device)
        with refused(f"{folder} is damaged, its record is not what its stage wrote", MAKE_ANEW,
                     (LookupError, TypeError, AttributeError)):
            record = read_record(folder)
            experiment = read_experiment(record, folder)
            backbone = open_backbone(experiment, experiment.image_size)
            refuse_others(backbone, folder, record["weights"]["sha256"])
            same = dict(image_size=experiment.image_size, readout=readout, resize=experiment.resize,
                        squash=is_squashed(experiment.dataset, experiment.test_view), device=device)
            if record["stage"] == "evaluation":  # of released files
                if released_fingerprint(experiment.release, experiment.head) != record["notes"]["release"]:
                    raise InputError(f"The files in {experiment.release} are not those that {folder} judged: put those "
                                     "back, or evaluate again.")
                return cls.from_release(experiment.release, backbone, head=experiment.head, record=record,
                                        classes=record["dataset"]["classes"], colors=record["dataset"]["colors"],
                                        **same, **judged_as(record, folder, readout))
            judged = evaluation_of(run, folder, readout)
            segment = cls(backbone, load_head(folder), load_probe(folder, readout), classes=record["notes"]["classes"],
                          colors=record["notes"]["colors"], record=judged or record, **same,
                          **judged_as(judged or record, folder, readout))
            if judged is None and run != folder and segment.classes != record["notes"]["classes"]:
                warnings.warn(f"{folder} has no evaluation, so clusters are not matched to classes: where there are "
                              "labels, run evaluate.", stacklevel=2)
            return segment

    @classmethod
    def from_release(cls, folder: str | Path, backbone: str | Backbone, *, head: str = "tr",
                     image_size: int | None = None, classes: Sequence[str] | None = None,
                     colors: Sequence[Sequence[int]] | np.ndarray | None = None, assignment: list[int] | None = None,
                     readout: str = "modularity", resize: str = "nearest", device: str | torch.device = "cpu",
                     record: dict[str, Any] | None = None, **settings: Any) -> "Segmenter":
        """From the files that the authors of CAUSE released, see `cause_lib.runs.released`.

        Args:
            folder: holds `modular.npy`, `segment_{head}.pth` and `cluster_{head}.pth`. head: `tr` or `mlp`.
            backbone: what the files were made with, such as `dino_vits8.released`; a name, or loaded already.
            image_size: side in pixels; None: that of the TR head's positions, or the multiple of the patch next to 320.
            classes, colors: c names, (c, 3) in 0 to 255; None: numbers, and a palette.
            assignment: class of each cluster, as an evaluation finds it. None: a mask has ids of `cluster 0`, ...
            readout: `modularity` or `linear`. resize: see `Experiment`. record: kept for the model card.
            device: as for `load`. settings: `smoothing`, `squash`, `crf_assignment` and those of the CRF.

        Raises:
            As `load_released`. ValueError: the backbone has another width, there is no such read-out, or classes,
            colors or assignment do not fit the c clusters.
        """
        folder, device = Path(folder).expanduser(), usable_device(device)
        released = load_released(folder, head)
        probes = {"modularity": released.cluster, "linear": released.linear}
        if readout not in probes:
            raise InputError(f"{folder} has no read-out {readout!r}; it has {', '.join(probes)}: take one of these.")
        if isinstance(backbone, str):
            backbone = load_backbone(backbone, image_size)
        dim, count = released.book.prototypes.shape[1], len(released.cluster.centroids)
        refuse_others(backbone, folder, dim=dim)
        for name, given in (("classes", classes), ("colors", colors), ("assignment", assignment),
                            ("crf_assignment", settings.get("crf_assignment"))):
            if given is not None and len(given) != count:
                raise InputError(f"The files in {folder} have {count} clusters, and {name} has {len(given)} entries.")
        patch = backbone.patch_size
        side = released.head.grid[0] if head == "tr" else round(320 / patch)
        return cls(backbone, released.head, probes[readout], image_size=image_size or side * patch, record=record,
                   classes=list(classes) if classes is not None else [str(i) for i in range(count)],
                   colors=palette(count) if colors is None else colors, assignment=assignment, readout=readout,
                   resize=resize, device=device, **settings)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None,
                        device: str | torch.device = "cpu") -> "Segmenter":
        """From what `save_pretrained` or `push_to_hub` left.

        Args:
            name: a folder, or the name of a model on the Hugging Face hub, `owner/model`, which is fetched once.
            revision: a branch, tag or commit of the latter. device: as for `load`.

        Raises:
            FileNotFoundError: there is no such folder and the hub gave nothing. ValueError: it holds no Segmenter, is
            damaged, or the backbone's weights here are not those that the head was trained with.
        """
        device, folder = usable_device(device), fetched(name, revision)
        config = read_config(folder, str(name))
        wanted = config["backbone"]
        for file, sha256 in ((WEIGHTS, config["sha256"]), (BACKBONE, wanted["sha256"]))[:1 + wanted["included"]]:
            if not (folder / file).is_file() or file_sha256(folder / file) != sha256:
                raise InputError(f"{folder / file} is not the file that {CONFIG} belongs to: fetch or save both again.")
        head, probe, dim = restore(folder / WEIGHTS, config)
        backbone = load_backbone(wanted["name"], weights=folder / BACKBONE if wanted["included"] else None,
                                 **{key: wanted[key] for key in READ if key in wanted})
        refuse_others(backbone, folder / WEIGHTS, wanted["sha256"], dim)
        kept = ("image_size", "classes", "colors", "readout", "resize", "squash", "smoothing", "record",
                *MATCHINGS, *CRF)
        return cls(backbone, head, probe, **{key: config[key] for key in kept if key in config}, device=device)

    def save_pretrained(self, folder: str | Path, *, name: str | None = None, licence: str | None = None) -> Path:
        """Write a folder that `from_pretrained` reads, to the same bits: weights, `config.json` and a model card.

        The weights of the backbone are named by SHA-256 and not copied, but for those of `bundled`.

        Args:
            folder: made if it is not there (`~`: your home). name: what the card tells to load, if not this folder's
                name. licence: what you give the head away under, for the card.

        Raises:
            OSError: it cannot be written; what was in the folder stays.
        """
        folder = Path(folder).expanduser()
        with whole(folder, "the Segmenter", "choose a folder with room that can be written", last=CONFIG) as beside:
            beside.mkdir()
            safetensors.torch.save_model(nn.ModuleDict({"head": self.head, "probe": self.probe}), str(beside / WEIGHTS))
            if self.backbone.name == BUNDLED:  # the library's may be another one day
                shutil.copyfile(self.backbone.weights_path, beside / BACKBONE)
            config = config_of(self, file_sha256(beside / WEIGHTS))
            (beside / CONFIG).write_text(sealed(config), encoding="utf8")
            (beside / CARD).write_text(model_card(name or folder.name, config, licence), encoding="utf8")
        return folder

    def push_to_hub(self, name: str, *, private: bool | None = None, licence: str | None = None) -> str:
        """Give it away: `save_pretrained`, then upload to `owner/model` on the Hugging Face hub. Returns its address.

        You must be logged in (`hf auth login`, or the environment variable HF_TOKEN); this library sees no token.

        Args:
            name: made if it is not there, `private` or not. licence: as for `save_pretrained`.
        """
        return upload(self, name, private, licence)

    def __call__(self, image: Any, *, crf: bool = False, allow_corrupt: str = "stop") -> Any:
        """The mask of a picture, or of every picture in a list or a folder.

        A picture up to 4 times as long as it is wide is seen whole, one up to 256 times in tiles, see `use.tiled`.

        Args:
            image: a file or a folder (`~`: your home), a file's bytes or an open binary file, a Pillow picture, or an
                array or a tensor: (h, w), (h, w, 3) or (3, h, w), uint8, or floating in [0, 1]. Or a list of these, or
                a batch (b, 3, h, w).
            crf: sharpen with the dense CRF, at the working size, with the run's settings.
            allow_corrupt: of a folder, `stop` at a picture that cannot be used, or `skip` it, with a warning.

        Returns:
            int64 (h, w) of class ids at the picture's own size, on the CPU; a list of them for a list or a batch. For a
            folder, file name -> mask in the smallest type, as `stream` yields them.

        Raises:
            FileNotFoundError: no such file. ValueError: the file is damaged, the folder has no pictures that can be
            used, the tensor is of another shape or kind or beyond [0, 1], or a picture is more than 256 times as long
            as it is wide. RuntimeError: the CRF's backend is not installed.
        """
        _check(crf, allow_corrupt)
        if isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4:
            return [self(one, crf=crf, allow_corrupt=allow_corrupt) for one in image]
        if isinstance(image, (str, os.PathLike)) and Path(image).expanduser().is_dir():  # "" is refused by its name
            pairs = list(named(image))
            masks = self._stream(pairs, f" in '{image}'", crf, allow_corrupt)
            return dict(tqdm(masks, total=len(pairs), desc="segment", leave=False))
        return self._mask(*self._look(image), crf=crf, kind=torch.int64)

    def stream(self, pictures: Any, *, crf: bool = False, allow_corrupt: str = "stop") -> Iterator[tuple[str, Tensor]]:
        """Name and mask of picture after picture, each read by a thread while the one before it is segmented.

        Args:
            pictures: a folder, or any iterable of what calling takes as one picture, or of pairs (name, picture): a
                list, a generator of a video's frames. It may be longer than memory, or without end.
            crf: as for calling. allow_corrupt: `stop` at a picture that cannot be used, or `skip` it; a warning at the
                end counts those.

        Yields:
            (name, mask): in a folder the path below it, of a file its name, else the picture's number (`000000`); uint8
            (h, w), above 256 classes int16. To index a tensor with it, take `mask.long()`.

        Raises:
            As calling does.

        Examples:
            >>> from cause_lib.heads import MLPHead
            >>> from cause_lib.probes import ClusterProbe
            >>> segment = Segmenter(load_backbone("bundled"), MLPHead(192, 4), ClusterProbe(2, 4), image_size=48,
            ...                     classes=["sky", "sea"], colors=[[90, 150, 230], [0, 60, 120]])
            >>> frames = (np.full((60, 90, 3), grey, dtype=np.uint8) for grey in range(3))
            >>> [(name, tuple(mask.shape)) for name, mask in segment.stream(frames)]
            [('000000', (60, 90)), ('000001', (60, 90)), ('000002', (60, 90))]
        """
        _check(crf, allow_corrupt)
        where = f" in '{pictures}'" if isinstance(pictures, (str, os.PathLike)) else ""
        return self._stream(named(pictures), where, crf, allow_corrupt)

    def _stream(self, pairs: Iterable[tuple[str, Any]], where: str, crf: bool,
                allow_corrupt: str) -> Iterator[tuple[str, Tensor]]:
        total, faults = 0, []
        for name, look in prepared(pairs, lambda _, picture: self._look(picture)):
            total += 1
            if not isinstance(look, Exception):
                yield name, self._mask(*look, crf=crf)
            elif allow_corrupt == "stop":
                raise look
            else:
                faults.append(str(look))
        if faults:
            warnings.warn(left_out(len(faults), total, faults[0], where), stacklevel=2)

    def write(self, pictures: Any, out: str | Path, *, crf: bool = False, overlay: bool = True,
              allow_corrupt: str = "stop") -> Written:
        """Write the mask of picture after picture, in constant memory; see `use.writing` for what becomes of a rerun.

        Args:
            pictures, crf: as for `stream`.
            out: a folder (`~`: your home): `masks/` gets the masks as indexed PNGs, `overlays/` the pictures half under
                the classes' colours, both with the pictures' sub-folders, and `masks.csv` a line a picture: file, mask,
                width, height, and the share of each class in [0, 1].
            overlay: whether to write `overlays/`.
            allow_corrupt: `stop` at a picture that cannot be used, or `skip` it: `skipped.csv` says which, and why.

        Returns:
            The table's path, and how many masks were written, kept from before and skipped.

        Raises:
            As calling does. OSError: `out` cannot be written. What was finished stays, and `masks.csv` lists it.
        """
        _check(crf, allow_corrupt)
        if not os.fspath(out):
            raise InputError("The name of the folder for the masks is empty: give one ('.' is this one).")
        return write_masks(self, pictures, Path(out).expanduser(), crf, overlay, allow_corrupt)

    def export(self, path: str | Path) -> Path:
        """Write one ONNX file, weights and all, and return its path; see `use.exported` for what goes in and out.

        Raises:
            ValueError: the name does not end in `.onnx`. RuntimeError: onnx or onnxscript is not installed, or the
            backbone is one that PyTorch cannot export. OSError: it cannot be written.
        """
        from cause_lib.use.exported import write_onnx

        return write_onnx(self, Path(path).expanduser())

    @torch.no_grad()
    def _look(self, image: Any, what: str = "This picture") -> tuple[Tensor, tuple[int, int]]:
        """A picture at the working size, (3, h', w') on the device, and its own size (h, w)."""
        what = f"The picture {image}" if isinstance(image, (str, os.PathLike)) else what
        image = picture_tensor(image)
        h, w = image.shape[1:]
        size = working_size(h, w, self.image_size, self.backbone.patch_size, squash=self.squash, what=what)
        return resize_picture(image.to(self.backbone.mean.device), size, self.resize), (h, w)

    @torch.no_grad()
    def _mask(self, small: Tensor, size: tuple[int, int], *, crf: bool, kind: torch.dtype | None = None) -> Tensor:
        """The mask at `size`, of the smallest type unless `kind` is given, on the CPU, of what `_look` gives."""
        def features_of(images: Tensor) -> Tensor:
            grid = tuple(side // self.backbone.patch_size for side in images.shape[2:])
            return mirror_mean(self.backbone(images), self.backbone(images.flip(-1)), grid, self.head, self.smoothing)

        def read(images: Tensor, features: Tensor) -> Tensor:
            return read_out(images, [(features, [self.probe])], crf=crf, iterations=self.crf_iterations,
                            backend=self.crf_backend, picture=self.crf_picture)[crf][0, 0]

        mask = mask_of(small, self.backbone.patch_size, features_of, read).cpu()
        kind = kind or (torch.uint8 if len(self.classes) <= 256 else torch.int16)
        return at_size((self.crf_assignment if crf else self.assignment).to(kind)[mask], size)

    def color(self, mask: Tensor | np.ndarray) -> np.ndarray:
        """A mask (h, w) of ids as a picture: uint8 (h, w, 3). Raises ValueError for ids that are no class here."""
        return self.colors[mask_ids(mask, len(self.colors))]

    def save_mask(self, mask: Tensor | np.ndarray, path: str | Path, *, over: Any = None) -> Path:
        """Write a mask as a picture file, and return its path: an indexed PNG of the ids, in the classes' colours.

        Args:
            mask: whole numbers (h, w), as calling the Segmenter gives for one picture.
            path: ends in `.png`; a file there is replaced (`~`: your home). Above 256 classes it is 16 bits of grey.
            over: the mask's picture, as for calling: then the file, of any format, is that, half under the colours.

        Raises:
            ValueError: no mask of these classes, another ending or size. OSError: it cannot be written.

        Examples:
            >>> from cause_lib.heads import MLPHead
            >>> from cause_lib.probes import ClusterProbe
            >>> segment = Segmenter(load_backbone("bundled"), MLPHead(192, 4), ClusterProbe(2, 4), image_size=48,
            ...                     classes=["sky", "sea"], colors=[[90, 150, 230], [0, 60, 120]])
            >>> mask = segment(np.zeros((60, 90, 3), dtype=np.uint8))
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     segment.save_mask(mask, f"{folder}/mask.png").name
            'mask.png'
        """
        return write_mask(mask_ids(mask, len(self.colors)), self.colors, path, over)


def _check(crf: bool, allow_corrupt: str) -> None:
    if not isinstance(crf, (bool, np.bool_)):
        raise InputError(f"crf must be True or False, not {crf!r}.")
    if allow_corrupt not in CORRUPT:
        raise InputError(f"allow_corrupt must be one of {', '.join(CORRUPT)}, not {allow_corrupt!r}.")
