"""What of the settings can change a weight, as flat names and as one short digest.

Two starts of equal digest are the same training and may go on from each other's checkpoints.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

DIGEST_LENGTH = 16
"""Hex characters: 64 bits, far beyond the number of runs in a store."""


def matters(settings: BaseModel) -> dict[str, Any]:
    """Every setting that matters by dotted name, as JSON values; leaves and sections marked otherwise are left out."""
    return dict(_walk(settings, ""))


def digest(flat: Mapping[str, Any]) -> str:
    """16 hex characters of SHA-256 over canonical JSON; the order of names does not count."""
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines such as "optim.lr: 0.001 -> 0.002", sorted by name; a name that one side lacks is `(none)` there."""
    names = sorted(name for name in {*old, *new} if old.get(name, _ABSENT) != new.get(name, _ABSENT))
    return [f"{name}: {_show(old.get(name, _ABSENT))} -> {_show(new.get(name, _ABSENT))}" for name in names]


_ABSENT = object()


def _show(value: object) -> str:
    return "(none)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def _walk(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    dumped: dict[str, Any] | None = None
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if extra.get("matters") is False:
            continue
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
            continue
        dumped = dumped or section.model_dump(mode="json")
        if isinstance(value, dict):
            yield from ((f"{prefix}{name}.{key}", one) for key, one in dumped[name].items())
        else:
            yield f"{prefix}{name}", dumped[name]
