"""A digest of what source code computes: it stays when only its text changes.

It leaves out comments, docstrings, imports, type annotations, the sentences of `raise` and `warnings.warn`, line
breaks, the names of a function's local variables (one that two nested functions have is taken for one), and where a
definition stands: its file, the order of definitions, of a class's methods. Every operator, constant, default, call and
its order counts, and so does a renamed function, parameter or attribute, since those are found by their names.

Fields of the syntax tree that are empty are passed over, since Python's versions differ in them: 3.10 to 3.13 agree.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NAMED = (ast.Name, ast.ExceptHandler, *FUNCTIONS)  # nodes that hold the name of a variable
LEFT_OUT = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind"}  # fields of every node


def code_digest(files: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal digits, of the definitions of Python files; no file gives that of nothing."""
    parts = {digest for path in files for _, digest in definitions(path)}
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def definitions(path: Path) -> list[tuple[str, str]]:
    """(name, digest) of each top-level statement of a Python file that computes something."""
    texts = [(node, _Writer().write(node)) for node in ast.parse(path.read_text(encoding="utf8")).body]
    return [(getattr(node, "name", f"line {node.lineno}"), hashlib.sha256(text.encode()).hexdigest())
            for node, text in texts if text]


class _Writer:
    """Writes a syntax tree as text; `local` are the local names of the outermost function, `names` what they become."""

    def __init__(self, local: frozenset[str] = frozenset()) -> None:
        self.local, self.names = local, {}

    def write(self, node: object) -> str:
        """The node as text; empty for one that is left out."""
        if isinstance(node, list):
            return f"[{','.join(filter(None, map(self.write, node)))}]"
        if not isinstance(node, ast.AST):
            return ascii(node)
        if _is_left_out(node):
            return ""
        if isinstance(node, FUNCTIONS) and not self.local:
            return node.name + _Writer(_local_names(node)).fields(node, {"name", *LEFT_OUT})
        if isinstance(node, ast.Constant):
            return f"{type(node.value).__name__}({ascii(node.value)})"
        if isinstance(node, ast.Raise):
            exception = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return f"Raise({self.write(exception) if exception else ''})"
        if isinstance(node, ast.AnnAssign) and node.value:
            return self.fields(ast.Assign(targets=[node.target], value=node.value))
        if isinstance(node, ast.ClassDef):
            methods = sorted(self.write(part) for part in node.body if isinstance(part, FUNCTIONS))
            rest = [part for part in node.body if not isinstance(part, FUNCTIONS)]
            others = self.fields(ast.ClassDef(node.name, node.bases, node.keywords, rest, node.decorator_list))
            return f"{others}{methods}"
        if isinstance(node, ast.JoinedStr):  # whose neighbouring pieces of text Python's versions split differently
            pieces = (ascii(part.value)[1:-1] if isinstance(part, ast.Constant) else self.write(part)
                      for part in node.values)
            return f"JoinedStr({''.join(pieces)})"
        return self.fields(node)

    def fields(self, node: ast.AST, left_out: set[str] = LEFT_OUT) -> str:
        """The node's type, and those of its fields that are not empty."""
        given = []
        for name in node._fields:
            value = getattr(node, name, None)
            if value is None or value == [] or name in left_out:
                continue
            if isinstance(node, NAMED) and value.__class__ is str and value in self.local:
                value = self.names.setdefault(value, len(self.names))  # the number of its first appearance
            given.append(f"{name}={self.write(value)}")
        return f"{type(node).__name__}({','.join(given)})"


def _is_left_out(node: ast.AST) -> bool:
    """Whether a statement computes nothing: imports, docstrings, warnings, public names, what is for type checkers."""
    match node:
        case (ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(ast.Constant())
              | ast.Expr(ast.Call(func=ast.Attribute(value=ast.Name("warnings"), attr="warn")))
              | ast.Assign(targets=[ast.Name("__all__"), *_]) | ast.If(test=ast.Name("TYPE_CHECKING"))):
            return True
    return False


def _local_names(function: ast.AST) -> frozenset[str]:
    """Names that a function, or one within it, binds; parameters keep theirs, since calls may say them."""
    local, others = {" "}, set()  # a space, which is no name: the set of a function is never empty
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            local.add(node.id)
        elif isinstance(node, (ast.ExceptHandler, *FUNCTIONS)) and node.name and node is not function:
            local.add(node.name)
        elif isinstance(node, ast.arg):
            others.add(node.arg)
        elif isinstance(node, ast.Global):
            others.update(node.names)
    return frozenset(local - others)
