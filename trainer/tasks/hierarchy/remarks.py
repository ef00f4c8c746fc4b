"""What a user should be told of a split once, at the start, and why its scores may be no headline."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import TOYS, HierarchyData, MaskSettings
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.opening import Opened
from trainer.tasks.hierarchy.tree import UNKNOWN

_MAX_NAMED = 5


def caveat(opened: Opened, data: HierarchyData) -> str:
    """Why what validation says is no headline: records on both sides of the split. Empty if there is none.

    Rows of one record are alike: anuran calls split by rows give 98-99 %, with records held out 74 %.
    """
    record, parts = opened.table.record, opened.parts
    if record is None:
        return ""
    trained, held_out = (np.unique(record[rows]) for rows in (parts["train"], np.r_[parts["val"], parts["test"]]))
    num_shared = int(np.isin(held_out, trained).sum())
    if not num_shared:
        return ""
    return (
        f"{num_shared:,} of the {len(held_out):,} records that are evaluated are trained on, too (data.split.by: "
        f"{data.split.by}); the scores tell how well a record is known again, not its class. Split by record or fixed."
    )


def without_blocks(blocks: BlockMap, mask: MaskSettings) -> list[str]:
    """What is asked of masks where there is nothing to mask."""
    usual = MaskSettings()
    asked = [f"mask.{name}" for name in MaskSettings.model_fields if getattr(mask, name) != getattr(usual, name)]
    if blocks.names or not asked:
        return []
    return [f"the rows have no blocks (data.blocks), so these settings have no effect: {', '.join(asked)}"]


def remarks(opened: Opened, data: HierarchyData) -> list[str]:
    """One line for each thing there is to say."""
    if opened.table.record is not None or data.split.by != "row" or data.layout in TOYS:
        return []
    return [
        "data.group is not set: if several rows are of one individual or session, some of them are evaluated and "
        "others trained on, and the scores flatter"
    ]


def odd(opened: Opened) -> list[str]:
    """What the rows have that takes more from a training than their counts show."""
    return [
        *_left_out(opened.report["rows"]),
        *without_record(opened.table.record),
        *look_alikes(opened.tree.levels, opened.tree.names),
        *_never_trained(opened),
        *_never_valid(opened),
    ]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def without_record(record: NDArray[np.str_] | None) -> Iterator[str]:
    """Rows whose record is an empty cell are on one side of the split together."""
    num_empty = 0 if record is None else int((np.char.strip(record) == "").sum())
    if num_empty > 1:
        yield f"data.group is empty in {num_empty:,} rows, which count as one record"


def look_alikes(levels: Sequence[str], names: Sequence[Sequence[str]]) -> Iterator[str]:
    """Classes that a human eye takes for one."""
    for level, own in zip(levels, names, strict=True):
        first: dict[str, str] = {}
        pairs = [(first.setdefault(" ".join(name.split()).casefold(), name), name) for name in own]
        if twins := [f"{one!r} and {other!r}" for one, other in pairs if one != other]:
            yield f"{level} {some(twins)}: classes of their own, differing in spaces or case only"


def _left_out(rows: dict[str, int]) -> Iterator[str]:
    kinds = {"bad": rows["bad"], "whose image is not there": rows.get("missing_image", 0)}
    if named := [f"{count:,} {kind}" for kind, count in kinds.items() if count]:
        yield f"left out of {rows['read']:,} rows: {', '.join(named)}"


def _never_trained(opened: Opened) -> Iterator[str]:
    """Classes that are evaluated and that no training row has: none of their rows can be right."""
    train, held_out = (
        opened.table.labels[rows] for rows in (opened.parts["train"], np.r_[opened.parts["val"], opened.parts["test"]])
    )
    for place, (level, names) in enumerate(zip(opened.tree.levels, opened.tree.names, strict=True)):
        alone = np.setdiff1d(held_out[:, place], np.r_[train[:, place], UNKNOWN])
        if len(alone):
            num_rows = int(np.isin(held_out[:, place], alone).sum())
            named = some([names[cls] for cls in alone.tolist()])
            yield f"{level} {named}: no training row, but {num_rows:,} that are evaluated, and cannot be right"


def _never_valid(opened: Opened) -> Iterator[str]:
    num_valid = opened.table.valid[opened.parts["train"]].sum(0).tolist()
    for name, count in zip(opened.blocks.names, num_valid, strict=True):
        if not count:
            yield f"block {name} is valid in no training row"
