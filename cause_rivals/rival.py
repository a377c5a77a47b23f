"""The description of a rival's run: a method, its settings, and an `Experiment` for all else.

Settings left out take the preset of the method and data set, and where there is none the method's default. Presets are
in a JSON file beside the method's: data set (`*`: every one) -> `settings`, `fields` of `Experiment` such as the batch,
and the `source` of both. What is given wins.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from cause_lib.code_digest import code_digest
from cause_lib.config import OTHER_NAMES, RULES, Experiment
from cause_lib.errors import InputError
from cause_lib.rules import Rule, checked, refuse_unknown

#: Name -> what tables call it.
METHODS = {"stego": "STEGO", "hp": "HP", "acseg": "ACSeg", "deepspectral": "DeepSpectral", "dinosaur": "DINOSAUR",
           "transfgu": "TransFGU", "picie": "PiCIE objective", "iic": "IIC objective",
           "eigensegments": "Eigensegments"}


def setting(default: Any, doc: str, reason: str, low: float | None = None, high: float | None = None,
            choices: tuple[str, ...] = ()) -> Any:
    """A setting of a method: its default, what it is, why its values are bounded, and how; see `rules.Rule`."""
    return dataclasses.field(default=default, metadata={"rule": Rule(doc, reason, low, high, choices=choices)})


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """What the `Settings` of all methods share: their values are checked. Raises ValueError naming the setting."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, rule = getattr(self, field.name), field.metadata["rule"]
            kinds = get_args(hints[field.name]) or (hints[field.name],)
            object.__setattr__(self, field.name, checked(field.name, value, kinds, rule))


@dataclasses.dataclass(frozen=True)
class Rival:
    """A run of a method. `experiment` has pictures, backbone, batches, seed and protocol; its head is not used, and its
    fields are attributes of this, too."""

    method: str
    experiment: Experiment
    settings: MethodSettings

    def __getattr__(self, name: str) -> Any:  # a field of its experiment
        return getattr(object.__getattribute__(self, "experiment"), name)

    @property
    def module(self) -> ModuleType:
        """The method's file."""
        return module_of(self.method)

    def key(self, stage: str) -> dict[str, Any]:
        """What the artefact of `rival`, the trained method, or `rival_evaluation` depends on beside the pictures."""
        judged = "baseline_evaluation" if stage == "rival_evaluation" else "baseline"
        own = {name: getattr(self.experiment, name) for name in ("train_size", "order_seed")}
        return self.experiment.key(judged) | own | self.to_dict() | {"code": self._code()}

    def _code(self) -> str:
        """8 digits of what the method's file, and those of this package that it imports, compute."""
        files, wanted = set(), [self.method]
        while wanted:
            files.add(path := Path(__file__).with_name(f"{wanted.pop()}.py"))
            imported = re.findall(r"^from cause_rivals\.(\w+) import", path.read_text(encoding="utf8"), re.M)
            wanted += {*imported} - {"rival", "run", *(one.stem for one in files)}
        return code_digest(files)[:8]

    def to_dict(self) -> dict[str, Any]:
        """Method and settings, as records keep them."""
        return {"method": self.method, "settings": dataclasses.asdict(self.settings)}


def module_of(method: str) -> ModuleType:
    """The file of a method. Raises ValueError for another name."""
    if method not in METHODS:
        raise InputError(f"Parameter method must be one of {', '.join(METHODS)}, not {method!r}.")
    return import_module(f"cause_rivals.{method}")


def presets_of(method: str) -> dict[str, dict[str, Any]]:
    """Data set -> preset of a method."""
    return json.loads(Path(__file__).with_name(f"{method}.json").read_text(encoding="utf8"))


def rival(method: str, settings: str | Mapping[str, Any] = "", **fields: Any) -> Rival:
    """A run of a method with its presets.

    Args:
        method: a key of `METHODS`.
        settings: of that method, a text such as `"knn=7 shift_self=0.08"` or a mapping; the others take their preset.
        fields: of `Experiment`; those left out, or None, take the method's preset, then that of the data set.

    Raises:
        ValueError: an unknown name (the message proposes the nearest), a wrong type, a value out of range.

    Examples:
        >>> rival("stego", "rank=16", dataset="scenes").settings.rank
        16
    """
    refuse_unknown(fields, list(RULES), OTHER_NAMES)
    fields = {name: value for name, value in fields.items() if value is not None}
    module, dataset = module_of(method), fields.get("dataset", "scenes")
    presets = [presets_of(method).get(name, {}) for name in ("*", dataset)]
    given = _read(settings) if isinstance(settings, str) else dict(settings)
    refuse_unknown(given, [field.name for field in dataclasses.fields(module.Settings)], {})
    values, preset = ({name: value for one in presets for name, value in one.get(kind, {}).items()}
                      for kind in ("settings", "fields"))
    return Rival(method, Experiment.from_dict({"head": "mlp"} | preset | fields), module.Settings(**values | given))


def _read(text: str) -> dict[str, Any]:
    """`name=value name=value` as a dictionary, values as JSON where they are."""
    found: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"Parameter settings must be words such as name=value, not {word!r}.")
        try:
            found[name] = json.loads(value.lower() if value in ("True", "False", "None") else value)
        except ValueError:
            found[name] = value
    return found
