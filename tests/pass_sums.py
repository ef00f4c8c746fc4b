"""The sums of a pass out of those of its batches, as the engine adds them up."""

from collections.abc import Iterable

from torch import Tensor

from trainer.engine.evaluate import add
from trainer.engine.task import Sums


def added(parts: Iterable[Sums]) -> dict[str, Tensor]:
    """All of them together, float64."""
    totals: dict[str, Tensor] = {}
    for part in parts:
        for name, values in part.items():
            add(totals, name, values, 1.0)
    return {name: value.double() for name, value in totals.items()}
