"""What stands behind `trainer prepare --task hierarchy`: rows of any layout, or a toy set, in the packed form.

trainer prepare --task hierarchy --config rows.yaml rows.csv data/rows --check --show 3
trainer prepare --task hierarchy --config rows.yaml images/ --to s3://bucket/rows
trainer train   --task hierarchy --config rows.yaml --data s3://bucket/rows
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.hierarchy import TOY_BLOCKS, TOY_LEVELS, TOYS, HierarchyData, HierarchySettings
from trainer.errors import DataError, SettingsError
from trainer.tasks.bad_samples import BadSamples
from trainer.tasks.folders import copy_files
from trainer.tasks.hierarchy.counts import Counts
from trainer.tasks.hierarchy.packed import HEADER, Packed, open_packed_rows, write_packed
from trainer.tasks.hierarchy.readers import find_layout, read
from trainer.tasks.hierarchy.table import Source
from trainer.tasks.hierarchy.toys import toy
from trainer.tasks.hierarchy.tree import UNKNOWN
from trainer.telemetry.counting import Count

SHOWN = "rows"
"""What `shown` gives, as the key of `--json`."""
_NUM_VALUES = 6
"""Features of a row that are shown."""


@dataclass(frozen=True)
class Prepared:
    """Packed rows and what was left out on the way."""

    packed: Packed
    left_out: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self.packed.path

    @property
    def files(self) -> list[str]:
        """Names of all its files."""
        return self.packed.files

    def summary(self, where: str = "") -> str:
        """One line for people; `where` is the place it went to, if not its path."""
        source = self.packed.source()
        classes = ", ".join(
            f"{len(names):,} {level}" for level, names in zip(self.packed.levels, source.names, strict=True)
        )
        blocks = f", blocks {', '.join(source.blocks.names)}" if source.blocks.names else ""
        left_out = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"{len(source.table):,} rows of {_shape(source)}, {classes}{blocks}{left_out} in {where or self.path}"


def prepare_data(
    data: HierarchyData,
    target: str | Path,
    *,
    source: str | Path | None = None,
    synthetic: bool = False,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Count | None = None,  # noqa: ARG001 - rows are read at once
) -> Prepared:
    """Write the rows in `source`, or a toy set if `synthetic`, into the folder `target`.

    Raises SettingsError for a wrong combination, DataError as the readers do and for rows that are packed already,
    InfrastructureError if the disk refuses; `target` is whole or untouched.
    """
    if dtype != "float32":
        raise SettingsError(f"--dtype {dtype} has no effect on rows; leave it out")
    if synthetic or source is None:
        name = data.layout if data.layout in TOYS else TOYS[0]
        settings = {"levels": TOY_LEVELS, "blocks": {block: [block] for block in TOY_BLOCKS}}
        return Prepared(write_packed(toy(name, data.toy_seed), settings, Path(target), overwrite=overwrite))
    if data.layout in TOYS:
        raise SettingsError(f"data.layout is {data.layout}, which is generated: say --synthetic in place of {source}")
    counts = Counts(BadSamples(data.bad_samples, data.bad_budget))
    layout, file = find_layout(data, Path(source))
    if layout == "packed":
        open_packed_rows(file.parent)
        raise DataError(f"{source} is packed already; train on it with --data {source}, or give it to --to")
    rows = read(data, Path(source), counts)
    packed = write_packed(rows, _settings(data, layout), Path(target), overwrite=overwrite)
    missing = counts.rows["missing_image"]
    lines = [f"{file}: {missing:,} rows name an image that is not there"] if missing else []
    return Prepared(packed, [*counts.bad_rows.lines, *lines])


def _settings(data: HierarchyData, layout: str) -> dict[str, Any]:
    """What says which columns the rows have; who trains on them must say the same."""
    own = {"csv": ["features"], "parquet": ["features"], "npz": ["features"], "images": ["image_size"]}
    return {name: getattr(data, name) for name in ("levels", "blocks", "group", *own[layout])}


def is_packed(path: Path, data: HierarchyData) -> bool:
    """Whether the settings would read `path` as packed rows."""
    return (path / HEADER).is_file() and data.layout in ("auto", "packed")


def open_packed(path: Path) -> Prepared:
    """Packed rows as if they had just been made, their digests compared. Raises DataError."""
    packed = open_packed_rows(path)
    packed.verify()
    return Prepared(packed)


def copy_packed(source: Path, target: Path, overwrite: bool) -> Prepared:
    """The packed folder `source` at `target`. Raises DataError for a damaged one and for a target that is taken."""
    files = open_packed(source).files
    return open_packed(copy_files(source, files, target, HEADER, overwrite=overwrite))


def shown(settings: HierarchySettings, folder: Path | None, wanted: Sequence[str], target: Path) -> list[str]:  # noqa: ARG001
    """`wanted[0]` rows, evenly spread, one text a row; nothing is written to `target`."""
    if len(wanted) != 1 or not wanted[0].isdecimal() or int(wanted[0]) < 1:
        raise SettingsError(f"--show takes the number of rows, e.g. --show 3; got {' '.join(wanted)}")
    if folder is None:
        levels, source = TOY_LEVELS, toy(settings.data.layout, settings.data.toy_seed)
    else:
        packed = open_packed_rows(folder)
        levels, source = packed.levels, packed.source()
    chosen = np.linspace(0, len(source.table) - 1, min(int(wanted[0]), len(source.table))).astype(np.int64)
    return [_row(source, levels, row) for row in chosen.tolist()]


def _row(source: Source, levels: Sequence[str], row: int) -> str:
    """A row as a block of lines."""
    table = source.table
    lines = [f"{table.where[row]}  ({row + 1:,} of {len(table):,})"]
    for level, names, cls in zip(levels, source.names, table.labels[row].tolist(), strict=True):
        lines.append(f"  {level}: {'unknown' if cls == UNKNOWN else names[cls]}")
    values = table.features[row].ravel()
    more = f" ... of {_shape(source)}" if len(values) > _NUM_VALUES else ""
    lines.append(f"  features: {' '.join(f'{value:g}' for value in values[:_NUM_VALUES].tolist())}{more}")
    for (block, (first, end)), is_valid in zip(source.blocks.ranges.items(), table.valid[row].tolist(), strict=True):
        text = " ".join(f"{value:g}" for value in table.blocks[row, first:end].tolist()) if is_valid else "missing"
        lines.append(f"  block {block}: {text}")
    named = {"record": table.record, "split": table.split}
    lines += [f"  {name}: {column[row]}" for name, column in named.items() if column is not None]
    return "\n".join(lines)


def _shape(source: Source) -> str:
    """Of the features of one row, in words."""
    shape = source.table.features.shape[1:]
    return f"{shape[0]} features" if len(shape) == 1 else f"{'x'.join(map(str, shape))} pixels"
