"""Which jobs of a table are to be run, and why; what a job that fails leaves; and no job outlives its Snakemake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import TINY, draw_folder, without_digests
from PIL import Image
from test_workflow import snakemake

from cause_lib import stages
from cause_lib.runs import version
from workflow import check, job, results
from workflow.identity import make_plan, with_plan, write_plan
from workflow.rows import job_of, read_jobs, read_rows

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = TINY | dict(dataset="folder", head="mlp", concept_steps=2, head_steps=2, probe_steps=2, train_size=48,
                       seed=0)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Two lines, of the pictures a and b, the second raw tokens alone; a folder with the project, which is the working
    directory."""
    for name in ("notebooks", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    draw_folder(tmp_path / "a"), draw_folder(tmp_path / "b")
    cells = ",".join(map(str, SETTINGS.values()))
    lines = [f"mine,,a,{cells}", f"raw,workflow/baseline.ipynb,b,{cells}"]
    (tmp_path / "table.csv").write_text("\n".join([f"row,notebook,folder,{','.join(SETTINGS)}", *lines]) + "\n")
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path))
    return tmp_path / "table.csv"


def to_run(table):
    """Why each job of a table is to be run, and the whole plan."""
    rows = read_rows(table)
    plan = make_plan(rows, read_jobs(rows))
    return {name.split("-")[0]: entry["why"] for name, entry in plan.items() if entry["why"]}, plan


def planned(table):
    """Writes the plan of a table; what Snakemake is called with."""
    write_plan(to_run(table)[1], "plan.json")
    profile = str(ROOT / "workflow/profiles/local")
    return "--workflow-profile", profile, "--config", "table=table.csv", "plan=plan.json"


def execute(table):
    """Leaves what the jobs of a table would: the artefacts, and notebooks that say what they depend on."""
    rows = read_rows(table)
    jobs, plan = read_jobs(rows), to_run(table)[1]
    for row in rows:
        for stage in ((stages.fit_clusterbook, stages.fit_head, stages.fit_probe, stages.evaluate)
                      if row.stage == "evaluation" else (stages.evaluate_baseline,)):
            stage(row.experiment)
    for name, entry in plan.items():
        if entry["why"]:
            stage, name = name.split("/")
            path = Path(with_plan(jobs, plan)[stage][name].output)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"cells": [], "metadata": {"cause": entry["identity"]}}))


def turn_labels(folder):
    for path in sorted(Path(folder).glob("*/labels/*.png")):
        Image.fromarray(np.asarray(Image.open(path))[::-1].copy()).save(path)


def test_a_job_is_run_again_when_what_it_depends_on_changed_and_not_otherwise(table, monkeypatch):
    names = {"clusterbook/a", "head/a", "baseline/a", "evaluation/a", "baseline/b"}
    assert to_run(table)[0] == dict.fromkeys(names, "nothing is there")
    execute(table)
    assert to_run(table)[0] == {}
    for path in table.parent.rglob("*"):
        os.utime(path, (2e9, 2e9))
    assert to_run(table)[0] == {}

    shutil.rmtree(*Path("runs/probe").iterdir())  # as an error of ours advises for a damaged file
    (why,) = to_run(table)[0].items()
    assert why[0] == "evaluation/a" and why[1].startswith("an artefact is gone or damaged: probe/a-bundled-mlp-s0-")
    execute(table)
    assert to_run(table)[0] == {} and len(list(Path("runs/notebooks/evaluation").iterdir())) == 2

    shutil.rmtree(*Path("runs/clusterbook").iterdir())
    whys = to_run(table)[0]
    assert {"clusterbook/a", "head/a", "evaluation/a"} == set(whys) and whys["head/a"] == "what it needs is run again"
    execute(table)

    turn_labels("b")
    assert to_run(table)[0] == {"baseline/b": "the data changed"}
    left = {row.label: (folder, older) for row, folder, older in results.left_by(read_rows(table))}
    assert left["mine"][0] and left["mine"][1] == []
    assert left["raw"][0] is None and len(left["raw"][1]) == 1  # no numbers of labels of before
    execute(table)
    newest, (old,) = {row.label: rest for row, *rest in results.left_by(read_rows(table))}["raw"]
    os.utime(old / "metrics.json", (3e9, 3e9))
    said = results.remarks(list(results.left_by(read_rows(table))))
    assert [folder for row, folder, _ in results.left_by(read_rows(table)) if row.label == "raw"] == [newest]
    assert any(sentence.startswith("line 2, raw: ") and str(old) in sentence for sentence in said)
    turn_labels("b")  # as they were: what was made for them is there
    assert to_run(table)[0] == {}

    ours = version.library_version()
    monkeypatch.setattr("cause_lib.runs.version.library_version", lambda: "0.1.0+00000000")
    assert to_run(table)[0] == dict.fromkeys(names, "the library changed")
    monkeypatch.setitem(version.SAME_BITS, "00000000", version.SAME_BITS.get(ours.partition("+")[2], (ours,)))
    assert to_run(table)[0] == {}


