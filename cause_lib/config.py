"""The description of a run: one frozen dataclass, `Experiment`.

A line of a table, such as a published row, is an `Experiment`. A field is declared once, in the class: type, default,
what it is, why its values are bounded and how, and the stages whose artefacts depend on it. All tables of fields, and
the list in the class's docstring, are made from these declarations.

Fields left at `None` take the preset of their data set, recipe or head when the object is made, so that what is stored,
compared and hashed is always concrete. What breaks a rule is refused before any work, in one sentence.
Published settings (presets.json): section "Steps and published settings" of the paper's appendix and its released code.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cause_lib.errors import InputError
from cause_lib.names import canonical, patch_of, three_numbers
from cause_lib.rules import Rule, checked, refuse_unknown

# What None stands for, by data set (and head), and what a recipe and a reading say, whatever the data set. Scenes are a
# small world: they get small numbers. The sets of the published tables get what the released scripts run:
# one epoch of step 1, two of step 2, and of step 3 five for TR, one for MLP. An epoch is all views in batches of 16:
# 97,702 pictures of COCO x 5 crops or, for 81 and 171 classes, x 20; 2,975 x 5 of Cityscapes; 1,464 x 50 of Pascal VOC.
# A bound of 1e9 is none. Chapter 10 has the reasons of `alive`; `earlier` is `alive` on other tokens.
PRESETS, RECIPES, READINGS = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf8")).values()

# The stage that comes before each: an artefact depends on the fields of its own stage and of all before it. Two are no
# artefacts: "released", the evaluation of released files, and "pass", see PASS_FIELDS.
_BEFORE = {"features": "", "clusterbook": "features", "head": "clusterbook", "probe": "head", "baseline": "features",
           "evaluation": "probe", "baseline_evaluation": "baseline", "released": "features", "pass": "features"}
_JUDGE = "evaluation baseline_evaluation released"


def _field(default: Any, *declared: Any, **options: Any) -> Any:
    """A field: its default, then what `Rule` holds: doc, reason, low, high, and by name choices, stages, since, ..."""
    return dataclasses.field(default=default, metadata={"rule": Rule(*declared, **options)})


@dataclass(frozen=True)
class Experiment:
    """The whole description of a run. Every field can be given by papermill (`-p name value`).

    Raises:
        ValueError: a value of the wrong type, out of range, or at odds with others; the message names the field, what
        it may be, and why.
    """

    recipe: str = _field("published", "`published`; `alive`: prototypes and clusters start from tokens; or `earlier`: "
        "that on `normed` tokens of whole pictures; fields at None follow", "it sets presets", choices=tuple(RECIPES))
    reading: str = _field("paper", "`paper`, or `released`: the small rules of the authors' code, for `resize`, "
        "`positions`, `thinning`, `shared_start`, `bank_draw`, `probe_dropout` and `crf_picture` left at None",
        "a reading is a set of presets", choices=tuple(READINGS))
    dataset: str = _field("scenes", "`scenes` (generated), `camvid`, `folder` (your own pictures, found at `folder`), "
        "or a set of the published tables: `cocostuff27`, `coco81`, `coco171`, `cityscapes`, `pascalvoc`",
        "data sets are opened by these names", stages="features",
        choices=("scenes", "camvid", "folder", "cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc"))
    folder: str = _field("", 'for `dataset="folder"`, a path, or a name below `CAUSE_DATA`',
        "it says where your own pictures are", stages="features", empty=True, aliases="path")
    allow_corrupt: str = _field("stop", "at a picture that cannot be used, or whose label cannot: `stop`, with one "
        "sentence that names the file; or `skip`: leave it out when the data set is opened, and count it",
        "a picture that cannot be used stops the run, or is left out and counted", stages="features",
        choices=("stop", "skip"), since="stop")
    num_classes: int | None = _field(None, "number of clusters c, at least the data set's number of classes; None: "
        "that (27 for unlabelled folders); pixels of clusters beyond the classes count as wrong",
        "every class has a cluster, and a row and a column in the table of counts", 1, 10_000,
        stages="probe baseline released pass", aliases="n_clusters")
    image_size: int | None = _field(None, "side in pixels at which pictures are judged (320; 322 for patch 14; None: "
        "preset)", "it is a side in pixels, and memory grows with its fourth power", 1, 4096,
        stages="clusterbook baseline released", aliases="resolution")
    train_size: int | None = _field(None, "side in pixels at which the head is trained (TR as judged, MLP 224)",
        "it is a side in pixels, and memory grows with its fourth power", 1, 4096, stages="head pass")
    crops: str | None = _field(None, "training views: `five` crops; `double` (20 a picture, at 0.5 and 0.8), preset of "
        "coco81 and coco171; `super` (50, at 0.3 to 0.7), preset of pascalvoc; or `none`",
        "views are cut in these ways", stages="clusterbook baseline pass", choices=("five", "double", "super", "none"))
    crop_ratio: float = _field(0.5, "share of each side that each of `five` crops keeps (0.5)",
        "it is the share of each side that a view keeps, and a smaller view shows next to nothing", 0.05, 1.0,
        stages="clusterbook baseline pass")
    train_split: str = _field("train", "the split that is trained on",
        "it names the part of the data set that is trained on", stages="clusterbook baseline pass")
    test_split: str | None = _field(None, "the split that is judged",
        "it names the part of the data set that is judged", stages=_JUDGE)
    train_images: int | None = _field(None, "train on at most so many pictures (None: all)",
        "it is a number of pictures, and nothing is learned from none", 1, stages="clusterbook baseline pass")
    test_images: int | None = _field(None, "judge at most so many pictures (None: all)",
        "it is a number of pictures, and nothing is judged on none", 1, stages=_JUDGE)
    test_view: str | None = _field(None, "how judged pictures become square, and their labels: `crop`, the short side "
        "to `image_size`, then the centre square; or `squash`, the whole picture. None: as in training, `squash` for "
        "pascalvoc, `crop` for the others", "judged pictures become square in these ways", stages=_JUDGE,
        choices=("crop", "squash"), since=None)
    resize: str | None = _field(None, "how pictures are brought to their size: `nearest` neighbour; `pillow`, the same "
        "as Pillow rounds it; or `antialiased` (bilinear, low-passed where they shrink); labels by nearest neighbour",
        "pictures are brought to their size in these ways", stages="features",
        choices=("nearest", "pillow", "antialiased"), since="nearest")
    backbone: str = _field("bundled", "a name of `cause_lib.backbones`, a timm name, or one on another hub, such as "
        "`facebook/dinov3-vits16-pretrain-lvd1689m`, which becomes one of these",
        "it names the network that makes the tokens", stages="features", aliases="model arch")
    num_heads: int | None = _field(None, "attention heads that the backbone is read with (None: its architecture's "
        "own; the released code: twice ViT-S's own)",
        "it has to divide the width of the backbone", 1, 1024, stages="features", since=None)
    positions: str | None = _field(None, "how the backbone's position embeddings are resized: by `dino`'s rule, by the "
        "`exact` scale (MSN's, as released), or `antialiased`", "position embeddings are resized by these rules",
        stages="features", choices=("dino", "exact", "antialiased"), since="dino")
    layer: int | None = _field(None, "tokens of this block, from 1, or from -1, the last (None: last; `normed`: 3/4)",
        "it counts the blocks of a backbone", -1000, 1000, stages="features", since=None)
    facet: str | None = _field(None, "its tokens, its `output` before the final norm, or `normed` by what comes next, "
        "or the `key`, `query` or `value` of that block's attention", "these are taken from a block", stages="features",
        choices=("token", "output", "normed", "key", "query", "value"), since="token")
    image_mean: str | None = _field(None, "pictures are normalised by this mean of red, green and blue, such as `0.485 "
        "0.456 0.406` (None: that of timm's pretrained config)", "it is a text of three numbers", stages="features",
        since=None, aliases="mean")
    image_std: str | None = _field(None, "and by this standard deviation, in the same way",
        "it is a text of three numbers", stages="features", since=None, aliases="std")
    num_concepts: int | None = _field(None, "prototypes k of the clusterbook (2048)", "every patch has a concept, and "
        "every two concepts have a similarity to keep", 1, 65_536, stages="clusterbook", aliases="codebook_size")
    prototype_start: str | None = _field(None,
        "`uniform` random numbers, as published, or training `tokens`, by k-means++ and three rounds",
        "prototypes start in these ways", stages="clusterbook", choices=("uniform", "tokens"), since="uniform")
    concept_steps: int | None = _field(None, "updates of step 1 (one epoch)",
        "it is a number of updates", 0, stages="clusterbook")
    modularity_temperature: float = _field(0.1, "tau of Eq. 3 (0.1)",
        "products of cosines are divided by it", 1e-6, stages="clusterbook", aliases="tau")
    thin: int | None = _field(None, "one random patch of every thin x thin block takes part in a loss (4; 1: all "
        "patches)", "it is the side, in patches, of the block of which one patch is kept", 1, 64, stages="clusterbook")
    thinning: str | None = _field(None, "`batch`: smaller blocks at the edge count, one pattern for all pictures of a "
        "batch; `picture`: complete blocks alone, each picture its own pattern, as released", "patches are subsampled "
        "in these ways", stages="clusterbook", choices=("batch", "picture"), since="batch")
    head: str = _field("tr", "`tr` or `mlp`",
        "these are the two heads of the paper", stages="head released", choices=("tr", "mlp"))
    release: str = _field("", "a folder with the authors' released files for that head (`cause_lib.runs.released`): "
        "those are judged, and nothing is trained; empty: the head that is trained here",
        "it says where the authors' released files are", stages="evaluation released", empty=True, since="")
    reduced_dim: int = _field(90, "width r of the head's features (90)",
        "it is the width of the head's features", 1, 65_536, stages="head")
    projection_dim: int | None = _field(None, "width p of the projections (2048)",
        "it is the width of what is contrasted", 1, 65_536, stages="head")
    head_steps: int | None = _field(None, "updates of step 2 (two epochs)",
        "it is a number of updates", 0, stages="head", aliases="epochs iterations steps")
    bank_capacity: int | None = _field(None, "teacher projections kept of each concept (100; 0: no bank)",
        "so many projections are kept of each concept, and 0 keeps none", 0, stages="head")
    bank_fraction: float = _field(0.5, "share of each batch that goes into the bank (0.5)",
        "it is the share of a batch that goes into the bank", 0.0, 1.0, stages="head")
    bank_draw: str | None = _field(None, "that share of the `batch`'s patches, or of each `concept`'s, rounded down, "
        "as released", "patches are drawn for the bank in these ways", stages="head", choices=("batch", "concept"),
        since="batch")
    contrast_temperature: float = _field(0.07, "temperature of Eq. 4 (0.07)",
        "cosines are divided by it", 1e-6, stages="head", aliases="temperature")
    positive_threshold: float = _field(0.3, "phi+: concepts more similar than this are positives (0.3)",
        "it is compared with cosines", -1.0, 1.0, stages="head")
    negative_threshold: float = _field(0.1, "phi-: concepts less similar than this are negatives (0.1)",
        "it is compared with cosines", -1.0, 1.0, stages="head")
    positive_quantile: float | None = _field(None,
        "phi+ as a quantile of D_M off its diagonal, in place of the constant (None: the constant)",
        "it is the share of similarities that lie below", 0.0, 1.0, stages="head", since=None)
    negative_quantile: float | None = _field(None, "phi- in the same way",
        "it is the share of similarities that lie below", 0.0, 1.0, stages="head", since=None)
    ema_decay: float = _field(0.99, "teacher's share of its own past at each update (0.99)", "it is the share of its "
        "own past that the teacher keeps at each update", 0.0, 1.0, stages="head", aliases="momentum")
    shared_start: bool | None = _field(None, "True: the teacher starts as the student is after its first update, since "
        "in the released code they share storage until then; False: as the student is before it",
        "the teacher starts as the student after its first update, or before it", stages="head", since=False)
    dropout: float = _field(0.1, "share of features dropped while a head trains (0.1)",
        "it is the share of features dropped, and some have to stay", 0.0, 0.999, stages="head")
    clip_norm: float | None = _field(None, "bound of the gradient norm in step 2 (TR 2, MLP 0.1; Cityscapes 1)",
        "gradients are scaled down to this length, and without any length nothing moves", 1e-12, stages="head")
    weight_decay: float | None = _field(None, "Adam's weight decay wherever a head learns (1e-4; Cityscapes 0)",
        "it shrinks the weights, and below 0 it would enlarge them", 0.0, stages="head")
    label_free: bool = _field(True, "True: no label is ever used in training; False: the released code's steps, where "
        "a linear probe's cross-entropy trains the head in step 3 and, by `labels_in_norm`, acts on it in step 2",
        "labels train the head, or they do not", stages="probe")
    labels_in_norm: bool | None = _field(None, "True: step 2 trains a linear probe, too, and bounds both gradients by "
        "one norm; None: as released, True unless label_free", "labels act on the head's bound, or they do not",
        stages="head", since=False)
    probe_clip_norm: float | None = _field(None, "bound of the gradient norm of head and linear probe in step 3, with "
        "labels (COCO-Stuff-27 TR 2, MLP 0.1; Cityscapes 1; other sets 1e9, no bound)",
        "gradients are scaled down to this length, and without any length nothing moves", 1e-12, stages="probe",
        since=None)
    probe_dropout: float | None = _field(None, "share of features dropped while centroids train (None: `dropout`, as "
        "released; 0 without labels in the reading `paper`)", "it is the share of features dropped, and some have to "
        "stay", 0.0, 0.999, stages="probe", since=0.0)
    probe_start: str | None = _field(None, "`uniform` random centroids, as published, or those of `kmeans`",
        "centroids start in these ways", stages="probe", choices=("uniform", "kmeans"), since="uniform")
    probe_steps: int | None = _field(None, "updates of step 3 (TR five epochs, MLP one)",
        "it is a number of updates", 0, stages="probe")
    probe_decay_steps: int | None = _field(None, "the rate of step 3 is halved every so many updates (TR: twice in "
        "all, MLP: never)", "the rate is halved whenever so many updates have been made", 1, stages="probe")
    lr: float = _field(1e-3, "Adam's rate (1e-3)", "it is the length of a step down the loss, and below 0 the loss "
        "would be climbed", 0.0, stages="clusterbook", aliases="learning_rate")
    batch_size: int = _field(16, "pictures an update (16)",
        "an update sees so many pictures, at least one", 1, stages="clusterbook baseline pass", aliases="bs")
    seed: int = _field(0, "every random choice is drawn from it",
        "random choices are drawn from it, and it has 31 bits", 0, 2**31 - 1, stages="clusterbook baseline")
    order_seed: int | None = _field(None, "draws the order of the pictures (None: seed); with it set the same, heads "
        "of several seeds see the same batches and train together (`stages.fit_heads`)",
        "the order of the pictures is drawn from it, and it has 31 bits", 0, 2**31 - 1, stages="clusterbook pass")
    concept_readout: int | None = _field(None, "a third read-out, k-means of so many concepts of the head's features "
        "(0: none)", "it is a number of concepts of the head's features, and 0 leaves this read-out away", 0, 65_536,
        stages="probe", since=0)
    smoothing: float | None = _field(None, "temperature at which a patch's features are averaged, when judged, with "
        "those of patches like it in its picture (0: not at all)",
        "it is a temperature, and 0 smooths nothing", 0.0, stages="evaluation released", since=0.0)
    kmeans_restarts: int = _field(5, "restarts of k-means; the one with the smallest inertia is kept (5)",
        "k-means starts so often, at least once, and the best start is kept", 1, 1000, stages="probe baseline")
    per_image: bool = _field(False, "True: one Hungarian matching a picture, too; its mean mIoU is `miou_per_image`",
        "each picture is matched by itself, too, or it is not", stages=_JUDGE, since=False)
    crf: bool = _field(True, "judge with a dense CRF too",
        "the CRF is a row beside the others, or it is not", stages=_JUDGE)
    crf_iterations: int = _field(10, "mean-field iterations (10)",
        "mean field goes round so often, and settles in some ten rounds", 1, 1000, stages=_JUDGE)
    crf_backend: str = _field("torch", "`torch`, on the run's device; or `pydensecrf`, the published path, where it "
        "is installed", "these are the implementations of the dense CRF", stages=_JUDGE,
        choices=("torch", "pydensecrf"))
    crf_picture: str | None = _field(None, "the CRF's picture: its bytes, `rgb`; or as `released`, blue first, and cut "
        "off to bytes after normalising and back", "the CRF sees the picture in these ways", stages=_JUDGE,
        choices=("rgb", "released"), since="rgb")
    run_dir: str = _field("runs", "where artefacts go (`~`: your home)",
        "what is made is written below it", stages="pass", aliases="output out_dir output_dir")
    device: str = _field("auto", "`auto`, `cpu`, `cuda`, or `mps` (Apple's, which is not tested here)",
        "these are the devices that torch has", stages="pass", choices=("auto", "cpu", "cuda", "mps"),
        aliases="gpu cuda")
    precision: str = _field("no", "`no`, `bf16`, or, on a GPU, `fp16`; `bf16_backbone`, where the backbone's blocks "
        "alone are in bfloat16; or `auto`: that where the device computes with bfloat16, else `no`; the record says "
        "which", "networks run in these number formats", stages="features",
        choices=("no", "bf16", "fp16", "bf16_backbone", "auto"), aliases="fp16 amp")
    cache_gb: float = _field(4.0, "frozen features are kept on disk below this size in GB, and recomputed every epoch "
        "above it", "it is a size on disk, and 0 keeps nothing there", 0.0, stages="pass")
    num_workers: int = _field(0, "processes that read pictures",
        "it is a number of processes that read pictures, and with 0 the run reads them itself", 0, 256, stages="pass")
    checkpoint_steps: int = _field(100, "a killed stage loses at most so many updates",
        "a checkpoint is written whenever so many updates have been made", 1)

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, checked(name, getattr(self, name), _TYPES[name], rule))
        object.__setattr__(self, "run_dir", _place(self.run_dir))
        object.__setattr__(self, "backbone", canonical(self.backbone))
        for name in ("image_mean", "image_std"):
            if (value := three_numbers(name, getattr(self, name))) is not None:
                object.__setattr__(self, name, " ".join(map(repr, value)))
        for name, value in self._presets().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        """What each field may be, but not together with the others."""
        for kind in ("threshold", "quantile"):
            low, high = getattr(self, f"negative_{kind}"), getattr(self, f"positive_{kind}")
            if (low is None) != (high is None):
                raise InputError(f"positive_{kind} and negative_{kind} go together: give both, or neither.")
            if low is not None and low > high:
                raise InputError(f"negative_{kind} {low} must not be above positive_{kind} {high}.")
        if self.dataset == "folder" and not self.folder:
            raise InputError('dataset "folder" needs the parameter folder: a path, or a name below CAUSE_DATA.')
        if self.folder and self.dataset != "folder":
            raise InputError(f'folder {self.folder!r} is given, but dataset is {self.dataset!r}: '
                             'set dataset to "folder", or leave folder empty.')
        if self.layer == 0:
            raise InputError("layer 0 is before the first block: layers count from 1, or from -1, the last.")
        patch = patch_of(self.backbone)
        for name in ("image_size", "train_size"):
            if getattr(self, name) < patch:
                raise InputError(f"{name} {getattr(self, name)} is smaller than a patch of {self.backbone}, {patch} "
                                 "pixels: set it to that or to a multiple.")
        if self.crops == "five" and self.crop_ratio * self.image_size < patch:
            raise InputError(f"crop_ratio {self.crop_ratio} of image_size {self.image_size} is less than a patch of "
                             f"{self.backbone}, {patch} pixels: raise one of them, or set crops to \"none\".")
        for name, given in (("labels_in_norm", self.labels_in_norm), ("probe_clip_norm", self.probe_clip_norm)):
            if given and self.label_free:
                raise InputError(f"{name} {given} lets labels act on training, and label_free is True: set label_free "
                                 f"to False, or leave {name} out.")
        if self.thinning == "picture" and self.thin * patch > min(self.image_size, self.train_size):
            raise InputError('thinning "picture" keeps complete blocks alone, and image_size '
                             f"{self.image_size} and train_size {self.train_size} do not both hold one of thin "
                             f'{self.thin} patches of {patch} pixels: lower thin, or set thinning to "batch".')
        if self.num_classes is not None and 0 < self.concept_readout < self.num_classes:
            raise InputError(f"concept_readout {self.concept_readout} is less than num_classes {self.num_classes}: "
                             "clusters are made of these concepts, so raise it, or set it to 0.")

    def _presets(self) -> dict[str, Any]:
        """What None stands for in this run, for each field that has a preset."""
        preset = PRESETS["*"] | PRESETS.get(self.dataset, {}) | RECIPES[self.recipe] | READINGS[self.reading]
        preset = {name: value[self.head] if isinstance(value, dict) else value for name, value in preset.items()}
        patch, is_tr = patch_of(self.backbone), self.head == "tr"
        if self.reading == "released" and self.backbone.startswith("msn"):
            preset["positions"] = "exact"
        if patch == 14 and self.dataset != "scenes":
            preset["image_size"] = 322  # the multiple of 14 next to 320
        size = self.image_size or preset["image_size"]
        steps = preset["probe_steps"] if self.probe_steps is None else self.probe_steps
        preset["train_size"] = size if is_tr else max(patch, round(0.7 * size / patch) * patch)  # 320 -> 224
        preset["labels_in_norm"] = not self.label_free
        if self.label_free:
            preset["probe_clip_norm"] = None
        preset["probe_dropout"] = 0.0 if self.label_free and self.reading == "paper" else self.dropout
        # TR: five epochs, halved after every second one; MLP: one epoch, never halved.
        preset["probe_decay_steps"] = max(1, round(0.4 * steps) if is_tr else steps)
        return preset | {"order_seed": self.seed}

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> "Experiment":
        """An `Experiment` from names and values, as in a table's line or a stored artefact.

        Raises:
            ValueError: an unknown name (the message proposes the nearest), a wrong type, a value out of range.
        """
        refuse_unknown(parameters, list(RULES), OTHER_NAMES)
        return cls(**parameters)

    def replace(self, **changes: Any) -> "Experiment":
        """The same run with some fields changed. Fields that had their preset take that of the new run."""
        preset = self._presets()
        kept = {name: value for name, value in self.to_dict().items() if name not in preset or value != preset[name]}
        return self.from_dict(kept | changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name; what `from_dict` takes and artefacts store."""
        return dataclasses.asdict(self)

    def key(self, stage: str) -> dict[str, Any]:
        """The fields, with values, that the artefact of `stage` depends on (see `STAGE_FIELDS`).

        Of those, an evaluation of released files depends on none that belongs to training.
        """
        names = _RELEASED if stage == "evaluation" and self.release else STAGE_FIELDS[stage]
        return {name: value for name in names if (value := getattr(self, name)) != RULES[name].since}


