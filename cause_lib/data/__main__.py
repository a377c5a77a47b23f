"""Says what of the data sets is on this machine, what is missing, and where it belongs.

    python -m cause_lib.data check               all of them
    python -m cause_lib.data check cocostuff27   these

Ends with 0 if all that was asked for is whole, else with 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cause_lib.data import COUNTS, check_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with `arguments` (the command line's unless given); 0 if all is whole, else 1."""
    parser = argparse.ArgumentParser(prog="python -m cause_lib.data", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["check"], help="what is on this machine and what is missing")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(COUNTS))
    names = parser.parse_args(arguments).names or list(COUNTS)
    try:
        answers = [check_dataset(name) for name in names]
    except ValueError as error:
        parser.error(str(error))
    for _, lines in answers:
        print("\n".join(lines))
    return 0 if all(whole for whole, _ in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
