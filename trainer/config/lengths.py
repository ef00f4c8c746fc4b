"""How many steps an epoch has, where that is the same for all epochs and where it is not.

Token batches make epochs that differ by a few steps. Known answers: with 10, 12 and 11 steps an epoch, 2 epochs are 22
steps, 2.5 are 27.5, and 4 are 44, because epochs beyond the last known one are taken to be as long as that.
"""

from fractions import Fraction
from math import floor

PerEpoch = int | tuple[int, ...]
"""Steps of every epoch, or of each."""


def per_epoch(lengths: tuple[int, ...]) -> PerEpoch:
    """One number where all epochs are alike."""
    return lengths[0] if len(set(lengths)) == 1 else lengths


def steps_of(steps: PerEpoch, epoch: int) -> int:
    """Steps of one epoch."""
    return steps if isinstance(steps, int) else steps[min(epoch, len(steps) - 1)]


def typical(steps: PerEpoch) -> int:
    """One number for people: the mean."""
    return steps if isinstance(steps, int) else round(sum(steps) / len(steps))


def in_steps(epochs: Fraction, steps: PerEpoch) -> Fraction:
    """Steps of so many epochs from the start of the run, exactly."""
    if isinstance(steps, int):
        return epochs * steps
    whole = min(floor(epochs), len(steps) - 1)
    return sum(steps[:whole]) + (epochs - whole) * steps[whole]


def in_epochs(step: Fraction, steps: PerEpoch) -> Fraction:
    """Inverse of `in_steps`."""
    if isinstance(steps, int):
        return step / steps
    for epoch, length in enumerate(steps[:-1]):
        if step < length:
            return epoch + step / length
        step -= length
    return len(steps) - 1 + step / steps[-1]
