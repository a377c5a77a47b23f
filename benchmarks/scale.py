"""Whole tiny runs on 100, 1,000 and 5,000 small pictures: how seconds, decodes and bytes read grow.

    python -m benchmarks.scale [--quick] [--pictures 100 1000 ...] [--output growth.json]

Each run, and each second start of it, is a process of its own; the pictures are noise in three colours, 64 x 64 pixels,
in one folder for both splits. Imports do not count.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import ROOT, machine
from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.data import source

SIDE = 64
RUN = dict(dataset="folder", head="mlp", image_size=48, num_concepts=12, concept_steps=12, thin=2, projection_dim=16,
           head_steps=8, probe_steps=8, batch_size=4, kmeans_restarts=2, device="cpu", crf=False)


def draw(folder: Path, count: int) -> None:
    """So many pictures and labels."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        label = np.zeros((SIDE, SIDE), dtype=np.uint8)
        label[rng.integers(10, 50):] = 1
        label[:, rng.integers(30, 60):] = 2
        colors = np.array([[60, 90, 200], [40, 160, 60], [200, 60, 50]])[label] + rng.integers(-20, 20, (SIDE, SIDE, 3))
        Image.fromarray(colors.astype(np.uint8)).save(folder / "images" / f"{i}.jpg")
        Image.fromarray(label).save(folder / "labels" / f"{i}.png")
    (folder / "classes.json").write_text('["sky", "grass", "house"]', encoding="utf8")


def start(folder: str, run_dir: str) -> dict[str, Any]:
    """The run, or its second start, in this process: seconds, pictures decoded, bytes read as whole files."""
    decoded, sizes, load, read = [], [], source.load_image, Path.read_bytes
    source.load_image = lambda path: decoded.append(path) or load(path)
    Path.read_bytes = lambda path: sizes.append(path.stat().st_size) or read(path)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stages.evaluate(Experiment(**RUN, folder=folder, run_dir=run_dir))
    return {"seconds": round(time.perf_counter() - started, 3), "decodes": len(decoded), "bytes": sum(sizes)}


def measure(count: int) -> dict[str, Any]:
    """A first and a second start on so many pictures."""
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place) / "pictures", count)
        time.sleep(2.5)  # a file changed a moment ago is always read again
        command = [sys.executable, "-m", "benchmarks.scale", "--start", f"{place}/pictures", f"{place}/runs"]
        first, second = (json.loads(subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                                                   stderr=subprocess.DEVNULL, check=True).stdout) for _ in range(2))
    return {"pictures": count} | first | {f"second_{name}": value for name, value in second.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="How a whole run grows.")
    parser.add_argument("--pictures", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--quick", action="store_true", help="6 pictures: tries everything, measures nothing")
    parser.add_argument("--output", type=Path, help="the JSON file")
    parser.add_argument("--start", nargs=2, metavar=("FOLDER", "RUN_DIR"), help="one start, in this process")
    given = parser.parse_args(arguments)
    if given.start:
        print(json.dumps(start(*given.start)))
        return
    points = []
    for count in (6,) if given.quick else given.pictures:
        points.append(measure(count))
        print(", ".join(f"{name} {value}" for name, value in points[-1].items()), flush=True)
    if given.output:
        record = {"date": datetime.date.today().isoformat(), "machine": machine("cpu"), "points": points}
        given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
