"""An edition of the book: the same chapters on other pictures, in a tree of its own.

    make book DATASET=camvid BACKBONE=dino_vits16       _build/camvid-dino_vits16/html
    make book DATASET=folder FOLDER=holiday             _build/folder-holiday-bundled/html

Each chapter with a parameter `dataset` gets those of the edition that it has. The others keep generated pictures or
simulated tables, and a note below their title says why. Every page says which edition it is.
"""

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cause_lib.config import OTHER_NAMES, RULES, Experiment
from cause_lib.errors import InputError
from cause_lib.rules import refuse_unknown

#: What fits photographs and a CPU, where the sizes that are given (`SIZES=`) do not say another thing.
PHOTOGRAPHS = {"image_size": 224, "train_images": 120, "test_images": 60}
#: Why a page keeps its data, by its name without a number.
KEPT = {"quickstart": "it shows the first call, on pictures that come along",
        "causal": "a known confounder exists in generated scenes only",
        "frontdoor": "the truth is known in simulated tables and in generated scenes only",
        "simulator": "it is a simulation",
        "granularity": "it needs labels at three levels, which only generated scenes have",
        "backbone": "it is the card of the bundled backbone",
        "live": "it computes in your browser, with the bundled backbone"}
LABELS = "alive"  # the chapter that evaluates with labels throughout
NAMED = ("dataset", "backbone", "folder")  # which the command says, and no file of sizes
TIMEOUT = 86_400  # seconds a cell; the default's are for generated pictures


@dataclass(frozen=True)
class Edition:
    """What the book is made of: `values` for parameters cells, and what the pages say of them."""

    values: dict[str, Any]
    experiment: Experiment
    train: int
    test: int
    labelled: bool
    fingerprint: str  # of pictures and weights

    @property
    def pictures(self) -> str:
        """The data set as a person calls it, and in the folder's name."""
        return f"folder {self.experiment.folder}" if self.experiment.folder else self.experiment.dataset

    @property
    def name(self) -> str:
        """Of the folder in _build."""
        return re.sub(r"[^\w.-]+", "-", f"{self.pictures}-{self.experiment.backbone}")

    @property
    def facts(self) -> str:
        e = self.experiment
        return (f"data set {self.pictures}, backbone {e.backbone}, {self.train} training and {self.test} test pictures "
                f"of {e.image_size} x {e.image_size} pixels, seed {e.seed}" + ", no labels" * (not self.labelled))

    def sizes(self, chapters: Mapping[str, Set[str]], given: Mapping[str, dict]) -> dict[str, dict]:
        """The values of each chapter's parameters.

        Args:
            chapters: the names of parameters of each chapter or page.
            given: chapter, or `every`, -> parameter -> value, in place of the edition's sizes.

        Raises:
            ValueError: a field of `Experiment` has another type or range; one sentence.
        """
        every, fields = given.get("every", {}), {name: value for name, value in self.values.items() if name in RULES}
        found = {}
        for chapter, names in chapters.items():
            values = every | (self.values if self.takes(chapter, names) else {})
            found[chapter] = {name: value for name, value in values.items() if name in names} | given.get(chapter, {})
            if "run" in names:  # a page on the run of the evaluation
                found[chapter] = {"run": fields | given.get(chapter, {}).get("run", {})}
        for chapter, values in given.items():
            fields = {name: value for name, value in values.items() if name in RULES}
            try:
                self.experiment.replace(**fields, **values.get("run", {}))
            except ValueError as error:
                raise InputError(f"the sizes of {chapter}: {error}") from error
        return {chapter: values for chapter, values in found.items() if values}

    def takes(self, chapter: str, names: Set[str]) -> bool:
        """Whether a chapter is computed on the edition's pictures."""
        return "dataset" in names and (self.labelled or unnumbered(chapter) != LABELS)

    def reason(self, page: str) -> str | None:
        """Why a page keeps its data; None where it does not, or has none."""
        if unnumbered(page) == LABELS and not self.labelled:
            return f"it evaluates with labels, and {self.pictures} has none"
        return KEPT.get(unnumbered(page))

    def mark(self, tree: Path) -> None:
        """Says on the pages in `tree` which edition they are of: in the head of each, at length on the first."""
        path = tree / "_config.yml"
        config = yaml.safe_load(path.read_text(encoding="utf8"))
        config["title"] += f" ({self.pictures})"
        config["html"]["announcement"] = f"Edition: {self.facts}."
        config["execute"]["timeout"] = TIMEOUT
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf8")
        first = (f"This is an edition of the book: {self.facts}. Figures, scores and verdicts of the chapters were "
                 "computed on these pictures. A page that keeps generated pictures or simulated tables says so. Where the "
                 "text mentions the *default edition*, it means generated scenes and the bundled backbone.")
        if not self.labelled:
            first += " These pictures have no labels, so there are masks and no scores."
        for path in sorted([*tree.glob("notebooks/*.ipynb"), *tree.glob("book/*.md")]):
            if path == tree / "book/intro.md":
                add_note(path, first)
            elif why := self.reason(path.stem):
                add_note(path, "This page is that of the default edition, on generated pictures or simulated tables: "
                         f"{why}.")


