"""The quickstart table through a real SLURM, one of its jobs killed on purpose. Started by run.sh."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = dict(image_size=48, num_concepts=8, concept_steps=4, head_steps=4, probe_steps=4, projection_dim=16,
            batch_size=2, train_images=4, test_images=2, crf=False, device="cpu")

pytestmark = pytest.mark.slurm


def jobs() -> dict[str, tuple[str, str]]:
    """SLURM's number of each job, of this hour -> its state, and what Snakemake says that it is for."""
    said = subprocess.run(["squeue", "--noheader", "--states=all", "--format=%i|%T|%k"], text=True, capture_output=True,
                          check=True).stdout
    return {number: (state, comment) for number, state, comment in (line.split("|") for line in said.splitlines())}


def test_quickstart_table_is_complete_although_a_job_was_killed(tmp_path):
    for name in ("notebooks", "workflow", "cause_lib", "cause_book"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    header, *lines = (ROOT / "experiments/quickstart.csv").read_text().splitlines()
    table = [f"{header},{','.join(TINY)}", *(f"{line},{','.join(map(str, TINY.values()))}" for line in lines)]
    (tmp_path / "quickstart.csv").write_text("\n".join(table) + "\n")
    call = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--workflow-profile",
            "workflow/profiles/slurm", "--config", "table=quickstart.csv", "--max-threads", "1",
            "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"]
    log = tmp_path / "snakemake.log"
    with log.open("w") as file:
        snakemake = subprocess.Popen(call, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT,
                                     env=os.environ | {"PYTHONPATH": str(tmp_path)})
    killed = None
    try:
        while snakemake.poll() is None:
            running = [number for number, (state, comment) in jobs().items()
                       if state == "RUNNING" and comment.startswith("rule_head")]
            if killed is None and running and any((tmp_path / "runs/notebooks/under-way").glob("head-*")):
                killed = running[0]
                subprocess.run(["scancel", "--signal=KILL", "--full", killed], check=True)
            time.sleep(1)
    finally:
        snakemake.kill()
    said = log.read_text()
    print(said)
    assert snakemake.returncode == 0, said
    assert killed is not None, "no head job was seen running"
    heads = [state for state, comment in jobs().values() if comment.startswith("rule_head")]
    assert sorted(state == "COMPLETED" for state in heads) == [False, True, True]
    assert "Trying to restart job" in said
    with (tmp_path / "runs/tables/quickstart.csv").open() as file:
        found = list(csv.DictReader(file))
    assert {(row["line"], row["method"], row["readout"]) for row in found} == {
        ("1", "CAUSE-TR", "modularity"), ("1", "CAUSE-TR", "kmeans"),
        ("2", "CAUSE-MLP", "modularity"), ("2", "CAUSE-MLP", "kmeans")}
    assert len(list((tmp_path / "runs/clusterbook").glob("*/artefact.json"))) == 1
