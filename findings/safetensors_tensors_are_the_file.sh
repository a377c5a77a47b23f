#!/usr/bin/env bash
# safetensors 0.8.0: load_file, and another file that is then copied over the one that was read.
#
# Behaviour: the tensors that safetensors.torch.load_file returns are the mapped file, not a copy. Copied over in place (cp,
#   shutil.copyfile, torch.save to the same name, a synchronised folder), the file changes the numbers of a model that is
#   in memory, without an error; a crash was seen as well, and is left out here. safetensors' own save_file puts a new
#   file in place of the old one, and does no harm.
# What most people expect: that a loaded state dict is in memory, as that of torch.load is, and stays as it was. A frozen
#   network, whose checksum was taken when it was loaded, can change in the middle of a run.
# Seen on 2026-11-27, a million ones:
#   loaded: mean 1; another file of twos copied over it: mean 2
#   torch.load: mean 1; another file of twos copied over it: mean 1
# The project copies what it has read (load_strictly in cause_lib/weights.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "safetensors==0.8.0" "torch==2.13.0" "numpy==2.4.6"
cd "$folder"
cat > look.py <<'PY'
import shutil
import sys

import safetensors.torch
import torch

save = safetensors.torch.save_file if sys.argv[1] == "safetensors" else torch.save
load = safetensors.torch.load_file if sys.argv[1] == "safetensors" else torch.load
for name, value in (("it", 1.0), ("twos", 2.0)):
    save({"w": torch.full((1_000_000,), value)}, name)
w = load("it")["w"]
print(f"loaded: mean {w.mean():g}", flush=True)
shutil.copyfile(sys.argv[2], "it")
print(f"{sys.argv[2]} copied over it: mean {w.mean():g}")
PY
"$folder/venv/bin/python" - <<'PY'
import subprocess
import sys


def look(*arguments: str) -> tuple[int, str]:
    run = subprocess.run([sys.executable, "look.py", *arguments], capture_output=True, text=True)
    print(*arguments, "->", run.returncode, run.stdout.split("\n"))
    return run.returncode, run.stdout


assert look("safetensors", "twos") == (0, "loaded: mean 1\ntwos copied over it: mean 2\n")
assert look("torch", "twos") == (0, "loaded: mean 1\ntwos copied over it: mean 1\n")
PY
