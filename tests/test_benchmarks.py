"""The benchmarks run, in tiny, and what they write can be read."""

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_quick_run_has_every_row_and_finite_ratios(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"another": 1}')
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu", "--output", str(path)],
                          cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    assert results.pop("another") == 1  # of another run
    assert set(results) == {"modularity", "contrast", "crf", "heads"}
    for name, subject in results.items():
        assert subject["machine"]["cores"] >= 1 and subject["library"] and subject["rows"]
        for row in subject["rows"]:
            assert row["name"] in done.stdout and row["fits"]
            assert len(row["forms"]) >= 2 or name == "crf"  # not everybody can build pydensecrf
            *ours, reference = row["forms"].values()
            assert reference["median"] > 0
            for found in ours:
                assert math.isfinite(found["times_faster"]) and math.isfinite(found.get("times_smaller", 0))
        for curve in subject["curves"]:
            assert all(value > 0 for point in curve["points"] for value in point.values()) and len(curve["points"]) == 2


def test_memory_of_a_row_in_a_process_of_its_own():
    name = "modularity, forward and backward"
    done = subprocess.run([sys.executable, "-m", "benchmarks.measure", "modularity", name, "ours", "cpu"], cwd=ROOT,
                          text=True, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert 0 <= found["extra_bytes"] < found["peak_bytes"] and found["median"] > 0
