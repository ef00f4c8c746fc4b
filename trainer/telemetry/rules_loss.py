"""Warning signs in the training loss, as pure functions of a `Trace`; thresholds are fields.

The unit is cross-entropy in nats; a task whose loss is smoothed gives the name of its plain one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from trainer.telemetry.rules import Finding, Severity, learned_less, median_of, share_of, variation_of
from trainer.telemetry.trace import Record, Trace, mean_of, value_of


@dataclass(frozen=True)
class FlatLoss:
    """The training loss no longer falls although little is learned; silent while the learning rate still rises."""

    name: ClassVar[str] = "flat_loss"
    severity: ClassVar[Severity] = "warn"
    loss: str = "loss"
    min_improvement: float = 0.005
    max_accuracy: float = 0.30
    tiny_update: float = 1e-5
    low_clipped: float = 0.01
    high_clipped: float = 0.5
    high_spread: float = 0.2

    def check(self, trace: Trace) -> Finding | None:
        """Compare the medians of the last window and the one before."""
        steps = trace.window_steps
        now, before = trace.window(steps), trace.window(steps, skip_steps=steps)
        if not before or now[-1]["learning_rate"] > before[0]["learning_rate"]:
            return None
        median_now, median_before = median_of(now, self.loss), median_of(before, self.loss)
        if median_now is None or median_before is None or not learned_less(trace, now, self.max_accuracy):
            return None
        improvement = (median_before - median_now) / abs(median_before) if median_before else 0.0
        if improvement >= self.min_improvement:
            return None
        rate = now[-1]["learning_rate"]
        text = (
            f"loss is not falling: median {median_now:.4f} over the last {steps} steps, {median_before:.4f} before, "
            f"learning rate {rate:.2e}; {self._advice(now)}"
        )
        return Finding(text, {"median": median_now, "median_before": median_before, "learning_rate": rate})

    def _advice(self, records: Sequence[Record]) -> str:
        clipped = share_of(records, "clipped_share")
        ratios = [record["update_ratio"] for record in records if record["update_ratio"] is not None]
        losses = [value for record in records if (value := value_of(record, self.loss)) is not None]
        spread = variation_of(losses)
        if ratios and clipped < self.low_clipped and median(ratios) < self.tiny_update:
            return f"updates are tiny ({median(ratios):.1e} of the weights): raise the learning rate or shorten warm-up"
        if clipped > self.high_clipped or spread > self.high_spread:
            return f"{clipped:.0%} of steps clipped, spread {spread:.0%} of the mean: lower the learning rate"
        return "check labels and inputs, then the size of the model"


@dataclass(frozen=True)
class NonFiniteLoss:
    """A loss or gradient was NaN or infinite."""

    name: ClassVar[str] = "non_finite"
    severity: ClassVar[Severity] = "stop"
    max_shown_ids: int = 5

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest such event, if it came since the last log point."""
        last_step = trace.steps[-2]["step"] if len(trace.steps) > 1 else 0
        if not trace.nonfinite or trace.nonfinite[-1]["step"] < last_step:
            return None
        record = trace.nonfinite[-1]
        ids = record["sample_ids"]
        shown = ", ".join(map(str, ids[: self.max_shown_ids])) + (" ..." if len(ids) > self.max_shown_ids else "")
        rate = trace.steps[-1]["learning_rate"] if trace.steps else None
        at = f", learning rate {rate:.2e}" if rate is not None else ""
        text = (
            f"not finite: {record['what']} (samples {shown}; precision "
            f"{trace.started.get('precision', 'unknown')}{at}; policy {record['policy']}, {record['used']} of "
            f"{record['budget']}): lower the learning rate, warm up longer, or use bf16"
        )
        return Finding(text, {"step": record["step"], "used": record["used"]})


@dataclass(frozen=True)
class Exploding:
    """The loss shoots up."""

    name: ClassVar[str] = "exploding"
    severity: ClassVar[Severity] = "warn"
    num_steps: int = 20
    factor: float = 1.5
    min_rise: float = 0.05
    """Nats; 0.01 after 0.005 is no explosion."""

    def check(self, trace: Trace) -> Finding | None:
        """Compare the mean of the last steps with the best 200-step mean."""
        best, recent = trace.best_mean_loss, trace.window(self.num_steps)
        mean = mean_of(recent, "loss")
        if best is None or mean is None or mean <= max(self.factor * best, best + self.min_rise):
            return None
        start = self._beginning(trace, max(self.factor * best, best + self.min_rise))
        norm = start["max_grad_norm"]
        text = (
            f"loss shot up: mean {mean:.4f} over the last {self.num_steps} steps, best 200-step mean {best:.4f}; began "
            f"by step {start['step']} at learning rate {start['learning_rate']:.2e}"
            f"{f', gradient norm {norm:.3g}' if norm is not None else ''}: lower the learning rate or warm up longer"
        )
        return Finding(text, {"mean": mean, "best": best, "began": start["step"]})

    @staticmethod
    def _beginning(trace: Trace, limit: float) -> Record:
        start = trace.steps[-1]
        for record in reversed(trace.steps):
            if record["loss"] is None or record["loss"] <= limit:
                break
            start = record
        return start
