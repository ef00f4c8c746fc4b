"""Rows in the packed form: what the reader of any layout found, for machines that have nothing but NumPy.

    rows.json     levels, class names, widths of the blocks, the settings that read them; size and SHA-256 of each file
    rows.npz      the arrays of `table.Table` by name
    tree.csv      the table of the label tree, where one was given (data.tree)

Packed rows have the digest of the rows they came from, so a run may go on with the one or the other. The same rows
always become the same bytes.
"""

import json
import os
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.hierarchy import HierarchyData
from trainer.errors import DataError
from trainer.tasks.folders import HashedFile, record_of, whole_folder
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.table import Source, Table

HEADER, ROWS, TREE = "rows.json", "rows.npz", "tree.csv"
FORMAT, VERSION = "hierarchy-rows", 1
"""The version is raised when a reader of the old format would misread the new one."""
_AGAIN = "pack the rows again: trainer prepare --task hierarchy SOURCE TARGET --overwrite"


@dataclass(frozen=True)
class Packed:
    """A packed folder and what its header says."""

    path: Path
    header: dict[str, Any]

    @property
    def files(self) -> list[str]:
        """Names of all its files."""
        return [HEADER, *self.header["files"]]

    @property
    def levels(self) -> list[str]:
        """Fine to coarse."""
        return [str(name) for name in self.header["names"]]

    def verify(self) -> None:
        """Compare every byte with the header's digests. Raises DataError."""
        for name, record in self.header["files"].items():
            if record_of(self.path / name) != record:
                raise DataError(f"{self.path / name} is not what {HEADER} says; {_AGAIN}")

    def source(self) -> Source:
        """The rows as the reader found them. Raises DataError if they are damaged."""
        file = self.path / ROWS
        try:
            with np.load(file, allow_pickle=False) as content:
                table = Table(**{name: content[name] for name in content.files})
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{file} is damaged ({error}); {_AGAIN}") from None
        tree = self.path / TREE
        names = list(self.header["names"].values())
        return Source(str(file), table, names, BlockMap(self.header["blocks"]), str(tree) if tree.is_file() else None)

    def check_settings(self, data: HierarchyData) -> None:
        """Raises DataError for settings that mean other columns than the packed ones."""
        says = {name: getattr(data, name) for name in self.header["settings"]}
        differing = [
            f"data.{name} is {json.dumps(says[name])}, they were packed with {json.dumps(value)}"
            for name, value in self.header["settings"].items()
            if says[name] != value
        ]
        if data.split.by == "given" and not self.header["has_split"]:
            differing.append("data.split.by is given, and they were packed without the column 'split'")
        if differing:
            raise DataError(f"{self.path / ROWS}: {'; '.join(differing)}; set the same, or {_AGAIN}")


def open_packed_rows(folder: Path) -> Packed:
    """A packed folder, its header read. Raises DataError for anything else."""
    path = folder / HEADER
    try:
        header: dict[str, Any] = json.loads(path.read_bytes())
        is_ours = (header["format"], header["version"]) == (FORMAT, VERSION)
        is_whole = all(isinstance(header[name], dict) for name in ("names", "blocks", "settings", "files"))
        is_ours = is_ours and is_whole and isinstance(header["has_split"], bool)
    except FileNotFoundError:
        raise DataError(f"{folder} holds no packed rows: it has no {HEADER}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); {_AGAIN}") from None
    if not is_ours:
        raise DataError(f"{path} is no header that this version reads; {_AGAIN}")
    return Packed(folder, header)


def write_packed(source: Source, settings: dict[str, Any], target: Path, *, overwrite: bool) -> Packed:
    """Write rows that were read with these `settings` into the folder `target`. Errors are those of `whole_folder`."""
    columns = {one.name: getattr(source.table, one.name) for one in fields(Table)}
    with whole_folder(target, HEADER, overwrite=overwrite) as folder:
        with (folder / ROWS).open("wb") as file:
            np.savez(file, **{name: column for name, column in columns.items() if column is not None})
            file.flush()
            os.fsync(file.fileno())
        names = [ROWS]
        if source.tree:
            names.append(TREE)
            tree = HashedFile(folder / TREE)
            tree.write(Path(source.tree).read_bytes())
            tree.close()
        body = {
            "format": FORMAT,
            "version": VERSION,
            "names": dict(zip(settings["levels"], source.names, strict=True)),
            "blocks": source.blocks.widths,
            "has_split": source.table.split is not None,
            "settings": settings,
            "files": {name: record_of(folder / name) for name in names},
        }
        header = HashedFile(folder / HEADER)
        header.write((json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())
        header.close()
    return open_packed_rows(target)
