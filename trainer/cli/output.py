"""What commands print: on stdout JSON for scripts and aligned columns for people, on stderr what stores have to say."""

import json
import sys
from collections import deque
from collections.abc import Sequence
from typing import IO, Any

_notices: list[deque[str]] = []
"""Those of every store that this command has opened."""


def will_note(notices: deque[str]) -> None:
    """Say these (`Store.notices`) when the command ends, whatever ends it."""
    _notices.append(notices)


def say_notices() -> None:
    """Each notice once, as a line on stderr."""
    texts = [notices.popleft() for notices in _notices for _ in range(len(notices))]
    _notices.clear()
    for text in dict.fromkeys(texts):
        print(f"note: {text}", file=sys.stderr)


def print_json(value: Any, target: IO[str] | None = None) -> None:
    """One line of JSON; numbers that JSON lacks are refused, names keep their letters."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str), file=target)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], right: frozenset[int] = frozenset()) -> None:
    """Columns as wide as they need, never cut, so that they can be copied and piped; `right` are right-aligned."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        texts = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(texts).rstrip())


def size(num_bytes: float) -> str:
    """Bytes in the unit a person would say."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    raise AssertionError("the last unit takes everything")