def unnumbered(page: str) -> str:
    """A chapter's name without the number that it begins with."""
    return re.sub(r"^\d+_", "", page)


def read_sizes(path: Path | None, chapters: Mapping[str, Set[str]]) -> dict[str, dict]:
    """The sizes that are given: chapter or page, or `every`, -> parameter -> value; none without a file.

    Raises:
        ValueError: one sentence on a file that cannot be read, or a name in it that no chapter has.
    """
    if path is None:
        return {}
    form = "write lines such as `every: {image_size: 224, seed: 1}`, as in tests/book/sizes.yaml"
    try:
        given = yaml.safe_load(path.read_text(encoding="utf8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise InputError(f"{path}, the file of sizes, cannot be read ({reason}): {form}.") from error
    if not isinstance(given, dict) or not all(isinstance(values, dict) for values in given.values()):
        raise InputError(f"{path} does not have the form of sizes, a chapter or `every` and its parameters: {form}.")
    known = dict(chapters) | {"every": set().union(*chapters.values()) - {"run"}}
    for chapter, values in given.items():
        if chapter not in known:
            raise InputError(f"{path} names {chapter!r}, which is none of {', '.join(sorted(known))}.")
        if not isinstance(run := values.get("run", {}), dict):
            raise InputError(f"{path}, {chapter}: run must be fields and their values, not {run!r}.")
        if named := [name for name in NAMED if name in values | run]:
            raise InputError(f"{path} gives {named[0]}: give it to the command, as {named[0].upper()}=, and leave it out "
                             "of the sizes.")
        try:
            refuse_unknown(values, sorted(known[chapter]), OTHER_NAMES)
        except InputError as error:
            raise InputError(f"{path}, {chapter}: {error}") from None
    return given


def add_note(path: Path, text: str) -> None:
    """Puts a note below the title of a chapter or page."""
    import nbformat

    def noted(source: str) -> str:
        return re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n:::{{note}}\n{text}\n:::", source, count=1, flags=re.M)

    if path.suffix == ".md":
        path.write_text(noted(path.read_text(encoding="utf8")), encoding="utf8")
        return
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = noted(notebook.cells[0].source)
    nbformat.write(notebook, path)


def open_edition(dataset: str, backbone: str, folder: str, sizes: Mapping[str, Any]) -> Edition:
    """The edition of these pictures, after everything that a chapter would refuse; data and weights are fetched.

    Folders are made absolute in CAUSE_DATA and CAUSE_WEIGHTS, since chapters run in folders of their own, and pages
    should not show where pictures lie on this machine.

    Args:
        dataset, backbone, folder: as in `Experiment`; "" for its default.
        sizes: fields in place of `PHOTOGRAPHS`.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: one sentence on what is misspelt or missing.
    """
    named = {"dataset": dataset, "backbone": backbone, "folder": folder}
    values = {name: value for name, value in named.items() if value}
    Experiment.from_dict(values)  # at once; the rest imports PyTorch
    from cause_lib.backbones import weights_fingerprint
    from cause_lib.data.folder import find_root
    from cause_lib.runs.check import check
    from cause_lib.runs.features import open_dataset

    if place := os.environ.get("CAUSE_DATA"):
        os.environ["CAUSE_DATA"] = os.path.abspath(os.path.expanduser(place))
    if place := os.environ.get("CAUSE_WEIGHTS"):
        os.environ["CAUSE_WEIGHTS"] = os.path.abspath(os.path.expanduser(place))
    if folder:
        root = find_root(folder)
        os.environ["CAUSE_DATA"], values["folder"] = str(root.parent), root.name
    values = (PHOTOGRAPHS if dataset not in ("", "scenes") else {}) | values | dict(sizes)
    experiment = Experiment.from_dict({name: value for name, value in values.items() if name in RULES})
    for head in ("tr", "mlp"):
        check(experiment.replace(head=head))
    whole = experiment.replace(crops="none")
    train, test = (open_dataset(whole, role, whole.image_size) for role in ("train", "test"))
    seen = f"{train.fingerprint} {test.fingerprint} {weights_fingerprint(experiment.backbone)}"
    return Edition(values, experiment, len(train), len(test), test.has_labels, seen)