def made_by(folder, **written):
    """Has an artefact say that another version made it."""
    without_digests(folder)
    record = json.loads((path := folder / "artefact.json").read_text())
    path.write_text(json.dumps(record | written))


def test_what_another_version_made_is_made_anew(table):
    execute(table)
    (book,), (head,), (probe,) = (list(Path("runs", stage).iterdir()) for stage in ("clusterbook", "head", "probe"))
    tokens, *_ = Path("runs/features").iterdir()
    made_by(book, library="0.0.9+01234567")
    made_by(head, libraries=["0.0.9+01234567", version.library_version()])  # made by this one from that
    made_by(tokens, library="0.0.9+01234567")
    whys, plan = to_run(table)
    assert set(whys) == {"clusterbook/a", "head/a", "evaluation/a"}
    assert whys["clusterbook/a"].startswith("another version of the library made an artefact: clusterbook/a-bundled-")
    olds = {name.split("-")[0]: entry["old"] for name, entry in plan.items() if entry["why"]}
    assert olds["clusterbook/a"] == [str(book), str(tokens)] and olds["head/a"] == [str(head), str(tokens)]
    for old in olds.values():
        job.make_way(old)
    aside = Path("runs/.made-by-0.0.9+01234567")
    assert (aside / "clusterbook" / book.name).is_dir() and (aside / "head" / head.name).is_dir()
    assert not book.exists() and not head.exists() and not tokens.exists() and probe.exists()
    execute(table)
    assert to_run(table)[0] == {} and stages.read_record(book)["library"] == version.library_version()
    job.make_way(sum(olds.values(), []))  # of a plan of before
    assert book.exists() and head.exists()


def test_what_is_put_aside_does_not_count(table):
    execute(table)
    (evaluation,) = Path("runs/evaluation").iterdir()
    made_by(evaluation, library="0.0.9+01234567")
    (whys, plan), lines = to_run(table), len(stages.collect_metrics("runs"))
    job.make_way([folder for entry in plan.values() for folder in entry["old"]])
    assert set(whys) == {"evaluation/a"} and list(Path("runs").glob(".made-by-*/evaluation/*/metrics.json"))
    assert 0 < len(stages.collect_metrics("runs")) < lines
    assert {row.label for row, *_ in results.left_by(read_rows(table))} == {"raw"}


def test_words_of_the_library_and_of_notebooks_start_no_job(table, monkeypatch):
    """A docstring is no part of the library's digest, nor prose one of a notebook's; code is."""
    rows = read_rows(table)
    before = to_run(table)[1]
    monkeypatch.setattr("workflow.rows.NOTEBOOKS", NOTEBOOKS := dict(job_of.__globals__["NOTEBOOKS"]))
    notebook = json.loads((ROOT / NOTEBOOKS["baseline"]).read_text())
    NOTEBOOKS["baseline"] = "mine.ipynb"
    for kind, same in (("markdown", True), ("code", False)):
        next(cell for cell in notebook["cells"] if cell["cell_type"] == kind)["source"].append("\n# more")
        Path("mine.ipynb").write_text(json.dumps(notebook))
        after = make_plan(rows, read_jobs(rows))
        assert [after[name]["executed"] == before[name]["executed"]
                for name in after if "baseline/" in name] == [same] * 2


