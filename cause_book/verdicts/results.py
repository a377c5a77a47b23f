"""Chapter 9: means and ranges over seeds, and differences that are paired by seed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from cause_book.verdicts.words import direction, points
from cause_lib.config import RULES, STAGE_FIELDS

TOKENS = "k-means on tokens"
LINE = ["method", "recipe", "readout", "settings"]


def apart(records: Sequence[Mapping[str, Any]], lines: Sequence[Hashable]) -> list[str]:
    """Of each run, what tells it from runs of its line with other settings, as "head_steps 40 and 2 more"; no seed.

    records: of each run, as by `stages.read_record`
    lines: of each run, what names its line: data set, method, read-out, ...
    """
    settings = pd.DataFrame(map(_settings, records), dtype=object).map(str)
    said = pd.Series("", index=settings.index, dtype=object)
    for _, part in settings.groupby(pd.Series(map(str, lines), index=settings.index, dtype=object)):
        part = part.loc[:, part.nunique() > 1]
        part = part[sorted(part, key=lambda name: not name.endswith("steps"))]  # updates are named first
        most = len(part.columns)
        all_of = len(part.drop_duplicates())
        few = next((n for n in range(1, most) if len(part.iloc[:, :n].drop_duplicates()) == all_of), most)
        more = f" and {most - few} more" * (few < most)
        said[part.index] = [", ".join(f"{name} {value}" for name, value in row.items()) + more
                            for _, row in part.iloc[:, :few].iterrows()]
    return said.tolist()


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers depend on, without seeds and what has a column of its own; of a rival with its settings."""
    given, fields = record["experiment"], STAGE_FIELDS.get(record["stage"], STAGE_FIELDS["baseline_evaluation"])
    names = [name for name in RULES if name in fields and name not in ("seed", "order_seed", "crf", "per_image")]
    return {name: given.get(name, RULES[name].since) for name in names} | record.get("notes", {}).get("settings", {})


def spread(values: pd.Series) -> str:
    """A mean, and in brackets the lowest and the highest; of one seed it says so; "-" where one is missing."""
    if not len(values) or not values.notna().all():
        return "-"
    if len(values) == 1:
        return f"{values.mean():.1f} (one seed)"
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})"


def baselines(plain: pd.DataFrame, backbone: str, recipe: str) -> str:
    """Each method of a backbone beside k-means on its tokens, and the gain of the best beside that of the backbone.

    plain: a line a run without CRF: dataset, backbone, method, recipe, readout, settings (see `apart`), seed, mIoU and
        accuracy in per cent; the backbone of random weights is `backbone`.random
    backbone: of the runs that are compared
    recipe: the one that need not be named
    """
    said = []
    for dataset, part in plain.dropna(subset=["mIoU"]).groupby("dataset"):
        floor, untrained = (part[(part["backbone"] == name) & (part["method"] == TOKENS)]
                            for name in (backbone, f"{backbone}.random"))
        runs = part[(part["backbone"] == backbone) & (part["method"] != TOKENS)]
        both = runs.merge(floor, on="seed", suffixes=("", " of tokens"))
        if both.empty:
            continue
        said.append(f"On {dataset}, without CRF, compared with **k-means on the tokens** (mIoU "
                    f"{spread(floor['mIoU'])}, accuracy {spread(floor['accuracy'])}):\n\n"
                    + "\n".join(_beside_tokens(both, recipe)))
        if both["seed"].nunique() == 1:
            said.append("**One seed does not establish any of these differences.**")
        by_seed = floor.merge(untrained, on="seed", suffixes=("", " of random"))
        if len(by_seed) and not by_seed["seed"].duplicated().any():
            gains = both.assign(gain=both["mIoU"] - both["mIoU of tokens"]).groupby(LINE)["gain"]
            name = gains.mean().idxmax()
            said.append("Training the backbone changes k-means by "
                        f"{points((by_seed['mIoU'] - by_seed['mIoU of random']).tolist())} points of mIoU. The best "
                        f"of these heads ({', '.join(filter(None, name))}) adds "
                        f"{points(gains.get_group(name).tolist())} points.")
    return "\n\n".join(said) or "No labelled run has a head and a baseline of one backbone."


def _beside_tokens(both: pd.DataFrame, recipe: str) -> Iterator[str]:
    for (method, of, readout, settings, floor), part in both.groupby([*LINE, "settings of tokens"], sort=False):
        changes = {score: (part[score] - part[f"{score} of tokens"]).tolist() for score in ("mIoU", "accuracy")}
        listed = ", ".join(f"{direction(each)} in {score} ({points(each)})" for score, each in changes.items())
        yield (f"- {method}{'' if of == recipe else f' (recipe {of})'}, read-out {readout}"
               f"{settings and f', {settings}'}{floor and f', beside tokens with {floor}'}: {listed}")


def paired(miou: pd.DataFrame, names: Mapping[str, str], floor: pd.Series) -> str:
    """Differences of kept runs, paired by seed: between the read-outs of a method, and between TR and MLP.

    miou: in per cent, a row a seed, columns (method, readout)
    names: readout -> as shown
    floor: mIoU of the baseline of this run, in per cent, which is not paired; may be empty
    """
    asked = [((method, "kmeans"), (method, "modularity"), f"{method}, k-means minus modularity")
             for method in sorted({method for method, _ in miou})]
    asked += [(("CAUSE-TR", readout), ("CAUSE-MLP", readout), f"TR minus MLP, both by {shown}")
              for readout, shown in names.items()]
    said, seeds = [], []
    for one, other, what in asked:
        if one in miou and other in miou and len(change := (miou[one] - miou[other]).dropna().tolist()):
            word = {"above": "positive for every seed", "below": "negative for every seed"}.get(
                direction(change, 0), "undecided, not of one sign")
            said.append(f"- {what}: {word} ({points(change)} points)")
            seeds.append(len(change))
    if not said:
        return "So there are no differences to pair."
    for column in miou if len(floor) else ():
        values = miou[column].dropna()
        said.append(f"- {column[0]}, {names[column[1]]}: {(values > floor.max()).sum()} of {len(values)} seeds above "
                    f"the baseline of this run ({spread(floor)}; not paired)")
    few = min(seeds)
    said.append("\n**One seed does not establish any of these differences.**" if few == 1 else
                f"\nWith {few} seeds, the probability that chance alone puts all of a difference on one side is "
                f"{2 / 2**few:.0%} (sign test, two-sided).")
    return "\n".join(said)


def heads_and_seeds(heads: Mapping[str, pd.Series], where: str) -> str:
    """Whether heads differ more than the seeds of one head: heads: method -> mIoU of its seeds, in per cent."""
    means = [values.mean() for values in heads.values()]
    between, within = max(means) - min(means), max(values.max() - values.min() for values in heads.values())
    said = f"{where}: {between:.1f} points between heads"
    if min(map(len, heads.values())) == 1:
        return f"{said}; of a head with one seed the spread is not known"
    word = "more" if round(between, 1) > round(within, 1) else "no more"
    return f"{said}, {within:.1f} between seeds: heads differ {word} than seeds"
