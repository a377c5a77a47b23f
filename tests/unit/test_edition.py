"""book/edition.py and `make book DATASET=...`: what chapters get, what is refused, and what pages say.

A whole edition: tests/book/test_edition.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book"))
import build  # noqa: E402
import edition  # noqa: E402

CHAPTERS = {path.stem: build.parameters_of(path) for kind in build.NOTEBOOKS for path in ROOT.glob(kind)}


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """No data or weights of this machine; what the code writes into these variables is undone."""
    for variable in ("CAUSE_DATA", "CAUSE_WEIGHTS"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def holiday(tmp_path):
    """A folder of three pictures without labels."""
    folder = tmp_path / "pictures/my holiday"
    (folder / "images").mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
    return folder


def opened(folder, **sizes):
    return edition.open_edition("folder", "", str(folder), sizes)


def named(values, stem):
    return {edition.unnumbered(chapter): each for chapter, each in values.items()}.get(stem)


def test_an_edition_knows_its_pictures_and_hides_where_they_lie(holiday, monkeypatch):
    monkeypatch.chdir(holiday.parent)
    found = edition.open_edition("folder", "", "my holiday", {})
    assert (found.train, found.test, found.labelled) == (3, 3, False)
    assert found.values == edition.PHOTOGRAPHS | {"dataset": "folder", "folder": "my holiday"}
    assert found.name == "folder-my-holiday-bundled"
    assert found.facts == ("data set folder my holiday, backbone bundled, 3 training and 3 test pictures of 224 x 224 "
                           "pixels, seed 0, no labels")
    monkeypatch.chdir("/")
    assert opened("my holiday").fingerprint == found.fingerprint  # below CAUSE_DATA now
    Image.new("RGB", (50, 40)).save(holiday / "images/2.png")
    assert opened("my holiday").fingerprint != found.fingerprint


def test_each_chapter_gets_the_parameters_that_it_has(holiday):
    values = opened(holiday, seed=3).sizes(CHAPTERS, {})
    there = {"dataset": "folder", "folder": "my holiday", "seed": 3}
    sizes = edition.PHOTOGRAPHS
    assert named(values, "evaluation") == there | sizes
    assert named(values, "features") == there | {name: sizes[name] for name in ("image_size", "test_images")}
    assert named(values, "outcome") == named(values, "reproducing") == {"run": there | sizes}
    kept = {edition.unnumbered(chapter) for chapter, names in CHAPTERS.items() if names and chapter not in values}
    assert kept == {"quickstart", "frontdoor", "causal", "granularity", "backbone", "alive"}  # the last needs labels
    for path in (path for kind in build.NOTEBOOKS for path in ROOT.glob(kind) if path.stem in values):
        _, after = build.set_parameters(build.read_notebook(path), values[path.stem])
        assert "'my holiday'" in after


def test_given_sizes_come_before_the_editions(holiday):
    given = {"every": {"image_size": 96, "seed": 1, "samples": 2000}, "08_evaluation": {"crf": False}}
    values = opened(holiday, **given["every"]).sizes(CHAPTERS | {"08_evaluation": {"dataset", "image_size"}}, given)
    assert values["08_evaluation"] == {"dataset": "folder", "image_size": 96, "crf": False}
    assert named(values, "frontdoor") == {"seed": 1, "samples": 2000}
    assert named(values, "outcome")["run"]["image_size"] == 96


def test_a_labelled_edition_has_every_chapter_with_a_data_set(holiday):
    (holiday / "labels").mkdir()
    for i in range(3):
        Image.fromarray(np.full((40, 50), i % 2, dtype=np.uint8)).save(holiday / f"labels/{i}.png")
    found = opened(holiday)
    assert found.labelled and "no labels" not in found.facts and found.reason("10_alive") is None
    assert named(found.sizes(CHAPTERS, {}), "alive")["dataset"] == "folder"


@pytest.mark.parametrize(("asked", "said"), [
    (["--dataset", "camvit"], "did you mean 'camvid'?"),
    (["--dataset", "cityscapes"], "cityscapes is not on this machine"),
    (["--dataset", "folder", "--folder", "holidy"], "there is no folder 'holidy'"),
    (["--dataset", "folder"], "needs the parameter folder"),
    (["--folder", "holiday"], 'set dataset to "folder"'),
    (["--backbone", "dino_vits61"], "the nearest names are dino_vits16"),
    (["--dataset", "scenes", "--backbone", "dino_vits16"], "CAUSE_WEIGHTS"),
    (["--dataset", "scenes", "--sizes", "sizes.yaml"], "sizes.yaml"),
])
def test_what_is_misspelt_or_missing_is_refused_in_one_sentence_at_once(asked, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert build.main(asked) == 1
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
    assert not (tmp_path / "_build").exists()


@pytest.mark.parametrize(("text", "said"), [
    (None, "there is no such file"), ("every: {seed: 1", "cannot be read"), ("", "form of sizes"), ("[1]", "form of sizes"),
    ("every:", "form of sizes"), ("08_evaluation: 5", "form of sizes"),
    ("every: {sed: 1}", "every: Unknown parameter 'sed': did you mean 'seed'?"),
    ("08_evaluation: {sed: 1}", "08_evaluation: Unknown parameter 'sed'"), ("08_evalution: {}", "names '08_evalution'"),
    ("every: {folder: other}", "as FOLDER="), ("outcome: {run: 5}", "not 5"), ("outcome: {run: {backbone: a}}", "as BACKBONE="),
])
@pytest.mark.parametrize("edition_of", [["--dataset", "scenes"], []])  # without a name: the tests' book
def test_a_file_of_sizes_is_refused_before_anything_is_written(edition_of, text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "parameters_of_chapters", lambda: CHAPTERS)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "SMALL", tmp_path / "_build/test")
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    assert build.main([*edition_of, "--sizes", "mine.yaml"]) == 1
    printed = capsys.readouterr()
    assert "mine.yaml" in printed.err and said in printed.err and len(printed.err.splitlines()) == 1
    assert not (tmp_path / "_build").exists()


@pytest.mark.parametrize("given", [{"08_evaluation": {"seed": "x"}}, {"outcome": {"run": {"seed": "x"}}}])
def test_a_chapters_own_value_is_checked_before_any_chapter_runs(given, holiday):
    with pytest.raises(ValueError, match=f"sizes of {min(given)}: Parameter seed must be int"):
        opened(holiday).sizes(CHAPTERS, given)


def test_the_tests_sizes_are_accepted():
    assert edition.read_sizes(ROOT / "tests/book/sizes.yaml", CHAPTERS)["every"]["image_size"] == 96


def test_pages_say_which_edition_they_are_of(holiday, tmp_path):
    found = opened(holiday)
    build.copy_tree(tmp_path / "tree", found.sizes(CHAPTERS, {}))
    found.mark(tmp_path / "tree")
    config = yaml.safe_load((tmp_path / "tree/_config.yml").read_text())
    assert config["html"]["announcement"] == f"Edition: {found.facts}."
    notes = {}
    for path in [*tmp_path.glob("tree/book/*.md"), *tmp_path.glob("tree/notebooks/*.ipynb")]:
        text = path.read_text() if path.suffix == ".md" else "".join(build.read_notebook(path).cells[0].source)
        title, _, rest = text.removeprefix("---\nfile_format: mystnb\n---\n").lstrip().partition("\n")
        if rest.startswith("\n:::{note}"):
            assert title.startswith("# ")
            notes[edition.unnumbered(path.stem)] = rest.split(":::")[1]
    assert set(notes) == {"intro", "quickstart", "frontdoor", "causal", "simulator", "granularity", "backbone", "live",
                          "alive"}
    assert found.facts in notes["intro"] and "no scores" in notes["intro"]
    assert "folder my holiday has none" in notes["alive"]


def test_scores_of_other_sizes_go_and_what_was_trained_stays(tmp_path):
    made = [tmp_path / f"notebooks/runs/{name}" for name in ("evaluation/a/metrics.json", "head/a/artefact.json")]
    for path in made:
        path.parent.mkdir(parents=True)
    for values, left in (({"seed": 0}, [False, True]), ({"seed": 0}, [True, True]), ({"seed": 1}, [False, True])):
        for path in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
        build.drop_other_scores(tmp_path, values)
        assert [path.exists() for path in made] == left


def test_without_a_name_it_is_the_default_book(monkeypatch):
    made = []
    monkeypatch.setattr(build, "make", lambda *given: made.append(given) or 0)
    monkeypatch.setattr(build, "drop_stale", lambda *given: made.append(given))
    assert build.main([]) == 0
    assert made == [(ROOT,), (ROOT, {}, 1)]


@pytest.mark.parametrize(("given", "command"), [
    ([], ".venv/bin/python book/build.py"),
    (["DATASET=folder", "FOLDER=my holiday"], '.venv/bin/python book/build.py --dataset "$DATASET" --folder "$FOLDER"'),
])
def test_make_gives_names_on(given, command):
    said = subprocess.run(["make", "-n", "--no-print-directory", "-o", ".venv/ready", "book", *given], cwd=ROOT,
                          capture_output=True, text=True)  # a make within `make test` would say where it is
    assert said.stdout.splitlines()[-1] == command
