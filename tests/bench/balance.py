"""What the balance of loss terms costs: nothing where it is not due, a partial backward of each term where it is.

The same three-term model is trained with one weight for all, with a rule that is never due, and with one that measures
at every step.
"""

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.bench.turns import Stamped, in_turns, paired, print_table, step_micros
from tests.toy import train_toy
from tests.toy_terms import MASKS, TermsSettings, TermsTask, terms_settings

STEPS, WARM_UP, WINDOW, ROUNDS = 500, 100, 50, 5
QUIET = {
    "num_epochs": 1,
    "num_samples": 64 * (STEPS + WARM_UP),
    "accumulation": 1,
    "checkpoint__every": "never",
    "telemetry__log_every": "every 20 steps",
    "run__resume": "never",
}
PLAIN = "balance.kind none"
CONTENDERS = {
    PLAIN: {"balance__kind": "none"},
    "gradnorm, not due": {"balance__every": "at 100%"},
    "gradnorm, due": {"balance__every": "every 1 steps"},
    "uncertainty, due": {"balance__kind": "uncertainty", "balance__every": "every 1 steps"},
    "balance.kind none, once more (noise)": {"balance__kind": "none"},
}


class Timed(TermsTask):
    """With a stamp at every step, and no pass on the way."""

    def __init__(self, settings: TermsSettings) -> None:
        super().__init__(settings)
        self.model = Stamped(super().build_model())

    def build_model(self) -> nn.Module:
        """The stamped model."""
        return self.model

    def shared(self, model: nn.Module) -> list[nn.Parameter]:
        """The trunk of what is stamped."""
        return list(super().shared(self.model.inner))


def contender(values: dict[str, str]) -> Callable[[], float]:
    """Microseconds of a step on the main thread's CPU, the best window."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            never = dict.fromkeys(["val", *(f"val_{number}" for number in range(MASKS))], "never")
            tasks: list[Timed] = []
            settings = terms_settings(Path(folder), **QUIET, passes=never, **values)
            train_toy(settings, lambda given: tasks.append(Timed(given)) or tasks[0])
            return min(step_micros(tasks[0].model.cpu, STEPS, WINDOW))

    return run


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    runs = in_turns({name: contender(values) for name, values in CONTENDERS.items()}, ROUNDS)
    rows = [
        (name, f"{statistics.median(found):.0f}", f"{paired(found, runs[PLAIN], lambda a, b: a - b):+.0f}")
        for name, found in runs.items()
    ]
    notes = [f"three terms; best window of {WINDOW} steps, median of {ROUNDS} rounds in turns"]
    print_table("Cost of the balance, main thread", ("loss terms", "CPU us/step", "over none"), rows, notes)
