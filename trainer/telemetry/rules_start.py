"""Warning signs in what is known early: start, schedule, batches and data, as pure functions of a `Trace`.

Thresholds are fields. Names of metrics are those of steps (`StepDone.metrics`), names of facts those of the task's
`info`, where the value may lie deeper (`data.unknown_share`).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.config.expressions import Amount
from trainer.telemetry.rules import Finding, Severity
from trainer.telemetry.trace import Trace, mean_of, value_of


@dataclass(frozen=True)
class BadStart:
    """The first loss is far from that of a uniform guess among the outputs."""

    name: ClassVar[str] = "bad_start"
    severity: ClassVar[Severity] = "warn"
    loss: str = "nll"
    outputs: str = "num_outputs"
    """The fact that holds the number of outputs V."""
    tolerance: float = 0.25
    max_steps: int = 5
    """Too low a first log point of more steps is no sign: something is learned in it."""

    def check(self, trace: Trace) -> Finding | None:
        """Compare the first log point with ln V; silent when it is no longer there."""
        num_outputs = fact(trace, self.outputs)
        first = trace.steps[0] if trace.steps else None
        if num_outputs is None or first is None or first["step"] != first["num_steps"]:
            return None
        value, expected = value_of(first, self.loss), math.log(num_outputs)
        if value is None or abs(value - expected) <= self.tolerance * expected:
            return None
        if value < expected and first["num_steps"] > self.max_steps:
            return None
        text = (
            f"training began with {self.loss} {value:.4f}, a uniform guess among {num_outputs:,.0f} outputs has "
            f"{expected:.4f}: check the shift between input and labels, the padding mask, and the initial weights"
        )
        return Finding(text, {"value": value, "expected": expected})


@dataclass(frozen=True)
class RateOffPlan:
    """The learning rate in the ledger is not that of the Noam curve: a defect, not a matter of tuning."""

    name: ClassVar[str] = "lr_off_plan"
    severity: ClassVar[Severity] = "stop"
    tolerance: float = 1e-6

    def check(self, trace: Trace) -> Finding | None:
        """Compare the newest log point with factor * d^-1/2 * min(s^-1/2, s W^-3/2), s counting applied updates."""
        width = trace.setting("schedule.width")
        if trace.setting("schedule.name") != "noam" or not width or not trace.steps or not self._is_plain(trace):
            return None
        newest = trace.steps[-1]
        total, per_epoch = trace.started["total_steps"], trace.started["steps_per_epoch"]
        warmup = math.ceil(Amount.parse(str(trace.setting("schedule.warmup"))).steps(total, per_epoch))
        number = max(1, newest["step"] - trace.num_skipped)
        curve = width**-0.5 * min(number**-0.5, number * max(1, warmup) ** -1.5)
        plan, rate = trace.setting("optim.lr") * curve, newest["learning_rate"]
        if abs(rate - plan) <= self.tolerance * plan:
            return None
        text = (
            f"the learning rate of step {newest['step']} was {rate:.9e}, by the formula it is {plan:.9e} (update "
            f"{number}): a defect of the program, please report it"
        )
        return Finding(text, {"rate": rate, "plan": plan})

    @staticmethod
    def _is_plain(trace: Trace) -> bool:
        """Whether rate and step of the newest log point are those of one applied update."""
        is_scaled = trace.setting("optim.lr_scaling", "none") != "none"
        return not is_scaled and not trace.steps[-1]["skipped_steps"]


@dataclass(frozen=True)
class TinyBatch:
    """A step is too little work for a GPU."""

    name: ClassVar[str] = "tiny_batch"
    severity: ClassVar[Severity] = "note"
    rate: str = "tokens_per_sec"
    min_tokens: float = 1_000.0

    def check(self, trace: Trace) -> Finding | None:
        """Look at the tokens of a step in the window; on a CPU small batches cost nothing."""
        window = trace.window(trace.window_steps)
        known = [one for one in window if value_of(one, self.rate) is not None]
        if not known or not trace.started.get("environment", {}).get("gpus") or on_cpu(trace):
            return None
        steps = sum(one["num_steps"] for one in known)
        tokens = sum((value_of(one, self.rate) or 0.0) * one["seconds"] for one in known) / steps
        if tokens >= self.min_tokens:
            return None
        text = (
            f"a step has {tokens:,.0f} target tokens, too few to keep a GPU busy: make batches by tokens "
            f"(data.batch_by) and raise data.max_tokens"
        )
        return Finding(text, {"tokens": tokens})


@dataclass(frozen=True)
class Padding:
    """Padding takes much of the compute."""

    name: ClassVar[str] = "padding"
    severity: ClassVar[Severity] = "warn"
    share: str = "padding_share"
    max_share: float = 0.30

    def check(self, trace: Trace) -> Finding | None:
        """Look at the share of padded cells in the window."""
        share = mean_of(trace.window(trace.window_steps), self.share)
        if share is None or share <= self.max_share:
            return None
        text = f"{share:.0%} of the cells of a batch are padding: make batches by tokens (data.batch_by)"
        return Finding(text, {"share": share})


@dataclass(frozen=True)
class FactAbove:
    """A fact that the task says of its data is above a limit; `advice` says what follows."""

    name: str
    fact: str
    what: str
    advice: str
    max_share: float = 0.01
    severity: Severity = "warn"

    def check(self, trace: Trace) -> Finding | None:
        """Look at the task's `info`."""
        share = fact(trace, self.fact)
        if share is None or share <= self.max_share:
            return None
        return Finding(f"{share:.1%} of {self.what}: {self.advice}", {"share": share})


def fact(trace: Trace, name: str) -> float | None:
    """A number out of the task's `info` by its dotted name."""
    value: Any = trace.started.get("info", {})
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if value is None else float(value)


def on_cpu(trace: Trace) -> bool:
    """Whether the attempt trains on the CPU."""
    return str(trace.started.get("device", "")).startswith("cpu")
