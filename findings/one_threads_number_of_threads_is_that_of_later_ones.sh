#!/usr/bin/env bash
# torch 2.13.0: torch.set_num_threads, called in a thread other than the main one, on a CPU.
#
# Behaviour: the number is set for the thread that calls, and for every thread that starts later. The main thread, and
#   others that have computed before, keep theirs, and their torch.get_num_threads() shows nothing of it. A thread that
#   is to compute with one core takes the cores from all threads after it, until some thread sets the number again.
# What most people expect: either the whole process has the new number (the documentation: "Sets the number of threads
#   used for intraop parallelism on CPU."), or the calling thread alone.
# Seen on 2026-11-29:
#   main 3; reader sets 1: reader 1, main 3, started before 3, started after 1; main sets 3 again: started then 3
# The project's reader of pictures computes with one core and gives the number back (tests/unit/test_features.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

torch.set_num_threads(3)
values = torch.rand(1_000_000)


def computed() -> int:
    """The number with which this thread has just computed."""
    values.exp()
    return torch.get_num_threads()


def in_a_new_thread(function) -> int:
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def set_to_one() -> int:
    torch.set_num_threads(1)
    return computed()


with ThreadPoolExecutor(1) as pool:  # one thread, which has computed before
    first = pool.submit(computed).result()
    main = computed()
    reader = in_a_new_thread(set_to_one)
    seen = main, reader, computed(), pool.submit(computed).result(), in_a_new_thread(computed)
torch.set_num_threads(torch.get_num_threads())
again = in_a_new_thread(computed)
print("main {}; reader sets 1: reader {}, main {}, started before {}, started after {}; main sets 3 again: started then {}"
      .format(*seen, again))
assert first == 3 and seen == (3, 1, 3, 3, 1) and again == 3
PY
