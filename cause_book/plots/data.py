"""Chapters 2 and 5: what a data set holds, from `cause_lib.data.report`.

    python -m cause_lib.data check holiday --json > holiday.json
    python -m cause_book.plots.data holiday.json holiday.png

draws the report on one data set into a file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cause_book.plots.style import CYCLE, HATCHES, MARKERS, in_style, panels

MOST = 30  # classes shown


@in_style
def dataset_report(report, axes=None):
    """Two panels, an array of their Axes: each class's share of the labelled pixels, and the pictures' sizes, by split.

    report: a `cause_lib.data.report.Report`; at most 30 classes are shown, those with the largest shares
    axes: two Axes to draw into; None: a new figure
    """
    shares = {split: facts["labels"].get("shares", {}) for split, facts in report.splits.items()}
    sizes = {split: np.array(facts.get("common_sizes") or np.zeros((0, 3))) for split, facts in report.splits.items()}
    total = {name: sum(each.get(name, 0) for each in shares.values()) for each in shares.values() for name in each}
    names = sorted(total, key=lambda name: -total[name])[:MOST]
    height = max(2.8, 0.1 * len(names) * (len(shares) + 0.6) + 1.2)
    left, right = axes = panels(1, 2, figsize=(9.6, height))[0] if axes is None else axes
    thick = 0.8 / max(1, len(shares))
    for place, split in enumerate(report.splits):
        style = {"color": CYCLE[place % 8], "label": split}
        left.barh(np.arange(len(names)) - 0.4 + (place + 0.5) * thick,
                  [100 * shares[split].get(name, 0) for name in names], thick * 0.92, hatch=HATCHES[place % 4],
                  edgecolor="white", linewidth=0, **style)
        widths, heights, counts = sizes[split].T
        right.scatter(widths, heights, s=30 + 200 * counts / max(1, counts.sum()), marker=MARKERS[place % 8],
                      alpha=0.6, **style)
    title = f"The {MOST} largest of {len(total)} classes" if len(total) > MOST else "What the labels hold"
    left.set(title=title, xlabel="share of the labelled pixels (%)", yticks=range(len(names)))
    left.set_yticklabels(names)
    left.set_ylim(max(1, len(names)) - 0.4, -0.6)
    left.grid(axis="y", visible=False)
    far = 1.1 * max((float(each[:, :2].max()) for each in sizes.values() if len(each)), default=1.0)
    right.set(title="Sizes: the larger a mark, the more pictures", xlabel="width (pixels)", ylabel="height (pixels)",
              xlim=(0, far), ylim=(0, far))
    for ax, there, why in ((left, names, "no label, or void alone"), (right, far > 1.1, "drawn at any size")):
        if not there:
            ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center")
            ax.set(xticks=[], yticks=[])
    if len(shares) > 1:
        (left if names else right).legend(fontsize=9, loc="lower right")
    return axes


def main(arguments: list[str] | None = None) -> None:
    """Draws the report in a JSON file, of one data set, into a picture; `arguments` are the command line's."""
    parser = argparse.ArgumentParser(prog="python -m cause_book.plots.data", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="REPORT.json", help="what `cause_lib.data check NAME --json` prints")
    parser.add_argument("target", metavar="FIGURE.png", help="the picture to write; .pdf and .svg are known, too")
    given = parser.parse_args(arguments)
    way = "write one with `python -m cause_lib.data check NAME --json`"
    try:
        reports = json.loads(Path(given.source).read_text(encoding="utf-8-sig"))
        if len(reports) != 1:
            parser.error(f"'{given.source}' holds {len(reports)} reports on data sets, not one: {way}, a NAME a file")
        (found,) = reports.values()
        left, _ = dataset_report(SimpleNamespace(**found))
    except OSError as error:
        parser.error(f"'{given.source}' cannot be read ({error.strerror}): {way}")
    except (ValueError, TypeError, LookupError, AttributeError):
        parser.error(f"'{given.source}' is no report on a data set as JSON: {way}")
    try:
        left.figure.savefig(given.target, dpi=150)
    except (OSError, ValueError) as error:  # a folder that is not there, an ending that names no format
        parser.error(f"'{given.target}' cannot be written ({error}): name a file such as figure.png, in a folder that "
                     "is there")


if __name__ == "__main__":
    main()
