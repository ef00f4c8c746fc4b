"""Warning signs: the rules run over a ledger, while training goes on or afterwards, with the same result.

    find_warnings(records)                 for a report: every finding with the step at which it was made
    Watcher(emit)                          a listener: emits `Warned` as the same findings are made

A rule is asked at every pass and non-finite event and every half window of steps, and speaks at most once in
`QUIET_STEPS` steps; one of `ONCE` speaks once a run. A task adds its own rules to `general_rules()`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any

from trainer.telemetry.events import (
    CheckpointPublished,
    Event,
    NonFinite,
    PassDone,
    Resumed,
    RunStarted,
    StepDone,
    Warned,
)
from trainer.telemetry.reading import effective
from trainer.telemetry.rules import Finding, Rule
from trainer.telemetry.rules_gradient import AlwaysClipped, HighNorm, ScaleSaturated, Vanishing
from trainer.telemetry.rules_loss import Exploding, FlatLoss, NonFiniteLoss
from trainer.telemetry.rules_machine import CpuOnly, GraceBudget, SlowData, UnsteadySpeed
from trainer.telemetry.rules_passes import FrozenMetric, GoodEnough, LargeGap, OneClass, Overfit
from trainer.telemetry.rules_start import BadStart, FactAbove
from trainer.telemetry.trace import Record, Trace

__all__ = ["Finding", "Rule", "Watcher", "find_warnings", "general_rules"]

QUIET_STEPS = 1_000
ONCE = frozenset({GraceBudget.name, BadStart.name, GoodEnough.name})
"""Rules about what does not change while a run goes on; so are all `FactAbove`."""
_WATCHED = (StepDone, PassDone, NonFinite, RunStarted, Resumed, CheckpointPublished)
_WATCHED_NAMES = frozenset(kind.__name__ for kind in _WATCHED)


def general_rules(*, loss: str = "loss") -> list[Rule]:
    """The rules of every task; `loss` names the metric that is cross-entropy in nats, in steps and in passes."""
    return [
        NonFiniteLoss(),
        Exploding(),
        FlatLoss(loss=loss),
        Overfit(loss=loss),
        LargeGap(loss=loss),
        OneClass(),
        FrozenMetric(),
        HighNorm(),
        AlwaysClipped(),
        Vanishing(),
        ScaleSaturated(),
        SlowData(),
        UnsteadySpeed(),
        GraceBudget(),
        CpuOnly(),
    ]


class _Pace:
    """Folds records into a trace and says which rules fire with each."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.trace = Trace()
        self._checked_at = 0
        self._fired_at: dict[str, int] = {}

    def take(self, record: Record) -> Iterator[Warned]:
        """The findings of this record, in the order of the rules."""
        self.trace.add(record)
        if record["event"] == "Resumed":
            self._checked_at = min(self._checked_at, record["step"])
        if not self._due(record):
            return
        self._checked_at = record["step"]
        for rule in self.rules:
            quiet_steps = inf if rule.name in ONCE or isinstance(rule, FactAbove) else QUIET_STEPS
            if record["step"] - self._fired_at.get(rule.name, -inf) < quiet_steps:
                continue
            finding = rule.check(self.trace)
            if finding is not None:
                self._fired_at[rule.name] = record["step"]
                yield _warned(rule, finding, record)

    def _due(self, record: Record) -> bool:
        if record["event"] == "CheckpointPublished":
            return False
        if record["event"] == "StepDone":
            return bool(record["step"] - self._checked_at >= self.trace.window_steps // 2)
        return record["event"] != "PassDone" or not record["is_final"]


class Watcher:
    """Listener that looks for warning signs while training and hands `Warned` events to `emit`.

    `history` are the records of earlier attempts, so that rules know what came before and repeat nothing.
    """

    def __init__(
        self, emit: Callable[[Event], None], *, rules: Sequence[Rule] | None = None, history: Iterable[Record] = ()
    ) -> None:
        self._emit = emit
        self._pace = _Pace(general_rules() if rules is None else rules)
        for record in effective(list(history)):
            if record["event"] in _WATCHED_NAMES:
                for _ in self._pace.take(record):
                    pass

    def on_event(self, event: Event) -> None:
        """Take note of one event and warn if it shows a sign."""
        if isinstance(event, _WATCHED):
            record: dict[str, Any] = {"event": type(event).__name__, **vars(event)}
            for warned in self._pace.take(record):
                self._emit(warned)

    def close(self) -> None:
        """Nothing is held."""


def find_warnings(records: Sequence[Record], rules: Sequence[Rule] | None = None) -> list[Warned]:
    """All findings of the rules (default the general ones) in a ledger, in order; a pure function of the records."""
    pace = _Pace(general_rules() if rules is None else rules)
    watched = (record for record in effective(records) if record["event"] in _WATCHED_NAMES)
    return [warned for record in watched for warned in pace.take(record)]


def _warned(rule: Rule, finding: Finding, record: Record) -> Warned:
    return Warned(
        epoch=record["epoch"],
        step=record["step"],
        name=rule.name,
        severity=rule.severity,
        text=finding.text,
        numbers=finding.numbers,
    )
