"""Warning signs in the validation passes, as pure functions of a `Trace`; thresholds are fields.

They look at the pass that chooses the best checkpoint (`val` of `val/loss`).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from trainer.telemetry.rules import Finding, Severity
from trainer.telemetry.trace import Evaluation, Trace


@dataclass(frozen=True)
class Overfit:
    """The validation loss rises while the training loss falls."""

    name: ClassVar[str] = "overfit"
    severity: ClassVar[Severity] = "warn"
    loss: str = "loss"
    num_rises: int = 3
    min_rise: float = 0.05

    def check(self, trace: Trace) -> Finding | None:
        """Look at the last evaluations in a row."""
        walks = trace.evaluations()[-(self.num_rises + 1) :]
        validation = [walk.metrics.get(self.loss) for walk in walks]
        first, last = (walks[0].training.get(self.loss), walks[-1].training.get(self.loss)) if walks else (None, None)
        values = [value for value in validation if value is not None]
        if len(values) <= self.num_rises or first is None or last is None or last >= first:
            return None
        rise = values[-1] - values[0]
        if rise < self.min_rise or any(later <= earlier for earlier, later in pairwise(values)):
            return None
        best = min(trace.evaluations(), key=lambda walk: _or_infinite(walk, self.loss))
        text = (
            f"overfitting: validation {self.loss} rose {self.num_rises} times running to {values[-1]:.4f} "
            f"(+{rise:.4f}) while training fell to {last:.4f}; best was {_or_infinite(best, self.loss):.4f} at step "
            f"{best.step}; more data, dropout, augmentation or weight decay, or stop early"
        )
        return Finding(text, {"rise": rise, "validation": values[-1], "training": last, "best_step": best.step})


@dataclass(frozen=True)
class LargeGap:
    """The validation loss is far above the training loss."""

    name: ClassVar[str] = "large_gap"
    severity: ClassVar[Severity] = "warn"
    loss: str = "loss"
    max_gap: float = 0.7

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest evaluation."""
        walks = trace.evaluations()
        validation = walks[-1].metrics.get(self.loss) if walks else None
        training = walks[-1].training.get(self.loss) if walks else None
        if validation is None or training is None or validation - training <= self.max_gap:
            return None
        text = (
            f"validation {self.loss} {validation:.4f} is {validation - training:.4f} above training {training:.4f} "
            f"(dropout makes training look worse, the true gap is larger): unlike validation data, or overfitting"
        )
        return Finding(text, {"gap": validation - training, "validation": validation, "training": training})


@dataclass(frozen=True)
class OneClass:
    """One class swallows the predictions: a metric `top_prediction_share` far above the accuracy."""

    name: ClassVar[str] = "one_class"
    severity: ClassVar[Severity] = "warn"
    min_share: float = 0.5
    accuracy_per_share: float = 0.6
    """A classifier that says the most frequent class is right as often as that class is; then it is no sign."""

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest evaluation."""
        walks = trace.evaluations()
        share = walks[-1].metrics.get("top_prediction_share") if walks else None
        accuracy = walks[-1].metrics.get(trace.accuracy_name or "") if walks else None
        if share is None or share <= self.min_share or (accuracy or 0.0) > self.accuracy_per_share * share:
            return None
        known = f", accuracy {accuracy:.1%}" if accuracy is not None else ""
        text = (
            f"one class takes {share:.0%} of all predictions in pass {trace.best_metric[0]}{known}: collapsed by a "
            f"high learning rate, unbalanced classes, or inputs that are all alike (check normalisation)"
        )
        return Finding(text, {"share": share})


@dataclass(frozen=True)
class FrozenMetric:
    """The metric that chooses the best checkpoint does not move at all, and is not perfect."""

    name: ClassVar[str] = "frozen_metric"
    severity: ClassVar[Severity] = "warn"
    num_values: int = 4
    tolerance: float = 1e-6

    def check(self, trace: Trace) -> Finding | None:
        """Compare the last values."""
        pass_name, metric = trace.best_metric
        recent = [walk.metrics.get(metric) for walk in trace.evaluations()[-self.num_values :]]
        values = [value for value in recent if value is not None]
        if len(values) < self.num_values or values[-1] in (0.0, 1.0):
            return None
        spread = max(values) - min(values)
        if spread > self.tolerance * abs(values[-1]):
            return None
        rate = trace.steps[-1]["learning_rate"] if trace.steps else 0.0
        text = (
            f"{pass_name}/{metric} is frozen at {values[-1]:.6g} over {self.num_values} passes (learning rate "
            f"{rate:.1e}): weights do not change, or the pass does not see the trained model"
        )
        return Finding(text, {"value": values[-1], "learning_rate": rate})


def _or_infinite(walk: Evaluation, name: str) -> float:
    value = walk.metrics.get(name)
    return float("inf") if value is None else value
