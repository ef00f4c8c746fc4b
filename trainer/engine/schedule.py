"""The learning rate over the run, as a factor on the base rate.

All but the plateau are pure functions of the number of updates done (first step t = 0), so there is nothing to save.
With s = t + 1, warm-up W, run length T, u = t - W, P = max(1, T - W), floor f, width d of the model:

    warm-up       w + (1 - w) t / W           cosine  f + (1 - f) (1 + cos(pi u / P)) / 2
    inverse_sqrt  min(s / W, sqrt(W / s))     linear  1 - (1 - f) u / P
    step          factor^floor(u / interval)  wsd     1 up to S = floor(stable P), then with v = u - S
                                                      f + (1 - f) (1 + cos(pi v / (decay P))) / 2, then f
    noam          d^-1/2 min(s^-1/2, s W^-3/2)                               (Vaswani et al. 2017, 5.3)
"""

import math
from fractions import Fraction
from typing import Any

from trainer.config.expressions import Amount, Curve
from trainer.config.lengths import PerEpoch
from trainer.config.settings import ScheduleSettings
from trainer.errors import SettingsError
from trainer.telemetry.events import Metrics

_LONGEST_WARMUP = 10
"""Lengths of the run; a warm-up beyond that is a mistake."""


class Schedule:
    """Resolved against the length of the run; `factor` is asked before each step.

    Raises SettingsError for a warm-up of more than ten times the run, and for `noam` without a width.
    """

    def __init__(
        self, settings: ScheduleSettings, total_steps: int, steps_per_epoch: PerEpoch, metric: str, mode: str
    ) -> None:
        self._settings = settings
        self._metric, self._mode = metric, mode
        self._total = total_steps
        self._warmup = math.ceil(Amount.parse(settings.warmup).steps(total_steps, steps_per_epoch))
        self._interval = Amount.parse(settings.interval).steps(total_steps, steps_per_epoch)
        self._stable = math.floor(Fraction(str(settings.stable)) * max(1, self._total - self._warmup))
        curve = Curve.parse(settings.curve) if settings.name == "curve" and settings.curve else None
        self._curve = curve.resolve(total_steps, steps_per_epoch, "schedule.curve") if curve else None
        self.plateau = Plateau(settings) if settings.name == "plateau" else None
        if settings.name == "noam" and settings.width is None:
            raise SettingsError("schedule.name is noam, so schedule.width must say the width of the model, e.g. 512")
        if self._warmup > _LONGEST_WARMUP * total_steps:
            raise SettingsError(
                f"schedule.warmup is {self._warmup:,} steps, more than {_LONGEST_WARMUP} times the {total_steps:,} of "
                "the run, so the learning rate would stay near zero: shorten it or train longer"
            )

    @property
    def remark(self) -> str | None:
        """What a user should know of the schedule in this run, if anything."""
        if self._warmup <= self._total:
            return None
        return (
            f"schedule.warmup is {self._warmup:,} steps, longer than the run of {self._total:,}: the learning rate "
            "never reaches its peak"
        )

    def factor(self, updates: int) -> float:
        """Factor for the step that follows `updates` updates."""
        if self._settings.name == "inverse_sqrt":
            peak = max(1, self._warmup)
            return min((updates + 1) / peak, math.sqrt(peak / (updates + 1)))
        if self._settings.name == "noam":
            return self._noam(updates + 1)
        if updates < self._warmup:
            start = self._settings.warmup_from
            return (start + (1.0 - start) * updates / self._warmup) * (self.plateau.factor if self.plateau else 1.0)
        return self._after_warmup(updates)

    def _noam(self, number: int) -> float:
        """Factor of the step `number`, from 1 on."""
        assert self._settings.width is not None
        rise = number / max(1, self._warmup) ** 1.5
        return float(min(1.0 / math.sqrt(number), rise) / math.sqrt(self._settings.width))

    def _after_warmup(self, updates: int) -> float:
        """The schedule proper."""
        floor = self._settings.floor
        done, length = updates - self._warmup, max(1, self._total - self._warmup)
        match self._settings.name:
            case "cosine":
                return floor + (1.0 - floor) * half_cosine(done / length)
            case "linear":
                return 1.0 - (1.0 - floor) * min(done / length, 1.0)
            case "step":
                return self._settings.factor ** math.floor(done / self._interval)
            case "wsd":
                return floor + (1.0 - floor) * half_cosine((done - self._stable) / (self._settings.decay * length))
            case "curve":
                assert self._curve is not None
                return self._curve.at(updates)
            case "plateau":
                assert self.plateau is not None
                return self.plateau.factor
            case _:
                return 1.0

    @property
    def knots(self) -> list[int]:
        """Steps at which the rate changes its course, as far as that is known beforehand."""
        length = max(1, self._total - self._warmup)
        knots = [0, self._warmup, self._total]
        match self._settings.name:
            case "wsd":
                end = self._stable + math.ceil(Fraction(str(self._settings.decay)) * length)
                knots += [self._warmup + self._stable, self._warmup + end]
            case "step":
                knots += [
                    self._warmup + math.ceil(number * self._interval)
                    for number in range(int(length / self._interval) + 1)
                ]
            case "curve":
                assert self._curve is not None
                knots += self._curve.knots
        return sorted({knot for knot in knots if knot <= self._total})

    def see(self, name: str, metrics: Metrics) -> None:
        """Show the plateau its metric, if this pass (`name`) measured it."""
        pass_name, metric = self._metric.split("/", 1)
        value = metrics.get(metric) if name == pass_name else None
        if self.plateau and value is not None:
            self.plateau.see(value, self._mode)

    def epoch_done(self) -> None:
        """Nothing hangs on epochs here; a scheduler that somebody brings along steps with them."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep (only the plateau has any)."""
        return self.plateau.state() if self.plateau else {}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        if self.plateau and state:
            self.plateau.load(state)


def half_cosine(share: float) -> float:
    """From 1 at share 0 (and before it) to 0 at share 1 (and after it), along half a cosine."""
    return (1.0 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2.0


class Plateau:
    """Lowers the factor when a metric stops improving; the rule of torch's ReduceLROnPlateau (relative threshold)."""

    def __init__(self, settings: ScheduleSettings) -> None:
        self._settings = settings
        self.factor = 1.0
        self._best: float | None = None
        self._bad_values = 0

    def see(self, value: float, mode: str) -> bool:
        """Take a new value of the metric (`mode` min or max); True when the factor was lowered."""
        sign = 1.0 if mode == "min" else -1.0
        if self._best is None or sign * value < sign * self._best - self._settings.threshold * abs(self._best):
            self._best, self._bad_values = value, 0
            return False
        self._bad_values += 1
        if self._bad_values <= self._settings.patience:
            return False
        self._bad_values = 0
        lower = max(self._settings.floor, self.factor * self._settings.factor)
        changed, self.factor = lower < self.factor, lower
        return changed

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"factor": self.factor, "best": self._best, "bad_values": self._bad_values}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.factor, self._best, self._bad_values = state["factor"], state["best"], state["bad_values"]
