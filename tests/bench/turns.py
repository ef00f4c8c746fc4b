"""Measuring in turns, per-step stamps, and the tables.

A machine that others use drifts by more than what is measured here. So nothing is timed first and compared later:
contenders take turns, the order is reversed every round, and a comparison is made within a round.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from torch import Tensor, nn

T = TypeVar("T")


def in_turns(contenders: dict[str, Callable[[], T]], num_rounds: int) -> dict[str, list[T]]:
    """One result of every contender for every round; the garbage collector starts alike for each."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for turn in range(num_rounds):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            gc.unfreeze()
            gc.enable()
            gc.collect()
            results[name].append(contenders[name]())
    return results


def paired(values: Sequence[float], against: Sequence[float], combine: Callable[[float, float], float]) -> float:
    """Median over the rounds of `combine(value, other)`, both of the same round."""
    return statistics.median(combine(value, other) for value, other in zip(values, against, strict=True))


class Stamped(nn.Module):
    """Passes everything to `inner` and notes wall and CPU time of the calling thread at each training forward.

    Whatever drives the module, the time between two stamps is one whole step of it.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.wall: list[int] = []
        self.cpu: list[int] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        """The inner model's output."""
        if self.training:
            self.wall.append(time.perf_counter_ns())
            self.cpu.append(time.thread_time_ns())
        return self.inner(*inputs)


def step_micros(stamps: Sequence[int], num_steps: int, window: int) -> list[float]:
    """Microseconds per step in each full window of the last `num_steps` steps."""
    last = list(stamps)[-num_steps:]
    return [(last[i + window] - last[i]) / window / 1e3 for i in range(0, len(last) - window, window)]


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: Sequence[str] = ()
) -> None:
    """A Markdown table that can stand in the README as it is; `notes` follow it as a list."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    if notes:
        print()
    for note in notes:
        print(f"- {note}")
