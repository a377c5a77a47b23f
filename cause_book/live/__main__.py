"""python -m cause_book.live book/_static/live: train, export and draw what the live page loads; a few minutes."""

import argparse
import sys

from cause_book.live import build
from cause_lib.errors import Refusal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cause_book.live", description="Makes the files of the live page.")
    parser.add_argument("folder", help="where they go: book/_static/live in this repository")
    parser.add_argument("--run-dir", default="runs", help="where the trained run is kept (runs)")
    given = parser.parse_args()
    try:
        print(build(given.folder, given.run_dir))
    except Refusal as error:
        sys.exit(f"{type(error).__name__}: {error}")
