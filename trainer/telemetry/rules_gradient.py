"""Warning signs in gradients and the fp16 scale, as pure functions of a `Trace`; thresholds are fields."""

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from trainer.telemetry.rules import Finding, Severity, learned_less, share_of
from trainer.telemetry.trace import Trace


@dataclass(frozen=True)
class HighNorm:
    """The gradient is far above the clip limit."""

    name: ClassVar[str] = "high_norm"
    severity: ClassVar[Severity] = "warn"
    factor: float = 10.0

    def check(self, trace: Trace) -> Finding | None:
        """Compare the median norm of the window with the limit."""
        window, limit = trace.window(trace.window_steps), trace.setting("optim.clip")
        norms = [record["grad_norm"] for record in window if record["grad_norm"] is not None]
        if not norms or limit is None or median(norms) <= self.factor * limit:
            return None
        peaks = [record for record in window if record["max_grad_norm"] is not None]
        peaks.sort(key=lambda record: float(record["max_grad_norm"]), reverse=True)
        worst = ", ".join(str(record["step"]) for record in peaks[:3])
        largest = peaks[0]["max_grad_norm"] if peaks else max(norms)
        text = (
            f"gradient norm is high: median {median(norms):.3g}, largest {largest:.3g}, clip limit {limit:g}; lower "
            f"the learning rate, and look for bad samples before steps {worst}"
        )
        return Finding(text, {"median": median(norms), "largest": largest, "clip": limit})


@dataclass(frozen=True)
class AlwaysClipped:
    """Clipping, not the learning rate, decides how far a step goes."""

    name: ClassVar[str] = "always_clipped"
    severity: ClassVar[Severity] = "note"
    max_share: float = 0.5

    def check(self, trace: Trace) -> Finding | None:
        """Look at the share of clipped steps in the window."""
        window = trace.window(trace.window_steps)
        share = share_of(window, "clipped_share")
        if share <= self.max_share:
            return None
        limit = trace.setting("optim.clip")
        text = (
            f"{share:.0%} of the last {trace.window_steps} steps were clipped"
            f"{f' at {limit:g}' if limit is not None else ''}: the learning rate is too high or the limit too low"
        )
        return Finding(text, {"share": share})


@dataclass(frozen=True)
class Vanishing:
    """Hardly any gradient although there is much left to learn."""

    name: ClassVar[str] = "vanishing"
    severity: ClassVar[Severity] = "warn"
    min_norm: float = 1e-4
    max_accuracy: float = 0.90

    def check(self, trace: Trace) -> Finding | None:
        """Look at the median norm of the window."""
        window = trace.window(trace.window_steps)
        norms = [record["grad_norm"] for record in window if record["grad_norm"] is not None]
        if not norms or median(norms) >= self.min_norm or not learned_less(trace, window, self.max_accuracy):
            return None
        text = (
            f"gradients vanish: median norm {median(norms):.1e} over the last {trace.window_steps} steps; dead layers, "
            f"frozen parameters, or normalisation after the residual in a deep model"
        )
        return Finding(text, {"median": median(norms)})


@dataclass(frozen=True)
class ScaleSaturated:
    """The fp16 loss scale no longer does its work."""

    name: ClassVar[str] = "scale_saturated"
    severity: ClassVar[Severity] = "warn"
    lowest: float = 1.0
    highest: float = 2.0**32
    max_skipped_share: float = 0.05

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest scale and at the steps it made the optimizer skip."""
        scale = trace.steps[-1]["loss_scale"] if trace.steps else None
        if scale is None:
            return None
        window = trace.window(trace.window_steps)
        num_steps = sum(record["num_steps"] for record in window)
        skipped = sum(record["skipped_steps"] for record in window) / num_steps if num_steps else 0.0
        if scale <= self.lowest:
            cause = "gradients overflow even unscaled: use bf16 or fp32, or lower the learning rate"
        elif scale >= self.highest:
            cause = "gradients are almost zero: check for dead layers or frozen parameters"
        elif skipped > self.max_skipped_share:
            cause = "gradients overflow again and again: use bf16, clip tighter, or lower the learning rate"
        else:
            return None
        text = f"fp16 loss scale is {scale:g}, {skipped:.0%} of the last steps skipped; {cause}"
        return Finding(text, {"scale": scale, "skipped_share": skipped})
