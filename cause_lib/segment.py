"""python -m cause_lib.segment: a trained run on your pictures, without a line of Python.

    python -m cause_lib.segment runs/holiday holiday/images --out masks --crf
    python -m cause_lib.segment me/holiday-head --serve

The first writes masks, overlays and masks.csv, see `Segmenter.write`, and can be stopped and given again; the second
opens a page on this machine where pictures are dropped. RUN is what Segmenter.load or Segmenter.from_pretrained reads.
"""

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cause_lib.__main__ import stopped_in_a_sentence
from cause_lib.errors import InputError, Refusal


def main(arguments: Sequence[str] | None = None) -> None:
    """Write masks, or serve the page; `arguments` are the command line's."""
    parser = argparse.ArgumentParser(prog="python -m cause_lib.segment", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run's folder, a folder of save_pretrained, or a model on the hub")
    parser.add_argument("pictures", metavar="PICTURES", nargs="*", help="files and folders")
    parser.add_argument("--out", metavar="DIR", help="the folder that is written")
    parser.add_argument("--crf", action="store_true", help="sharpen with the dense CRF")
    parser.add_argument("--overlay", action=argparse.BooleanOptionalAction, default=True,
                        help="write the pictures under the classes' colours, too (the default)")
    parser.add_argument("--skip", action="store_true", help="leave out what cannot be used: skipped.csv lists it")
    parser.add_argument("--head", choices=("tr", "mlp"), help="which run, where RUN holds one of each head")
    parser.add_argument("--readout", help="modularity (a run's default), kmeans, or what the run has of the others")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: the GPU where there is one")
    parser.add_argument("--serve", action="store_true", help="serve the page instead of writing masks")
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0: any that is free")
    given = parser.parse_args(arguments)
    if given.serve == bool(given.pictures) or given.serve == bool(given.out):
        parser.error("give PICTURES and --out DIR, or --serve alone.")
    try:
        segment = open_run(given)
        if given.serve:
            _serve(segment, given.port)
            return
        pictures = given.pictures[0] if len(given.pictures) == 1 else given.pictures
        done = segment.write(pictures, given.out, crf=given.crf, overlay=given.overlay,
                             allow_corrupt="skip" if given.skip else "stop")
    except Refusal as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("Stopped: what is written stays, and the same command goes on from there.", file=sys.stderr)
        sys.exit(130)
    print(f"{done.written} masks written, {done.kept} kept from before, {done.skipped} pictures skipped: {done.table}")


def open_run(given: argparse.Namespace) -> Any:
    """The Segmenter of the command line."""
    from cause_lib.heads import TRHead
    from cause_lib.runs.saved import CONFIG
    from cause_lib.runs.store import read_record
    from cause_lib.segmenter import Segmenter

    folder = Path(given.run).expanduser()
    if not folder.is_dir() or (folder / CONFIG).is_file():
        segment = Segmenter.from_pretrained(given.run, device=given.device)
        has = {"readout": segment.readout, "head": "tr" if isinstance(segment.head, TRHead) else "mlp"}
        for name, value in has.items():
            if getattr(given, name) not in (None, value):
                raise InputError(f"{given.run} was saved with the {name} {value}, not {getattr(given, name)}: leave "
                                 f"--{name} out, or give the run itself.")
        return segment
    if given.head is not None:
        found = [path.parent for path in sorted(folder.glob("probe/*/artefact.json"))
                 if read_record(path.parent)["experiment"]["head"] == given.head]
        if len(found) != 1:
            raise InputError(f"{folder} holds {len(found)} runs of the head {given.head}: give the folder of one"
                             f"{': ' * bool(found)}{', '.join(map(str, found))}.")
        folder = found[0]
    return Segmenter.load(folder, readout=given.readout or "modularity", device=given.device)


def _serve(segment: Any, port: int) -> None:
    from cause_lib.use.serve import make_server

    with make_server(segment, port) as server:
        print(f"http://127.0.0.1:{server.server_port} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"  # one sentence, without a line of code
    code = None
    with stopped_in_a_sentence():
        try:
            main()
        except SystemExit as end:  # with a sentence of its own
            code = end.code
    sys.exit(128 + signal.SIGTERM if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else code)  # it came
