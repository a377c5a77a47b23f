"""What the library refuses, as exception classes of its own: an error of these is one sentence for the user.

The sentence names the file or the parameter and the way out, and is shown without a traceback by notebooks and shells.
Each class is also the built-in one that callers expect. Any other error is a mistake in the code and is shown in full.
"""


class Refusal(Exception):
    """The library cannot go on, and says why in one sentence."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows; papermill still sees that the cell failed
        return [f"{type(self).__name__}: {self}"]


class InputError(Refusal, ValueError):
    """A parameter, a file or a tensor is not what it must be."""


class NotFound(Refusal, FileNotFoundError):
    """A file, a folder or a model is not there."""


class WriteError(Refusal, OSError):
    """A place cannot be written or read."""


class RunError(Refusal, RuntimeError):
    """A run cannot go on: no such device, a loss that is not finite, a package that is missing."""
