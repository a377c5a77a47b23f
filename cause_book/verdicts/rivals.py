"""Chapter 3: on which pictures each method is above k-means on the same tokens, and what has not been run."""

from __future__ import annotations

import pandas as pd

from cause_book.rivals import FLOOR, SAME
from cause_book.verdicts.words import LEVEL


def incomplete(table: pd.DataFrame) -> str:
    """A sentence on the combinations of pictures and backbone that have fewer runs than the others; else empty.

    table: as by `rivals.against_tokens`
    """
    runs = table.drop_duplicates([*SAME[:2], "name", "seed"]).groupby(SAME[:2], sort=False).size()
    short = [f"{count} of {runs.max()} on {dataset} with {backbone.split('.')[0]}"
             for (dataset, backbone), count in runs.items() if count < runs.max()]
    return f"**Not all runs have been made yet:** {', '.join(short)}." if short else ""


def above_tokens(table: pd.DataFrame) -> str:
    """For each method, on how many combinations of data set and backbone it is above k-means on the last block's
    tokens, by its own read-out without CRF.

    table: as by `rivals.against_tokens`
    """
    said, plain = [], table[~table["crf"] & (table["name"] != FLOOR) & table["own"] & table["gained"].notna()]
    for name, part in plain.groupby("name", sort=False):
        gains = part.groupby(["dataset", "backbone"])["gained"].agg(["min", "max", "mean", "size"])
        above, below = int((gains["min"] > LEVEL).sum()), int((gains["max"] < -LEVEL).sum())
        alone = int((gains["size"] == 1).sum())
        said.append(f"- **{name}** is above k-means on the last block's tokens for every seed on {above} of "
                    f"{len(gains)} combinations of pictures and backbone, below on {below}, and undecided on "
                    f"{len(gains) - above - below}. The mean difference is {gains['mean'].mean():+.1f} points of mIoU."
                    + f" {alone} of these have one seed." * bool(alone))
    return "\n".join(said)
