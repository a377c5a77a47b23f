"""python -m cause_lib: the stages of a run without a notebook, on one GPU or, with `accelerate launch`, on several.

    accelerate launch --multi_gpu --num_processes 4 -m cause_lib -p dataset camvid -p backbone dino_vits16

Arguments are papermill's: a notebook that is given the same ones afterwards finds everything done. Ctrl-C and SIGTERM,
which a scheduler sends when a job's time is over, end a run in one sentence, with the exit code 130 or 143.
"""

import argparse
import ast
import contextlib
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cause_lib.config import Experiment
from cause_lib.errors import Refusal

STAGES = {"clusterbook": "fit_clusterbook", "head": "fit_head", "probe": "fit_probe", "evaluation": "evaluate",
          "baseline": "evaluate_baseline"}  # names of functions in cause_lib.stages
NO_ROOM = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory", "cannot map zero-fill pages")


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run a stage, and what it needs upstream; `arguments` are the command line's. Returns the artefact's folder."""
    parser = argparse.ArgumentParser(prog="python -m cause_lib", description=Experiment.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="a field of Experiment, as above, and its value")
    parser.add_argument("-r", "--parameters_raw", nargs=2, action="append", default=[], metavar=("NAME", "TEXT"),
                        help="the same, where the value is text even if it looks like a number")
    parser.add_argument("--stage", choices=STAGES, default="evaluation", help="the last stage to run")
    given = parser.parse_args(arguments)
    try:
        experiment = Experiment.from_dict({name: _value(text) for name, text in given.parameters}
                                          | dict(given.parameters_raw))
    except Refusal as error:
        parser.error(str(error))
    try:
        from cause_lib import stages  # loads PyTorch: neither --help nor a misspelt parameter has to wait for it
        from cause_lib.runs.loop import session
    except (ImportError, MemoryError) as error:
        if isinstance(error, ImportError) and not any(said in str(error) for said in NO_ROOM):
            raise
        sys.exit(f"PyTorch cannot be loaded ({error or 'out of memory'}): give this process more memory, a CPU's needs "
                 "some GB of address space (ulimit -v, or the limit of the job).")

    try:
        with session(experiment) as accelerator, accelerator.main_process_first():
            if accelerator.is_main_process:
                stages.check(experiment, given.stage)
            stages.find(experiment, "evaluation")  # fetches what may be fetched: once, not in every process
            main_process = accelerator.is_main_process
        folder = getattr(stages, STAGES[given.stage])(experiment)
    except Refusal as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if main_process:
        print(folder)
    return folder


def _value(text: str) -> Any:
    """A number, True, False or None as what it is, anything else as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def warn_in_a_sentence() -> None:
    """From now on a warning is its sentence, without a line of code, and each sentence is shown once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if (said := str(message)) not in shown:
            shown.add(said)
            print(said, file=sys.stderr)

    warnings.showwarning = show


@contextlib.contextmanager
def stopped_in_a_sentence() -> Iterator[None]:
    """Until this ends, SIGINT (Ctrl-C) and SIGTERM end the process with a sentence; what is under way is cleared away.
    A second one of the kind ends it at once."""
    stopped: list[int] = []

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    except BaseException:  # stopped in the middle of an import, PyTorch fails on its way out
        if not stopped:
            raise
        print(f"\nStopped by {signal.Signals(stopped[0]).name}: nothing half-written is left in run_dir, and the same "
              "command, run again, goes on from what is finished there and from the last checkpoint.", file=sys.stderr)
        sys.exit(128 + stopped[0])


if __name__ == "__main__":
    warn_in_a_sentence()
    with stopped_in_a_sentence():
        main()
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
