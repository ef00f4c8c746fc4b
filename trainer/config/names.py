"""The settings as a flat list: every leaf by its dotted name, with its short flag; and the nearest name of a typo.

Sections are nested pydantic models; everything else is a leaf. A leaf that is a mapping (`passes`) has names of its
own below it (`passes.val`), which nobody can list beforehand.
"""

import types
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from trainer.config.base import Section

Kind = Literal["text", "switch", "list", "mapping"]
_SIMILAR = 0.72
"""Least ratio (difflib) at which a name is worth offering."""


@dataclass(frozen=True)
class Leaf:
    """One setting: what a command line, an environment variable or a table needs to know of it."""

    name: str
    kind: Kind
    whole: bool
    """Takes an integer."""
    choices: tuple[str, ...]
    """All values there are, if they are few."""
    nullable: bool
    flag: str | None
    matters: bool
    default: Any
    help: str


@lru_cache(maxsize=16)
def leaves(settings: type[Section]) -> dict[str, Leaf]:
    """Every setting of a settings class by dotted name, in the order of its declaration."""
    return {leaf.name: leaf for leaf in _walk(settings, "", True)}


def flags(settings: type[Section]) -> dict[str, Leaf]:
    """The settings that have a short form on the command line, by flag."""
    known = leaves(settings)
    further = getattr(settings, "short_flags", {})
    return {leaf.flag: leaf for leaf in known.values() if leaf.flag} | {
        flag: replace(known[name], flag=flag) for flag, name in further.items()
    }


def sections(settings: type[Section]) -> set[str]:
    """Dotted names of all groups of settings."""
    return {name.rsplit(".", depth)[0] for name in leaves(settings) for depth in range(1, name.count(".") + 1)}


def nearest(name: str, settings: type[Section]) -> str | None:
    """The setting a typo most likely means: alike as a whole, or alike in its last part (`lr` is `optim.lr`)."""

    def likeness(right: str) -> float:
        whole = SequenceMatcher(None, name, right).ratio()
        last = SequenceMatcher(None, name.rsplit(".", 1)[-1], right.rsplit(".", 1)[-1]).ratio()
        return max(whole, 0.95 * last)

    best = max([*leaves(settings), *sections(settings)], key=likeness)
    return best if likeness(best) >= _SIMILAR else None


def _walk(section: type[Section], prefix: str, matters: bool) -> list[Leaf]:
    found: list[Leaf] = []
    for name, info in section.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        counts = matters and extra.get("matters") is not False
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found += _walk(info.annotation, f"{prefix}{name}.", counts)
        else:
            found.append(_leaf(f"{prefix}{name}", info, extra.get("flag"), counts))
    return found


def _leaf(name: str, info: FieldInfo, flag: Any, matters: bool) -> Leaf:
    options = _options(info.annotation)
    kinds: dict[Any, Kind] = {bool: "switch", list: "list", tuple: "list", dict: "mapping"}
    kind: Kind = next((kinds[option] for option in options if option in kinds), "text")
    default = info.get_default(call_default_factory=True, validated_data={})
    text = " ".join((info.description or "").split())
    return Leaf(
        name=name,
        kind=kind,
        whole=int in options,
        choices=_choices(info.annotation),
        nullable=type(None) in options,
        flag=flag,
        matters=matters,
        default=default,
        help=text,
    )


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _options(annotation: Any) -> list[Any]:
    """The classes a value may have: unions taken apart, containers without their items."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return [get_origin(annotation) or annotation]
