"""What a parameter may be, and the sentence that refuses a value: the checks of `Experiment` and of notebooks."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from cause_lib.errors import InputError

LARGEST, LONGEST = 10**9, 4096  # numbers, and characters of text, beyond which a value is a slip
SWITCH = {word: True for word in ("true", "yes", "on", "1")} | {word: False for word in ("false", "no", "off", "0")}
NEVER = object()  # equal to no parameter's value


@dataclass(frozen=True)
class Rule:
    """What is declared of a parameter beside its name, type and default."""

    doc: str  #: what it is, with the published value in brackets
    reason: str  #: why not every value is allowed; it ends the sentence that refuses one
    low: float | None = None  #: closed range of a number; None: open to that side, up to `LARGEST`
    high: float | None = None
    stages: str = ""  #: the first stages that depend on it, separated by spaces; those that follow depend on it too
    choices: tuple[str, ...] = ()  #: what a text may be; none: any text that can be a name or a path
    empty: bool = False  #: whether a text may be ""
    since: Any = NEVER  #: of a later field, what was done before it: with that value folder names leave the field out
    aliases: str = ""  #: what others call it, separated by spaces


def refuse_unknown(given: Iterable[str], names: Collection[str], aliases: Mapping[str, str]) -> None:
    """Raise for the first of the given names that is not among `names`, with the one that was probably meant."""
    for name in given:
        if name not in names:
            plain = str(name).lower()
            near = [aliases[plain]] if aliases.get(plain) in names else _nearest(plain, names)
            near = near or [aliases[other] for other in _nearest(plain, aliases) if aliases[other] in names]
            hint = f"did you mean {near[0]!r}?" if near else f"the parameters are: {', '.join(names)}."
            raise InputError(f"Unknown parameter {name!r}: {hint}")


def checked(name: str, value: Any, types: tuple[type, ...], rule: Rule | None = None) -> Any:
    """`value` as one of `types`, within the parameter's rule; whole floats pass as int, ints as float."""
    given, because = value, "." if rule is None else f": {rule.reason}."
    is_bool = isinstance(value, bool)
    if isinstance(value, int) and not is_bool and int not in types and float in types:
        value = float(max(-LARGEST - 1, min(value, LARGEST + 1)))  # float() ends at 1e308
    elif isinstance(value, float) and float not in types and int in types and value.is_integer():
        value = int(value)
    if not isinstance(value, types) or is_bool and bool not in types:
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in types)
        kind = type(given).__name__ + _instead(name, given, types, rule.choices if rule else ())
        raise InputError(f"Parameter {name} must be {wanted}, not {_shown(given)} ({kind}){because}")
    if rule is not None and (wanted := _wanted(value, rule)):
        raise InputError(f"Parameter {name} must be {wanted}, not {_shown(given)}{because}")
    return value


def _instead(name: str, value: Any, types: tuple[type, ...], choices: tuple[str, ...]) -> str:
    """What to write where YAML or papermill read a value as another type than was meant, `; ...`; "" if unknown."""
    text = " ".join(_shown(value).strip("'").split()) if isinstance(value, (str, int, float)) else str(value)
    if bool in types and text.lower() in SWITCH:
        return f"; write {SWITCH[text.lower()]}, as in -p {name} {SWITCH[text.lower()]}"
    if type(None) in types and text.lower() in ("none", "null", "~"):
        return "; write None, in YAML null"
    number = re.fullmatch(r"([-+]?\d+)(\.\d*)?(?:[eE]([-+]?\d+))?", text)
    if isinstance(value, str) and number and {int, float} & {*types}:
        whole, part, power = number.groups()
        plain = f"{whole}{part or '.0'}e{int(power):+d}" if power else text  # a number to YAML
        return f"; write {plain}, {'without quotes' if plain == text else f'since YAML reads {text} as text'}"
    if str not in types or not isinstance(value, (int, float, date)) or len(text) > 30:
        return ""
    if isinstance(value, bool):
        meant = next((f'"{word}"' for word in choices if SWITCH.get(word) is value), "the word in quotes")
        return f"; write {meant}, since YAML reads {'yes and on' if value else 'no and off'} without quotes as {value}"
    return f'; give it as text, -r {name} {text}, or in quotes, "{text}", in YAML'


def _nearest(name: str, names: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.5)


def _wanted(value: Any, rule: Rule) -> str | None:
    """What a value of the right type must be and is not; None: the value keeps the rule."""
    if isinstance(value, str) and rule.choices:
        near = _nearest(value.lower(), rule.choices)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return None if value in rule.choices else f"one of {', '.join(rule.choices)}{hint}"
    if isinstance(value, str):
        kept = {"that is not empty": value or rule.empty, "without spaces at its ends": value == value.strip(),
                "without line breaks and other control characters": not re.search(r"[\0-\x1f\x7f]", value),
                f"of at most {LONGEST} characters": len(value) <= LONGEST}
        return next((f"a text {wanted}" for wanted, keeps in kept.items() if not keeps), None)
    if isinstance(value, (int, float)):
        low, high = rule.low, rule.high
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            return f"at least {low}" if high is None else f"between {low} and {high}"
        return f"at most {LARGEST}, as anything reasonable is" if high is None and value > LARGEST else None
    return None


def _shown(value: Any) -> str:
    """A value in a sentence: one line of at most a hundred characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no whole number of more than some thousand digits
        text = "a number of thousands of digits"
    return text if len(text) <= 100 else text[:97] + "..."
