"""The description of a run: one frozen dataclass, `Experiment`.

A published row is a line of a table, and a line of a table is an `Experiment`. Fields left at `None` take the preset of
their data set or head when the object is made, so that what is stored, compared and hashed is always concrete. Every
field has a rule with its reason (`RULES`), and a value that breaks one is refused before any work, in one sentence.
Unknown or mistyped keys are an error that names the nearest key. `Experiment.key(stage)` holds the fields that a
stage's artefact depends on; it gives the artefact's folder its name, and so lets MLP and TR share a clusterbook.

Published settings: section "Steps and published settings" of the paper's appendix and its released code.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from cause_lib.errors import InputError
from cause_lib.runs.notebook import show_refusals_short


def _epochs(views: int) -> dict[str, int]:
    """Published lengths for so many training views: one epoch of step 1, two of step 2, five of step 3 (of TR)."""
    epoch = -(-views // 16)  # updates of batch size 16, the last one may be short
    return dict(concept_steps=epoch, head_steps=2 * epoch, probe_steps=5 * epoch)


# What None stands for, by data set. The generated scenes are a small world: they get small numbers. The sets of the
# published tables: pictures x views a picture, with the crops published for each (five, double or super).
PRESETS: dict[str, dict[str, Any]] = {
    "scenes": dict(image_size=160, test_split="val", num_concepts=256, concept_steps=200, thin=2,
                   projection_dim=512, head_steps=40, probe_steps=60),
    "camvid": dict(test_split="test"),
    "cocostuff27": _epochs(97_702 * 5),
    "coco81": _epochs(97_702 * 20),
    "coco171": _epochs(97_702 * 20),
    "cityscapes": _epochs(2_975 * 5),
    "pascalvoc": _epochs(1_464 * 50),
    "*": dict(image_size=320, test_split="val", num_concepts=2048, concept_steps=1500, thin=4,
              projection_dim=2048, head_steps=200, probe_steps=200),
}

# What a recipe says, whatever the data set: the published one, and the one whose prototypes and clusters stay alive
# (chapter 9 has the reason of each). A data set's preset gives way to it.
RECIPES: dict[str, dict[str, Any]] = {
    "published": dict(prototype_start="uniform", bank_capacity=100, probe_start="uniform", concept_readout=0,
                      smoothing=0.0),
    "alive": dict(prototype_start="tokens", num_concepts=512, concept_steps=0, bank_capacity=0, positive_quantile=0.99,
                  negative_quantile=0.8, head_steps=300, probe_start="kmeans", probe_steps=100, concept_readout=1024,
                  smoothing=0.1),
}


@dataclass(frozen=True)
class Rule:
    """What a field may be beside its type, and the reason, which ends the sentence that refuses a value.

    low, high: the closed range of a number; None: open to that side, up to `LARGEST`. choices: what text may be; none:
    any text that can be a name or a path. empty: whether text may be "".
    """

    reason: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    empty: bool = False


LARGEST, LONGEST = 10**9, 4096  # numbers, and characters of text, beyond which a value is a slip

#: Every field's rule.
RULES: dict[str, Rule] = {
    "recipe": Rule("a recipe is a set of presets", choices=tuple(RECIPES)),
    "dataset": Rule("data sets are opened by these names", choices=(
        "scenes", "camvid", "folder", "cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc")),
    "folder": Rule("it says where your own pictures are", empty=True),
    "allow_corrupt": Rule("a picture that cannot be used stops the run, or is left out and counted",
                          choices=("stop", "skip")),
    "num_classes": Rule("every class has a cluster, and a row and a column in the table of counts", 1, 10_000),
    "image_size": Rule("it is a side in pixels, and memory grows with its fourth power", 1, 4096),
    "train_size": Rule("it is a side in pixels, and memory grows with its fourth power", 1, 4096),
    "crops": Rule("views are cut in these ways", choices=("five", "double", "super", "none")),
    "crop_ratio": Rule("it is the share of each side that a view keeps, and a smaller view shows next to nothing",
                       0.05, 1.0),
    "train_split": Rule("it names the part of the data set that is trained on"),
    "test_split": Rule("it names the part of the data set that is judged"),
    "train_images": Rule("it is a number of pictures, and nothing is learned from none", 1),
    "test_images": Rule("it is a number of pictures, and nothing is judged on none", 1),
    "resize": Rule("pictures are brought to their size in these ways", choices=("nearest", "antialiased")),
    "backbone": Rule("it names the network that makes the tokens"),
    "num_heads": Rule("it has to divide the width of the backbone", 1, 1024),
    "positions": Rule("position embeddings are resized by these rules", choices=("dino", "antialiased")),
    "num_concepts": Rule("every patch has a concept, and every two concepts have a similarity to keep", 1, 65_536),
    "prototype_start": Rule("prototypes start in these ways", choices=("uniform", "tokens")),
    "concept_steps": Rule("it is a number of updates", 0),
    "modularity_temperature": Rule("products of cosines are divided by it", 1e-6),
    "thin": Rule("it is the side, in patches, of the block of which one patch is kept", 1, 64),
    "head": Rule("these are the two heads of the paper", choices=("tr", "mlp")),
    "release": Rule("it says where the authors' released files are", empty=True),
    "reduced_dim": Rule("it is the width of the head's features", 1, 65_536),
    "projection_dim": Rule("it is the width of what is contrasted", 1, 65_536),
    "head_steps": Rule("it is a number of updates", 0),
    "bank_capacity": Rule("so many projections are kept of each concept, and 0 keeps none", 0),
    "bank_fraction": Rule("it is the share of a batch that goes into the bank", 0.0, 1.0),
    "contrast_temperature": Rule("cosines are divided by it", 1e-6),
    "positive_threshold": Rule("it is compared with cosines", -1.0, 1.0),
    "negative_threshold": Rule("it is compared with cosines", -1.0, 1.0),
    "positive_quantile": Rule("it is the share of similarities that lie below", 0.0, 1.0),
    "negative_quantile": Rule("it is the share of similarities that lie below", 0.0, 1.0),
    "ema_decay": Rule("it is the share of its own past that the teacher keeps at each update", 0.0, 1.0),
    "shared_start": Rule("the teacher starts as the student after its first update, or before it"),
    "dropout": Rule("it is the share of features dropped, and some have to stay", 0.0, 0.999),
    "clip_norm": Rule("gradients are scaled down to this length, and without any length nothing moves", 1e-12),
    "weight_decay": Rule("it pulls weights towards nought, and below 0 it would push them away", 0.0),
    "label_free": Rule("labels train the head, or they do not"),
    "probe_start": Rule("centroids start in these ways", choices=("uniform", "kmeans")),
    "probe_steps": Rule("it is a number of updates", 0),
    "probe_decay_steps": Rule("the rate is halved whenever so many updates have been made", 1),
    "lr": Rule("it is the length of a step down the loss, and below 0 the loss would be climbed", 0.0),
    "batch_size": Rule("an update sees so many pictures, at least one", 1),
    "seed": Rule("random choices are drawn from it, and it has 31 bits", 0, 2**31 - 1),
    "order_seed": Rule("the order of the pictures is drawn from it, and it has 31 bits", 0, 2**31 - 1),
    "concept_readout": Rule("it is a number of concepts of the head's features, and 0 leaves this read-out away",
                            0, 65_536),
    "smoothing": Rule("it is a temperature, and 0 smooths nothing", 0.0),
    "kmeans_restarts": Rule("k-means starts so often, at least once, and the best start is kept", 1, 1000),
    "crf": Rule("the CRF is a row beside the others, or it is not"),
    "crf_iterations": Rule("mean field goes round so often, and settles in some ten rounds", 1, 1000),
    "crf_backend": Rule("these are the implementations of the dense CRF", choices=("torch", "pydensecrf")),
    "run_dir": Rule("what is made is written below it"),
    "device": Rule("these are the devices that are tested", choices=("auto", "cpu", "cuda")),
    "precision": Rule("networks run in these number formats", choices=("no", "bf16", "fp16")),
    "cache_gb": Rule("it is a size on disk, and 0 keeps nothing there", 0.0),
    "num_workers": Rule("it is a number of processes that read pictures, and with 0 the run reads them itself", 0, 256),
    "checkpoint_steps": Rule("a checkpoint is written whenever so many updates have been made", 1),
}

# What other people call our parameters.
OTHER_NAMES: dict[str, str] = {
    "learning_rate": "lr", "epochs": "head_steps", "iterations": "head_steps", "steps": "head_steps",
    "temperature": "contrast_temperature", "tau": "modularity_temperature", "momentum": "ema_decay", "gpu": "device",
    "cuda": "device", "fp16": "precision", "amp": "precision", "bs": "batch_size", "model": "backbone",
    "arch": "backbone", "resolution": "image_size", "n_clusters": "num_classes", "codebook_size": "num_concepts",
    "path": "folder", "output": "run_dir", "out_dir": "run_dir", "output_dir": "run_dir",
}

_FEATURES = ("dataset", "folder", "allow_corrupt", "resize", "backbone", "num_heads", "positions", "precision")
_DATA = _FEATURES + ("crops", "crop_ratio", "train_split", "train_images")
_TRAIN = _DATA + ("image_size", "num_concepts", "prototype_start", "concept_steps", "modularity_temperature",
                  "thin", "lr", "batch_size", "seed", "order_seed")
_HEAD = _TRAIN + ("head", "train_size", "reduced_dim", "projection_dim", "head_steps", "bank_capacity", "bank_fraction",
                  "contrast_temperature", "positive_threshold", "negative_threshold", "positive_quantile",
                  "negative_quantile", "ema_decay", "shared_start", "dropout", "clip_norm", "weight_decay")
_PROBE = _HEAD + ("label_free", "num_classes", "probe_start", "probe_steps", "probe_decay_steps", "kmeans_restarts",
                   "concept_readout")
_JUDGE = ("test_split", "test_images", "crf", "crf_iterations", "crf_backend")
_RELEASE = _FEATURES + ("image_size", "num_classes", "head", "smoothing", "release") + _JUDGE
_BASELINE = _DATA + ("image_size", "num_classes", "batch_size", "kmeans_restarts", "seed")

#: The fields that each stage's artefact depends on; run_dir, device and the like are not among them. Of frozen
#: features, those beyond the pictures and their size, which their names and fingerprint stand for.
STAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "features": _FEATURES,
    "clusterbook": _TRAIN,
    "head": _HEAD,
    "probe": _PROBE,
    "baseline": _BASELINE,
    "evaluation": _PROBE + _JUDGE + ("smoothing", "release"),
    "baseline_evaluation": _BASELINE + _JUDGE,
}

# Fields that came later: with these values, which say what was always done before them, they are left out of names, so
# that what was made before is still found.
SINCE: dict[str, Any] = {"resize": "nearest", "num_heads": None, "positions": "dino", "shared_start": False,
                         "release": "", "prototype_start": "uniform", "positive_quantile": None,
                         "negative_quantile": None, "probe_start": "uniform", "concept_readout": 0, "smoothing": 0.0,
                         "allow_corrupt": "stop"}

_NEVER = object()  # what no field's value is

#: What decides which tokens each update of a head sees, and how they are come by: heads that agree share one pass.
PASS_FIELDS: tuple[str, ...] = _DATA + ("num_classes", "train_size", "batch_size", "order_seed", "run_dir", "device",
                                        "cache_gb", "num_workers")


@dataclass(frozen=True)
class Experiment:
    """The whole description of a run. Every field can be given by papermill (`-p name value`).

    Raises:
        ValueError: a value of the wrong type, out of range, or at odds with others; the message names the field, what
        it may be, and why.

    Fields, with the published value where there is one:
        recipe: `published`, or `alive`, where prototypes and clusters start from tokens and stay in use; what of the
            fields is left at None follows it.
        dataset: `scenes` (generated), `camvid`, `folder` (your own pictures, found at `folder`), or a set of the
            published tables: `cocostuff27`, `coco81`, `coco171`, `cityscapes`, `pascalvoc`.
        folder: for `dataset="folder"`, a path, or a name below `CAUSE_DATA`.
        allow_corrupt: what becomes of pictures that cannot be used, or whose label cannot: `stop`, with one sentence
            that names the file; or `skip`: they are left out when the data set is opened, and counted.
        num_classes: number of clusters c; None: the data set's number of classes (27 for unlabelled folders).
        image_size: side in pixels at which pictures are judged (320; 322 for patch 14; None: preset).
        train_size: side in pixels at which the head is trained (TR as judged, MLP 224).
        crops, crop_ratio: training views, `five` crops at this share of each side (0.5); `double` (20 a picture, at 0.5
            and 0.8), `super` (50, at 0.3 to 0.7), as published for coco81 and coco171, and for pascalvoc; or `none`.
        train_split, test_split, train_images, test_images: which split, and at most how many pictures (None: all).
        resize: how pictures are brought to their size; labels always by nearest neighbour. `nearest`, as published, or
            `antialiased` (bilinear, low-passed where they shrink).
        backbone: a name of `cause_lib.backbones`, or a timm name.
        num_heads: attention heads that the backbone is read with (None: its architecture's own; the released code:
            twice ViT-S's own).
        positions: how the backbone's position embeddings are resized, by `dino`'s rule, as published, or `antialiased`.
        num_concepts: prototypes k of the clusterbook (2048).
        prototype_start: `uniform` random numbers, as published, or training `tokens`, by k-means++ and three rounds.
        concept_steps: updates of step 1 (published: one epoch).
        modularity_temperature: tau of Eq. 3 (0.1).
        thin: one random patch of every thin x thin block takes part in a loss (4; 1: all patches).
        head: `tr` or `mlp`.
        release: a folder with the authors' released files for that head (`cause_lib.runs.released`): those are judged, and
            nothing is trained. Empty: the head that is trained here.
        reduced_dim, projection_dim: widths r (90) and p (2048).
        head_steps: updates of step 2 (published: two epochs).
        bank_capacity, bank_fraction: teacher projections kept per concept (100; 0: no bank), share of each batch (0.5).
        contrast_temperature, positive_threshold, negative_threshold: Eq. 4 (0.07), phi+ (0.3), phi- (0.1).
        positive_quantile, negative_quantile: phi+ and phi- as quantiles of D_M off its diagonal, in place of those
            constants (None: the constants).
        ema_decay: teacher's share of its own past at each update (0.99).
        shared_start: True: the teacher starts as the student is after its first update, since in the released code they
            share storage until then; False: as the student is before it.
        dropout: share of features dropped while a head trains (0.1).
        clip_norm: bound of the gradient norm in step 2 (None: TR 2, MLP 0.1).
        weight_decay: Adam's, in step 2 (1e-4).
        label_free: True: no label is ever used in training. False: the released code's step 3, where the linear
            probe's cross-entropy also trains the head.
        probe_start: `uniform` random centroids, as published, or those of `kmeans`.
        probe_steps, probe_decay_steps: updates of step 3 (published: TR five epochs, MLP one); the rate is halved every
            so many (TR: twice, MLP: never).
        lr, batch_size: Adam's rate (1e-3), pictures an update (16).
        seed: every random choice. order_seed: draws the order of the pictures (None: seed); with it set the same, heads
            of several seeds see the same batches and train together (`stages.fit_heads`).
        concept_readout: a third read-out, k-means of so many concepts of the head's features (0: none).
        smoothing: temperature at which a patch's features are averaged, when judged, with those of patches like it in
            its picture (0: not at all).
        kmeans_restarts: restarts of k-means, the one with the smallest inertia is kept (5).
        crf, crf_iterations: judge with a dense CRF too; mean-field iterations (10).
        crf_backend: `torch`, on the run's device; or `pydensecrf`, the published path, where it is installed.
        run_dir: where artefacts go (`~`: your home). device: `auto`, `cpu` or `cuda`. precision: `no`, `bf16`, `fp16`.
        cache_gb: frozen features are kept on disk below this size in GB, and recomputed every epoch above it.
        num_workers: processes that read pictures. checkpoint_steps: a killed stage loses at most so many updates.
    """

    recipe: str = "published"
    dataset: str = "scenes"
    folder: str = ""
    allow_corrupt: str = "stop"
    num_classes: int | None = None
    image_size: int | None = None
    train_size: int | None = None
    crops: str = "five"
    crop_ratio: float = 0.5
    train_split: str = "train"
    test_split: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    resize: str = "nearest"
    backbone: str = "bundled"
    num_heads: int | None = None
    positions: str = "dino"
    num_concepts: int | None = None
    prototype_start: str | None = None
    concept_steps: int | None = None
    modularity_temperature: float = 0.1
    thin: int | None = None
    head: str = "tr"
    release: str = ""
    reduced_dim: int = 90
    projection_dim: int | None = None
    head_steps: int | None = None
    bank_capacity: int | None = None
    bank_fraction: float = 0.5
    contrast_temperature: float = 0.07
    positive_threshold: float = 0.3
    negative_threshold: float = 0.1
    positive_quantile: float | None = None
    negative_quantile: float | None = None
    ema_decay: float = 0.99
    shared_start: bool = False
    dropout: float = 0.1
    clip_norm: float | None = None
    weight_decay: float = 1e-4
    label_free: bool = True
    probe_start: str | None = None
    probe_steps: int | None = None
    probe_decay_steps: int | None = None
    lr: float = 1e-3
    batch_size: int = 16
    seed: int = 0
    order_seed: int | None = None
    concept_readout: int | None = None
    smoothing: float | None = None
    kmeans_restarts: int = 5
    crf: bool = True
    crf_iterations: int = 10
    crf_backend: str = "torch"
    run_dir: str = "runs"
    device: str = "auto"
    precision: str = "no"
    cache_gb: float = 4.0
    num_workers: int = 0
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checked(field.name, getattr(self, field.name), _types(field.type), RULES[field.name])
            object.__setattr__(self, field.name, value)
        object.__setattr__(self, "run_dir", _place(self.run_dir))
        for name, value in self._presets().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        """What each field may be, but not together with the others."""
        if self.negative_threshold > self.positive_threshold:
            raise InputError(f"negative_threshold {self.negative_threshold} must not be above "
                             f"positive_threshold {self.positive_threshold}.")
        if (self.positive_quantile is None) != (self.negative_quantile is None):
            raise InputError("positive_quantile and negative_quantile go together: give both, or neither.")
        if self.positive_quantile is not None and self.negative_quantile > self.positive_quantile:
            raise InputError(f"negative_quantile {self.negative_quantile} must not be above "
                             f"positive_quantile {self.positive_quantile}.")
        if self.dataset == "folder" and not self.folder:
            raise InputError('dataset "folder" needs the parameter folder: a path, or a name below CAUSE_DATA.')
        if self.folder and self.dataset != "folder":
            raise InputError(f'folder {self.folder!r} is given, but dataset is {self.dataset!r}: '
                             'set dataset to "folder", or leave folder empty.')
        patch = _patch_of(self.backbone)
        for name in ("image_size", "train_size"):
            if getattr(self, name) < patch:
                raise InputError(f"{name} {getattr(self, name)} is smaller than a patch of {self.backbone}, {patch} "
                                 "pixels: set it to that or to a multiple.")
        if self.crops == "five" and self.crop_ratio * self.image_size < patch:
            raise InputError(f"crop_ratio {self.crop_ratio} of image_size {self.image_size} is less than a patch of "
                             f"{self.backbone}, {patch} pixels: raise one of them, or set crops to \"none\".")
        if self.num_classes is not None and 0 < self.concept_readout < self.num_classes:
            raise InputError(f"concept_readout {self.concept_readout} is less than num_classes {self.num_classes}: "
                             "clusters are made of these concepts, so raise it, or set it to 0.")

    def _presets(self) -> dict[str, Any]:
        preset = PRESETS["*"] | PRESETS.get(self.dataset, {}) | RECIPES[self.recipe]
        if self.dataset != "scenes" and re.search(r"(vit[a-z]|patch)14", self.backbone):
            preset["image_size"] = 322  # the multiple of 14 next to 320
        size = self.image_size or preset["image_size"]
        steps = preset["probe_steps"] if self.probe_steps is None else self.probe_steps
        patch = _patch_of(self.backbone)
        smaller = max(patch, round(0.7 * size / patch) * patch)  # 320 -> 224
        preset["train_size"] = size if self.head == "tr" else smaller
        preset["clip_norm"] = 2.0 if self.head == "tr" else 0.1
        # TR: five epochs, halved after every second one; MLP: one epoch, never halved.
        preset["probe_decay_steps"] = max(1, round(0.4 * steps) if self.head == "tr" else steps)
        preset["order_seed"] = self.seed
        return preset

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> "Experiment":
        """An `Experiment` from names and values, as in a table's line or a stored artefact.

        Raises:
            ValueError: an unknown name (the message proposes the nearest), a wrong type, a value out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        _refuse_unknown(parameters, names)
        return cls(**parameters)

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> "Experiment":
        """An `Experiment` from a notebook's `globals()`, right after its parameters cell. Raises as `from_dict`.

        From then on the notebook shows what the library refuses as one sentence (errors.py).
        """
        show_refusals_short(namespace)
        return cls.from_dict(_notebook_parameters(namespace, {field.name for field in dataclasses.fields(cls)}))

    def replace(self, **changes: Any) -> "Experiment":
        """The same run with some fields changed.

        Fields that depend on what changes fall back to their preset, unless they were set away from it.
        """
        names = [field.name for field in dataclasses.fields(self)]
        _refuse_unknown(changes, names)
        fields = dataclasses.asdict(self)
        for name, value in self._presets().items():
            if fields[name] == value and PRESET_DEPENDS.get(name, set()) & set(changes):
                fields[name] = None
        return type(self)(**(fields | changes))

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name; what `from_dict` takes and artefacts store."""
        return dataclasses.asdict(self)

    def key(self, stage: str) -> dict[str, Any]:
        """The fields, with values, that the artefact of `stage` depends on (see `STAGE_FIELDS`).

        Of those, an evaluation of released files depends on none that belongs to training.
        """
        names = _RELEASE if stage == "evaluation" and self.release else STAGE_FIELDS[stage]
        return {name: value for name in names
                if (value := getattr(self, name)) != SINCE.get(name, _NEVER)}


# Which fields a preset follows.
PRESET_DEPENDS: dict[str, set[str]] = {
    name: {"dataset", "recipe"} for preset in (*PRESETS.values(), *RECIPES.values()) for name in preset
} | {
    "image_size": {"dataset", "backbone"}, "train_size": {"dataset", "backbone", "head", "image_size"},
    "clip_norm": {"head"}, "probe_decay_steps": {"dataset", "recipe", "head", "probe_steps"}, "order_seed": {"seed"},
}


def read_parameters(namespace: Mapping[str, Any], allowed: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """The parameters of a notebook that has others than `Experiment`'s, from its `globals()`.

    Args:
        namespace: `globals()`, right after the parameters cell.
        allowed: name -> the type or types that it may have.

    Raises:
        ValueError: a name that is not allowed (the message proposes the nearest), is missing, or has another type. The
        notebook shows that, and what else the library refuses, as one sentence (errors.py).
    """
    show_refusals_short(namespace)
    found = _notebook_parameters(namespace, set(allowed))
    _refuse_unknown(found, list(allowed))
    missing = [name for name in allowed if name not in found]
    if missing:
        raise InputError(f"The parameter {missing[0]!r} is missing: run the parameters cell first.")
    return {name: _checked(name, found[name], types if isinstance(types, tuple) else (types,))
            for name, types in allowed.items()}


def _notebook_parameters(namespace: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Known names from the namespace, and every name that the latest `# Parameters` cells assign.

    Papermill only warns of a name that the notebook does not have. The cell that it injects begins with
    `# Parameters`, as ours do, and IPython keeps the cells' text in `In`; so a misspelt name is found there.
    """
    names = known & namespace.keys()
    cells = [cell for cell in namespace.get("In", []) if cell.strip()]
    is_parameters = [cell.lstrip().startswith("# Parameters") for cell in cells]
    if any(is_parameters):
        last = len(cells) - 1 - is_parameters[::-1].index(True)
        while last >= 0 and is_parameters[last]:
            for node in ast.walk(ast.parse(cells[last])):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names = names | {node.id}
            last -= 1
    return {name: namespace[name] for name in sorted(names) if name in namespace}


def _refuse_unknown(parameters: Mapping[str, Any], names: list[str]) -> None:
    for name in parameters:
        if name not in names:
            near = _nearest(name, names)
            hint = f"did you mean {near!r}?" if near else f"the parameters are: {', '.join(names)}."
            raise InputError(f"Unknown parameter {name!r}: {hint}")


def _nearest(name: Any, names: Collection[str]) -> str | None:
    """The one of the names that was probably meant."""
    plain = str(name).lower()
    if OTHER_NAMES.get(plain) in names:
        return OTHER_NAMES[plain]
    near = difflib.get_close_matches(plain, names, n=1, cutoff=0.5)
    return near[0] if near else None


def _types(annotation: str) -> tuple[type, ...]:
    known = {"str": str, "int": int, "float": float, "bool": bool, "None": type(None)}
    return tuple(known[part.strip()] for part in annotation.split("|"))


def _checked(name: str, value: Any, types: tuple[type, ...], rule: Rule | None = None) -> Any:
    """`value` as one of `types`, within the field's rule; whole floats pass as int, ints as float."""
    given = value
    if isinstance(value, bool) and bool not in types:
        fits = False
    elif isinstance(value, int) and not isinstance(value, bool) and int not in types and float in types:
        value, fits = float(max(-LARGEST - 1, min(value, LARGEST + 1))), True  # float() ends at 1e308
    elif isinstance(value, float) and float not in types and int in types and value.is_integer():
        value, fits = int(value), True
    else:
        fits = isinstance(value, types)
    because = f": {rule.reason}." if rule is not None else "."
    if not fits:
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in types)
        raise InputError(f"Parameter {name} must be {wanted}, not {_shown(given)} ({type(given).__name__}){because}")
    wanted = None if rule is None else _wanted(value, rule)
    if wanted is not None:
        raise InputError(f"Parameter {name} must be {wanted}, not {_shown(given)}{because}")
    return value


