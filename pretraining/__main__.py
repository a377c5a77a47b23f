"""python -m pretraining: see `Settings` for the arguments; --quick tries everything on tiny pictures, in seconds."""

import argparse
import dataclasses

from pretraining.train import QUICK, Settings, pretrain


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=Settings.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a handful of updates on tiny pictures")
    for field in dataclasses.fields(Settings):
        many = isinstance(field.default, tuple)
        parser.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, nargs=2 if many else None,
                            type=type(field.default[0] if many else field.default),
                            metavar=str(field.default))
    given = vars(parser.parse_args())
    settings = Settings(**((QUICK if given.pop("quick") else {}) |
                           {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}))
    print(pretrain(settings))


if __name__ == "__main__":
    main()
