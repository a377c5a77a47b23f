"""A run of a rival as it is described, its line of a table, and what chapter 3 makes of the results."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from cause_book import RESULTS, rivals, verdicts
from cause_lib.config import Experiment
from cause_lib.errors import InputError
from cause_rivals import METHODS, load, rival
from cause_rivals.rival import presets_of
from cause_rivals.run import folder_of
from rival_runs import tiny_rival
from workflow import results
from workflow.rows import job_of, read_jobs, read_rows

ROOT = Path(__file__).resolve().parents[2]
TABLE, PUBLISHED, BESIDE, PARTS = (ROOT / "experiments" / f"{name}.csv" for name in (
    "rivals", "published_rivals", "published_rivals_rows", "eigensegments"))


def test_settings_are_the_presets_of_the_data_set_and_what_is_given_wins():
    coco, own = rival("stego", dataset="cocostuff27"), rival("stego", "steps=7 rank=16", dataset="cocostuff27")
    assert (coco.settings.steps, coco.settings.shift_rand, coco.batch_size) == (7000, 1.0, 32)
    assert (own.settings.steps, own.settings.rank, own.settings.shift_rand) == (7, 16, 1.0)
    assert rival("stego", batch_size=5, dataset="cocostuff27").batch_size == 5
    assert rival("stego", {"steps": 7}).settings == rival("stego", "steps=7").settings


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_has_a_source_and_can_be_read(method):
    presets = presets_of(method)
    assert set(presets) <= {"*", "scenes", "camvid", "folder", "cocostuff27", "cityscapes", "pascalvoc"} and "*" in presets
    for dataset, preset in presets.items():
        assert preset["source"] and set(preset) <= {"source", "settings", "fields"}
        made = rival(method, dataset="scenes" if dataset == "*" else dataset, folder="x" if dataset == "folder" else "")
        assert json.loads(json.dumps(made.to_dict())) == made.to_dict()
        assert made.experiment == Experiment.from_dict(made.experiment.to_dict())


@pytest.mark.parametrize(("given", "said"), [
    ({"method": "stegos"}, "Parameter method must be one of stego, hp"), ({"method": "hp", "settings": "stepz=3"}, "did you mean 'steps'"),
    ({"method": "hp", "settings": "steps"}, "name=value"), ({"method": "hp", "settings": "steps=-1"}, "steps must be at least 0"),
    ({"method": "hp", "batchsize": 3}, "did you mean 'batch_size'"), ({"method": "stego", "settings": "steps=many"}, "steps must be int")])
def test_what_cannot_be_is_refused_in_a_sentence(given, said):
    with pytest.raises(InputError, match=said):
        rival(**given)


def test_names_follow_settings_pictures_and_the_methods_own_code(tmp_path, monkeypatch):
    names = {folder_of(tiny_rival(method, tmp_path, settings), "rival_evaluation").name
             for method, settings in (("iic", {"steps": 3}), ("iic", {"steps": 4}), ("picie", {}))}
    assert len(names) == 3
    one = tiny_rival("iic", tmp_path, {"steps": 3})
    before = folder_of(one, "rival")
    assert folder_of(tiny_rival("iic", tmp_path, {"steps": 3}, crf=True), "rival") == before  # judging is not training
    monkeypatch.setattr(type(one), "_code", lambda self: "another")
    assert folder_of(one, "rival") != before


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no artefact.json"):
        load(tmp_path)


# --- tables ---

def test_the_table_has_every_method_and_three_seeds_on_equal_terms():
    rows = read_rows(TABLE)
    seeds: dict[tuple, set] = {}
    for row in rows:
        e = row.experiment
        seeds.setdefault((row.label, e.dataset, e.backbone), set()).add(e.seed)
        assert (e.crf, e.per_image, e.train_images, e.test_images, e.test_view) == (True, True, None, None, None)
        own = dict.fromkeys(("published", "alive", "earlier"), "evaluation")
        assert row.stage == ({"tokens": "baseline"} | own).get(row.label, "rival")
    assert set(map(tuple, seeds.values())) == {(0, 1, 2)} and len(seeds) == 5 * (4 + len(METHODS))
    jobs = read_jobs(rows)
    assert len(jobs["rival"]) == 15 * len(METHODS)
    job = job_of(jobs, rows[-1])
    assert job.notebook == "workflow/rival.ipynb" and "-p" in job.arguments and rows[-1].label in job.name


def test_the_parts_of_eigensegments_are_compared_with_the_same_seeds():
    rows = read_rows(PARTS)
    assert {row.label for row in rows} > {"eigensegments", "patches alone", "segments alone"} and len(rows) == 7 * 2 * 3
    runs = pd.read_csv(RESULTS / "eigensegments.csv")
    whole = runs[(runs["row"] == "eigensegments") & (runs["readout"] == "own")].set_index(["dataset", "seed"])["miou"]
    lines = {line["row"]: line for line in rivals.ablation(runs)}
    assert set(lines) == set(runs["row"]) and lines["eigensegments"]["change on camvid"].shown == "0.0 (0.0, 0.0, 0.0)"
    for row, line in lines.items():
        readout = "kmeans" if row.startswith("tokens") else "own"
        own = runs[(runs["row"] == row) & (runs["readout"] == readout)]
        for dataset, each in own.set_index(["dataset", "seed"])["miou"].groupby(level="dataset"):
            assert line[dataset] == pytest.approx(each.mean())
            assert line[f"change on {dataset}"].value == pytest.approx((each - whole[dataset]).mean())


def test_what_chapter_3_says_of_the_parts():
    parts = {line["row"]: line for line in rivals.ablation(pd.read_csv(RESULTS / "eigensegments.csv"))}
    floor = pd.read_csv(TABLE.parents[1] / "cause_book/results/rivals.csv")
    floor = floor[(floor["row"] == "tokens") & ~floor["crf"].astype(bool) & floor["backbone"].str.contains("tiny")]
    floor, earlier = floor.groupby("dataset")["miou"].mean(), parts["tokens of the earlier block"]
    assert earlier["camvid"] > floor["camvid"] and earlier["msrc_v2"] < floor["msrc_v2"]
    assert parts["patches alone"]["change on camvid"].value >= 0


def test_what_chapter_3_says_of_the_rivals():
    table = rivals.against_tokens(pd.read_csv(RESULTS / "rivals.csv"))
    for _, part in table.groupby(["dataset", "backbone"]):
        names = [line["method"] for line in rivals.lines(part)]
        assert names[0] == rivals.FLOOR and names[-1] == "Eigensegments"  # "the last row of the tables"
    table = table[~table["crf"]]
    own = table[table["own"]].set_index(["row", "dataset", "backbone"]).sort_index()
    gained = own["gained"].groupby(level=[0, 1, 2]).mean()
    assert gained.groupby(level=0).size().eq(5).all()  # each method on all pictures and backbones
    assert (gained["stego", "camvid"] > 0).all() and (gained["stego", "msrc_v2"] < 0).all()
    assert abs(gained["stego", "scenes", "bundled"]) < 0.5
    above = gained["iic"][gained["iic"] > 0.5].index.tolist()
    assert above == [("camvid", "vit_tiny_patch16_224.supervised")]
    empty = 1 - own.loc["iic", "clusters_used"] / own.loc["iic", "num_clusters"]
    few = ["bundled", "vit_small_patch14_dinov2.saliency"]
    assert (empty[empty.index.isin(few, level="backbone")] > 0.2).all()
    hp = own.loc["hp"]
    assert 0 < (hp["clusters_used"] < hp["num_clusters"]).sum() < len(hp)
    better = table[~table["own"] & (table["row"] == "hp")].groupby(["dataset", "backbone"])["gained"].mean()
    assert (better > gained["hp"]).all()
    acseg = gained["acseg"]
    assert (acseg < 0).sum() > (acseg > 0).sum()


def test_published_rows_are_lines_with_numbers_beside():
    labels = [row.label for row in read_rows(PUBLISHED)]
    beside = list(csv.DictReader(BESIDE.open()))
    assert labels == [line["row"] for line in beside]
    _, rows = rivals.systems()
    held = {(row.system, row.dataset, row.backbone): row.miou for row in rows.itertuples()}
    assert all(held[line["method"], line["dataset"], line["backbone"]] == float(line["miou"]) for line in beside)


def test_the_paper_s_systems_are_all_there_and_each_says_why():
    systems, rows = rivals.systems()
    assert len(systems) == 19 and set(rows["system"]) == set(systems["system"]) and len(rows) == 41
    assert set(systems["method"]) - {""} == set(METHODS) - {"eigensegments"} and systems["why"].str.endswith(".").all()
    assert len(rivals.distances()) == len(METHODS) - 1 and all(said.endswith(".") for said in rivals.distances())


def test_a_line_of_a_rival_is_found_by_what_it_left(tmp_path):
    from cause_rivals import evaluate

    made = tiny_rival("iic", tmp_path, {"steps": 3}, per_image=True)
    folder = evaluate(made)
    columns = {name: value for name, value in made.experiment.to_dict().items()
               if value is not None and value != "" and name not in ("recipe", "reading")} | {
        "method": "iic", "settings": "steps=3", "row": "mine"}
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerow(columns)
    found = results.results(read_rows(tmp_path / "t.csv"))
    assert set(found["folder"]) == {folder.as_posix()} and set(found["readout"]) == {"own", "kmeans"}
    assert set(found["method"]) == {"IIC objective"} and (found["peak_mb"] > 0).all() and found["miou_per_image"].notna().all()


# --- what the chapter says ---

def drawn_results():
    """Two methods, a floor, three seeds, with and without CRF: STEGO gains 4 points, HP loses 1."""
    lines = []
    for seed in range(3):
        for crf in (False, True):
            for method, row, gain in (("k-means", "tokens", 0.0), ("STEGO", "stego", 4.0), ("HP", "hp", -1.0), ("CAUSE-MLP", "alive", 0.2)):
                for readout in ("kmeans",) if method == "k-means" else ("own", "kmeans"):
                    lines.append({"dataset": "camvid", "backbone": "vit", "method": method, "row": row, "readout": readout, "crf": crf,
                                  "seed": seed, "miou": 20.0 + seed + gain, "pacc": 50.0, "miou_per_image": 30.0, "seconds": 1.0,
                                  "total_seconds": 11.0, "peak_mb": 900.0, "images": 5})
    return pd.DataFrame(lines)


def test_gains_are_against_the_tokens_of_the_same_seed():
    table = rivals.against_tokens(drawn_results())
    assert set(table.loc[table["method"] == "STEGO", "gained"].round(6)) == {4.0}
    assert set(table.loc[table["method"] == "HP", "gained"].round(6)) == {-1.0}
    said = verdicts.rivals.above_tokens(table).splitlines()
    assert said[0].startswith("- **STEGO** is above k-means on the last block's tokens for every seed on 1 of 1")
    assert "**HP**" in said[1] and "below on 1" in said[1] and "+0.2" in said[2] and "undecided on 1" in said[2]
    assert "one seed" not in said[0]
    short = table[table["seed"] == 0].assign(dataset="msrc_v2")
    assert "on 2 of 2" in (both := verdicts.rivals.above_tokens(pd.concat([table, short]))) and "1 of these have one seed." in both
    lines = {line["method"]: line for line in rivals.lines(table)}
    assert all(set(line) <= set(rivals.COLUMNS) for line in lines.values())
    assert set(lines) == {rivals.FLOOR, "STEGO", "HP", "CAUSE-MLP, alive"}
    assert lines["STEGO"]["own read-out"].shown == "25.0 (24.0 to 26.0)"
    assert "own read-out" not in lines[rivals.FLOOR] and lines[rivals.FLOOR]["k-means"].value == 21.0


def test_missing_runs_are_said():
    table = rivals.against_tokens(drawn_results())
    assert verdicts.rivals.incomplete(table) == ""
    other = table[(table["seed"] < 2) & (table["name"] != "HP")].assign(dataset="msrc_v2")
    said = verdicts.rivals.incomplete(pd.concat([table, other]))
    assert said == "**Not all runs have been made yet:** 6 of 12 on msrc_v2 with vit."


def test_what_a_method_costs():
    found = {line["method"]: line for line in rivals.costs(drawn_results())}
    assert list(found) == [rivals.FLOOR, "STEGO", "HP", "CAUSE-MLP, alive"]
    assert found["STEGO"]["time"].shown == "10 s" and found["STEGO"]["MB"] == 900.0


def test_published_rows_stand_beside_what_is_gained_here():
    found = rivals.beside_published(rivals.against_tokens(drawn_results()))
    stego = next(row for row in found if row["system"] == "STEGO" and row["backbone"] == "ViT-S/8")
    assert stego["above DINO"] == pytest.approx(24.5 - 11.3) and stego["gained here"].value == pytest.approx(4.0)
    assert {row["system"] for row in found} == {"IIC", "PiCIE", "STEGO", "HP", "ACSeg", "TransFGU", "DINOSAUR", "DeepSpectral"}
    assert next(row for row in found if row["system"] == "ACSeg")["gained here"] is None  # has not been run


def test_without_a_floor_nothing_is_gained():
    alone = drawn_results()
    table = rivals.against_tokens(alone[alone["method"] != "k-means"])
    assert table["gained"].isna().all() and verdicts.rivals.above_tokens(table) == ""
    assert all(line["gained"] is None for line in rivals.lines(table))
