"""What a warning rule is: a frozen dataclass of thresholds with a pure function of a `Trace`.

A rule says in one line what it saw, with numbers, and the likely cause; how often it may speak is the watcher's
business (`warnings.py`). The general rules are in `rules_loss`, `rules_gradient`, `rules_passes`, `rules_machine`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Literal, Protocol

from trainer.telemetry.trace import Record, Trace, mean_of, value_of

Severity = Literal["note", "warn", "stop"]


@dataclass(frozen=True)
class Finding:
    """What a rule saw: one line for people and the numbers in it."""

    text: str
    numbers: dict[str, float] = field(default_factory=dict)


class Rule(Protocol):
    """A named sign; `check` looks at the end of the trace only."""

    @property
    def name(self) -> str:
        """Stable name, part of the ledger."""
        ...

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        ...

    def check(self, trace: Trace) -> Finding | None:
        """The finding, if the newest records show the sign."""
        ...


def median_of(records: Sequence[Record], name: str) -> float | None:
    """Median of the loss or a training metric over log points."""
    values = [value for record in records if (value := value_of(record, name)) is not None]
    return median(values) if values else None


def variation_of(values: Sequence[float]) -> float:
    """Standard deviation over mean; `statistics.pstdev` sums fractions and is 50 times slower."""
    mean = fmean(values) if values else 0.0
    return math.sqrt(fmean((value - mean) ** 2 for value in values)) / abs(mean) if mean else 0.0


def share_of(records: Sequence[Record], name: str) -> float:
    """Mean of a field of log points, each with as much weight as it has steps; 0 without any."""
    num_steps = sum(record["num_steps"] for record in records)
    return sum(record[name] * record["num_steps"] for record in records) / num_steps if num_steps else 0.0


def learned_less(trace: Trace, window: Sequence[Record], accuracy: float) -> bool:
    """Whether the training accuracy is below a mark; without one, whether nine tenths of the first loss are left."""
    name = trace.accuracy_name
    reached = mean_of(window, name) if name else None
    if reached is not None:
        return reached < accuracy
    loss = mean_of(window, "loss")
    return loss is not None and trace.first_loss is not None and loss > 0.9 * trace.first_loss
