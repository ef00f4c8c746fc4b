"""What a data set is to the rest of the program: a length and `take`, a whole batch at once.

order (seed, epoch) ─► plan: step ─► indices ─► share of a rank ─► take(indices, epoch) ─► batch
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Batch = dict[str, Tensor]
Indices = NDArray[np.int64]


class DataSet(Protocol):
    """A fixed, indexable collection of samples.

    `take` must be a pure function of its arguments and safe to call from another thread. Augmentation, where
    there is any, is drawn by `keys.uniform(derive(seed, "augment", epoch), indices, n)`, so that a sample looks
    the same whichever rank or batch it lands in.
    """

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def take(self, indices: Indices, epoch: int) -> Batch:
        """Samples `indices` (int64 `[B]`) of `epoch` as one batch; `batch["index"]` holds the indices back."""
        ...


@runtime_checkable
class Ragged(DataSet, Protocol):
    """A collection whose samples differ in size, so that a batch is padded to the longest of its own.

    The engine shares batches among ranks by cost instead of number, and evaluates samples of like cost together.
    """

    def take_parts(self, parts: Sequence[Indices], epoch: int) -> list[Batch]:
        """Every part as a batch of its own."""
        ...

    def costs(self, indices: Indices) -> NDArray[np.int64]:
        """What each sample costs where it is the longest of its batch."""
        ...
