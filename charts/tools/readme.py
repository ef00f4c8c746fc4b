"""charts/trainer/README.md: a written frame, and the table of values out of values.yaml."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from charts.tools.values_docs import CHART, Value, values

FRAME = Path(__file__).with_name("README.md.in")
OUTPUT = CHART / "README.md"
MARK = "@VALUES@\n"


def text() -> str:
    """The file's content."""
    return FRAME.read_text("utf-8").replace(MARK, table(values()))


def table(documented: list[Value]) -> str:
    """A table for each group of values."""
    parts = []
    for group, members in groupby(documented, key=lambda value: value.group):
        rows = [f"| `{'.'.join(one.path)}` | {_code(one.default)} | {_cell(one.text)} |" for one in members]
        parts.append("\n".join([f"### {group}", "", "| value | default | meaning |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _code(default: Any) -> str:
    return "" if default in (None, "", [], {}) else f"`{_cell(json.dumps(default, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
