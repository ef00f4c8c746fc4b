"""Warning signs of the machine and the data path, as pure functions of a `Trace`; thresholds are fields."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from trainer.telemetry.rules import Finding, Severity, variation_of
from trainer.telemetry.trace import Record, Trace, value_of

MIN_SECONDS = 5.0
"""Windows shorter than this say nothing about speed: one page fault is a tenth of them."""


@dataclass(frozen=True)
class SlowData:
    """Steps wait for their data."""

    name: ClassVar[str] = "slow_data"
    severity: ClassVar[Severity] = "warn"
    max_share: float = 0.20
    min_seconds: float = MIN_SECONDS

    def check(self, trace: Trace) -> Finding | None:
        """Look at the share of waiting in the window."""
        window = trace.window(trace.window_steps)
        seconds = sum(record["seconds"] for record in window)
        if not window or seconds < self.min_seconds:
            return None
        share = sum(record["data_wait_seconds"] for record in window) / seconds
        if share <= self.max_share:
            return None
        text = (
            f"{share:.0%} of the time of the last {trace.window_steps} steps went into waiting for data: deeper "
            f"prefetch, packed recordings (trainer prepare), or faster storage"
        )
        return Finding(text, {"share": share})


@dataclass(frozen=True)
class UnsteadySpeed:
    """The speed jumps; evaluation and the first log point of an attempt do not count."""

    name: ClassVar[str] = "unsteady_speed"
    severity: ClassVar[Severity] = "note"
    rate: str = "samples"
    """What is counted a second; another than samples is a metric of steps, `<rate>_per_sec`."""
    max_variation: float = 0.30
    min_seconds: float = MIN_SECONDS

    def check(self, trace: Trace) -> Finding | None:
        """Look at the coefficient of variation of the rate over the window."""
        window = [record for record in trace.window(trace.window_steps) if record["step"] not in trace.first_steps]
        if len(window) < 2 or sum(record["seconds"] for record in window) < self.min_seconds:
            return None
        speeds = [speed for record in window if (speed := self._speed(record)) is not None]
        if not speeds:
            return None
        variation = variation_of(speeds)
        if variation <= self.max_variation:
            return None
        text = (
            f"speed jumps between {min(speeds):,.0f} and {max(speeds):,.0f} {self.rate}/s ({variation:.0%} around the "
            f"mean): a slow rank, throttling, or other work on the machine"
        )
        return Finding(text, {"variation": variation})

    def _speed(self, record: Record) -> float | None:
        if self.rate == "samples":
            return float(record["samples_per_second"])
        return value_of(record, f"{self.rate}_per_sec")


@dataclass(frozen=True)
class GraceBudget:
    """Told to stop, the run would be killed before its checkpoint is published: a step and a publish take too long."""

    name: ClassVar[str] = "grace_budget"
    severity: ClassVar[Severity] = "warn"
    share: float = 0.95
    margin_seconds: float = 5.0
    """For agreeing on the stop and for torchrun to end."""

    def check(self, trace: Trace) -> Finding | None:
        """Add up what is rarely exceeded and compare it with the time there is."""
        grace = trace.setting("run.grace_seconds")
        steps = [one["seconds"] / one["num_steps"] for one in trace.steps if one["step"] not in trace.first_steps]
        if grace is None or not trace.publish_seconds or not steps:
            return None
        step = _quantile(steps, self.share)
        publish = _quantile(trace.publish_seconds, self.share)
        if step + publish <= grace - self.margin_seconds:
            return None
        text = (
            f"a preemption would not fit: a step ({step:.3g} s) and publishing a checkpoint ({publish:.3g} s) take "
            f"more than run.grace_seconds ({grace:g}) less {self.margin_seconds:g} s; raise it together with "
            f"terminationGracePeriodSeconds, or make checkpoints smaller or steps shorter; till then checkpoint often"
        )
        return Finding(text, {"step": step, "publish": publish, "grace": grace})


@dataclass(frozen=True)
class CpuOnly:
    """There is a GPU and the run does not use it; `environment["gpus"]` counts them."""

    name: ClassVar[str] = "cpu_only"
    severity: ClassVar[Severity] = "note"

    def check(self, trace: Trace) -> Finding | None:
        """Look at what the attempt said at its start."""
        num_devices = trace.started.get("environment", {}).get("gpus", 0)
        if not num_devices or not str(trace.started.get("device", "")).startswith("cpu"):
            return None
        text = f"training runs on the CPU although there are {num_devices} GPUs: set device to auto or cuda"
        return Finding(text, {"gpus": num_devices})


def _quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[ceil(share * len(ordered)) - 1]
