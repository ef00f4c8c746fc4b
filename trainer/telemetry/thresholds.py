"""`telemetry.rules`: thresholds of the warning rules, and rules switched off, by name.

telemetry:
  rules: {slow_data: max_share=0.4, always_clipped: off}
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, cast

from trainer.errors import SettingsError
from trainer.telemetry.rules import Rule

OFF = "off"


def adjusted(rules: Sequence[Rule], changes: Mapping[str, str]) -> list[Rule]:
    """The rules with other thresholds (`NAME: FIELD=NUMBER, ...`), without those that are `off`.

    Raises SettingsError for a rule or a threshold that does not exist, naming the nearest one.
    """
    names = [rule.name for rule in rules]
    for name in changes:
        if name not in names:
            raise SettingsError(f"telemetry.rules.{name}: there is no such rule{_hint(name, names)}")
    return [_changed(rule, changes[rule.name]) if rule.name in changes else rule for rule in rules
            if changes.get(rule.name, "").strip() != OFF]  # fmt: skip


def thresholds(rule: Rule) -> dict[str, float]:
    """The numbers of a rule by name."""
    if not is_dataclass(rule):
        return {}
    values = {one.name: getattr(rule, one.name) for one in fields(rule)}
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _changed(rule: Rule, text: str) -> Rule:
    known = thresholds(rule)
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in known:
            hint = _hint(name, list(known)) or f"; write {OFF}, or FIELD=NUMBER"
            raise SettingsError(f"telemetry.rules.{rule.name} is {text!r}: no threshold is called {name!r}{hint}")
        try:
            values[name] = type(known[name])(number)
        except ValueError:
            raise SettingsError(
                f"telemetry.rules.{rule.name}: {name} is {number!r}, which must be a number like {known[name]:g}"
            ) from None
    return cast(Rule, replace(cast(Any, rule), **values))


def _hint(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1, 0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(names)}" if names else ""
