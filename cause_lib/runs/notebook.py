"""A notebook's parameters, read and checked in the cell after them."""

import ast
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from cause_lib.config import OTHER_NAMES, RULES, Experiment
from cause_lib.errors import InputError
from cause_lib.rules import checked, refuse_unknown

Types = Mapping[str, type | tuple[type, ...]]


def experiment_from(namespace: Mapping[str, Any], own: Types | None = None) -> Experiment:
    """The notebook's `Experiment`; its parameters cell declares the fields that it uses, papermill may give any other.

    Args:
        namespace: `globals()`, right after the parameters cell.
        own: parameters that the notebook has beside the fields of `Experiment`: name -> type or types.

    Raises:
        ValueError: an unknown name (the message proposes the nearest), a wrong type, a value out of range.
    """
    found = read_parameters(namespace, own or {}, fields=RULES)
    return Experiment.from_dict({name: value for name, value in found.items() if name in RULES})


def read_parameters(namespace: Mapping[str, Any], own: Types, *, fields: Iterable[str] = ()) -> dict[str, Any]:
    """The parameters of a notebook that has no `Experiment`.

    Args:
        namespace: `globals()`, right after the parameters cell.
        own: name -> the type or types that it may have.
        fields: other names that may be given, with any value.

    Raises:
        ValueError: a name that is not among these (the message proposes the nearest), is missing, or has another type.
    """
    names = [*fields, *own]
    found = _given(namespace, names)
    refuse_unknown(found, names, OTHER_NAMES)
    for name, types in own.items():
        if name not in found:
            raise InputError(f"The parameter {name!r} is missing: run the parameters cell first.")
        found[name] = checked(name, found[name], types if isinstance(types, tuple) else (types,))
    return found


def _given(namespace: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Known names from the namespace, and every name that the latest `# Parameters` cells assign.

    Papermill only warns of a name that the notebook does not have. The cell that it injects begins with
    `# Parameters`, as ours do, and IPython keeps the cells' text in `In`; so a misspelt name is found there.
    """
    cells = itertools.groupby(filter(str.strip, namespace.get("In", [])),
                              lambda cell: cell.lstrip().startswith("# Parameters"))
    latest = [list(group) for are_parameters, group in cells if are_parameters][-1:]
    assigned = {node.id for cell in itertools.chain(*latest) for node in ast.walk(ast.parse(cell))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {name: namespace[name] for name in sorted(assigned.union(known)) if name in namespace}
