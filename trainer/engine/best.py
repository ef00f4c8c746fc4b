"""Which checkpoint is the best, and when looking for a better one is over. Equal on all ranks: sums are."""

import math
from collections.abc import Mapping
from typing import Any

from trainer.config.expressions import Patience
from trainer.config.lengths import PerEpoch
from trainer.config.settings import BestSettings, EarlyStopSettings
from trainer.errors import SettingsError
from trainer.telemetry.events import Metrics

Reported = Mapping[str, Mapping[str, str]]
"""By pass, the metrics that it reports with the better direction of each."""


class Best:
    """The best value so far of one `pass/metric`; an empty pass or NaN is never best, equal is no gain."""

    def __init__(self, metric: str, mode: str, min_delta: float = 0.0) -> None:
        self.metric, self.mode, self._min_delta = metric, mode, min_delta
        self.value: float | None = None
        self.step = 0
        self.num_bad = 0
        """Values since the best one."""

    def see(self, name: str, metrics: Metrics, step: int) -> bool | None:
        """Take a finished pass; True for a new best, False for none, None when it says nothing of the metric."""
        pass_name, metric = self.metric.split("/", 1)
        value = metrics.get(metric) if name == pass_name else None
        if value is None or not math.isfinite(value):
            return None
        sign = 1.0 if self.mode == "min" else -1.0
        if self.value is None or sign * (self.value - value) > self._min_delta:
            self.value, self.step, self.num_bad = value, step, 0
            return True
        self.num_bad += 1
        return False

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"metric": self.metric, "value": self.value, "step": self.step, "num_bad": self.num_bad}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; a record of another metric is forgotten."""
        if state.get("metric") == self.metric:
            self.value, self.step, self.num_bad = state["value"], state["step"], state["num_bad"]


def build_best(settings: BestSettings, default: str, reported: Reported) -> Best:
    """The record for `best.metric`. Raises SettingsError for a pass or metric that the task does not have."""
    metric = settings.metric or default
    return Best(metric, direction(metric, settings.mode, reported, "best.metric"))


def direction(metric: str, mode: str, reported: Reported, setting: str) -> str:
    """`min` or `max` for a `pass/metric`, after checking that this pass reports it."""
    pass_name, _, name = metric.partition("/")
    if name not in reported.get(pass_name, {}):
        choices = "; ".join(f"{one}/ with {', '.join(names)}" for one, names in reported.items())
        raise SettingsError(f"{setting} is {metric!r}; it must be pass/metric out of: {choices}")
    return reported[pass_name][name] if mode == "auto" else mode


class EarlyStop:
    """Asks for the end when its metric has not improved for longer than the patience; looks at new values only."""

    def __init__(self, settings: EarlyStopSettings, best: Best, total_steps: int, steps_per_epoch: PerEpoch) -> None:
        self.record = best
        self._num_values: float = math.inf
        self._num_steps: float = math.inf
        if settings.patience is None:
            return
        patience = Patience.parse(settings.patience)
        if patience.amount is None:
            self._num_values = patience.passes or math.inf
        else:
            self._num_steps = float(patience.amount.steps(total_steps, steps_per_epoch))

    def is_over(self, step: int) -> bool:
        """Whether the run should end now; call it after a new value was seen."""
        return self.record.num_bad >= self._num_values or step - self.record.step >= self._num_steps