def _place(run_dir: str) -> str:
    """run_dir with `~` as the home folder; refused where no folder is or can be."""
    place = os.path.expanduser(run_dir)
    if place.startswith("~"):
        raise InputError(f"Parameter run_dir must begin with a home folder that is known, not {run_dir!r}: write the "
                         "path in full.")
    for path in filter(os.path.isfile, (Path(place), *Path(place).parents)):
        raise InputError(f"Parameter run_dir must be a folder, or where one can be made, not {run_dir!r}: {path} is "
                         "a file.")
    return place


#: Every field's declaration, and what others call the fields.
RULES: dict[str, Rule] = {field.name: field.metadata["rule"] for field in dataclasses.fields(Experiment)}
OTHER_NAMES: dict[str, str] = {alias: name for name, rule in RULES.items() for alias in rule.aliases.split()}
_TYPES = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(Experiment).items()}

#: The fields that each stage's artefact depends on; run_dir, device and the like are not among them. Of frozen
#: features, those beyond the pictures and their size, which their names and fingerprint stand for.
STAGE_FIELDS: dict[str, tuple[str, ...]] = {}
for _stage, _before in _BEFORE.items():
    STAGE_FIELDS[_stage] = tuple(name for name, rule in RULES.items()
                                 if _stage in rule.stages.split() or name in STAGE_FIELDS.get(_before, ()))
_RELEASED = STAGE_FIELDS.pop("released")
#: What decides which tokens each update of a head sees, and how they are come by: heads that agree share one pass.
PASS_FIELDS: tuple[str, ...] = STAGE_FIELDS.pop("pass")

_LINES = [textwrap.fill(f"{name}: {rule.doc}.", 100, initial_indent="    ", subsequent_indent="        ",
                        break_on_hyphens=False) for name, rule in RULES.items()]
Experiment.__doc__ = "\n".join([f"{inspect.cleandoc(Experiment.__doc__ or '')}\n",
                                "Fields, with the published value where there is one:", *_LINES, ""])
