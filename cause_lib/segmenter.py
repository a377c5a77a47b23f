"""A trained run as one object: image in, mask out.

    segment = Segmenter.load("runs/camvid")
    mask = segment("street.jpg")            # int64 (h, w), class ids, at the picture's own size
    masks = segment("my_pictures/")         # {"a.jpg": mask, ...}
    segment.save_mask(mask, "street.png")   # ids, with the classes' colours as its palette

To give it away, `save_pretrained` and `push_to_hub` write a folder that `from_pretrained` reads, as the Hugging Face
hub's libraries do: weights as safetensors, the rest as JSON, a model card. `from_release` reads the authors' files.

Not by huggingface_hub's ModelHubMixin (2.4): it deletes config.json before anything is written, reads it before our
checks, and takes neither name nor licence. The card, runs/card.md, says what config.json says, hence nothing that was
not measured; its form is the hub's (Mitchell et al. 2019, "Model cards for model reporting").
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.backbones import BUNDLED, Backbone, load_backbone
from cause_lib.config import Experiment
from cause_lib.data import CORRUPT, palette
from cause_lib.data.images import resize_picture
from cause_lib.data.source import list_pictures
from cause_lib.errors import InputError, NotFound
from cause_lib.heads import TRHead
from cause_lib.masks import predict
from cause_lib.runs.integrity import sealed
from cause_lib.runs.pictures import mask_ids, picture_tensor, usable_device, write_mask
from cause_lib.runs.released import load_released, released_fingerprint
from cause_lib.runs.saved import (BACKBONE, CARD, CONFIG, FORMAT, MAKE_ANEW, WEIGHTS, load_head, load_probe,
                                  open_backbone, read_assignment, read_config, read_experiment, refused, restore,
                                  run_folder)
from cause_lib.runs.store import library_version, read_record, whole
from cause_lib.weights import file_sha256, licence_of

CRF = ("crf_iterations", "crf_backend", "crf_picture")
LONGEST = 32  # times its short side: attention takes the square of the patches


class Segmenter:
    """Backbone, head, read-out and matching of one run.

    Attributes:
        classes: c names; colors: uint8 (c, 3); a mask holds indices into both.
        resize, crf_iterations, crf_backend, crf_picture: how pictures are brought to the working size, and the CRF's
            settings, as in the run, see `Experiment`.
        matched: whether clusters were matched to classes by an evaluation with labels; if not, ids are clusters.
        record: the `metrics.json` (or `artefact.json`) that it comes from, or None.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, probe: nn.Module, *, image_size: int, classes: list[str],
                 colors: Sequence[Sequence[int]] | np.ndarray, assignment: list[int] | None = None,
                 readout: str = "modularity", resize: str = "nearest", smoothing: float = 0.0,
                 record: dict[str, Any] | None = None, device: str | torch.device | None = None,
                 crf_iterations: int = 10, crf_backend: str = "torch", crf_picture: str = "rgb") -> None:
        device = usable_device(device)
        self.backbone, self.head, self.probe = (module.to(device) for module in (backbone, head, probe))
        self.crf_iterations, self.crf_backend, self.crf_picture = crf_iterations, crf_backend, crf_picture
        self.image_size, self.classes, self.readout = image_size, classes, readout
        self.colors = np.array(colors, dtype=np.uint8)
        self.resize, self.smoothing, self.record = resize, smoothing, record
        self.matched = assignment is not None
        self._assignment = torch.tensor(assignment if self.matched else range(len(classes)))

    @classmethod
    def load(cls, run: str | Path, *, readout: str = "modularity", device: str | torch.device = "cpu") -> "Segmenter":
        """From what the stages left.

        Args:
            run: a folder of `evaluate` or `fit_probe`, or a run_dir that holds exactly one such run. Where the authors'
                released files were judged, those are read again.
            readout: `modularity`, `kmeans`, or what the run has of `concepts` and `linear`.
            device: such as `cpu`, `cuda`, or `auto`: the GPU where there is one.

        Raises:
            RuntimeError: no such device. FileNotFoundError: nothing trained there. ValueError: several runs there, the
            message lists them; no such read-out; or the backbone's weights are not those that the run was trained with.
        """
        folder, device = run_folder(Path(run).expanduser()), usable_device(device)
        with refused(f"{folder} is damaged, its record is not what its stage wrote", MAKE_ANEW,
                     (LookupError, TypeError, AttributeError)):
            record = read_record(folder)
            experiment = read_experiment(record, folder)
            backbone = open_backbone(experiment, experiment.image_size)
            _refuse_others(backbone, folder, record["weights"]["sha256"])
            same = dict(image_size=experiment.image_size, readout=readout, resize=experiment.resize, device=device)
            if record["stage"] == "evaluation":  # of released files
                if released_fingerprint(experiment.release, experiment.head) != record["notes"]["release"]:
                    raise InputError(f"The files in {experiment.release} are not those that {folder} judged: put those "
                                     "back, or evaluate again.")
                return cls.from_release(experiment.release, backbone, head=experiment.head, record=record,
                                        classes=record["dataset"]["classes"], colors=record["dataset"]["colors"],
                                        assignment=read_assignment(record, readout), **same,
                                        **_judged_by(experiment))
            assignment, judged = None, record
            for path in sorted((folder.parent.parent / "evaluation").glob("*/artefact.json")):
                metrics = read_record(path.parent)
                if metrics["upstream"].get("probe") == f"probe/{folder.name}":
                    assignment, judged = read_assignment(metrics, readout) or assignment, metrics
            return cls(backbone, load_head(folder), load_probe(folder, readout), classes=record["notes"]["classes"],
                       colors=record["notes"]["colors"], assignment=assignment, record=judged, **same,
                       **_judged_by(read_experiment(judged, folder)))

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
            assignment: class of each cluster, as an evaluation finds it. None: a mask has cluster ids.
            readout: `modularity` or `linear`. resize: see `Experiment`. record: kept for the model card.
            device: as for `load`. settings: `smoothing`, `crf_iterations`, `crf_backend` and `crf_picture`.

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
        _refuse_others(backbone, folder, dim=dim)
        for name, given in (("classes", classes), ("colors", colors), ("assignment", assignment)):
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
        folder, device = Path(name).expanduser(), usable_device(device)
        if not folder.is_dir():
            import huggingface_hub

            try:
                folder = Path(huggingface_hub.snapshot_download(str(name), revision=revision,
                                                                allow_patterns=[CONFIG, WEIGHTS, BACKBONE]))
            except Exception as error:  # the hub's clients raise a dozen kinds
                raise NotFound(f"{name} is no folder here, and the hub gave no model of that name "
                               f"({type(error).__name__}): check the name, and the network.") from error
        config = read_config(folder, str(name))
        if file_sha256(folder / WEIGHTS) != config["sha256"]:
            raise InputError(f"{folder / WEIGHTS} is not the file that {CONFIG} belongs to: fetch or save both again.")
        head, probe, dim = restore(folder / WEIGHTS, config)
        wanted = config["backbone"]
        backbone = load_backbone(wanted["name"], num_heads=wanted["num_heads"], positions=wanted["positions"],
                                 weights=folder / BACKBONE if wanted["included"] else None)
        _refuse_others(backbone, folder / WEIGHTS, wanted["sha256"], dim)
        kept = ("image_size", "classes", "colors", "assignment", "readout", "resize", "smoothing", "record", *CRF)
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
        vit, kind = self.backbone, "tr" if isinstance(self.head, TRHead) else "mlp"
        with whole(folder, "the Segmenter", "choose a folder with room that can be written", last=CONFIG) as beside:
            beside.mkdir()
            safetensors.torch.save_model(nn.ModuleDict({"head": self.head, "probe": self.probe}), str(beside / WEIGHTS))
            if vit.name == BUNDLED:  # the library's may be another one day
                shutil.copyfile(vit.weights_path, beside / BACKBONE)
            config = {"format": FORMAT, "library": library_version(), "head": kind, "readout": self.readout,
                      "grid": self.head.grid if kind == "tr" else [1, 1], "image_size": self.image_size,
                      "resize": self.resize, "smoothing": self.smoothing, "sha256": file_sha256(beside / WEIGHTS),
                      "classes": self.classes, "colors": self.colors.tolist(),
                      **{key: getattr(self, key) for key in CRF},
                      "assignment": self._assignment.tolist() if self.matched else None,
                      "backbone": {"name": vit.name, "num_heads": vit.num_heads, "positions": vit.positions,
                                   "sha256": vit.weights_sha256, "included": vit.name == BUNDLED},
                      "record": self.record and _shareable(self.record)}
            (beside / CONFIG).write_text(sealed(config), encoding="utf8")
            (beside / CARD).write_text(model_card(name or folder.name, config, licence), encoding="utf8")
        return folder

    def push_to_hub(self, name: str, *, private: bool | None = None, licence: str | None = None) -> str:
        """Give it away: `save_pretrained`, then upload to `owner/model` on the Hugging Face hub. Returns its address.

        You must be logged in (`hf auth login`, or the environment variable HF_TOKEN); this library sees no token.

        Args:
            name: made if it is not there, `private` or not. licence: as for `save_pretrained`.
        """
        import huggingface_hub

        api = huggingface_hub.HfApi()
        place = api.create_repo(name, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, name=place.repo_id, licence=licence)
            api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="Segmenter of cause_lib")
        return str(place)

    @torch.no_grad()
    def __call__(self, image: Any, *, crf: bool = False, allow_corrupt: str = "stop") -> Any:
        """The mask of a picture, or of every picture in a list or a folder.

        Args:
            image: a file or a folder (`~`: your home), a file's bytes or an open binary file, a Pillow picture, or an
                array or a tensor: (h, w), (h, w, 3) or (3, h, w), uint8, or floating in [0, 1]. Or a list of these, or
                a batch (b, 3, h, w).
            crf: sharpen with the dense CRF, at the working size, with the run's settings.
            allow_corrupt: of a folder, `stop` at a picture that cannot be used, or `skip` it, with a warning.

        Returns:
            int64 (h, w) of class ids at the picture's own size, on the CPU; a list of them for a list or a batch; for a
            folder, file name -> mask.

        Raises:
            FileNotFoundError: no such file. ValueError: the file is damaged, the folder has no pictures that can be
            used, the tensor is of another shape or kind or beyond [0, 1], or a picture is more than 32 times as long as
            it is wide. RuntimeError: the CRF's backend is not installed.
        """
        what = "This picture"
        if isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4:
            return [self(one, crf=crf, allow_corrupt=allow_corrupt) for one in image]
        if isinstance(image, (str, os.PathLike)):
            what, image = f"The picture {image}", Path(image).expanduser()
            if image.is_dir():
                return self._folder(image, crf, allow_corrupt)
        image = picture_tensor(image)
        h, w = image.shape[1:]
        if not 0 < max(h, w) <= LONGEST * min(h, w):
            raise InputError(f"{what} is {w} x {h} pixels, and nothing longer than {LONGEST} times its short side is "
                             "segmented whole: cut it into pieces.")
        # The short side as in training, the long side as the picture has it, both whole patches.
        scale, patch = self.image_size / min(h, w), self.backbone.patch_size
        size = [max(1, round(side * scale / patch)) * patch for side in (h, w)]
        image = image.to(self.backbone.mean.device)
        small = resize_picture(image, size, self.resize)[None]  # (1, 3, rows p, columns p)
        small = small.float() * (1 / 255) if small.dtype == torch.uint8 else small
        grid = (size[0] // patch, size[1] // patch)
        masks = predict(small, self.backbone(small), self.backbone(small.flip(-1)), grid, self.head, [self.probe],
                        smoothing=self.smoothing, crf=crf, iterations=self.crf_iterations, backend=self.crf_backend,
                        picture=self.crf_picture)
        mask = self._assignment[masks[crf][:, 0].cpu()]  # (1, rows p, columns p)
        return F.interpolate(mask[:, None].double(), size=(h, w), mode="nearest-exact")[0, 0].long()

    def _folder(self, folder: Path, crf: bool, allow_corrupt: str) -> dict[str, Tensor]:
        """File name -> mask of each picture, and what `allow_corrupt` says of those that have none."""
        if allow_corrupt not in CORRUPT:
            raise InputError(f"allow_corrupt must be one of {', '.join(CORRUPT)}, not {allow_corrupt!r}.")
        masks, faults = {}, []
        for path in tqdm(list_pictures(folder), desc="segment", leave=False):
            try:
                masks[path.relative_to(folder).as_posix()] = self(path, crf=crf)
            except (ValueError, OSError) as error:
                if allow_corrupt == "stop":
                    raise
                faults.append(str(error))
        if not masks and not faults:
            raise InputError(f"{folder} holds no pictures (jpg, png, webp, bmp, tif or gif).")
        said = f"{len(faults)} of {len(masks) + len(faults)} pictures in '{folder}' cannot be used"
        if not masks:
            raise InputError(f"{said}; the first: {faults[0]}")
        if faults:
            warnings.warn(f"{said} and are left out (allow_corrupt='skip'); the first: {faults[0]}", stacklevel=3)
        return masks

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
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     segment.save_mask(mask, f"{folder}/mask.png").name
            'mask.png'
        """
        return write_mask(mask_ids(mask, len(self.colors)), self.colors, path, over)


def _judged_by(experiment: Experiment) -> dict[str, Any]:
    """What of a run's judging makes its masks beside the weights."""
    return {key: getattr(experiment, key) for key in ("smoothing", *CRF)}


def _refuse_others(backbone: Backbone, path: Path | str, sha256: str | None = None, dim: int | None = None) -> None:
    """ValueError if the backbone here has other weights, or another width, than what is at `path` was made with."""
    if sha256 not in (None, backbone.weights_sha256):
        raise InputError(f"{path} belongs to other weights of {backbone.name} (SHA-256 {sha256[:8]}..., here "
                         f"{backbone.weights_sha256[:8]}...): put those into CAUSE_WEIGHTS, or train again.")
    if dim not in (None, backbone.dim):
        raise InputError(f"{path} is for a backbone of width {dim}, and {backbone.name} has width {backbone.dim}: "
                         "give the one that it was made with.")


def _shareable(record: dict[str, Any]) -> dict[str, Any]:
    """What of a `metrics.json` or `artefact.json` goes out with a head: no tables of counts, no paths of its maker."""
    kept = {key: record[key] for key in ("library", "weights", "device", "seconds", "date") if key in record}
    run = {key: value for key, value in record["experiment"].items() if key not in ("run_dir", "release")}
    kept["experiment"] = run | {"folder": Path(run["folder"]).name}
    if "dataset" in record:
        data = {key: value for key, value in record["dataset"].items() if key != "skipped"}  # whose reasons are paths
        kept["dataset"] = data | {"name": Path(data["name"]).name}
        kept["results"] = [{key: value for key, value in result.items() if key != "confusion"}
                           for result in record["results"]]
    return kept


def model_card(name: str, config: dict[str, Any], licence: str | None) -> str:
    """The card of a head, of its config.json; `name` is what `from_pretrained` is given."""
    from huggingface_hub import ModelCard, ModelCardData

    meta = ModelCardData(library_name="cause_lib", pipeline_tag="image-segmentation", license=licence,
                         tags=["unsupervised-semantic-segmentation", "cause"])
    return str(ModelCard.from_template(meta, template_path=str(Path(__file__).parent / "runs/card.md"), address=name,
                                       config=config, licence=licence,
                                       of_backbone=licence_of(config["backbone"]["name"])))
