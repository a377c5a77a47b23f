"""Tables of experiments: what a line resolves to, what lines share, what is missing, and Snakemake's own dry run."""

import ast
import csv
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import yaml

from cause_book import RESULTS
from cause_lib import stages
from cause_lib.config import READINGS, STAGE_FIELDS, Experiment
from workflow import check, results
from workflow.kubernetes import manifest, state
from workflow.rows import KEYS, NOTEBOOKS, PLACES, UPSTREAM, job_of, read_jobs, read_rows, upstream

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "experiments/published.csv"
QUICKSTART = ROOT / "experiments/quickstart.csv"
PROFILES = sorted(path.name for path in (ROOT / "workflow/profiles").iterdir())
LIBRARY = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def table(tmp_path):
    """A function that writes a table and returns its path."""

    def write(text: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def snakemake(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--nolock", *arguments],
        cwd=cwd, text=True, capture_output=True, check=False, env=os.environ | {"PYTHONPATH": LIBRARY},
    )


# --- the published table ---


def test_every_published_row_is_a_line_and_cause_both_ways():
    published = read_csv(PUBLISHED.with_name("published_rows.csv"))
    assert len(published) == 35 == len({row["row"] for row in published})
    rows = read_rows(PUBLISHED)
    for line in published:
        mine = [row for row in rows if row.label == line["row"]]
        if line["method"] == "DINO":
            assert [row.stage for row in mine] == ["baseline"]
        else:
            assert [row.stage for row in mine] == ["evaluation"] * 2
            assert [row.experiment.label_free for row in mine] == [True, False]
            assert {row.experiment.head for row in mine} == {line["method"].removeprefix("CAUSE-").lower()}
        assert {row.experiment.dataset for row in mine} == {line["dataset"].replace("cocostuff", "cocostuff27")}
        assert all(0 < float(line[name]) < 100 for name in ("miou", "pacc") if line[name])
    assert len(rows) == 65


def test_published_settings():
    views = {"cocostuff27": 97_702 * 5, "coco81": 97_702 * 20, "coco171": 97_702 * 20, "cityscapes": 2_975 * 5,
             "pascalvoc": 1_464 * 50}
    for row in read_rows(PUBLISHED):
        run, epoch = row.experiment, -(-views[row.experiment.dataset] // 16)
        assert (run.num_concepts, run.projection_dim, run.thin, run.lr, run.batch_size) == (2048, 2048, 4, 1e-3, 16)
        assert run.image_size == (322 if "14" in run.backbone else 320)
        if row.stage == "evaluation":
            epochs = [steps / epoch for steps in (run.concept_steps, run.head_steps, run.probe_steps)]
            assert epochs == [1, 2, 5 if run.head == "tr" else 1]
            assert run.probe_decay_steps == (2 if run.head == "tr" else 1) * epoch
            assert run.train_size == (run.image_size if run.head == "tr" else 224)
            assert run.clip_norm == (1 if run.dataset == "cityscapes" else 2 if run.head == "tr" else 0.1)
            assert run.weight_decay == (0 if run.dataset == "cityscapes" else 1e-4)
            # the authors' DINO ViT-S has twelve heads; the raw DINO rows are other people's, with its own six
            assert run.backbone.endswith(".released") == bool(re.match("dino_vits", run.backbone))


def test_lines_share_what_they_can():
    rows = read_rows(PUBLISHED)
    jobs = read_jobs(rows)
    seen = {stage: {(row.experiment.dataset, row.experiment.backbone) for row in rows if row.stage == stage}
            for stage in ("evaluation", "baseline")}
    assert {stage: len(found) for stage, found in jobs.items()} == {
        "clusterbook": len(seen["evaluation"]), "head": 60, "evaluation": 60,
        "baseline": len(seen["evaluation"] | seen["baseline"])}
    outputs = [job.output for found in jobs.values() for job in found.values()]
    assert len(set(outputs)) == len(outputs)
    for row in rows:
        for stage in (row.stage, *UPSTREAM[row.stage]):
            job = job_of(jobs, row, stage)
            assert job.experiment.key(KEYS[stage]) == row.experiment.key(KEYS[stage])
            assert Experiment.from_dict(job.parameters).key(KEYS[stage]) == row.experiment.key(KEYS[stage])


def test_stages_of_a_line_wait_for_each_other():
    rows = read_rows(QUICKSTART)
    jobs = read_jobs(rows)
    assert {stage: len(found) for stage, found in jobs.items()} == {
        "clusterbook": 1, "head": 2, "baseline": 1, "evaluation": 2}
    for row in rows:
        head, baseline = (job_of(jobs, row, stage) for stage in ("head", "baseline"))
        first = job_of(jobs, row, "clusterbook")
        assert job_of(jobs, row).needs == (("head", head.name), ("baseline", baseline.name))
        assert head.needs == (("clusterbook", first.name),) and first.needs == ()
        assert upstream(jobs, job_of(jobs, row)) == [first, head, baseline]


def test_released_files_are_judged_alone(table, tmp_path, monkeypatch):
    """A line with `release` waits for nothing, wants no training pictures, and says which files are missing."""
    rows = read_rows(table(f"dataset,release,head\nscenes,{tmp_path / 'files'},tr\nscenes,,tr\n"))
    jobs = read_jobs(rows)
    assert job_of(jobs, rows[0]).needs == () and len(job_of(jobs, rows[1]).needs) == 2
    assert "release" in job_of(jobs, rows[0]).name and {stage: len(found) for stage, found in jobs.items()} == {
        "clusterbook": 1, "head": 1, "baseline": 1, "evaluation": 2}
    (sentence,) = check.missing(rows, fetch=False)
    assert "has no modular.npy and no segment_tr.pth and no cluster_tr.pth" in sentence
    assert check.missing(rows, fetch=False)[sentence] == [1]


# --- reading ---


@pytest.mark.parametrize("text, said", [
    ("dataset,sede\nscenes,1\n", r"table.csv, line 1: Unknown parameter 'sede': did you mean 'seed'"),
    ("dataset,seed\nscenes,1\nscenes,x\n", r"table.csv, line 2: Parameter seed must be int, not 'x'"),
    ("dataset,label_free\nscenes,perhaps\n", r"line 1: Parameter label_free must be bool, not 'perhaps'"),
    ("dataset,seed\nscenes\n", r"line 1: it has 1 cells, and the heading has 2"),
    ("dataset,notebook\nscenes,notebooks/12_frontdoor.ipynb\n", r"line 1: notebook '.*12_frontdoor.ipynb' is none of"),
    ("dataset,run_dir\nscenes,a\nscenes,b\n", r"names several run_dir \(a, b\)"),
    ("dataset\n", "has no lines"),
])
def test_what_is_no_table_is_said_with_its_line(table, text, said):
    with pytest.raises(ValueError, match=said):
        read_rows(table(text))


def test_a_table_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="There is no table experiments/quickstar.csv"):
        read_rows("experiments/quickstar.csv")


def test_cells_have_their_fields_kind_and_empty_ones_their_default(table):
    (row,) = read_rows(table("dataset,folder,clip_norm,lr,label_free,seed,head_steps\nfolder,007,2,,false,3,\n"))
    assert row.parameters == {"dataset": "folder", "folder": "007", "clip_norm": 2, "label_free": False, "seed": 3}
    assert row.experiment.lr == 1e-3


# --- what papermill gets ---


def test_papermill_gets_fields_and_nothing_else(tmp_path, table):
    text = "row,notebook,dataset,folder,label_free,clip_norm,head_steps\nmine,,folder,007,False,0.1,3\n"
    rows = read_rows(table(text))
    (job,) = read_jobs(rows)["evaluation"].values()
    out = tmp_path / "out.ipynb"
    subprocess.run(f"{sys.executable} -m papermill {ROOT / job.notebook} {out} {job.arguments} --prepare-only",
                   shell=True, check=True, capture_output=True)
    assert papermill.iorw.load_notebook_node(str(out)).metadata.papermill.parameters == rows[0].parameters
    assert set(rows[0].parameters) == {"dataset", "folder", "label_free", "clip_norm", "head_steps"}


def test_baseline_notebook_has_the_fields_that_a_baseline_depends_on():
    notebook = nbformat.read(ROOT / NOTEBOOKS["baseline"], as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    given = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body}
    followers = set(READINGS["paper"])  # of `reading`, which is there in their place
    followers |= {"layer", "facet", "image_mean", "image_std"}  # how a backbone is read; its name decides
    assert set(given) == {*STAGE_FIELDS[KEYS["baseline"]], *PLACES, "reading"} - followers
    assert Experiment.from_dict(given) == Experiment()


# --- what is missing ---


def test_all_that_is_missing_is_said_at_once(tmp_path, monkeypatch, capsys, table):
    (tmp_path / "empty").mkdir()
    for name in ("CAUSE_DATA", "CAUSE_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    path = table("dataset,backbone,head,folder\nfolder,dino_vits16,tr,holiday\nfolder,dino_vits16,mlp,holiday\n"
                 "scenes,bundled,tr,\nscenes,dino_vitb8,tr,\n")
    done = subprocess.run([sys.executable, "-m", "workflow.check", str(path)], cwd=ROOT, text=True, capture_output=True,
                          check=True, env=os.environ | {"PYTHONPATH": LIBRARY})
    said = [line for line in done.stdout.splitlines() if line.startswith("missing")]
    assert len(said) == 3 and not done.stderr
    assert re.match(r"missing for lines 1-2: .*holiday", said[0])
    assert re.match(r"missing for lines 1-2: .*dino_vits16.*dino_vits16\.safetensors.*CAUSE_WEIGHTS", said[1])
    assert re.match(r"missing for line 4: .*dino_vitb8\.safetensors", said[2])
    for number in range(1, 5):
        assert f"line {number}: table-{number}" in done.stdout
    assert done.stdout.count("papermill notebooks/08_evaluation.ipynb runs/notebooks/evaluation/") == 4


def test_before_work_what_is_missing_is_an_error(table, tmp_path, capsys):
    path = table(f"dataset,folder\nfolder,{tmp_path / 'nowhere'}\n")
    assert check.main(["--fetch", str(path)]) == 1
    assert "missing for line 1: " in capsys.readouterr().err
    assert check.main(["--fetch", str(table("dataset,sede\nscenes,1\n"))]) == 1
    assert "did you mean 'seed'" in capsys.readouterr().err


def test_ranges():
    assert check.ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8"


# --- Snakemake ---


@pytest.mark.parametrize("profile, path, gpus", list(zip(PROFILES, [PUBLISHED, PUBLISHED, QUICKSTART], [4, 1, 4])))
def test_dry_run_of_every_profile(profile, path, gpus, monkeypatch):
    if sys.version_info < (3, 11):  # which Snakemake asks for; the extra "workflow" is empty there
        assert importlib.util.find_spec("snakemake") is None
        return
    done = snakemake("--workflow-profile", str(ROOT / "workflow/profiles" / profile), "--config", f"table={path}",
                     f"gpus={gpus}", "--dry-run", "--forceall", "--printshellcmds")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    jobs = read_jobs(read_rows(path))
    assert counts == {**{stage: str(len(found)) for stage, found in jobs.items()}, "results": "1", "all": "1",
                      "total": str(sum(map(len, jobs.values())) + 2)}
    asks = set(re.findall(r"resources: .*gpu=(\d), runtime=(\d+), tries=1, mem_mb=(\d+)", done.stdout + done.stderr))
    assert asks == ({("0", "60", "3000")} if path != PUBLISHED else {(str(gpus), minutes, str(16000 * gpus))
                                                                     for minutes in ("360", "720", "1440")})
    # Several GPUs: first a process for each, with the notebook's parameters. The quickstart table asks for no GPU.
    launched = re.findall(r"--multi_gpu --num_processes 4 .* -m cause_lib --stage (\w+) (.*) -- "
                          r"\S+ -m papermill \S+ \S+ (.*) --kernel", done.stdout + done.stderr)
    assert {stage for stage, *_ in launched} == (set(jobs) if path == PUBLISHED and gpus > 1 else set())
    assert all(first == notebook for _, first, notebook in launched)


def test_results_of_a_table_that_was_never_run(table, tmp_path):
    found = results.results(read_rows(table(f"dataset,run_dir\nscenes,{tmp_path / 'runs'}\n")))
    assert found.empty and list(found.columns) == results.COLUMNS
    assert results.markdown(found).count("\n") == 2


def test_results_of_several_machines_stand_in_the_order_of_the_lines(tmp_path):
    whole = pd.DataFrame({name: [None] * 5 for name in results.COLUMNS}).assign(
        line=[1, 1, 2, 2, 3], readout=["own", "kmeans", "own", "kmeans", "own"], settings=["a", "a", "b", "b", "c"])
    whole[whole["line"] != 2].to_csv(tmp_path / "results.csv", index=False)
    both = results.with_kept(whole[whole["line"] == 2], tmp_path / "results.csv")
    assert both[["line", "readout"]].values.tolist() == whole[["line", "readout"]].values.tolist()
    for path in RESULTS.glob("*.csv"):
        numbers = pd.read_csv(path)
        assert "line" not in numbers or numbers["line"].is_monotonic_increasing, path


def test_what_a_run_was_warned_of_is_said_with_its_line(table, tmp_path):
    rows = read_rows(table(f"dataset,seed,run_dir\nscenes,0,{tmp_path / 'runs'}\nscenes,1,{tmp_path / 'runs'}\n"))
    folder = stages.folder_of(rows[1].experiment, "evaluation")
    folder.mkdir(parents=True)
    record = {"stage": "evaluation", "experiment": rows[1].experiment.to_dict(), "notes": {"warnings": ["It is sick."]}}
    (folder / "metrics.json").write_text(json.dumps(record))
    assert results.remarks(list(results.left_by(rows))) == ["line 2, table-2: It is sick."]
    (folder / "metrics.json").write_text(json.dumps(record | {"notes": {}}))  # as earlier versions wrote it
    assert results.remarks(list(results.left_by(rows))) == []


# --- Kubernetes ---


def test_a_job_of_kubernetes(monkeypatch, tmp_path):
    """The three calls of the profile, with a kubectl that keeps what it is given."""
    with pytest.raises(ValueError, match="CAUSE_IMAGE is not set"):
        manifest("job.sh", cpus=8, memory=16000, gpus=1, minutes=60)
    kept = tmp_path / "given.json"
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\ncase "$1" in create) cat > {kept};; '
                       'get) echo \'{"status": {"conditions": [{"type": "Failed", "status": "True"}]}}\';; esac\n')
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    for name, value in {"CAUSE_IMAGE": "image", "CAUSE_CLAIM": "claim", "CAUSE_MOUNT": "/cause", "PYTHONPATH": LIBRARY,
                        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CAUSE_DATA": "/cause/data"}.items():
        monkeypatch.setenv(name, value)
    profile = yaml.safe_load((ROOT / "workflow/profiles/kubernetes/config.yaml").read_text())
    submit = re.sub(r"\{(?:resources\.)?(\w+)\}", lambda m: {"threads": "8", "mem_mb": "16000", "gpu": "1",
                                                            "runtime": "720"}[m[1]],
                    profile["cluster-generic-submit-cmd"]).split()
    said = subprocess.run([sys.executable, *submit[1:], "job.sh"], cwd=tmp_path, check=True, text=True,
                          capture_output=True).stdout.strip()
    job = json.loads(kept.read_text())
    assert said == job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["bash", str(tmp_path / "job.sh")] and container["workingDir"] == str(tmp_path)
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "16000M", "nvidia.com/gpu": "1"}
    assert {"name": "CAUSE_DATA", "value": "/cause/data"} in container["env"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "claim"
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 720 * 60)
    status = profile["cluster-generic-status-cmd"].split()
    assert subprocess.run([sys.executable, *status[1:], said], cwd=tmp_path, check=True, text=True,
                          capture_output=True).stdout.strip() == "failed"


def test_states_of_a_kubernetes_job():
    assert state({"status": {"active": 1}}) == state({}) == "running"
    assert state({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}) == "success"
    assert state({"status": {"conditions": [{"type": "Failed", "status": "False"}]}}) == "running"
