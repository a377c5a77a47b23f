"""How things are compared: seconds in alternation in one process, memory of each form in a process of its own.

Ratios of medians are reported, not seconds: whatever else the machine does falls on all forms alike when they take
turns (A B A B ...). Extra memory is how far the high-water mark rises above what was there when all inputs were.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, AT_LEAST, ENOUGH = 9, 3, 60.0  # turns of each form; no new turn after so many seconds, once there were AT_LEAST


@dataclass(frozen=True)
class Row:
    """One line of the table.

    name: what is computed.
    case: (form, device, **sizes) -> a function without arguments that computes it once and returns its value.
    forms: their names; ours first, and last the one that the others are measured against.
    sizes, quick: arguments of `case`, and tiny ones for warming up and for a test.
    largest: of the sizes, bytes of the last form's largest tensor; at_once: how many of that size it holds.
    agree: by how much, relative, forms' values may differ.
    """

    name: str
    case: Callable[..., Callable[[], Any]]
    forms: tuple[str, ...]
    sizes: dict[str, int]
    quick: dict[str, int]
    largest: Callable[..., int]
    at_once: int = 4
    agree: float = 1e-3


@dataclass(frozen=True)
class Curve:
    """How the cost of a row's forms, or of some of them, grows along one of its sizes; `sizes` changes others."""

    row: Row
    along: str
    values: tuple[int, ...]
    quick: tuple[int, ...]
    sizes: dict[str, int] = field(default_factory=dict)
    forms: tuple[str, ...] | None = None


def measure_row(row: Row, device: str, subject: str, quick: bool = False) -> dict[str, Any]:
    """Seconds and extra bytes of every form that fits, and the ratios to the last one."""
    sizes = row.quick if quick else row.sizes
    needed = row.largest(**sizes)
    fits = needed * row.at_once < free_memory(device)
    forms = row.forms if fits else row.forms[:1]
    record: dict[str, Any] = {"name": row.name, "sizes": sizes, "forms": {}, "largest_bytes": needed, "fits": fits}
    for form in forms:
        record["forms"][form] = memory_of(row, form, device, quick) if quick else _in_fresh_process(
            subject, row, form, device)
    if fits:  # else the one form's seconds are those of its memory run
        for form, seconds in alternate(row, forms, sizes, device, 1 if quick else ROUNDS).items():
            record["forms"][form] |= {"seconds": seconds, "median": statistics.median(seconds)}
        reference = record["forms"][row.forms[-1]]
        for form in row.forms[:-1]:
            ours = record["forms"][form]
            ours["times_faster"] = reference["median"] / ours["median"]
            if reference["extra_bytes"] > 2**20:  # else making the inputs took more than any form does
                ours["times_smaller"] = reference["extra_bytes"] / max(2**20, ours["extra_bytes"])
    return record


def measure_curve(curve: Curve, device: str, quick: bool = False) -> dict[str, Any]:
    """Medians of seconds of every form at every value for which the last form fits, of the others beyond."""
    row, forms = curve.row, curve.forms or curve.row.forms
    points = []
    for value in curve.quick if quick else curve.values:
        sizes = (row.quick if quick else row.sizes | curve.sizes) | {curve.along: value}
        fits = row.largest(**sizes) * row.at_once < min(free_memory(device), 4 * 2**30)  # larger ones tell no more
        seconds = alternate(row, forms if fits else forms[:1], sizes, device, 1 if quick else 3)
        points.append({curve.along: value} | {form: statistics.median(times) for form, times in seconds.items()})
    return {"name": row.name, "along": curve.along, "sizes": row.quick if quick else row.sizes | curve.sizes,
            "points": points}


def alternate(row: Row, forms: Sequence[str], sizes: dict[str, int], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn of each form.

    Raises:
        RuntimeError: two forms do not find the same value.
    """
    runs = {form: row.case(form, device, **sizes) for form in forms}
    for form in forms:
        (runs[form] if device == "cuda" else row.case(form, device, **row.quick))()
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    started = time.perf_counter()
    for turn in range(rounds):
        values = {}
        for form, run in runs.items():
            values[form], spent = _timed(run, device)
            seconds[form].append(spent)
        if any(value is not None and abs(value - values[forms[-1]]) > row.agree * abs(value)
               for value in values.values()):
            raise RuntimeError(f"The forms of {row.name!r} differ: {values}.")
        if turn + 1 >= AT_LEAST and time.perf_counter() - started > ENOUGH:
            break
    return seconds


def memory_of(row: Row, form: str, device: str, quick: bool = False) -> dict[str, Any]:
    """Extra and whole peak bytes of one form in this process, the median of its seconds, and its value."""
    row.case(form, device, **row.quick)()
    run = row.case(form, device, **(row.quick if quick else row.sizes))
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else high_water()
    seconds: list[float] = []
    while len(seconds) < 5 and sum(seconds) < 2:
        value, spent = _timed(run, device)
        seconds.append(spent)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else high_water()
    return {"extra_bytes": peak - before, "peak_bytes": peak, "seconds": seconds, "median": statistics.median(seconds),
            "value": value}


def free_memory(device: str) -> int:
    """Bytes that could be taken now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return 8 * 2**30  # not Linux: what most machines have


def machine(device: str) -> dict[str, Any]:
    """What the numbers were taken on."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"device": torch.cuda.get_device_name() if device == "cuda" else cpu, "cpu": cpu,
            "cores": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}


def _timed(run: Callable[[], Any], device: str) -> tuple[float | None, float]:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    value = run()
    if device == "cuda":
        torch.cuda.synchronize()
    spent = time.perf_counter() - started
    return None if value is None else float(value), spent


def high_water() -> int:
    """Most bytes this process has ever held."""
    try:  # getrusage's maximum would include what the process was started by
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        if resource is None:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _in_fresh_process(subject: str, row: Row, form: str, device: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.measure", subject, row.name, form, device], cwd=ROOT,
                          text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    _subject, _name, _form, _device = sys.argv[1:]
    _row = next(row for row in import_module(f"benchmarks.{_subject}").ROWS if row.name == _name)
    print(json.dumps(memory_of(_row, _form, _device)))