def _wanted(value: Any, rule: Rule) -> str | None:
    """What a value of the right type must be and is not; None: the value keeps the rule."""
    if isinstance(value, str) and rule.choices:
        near = difflib.get_close_matches(value.lower(), rule.choices, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return None if value in rule.choices else f"one of {', '.join(rule.choices)}{hint}"
    if isinstance(value, str):
        if not value and not rule.empty:
            return "a text that is not empty"
        if value != value.strip():
            return "a text without spaces at its ends"
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            return "a text without line breaks and other control characters"
        return f"a text of at most {LONGEST} characters" if len(value) > LONGEST else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = rule.low, rule.high
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            return f"at least {low}" if high is None else f"between {low} and {high}"
        return f"at most {LARGEST}, as anything reasonable is" if high is None and value > LARGEST else None
    return None


def _shown(value: Any) -> str:
    """A value in a sentence: one line of at most a hundred characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no whole number of more than some thousand digits
        text = "a number of thousands of digits"
    return text if len(text) <= 100 else text[:97] + "..."


def _place(run_dir: str) -> str:
    """run_dir with `~` as the home folder; refused where no folder is or can be."""
    given, run_dir = run_dir, os.path.expanduser(run_dir)
    if run_dir.startswith("~"):
        raise InputError(f"Parameter run_dir must begin with a home folder that is known, not {given!r}: write the "
                         "path in full.")
    for path in (Path(run_dir), *Path(run_dir).parents):
        if os.path.isfile(path):
            raise InputError(f"Parameter run_dir must be a folder, or where one can be made, not {given!r}: {path} is "
                             "a file.")
    return run_dir


def _patch_of(backbone: str) -> int:
    """Side of a patch in pixels, as the backbone's name has it; 8 for a name without."""
    found = re.search(r"(?:vit[a-z]|patch)(\d+)", backbone)
    return int(found.group(1)) if found else 8
