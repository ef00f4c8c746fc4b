"""Warning signs in what a model writes: metrics of the pass that decodes, as pure functions of a `Trace`."""

from dataclasses import dataclass

from trainer.telemetry.rules import Finding, Severity
from trainer.telemetry.trace import Trace


@dataclass(frozen=True)
class ShareAbove:
    """A share in the newest walk of a pass is above a limit; `what` is shared, `advice` says what to do."""

    name: str
    metric: str
    what: str
    advice: str
    max_share: float
    pass_name: str = "val_translate"
    severity: Severity = "warn"

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest walk."""
        share = newest(trace, self.pass_name, self.metric)
        if share is None or share <= self.max_share:
            return None
        return Finding(f"{share:.1%} of {self.what} in {self.pass_name}: {self.advice}", {"share": share})


@dataclass(frozen=True)
class RatioBelow:
    """A ratio whose right value is one lies below a limit in the newest walk of a pass."""

    name: str
    metric: str
    what: str
    advice: str
    limit: float
    pass_name: str = "val_translate"
    severity: Severity = "warn"

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest walk."""
        ratio = newest(trace, self.pass_name, self.metric)
        if ratio is None or ratio >= self.limit:
            return None
        return Finding(f"{self.what}: ratio {ratio:.3f} in {self.pass_name}; {self.advice}", {"ratio": ratio})


@dataclass(frozen=True)
class RatioAbove(RatioBelow):
    """The same above a limit."""

    def check(self, trace: Trace) -> Finding | None:
        """Look at the newest walk."""
        ratio = newest(trace, self.pass_name, self.metric)
        if ratio is None or ratio <= self.limit:
            return None
        return Finding(f"{self.what}: ratio {ratio:.3f} in {self.pass_name}; {self.advice}", {"ratio": ratio})


def newest(trace: Trace, pass_name: str, metric: str) -> float | None:
    """A metric of the newest walk of a pass; None where there is no walk or no such value."""
    walks = trace.passes.get(pass_name, [])
    return walks[-1].metrics.get(metric) if walks else None
