"""What of the data sets is on this machine, what is missing, and where it belongs; which values labels hold.

    python -m cause_lib.data check               all of them
    python -m cause_lib.data check cocostuff27   these
    python -m cause_lib.data classes holiday     a classes.json with a class for every value in this folder's labels

Ends with 0 if all that was asked for is whole, else with 1.
"""

import argparse
import json

from cause_lib.data import COUNTS, check_dataset
from cause_lib.data.folder import all_labels, find_root
from cause_lib.data.labels import list_values


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with `arguments` (the command line's unless given); 0 if all is whole, else 1."""
    parser = argparse.ArgumentParser(prog="python -m cause_lib.data", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["check", "classes"])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(COUNTS) + "; or a folder")
    given = parser.parse_args(arguments)
    try:
        if given.command == "classes":
            print(json.dumps(list_values(all_labels(find_root(" ".join(given.names)))), indent=1))
            return 0
        answers = [check_dataset(name) for name in given.names or COUNTS]
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(*(line for _, lines in answers for line in lines), sep="\n")
    return int(not all(whole for whole, _ in answers))


if __name__ == "__main__":
    raise SystemExit(main())
