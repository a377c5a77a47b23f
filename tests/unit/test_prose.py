"""Numbers in the prose that are the code's, links, references, and a place for every module; wording: tests/lint.py."""

import json
import pkgutil
import re
from pathlib import Path

import yaml

import cause_book
import cause_lib
import cause_rivals
from cause_lib.data import COUNTS, CROPS
from cause_lib.data.scenes import LEVELS

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
BIBLIOGRAPHY = (ROOT / "book/references.bib").read_text()
ENTRIES = dict(re.findall(r"^@\w+\{(\w+),(.*?)^\}", BIBLIOGRAPHY, re.M | re.S))


def cells(path: Path) -> list[dict]:
    return [cell | {"source": "".join(cell["source"])} for cell in json.loads(path.read_text())["cells"]]


def prose(path: Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown")


def page(name: str) -> str:
    return (ROOT / f"book/{name}.md").read_text()


def test_chapters_are_called_by_the_number_in_their_title():
    """As "chapter 10" in a sentence, "9 the modularity probe" in the README's list, or a bare "9"."""
    called = r"\[(?:chapters? )?(\d+)[^\]\n]*\]\((?:[^)\s]*/)?(\d\d)_\w+\.ipynb\)"
    found = []
    for path in [*NOTEBOOKS, *PAGES, ROOT / "README.md"]:
        text = prose(path) if path.suffix == ".ipynb" else path.read_text()
        found += [(path.name, int(number), int(file)) for number, file in re.findall(called, text, re.IGNORECASE)]
    assert len(found) > len(NOTEBOOKS)
    assert not [(name, number, file) for name, number, file in found if number != file]


def test_chapters_are_numbered_in_the_order_of_the_contents():
    """Titles, file names and the contents agree: 1 is the first page, 14 a page of text, sub-pages have no number."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    titles = {}
    for name in chapters:
        path = ROOT / f"{name}.ipynb" if name.startswith("notebooks/") else ROOT / f"{name}.md"
        text = prose(path) if path.suffix == ".ipynb" else path.read_text()
        titles[name] = re.search(r"^# (.*)", text, re.M).group(1)
    numbered = {name: int(found[1]) for name, title in titles.items() if (found := re.match(r"(\d+)\. [A-Z]", title))}
    assert [*numbered.values()] == [*range(1, 15)] and [*numbered] == chapters[:14]
    for name, number in numbered.items():
        if name.startswith("notebooks/"):
            assert name.startswith(f"notebooks/{number:02}_"), name


def test_every_entry_of_the_bibliography_has_an_address():
    for key, entry in ENTRIES.items():
        assert re.search(r"^  (doi|url) = \{\S+\}", entry, re.M), key


def test_what_is_linked_by_doi_is_in_the_bibliography():
    known = {doi.lower() for doi in re.findall(r"doi = \{(.*?)\}", BIBLIOGRAPHY)}
    for path in [*NOTEBOOKS, *PAGES, ROOT / "README.md"]:
        text = prose(path) if path.suffix == ".ipynb" else path.read_text()
        for doi in re.findall(r"(?:\{doi\}`|doi\.org/)(10\.[^`)\s]+)", text):
            assert doi.lower() in known, f"{path.name}: {doi}"


def test_how_to_cite_says_what_the_bibliography_says():
    (entry,) = re.findall(r"```bibtex\n@article\{kim2023cause,(.*?)^\}", page("cite"), re.M | re.S)
    assert entry == ENTRIES["kim2023cause"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert citation["version"] == cause_lib.__version__ and citation["repository-code"] == address
    assert f"version = {{{cause_lib.__version__}}}" in page("cite") and address in page("cite")
    assert citation["references"][0]["doi"] in ENTRIES["kim2023cause"]


def library_page(module: str) -> str:
    """Where a module is documented: the method and what it stands on, runs, or use and figures."""
    if module.startswith("cause_book."):
        return "api_use"
    if module.startswith("cause_rivals."):
        return "api_rivals"
    name = module.removeprefix("cause_lib.")
    if name in ("reference", "clusterbook", "contrast", "heads", "probes", "crf", "masks", "metrics",
                "backbones", "tokens", "names", "weights"):
        return "api"
    if name in ("segmenter", "segment", "runs.released") or name.startswith("use."):
        return "api_use"
    return "api" if name.startswith("kernels.") else "api_runs"


def test_every_module_is_on_a_page_of_the_library():
    there = {module.name for package in (cause_lib, cause_book, cause_rivals) for module in
             pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
    there -= {"cause_lib.__main__", "cause_lib.kernels", "cause_lib.runs", "cause_lib.use", "cause_lib.release", "cause_book.live.__main__"}  # no modules to read
    there = {name for name in there if not name.startswith("cause_lib.data.")} | {"cause_lib.data.scenes",
                                                                                         "cause_lib.data.report"}
    shown = {(name, module) for name in ("api", "api_runs", "api_use", "api_rivals")
             for module in re.findall(r"automodule:: (\S+)", page(name))}
    wanted = {(library_page(module), module) for module in there}
    assert shown == wanted, "\n".join(
        ["", *(f"add to book/{name}.md: .. automodule:: {module}, with :members:" for name, module in wanted - shown),
         *(f"remove from book/{name}.md: .. automodule:: {module}" for name, module in shown - wanted)])


def test_words_are_in_the_glossary():
    known = set(re.findall(r"^([a-zA-Z][^\n:]*)\n    \S", page("glossary"), re.M))
    for path in [*NOTEBOOKS, *PAGES]:
        text = prose(path) if path.suffix == ".ipynb" else path.read_text()
        for word in re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text):
            assert word in known, f"{path.name}: {word}"


def test_numbers_of_pictures_and_views_are_the_librarys():
    lines: dict[str, str] = {}
    for line in page("data").splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`(\w+)`", line.split("|")[1]):
                lines[name] = lines.get(name, "") + line
    for name, counts in COUNTS.items():
        assert " + ".join(f"{count:,}" for count in counts.values()) in lines[name], name
    for name, crops in (("cocostuff27", "five"), ("cityscapes", "five"), ("coco81", "double"), ("coco171", "double"),
                        ("pascalvoc", "super")):
        assert f"`{crops}`" in lines[name] and f"| {len(CROPS[crops][0])} |" in lines[name]
    train, (fewer, more) = COUNTS["cocostuff27"]["train"], (len(CROPS[crops][0]) for crops in ("five", "double"))
    assert f"{-(-train * fewer // 16):,} updates for 27 classes and {-(-train * more // 16):,} for" in page("data")


def test_numbers_of_classes_of_scenes_are_the_librarys():
    parts, objects, groups = (len(names) for names, _ in LEVELS.values())
    assert f"labelled exactly as {parts} parts, {objects} objects or {groups} groups" in page("data")
    assert f"agreement with {parts} parts, {objects} objects and {groups} groups" in prose(ROOT / "notebooks/11_granularity.ipynb")
    assert f"{objects} clusters can be matched to at\nmost {objects} of {parts} parts" in prose(ROOT / "notebooks/11_granularity.ipynb")


def test_the_cards_settings_are_the_records():
    """The bundled backbone's page names a few settings of its training; the record beside the weights has them all."""
    settings = json.loads((ROOT / "cause_lib/bundled.json").read_text())["settings"]
    text = prose(ROOT / "notebooks/backbone.ipynb")
    assert f"s(i) / {settings['student_temperature']}" in text and f"t / {settings['teacher_temperature']}" in text
    assert settings["recolour"] == 0.5 and "half of what the student sees has its hues turned" in text
