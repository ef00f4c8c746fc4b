"""Samples that cannot be used: named with their place, then an error, or left out within a budget."""

from dataclasses import dataclass, field

from trainer.errors import DataError


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used."""

    where: str
    reason: str
    tolerated: bool = False
    """A known gap of a public data set (an empty file): counted and reported, never an error."""


@dataclass
class BadSamples:
    """What to do with samples that cannot be used: `fail` at the first, or `skip` up to `budget` and count."""

    policy: str = "fail"
    budget: int = 100
    num_skipped: int = 0
    num_tolerated: int = 0
    lines: list[str] = field(default_factory=list)
    """One line for each sample left out, tolerated ones too."""

    def add(self, bad: BadSample) -> None:
        """Count a bad sample. Raises DataError under `fail` and when the budget is used up."""
        line = f"{bad.where}: {bad.reason}"
        if bad.tolerated:
            self.num_tolerated += 1
            self.lines.append(line)
            return
        if self.policy == "fail":
            raise DataError(f"{line} (data.bad_samples: skip leaves such samples out)")
        self.num_skipped += 1
        self.lines.append(line)
        if self.num_skipped > self.budget:
            raise DataError(f"{line}; this is bad sample {self.num_skipped}, data.bad_budget is {self.budget}")
