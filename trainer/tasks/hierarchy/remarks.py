"""What a user should be told of a split once, at the start, and why its scores may be no headline."""

import numpy as np

from trainer.config.hierarchy import TOYS, HierarchyData, MaskSettings
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.opening import Opened


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
