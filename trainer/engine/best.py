"""Which checkpoint is the best, and when looking for a better one is over. Equal on all ranks: sums are."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from trainer.config.expressions import Patience
from trainer.config.lengths import PerEpoch
from trainer.config.settings import BestSettings, EarlyStopSettings
from trainer.engine.task import WEIGHTED_LOSS
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
        if name == WEIGHTED_LOSS and "loss" in reported.get(pass_name, {}):
            raise SettingsError(f"{setting} is {metric!r}, which needs weighed loss terms: set balance.kind, too")
        near = get_close_matches(metric, [f"{one}/{own}" for one, names in reported.items() for own in names], 1, 0.8)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"{setting} is {metric!r}; {hint}it must be pass/metric out of: {_choices(reported)}")
    return reported[pass_name][name] if mode == "auto" else mode


def _choices(reported: Reported) -> str:
    """Passes that report the same metrics are named together."""
    passes: dict[tuple[str, ...], list[str]] = {}
    for one, names in reported.items():
        passes.setdefault(tuple(names), []).append(f"{one}/")
    return "; ".join(f"{', '.join(own)} with {', '.join(names)}" for names, own in passes.items())


class EarlyStop:
    """Asks for the end of the run; it looks at new values of its metric only, and between them nothing changes."""

    def __init__(self, settings: EarlyStopSettings, best: Best, total_steps: int, steps_per_epoch: PerEpoch) -> None:
        self.record = best
        self._settings = settings
        self._highest_rate = 0.0
        self._largest_norm = 0.0
        self._num_values: float = math.inf
        self._num_steps: float = math.inf
        if settings.patience is None:
            return
        patience = Patience.parse(settings.patience)
        if patience.amount is None:
            self._num_values = patience.passes or math.inf
        else:
            self._num_steps = float(patience.amount.steps(total_steps, steps_per_epoch))

    @property
    def is_on(self) -> bool:
        """Whether there is any limit."""
        limits = self._settings
        return any(one is not None for one in (limits.patience, limits.max_loss, limits.min_lr, limits.max_grad_norm))

    def see_norm(self, norm: float) -> None:
        """Take note of the gradient norm of a step."""
        if self._settings.max_grad_norm is not None and norm > self._largest_norm:
            self._largest_norm = norm

    def see(self, name: str, metrics: Metrics, step: int, rate: float) -> str | None:
        """Take a finished pass and the learning rate at its time; why the run should end now, if it should."""
        if self.record.see(name, metrics, step) is None:
            return None
        reason = self._reason(metrics.get("loss"), step, rate)
        self._highest_rate, self._largest_norm = max(self._highest_rate, rate), 0.0
        return reason

    def _reason(self, loss: float | None, step: int, rate: float) -> str | None:
        """The first limit that is passed, in words."""
        record, limits = self.record, self._settings
        if record.num_bad >= self._num_values or step - record.step >= self._num_steps:
            return f"{record.metric} has been no better than {record.value:.6g} since step {record.step}"
        if limits.max_loss is not None and loss is not None and loss > limits.max_loss:
            return f"the loss {loss:.6g} is above early_stop.max_loss {limits.max_loss:g}"
        # A rate that was never above the limit is still warming up.
        if limits.min_lr is not None and rate < limits.min_lr <= self._highest_rate:
            return f"the learning rate {rate:.3g} has fallen below early_stop.min_lr {limits.min_lr:g}"
        if limits.max_grad_norm is not None and self._largest_norm > limits.max_grad_norm:
            limit = f"early_stop.max_grad_norm {limits.max_grad_norm:g}"
            return f"a gradient norm of {self._largest_norm:.4g} is above {limit}"
        return None

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {**self.record.state(), "highest_rate": self._highest_rate, "largest_norm": self._largest_norm}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.record.load(state)
        self._highest_rate, self._largest_norm = state["highest_rate"], state["largest_norm"]
