"""What a notebook needs around its parameters: errors of the library are shown there as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cause_lib.errors import Refusal


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
