#!/usr/bin/env bash
# papermill 2.7.0: an equals sign in the comment of a parameter.
#
# Behaviour: papermill reads a parameters cell line by line with a regular expression, not with Python's grammar. A line
#   `size = 5  # such as a=1` is valid Python, but "Unable to parse": the parameter is missing from --help-notebook and
#   inspect_notebook, and whoever sets it is told that it is unknown, although it is set. So are `(size) = 5` and
#   `size = 5; other = 3`. Of `mark = "#"` the default that is shown is one quotation mark, and the other is its comment.
# What most people expect: that a comment is a comment; that "Passed unknown parameter" means that nothing reads it.
# Seen on 2026-11-27:
#   size = 5  # such as 1        known, default 5
#   size = 5  # such as a=1      unknown, and set
#   size = "#"                   known, default "
# The project's parameters have no such comments, and a test holds every notebook to that (tests/unit/test_project.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "papermill==2.7.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import subprocess
from pathlib import Path

from papermill import inspect_notebook


def look(line: str) -> tuple[str | None, bool, bool]:
    """For a parameters cell of this line: the default that papermill sees, whether it calls `size` unknown when it is
    given, and whether it sets it nevertheless. No kernel is started."""
    Path("in.ipynb").write_text(json.dumps({
        "cells": [{"cell_type": "code", "execution_count": None, "id": "a", "metadata": {"tags": ["parameters"]},
                   "outputs": [], "source": [line]}], "nbformat": 4, "nbformat_minor": 5,
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}}))
    said = subprocess.run(["venv/bin/papermill", "in.ipynb", "out.ipynb", "--prepare-only", "-p", "size", "1"], check=True,
                          capture_output=True, text=True).stderr
    cells = json.loads(Path("out.ipynb").read_text())["cells"]
    (given,) = ["".join(cell["source"]) for cell in cells if "injected-parameters" in cell["metadata"]["tags"]]
    known = inspect_notebook("in.ipynb").get("size", {})
    return known.get("default"), "Passed unknown parameter: size" in said, "size = 1" in given


seen = {line: look(line) for line in ("size = 5  # such as 1", "size = 5  # such as a=1", 'size = "#"', "(size) = 5",
                                      "size = 5; other = 3")}
for line, found in seen.items():
    print(f"{line:26} default {found[0]}, called unknown {found[1]}, set {found[2]}")
assert seen == {"size = 5  # such as 1": ("5", False, True), "size = 5  # such as a=1": (None, True, True),
                'size = "#"': ('"', False, True), "(size) = 5": (None, True, True),
                "size = 5; other = 3": (None, True, True)}, seen
PY
