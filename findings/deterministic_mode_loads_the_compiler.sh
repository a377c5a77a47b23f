#!/usr/bin/env bash
# torch 2.14.1: torch.use_deterministic_algorithms(True), the documented switch, and set_deterministic_debug_mode("error").
#
# Behaviour: the first sets a flag, and imports torch._inductor and torch._dynamo with some hundred modules of theirs, to
#   set a flag of the compiler too, also where nothing is ever compiled. That costs a second or two of every short program,
#   and asks for a temporary folder. The second sets the same flag and imports neither.
# What most people expect: a flag costs nothing, and two functions that are documented as equivalent do the same.
# Seen on 2026-11-27:
#   use_deterministic_algorithms: enabled True, compiler loaded True
#   set_deterministic_debug_mode: enabled True, compiler loaded False
# The project sets the second (session in cause_lib/runs/loop.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6"
cd "$folder"
for call in 'use_deterministic_algorithms(True)' 'set_deterministic_debug_mode("error")'; do
  "$folder/venv/bin/python" -c "
import sys, time
import torch
before, started = len(sys.modules), time.process_time()
assert 'torch._inductor' not in sys.modules
torch.$call
print(f'{len(sys.modules) - before} modules more, {time.process_time() - started:.2f} s', file=sys.stderr)
print('${call%%(*}:', 'enabled', torch.are_deterministic_algorithms_enabled(), 'compiler loaded', 'torch._inductor' in sys.modules)"
done | tee seen
diff seen - <<'SEEN'
use_deterministic_algorithms: enabled True compiler loaded True
set_deterministic_debug_mode: enabled True compiler loaded False
SEEN
