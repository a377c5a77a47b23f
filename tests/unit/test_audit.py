"""Reruns and the audit: from run folders to results files, and from those to the two pages that show them."""

import ast
import json
import re
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

matplotlib.use("Agg")  # before pyplot: no window is ever opened

import matplotlib.pyplot as plt  # noqa: E402
from conftest import TINY, draw_folder  # noqa: E402

from cause_lib import stages  # noqa: E402
from cause_lib.config import Experiment
from cause_lib.errors import NotFound  # noqa: E402
from cause_lib.runs.store import read_record  # noqa: E402
from workflow import audit, results  # noqa: E402
from workflow.rows import KEYS, read_rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
AUDITS = sorted((ROOT / "experiments").glob("audit*.csv"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of an audit: two lines have been run, the third has not."""
    root = tmp_path_factory.mktemp("audit")
    settings = TINY | dict(dataset="folder", folder=draw_folder(root / "data", pictures=2), run_dir=root / "runs",
                           seed=0, head="mlp", concept_steps=2, head_steps=2, probe_steps=2, crf=True)
    cells = ",".join(map(str, settings.values()))
    path = root / "table.csv"
    path.write_text(f"row,label_free,bank_capacity,{','.join(settings)}\npaper,,,{cells}\nlabels,False,,{cells}\n"
                    f"no bank,,0,{cells}\n")
    for row in read_rows(path)[:2]:
        stages.evaluate(row.experiment)
    return path


@pytest.fixture
def page(monkeypatch, tmp_path):
    """A function that runs a page's cells as Jupyter Book does, in a book/ of its own: what each of them shows."""
    for name in ("book", "results", "experiments", "notebooks"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "experiments/published_rows.csv").write_text((ROOT / "experiments/published_rows.csv").read_text())
    monkeypatch.chdir(tmp_path / "book")
    monkeypatch.setattr("cause_book.RESULTS", tmp_path / "results")
    monkeypatch.setattr(plt, "show", lambda: None)

    def show(name: str, files: dict[str, str], replaced: tuple[str, str] = ("", "")) -> list:
        for file, text in files.items():
            (tmp_path / "results" / file).write_text(text)
        shown, namespace = [], {}
        monkeypatch.setattr("IPython.display.display", shown.append)
        for cell in re.findall(r"```\{code-cell\} python\n(.*?)```", (ROOT / "book" / name).read_text(), re.S):
            code = re.sub(r"\A(---\n.*?\n---\n|(:[^\n]*\n)+)", "", cell, flags=re.S).replace(*replaced)
            *body, last = ast.parse(code).body
            last_is_shown = isinstance(last, ast.Expr)
            exec(compile(ast.Module(body if last_is_shown else [*body, last], []), name, "exec"), namespace)
            if last_is_shown:
                shown.append(eval(compile(ast.Expression(last.value), name, "eval"), namespace))
        return shown

    yield show
    plt.close("all")


def html(shown: list) -> list[str]:
    return [item.data for item in shown if type(item).__name__ == "HTML"]


def prose(shown: list) -> str:
    return "\n".join(item.data for item in shown if type(item).__name__ == "Markdown")


# --- from run folders to results ---


def test_a_result_says_what_made_it(table):
    rows = read_rows(table)
    found = results.results(rows)
    assert list(found.columns) == results.COLUMNS and set(found["row"]) == {"paper", "labels"}
    assert list(found.loc[found["row"] == "labels", "readout"].unique()) == ["modularity", "kmeans", "linear"]
    folder = stages.find(rows[0].experiment, KEYS["evaluation"])
    record = read_record(folder)
    first = found.iloc[0]
    assert (first["weights"], first["library"], first["device"], first["date"]) == (
        record["weights"]["sha256"], record["library"], record["device"], record["date"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", first["date"])
    settings = json.loads(first["settings"])
    assert not {"run_dir", "device"} & set(settings)
    assert Experiment.from_dict(settings | {"run_dir": rows[0].experiment.run_dir}).key("evaluation") == \
        rows[0].experiment.key("evaluation")
    for name in ("miou", "miou_present", "pacc"):
        assert first[name] == round(100 * record["results"][0][name], 2)


def test_total_seconds_are_those_of_every_stage_behind(table):
    run = read_rows(table)[0].experiment
    folders = [stages.find(run, stage) for stage in ("evaluation", "probe", "head", "clusterbook")]
    assert results.total_seconds(folders[0]) == pytest.approx(
        sum(read_record(folder)["seconds"] for folder in folders), abs=0.05)


def test_results_are_found_without_the_pictures(table, monkeypatch):
    """A table of many data sets is read where only some of them are, and nothing is fetched for the others."""
    whole = results.results(read_rows(table))

    def not_here(*_, download=True, **__):
        assert not download, "a data set would be fetched"
        raise NotFound("There are no such pictures.")

    monkeypatch.setattr("cause_lib.runs.features.load_dataset", not_here)
    monkeypatch.setattr("cause_lib.weights.weights_path", lambda *_: pytest.fail("weights were asked for"))
    pd.testing.assert_frame_equal(results.results(read_rows(table)), whole)
    assert results.results(read_rows(ROOT / "experiments/published.csv")).empty


def test_runs_that_other_steps_made_are_no_results_and_all_others_are(tmp_path):
    """Earlier versions used labels in step 3 alone; their baselines and evaluations of released files stay."""
    run = Experiment(run_dir=str(tmp_path), label_free=False)
    records = {"evaluation/then": run, "evaluation/now": run, "evaluation/files": run.replace(release="there"),
               "baseline_evaluation/then": run, "evaluation/free": run.replace(label_free=True)}
    for place, experiment in records.items():
        fields = experiment.to_dict()
        if not place.endswith("now"):
            del fields["labels_in_norm"]
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "metrics.json").write_text(json.dumps({"stage": place.split("/")[0], "experiment": fields}))
    found = {folder.relative_to(tmp_path).as_posix() for folder in sum(results.evaluations(tmp_path).values(), [])}
    assert found == {*records} - {"evaluation/then"}


def test_results_of_several_machines_add_up(table, tmp_path, capsys):
    target = tmp_path / "book/results.csv"
    results.main(str(table), str(target))
    whole = pd.read_csv(target)
    assert len(whole) == 10 and "10 results" in capsys.readouterr().out
    elsewhere = whole.assign(settings='{"seed": 9}', miou=1.0, library="other")
    pd.concat([elsewhere, whole.assign(miou=0.0)]).to_csv(target, index=False)
    results.main(str(table), str(target), str(tmp_path / "results.md"))
    again = pd.read_csv(target)
    assert list(again.columns) == results.COLUMNS and len(again) == 20
    pd.testing.assert_frame_equal(again[again["library"] != "other"].reset_index(drop=True), whole)
    assert (again.loc[again["library"] == "other", "miou"] == 1.0).all()
    before = again.rename(columns={"miou": "miou_all", "miou_present": "miou"})  # as earlier versions wrote it
    before.to_csv(target, index=False)
    results.main(str(table), str(target))
    of_now = again[again["label_free"] | (again["library"] != "other")].reset_index(drop=True)  # with labels: other steps
    assert len(of_now) < len(again)
    pd.testing.assert_frame_equal(pd.read_csv(target), of_now)
    shown = (tmp_path / "results.md").read_text()
    assert shown.count("\n") == 22 and "settings" not in shown and "total_seconds" in shown


# --- the audit ---


def test_each_run_is_held_against_the_one_that_parts_in_the_switch_alone(table):
    found = audit.audit(read_rows(table))
    assert list(found.columns) == audit.COLUMNS
    assert [tuple(line) for line in found[["item", "readout"]].itertuples(index=False)] == [
        (audit.CRF, "modularity"), (audit.PRESENT, "modularity"), (audit.CRF, "kmeans"),
        (audit.PRESENT, "kmeans"), ("labels", "modularity"), ("labels", "kmeans")]
    numbers = results.results(read_rows(table)).set_index(["row", "readout", "crf"])
    for line in found.to_dict("records"):
        paper = numbers.loc["paper", line["readout"], False]
        ours = {"labels": numbers.loc["labels", line["readout"], False], audit.PRESENT: paper,
                audit.CRF: numbers.loc["paper", line["readout"], True]}[line["item"]]
        assert line["miou"] == ours["miou_present" if line["item"] == audit.PRESENT else "miou"]
        assert (line["pacc"], line["paper_miou"], line["paper_pacc"]) == (ours["pacc"], paper["miou"], paper["pacc"])
        assert (line["clusters_used"], line["paper_clusters_used"]) == (ours["clusters_used"], paper["clusters_used"])
        assert line["head"] == "mlp" and line["date"] and line["weights"] and line["settings"]
    assert found.set_index("item")["switch"].to_dict() == {
        audit.CRF: "crf=True", audit.PRESENT: "miou_present", "labels": "label_free=False"}


def test_a_line_without_its_paper_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("row,seed,bank_capacity\npaper,0,\nno bank,1,0\n")
    with pytest.raises(ValueError, match=r"line 2 \(no bank\) has nothing to be held against: .*'paper'.*seed 1"):
        audit.audit(read_rows(path))


@pytest.mark.parametrize("path", AUDITS, ids=lambda path: path.stem)
def test_tables_of_the_audit_have_three_seeds_a_difference_and_one_switch(path):
    rows = read_rows(path)
    assert {row.experiment.run_dir for row in rows} == {"runs/audit"}
    papers = {audit._setting(row): row for row in rows if row.label == audit.PAPER}
    seeds: dict[tuple, list] = {}
    for row in rows:
        changed = audit.switch(row, papers[audit._setting(row)])
        assert (changed == "") == (row.label == audit.PAPER)
        several = {"one GPU of four": 4, "labels in step 3 alone": 2, "small rules and labels as released": 2,
                   "bound and decay of Cityscapes": 2}
        assert len(changed.split(", ")) == several.get(row.label, 1)
        setting = tuple(value for name, value in zip(audit.SETTING, audit._setting(row)) if name != "seed")
        seeds.setdefault((row.label, *setting), []).append(row.experiment.seed)
    assert set(map(tuple, seeds.values())) == {(0, 1, 2)}


# --- the pages ---


def test_paper_and_code_says_so_where_nothing_was_measured(page):
    plt.close("all")
    shown = page("differences.md", {"audit.csv": ",".join(audit.COLUMNS) + "\n"})
    assert not html(shown) and "Nothing has been measured yet" in prose(shown)
    assert not plt.get_fignums()


def test_paper_and_code_shows_the_change_of_each_seed(page, table):
    one = audit.audit(read_rows(table)).replace({"item": {"labels": "no labels"}})
    several = pd.concat([one.assign(seed=seed, miou=one["paper_miou"] + seed - 0.5) for seed in (0, 1, 2)])
    shown = page("differences.md", {"audit.csv": several.to_csv(index=False)})
    first, text = html(shown)
    assert first.count("<tr>") == 1 + 2 and "CAUSE-MLP" not in first and audit.CRF in first
    assert text.count("<tr>") == 1 + 6 and text.count("+0.5 (−0.5, +0.5, +1.5)") == 6
    assert "label_free=False" in text and "CAUSE-MLP" in text
    said = prose(shown)
    assert one["date"][0] in said and one["device"][0] in said and one["library"][0] in said
    (axes,) = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    assert [label.get_text() for label in axes.get_yticklabels()] == [audit.CRF, audit.PRESENT, "no labels"]


def test_reproducing_shows_all_rows_and_invents_nothing(page, table):
    run = read_rows(table)[0].experiment
    own = ("run = {}", f"run = {run.to_dict()!r}")
    shown = page("reproducing.md", {"published.csv": ",".join(results.COLUMNS) + "\n"}, own)
    (text,) = html(shown)
    assert text.count("<tr>") == 1 + 35 and "None of the 35 rows has been rerun" in prose(shown)
    for line in re.findall(r"<tr>(<th scope=\"row\".*)</tr>", text):
        empty = re.findall(r"<t[dh][^>]*>([^<]*)", line)
        assert all(empty[:4]) and not any(empty[5:])  # a few rows were published without pAcc
    assert "".join(re.findall(r"data-value=\"([^\"]*)\"", text))  # the published ones can be sorted as numbers
    assert len(plt.get_fignums()) == 1


def test_reproducing_puts_reruns_beside_what_was_published(page, table):
    rows = read_rows(table)
    found = results.results(rows)
    found["row"] = "cityscapes-dino_vitb8-tr"
    found.loc[found["settings"].str.contains("label_free"), "method"] += " (released files)"
    own = ("run = {}", f"run = {rows[0].experiment.to_dict()!r}")
    assert "cityscapes-dino_vitb8-tr" in set(pd.read_csv(ROOT / "experiments/published_rows.csv")["row"])
    shown = page("reproducing.md", {"published.csv": found.to_csv(index=False)}, own)
    (text,) = html(shown)
    assert text.count("<tr>") == 1 + 36 and "Of 35 rows, **1** rerun" in prose(shown)
    lines = [re.findall(r"<t[dh][^>]*>([^<]*)", line) for line in text.split("\n")]
    lines = [line for line in lines if line[:3] == ["Cityscapes 27", "CAUSE-TR", "DINO ViT-B/8"]]
    sharpened = found[found["crf"] & (found["readout"] == "modularity")]
    assert [line[7:11] for line in lines] == [["trained here", "no", "yes", "0"],
                                              ["the authors&#x27; files", "yes", "yes", "0"]]
    assert [line[5] for line in lines] == [f"{value:.1f}" for value in sharpened["miou"]]
    assert all(line[11] == found["date"][0] and line[12] == found["device"][0] for line in lines)


def test_the_committed_results_are_of_the_tables_that_are_there():
    """What the pages show was made by a line that can be run again; no line is there twice."""
    done = pd.read_csv(ROOT / "cause_book/results/audit.csv")
    assert list(done.columns) == audit.COLUMNS and not done.duplicated(["item", "settings", "readout"]).any()
    reruns = pd.read_csv(ROOT / "cause_book/results/published.csv")
    assert list(reruns.columns) == results.COLUMNS and not reruns.duplicated(["settings", "readout", "crf"]).any()
    assert set(reruns["row"]) <= set(pd.read_csv(ROOT / "experiments/published_rows.csv")["row"])
    for frame in (done, reruns):
        assert frame[["date", "device", "library", "weights", "total_seconds"]].notna().all(axis=None)
