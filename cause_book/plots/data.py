"""Chapters 4 and 8: what a data set holds, from `cause_lib.data.report`.

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
def dataset_report(report):
    """Each class's share of the labelled pixels, and below it the pictures' sizes, by split: an array of Axes, one a
    panel. Where there are labels alone, or sizes alone, one panel.

    report: a `cause_lib.data.report.Report`; at most 30 classes are shown, those with the largest shares
    """
    shares = {split: facts["labels"].get("shares", {}) for split, facts in report.splits.items()}
    sizes = {split: facts["common_sizes"] for split, facts in report.splits.items() if facts.get("common_sizes")}
    total = {name: sum(each.get(name, 0) for each in shares.values()) for each in shares.values() for name in each}
    names = sorted(total, key=lambda name: -total[name])[:MOST]
    height = max(2.8, 0.1 * len(names) * (len(shares) + 0.6) + 1.2)
    drawn = [draw for draw, there in ((_draw_shares, names), (_draw_sizes, sizes)) if there] or [_draw_sizes]
    axes = panels(len(drawn), 1, figsize=(6.4, height * bool(names) + 3.6 * (_draw_sizes in drawn)))[:, 0]
    for ax, draw in zip(axes, drawn):
        draw(ax, list(report.splits), shares if draw is _draw_shares else sizes, names)
        if len(shares) > 1:
            ax.legend(loc="lower right")
    if len(total) > MOST:
        axes[0].set_title(f"The {MOST} largest of {len(total)} classes")
    return axes


def _draw_shares(ax, splits, shares, names):
    thick = 0.8 / len(splits)
    for place, split in enumerate(splits):
        ax.barh(np.arange(len(names)) - 0.4 + (place + 0.5) * thick,
                [100 * shares[split].get(name, 0) for name in names], thick * 0.92, hatch=HATCHES[place % 4],
                edgecolor="white", linewidth=0, color=CYCLE[place % 8], label=split)
    ax.set(title="Shares of the classes", xlabel="share of the labelled pixels (%)", yticks=range(len(names)),
           yticklabels=names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def _draw_sizes(ax, splits, sizes, _):
    for place, split in enumerate(splits):
        widths, heights, counts = np.array(sizes.get(split) or np.zeros((0, 3))).T
        ax.scatter(widths, heights, s=30 + 200 * counts / max(1, counts.sum()), marker=MARKERS[place % 8], alpha=0.6,
                   color=CYCLE[place % 8], label=split)
    far = 1.1 * max((max(w, h) for each in sizes.values() for w, h, _ in each), default=1)
    ax.set(title="Picture sizes; area: number of pictures", xlabel="width (pixels)", ylabel="height (pixels)",
           xlim=(0, far), ylim=(0, far))
    if not sizes:
        ax.text(0.5, 0.5, "no pictures", transform=ax.transAxes, ha="center", va="center")


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
        first, *_ = dataset_report(SimpleNamespace(**found))
    except OSError as error:
        parser.error(f"'{given.source}' cannot be read ({error.strerror}): {way}")
    except (ValueError, TypeError, LookupError, AttributeError):
        parser.error(f"'{given.source}' is no report on a data set as JSON: {way}")
    try:
        first.figure.savefig(given.target, dpi=150)
    except (OSError, ValueError) as error:  # a folder that is not there, an ending that names no format
        parser.error(f"'{given.target}' cannot be written ({error}): name a file such as figure.png, in a folder that "
                     "is there")


if __name__ == "__main__":
    main()
