"""The version of the numeric code: it stays when only the text changes, and does not when a number may."""

import ast
import shutil
import time

import pytest

import cause_lib
from cause_lib.code_digest import code_digest, definitions
from cause_lib.runs import version
from cause_lib.runs.version import NOT_NUMERIC, library_version, numeric_files, same_bits

BEFORE = "0.1.0+ffce4a70"  # the version that checkpoints carry that were made before the library was taken apart
WHAT_TO_DO = """
The numeric code is another than SAME_BITS in cause_lib/runs/version.py names. Put the 8 digits that
`python -m cause_lib.runs.version` prints into its line and run the tests of the golden checkpoints
(tests/unit/test_golden.py):
- They pass: the numbers are the same bits. Keep the line so. If the digits that it had are in a released version, add
  that version to those that it goes on from.
- They fail: a formula changed, if only in its last bit. Remove the line, this test and those of the golden checkpoints,
  and say in the commit what changed. (tests/data/make_golden.py ran on commit 18f7e0d and shows how to make others.)"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the library's sources, of which `version_of` is now the version."""
    shutil.copytree(version.ROOT, tmp_path / "cause_lib", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    monkeypatch.setattr(version, "ROOT", tmp_path / "cause_lib")
    return tmp_path / "cause_lib"


def version_of(package):
    """The version of the sources that `numeric_files` names now."""
    return library_version.__wrapped__()


def nodes(tree, kind, wanted=lambda node: True):
    return [node for node in ast.walk(tree) if isinstance(node, kind) and wanted(node)]


def functions(tree):
    return nodes(tree, ast.FunctionDef)


def rewrite(path, change):
    """Change a file's syntax tree and write it, without its comments and its line breaks; False: there is no place."""
    tree = ast.parse(path.read_text())
    if change(tree) is False:
        return False
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    return True


def everywhere(change):
    """Make a change in all numeric files that have a place for it; a failure where none has."""
    changed = [path for path in numeric_files() if rewrite(path, change)]
    assert changed, "no line of the library is of the kind that this test changes: have it look for another"
    return changed


# --- only text ---

def reformat(tree):
    pass


def add_comments(package):
    for path in numeric_files():
        path.write_text("".join(f"# of {i}\n{line}" if line.startswith(("def ", "class ")) else line
                                for i, line in enumerate(path.read_text().splitlines(keepends=True))))


def change_docstrings(tree):
    texts = nodes(tree, ast.Expr, lambda node: isinstance(node.value, ast.Constant))
    for node in texts:
        node.value.value = "Other words."
    return bool(texts)


def rename_locals(tree):
    renamed = False
    classes = nodes(tree, ast.ClassDef)
    for function in [node for body in (tree, *classes) for node in body.body if isinstance(node, ast.FunctionDef)]:
        mine = {node.id for node in nodes(function, ast.Name, lambda node: isinstance(node.ctx, ast.Store))}
        mine -= {node.arg for node in nodes(function, ast.arg)}
        if nodes(function, (ast.Global, ast.Nonlocal)):
            continue
        for node in nodes(function, ast.Name, lambda node: node.id in mine):
            node.id, renamed = f"{node.id}_", True
        for node in nodes(function, ast.ExceptHandler, lambda node: node.name in mine):
            node.name += "_"
    return renamed


def change_annotations(tree):
    for function in functions(tree):
        function.returns = ast.Name("object", ast.Load())
        for node in nodes(function, ast.arg):
            node.annotation = None
    return bool(functions(tree))


def change_sentences(tree):
    texts = [text for node in nodes(tree, ast.Raise)
             for text in nodes(node, ast.Constant, lambda n: type(n.value) is str)]
    for text in texts:
        text.value += " Or not."
    return bool(texts)


def add_imports(tree):
    tree.body.insert(1, ast.parse("import this_and, that\nfrom there import these").body[0])


def move_files(package):
    (package / "clusterbook.py").rename(package / "book_of_concepts.py")
    shutil.move(package / "runs" / "loop.py", package / "loop.py")


def move_definitions(package):
    """Every function and class of one module to the beginning of another, in another order."""
    source, target = package / "clusterbook.py", package / "runs" / "loop.py"
    here, there = ast.parse(source.read_text()), ast.parse(target.read_text())
    moved = [node for node in here.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(moved) > 1
    here.body = [node for node in here.body if node not in moved]
    there.body[1:1] = moved[::-1]
    source.write_text(ast.unparse(here))
    target.write_text(ast.unparse(there))


def change_other_files(package):
    for name in NOT_NUMERIC:
        if (package / name).exists():
            (package / name).write_text("anything = 1\n")
    for path in (package / "data" / "scenes").glob("*.py"):
        path.write_text("anything = 1\n")


@pytest.mark.parametrize("change", [reformat, change_docstrings, rename_locals, change_annotations, change_sentences,
                                    add_imports], ids=lambda change: change.__name__)
def test_text_alone_is_the_same_version(package, change):
    before = version_of(package)
    everywhere(change)
    assert version_of(package) == before


@pytest.mark.parametrize("change", [add_comments, move_files, move_definitions, change_other_files],
                         ids=lambda change: change.__name__)
def test_files_may_be_taken_apart(package, change):
    before = version_of(package)
    change(package)
    assert version_of(package) == before


# --- numbers ---

def first(found, change):
    """Make a change at the first place found in a file; False where there is none."""
    if not found:
        return False
    change(found[0])


def counted(tree, kind):
    """Nodes of a kind, but for those in sentences."""
    sentences = {node for each in nodes(tree, ast.Raise) for node in ast.walk(each)}
    return [node for node in nodes(tree, kind) if node not in sentences]


def other_sign(tree):
    return first([n for n in counted(tree, ast.BinOp) if isinstance(n.op, ast.Sub)],
                 lambda n: setattr(n, "op", ast.Add()))


def other_constant(tree):
    return first([n for n in counted(tree, ast.Constant) if type(n.value) in (int, float)],
                 lambda n: setattr(n, "value", n.value + 1))


def other_default(tree):
    found = [d for f in functions(tree) for d in f.args.defaults if isinstance(d, ast.Constant)]
    return first(found, lambda n: setattr(n, "value", "another"))


def other_comparison(tree):
    return first([n for n in counted(tree, ast.Compare) if isinstance(n.ops[0], ast.Lt)],
                 lambda n: setattr(n, "ops", [ast.LtE(), *n.ops[1:]]))


def swapped_arguments(tree):
    found = [n for n in counted(tree, ast.Call) if len(n.args) > 1 and ast.dump(n.args[0]) != ast.dump(n.args[1])]
    return first(found, lambda n: n.args.insert(0, n.args.pop(1)))


def other_order(tree):
    bodies = [f.body for f in functions(tree) if len(nodes(f, ast.Assign)) > 1 and len(f.body) > 2]
    return first(bodies, lambda body: body.insert(len(body) - 2, body.pop()))


def one_statement_less(tree):
    return first([f.body for f in functions(tree) if len(f.body) > 2], lambda body: body.pop())


def other_method(tree):
    found = [n.func for n in counted(tree, ast.Call) if isinstance(n.func, ast.Attribute) and n.func.attr != "warn"]
    return first(found, lambda n: setattr(n, "attr", f"{n.attr}_"))


def other_keyword(tree):
    found = [k for n in counted(tree, ast.Call) if ast.unparse(n.func) != "warnings.warn" for k in n.keywords if k.arg]
    return first(found, lambda k: setattr(k, "arg", f"{k.arg}_"))


@pytest.mark.parametrize("change", [other_sign, other_constant, other_default, other_comparison, swapped_arguments,
                                    other_order, one_statement_less, other_method, other_keyword],
                         ids=lambda change: change.__name__)
def test_a_changed_formula_is_another_version(package, change):
    """In every numeric module by itself."""
    before = {path: {digest for _, digest in definitions(path)} for path in numeric_files()}
    version_before = version_of(package)
    for path in everywhere(change):
        assert {digest for _, digest in definitions(path)} != before[path], path
    assert version_of(package) != version_before


def test_a_new_module_counts_until_it_is_said_not_to(package):
    before = version_of(package)
    (package / "runs" / "more.py").write_text("def more(x):\n    return x + 1\n")
    assert version_of(package) != before


def test_without_sources_the_version_is_the_number_alone(package):
    for path in package.rglob("*.py"):
        path.unlink()
    assert version_of(package) == cause_lib.__version__


# --- the digest itself ---

EXAMPLE = '''
"""A module."""
from __future__ import annotations
import torch
__all__ = ["f"]
SCALE: float = 1e-3
class Book(torch.nn.Module):
    """A class."""
    size: int
    name: str = "x"
    def b(self, t: int) -> int: return t
    @property
    def a(self): return [i * i for i in range(3) if i > 1]
async def g(*, a: int = 2, **more): return f"{a:.{SCALE}f} and {more['a']!r}" "more"
def f(x, /, y: dict[str, int] = {}, *rest):
    def inner(z, w=lambda q: q): return z[1:, ..., None] @ total
    total = -x + SCALE
    try:
        with open(y) as file: total += (yield file)
    except (OSError, ValueError) as error: raise ValueError(f"no {error}") from error
    return inner(total, *rest, **y) if total is not None else {**y, "ä\\u200b": 0j}
'''


def digest_of(tmp_path, text):
    (tmp_path / "a.py").write_text(text, encoding="utf8")
    return code_digest([tmp_path / "a.py"])[:16]


def test_every_python_gives_the_same_digest(tmp_path):
    assert digest_of(tmp_path, EXAMPLE) == "be72f1014aad1f21"


@pytest.mark.parametrize("old, new", [("total = -x", "total = x"), ("(total, *rest", "(x, *rest"),
                                      ("size: int\n", "sizes: int\n"),
                                      ("z[1:,", "z[:1,"), ("a: int = 2", "a: int = 3"), ("if i > 1", "if i > i"),
                                      ("{a:.{", "{a:,.{"), ("i * i", "i + i"), ("/, y", "y"),
                                      ("=lambda q: q", "=lambda q: -q"),
                                      ("async def", "def"), ("@property", "@staticmethod"), ("1e-3", "1e-4")])
def test_what_counts(tmp_path, old, new):
    assert EXAMPLE.count(old) == 1
    assert digest_of(tmp_path, EXAMPLE.replace(old, new)) != digest_of(tmp_path, EXAMPLE)


def test_a_local_name_that_is_also_a_parameter_of_what_is_called(tmp_path):
    """Only variables are renamed: a keyword or an attribute of the same name is something else's."""
    names = ("size", "width")
    texts = [f"def f():\n    {a} = 1\n    return g({b}={a}, c=h.{b})" for a in names for b in names]
    digests = [digest_of(tmp_path, text) for text in texts]
    assert digests[0] == digests[2] and digests[1] == digests[3] and digests[0] != digests[1]


# --- what is done with it ---

def test_it_is_computed_once_and_soon():
    library_version.cache_clear()
    then = time.process_time()
    library_version()
    assert time.process_time() - then < 1  # 0.13 s on two shared cores
    then = time.process_time()
    library_version()
    assert time.process_time() - then < 0.01


def test_every_file_that_does_not_count_is_there_or_to_come():
    there = {path.relative_to(version.ROOT).as_posix() for path in version.ROOT.rglob("*.py")}
    assert NOT_NUMERIC - there <= {"reference.py", "release.py", "runs/results.py"}
    assert len(numeric_files()) > 20 and "clusterbook.py" in {path.name for path in numeric_files()}


def test_versions_of_the_same_bits(monkeypatch):
    monkeypatch.setattr(version, "SAME_BITS", {"22222222": ("0.1.0+11111111",)})
    assert same_bits("0.1.0+22222222", "0.1.0+22222222") and same_bits("0.1.0+11111111", "0.1.0+22222222")
    assert not same_bits("0.1.0+22222222", "0.1.0+11111111") and not same_bits("0.1.0+11111111", "0.1.0+33333333")
    assert not same_bits("unknown", "0.1.0")


def test_checkpoints_of_before_go_on_to_the_same_bits():
    assert same_bits(BEFORE, library_version()), WHAT_TO_DO
