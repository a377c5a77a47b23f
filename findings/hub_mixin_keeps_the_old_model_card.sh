#!/usr/bin/env bash
# huggingface_hub 2.4.0: ModelHubMixin.save_pretrained into a folder that holds an earlier model.
#
# Behaviour: the new weights and config.json replace the old ones, the README.md of the earlier model stays, with its
#   licence, tags and whatever it says of its training. config.json, on the other hand, is removed before the weights
#   are written: where writing them fails, the folder has the old card, the old weights and no configuration.
# What most people expect: that a save replaces what describes the model together with the model, and that a save that
#   fails leaves the folder as it was.
# Seen on 2026-11-27:
#   licence in the card after saving an MIT model over a CC-BY-NC one: cc-by-nc-4.0
#   config.json after a save that failed: False
# The project writes its own folder beside the old one and then replaces file by file (cause_lib/segmenter.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "huggingface_hub==2.4.0" "jinja2==3.1.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import errno
from pathlib import Path

from huggingface_hub import ModelCard, ModelHubMixin


class Plain:
    def __init__(self, width: int = 3):
        self.width = width

    def _save_pretrained(self, folder: Path) -> None:
        (folder / "weights.txt").write_text("0 " * self.width)


class First(Plain, ModelHubMixin, license="cc-by-nc-4.0"):
    pass


class Second(Plain, ModelHubMixin, license="mit"):
    pass


class FullDisk(Plain, ModelHubMixin, license="mit"):
    def _save_pretrained(self, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


First(width=3).save_pretrained("model")
Second(width=5).save_pretrained("model")
licence = ModelCard.load("model/README.md").data.license
print("licence in the card after saving an MIT model over a CC-BY-NC one:", licence)
assert Path("model/weights.txt").read_text() == "0 " * 5 and '"width": 5' in Path("model/config.json").read_text()
try:
    FullDisk(width=7).save_pretrained("model")
except OSError:
    pass
there = Path("model/config.json").exists()
print("config.json after a save that failed:", there)
assert licence == "cc-by-nc-4.0" and not there, "huggingface_hub behaves otherwise now"
PY
