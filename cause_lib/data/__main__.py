"""What of the data sets is on this machine, what is missing, and where it belongs; what a set holds.

    python -m cause_lib.data check               which of the published sets are here, whole
    python -m cause_lib.data check cocostuff27   the same of this one, and a report on what it holds (report.py)
    python -m cause_lib.data check holiday       a report on this folder; --json: as data; --full: decode every file
    python -m cause_lib.data classes holiday     a classes.json with a class for every value in this folder's labels

Ends with 0 if all that was asked for is whole and nothing has to be mended before a run, else with 1.
"""

import argparse
import json

from cause_lib.data import COUNTS, DATASETS, check_dataset
from cause_lib.data.folder import all_labels, find_root
from cause_lib.data.labels import list_values
from cause_lib.data.report import report
from cause_lib.errors import InputError, NotFound


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with `arguments` (the command line's unless given); 0 if all is well, else 1."""
    parser = argparse.ArgumentParser(prog="python -m cause_lib.data", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["check", "classes"])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(COUNTS) + ", scenes; or a folder")
    parser.add_argument("--json", action="store_true", help="the report as JSON, an object for each name")
    parser.add_argument("--full", action="store_true", help="decode every picture and every label")
    given = parser.parse_intermixed_args(arguments)
    try:
        if given.command == "classes":
            if not (labels := all_labels(root := find_root(" ".join(given.names)))):
                raise NotFound(f"'{root}' has no label of a picture, whose values could be listed: put the labels into "
                               "a folder 'labels' beside 'images', as files of the same names")
            print(json.dumps(list_values(labels), indent=1))
            return 0
        if not given.names:
            answers = [check_dataset(name) for name in COUNTS]
            print(*(line for _, lines in answers for line in lines), sep="\n")
            return int(not all(whole for whole, _ in answers))
        found = {name: _report(name, given.full) for name in given.names}
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(json.dumps({name: one.to_dict() for name, one in found.items()}, indent=1) if given.json else
          "\n\n".join(map(str, found.values())))
    return int(not all(one.whole and not one.refused for one in found.values()))


def _report(name: str, full: bool):
    if name in DATASETS and name != "folder":
        return report(name, full=full)
    try:
        return report("folder", folder=name, full=full)
    except FileNotFoundError as error:
        raise InputError(f"{error}; of data sets, known are {', '.join(COUNTS)}, scenes") from None


if __name__ == "__main__":
    raise SystemExit(main())
