"""Sums between two log points, kept on the device; read, reduced and divided only there."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.engine.task import Loss
from trainer.engine.world import World
from trainer.telemetry.events import Metrics

Derived = Callable[[Metrics, float, float], Metrics]


class Meter:
    """Adds up loss terms, named sums and counts of the steps of an interval, and of the whole epoch."""

    def __init__(self, world: World, derived: Derived | None = None) -> None:
        """`derived` gives further metrics out of the means, the first term's count and the seconds."""
        self._world, self._derived = world, derived
        self.epoch_totals: dict[str, float] = {}
        self.epoch_counts: dict[str, float] = {}
        self.epoch_seconds = 0.0
        self.epoch_samples = 0
        self._reset()

    def add_loss(self, loss: Loss, weight: float) -> None:
        """Take one micro-batch (`weight` 0 for a placeholder on a rank without samples)."""
        for kind, values in (("term", loss.terms), ("sum", loss.sums)):
            for name, value in values.items():
                key = f"{kind}/{name}"
                part = value.detach() if weight == 1.0 else value.detach() * weight
                self._sums[key] = self._sums[key] + part if key in self._sums else part

    def add_step(self, counts: dict[str, float], num_samples: int, norm: Tensor, is_skipped: bool) -> None:
        """Close a step: global counts and the gradient norm before clipping."""
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0.0) + count
        self.num_samples += num_samples
        self.num_steps += 1
        self.num_skipped += is_skipped
        self._norms.append(norm)

    def read(self) -> dict[str, float]:
        """Totals of the interval over all ranks by key; the one host sync and the one reduction of a log point."""
        names = sorted(self._sums)
        if not names:
            return {}
        stacked = self._world.sum(torch.stack([self._sums[name].float() for name in names]))
        return dict(zip(names, stacked.tolist(), strict=True))

    def norms(self) -> list[float]:
        """Gradient norms of the steps of the interval."""
        return torch.stack(self._norms).tolist() if self._norms else []

    def close_interval(self, totals: dict[str, float], seconds: float) -> tuple[float | None, Metrics]:
        """Means of the interval out of its totals; adds them to the epoch and starts anew."""
        for key, value in totals.items():
            self.epoch_totals[key] = self.epoch_totals.get(key, 0.0) + value
        for name, count in self._counts.items():
            self.epoch_counts[name] = self.epoch_counts.get(name, 0.0) + count
        self.epoch_seconds += seconds
        self.epoch_samples += self.num_samples
        result = self._means(totals, self._counts, seconds)
        self._reset()
        return result

    def close_epoch(self) -> tuple[float | None, Metrics, float, int]:
        """Means, seconds and samples of the epoch (this attempt's part of it)."""
        loss, metrics = self._means(self.epoch_totals, self.epoch_counts, self.epoch_seconds)
        result = (loss, metrics, self.epoch_seconds, self.epoch_samples)
        self.epoch_totals, self.epoch_counts, self.epoch_seconds, self.epoch_samples = {}, {}, 0.0, 0
        return result

    def drop_interval(self) -> None:
        """Forget the steps since the last log point (they will be redone)."""
        self._reset()

    def _means(
        self, totals: dict[str, float], counts: dict[str, float], seconds: float
    ) -> tuple[float | None, Metrics]:
        """Means, and what follows from them."""
        loss, found = means(totals, counts)
        if self._derived and counts:
            found |= self._derived(found, next(iter(counts.values())), seconds)
        return loss, found

    def _reset(self) -> None:
        """Start an interval."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._norms: list[Tensor] = []
        self.num_samples = self.num_steps = self.num_skipped = 0


def means(totals: dict[str, float], counts: dict[str, float]) -> tuple[float | None, Metrics]:
    """The loss (sum over terms of total / count) and the named metrics, divided by the first term's count."""
    if not counts:
        return None, {}
    first = next(iter(counts.values()))
    terms = [totals.get(f"term/{name}", 0.0) / count for name, count in counts.items() if count]
    named = {key.removeprefix("sum/"): value for key, value in totals.items() if key.startswith("sum/")}
    return finite(sum(terms)), {name: finite(value / first) if first else None for name, value in named.items()}


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity, which JSON and readers do not have."""
    return value if math.isfinite(value) else None