def test_snakemake_runs_what_the_plan_says(table):
    if sys.version_info < (3, 11):  # which Snakemake asks for
        return
    execute(table)
    done = snakemake(*planned(table), "--force", "results", cwd=table.parent)  # whose stamp is then there
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(".snakemake")
    shutil.rmtree(*Path("runs/clusterbook").iterdir())
    turn_labels("b")
    said = (done := snakemake(*planned(table), "--dry-run", cwd=table.parent)).stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert done.returncode == 0 and counts == {
        "clusterbook": "1", "head": "1", "baseline": "1", "evaluation": "1", "results": "1", "all": "1", "total": "6"}
    Path("plan.json").unlink()
    turn_labels("b")
    execute(table)
    for path in (*Path("runs/notebooks/clusterbook").iterdir(), *Path("runs/notebooks/head").iterdir()):
        path.unlink()  # results do not need these
    said = (done := snakemake(*planned(table), "--dry-run", cwd=table.parent)).stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert done.returncode == 0 and {"clusterbook", "head"} < set(counts) and "baseline" not in counts, said


# --- jobs that fail ---


def a_job(folder, entry, *commands, attempt=1):
    """Executes commands as a job of a table, and returns its code and what it left as its reason."""
    reason = folder / "under-way/some.txt"
    entry = {"executed": "some", "refused": "", "identity": {"library": "x"}, "reason": str(reason)} | entry
    (folder / "plan.json").write_text(json.dumps({"head/some-key": entry}))
    words = [word for command in commands for word in ("--", *command)]
    code = job.main([str(folder / "plan.json"), "head", "some", str(attempt), str(os.getpid()),
                     str(folder / "under-way/some.ipynb"),
                     str(folder / "some.ipynb"), *words])
    return code, reason.read_text() if reason.is_file() else None


def writes(folder, error=None, then="pass"):
    """A command that leaves a notebook, with an error in it."""
    shown = [{"output_type": "error", "ename": error[0], "evalue": error[1]}] if error else []
    notebook = {"cells": [{"cell_type": "code", "outputs": shown}], "metadata": {}}
    count = f"open({str(folder / 'count')!r}, 'a').write('1')"
    write = f"open({str(folder / 'under-way/some.ipynb')!r}, 'w').write({json.dumps(notebook)!r})"
    return [sys.executable, "-c", f"{count}; {write}; {then}"]


