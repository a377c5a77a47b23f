"""Builds the book: every chapter through papermill, then Jupyter Book with what came out; a warning is an error.

    python book/build.py                                                     the book, _build/html
    python book/build.py --sizes tests/book/sizes.yaml --at-once 2           the tests' book, _build/test/_build/html
    python book/build.py --dataset camvid --backbone dino_vits16             an edition, see edition.py

A notebook or page with code is run once, in its own folder, chapters first. It counts as finished by papermill's exit
status and by the numbers of its cells, since after a timeout papermill calls every cell completed. Its outputs are laid
into Jupyter Book's cache, and then no cell is left to be run by the build, which is an error if it runs one.

With sizes (YAML: chapter, or `every`, -> parameter -> value) the book is built in a copy of its tree, in whose
parameters cells the given values stand, so that the pages say what was run.

The cache asks only whether code cells changed. What they import counts as well: when cause_lib, a library that it
computes with, the results of benchmarks and reruns or the tables of experiments are other ones than last time, the kept
outputs and the runs of the embedded default in notebooks/runs are thrown away. Runs on other backbones stay.
"""

import argparse
import ast
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "_build/test"  # the tests' book: a tree of its own, with its own _build
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "seaborn", "pandas")
CODE = ("cause_lib", "cause_book", "workflow/labels.py")  # what the book's cells and its pages of the library import
READ = ("benchmarks/results", "experiments")  # what its cells read
NOTEBOOKS = ("notebooks/*.ipynb", "book/*.md")  # in this order: pages read what the chapters have made
PAGES = ("_config.yml", "_toc.yml", "book", "notebooks")
COLOUR = re.compile(r"\x1b\[[\d;]*m")
BUILDS_RUN_NONE = "Executing notebook"  # what myst-nb says when it runs one after all


