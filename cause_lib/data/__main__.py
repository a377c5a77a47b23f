"""What of the data sets is on this machine, what is missing, and where it belongs.

    python -m cause_lib.data check               all of them
    python -m cause_lib.data check cocostuff27   these

Ends with 0 if all that was asked for is whole, else with 1.
"""

import argparse

from cause_lib.data import COUNTS, check_dataset


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with `arguments` (the command line's unless given); 0 if all is whole, else 1."""
    parser = argparse.ArgumentParser(prog="python -m cause_lib.data", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["check"])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(COUNTS))
    try:
        answers = [check_dataset(name) for name in parser.parse_args(arguments).names or COUNTS]
    except ValueError as error:
        parser.error(str(error))
    print(*(line for _, lines in answers for line in lines), sep="\n")
    return int(not all(whole for whole, _ in answers))


if __name__ == "__main__":
    raise SystemExit(main())
