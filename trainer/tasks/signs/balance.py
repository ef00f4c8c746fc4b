"""Class imbalance: loss weights, or a plan that draws classes evenly. Both are functions of the labels alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Indices
from trainer.data.keys import derive, uniform


def inverse_frequency(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Weights `[c]` proportional to 1 / count with mean 1 over the samples; 0 for a class without any."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.where(counts > 0, len(labels) / (np.maximum(counts, 1) * max(int((counts > 0).sum()), 1)), 0.0)
    return np.asarray(weights, np.float32)


@dataclass(frozen=True)
class EvenPlan:
    """As many samples an epoch as there are, class after class in turn; within its class a sample is drawn at random.

    Position p of an epoch takes class `order[p mod C]`, with a new keyed order in every epoch, and a keyed draw among
    the class's samples. Samples of rare classes come several times, others may be left out.
    """

    labels: NDArray[np.int64]
    batch_size: int
    seed: int

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002 - every epoch is alike
        """Steps of an epoch; the last one may be shorter."""
        return -(-len(self.labels) // self.batch_size)

    def batch(self, epoch: int, step: int) -> Indices:
        """Sample indices of the global batch `step`."""
        start = step * self.batch_size
        positions = np.arange(start, min(start + self.batch_size, len(self.labels)), dtype=np.int64)
        by_class = np.argsort(self.labels, kind="stable")
        classes, first, count = np.unique(self.labels[by_class], return_index=True, return_counts=True)
        key = derive(self.seed, "balance", epoch)
        order = np.argsort(uniform(derive(key, "classes"), np.arange(len(classes)), 1)[:, 0])
        chosen = order[positions % len(classes)]
        draws = uniform(derive(key, "samples"), positions, 1)[:, 0]
        return by_class[first[chosen] + (draws * count[chosen]).astype(np.int64)].astype(np.int64)
