"""Where the run is; together with the settings it determines everything that comes next."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Cursor:
    """The position of a run between two steps.

    `step` counts global batches trained on, `updates` those whose update was applied (fp16 overflow and the
    non-finite policies leave some out); schedules follow `updates`, triggers follow `step`.
    """

    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Global batches done in the epoch that is under way."""
    step: int = 0
    updates: int = 0
    samples: int = 0
    owed: list[str] = field(default_factory=list)
    """Passes that became due and have not been finished."""
    left_out: list[int] = field(default_factory=list)
    """Steps whose update a rollback decided to leave out (their batch broke the run before)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for `state.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Cursor":
        """Inverse of `to_json`."""
        return cls(**values)
