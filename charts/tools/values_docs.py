"""values.yaml as a list of documented values.

A comment stands right above its key. A map whose keys have comments is a group of values; any other map is one value.
`## Text` begins a group of the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[1] / "trainer"
VALUES = CHART / "values.yaml"


@dataclass(frozen=True)
class Value:
    """One documented value."""

    path: tuple[str, ...]
    default: Any
    text: str
    """The comment; empty where there is none, which the tests refuse."""
    group: str


def values(file: Path = VALUES) -> list[Value]:
    """Every value in the order of the file."""
    text = file.read_text("utf-8")
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, (), text.splitlines(), yaml.safe_load(text)))


def _walk(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str], default: Any) -> Iterator[Value]:
    for key, below in node.value:
        own, value = (*path, key.value), default[key.value]
        if isinstance(below, yaml.MappingNode) and _is_group(below, lines):
            yield from _walk(below, own, lines, value)
        else:
            yield Value(own, value, _comment(key.start_mark.line, lines), _group(key.start_mark.line, lines))


def _is_group(node: yaml.MappingNode, lines: list[str]) -> bool:
    """Does any key below, however deep, have a comment of its own?"""
    return any(
        _comment(key.start_mark.line, lines) or (isinstance(below, yaml.MappingNode) and _is_group(below, lines))
        for key, below in node.value
        # `{a: b}` on one line: what stands above belongs to the whole
        if key.start_mark.column == node.start_mark.column and not node.flow_style
    )


def _comment(line: int, lines: list[str]) -> str:
    words = []
    for above in reversed(lines[:line]):
        bare = above.strip()
        if not bare.startswith("# "):
            break
        words.append(bare[2:])
    return " ".join(reversed(words))


def _group(line: int, lines: list[str]) -> str:
    return next((above[3:] for above in reversed(lines[:line]) if above.startswith("## ")), "")
