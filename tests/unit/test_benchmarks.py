"""The benchmarks run, in tiny, and what they write can be read."""

import json
import math
import subprocess
import sys
from pathlib import Path

from benchmarks import chapters, gpu, scale

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run_has_every_row_and_finite_ratios(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"another": 1}')
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu", "--output", str(path)],
                          cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    assert results.pop("another") == 1  # of another run
    assert set(results) == {"modularity", "contrast", "crf", "kmeans", "heads"}
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


def test_chapters_come_from_the_last_commit(tmp_path):
    commit = chapters.checkout(tmp_path)
    assert len(commit) == 40 and (tmp_path / "notebooks/12_frontdoor.ipynb").is_file()
    assert not (tmp_path / ".git").exists()


def test_kept_times_of_chapters_are_of_chapters():
    kept = json.loads(chapters.RESULTS.read_text()) if chapters.RESULTS.is_file() else {}
    for name, found in kept.items():
        assert (ROOT / f"notebooks/{name}.ipynb").is_file()
        assert found["seconds"] > 0 and found["peak_bytes"] > 0 and found["commit"] and found["date"]


def test_what_needs_a_gpu_runs_on_a_cpu_in_tiny(tmp_path):
    path = tmp_path / "gpu.json"
    assert gpu.main(["--quick", "--device", "cpu", "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert set(record["parts"]) == set(gpu.PARTS) and record["quick"]
    assert not [name for name, found in record["parts"].items() if "failed" in found]
    parity = record["parts"]["parity"]
    assert parity["holds"] and set(parity["distances"]) == set(gpu.CHECKS) and parity["same_bits_twice"]
    page = path.with_suffix(".md").read_text()
    assert all(f"## {name}" in page for name in gpu.PARTS) and "measures nothing" in page


def test_a_part_that_fails_is_told_and_costs_the_others_nothing(tmp_path, monkeypatch):
    def broken(device, quick):
        raise RuntimeError("no room")

    monkeypatch.setitem(gpu.PARTS, "table", broken)
    path = tmp_path / "gpu.json"
    assert gpu.main(["--quick", "--device", "cpu", "--parts", "table", "backbone", "--output", str(path)]) == 1
    parts = json.loads(path.read_text())["parts"]
    assert parts["table"]["failed"] == "RuntimeError: no room" and parts["backbone"]["forms"]
    assert "no room" in path.with_suffix(".md").read_text()


def test_parity_sees_a_wrong_kernel(monkeypatch):
    monkeypatch.setattr(gpu, "argmax_concepts", lambda affinity, count=[0]: (
        count.append(0), gpu.torch.zeros(*affinity.shape[:2], affinity.shape[1], dtype=int) + len(count))[1])
    assert gpu.winners("cpu") == 1


def test_a_run_decodes_no_picture_twice_and_a_second_start_none(tmp_path):
    scale.main(["--quick", "--output", str(tmp_path / "growth.json")])
    points = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert [point["pictures"] for point in points] == [6]
    for point in points:
        assert point["decodes"] == point["pictures"] and point["seconds"] > point["second_seconds"]
        assert point["bytes"] > 0 and point["second_decodes"] == point["second_bytes"] == 0
