"""What happened to the rows on their way in."""

from collections import Counter
from dataclasses import dataclass, field

from trainer.tasks.bad_samples import BadSample, BadSamples


@dataclass
class Counts:
    """Rows left out by reason (`no_label`, `missing_image`, `partial`, `gaps`), changed ones (`filled`), bad ones."""

    bad_rows: BadSamples = field(default_factory=BadSamples)
    rows: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, number: int = 1) -> None:
        """Count rows."""
        self.rows[reason] += number

    def bad(self, where: str, reason: str) -> None:
        """Count a row that cannot be used. Raises DataError under `fail` and when the budget is used up."""
        self.bad_rows.add(BadSample(where, reason))
