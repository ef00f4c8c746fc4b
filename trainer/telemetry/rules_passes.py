"""Warning signs in the validation passes, as pure functions of a `Trace`; thresholds are fields.

They look at the pass that chooses the best checkpoint (`val` of `val/loss`).
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from trainer.telemetry.rules import Finding, Severity
from trainer.telemetry.trace import Evaluation, Trace, value_of


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


@dataclass(frozen=True)
class AccuracyStuck:
    """The accuracy of the evaluations stands still although it is low."""

    name: ClassVar[str] = "accuracy_stuck"
    severity: ClassVar[Severity] = "warn"
    loss: str = "loss"
    num_values: int = 3
    min_change: float = 0.001
    max_accuracy: float = 0.50

    def check(self, trace: Trace) -> Finding | None:
        """Compare the last values."""
        walks = trace.evaluations()[-self.num_values :]
        values = [value for walk in walks if (value := walk.metrics.get(trace.accuracy_name or "")) is not None]
        if len(values) < self.num_values or max(values) - min(values) >= self.min_change:
            return None
        if values[-1] >= self.max_accuracy:
            return None
        losses = [value for walk in walks if (value := walk.metrics.get(self.loss)) is not None]
        trend = f", {self.loss} {losses[0]:.4f} to {losses[-1]:.4f}" if losses else ""
        text = (
            f"{trace.accuracy_name} stands at {values[-1]:.1%} over {self.num_values} evaluations{trend}: look at what "
            f"the model answers, at the labels, and at the learning rate"
        )
        return Finding(text, {"accuracy": values[-1]})


@dataclass(frozen=True)
class GoodEnough:
    """A note, no warning: the perplexity of the evaluations is below a mark for the first time."""

    name: ClassVar[str] = "good_enough"
    severity: ClassVar[Severity] = "note"
    loss: str = "nll"
    perplexity: float = 10.0

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest evaluation and at those before it."""
        values = [value for walk in trace.evaluations() if (value := walk.metrics.get(self.loss)) is not None]
        mark = math.log(self.perplexity)
        if not values or values[-1] >= mark or any(value < mark for value in values[:-1]):
            return None
        reached = math.exp(values[-1])
        text = f"validation perplexity {reached:.2f} is below {self.perplexity:g}, a common mark of a good model"
        return Finding(text, {"perplexity": reached})


@dataclass(frozen=True)
class Leak:
    """Validation is suspiciously good: its loss far below training's, or all answers right early in the run."""

    name: ClassVar[str] = "leak"
    severity: ClassVar[Severity] = "warn"
    loss: str = "nll"
    factor: float = 0.8
    min_difference: float = 0.1
    """Nats; near zero a ratio means nothing."""
    max_dropout: float = 0.05
    """Above it dropout makes training look that much worse: at 0.1 a narrow model trains at 2.5 times its own nll."""
    exact_pass: str = "val_translate"
    max_exact: float = 0.95
    early_share: float = 0.1

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest evaluation of either kind."""
        advice = "check that the splits do not overlap"
        walks, answers = trace.evaluations(), trace.passes.get(self.exact_pass, [])
        validation = walks[-1].metrics.get(self.loss) if walks else None
        training = _training_before(trace, walks[-1].step, self.loss) if walks else None
        if validation is not None and training is not None and trace.setting("model.dropout", 0.0) <= self.max_dropout:
            limit = min(self.factor * training, training - self.min_difference)
            if validation < limit:
                text = f"validation {self.loss} {validation:.4f} is far below training {training:.4f}: {advice}"
                return Finding(text, {"validation": validation, "training": training})
        exact = answers[-1].metrics.get("exact_match") if answers else None
        is_early = bool(answers) and answers[-1].step < self.early_share * trace.started.get("total_steps", 0)
        if exact is None or not is_early or exact <= self.max_exact:
            return None
        return Finding(f"{exact:.1%} exact matches after {answers[-1].step} steps: {advice}", {"exact_match": exact})


def _training_before(trace: Trace, step: int, name: str) -> float | None:
    """A training metric of the last log point up to a step."""
    return next((value_of(one, name) for one in reversed(trace.steps) if one["step"] <= step), None)


def _or_infinite(walk: Evaluation, name: str) -> float:
    value = walk.metrics.get(name)
    return float("inf") if value is None else value
