"""Which numeric code a run was made by: `library_version`, and whose checkpoints go on to the same bits.

A checkpoint is bound to the code that can change its bits: every module of the library but those in NOT_NUMERIC; a new
one counts until it is listed there. The code of the scenes is in their fingerprint (data/scenes/fingerprint.py), which
names the folder. What of the code counts, and what is only text: code_digest.py.

`python -m cause_lib.runs.version` prints the present version; with `--parts`, the digest of every definition.
"""

import functools
import sys
from pathlib import Path

from cause_lib import __version__
from cause_lib.code_digest import code_digest, definitions

ROOT = Path(__file__).parents[1]

#: Of the package's files, those whose change changes no bit of a run: faces, settings, sentences, files and folders.
NOT_NUMERIC = frozenset({
    "__init__.py", "__main__.py", "code_digest.py", "config.py", "errors.py", "reference.py", "release.py", "rules.py",
    "segment.py", "segmenter.py", "data/__main__.py", "data/download.py", "data/headers.py", "data/noted.py",
    "data/report.py", "kernels/memory.py", "runs/check.py", "runs/health.py", "runs/integrity.py", "runs/notebook.py",
    "runs/opened.py", "runs/results.py", "runs/store.py", "runs/version.py",
})

#: Digits after the "+" of a version -> versions whose checkpoints it goes on from, to the same bits. A table for
#: changes of the code that change no number; `tests/unit/test_version.py` says when a line is needed. Exceptions:
#: k-means of more than 2^26 points times centroids adds in another order since, and scores of pixels are made of those
#: of patches (masks.py); both differ in their last bits. So does attention in blocks of bfloat16 (kernels/bfloat16.py).
SAME_BITS: dict[str, tuple[str, ...]] = {
    "290d9024": ("0.1.0+aff55197", "0.1.0+f0f37112", "0.1.0+2a84d202", "0.1.0+d36766a1", "0.1.0+ffce4a70",
                 "0.1.0+3765035f", "0.1.0+70626c8f", "0.1.0+7f88255b"),
}


@functools.cache
def library_version() -> str:
    """The library's version, and 8 digits for its numeric code where that is there as source: `0.1.0+1a2b3c4d`."""
    files = numeric_files()
    return f"{__version__}+{code_digest(files)[:8]}" if files else __version__


def numeric_files() -> list[Path]:
    """The library's files that can change the bits of a run."""
    return [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).as_posix() not in NOT_NUMERIC
            and not {ROOT / "data/scenes", ROOT / "use"} & {*path.parents}]


def same_bits(theirs: str, ours: str) -> bool:
    """Whether what the version `theirs` began, the version `ours` ends with the same bits."""
    return theirs == ours or theirs in SAME_BITS.get(ours.partition("+")[2], ())


if __name__ == "__main__":
    print(library_version())
    for path in numeric_files() if "--parts" in sys.argv else ():
        for name, digest in definitions(path):
            print(digest[:8], path.relative_to(ROOT).as_posix(), name)
