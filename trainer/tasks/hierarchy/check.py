"""What `trainer prepare --check` says of packed rows: the files are whole, how much there is of what, what is odd."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.hierarchy.packed import open_packed_rows
from trainer.tasks.hierarchy.readers import read_csv
from trainer.tasks.hierarchy.remarks import look_alikes, some, without_record
from trainer.tasks.hierarchy.table import Source
from trainer.tasks.hierarchy.tree import UNKNOWN
from trainer.tasks.hierarchy.tree_build import Builder


@dataclass
class Findings:
    """Counts are of rows unless they say otherwise."""

    path: str
    num_rows: int
    shape: list[int]
    """Of the features of one row."""
    levels: dict[str, dict[str, int]]
    """By level: classes, unknown rows, rows of the rarest and of the most frequent class that has any."""
    valid_share: dict[str, float]
    """By block."""
    num_records: int | None = None
    per_split: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """What training would refuse or get wrong."""
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.path}: every file is what the header says"]
        records = "" if self.num_records is None else f", {self.num_records:,} records"
        lines.append(f"  {self.num_rows:,} rows of shape {'x'.join(map(str, self.shape))}{records}")
        for level, found in self.levels.items():
            sizes = f"{found['least']:,} to {found['most']:,} rows each"
            lines.append(f"  {level}: {found['classes']:,} classes, {sizes}, {found['unknown']:,} rows unknown")
        lines += [f"  block {name}: valid in {share:.1%} of the rows" for name, share in self.valid_share.items()]
        if self.per_split:
            lines.append("  split: " + ", ".join(f"{count:,} {name}" for name, count in self.per_split.items()))
        odd = [f"  fault: {text}" for text in self.faults] + [f"  note: {text}" for text in self.remarks]
        return "\n".join([*lines, *(odd or ["  nothing odd found"])])


def check(folder: Path) -> Findings:
    """Compare digests, look at every row. Raises DataError for files that are not what the header says."""
    packed = open_packed_rows(folder)
    packed.verify()
    source, levels = packed.source(), packed.levels
    table = source.table
    found = Findings(
        path=str(folder),
        num_rows=len(table),
        shape=list(table.features.shape[1:]),
        levels={level: _level(source, place) for place, level in enumerate(levels)},
        valid_share=dict(zip(source.blocks.names, table.valid.mean(0).tolist(), strict=True)),
        num_records=None if table.record is None else len(np.unique(table.record)),
        per_split={} if table.split is None else _counts(table.split.tolist()),
    )
    found.faults += _faults(source, levels)
    found.remarks += _remarks(source, levels)
    return found


def _level(source: Source, place: int) -> dict[str, int]:
    sizes = _sizes(source, place)
    there = sizes[sizes > 0]
    least, most = (int(there.min()), int(there.max())) if len(there) else (0, 0)
    return {"classes": len(sizes), "unknown": len(source.table) - int(sizes.sum()), "least": least, "most": most}


def _sizes(source: Source, place: int) -> NDArray[np.int64]:
    """Rows of each class of a level."""
    own = source.table.labels[:, place]
    return np.bincount(own[own != UNKNOWN], minlength=len(source.names[place]))


def _faults(source: Source, levels: list[str]) -> list[str]:
    """Conflicts of the tree, labels outside of a given one, features that are no numbers."""
    table, faults = source.table, []
    if source.tree:
        given = read_csv(Path(source.tree))
        for level, names in zip(levels, source.names, strict=True):
            if outside := sorted(set(names) - set(given.labels(level)[1])):
                faults.append(f"{level} {some(outside)}: no class of that level in the given tree")
    else:
        try:
            Builder(levels, source.names, table.labels, lambda row: str(table.where[row])).build()
        except DataError as error:
            faults.append(str(error))
    if not np.isfinite(table.features).all():
        faults.append("features are not all finite")
    return faults


def _remarks(source: Source, levels: list[str]) -> list[str]:
    """What one should know before training."""
    table, remarks = source.table, []
    known = table.labels != UNKNOWN
    if nothing := int((~known.any(1)).sum()):
        remarks.append(f"{nothing:,} rows have no label at any level and will be left out")
    flat = table.features.reshape(len(table), -1)
    if same := int((flat == flat[:1]).all(0).sum()):
        remarks.append(f"{same:,} of {flat.shape[1]:,} features are the same in every row")
    for place, level in enumerate(levels):
        sizes = _sizes(source, place).tolist()
        if single := [name for name, size in zip(source.names[place], sizes, strict=True) if size == 1]:
            remarks.append(f"{level} {some(single)}: a single row")
    remarks += [*without_record(table.record), *look_alikes(levels, source.names)]
    if table.record is not None:
        pairs = np.unique(np.stack([table.labels[:, 0].astype(str), table.record], 1)[known[:, 0]], axis=0)
        alone = [source.names[0][int(cls)] for cls, count in _counts(pairs[:, 0].tolist()).items() if count == 1]
        if alone:
            remarks.append(f"{levels[0]} {some(alone)}: all rows of one record, so none can be held out")
    return remarks


def _counts(texts: list[str]) -> dict[str, int]:
    names, counts = np.unique(texts, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