def library_fingerprint(*paths: Path) -> str:
    """SHA-256 over files, the folders' with their names, and the versions of the libraries the book computes with."""
    digest = hashlib.sha256()
    for place in paths:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            parts = path.relative_to(place).parts
            if path.is_file() and not {"__pycache__", "runs", ".ipynb_checkpoints"} & set(parts):
                digest.update(f"{path.relative_to(place)}\n".encode() + path.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


def drop_default_runs(runs: Path) -> None:
    """Removes artefacts and checkpoints of the embedded default (`bundled`, trained or random) under `runs`."""
    for record in sorted([*runs.rglob("artefact.json"), *runs.rglob("metrics.json")]):
        if not record.exists():  # gone with its neighbour
            continue
        if json.loads(record.read_text())["experiment"]["backbone"] in ("bundled", "bundled.random"):
            shutil.rmtree(record.parent)
    for checkpoint in runs.rglob("*bundled*.checkpoint.safetensors"):
        checkpoint.unlink()


def read_notebook(path: Path) -> nbformat.NotebookNode | None:
    """A notebook, or a page as one; None for a page without code."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        return nbformat.reads(text, as_version=4)
    return read_myst_markdown_notebook(text, path=path) if is_myst_markdown_notebook(text) else None


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def set_parameters(notebook: nbformat.NotebookNode, values: dict) -> tuple[str, str]:
    """Writes values into the parameters cell, each in the line of its name; returns the cell as it was and as it is.

    Raises:
        KeyError: a name has no line there.
    """
    (cell,) = tagged(notebook, "parameters")
    before, statements = cell.source, ast.parse(cell.source).body
    lines = before.splitlines()
    for statement in statements:
        name = statement.targets[0].id
        if name in values:
            line = lines[statement.lineno - 1]
            comment = line[statement.end_col_offset:]
            lines[statement.lineno - 1] = f"{name} = {values[name]!r}{comment}"
    if unknown := set(values) - {statement.targets[0].id for statement in statements}:
        raise KeyError(f"the parameters cell has no {min(unknown)}")
    cell.source = "\n".join(lines)
    return before, cell.source


def parameters_of(path: Path) -> set[str]:
    """The names in the parameters cell of a chapter or page; none where there is no such cell."""
    notebook = read_notebook(path)
    return {statement.targets[0].id for cell in (tagged(notebook, "parameters") if notebook else ())
            for statement in ast.parse(cell.source).body}


def parameters_of_chapters() -> dict[str, set[str]]:
    """Of each chapter, and each page that has some."""
    return {path.stem: names for kind in NOTEBOOKS for path in ROOT.glob(kind) if (names := parameters_of(path))}


def sizes_of_chapters(given: dict[str, dict]) -> dict[str, dict]:
    """What each chapter gets: of `every`, the parameters that it has; and what stands under its own name."""
    shared = given.get("every", {})
    return {chapter: {name: value for name, value in shared.items() if name in names} | given.get(chapter, {})
            for chapter, names in parameters_of_chapters().items()}


def copy_tree(tree: Path, sizes: dict[str, dict]) -> None:
    """Copies what the book is made of, with `sizes` in the parameters cells; runs and outputs in `tree` stay."""
    for name in (*PAGES, *READ):
        source, target = ROOT / name, tree / name
        if not source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            continue
        for old in target.iterdir() if target.is_dir() else ():
            if old.is_file():
                old.unlink()
            elif old.name != "runs":
                shutil.rmtree(old)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("runs", "__pycache__", ".*"), dirs_exist_ok=True)
    for name, values in sizes.items():
        path = next(path for kind in NOTEBOOKS for path in tree.glob(kind) if path.stem == name)
        notebook = read_notebook(path)
        before, after = set_parameters(notebook, values)
        if path.suffix == ".md":
            path.write_text(path.read_text(encoding="utf8").replace(before, after), encoding="utf8")
        else:
            nbformat.write(notebook, path)


def drop_stale(tree: Path, *given: Path) -> None:
    """Throws kept outputs and runs away where they were made by another library, other results or other `given` files."""
    key = tree / "_build/library.sha256"
    fingerprint = library_fingerprint(*(ROOT / name for name in (*CODE, *READ)), *given)
    if not key.exists() or key.read_text() != fingerprint:
        for kept in (".jupyter_cache", "executed", "html"):
            shutil.rmtree(tree / "_build" / kept, ignore_errors=True)
        drop_default_runs(tree / "notebooks/runs")
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(fingerprint)


def drop_other_scores(tree: Path, values: dict) -> None:
    """Throws evaluations away that were made with other values: the chapter of results lists all that are there."""
    key, said = tree / "_build/values.yaml", yaml.safe_dump(values)
    if not key.exists() or key.read_text(encoding="utf8") != said:
        for record in sorted((tree / "notebooks/runs").rglob("metrics.json")):
            shutil.rmtree(record.parent)
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(said, encoding="utf8")


def run_notebook(notebook: nbformat.NotebookNode, name: str, folder: Path, left: Path, parameters: dict,
                 timeout: int, environment: dict[str, str]) -> float:
    """Runs a notebook by papermill in `folder`, and puts the outputs into it.

    left: the file in which the executed notebook stays, for whoever wants to see how far it came.

    Returns:
        Seconds of wall clock.

    Raises:
        RuntimeError: a cell failed, or was never reached; papermill's last words are in the message.
    """
    asked = left.with_suffix(".asked.ipynb")
    left.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, asked)
    command = [sys.executable, "-m", "papermill", str(asked), str(left), "--kernel", "python3", "--language", "python",
               "--cwd", str(folder), "--no-progress-bar", "--execution-timeout", str(timeout)]
    if parameters:
        command += ["--parameters_yaml", yaml.safe_dump(parameters)]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        said = done.stdout[max(0, done.stdout.rfind("papermill.exceptions.")):]
        raise RuntimeError(f"{name} failed:\n{said[-6000:]}")
    executed = nbformat.read(left, as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(counts) + 1)):
        raise RuntimeError(f"{name} was not run from its first cell to its last: its cells have the numbers {counts}")
    ran = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell, source in zip(ran, notebook.cells, strict=True):
        if source.cell_type == "code":
            source.outputs, source.execution_count = without_places(cell.outputs, environment), cell.execution_count
    notebook.metadata["language_info"] = executed.metadata["language_info"]  # pages have none, and Sphinx colours by it
    asked.unlink()
    return seconds


def without_places(outputs: list[nbformat.NotebookNode], environment: Mapping[str, str]) -> list[nbformat.NotebookNode]:
    """Outputs, as of warnings, in which paths begin below the checkout, or the folder of data or weights."""
    text = json.dumps(outputs, ensure_ascii=False)
    for place in (environment.get("CAUSE_DATA"), environment.get("CAUSE_WEIGHTS"), str(ROOT)):
        if place and len(Path(place).parts) > 1:
            text = text.replace(json.dumps(f"{place.rstrip(os.sep)}{os.sep}", ensure_ascii=False)[1:-1], "")
    return [nbformat.from_dict(each) for each in json.loads(text)]


def is_cached(cache: JupyterCacheAbstract, notebook: nbformat.NotebookNode) -> bool:
    try:
        return bool(cache.match_cache_notebook(notebook))
    except KeyError:
        return False


def run_all(tree: Path, sizes: dict[str, dict], at_once: int, say: Callable[[str], None] = print) -> None:
    """Runs what Jupyter Book's cache does not have yet, `at_once` at a time, and adds it to the cache; RuntimeError
    with every failure's reason where any failed."""
    config = yaml.safe_load((tree / "_config.yml").read_text(encoding="utf8"))["execute"]
    cache = get_cache(str(tree / "_build/.jupyter_cache"))
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))} if at_once > 1 else {}
    environment = threads | dict(os.environ)

    def run(name: str, notebook: nbformat.NotebookNode, folder: Path) -> tuple[str, float] | RuntimeError:
        left, parameters = tree / f"_build/executed/{name}.ipynb", sizes.get(Path(name).name, {})
        try:
            return name, run_notebook(notebook, name, folder, left, parameters, config["timeout"], environment)
        except RuntimeError as error:
            return error

    for kind in NOTEBOOKS:
        failed, wanted = [], {}
        for path in sorted(tree.glob(kind)):
            notebook = read_notebook(path)
            if notebook is not None and not is_cached(cache, notebook):
                wanted[path.relative_to(tree).with_suffix("").as_posix()] = notebook
        with ThreadPoolExecutor(at_once) as pool:
            running = [pool.submit(run, name, notebook, (tree / name).parent) for name, notebook in wanted.items()]
            for done in map(Future.result, as_completed(running)):
                if isinstance(done, RuntimeError):
                    failed.append(str(done))
                    continue
                name, seconds = done
                say(f"{seconds:7.1f} s  {name}")
                bundle = CacheBundleIn(wanted[name], name, data={"execution_seconds": seconds})
                # here, in the thread that opened the cache: its database is locked for others
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        if failed:
            raise RuntimeError("\n\n".join(failed))


