#!/usr/bin/env bash
# pandas 2.2.3 and NumPy 2.1.3: Series.min() of a column of text with an empty cell.
#
# Behaviour: min() and max() of a column of text are a TypeError as soon as one cell is empty, although skipna is True
#   by default: the missing value is a float, which NumPy compares with the text. groupby().min() of the same column is
#   another TypeError, which names neither the column nor the gap. dropna().min() works. pandas 3 skips missing values.
# What most people expect: the least text, as the documentation of skipna says, and as the same call does for numbers
#   and dates. A table from read_csv works until its first empty cell, and a page made with pandas 3 fails elsewhere.
# Seen on 2026-11-28:
#   pandas 2.2.3, complete: a
#   pandas 2.2.3, a gap: TypeError: '<=' not supported between instances of 'str' and 'float'
#   pandas 2.2.3, a gap, by group: TypeError: agg function failed [how->min,dtype->object]
#   pandas 3.0.0, complete: a
#   pandas 3.0.0, a gap: a
#   pandas 3.0.0, a gap, by group: a
# The project drops the empty cells first (chapter 10); Colab has pandas 2.2.3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 2.2.3 3.0.0; do
  "$folder/venv/bin/pip" install --quiet "pandas==$version" "numpy==2.1.3"
  "$folder/venv/bin/python" - "$version" <<'PY'
import io
import sys

import pandas as pd

OLD = {"complete": "a", "a gap": "TypeError: '<=' not supported between instances of 'str' and 'float'",
       "a gap, by group": "TypeError: agg function failed [how->min,dtype->object]"}


def tried(call) -> str:
    """What `call` returns, or how it fails."""
    try:
        return str(call())
    except TypeError as error:
        return f"TypeError: {error}"


complete = pd.read_csv(io.StringIO("group,date\n1,b\n1,a\n"))
gap = pd.read_csv(io.StringIO("group,date\n1,b\n1,a\n1,\n"))
seen = {"complete": tried(lambda: complete["date"].min()), "a gap": tried(lambda: gap["date"].min()),
        "a gap, by group": tried(lambda: gap.groupby("group")["date"].min()[1])}
for what, found in seen.items():
    print(f"pandas {pd.__version__}, {what}: {found}")
assert pd.__version__ == sys.argv[1]
assert seen == (OLD if pd.__version__ < "3" else dict.fromkeys(OLD, "a")), seen
PY
done
