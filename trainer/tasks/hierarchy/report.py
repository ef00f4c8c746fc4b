"""What happened to the rows on their way in: counted, and bad ones named under a budget."""

from collections import Counter
from dataclasses import dataclass, field

from trainer.errors import DataError


@dataclass
class Counts:
    """Rows left out by reason (`no_label`, `missing_image`, `partial`, `gaps`, `bad`) and changed ones (`filled`)."""

    policy: str = "fail"
    budget: int = 100
    """Bad rows that `skip` tolerates."""
    rows: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    """One for each bad row."""

    def add(self, reason: str, number: int = 1) -> None:
        """Count rows."""
        self.rows[reason] += number

    def bad(self, where: str, reason: str) -> None:
        """Count a row that cannot be used. Raises DataError under `fail` and when the budget is used up."""
        line = f"{where}: {reason}"
        if self.policy == "fail":
            raise DataError(f"{line} (data.bad_samples: skip leaves such rows out)")
        self.add("bad")
        self.lines.append(line)
        if self.rows["bad"] > self.budget:
            raise DataError(f"{line}; this is bad row {self.rows['bad']}, data.bad_budget is {self.budget}")
