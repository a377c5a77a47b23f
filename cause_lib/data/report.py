"""What a data set holds, said before any work: `print(report("folder", folder="holiday"))`.

Headers of all files are read, digests of files of equal size, and the pixels of some labels: quick for many thousands.
`python -m cause_lib.data check holiday` prints it, with `--json` as data, with `--full` after decoding every file.
"""

import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from cause_lib.data import check_dataset, load_dataset
from cause_lib.data.folder import find_labels, find_root, find_split, listed_classes, splits_of
from cause_lib.data.headers import look_at
from cause_lib.data.images import ELONGATED
from cause_lib.data.labels import what_is_odd
from cause_lib.data.published import COUNTS
from cause_lib.data.noted import digest_by
from cause_lib.data.source import LABEL_SUFFIXES, PictureFiles, digest_of, endings, list_files, list_pictures, spread
from cause_lib.errors import NotFound

LOOK, DRAWN, COMMON = 500, 24, 200  # labels decoded a split, scenes drawn of one, and sizes listed


@dataclass
class Report:
    """What `report` found: `str()` is a text for people, `to_dict()` holds the same as JSON types.

    Attributes: `name`; `published`, sentences that count a published set, and whether it is `whole`; `splits`, split ->
    its facts; `copies`, pictures that are there more than once; `remarks`, sentences on what may be meant; `refused`,
    sentences on what a run would refuse.
    """

    name: str
    published: list[str] = field(default_factory=list)
    whole: bool = True
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [*(self.published or [self.name])]
        for split, facts in self.splits.items():
            lines.append(f"{split}: {facts['pictures']} pictures")
            lines += [textwrap.fill(line, 99, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
                      for line in _lines(facts)]
        lines += [f"remark: {said}" for said in self.remarks] + [f"to be mended: {said}" for said in self.refused]
        return "\n".join(lines + ["nothing has to be mended before a run"] * (not self.refused))


def report(name: str, *, folder: str = "", full: bool = False) -> Report:
    """Looks at all splits of the data set `name` (with "folder", at `folder`); fetches nothing.

    Args:
        name: as for `load_dataset`. folder: for "folder", a path or a name below $CAUSE_DATA.
        full: decode every picture and every label, instead of headers and at most 500 labels a split.

    Returns:
        The facts, the remarks, and what a run would refuse; nothing that the files hold is raised.

    Raises:
        ValueError: no such data set. FileNotFoundError: no such folder.
    """
    found, odd, used = Report(folder or name), Counter(), defaultdict(list)
    root = find_root(folder) if name == "folder" else None
    if name in COUNTS:
        found.whole, found.published = check_dataset(name)
    classes: Sequence[str] = []
    for split in COUNTS.get(name, ("train", "val")) if root is None else splits_of(root) or ("all",):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if name == "scenes":
                    classes, facts, pixels = _drawn(split)
                else:
                    files, classes, facts = _of_folder(root, split) if root else _of_published(name, split)
                    pixels, wrong = _look(files, facts, full)
                    found.refused += [f"{split}: {len(wrong)} of {facts['pictures']} cannot be used; the first: "
                                      f"{wrong[0]}"] if wrong else []
                    used[split] += files.images
                found.splits[split] = facts
                odd += pixels
                facts["labels"] |= _shares(pixels, classes)
            except (ValueError, OSError, RuntimeError) as error:
                found.refused += [str(error)] * (str(error) not in found.refused)
        found.remarks += dict.fromkeys(str(warning.message) for warning in caught)
    if root and any(odd.values()) and (said := what_is_odd(odd, classes, str(root))):
        found.remarks.append(said)
    found.copies = _copies(used)
    found.remarks += _remarks(found)
    return found


def _of_published(name: str, split: str) -> tuple[PictureFiles, list[str], dict[str, Any]]:
    dataset = load_dataset(name, split, image_size=1, download=False)
    return dataset.source.read, dataset.classes, {"pictures": len(dataset), "labels": {}}


def _of_folder(root: Path, split: str) -> tuple[PictureFiles, list[str], dict[str, Any]]:
    """The files of a split as `open_folder` has them, before it reads a label; and what it passes over."""
    home, below = find_split(root, split)
    if not (images := list_pictures(below)):
        raise NotFound(f"'{below}' holds no pictures")
    labels = find_labels(images, home, below)
    _, classes, _, codes = listed_classes(root, home)
    facts = {"pictures": len(images), "passed_over": _some(path.name for path in list_files(below, endings())[1])}
    bare = [image.name for image, label in zip(images, labels or ()) if label is None]
    facts["labels"] = {"unlabelled": _some(bare)} if labels else {}
    place = home / "labels" / below.relative_to(home / "images")
    if labels and place.is_dir():
        mine = {*labels}
        facts["labels"]["stray"] = _some(p.name for p in list_files(place, LABEL_SUFFIXES)[0] if p not in mine)
    return PictureFiles(tuple(images), labels and tuple(labels), codes), classes, facts


def _drawn(split: str) -> tuple[list[str], dict[str, Any], Counter]:
    dataset = load_dataset("scenes", split, image_size=64, limit=DRAWN)
    pixels = _sum(torch.bincount(item["label"].flatten() + 1) for item in dataset)
    return dataset.classes, {"pictures": len(load_dataset("scenes", split, image_size=64)), "drawn": "at any size",
                             "labels": {"looked_at": DRAWN}}, pixels


def _look(files: PictureFiles, facts: dict[str, Any], full: bool) -> tuple[Counter, list[str]]:
    """Adds to `facts` what headers say; class -> pixels in the labels looked at, and why pictures cannot be used."""
    looks = look_at(files, full=full)
    names, images = [path.name for path in files.images], [look.image for look in looks if look.image]
    sizes = sorted((image.size for image in images), key=lambda size: size[0] * size[1])
    long = [name for name, (image, *_) in zip(names, looks) if image and max(image.size) > ELONGATED * min(image.size)]
    wrong = [look.fault for look in looks if look.fault]
    facts |= {"kinds": dict(Counter(image.kind for image in images).most_common()),
              "sizes": {word: list(sizes[at]) for word, at in (("smallest", 0), ("median", len(sizes) // 2),
                                                               ("largest", -1))} if sizes else {},
              "common_sizes": [[*size, count] for size, count in Counter(sizes).most_common(COMMON)],
              "elongated": _some(long), "turned": sum(image.turned for image in images),
              "unusable": _some(name for name, look in zip(names, looks) if look.fault)}
    labels = [path for path, look in zip(files.labels or (), looks) if path and not look.fault]
    facts["labels"] |= {"kinds": dict(Counter(look.label.kind for look in looks if look.label).most_common()),
                        "other_size": sum(bool(look.image and look.label and look.image.size != look.label.size)
                                          for look in looks)}
    chosen, counts = spread(labels, None if full else LOOK), []

    def read(path: Path) -> torch.Tensor | str:
        try:
            return torch.bincount(files.codes.read(path).flatten() + 1)
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for one in tqdm(pool.map(read, chosen), total=len(chosen), desc="labels", delay=2, leave=False):
            (wrong if isinstance(one, str) else counts).append(one)
    facts["labels"] |= {"count": len(labels), "looked_at": len(chosen)}
    return _sum(counts), wrong


def _sum(counts: Iterable[torch.Tensor]) -> Counter:
    """Class -> pixels, -1 void, from counts of each picture that begin with void."""
    total: Counter = Counter()
    for one in counts:
        total.update({i - 1: count for i, count in enumerate(one.tolist()) if count})
    return total


def _shares(pixels: Counter, classes: Sequence[str]) -> dict[str, Any]:
    """Void's share of all pixels, each class's share of the others, the largest first, and the classes of none."""
    judged = sum(count for i, count in pixels.items() if i >= 0)
    names = {i: classes[i] if i < len(classes) else f"class {i}" for i in pixels if i >= 0}
    return {} if not pixels else {
        "void": pixels[-1] / sum(pixels.values()),
        "shares": {names[i]: count / judged for i, count in pixels.most_common() if i >= 0},
        "never": [name for i, name in enumerate(classes) if not pixels.get(i)]}


def _some(names: Iterable[str]) -> dict[str, Any]:
    names = list(names)
    return {"count": len(names), "first": names[:3]}


def _copies(used: dict[str, list[Path]]) -> dict[str, dict[str, Any]]:
    """Groups of pictures that are the same byte for byte; only files of equal size and end are read as a whole."""
    groups = [[(split, path) for split, paths in used.items() for path in paths if path.is_file()]]
    for part_of in (lambda path: path.stat().st_size, _end_of, lambda path: digest_by(path, path.stat(), digest_of)):
        finer = []
        for group in groups:
            parts = defaultdict(list)
            for split, path in group:
                with suppress(OSError):
                    parts[part_of(path)].append((split, path))
            finer += [part for part in parts.values() if len(part) > 1]
        groups = finer
    leaks = [len({split for split, _ in group}) > 1 for group in groups]
    return {where: _some([str(path) for _, path in group] for group, leak in zip(groups, leaks) if leak == wanted)
            for where, wanted in (("several_splits", True), ("one_split", False))}


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read()


def _remarks(found: Report) -> Iterator[str]:
    """Sentences on facts that opening the data set would not have warned of."""
    for split, facts in found.splits.items():
        for where, said in (
                (facts.get("elongated"), f"are more than {ELONGATED} times as long as they are short, and are cut"),
                (facts["labels"].get("stray"), "files in labels/ belong to no picture, and do not count")):
            if where and where["count"]:
                yield f"{split}: {where['count']} {said} (the first is '{where['first'][0]}')"
    for where, said in (("several_splits", "in several splits, byte for byte (the first: {}), so that scores say less "
                                           "of new pictures: take them out of all splits but one"),
                        ("one_split", "there more than once, byte for byte (the first: {}), and count as often")):
        if (copies := found.copies[where])["count"]:
            yield f"{copies['count']} pictures are {said.format(' and '.join(map(repr, copies['first'][0][:2])))}"


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts of a split in words, a line each."""
    labels, sizes = facts["labels"], facts.get("sizes")
    lines = [f"sizes: {', '.join(f'{word} {w} x {h}' for word, (w, h) in sizes.items())}"] if sizes else []
    for what, kinds in (("pictures", facts.get("kinds")), ("labels", labels.get("kinds"))):
        lines += [f"{what}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"] if kinds else []
    lines += [f"{facts['turned']} are turned upright by the camera's mark (EXIF)"] if facts.get("turned") else []
    lines += [f"drawn {facts['drawn']}"] if "drawn" in facts else []
    lines += [f"{labels['other_size']} labels differ in size from their pictures"] if labels.get("other_size") else []
    for what, where in (("passed over", facts.get("passed_over")), ("cannot be used", facts.get("unusable")),
                        ("trained on and not judged, without a label", labels.get("unlabelled"))):
        lines += [f"{what}: {_few(where['first'], where['count'], 3)}"] if where and where["count"] else []
    if "shares" in labels:
        shares = [f"{name} {share:.1%}" for name, share in labels["shares"].items()]
        lines += [f"classes in {labels['looked_at']} of {labels.get('count', facts['pictures'])} labels: "
                  f"{_few(shares, len(shares), 40)}", f"void: {labels['void']:.1%} of all pixels"]
        lines += [f"without a pixel there: {_few(labels['never'], len(labels['never']), 12)}"] * bool(labels["never"])
    elif not labels.get("kinds"):
        lines.append("no labels: there are masks and no scores")
    return lines


def _few(names: Sequence[str], count: int, most: int) -> str:
    return f"{count} ({', '.join(names[:most])}{', ...' * (count > most)})" if count else "none"