def test_a_refusal_is_not_executed_again_and_a_crash_is(tmp_path):
    for name, times in (("InputError", 1), ("NotFound", 1), ("RunError", 1), ("WriteError", 3), ("KeyError", 3)):
        (tmp_path / "count").unlink(missing_ok=True)
        for attempt in (1, 2, 3):
            code, said = a_job(tmp_path, {}, writes(tmp_path, (name, "It is\nso."), "exit(1)"), attempt=attempt)
            assert code == 1 and said == f"{name}: It is so."
        assert len((tmp_path / "count").read_text()) == times, name
    code, said = a_job(tmp_path, {}, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert code == 1 and "code -9" in said and not (tmp_path / "some.ipynb").exists()
    assert a_job(tmp_path, {}, writes(tmp_path), writes(tmp_path)) == (0, None)  # and a new call does
    assert json.loads((tmp_path / "some.ipynb").read_text())["metadata"]["cause"] == {"library": "x"}
    assert [path.name for path in (tmp_path / "under-way").iterdir()] == []


def test_one_bad_line_has_its_reason_and_the_others_their_numbers(table, capsys):
    """The pictures of the second line are cut off: said before any job, whose notebook is then never executed."""
    execute(table)
    results.main("table.csv", "runs/tables/table.csv")
    assert set(pd.read_csv("runs/tables/table.csv")["row"]) == {"mine", "raw"}
    shutil.rmtree(*Path("runs/baseline_evaluation").glob("b-*"))
    first = min(Path("b/val/images").iterdir())
    first.write_bytes(first.read_bytes()[:-40])
    assert check.main(["--fetch", "--plan", "plan.json", "table.csv"]) == 0
    assert "1 of 2 lines cannot be run; the others are." in capsys.readouterr().err
    plan = json.loads(Path("plan.json").read_text())
    assert {name.split("-")[0]: first.name in entry["refused"] for name, entry in plan.items()} == {
        "clusterbook/a": False, "head/a": False, "baseline/a": False, "evaluation/a": False, "baseline/b": True}
    if sys.version_info >= (3, 11):
        done = snakemake("--workflow-profile", str(ROOT / "workflow/profiles/local"), "--config", "table=table.csv",
                         "plan=plan.json", cwd=table.parent)
        assert done.returncode == 1, done.stdout + done.stderr
        found = pd.read_csv("runs/tables/table.csv")
        assert set(found["row"]) == {"mine", "raw"} and found[found["row"] == "mine"]["miou"].notna().all()
        (bad,) = found[found["row"] == "raw"].to_dict("records")
        assert first.name in bad["error"] and np.isnan(bad["miou"])
        results.main("table.csv", "runs/tables/table.csv")
        assert len(pd.read_csv("runs/tables/table.csv")) == len(found)
        next(Path("runs/notebooks/under-way").glob("*.txt")).unlink()  # as when the job has come to its end
        results.main("table.csv", "runs/tables/table.csv")
        assert "error" not in pd.read_csv("runs/tables/table.csv")
        assert not list(Path("runs/notebooks").rglob("b-*.ipynb"))[1:]  # but that of before
    shutil.rmtree("a")
    assert check.main(["--fetch", "--plan", "plan.json", "table.csv"]) == 1  # no line is left


def test_two_that_run_the_same_job_execute_it_once(tmp_path):
    (tmp_path / "under-way").mkdir()
    (tmp_path / "plan.json").write_text(json.dumps({"head/some-key": {
        "executed": "some", "refused": "", "identity": {}, "reason": str(tmp_path / "under-way/some.txt")}}))
    call = [sys.executable, "-m", "workflow.job", "plan.json", "head", "some", "1", str(os.getpid()),
            "under-way/some.ipynb", "some.ipynb", "--", *writes(tmp_path, then="__import__('time').sleep(1)")]
    both = [subprocess.Popen(call, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert (tmp_path / "count").read_text() == "1" and not list((tmp_path / "under-way").iterdir())


# --- kills ---


def is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_job_ends_with_the_snakemake_that_started_it(table):
    """SIGKILL of Snakemake: its job and its kernel end; the same command again takes over without being unlocked."""
    if sys.version_info < (3, 11):
        return
    Path("workflow").unlink()
    Path("workflow").mkdir()
    for path in (ROOT / "workflow").iterdir():
        Path("workflow", path.name).symlink_to(path)
    notebook = nbformat.read(ROOT / "workflow/baseline.ipynb", as_version=4)
    notebook.cells = [notebook.cells[1], nbformat.v4.new_code_cell("import time; time.sleep(600)")]
    Path("workflow/baseline.ipynb").unlink()
    nbformat.write(notebook, "workflow/baseline.ipynb")
    Path("table.csv").write_text("\n".join(table.read_text().splitlines()[::2]) + "\n")  # raw tokens alone
    call = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", *planned(table),
            "--until", "baseline"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = []
    while not any(map(is_kernel, started)):
        assert driver.poll() is None
        time.sleep(0.05)
        started = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=20)
    driver.wait()
    assert alive == []
    (reason,) = Path("runs/notebooks/under-way").glob("*.txt")
    assert reason.read_text() == job.STOPPED
    notebook.cells.pop()
    nbformat.write(notebook, "workflow/baseline.ipynb")
    planned(table)
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not reason.exists() and not list(Path("runs").rglob("*.lock"))
    (executed,) = Path("runs/notebooks/baseline").iterdir()
    assert json.loads(executed.read_text())["metadata"]["cause"]["artefacts"]
