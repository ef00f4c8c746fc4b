"""Sums between two log points, kept on the device; read, reduced and divided only there."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.engine.task import Loss
from trainer.engine.world import World
from trainer.telemetry.events import Metrics

Derived = Callable[[Metrics, float, float], Metrics]
LARGEST_NLL = 50.0
"""Nats; perplexity above is no number that means anything (and soon no number of JSON)."""


class Means(NamedTuple):
    """What the sums of an interval come to."""

    loss: float | None
    """Sum over the terms of weight * total / count."""
    terms: Metrics
    """Un-weighed mean of each term, if there are several."""
    metrics: Metrics


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

    def close_interval(self, totals: dict[str, float], seconds: float, weights: Mapping[str, float]) -> Means:
        """Means of the interval out of its totals; adds them to the epoch and starts anew."""
        for key, value in totals.items():
            self.epoch_totals[key] = self.epoch_totals.get(key, 0.0) + value
        for name, count in self._counts.items():
            self.epoch_counts[name] = self.epoch_counts.get(name, 0.0) + count
        self.epoch_seconds += seconds
        self.epoch_samples += self.num_samples
        result = self._means(totals, self._counts, seconds, weights)
        self._reset()
        return result

    def close_epoch(self, weights: Mapping[str, float]) -> tuple[Means, float, int]:
        """Means, seconds and samples of the epoch (this attempt's part of it)."""
        found = self._means(self.epoch_totals, self.epoch_counts, self.epoch_seconds, weights)
        result = (found, self.epoch_seconds, self.epoch_samples)
        self.epoch_totals, self.epoch_counts, self.epoch_seconds, self.epoch_samples = {}, {}, 0.0, 0
        return result

    def drop_interval(self) -> None:
        """Forget the steps since the last log point (they will be redone)."""
        self._reset()

    def _means(
        self, totals: dict[str, float], counts: dict[str, float], seconds: float, weights: Mapping[str, float]
    ) -> Means:
        """Means, and what follows from them."""
        found = means(totals, counts, weights)
        if self._derived and counts:
            found.metrics.update(self._derived(found.metrics, next(iter(counts.values())), seconds))
        return found

    def _reset(self) -> None:
        """Start an interval."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._norms: list[Tensor] = []
        self.num_samples = self.num_steps = self.num_skipped = 0


def means(totals: dict[str, float], counts: dict[str, float], weights: Mapping[str, float]) -> Means:
    """Each term divided by its count, and each named sum by that of its term (`fine/top1`) or of the first one."""
    terms = {name: totals.get(f"term/{name}", 0.0) / count for name, count in counts.items() if count}
    first = next(iter(counts.values()), 0.0)
    metrics: Metrics = {}
    for key, value in totals.items():
        kind, _, name = key.partition("/")
        if kind == "sum":
            count = counts.get(name.partition("/")[0], first)
            metrics[name] = finite(value / count) if count else None
    loss = finite(sum(weights.get(name, 1.0) * value for name, value in terms.items())) if counts else None
    several = {name: finite(terms[name]) if name in terms else None for name in counts} if len(counts) > 1 else {}
    return Means(loss, several, metrics)


def perplexity(nll: float | None) -> float | None:
    """Exp of the un-smoothed nll of a token (nats); None where it would be beyond all sense."""
    return None if nll is None or nll > LARGEST_NLL else math.exp(nll)


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity, which JSON and readers do not have."""
    return value if math.isfinite(value) else None
