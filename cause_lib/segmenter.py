"""A trained run as one object: image in, mask out.

    segment = Segmenter.load("runs/camvid")
    mask = segment("street.jpg")            # int64 (h, w), class ids, at the picture's own size
    masks = segment("my_pictures/")         # {"a.jpg": mask, ...}

To give it away, `save_pretrained` and `push_to_hub` write a folder that `from_pretrained` reads, as the Hugging Face
hub's libraries do: weights as safetensors, the rest as JSON, a model card. `from_release` reads the authors' files.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision
from tqdm.auto import tqdm

from cause_lib.backbones import BUNDLED, Backbone, load_backbone
from cause_lib.config import Experiment
from cause_lib.crf import dense_crf
from cause_lib.data import CORRUPT, load_image, palette, to_rgb
from cause_lib.data.source import list_pictures
from cause_lib.errors import InputError, NotFound, WriteError
from cause_lib.heads import TRHead, restore_head
from cause_lib.probes import ClusterProbe, LinearProbe, mirror_mean
from cause_lib.runs.card import model_card, shareable
from cause_lib.runs.features import open_backbone
from cause_lib.runs.released import load_released, released_fingerprint
from cause_lib.runs.store import beside_of, is_complete, library_version, read_record
from cause_lib.stages import load_head, load_probe
from cause_lib.weights import file_sha256, read_tensors, refuse_misfits

CONFIG, WEIGHTS, BACKBONE, CARD = "config.json", "model.safetensors", "backbone.safetensors", "README.md"
FORMAT = "cause_lib.Segmenter 1"  # what a config.json of ours begins with; another number once its layout changes
LONGEST = 32  # times its short side: attention takes the square of the patches


class Segmenter:
    """Backbone, head, read-out and matching of one run.

    Attributes:
        classes: c names; colors: uint8 (c, 3); a mask holds indices into both.
        resize: how pictures are brought to the working size, as in the run, see `Experiment`.
        matched: whether clusters were matched to classes by an evaluation with labels; if not, ids are clusters.
        record: the `metrics.json` (or `artefact.json`) that it comes from, or None.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, probe: nn.Module, *, image_size: int, classes: list[str],
                 colors: np.ndarray, assignment: list[int] | None = None, readout: str = "modularity",
                 resize: str = "nearest", smoothing: float = 0.0, record: dict[str, Any] | None = None) -> None:
        self.backbone, self.head, self.probe = backbone, head, probe
        self.image_size, self.classes, self.colors, self.readout = image_size, classes, colors, readout
        self.resize, self.smoothing, self.record = resize, smoothing, record
        self.matched = assignment is not None
        self._assignment = torch.tensor(assignment if self.matched else range(len(classes)))

    @classmethod
    def load(cls, run: str | Path, *, readout: str = "modularity", device: str | torch.device = "cpu") -> "Segmenter":
        """From what the stages left.

        Args:
            run: a folder of `evaluate` or `fit_probe`, or a run_dir that holds exactly one such run. Where the authors'
                released files were judged, those are read again.
            readout: `modularity`, `kmeans`, `concepts` of a run that has it, or `linear` of one with
                `label_free=False`.

        Raises:
            FileNotFoundError: nothing trained there. ValueError: several runs there, the message lists them; no such
            read-out; or the backbone's weights are not those that the run was trained with.
        """
        folder = _run_folder(Path(run))
        try:
            return cls._load(folder, readout, device)
        except (LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{folder} is damaged, its record is not what its stage wrote ({type(error).__name__}: "
                             f"{error}): remove it and run its stage again.") from error

    @classmethod
    def _load(cls, folder: Path, readout: str, device: str | torch.device) -> "Segmenter":
        """`load`, of the folder of a probe, or of an evaluation of released files."""
        record = read_record(folder)
        if record["stage"] not in ("probe", "evaluation"):
            raise InputError(f"{folder} is damaged, it records the stage {record['stage']!r}: remove it and run its "
                             "stage again.")
        experiment = _experiment(record, folder)
        backbone = open_backbone(experiment, experiment.image_size)
        if backbone.weights_sha256 != record["weights"]["sha256"]:
            raise InputError(f"{folder} was trained with other weights of {experiment.backbone} "
                             f"(SHA-256 {record['weights']['sha256'][:8]}..., here {backbone.weights_sha256[:8]}...): "
                             "put those into CAUSE_WEIGHTS, or train again.")
        if record["stage"] == "evaluation":
            if released_fingerprint(experiment.release, experiment.head) != record["notes"]["release"]:
                raise InputError(f"The files in {experiment.release} are not those that {folder} judged: put those "
                                 "back, or evaluate again.")
            return cls.from_release(experiment.release, backbone, head=experiment.head, readout=readout, device=device,
                                    image_size=experiment.image_size, classes=record["dataset"]["classes"],
                                    colors=record["dataset"]["colors"], assignment=_assignment(record, readout),
                                    resize=experiment.resize, record=record)
        assignment, judged = None, record
        for path in sorted((folder.parent.parent / "evaluation").glob("*/metrics.json")):
            metrics = read_record(path.parent)
            if metrics["upstream"].get("probe") == f"probe/{folder.name}":
                assignment, judged = _assignment(metrics, readout) or assignment, metrics
        return cls(backbone.to(device), load_head(folder).to(device), load_probe(folder, readout).to(device),
                   image_size=experiment.image_size, classes=record["notes"]["classes"],
                   colors=np.array(record["notes"]["colors"], dtype=np.uint8), assignment=assignment, readout=readout,
                   resize=experiment.resize, smoothing=_experiment(judged, folder).smoothing,
                   record=judged)

    @classmethod
    def from_release(cls, folder: str | Path, backbone: str | Backbone, *, head: str = "tr",
                     image_size: int | None = None, classes: Sequence[str] | None = None,
                     colors: Sequence[Sequence[int]] | np.ndarray | None = None, assignment: list[int] | None = None,
                     readout: str = "modularity", resize: str = "nearest", device: str | torch.device = "cpu",
                     record: dict[str, Any] | None = None) -> "Segmenter":
        """From the files that the authors of CAUSE released, see `cause_lib.runs.released`.

        Args:
            folder: holds `modular.npy`, `segment_{head}.pth` and `cluster_{head}.pth`. head: `tr` or `mlp`.
            backbone: what the files were made with, such as `dino_vits8.released`; a name, or loaded already.
            image_size: side in pixels; None: that of the TR head's positions, or the multiple of the patch next to 320.
            classes, colors: c names, (c, 3) in 0 to 255; None: numbers, and a palette.
            assignment: class of each cluster, as an evaluation finds it. None: a mask has cluster ids.
            readout: `modularity` or `linear`. resize: see `Experiment`. record: kept for the model card.

        Raises:
            As `load_released`. ValueError: the backbone has another width, there is no such read-out, or classes,
            colors or assignment do not fit the c clusters.
        """
        released = load_released(folder, head)
        probes = {"modularity": released.cluster, "linear": released.linear}
        if readout not in probes:
            raise InputError(f"{folder} has no read-out {readout!r}; it has {', '.join(probes)}: take one of these.")
        if isinstance(backbone, str):
            backbone = load_backbone(backbone, image_size)
        dim, count = released.book.prototypes.shape[1], len(released.cluster.centroids)
        if backbone.dim != dim:
            raise InputError(f"The files in {folder} are for a backbone of width {dim}, and {backbone.name} has width "
                             f"{backbone.dim}.")
        for name, given in (("classes", classes), ("colors", colors), ("assignment", assignment)):
            if given is not None and len(given) != count:
                raise InputError(f"The files in {folder} have {count} clusters, and {name} has {len(given)} entries.")
        patch = backbone.patch_size
        side = released.head.grid[0] if head == "tr" else round(320 / patch)
        return cls(backbone.to(device), released.head.to(device), probes[readout].to(device),
                   image_size=image_size or side * patch, assignment=assignment, readout=readout, resize=resize,
                   classes=list(classes) if classes is not None else [str(i) for i in range(count)],
                   colors=palette(count) if colors is None else np.array(colors, dtype=np.uint8), record=record)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None,
                        device: str | torch.device = "cpu") -> "Segmenter":
        """From what `save_pretrained` or `push_to_hub` left.

        Args:
            name: a folder, or the name of a model on the Hugging Face hub, `owner/model`, which is fetched once.
            revision: a branch, tag or commit of the latter.

        Raises:
            FileNotFoundError: there is no such folder and the hub gave nothing. ValueError: it holds no Segmenter, is
            damaged, or the backbone's weights here are not those that the head was trained with.
        """
        folder = Path(name)
        if not folder.is_dir():
            try:
                folder = Path(huggingface_hub.snapshot_download(str(name), revision=revision,
                                                                allow_patterns=[CONFIG, WEIGHTS, BACKBONE]))
            except Exception as error:  # the hub's clients raise a dozen kinds
                raise NotFound(f"{name} is no folder here, and the hub gave no model of that name "
                                        f"({type(error).__name__}): check the name, and the network.") from error
        config = _read_config(folder, str(name))
        if file_sha256(folder / WEIGHTS) != config["sha256"]:
            raise InputError(f"{folder / WEIGHTS} is not the file that {CONFIG} belongs to: fetch or save both again.")
        head, probe, dim = _restore(folder / WEIGHTS, config)
        wanted = config["backbone"]
        own = folder / BACKBONE if wanted["included"] else None
        backbone = load_backbone(wanted["name"], num_heads=wanted["num_heads"], positions=wanted["positions"],
                                 weights=own)
        if backbone.weights_sha256 != wanted["sha256"]:
            raise InputError(f"{name} belongs to other weights of {wanted['name']} (SHA-256 {wanted['sha256'][:8]}..., "
                             f"here {backbone.weights_sha256[:8]}...): put those into CAUSE_WEIGHTS.")
        if backbone.dim != dim:
            raise InputError(f"{folder / WEIGHTS} is for a backbone of width {dim}, and {wanted['name']} has width "
                             f"{backbone.dim}: fetch or save it again.")
        return cls(backbone.to(device), head.to(device), probe.eval().requires_grad_(False).to(device),
                   image_size=config["image_size"], classes=config["classes"], readout=config["readout"],
                   colors=np.array(config["colors"], dtype=np.uint8), assignment=config["assignment"],
                   resize=config["resize"], smoothing=config["smoothing"], record=config["record"])

    def save_pretrained(self, folder: str | Path, *, name: str | None = None, licence: str | None = None) -> Path:
        """Write a folder that `from_pretrained` reads, to the same bits: weights, `config.json` and a model card.

        The weights of the backbone are named by SHA-256 and not copied, but for those of `bundled`.

        Args:
            folder: made if it is not there. name: what the card tells to load, if not this folder's name.
            licence: what you give the head away under, for the card.

        Raises:
            OSError: it cannot be written; what was in the folder stays.
        """
        folder = Path(folder)
        beside = beside_of(folder.absolute())
        try:
            beside.mkdir(parents=True)
            self._write(beside, name or folder.name, licence)
            folder.mkdir(exist_ok=True)
            for path in sorted(beside.iterdir(), key=lambda path: path.name == CONFIG):  # last, what the others belong to
                path.replace(folder / path.name)
        except (OSError, safetensors.SafetensorError) as error:
            raise WriteError(f"Cannot write the Segmenter {folder} ({getattr(error, 'strerror', None) or error}): choose a "
                          "folder with room that can be written.") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return folder

    def _write(self, folder: Path, name: str, licence: str | None) -> None:
        """The files of `save_pretrained`, into a folder that is there and empty."""
        vit = self.backbone
        tensors = {f"{group}.{key}": value.detach().cpu().contiguous().clone()
                   for group, module in (("head", self.head), ("probe", self.probe))
                   for key, value in module.state_dict().items()}
        safetensors.torch.save_file(tensors, folder / WEIGHTS)
        included = vit.name == BUNDLED
        if included:  # the library's may be another one day
            shutil.copyfile(vit.weights_path, folder / BACKBONE)
        kind = "tr" if isinstance(self.head, TRHead) else "mlp"
        config = {"format": FORMAT, "library": library_version(), "head": kind, "readout": self.readout,
                  "grid": self.head.grid if kind == "tr" else [1, 1], "image_size": self.image_size,
                  "resize": self.resize, "smoothing": self.smoothing, "sha256": file_sha256(folder / WEIGHTS),
                  "classes": self.classes, "colors": self.colors.tolist(),
                  "assignment": self._assignment.tolist() if self.matched else None,
                  "backbone": {"name": vit.name, "num_heads": vit.num_heads, "positions": vit.positions,
                               "sha256": vit.weights_sha256, "included": included}, "record": shareable(self.record)}
        (folder / CONFIG).write_text(json.dumps(config, indent=1, allow_nan=False) + "\n", encoding="utf8")
        model_card(name, config, licence).save(folder / CARD)

    def push_to_hub(self, name: str, *, private: bool | None = None, licence: str | None = None) -> str:
        """Give it away: `save_pretrained`, then upload to the model `owner/model` of the Hugging Face hub.

        You must be logged in (`hf auth login`, or the environment variable HF_TOKEN); this library sees no token.

        Args:
            name: made if it is not there, `private` or not. licence: as for `save_pretrained`.

        Returns:
            The model's address.
        """
        api = huggingface_hub.HfApi()
        place = api.create_repo(name, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, name=place.repo_id, licence=licence)
            api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="Segmenter of cause_lib")
        return str(place)

    @torch.no_grad()
    def __call__(self, image: str | Path | Image.Image | Tensor, *, crf: bool = False,
                 allow_corrupt: str = "stop") -> Tensor | dict[str, Tensor]:
        """The mask of a picture, or of every picture in a folder.

        Args:
            image: a file, a folder, a PIL picture, or a tensor (3, h, w) floating in [0, 1].
            crf: sharpen with the dense CRF, at the working size.
            allow_corrupt: of a folder, `stop` at a picture that cannot be used, or `skip` it, with a warning that says
                how many.

        Returns:
            int64 (h, w) of class ids at the picture's own size; for a folder, file name -> mask.

        Raises:
            FileNotFoundError: no such file. ValueError: the file is damaged, the folder has no pictures that can be
            used, the tensor is of another shape, or a picture is more than 32 times as long as it is wide.
        """
        if isinstance(image, (str, Path)) and Path(image).is_dir():
            paths = list_pictures(Path(image))
            if not paths:
                raise InputError(f"{image} holds no pictures (jpg, png, webp, bmp, tif).")
            return self._folder(paths, crf, allow_corrupt)
        what = f"The picture {image}" if isinstance(image, (str, Path)) else "This picture"
        if isinstance(image, (str, Path)):
            image = load_image(Path(image))
        if isinstance(image, Image.Image):
            image = vision.to_dtype(vision.pil_to_tensor(to_rgb(image)), torch.float32, scale=True)
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise InputError(f"Segmenter takes a tensor (3, h, w), floating in [0, 1], "
                             f"not {tuple(image.shape)} of {image.dtype}.")
        h, w = image.shape[1:]
        if not 0 < max(h, w) <= LONGEST * min(h, w):
            raise InputError(f"{what} is {w} x {h} pixels, and nothing longer than {LONGEST} times its short side is "
                             "segmented whole: cut it into pieces.")
        patch = self.backbone.patch_size
        # The short side as in training, the long side as the picture has it, both whole patches.
        scale = self.image_size / min(h, w)
        size = [max(1, round(side * scale / patch)) * patch for side in (h, w)]
        device = self.backbone.mean.device
        how = {"nearest": {"mode": "nearest"}, "antialiased": {"mode": "bilinear", "antialias": True}}[self.resize]
        small = F.interpolate(image[None].to(device), size=size, **how)  # (1, 3, rows p, columns p)
        grid = (size[0] // patch, size[1] // patch)
        features = mirror_mean(self.backbone(small), self.backbone(small.flip(-1)), grid, self.head, self.smoothing)
        features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        scores = self.probe.log_probabilities(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (1, c, rows p, ...)
        if crf:
            scores = dense_crf(small, scores)
        mask = self._assignment[scores.argmax(dim=1).cpu()]  # (1, rows p, columns p)
        return F.interpolate(mask[:, None].double(), size=(h, w), mode="nearest")[0, 0].long()

    def _folder(self, paths: list[Path], crf: bool, allow_corrupt: str) -> dict[str, Tensor]:
        """File name -> mask of each picture, and what `allow_corrupt` says of those that have none."""
        if allow_corrupt not in CORRUPT:
            raise InputError(f"allow_corrupt must be one of {', '.join(CORRUPT)}, not {allow_corrupt!r}.")
        masks, faults = {}, []
        for path in tqdm(paths, desc="segment", leave=False):
            try:
                masks[path.name] = self(path, crf=crf)
            except (ValueError, OSError) as error:
                if allow_corrupt == "stop":
                    raise
                faults.append(str(error))
        if not masks:
            raise InputError(f"none of the {len(paths)} pictures in '{paths[0].parent}' can be used; the first: "
                             f"{faults[0]}")
        if faults:
            warnings.warn(f"{len(faults)} of {len(paths)} pictures in '{paths[0].parent}' cannot be used and are left "
                          f"out (allow_corrupt='skip'); the first: {faults[0]}", stacklevel=3)
        return masks

    def color(self, mask: Tensor) -> np.ndarray:
        """A mask (h, w) as a picture: uint8 (h, w, 3)."""
        return self.colors[mask.numpy()]


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    """The `config.json` of a saved Segmenter; ValueError naming the first entry that cannot be what was written."""
    again = "give what save_pretrained or push_to_hub wrote."
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or config.get("format") != FORMAT or not (folder / WEIGHTS).is_file():
        raise InputError(f"{name} holds no Segmenter ({CONFIG} with format {FORMAT!r}, and {WEIGHTS}): {again}")

    def whole(value: Any, low: int, high: float = math.inf) -> bool:
        return type(value) is int and low <= value <= high

    def listed(value: Any, length: int | None, fits: Callable[[Any], bool]) -> bool:
        return isinstance(value, list) and len(value) == (length or len(value)) > 0 and all(map(fits, value))

    c = len(config["classes"]) if isinstance(config.get("classes"), list) else 0
    vit = config.get("backbone")
    fits = {
        "sha256": lambda value: isinstance(value, str),
        "readout": lambda value: value in ("modularity", "kmeans", "concepts", "linear"),
        "grid": lambda value: listed(value, 2, lambda side: whole(side, 1, 4096)),
        "image_size": lambda value: whole(value, 1, 4096),
        "resize": lambda value: value in ("nearest", "antialiased"),
        "smoothing": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
        "classes": lambda value: listed(value, None, lambda one: isinstance(one, str)),
        "colors": lambda value: listed(value, c, lambda one: listed(one, 3, lambda part: whole(part, 0, 255))),
        "assignment": lambda value: value is None or listed(value, c, lambda one: whole(one, 0, c - 1)),
        "backbone": lambda value: isinstance(vit, dict) and isinstance(vit.get("name"), str)
        and isinstance(vit.get("sha256"), str) and (vit.get("num_heads") is None or whole(vit["num_heads"], 1))
        and isinstance(vit.get("positions"), str) and isinstance(vit.get("included"), bool),
        "record": lambda value: value is None or isinstance(value, dict),
    }
    for key, check in fits.items():
        if key not in config or not check(config[key]):
            said = f"{key} {str(config[key])[:60]!r}" if key in config else f"no {key}"
            raise InputError(f"{folder / CONFIG} is damaged, it has {said}: {again}")
    return config


def _restore(path: Path, config: dict[str, Any]) -> tuple[nn.Module, nn.Module, int]:
    """Head and read-out of a saved Segmenter, and the width of its tokens; ValueError if they are not its config's."""
    groups: dict[str, dict[str, Tensor]] = {"head": {}, "probe": {}}
    tensors = read_tensors(path)
    for key, value in tensors.items():
        group, _, rest = key.partition(".")
        groups.setdefault(group, {})[rest] = value
    try:
        probe: nn.Module
        if config["readout"] == "linear":
            probe = LinearProbe(*groups["probe"]["weight"].shape)
            probe.load_state_dict(groups["probe"])
        else:
            probe = ClusterProbe(*groups["probe"]["centroids"].shape, centroids=groups["probe"]["centroids"])
        head = restore_head(groups["head"], tuple(config["grid"]))
    except (LookupError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{path} holds no head and read-out that fit {CONFIG} ({' '.join(str(error).split())[:200]}): "
                         "fetch or save both again.") from error
    first = (head.mlp if isinstance(head, TRHead) else head).f1
    found = tuple((probe.weight if isinstance(probe, LinearProbe) else probe.centroids).shape)
    wanted = (len(config["classes"]), first.out_features)
    if len(groups) > 2 or found != wanted:
        raise InputError(f"{path} holds {', '.join(sorted(groups))}, its read-out {found} for the {wanted} that its head "
                         f"and {CONFIG} have: fetch or save both again.")
    refuse_misfits(tensors, {key: tuple(value.shape) for key, value in tensors.items()}, path, CONFIG)
    return head, probe, first.in_features


def _experiment(record: dict[str, Any], folder: Path) -> Experiment:
    """The experiment that an artefact records; ValueError naming the folder if there is none that this library runs."""
    try:
        return Experiment.from_dict(record["experiment"])
    except ValueError as error:
        raise InputError(f"{folder} records an experiment that cannot be read ({error}): remove it and run its stage "
                         "again, or read it with the library's version that made it.") from error


def _assignment(metrics: dict[str, Any], readout: str) -> list[int] | None:
    """Class of each cluster as an evaluation matched them; None without labels, and for a linear probe."""
    if readout == "linear" or not metrics["dataset"]["labelled"]:
        return None
    return next((result["assignment"] for result in metrics["results"] if result["readout"] == readout), None)


def _run_folder(run: Path) -> Path:
    """The folder of a probe, or of an evaluation of released files, which has no probe."""
    if is_complete(run):
        record = read_record(run)
        stage, probe = record.get("stage"), (record.get("upstream") or {}).get("probe")
        if stage == "probe" or stage == "evaluation" and record.get("experiment", {}).get("release"):
            return run
        if stage == "evaluation" and isinstance(probe, str):
            return run.parent.parent / probe
        raise NotFound(f"{run} is a {stage} artefact: give the folder of a probe or an evaluation.")
    found = [path.parent for path in sorted(run.glob("probe/*/artefact.json"))]
    found += [path.parent for path in sorted(run.glob("evaluation/*-release-*/artefact.json"))]
    if not found:
        raise NotFound(f"{run} holds no trained run: train one with evaluate(Experiment(run_dir=...)).")
    if len(found) > 1:
        raise InputError(f"{run} holds {len(found)} runs; choose one: {', '.join(map(str, found))}.")
    return found[0]