def build_pages(tree: Path) -> int:
    """Jupyter Book, its words also in _build/build.log; 0 only where nothing failed or warned and no cell was run."""
    jupyter_book = Path(sys.executable).with_name("jupyter-book")  # of this environment, whatever PATH says
    command = [str(jupyter_book), "build", str(tree), "--all", "-W", "--keep-going"]
    shutil.rmtree(tree / "_build/html", ignore_errors=True)  # a page that is gone is gone
    (tree / "_build").mkdir(exist_ok=True)
    with (tree / "_build/build.log").open("w", encoding="utf8") as log, subprocess.Popen(
            command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as building:
        ran = False
        for line in building.stdout:
            print(line, end="", flush=True)
            log.write(COLOUR.sub("", line))
            ran |= BUILDS_RUN_NONE in line
    if ran:
        print("The build ran a notebook itself: its outputs were not in the cache under the cells that it has.")
    return building.returncode or int(ran)


def make(tree: Path, sizes: dict[str, dict], at_once: int) -> int:
    """Chapters, then pages; the exit status, 0 only where all is well."""
    began = time.perf_counter()
    try:
        run_all(tree, sizes, at_once)
    except RuntimeError as error:
        print(COLOUR.sub("", str(error)))
        return 1
    ran = time.perf_counter()
    status = build_pages(tree)
    print(f"chapters {ran - began:.0f} s, pages {time.perf_counter() - ran:.0f} s")
    return status


def make_edition(dataset: str, backbone: str, folder: str, sizes: Path | None, at_once: int) -> int:
    """The book on other pictures, see edition.py; what is misspelt or missing is refused before anything is written."""
    from edition import open_edition, read_sizes

    try:
        given = read_sizes(sizes, chapters := parameters_of_chapters())
        edition = open_edition(dataset, backbone, folder, given.get("every", {}))
        values = edition.sizes(chapters, given)
    except (OSError, RuntimeError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    tree = ROOT / "_build" / edition.name
    print(f"{tree.relative_to(ROOT)}: {edition.facts}")
    seen = tree / "_build/pictures.txt"
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_text(edition.fingerprint)
    drop_stale(tree, seen)
    drop_other_scores(tree, edition.values)
    copy_tree(tree, values)
    edition.mark(tree)
    status = make(tree, values, at_once)
    if status == 0 and not (tree / "html").exists():
        (tree / "html").symlink_to("_build/html", target_is_directory=True)
    return status


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Builds the book.")
    parser.add_argument("--sizes", type=Path, help="YAML: chapter -> parameter -> value; alone, for the tests' book")
    parser.add_argument("--at-once", type=int, default=1, help="how many chapters run at the same time")
    for name, what in (("dataset", "a data set"), ("backbone", "a backbone"), ("folder", "a folder of pictures")):
        parser.add_argument(f"--{name}", default="", help=f"{what} in place of the default's: an edition")
    given = parser.parse_args(arguments)
    if given.dataset or given.backbone or given.folder:
        return make_edition(given.dataset, given.backbone, given.folder, given.sizes, given.at_once)
    if given.sizes is None:
        drop_stale(ROOT)
        return make(ROOT, {}, given.at_once)
    from edition import read_sizes

    try:
        sizes = sizes_of_chapters(read_sizes(given.sizes, parameters_of_chapters()))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    key = SMALL / "all.sha256"
    fingerprint = library_fingerprint(Path(__file__), given.sizes, *(ROOT / name for name in (*CODE, *READ, *PAGES)))
    if key.exists() and key.read_text() == fingerprint:
        print(f"{SMALL.relative_to(ROOT)} is built, and nothing has changed since.")
        return 0
    key.unlink(missing_ok=True)
    drop_stale(SMALL, given.sizes)
    copy_tree(SMALL, sizes)
    status = make(SMALL, sizes, given.at_once)
    if status == 0:
        key.write_text(fingerprint)
    return status


if __name__ == "__main__":
    sys.exit(main())
