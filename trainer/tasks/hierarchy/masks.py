"""Which blocks a training row loses: all of them, or one combination out of a weighted list.

Expected share without block b: 1 - (1 - m_b)(1 - p - (1 - p) * p2 * c_b), where m_b is the share of rows that never
had it, p and p2 the probabilities of all and of a combination, c_b the share of the combinations with b.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import Combination
from trainer.data.dataset import Indices
from trainer.data.keys import uniform
from trainer.tasks.hierarchy.blocks import BlockMap


@dataclass(frozen=True)
class Combinations:
    """Sets of blocks and how often each is chosen."""

    flags: NDArray[np.bool_]
    """`[num_sets, num_blocks]`"""
    ends: NDArray[np.float64]
    """Cumulative shares `[num_sets]`, the last one 1."""

    @classmethod
    def of(cls, blocks: BlockMap, combinations: Sequence[Combination]) -> "Combinations":
        """As the settings say; every block alone and all alike, if they say nothing."""
        if not combinations:
            combinations = [Combination(blocks=[name]) for name in blocks.names]
        flags = np.array([blocks.flags(one.blocks) for one in combinations]).reshape(len(combinations), -1)
        shares = np.cumsum([one.weight for one in combinations])
        return cls(flags, shares / shares[-1])

    def lost(
        self, rows: Indices, key: int, p_all: NDArray[np.float64], p_partial: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """`[B, num_blocks]`: what each row loses, for its own two probabilities."""
        draws = uniform(key, rows, 3)
        which = np.searchsorted(self.ends, draws[:, 2], side="right")
        partly = (draws[:, 1] < p_partial)[:, None] & self.flags[which]
        return (draws[:, 0] < p_all)[:, None] | partly
