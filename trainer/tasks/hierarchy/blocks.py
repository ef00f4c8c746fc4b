"""One map from the names of blocks to columns, used by model, masks, passes and report.

    widths 2, 3, 10 ─► columns [0, 2), [2, 5), [5, 15)

A masked block is zero *and* invalid; zero alone is a legal value.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MASKED = "val_mask_"
"""How the names of masked passes begin."""
BlockSet = tuple[str, ...]
"""Names of blocks in the map's order."""


class BlockMap:
    """Names and widths of the blocks, in their order."""

    def __init__(self, widths: dict[str, int]) -> None:
        self.widths = dict(widths)
        self.names = list(widths)

    @cached_property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """First column and the one after the last, by name."""
        ends = np.cumsum([0, *self.widths.values()]).tolist()
        return dict(zip(self.names, pairwise(ends), strict=True))

    @property
    def width(self) -> int:
        """Columns of all blocks."""
        return sum(self.widths.values())

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The block (by place) that each column belongs to: `[width]`."""
        return np.repeat(np.arange(len(self.names)), list(self.widths.values())).astype(np.int64)

    def flags(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """`[num_blocks]`: which blocks are named."""
        return np.isin(self.names, list(names))

    def masked(self, blocks: Tensor, valid: Tensor, names: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Copies of `blocks` `[B, width]` and `valid` `[B, num_blocks]` without the named blocks."""
        kept = torch.from_numpy(~self.flags(names)).to(valid.device)
        columns = kept[torch.from_numpy(self.owner).to(valid.device)]
        return torch.where(columns, blocks, 0.0), valid & kept

    def sets(self, texts: Sequence[str]) -> list[BlockSet]:
        """The sets that texts such as `all`, `each`, `subsets` and `SITE+SEASON` stand for, each once."""
        found: dict[BlockSet, None] = {}
        for text in texts if self.names else ():
            found |= dict.fromkeys(self._sets(text))
        return list(found)

    def _sets(self, text: str) -> list[BlockSet]:
        if text == "all":
            return [tuple(self.names)]
        if text == "each":
            return [(name,) for name in self.names]
        if text == "subsets":
            return [one for size in range(1, len(self.names)) for one in combinations(self.names, size)]
        wanted = text.split("+")
        return [tuple(name for name in self.names if name in wanted)]

    def pass_name(self, names: BlockSet) -> str:
        """`val_mask_all`, `val_mask_SITE_SEASON`: one set has one name, because its blocks are in order."""
        return MASKED + ("all" if len(names) == len(self.names) else "_".join(names))
