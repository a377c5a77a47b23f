"""What a notebook needs around its parameters: they are read and checked, and refusals are shown as one sentence."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cause_lib.config import OTHER_NAMES, Experiment
from cause_lib.errors import InputError, Refusal
from cause_lib.rules import checked, refuse_unknown

Types = Mapping[str, type | tuple[type, ...]]


def experiment_from(namespace: Mapping[str, Any], own: Types | None = None) -> Experiment:
    """The notebook's `Experiment`; call it as `experiment_from(globals())` right after the parameters cell.

    The parameters cell declares the fields that the notebook uses; papermill may give any other field too. From here on
    the notebook shows what the library refuses as one sentence.

    Args:
        namespace: `globals()`.
        own: parameters that the notebook has beside the fields of `Experiment`: name -> type or types.

    Raises:
        ValueError: an unknown name (the message proposes the nearest), a wrong type, a value out of range.
    """
    show_refusals_short(namespace)
    own = own or {}
    fields = [field.name for field in dataclasses.fields(Experiment)]
    found = _given(namespace, [*fields, *own])
    refuse_unknown(found, [*fields, *own], OTHER_NAMES)
    _check(found, own)
    return Experiment.from_dict({name: value for name, value in found.items() if name not in own})


def read_parameters(namespace: Mapping[str, Any], own: Types) -> dict[str, Any]:
    """The parameters of a notebook that has no `Experiment`.

    Args:
        namespace: `globals()`, right after the parameters cell.
        own: name -> the type or types that it may have.

    Raises:
        ValueError: a name that is not among `own` (the message proposes the nearest), is missing, or has another type.
        The notebook shows that, and what else the library refuses, as one sentence.
    """
    show_refusals_short(namespace)
    found = _given(namespace, own)
    refuse_unknown(found, list(own), OTHER_NAMES)
    return _check(found, own)


def show_refusals_short(namespace: Mapping[str, Any]) -> None:
    """From here on a notebook shows refusals as one line; papermill and nbconvert still see that the cell failed.

    Args:
        namespace: the notebook's `globals()`; without IPython in it nothing happens.
    """
    if "get_ipython" not in namespace or (shell := namespace["get_ipython"]()) is None:
        return

    def show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> None:
        error._render_traceback_ = lambda: [f"{kind.__name__}: {error}"]  # IPython asks errors for it
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((Refusal,), show)


def _check(found: Mapping[str, Any], own: Types) -> dict[str, Any]:
    missing = [name for name in own if name not in found]
    if missing:
        raise InputError(f"The parameter {missing[0]!r} is missing: run the parameters cell first.")
    return {name: checked(name, found[name], types if isinstance(types, tuple) else (types,))
            for name, types in own.items()}


def _given(namespace: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Known names from the namespace, and every name that the latest `# Parameters` cells assign.

    Papermill only warns of a name that the notebook does not have. The cell that it injects begins with
    `# Parameters`, as ours do, and IPython keeps the cells' text in `In`; so a misspelt name is found there.
    """
    names = set(known) & namespace.keys()
    cells = [cell for cell in namespace.get("In", []) if cell.strip()]
    is_parameters = [cell.lstrip().startswith("# Parameters") for cell in cells]
    if any(is_parameters):
        last = len(cells) - 1 - is_parameters[::-1].index(True)
        while last >= 0 and is_parameters[last]:
            for node in ast.walk(ast.parse(cells[last])):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names = names | {node.id}
            last -= 1
    return {name: namespace[name] for name in sorted(names) if name in namespace}
