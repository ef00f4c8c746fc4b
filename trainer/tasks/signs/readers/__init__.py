"""Readers of the layouts that users already have; each makes a `Source` (see `source.py`)."""

from pathlib import Path
from typing import Protocol

from trainer.errors import DataError
from trainer.tasks.signs.readers import auslan, karsl_mmap, karsl_npz, open_layout
from trainer.tasks.signs.readers.source import Source
from trainer.tasks.signs.schema import Schema


class _Reader(Protocol):
    """What a reader's module offers."""

    def is_here(self, path: Path) -> bool:
        """Is the layout in `path`?"""
        ...

    def open_source(self, path: Path, schema: Schema) -> Source:
        """Its recordings, as a source."""
        ...


_READERS: dict[str, _Reader] = {
    "karsl_npz": karsl_npz,
    "karsl_mmap": karsl_mmap,
    "open": open_layout,
    "auslan": auslan,
}
"""In the order in which `auto` asks them."""


def find_source(path: Path, layout: str, schema: Schema) -> Source:
    """The source in `path`, which exists; `layout` names a reader or is `auto`. `schema` is for the open layout.

    Raises DataError if the layout is not there, or if `auto` knows none.
    """
    for name, reader in _READERS.items():
        if layout in (name, "auto") and reader.is_here(path):
            return reader.open_source(path, schema)
    known = ", ".join(["packed", *_READERS])
    if layout == "auto":
        raise DataError(f"{path} has none of the known layouts ({known}); name it with data.layout")
    raise DataError(f"{path} is not in the layout {layout} (known: {known})")
