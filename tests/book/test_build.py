"""book/build.py on a book of one chapter and one page: cells run once, by papermill, and every failure fails it."""

import importlib.util

import nbformat
import pytest
import yaml
from built import ROOT

spec = importlib.util.spec_from_file_location("book_build", ROOT / "book/build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

PAGE = """---
file_format: mystnb
---
# Intro

```{code-cell} python
print("side", 20 + 2)
open("../runs.txt", "a").write("page ");
```
"""
CODE = ['print("square", n * n)\nopen("../runs.txt", "a").write("chapter ");']


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """`tree(code, page)`: a copy of a book's source, its parameter n at 5 in place of 2."""
    source, tree = tmp_path / "source", tmp_path / "tree"
    for name, value in (("ROOT", source), ("READ", ()), ("CODE", ())):
        monkeypatch.setattr(build, name, value)

    def written(code=CODE, page=PAGE, timeout=60):
        for folder in ("book", "notebooks"):
            (source / folder).mkdir(parents=True)
        execute = {"execute_notebooks": "cache", "raise_on_error": True, "timeout": timeout}
        config = {"title": "A", "only_build_toc_files": True, "execute": execute}
        (source / "_config.yml").write_text(yaml.safe_dump(config))
        (source / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters: [{file: notebooks/chapter}]\n")
        (source / "book/intro.md").write_text(page)
        cells = [nbformat.v4.new_markdown_cell("# Chapter"), nbformat.v4.new_code_cell("# Parameters\nn = 2  # a side"),
                 *map(nbformat.v4.new_code_cell, code)]
        cells[1].metadata["tags"] = ["parameters"]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, source / "notebooks/chapter.ipynb")
        build.copy_tree(tree, SIZES)
        return tree

    return written


SIZES = {"chapter": {"n": 5}}


def test_cells_run_once_and_pages_say_what_was_run(tree):
    tree = tree()
    for _ in range(2):
        assert build.make(tree, SIZES, 2) == 0
        assert (tree / "runs.txt").read_text() == "chapter page "
    page = (tree / "_build/html/notebooks/chapter.html").read_text()
    assert "square 25" in page and "a side" in page and 'class="mi">5<' in page and 'class="mi">2<' not in page
    assert "side 22" in (tree / "_build/html/book/intro.html").read_text()


@pytest.mark.parametrize("code, timeout, said", [
    (["raise ValueError('no such thing')", *CODE], 60, "no such thing"),
    (["import time\ntime.sleep(60)", *CODE], 2, "CellTimeoutError"),
    (["import os\nos._exit(1)", *CODE], 60, "DeadKernelError"),
], ids=["an error", "out of time", "a dead kernel"])
def test_a_chapter_that_does_not_reach_its_end_fails_the_build(tree, capsys, code, timeout, said):
    tree = tree(code, timeout=timeout)
    assert build.make(tree, SIZES, 1) == 1
    assert "notebooks/chapter failed" in (words := capsys.readouterr().out) and said in words
    assert not (tree / "runs.txt").exists() and not (tree / "_build/html").exists()


def test_a_warning_and_a_cell_that_the_build_would_run_fail_it(tree, capsys):
    tree = tree(page="# Intro\n\n[nowhere](nowhere.md)\n")
    assert build.build_pages(tree) != 0
    said = capsys.readouterr().out
    assert "WARNING" in said and "nowhere" in said and "The build ran a notebook itself" in said


def test_a_size_of_no_parameter_is_an_error(tree):
    tree = tree()
    with pytest.raises(KeyError, match="the parameters cell has no m"):
        build.copy_tree(tree, {"chapter": {"m": 1}})
