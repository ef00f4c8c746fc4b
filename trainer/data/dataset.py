"""What a data set is to the rest of the program: a length and `take`, a whole batch at once.

order (seed, epoch) ─► plan: step ─► indices ─► share of a rank ─► take(indices, epoch) ─► batch
"""

from typing import Protocol

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
