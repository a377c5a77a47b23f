#!/usr/bin/env bash
# papermill 2.7.0: -p with a value that is a name to people, and a number to Python.
#
# Behaviour: papermill tries int() and float() on every value of -p, and both follow Python's grammar for literals. A
#   folder named 2026_11 arrives as the integer 202611, 1_000 as 1000, 007 as 7, and the words nan, inf and infinity as
#   floating-point numbers. The notebook cannot tell what was typed. In a parameters file (-f) the same names go other ways:
#   YAML reads 2026_11 as 202611 too, but nan and inf stay text, and so does 1e5.
# What most people expect: text, since neither a date with an underscore nor the name "inf" looks like a number; or that
#   -p and -f agree. A folder is then made, or looked for, under a name that nobody wrote.
# Seen on 2026-11-27, what the notebook gets:
#   -p: 2026_11 202611, 1_000 1000, 007 7, nan float("nan"), inf float("inf"), 1e5 100000.0
#   -f: 2026_11 202611, 1_000 1000, 007 7, nan "nan", inf "inf", 1e5 "1e5"
#   -r: 2026_11 "2026_11"
# The project refuses a number where a name must be, and names -r (cause_lib/rules.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "papermill==2.7.0"
cd "$folder"
cat > in.ipynb <<'NB'
{"cells": [{"cell_type": "code", "execution_count": null, "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": [],
            "source": ["folder = \"\""]}],
 "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}, "nbformat": 4,
 "nbformat_minor": 5}
NB
"$folder/venv/bin/python" - <<'PY'
import json
import subprocess
from pathlib import Path

WORDS = ("2026_11", "1_000", "007", "nan", "inf", "1e5")


def given(*arguments: str) -> str:
    """What papermill writes into the notebook for the parameter `folder`; no kernel is started."""
    subprocess.run(["venv/bin/papermill", "in.ipynb", "out.ipynb", "--prepare-only", *arguments], check=True,
                   capture_output=True)
    cells = json.loads(Path("out.ipynb").read_text())["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "injected-parameters" in cell["metadata"]["tags"]]
    return source.splitlines()[-1].removeprefix("folder = ").replace("'", '"')


seen = {"-p": {word: given("-p", "folder", word) for word in WORDS}, "-f": {}}
for word in WORDS:
    Path("parameters.yaml").write_text(f"folder: {word}\n")
    seen["-f"][word] = given("-f", "parameters.yaml")
seen["-r"] = {"2026_11": given("-r", "folder", "2026_11")}
for way, found in seen.items():
    print(f"{way}: {', '.join(f'{word} {value}' for word, value in found.items())}")
assert seen == {
    "-p": {"2026_11": "202611", "1_000": "1000", "007": "7", "nan": 'float("nan")', "inf": 'float("inf")', "1e5": "100000.0"},
    "-f": {"2026_11": "202611", "1_000": "1000", "007": "7", "nan": '"nan"', "inf": '"inf"', "1e5": '"1e5"'},
    "-r": {"2026_11": '"2026_11"'}}, seen
PY
