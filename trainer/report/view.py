"""The ledger of one run as a report needs it: attempts, effective steps and passes, where it stands.

Everything is derived from the records alone, so a report of a run that is going on, was killed or has just begun
is the same code. Lists may be empty and numbers None; nothing here fails on a short ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from trainer.errors import Stopped, SupersededError
from trainer.tasks.page import Floats, RunFacts, Severity
from trainer.telemetry.reading import Record, effective, goodput, select, time_account
from trainer.telemetry.summary import SILENT_SECONDS
from trainer.telemetry.text import duration

MAX_ATTEMPT_BARS = 30
"""Attempts whose time is shown one by one; more are shown as a total only."""


@dataclass(frozen=True)
class Attempt:
    """One life of the run's processes, as its records tell it."""

    name: str
    started: float
    """Wall time of the first record, seconds since the epoch."""
    last_heard: float
    first_step: int
    last_step: int
    world_size: int | None
    device: str
    code: int | None
    """Exit code; None while it goes on or after it was killed."""
    reason: str
    killed: bool
    """Ended without a word, and a later attempt followed."""


@dataclass(frozen=True)
class Outcome:
    """Where the run stands, in a word, with its severity and an explanation."""

    word: str
    severity: Severity
    text: str


class RunView:
    """Read-only view of all records of a run; `now` (seconds since the epoch) tells a quiet run from a dead one."""

    def __init__(self, records: Sequence[Record], now: float | None = None) -> None:
        self.all = list(records)
        self.records = effective(self.all)
        self.now = now
        starts = select(self.all, "RunStarted")
        self.start: dict[str, Any] = starts[-1] if starts else {}

    def select(self, event: str) -> list[Record]:
        """The effective records of one kind of event, in order."""
        return select(self.records, event)

    @property
    def name(self) -> str:
        """Name of the run, which only its records know."""
        return str(self.all[-1]["run"]) if self.all else "(no record yet)"

    @cached_property
    def steps(self) -> list[Record]:
        """The effective log points in order of their steps."""
        return sorted(self.select("StepDone"), key=lambda record: int(record["step"]))

    @cached_property
    def attempts(self) -> list[Attempt]:
        """Every attempt that left a record, in order."""
        groups = [list(group) for _, group in groupby(self.all, key=lambda record: record["attempt"])]
        return [_attempt(group, is_last=group is groups[-1]) for group in groups]

    @cached_property
    def attempt_accounts(self) -> list[tuple[str, dict[str, float]]]:
        """Seconds by kind for each attempt (with the idle gap before it), then for the run as `all`."""
        ends = [index + 1 for index, record in enumerate(self.all) if self._ends_attempt(index, record)]
        if len(ends) > MAX_ATTEMPT_BARS:
            return [("all", self.account)]
        # Redone and idle time depend on what was before: an attempt's part is the growth of the whole account.
        totals = [time_account(self.all[:end]) for end in ends]
        before = [dict.fromkeys(total, 0.0) for total in totals[:1]] + totals[:-1]
        grown = [{kind: b[kind] - a[kind] for kind in b} for a, b in zip(before, totals, strict=True)]
        each = [(attempt.name, account) for attempt, account in zip(self.attempts, grown, strict=True)]
        return [*each, ("all", self.account)] if len(each) > 1 else each

    @cached_property
    def account(self) -> dict[str, float]:
        """Seconds by kind over the whole run."""
        return time_account(self.all)

    @property
    def goodput(self) -> float | None:
        """Share of the wall clock that trained something new; None without any time."""
        return goodput(self.account)

    @property
    def last_step(self) -> int:
        """The last optimizer update that counts."""
        return max((int(record["step"]) for record in self.records), default=0)

    @cached_property
    def outcome(self) -> Outcome:
        """Complete, stopped, failed, running, or gone without a word."""
        if not self.all:
            return Outcome("empty", "note", "The ledger has no record yet.")
        last = self.attempts[-1]
        if last.code is not None:
            return _outcome_of_code(last.code, last.reason)
        if self._has_final_pass(last.name):
            return Outcome("complete", "good", "Training has reached its end; the attempt is writing its results.")
        return self._unfinished(last)

    @cached_property
    def best(self) -> Record | None:
        """The newest pass that was the best so far (final walks do not count)."""
        found = [record for record in self.select("PassDone") if record["is_best"] and not record["is_final"]]
        return found[-1] if found else None

    def pass_names(self) -> list[str]:
        """The passes by name in the order in which they first ended."""
        return list(dict.fromkeys(record["name"] for record in self.select("PassDone")))

    def history(self, name: str) -> list[Record]:
        """The walks of one pass while training (without the final one), in order of steps."""
        return [r for r in self.select("PassDone") if r["name"] == name and not r["is_final"]]

    def results(self) -> dict[str, Record]:
        """For each pass the record that stands for the run: the final one, else at the best step, else the newest."""
        return {name: self._result(name) for name in self.pass_names()}

    def facts(self) -> RunFacts:
        """What a task's pages are made from."""
        details: dict[str, dict[str, Any]] = {}
        for record in sorted(self.select("PassDone"), key=lambda record: bool(record["is_final"])):
            if record["detail"]:
                details[record["name"]] = record
        return RunFacts(
            records=self.records,
            info=self.start.get("info", {}),
            config=self.start.get("config", {}),
            best_metric=self.start.get("best_metric", ""),
            details=details,
        )

    def _ends_attempt(self, index: int, record: Record) -> bool:
        return index + 1 == len(self.all) or self.all[index + 1]["attempt"] != record["attempt"]

    def _has_final_pass(self, attempt: str) -> bool:
        return any(r["is_final"] and r["attempt"] == attempt for r in self.select("PassDone"))

    def _unfinished(self, last: Attempt) -> Outcome:
        stopping = [r for r in self.select("Stopping") if r["attempt"] == last.name]
        if stopping:
            return Outcome("stopping", "note", f"After step {stopping[-1]['step']:,}: {stopping[-1]['reason']}.")
        if self.now is None:
            return Outcome("unfinished", "note", "No end is recorded: the run is still going or was killed.")
        silence = max(0.0, self.now - last.last_heard)
        if silence <= SILENT_SECONDS:
            return Outcome("running", "note", f"The last record is {silence:.0f} s old.")
        return Outcome(
            "silent",
            "warn",
            f"No end is recorded and nothing was heard for {duration(silence)}: killed, or its store is out of reach.",
        )

    def _result(self, name: str) -> Record:
        walks = [record for record in self.select("PassDone") if record["name"] == name]
        final = [record for record in walks if record["is_final"]]
        at_best = [record for record in walks if self.best is not None and record["step"] == self.best["step"]]
        return (final or at_best or walks)[-1]


def column(records: Sequence[Record], *path: str) -> Floats:
    """One number of each record as an array; a missing value or None is NaN."""
    values: list[Any] = list(records)
    for name in path:
        values = [value.get(name) if value is not None else None for value in values]
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def _attempt(records: list[Record], *, is_last: bool) -> Attempt:
    start = next((record for record in records if record["event"] == "RunStarted"), None)
    end = next((record for record in reversed(records) if record["event"] == "AttemptEnded"), None)
    return Attempt(
        name=records[0]["attempt"],
        started=records[0]["wall"],
        last_heard=records[-1]["wall"],
        first_step=_first_step(records),
        last_step=max(record["step"] for record in records),
        world_size=start["world_size"] if start else None,
        device=start["device"] if start else "",
        code=end["code"] if end else None,
        reason=end["reason"] if end else "",
        killed=end is None and not is_last,
    )


def _first_step(records: list[Record]) -> int:
    """The step from which the attempt went on: what it resumed from, else where it started."""
    resumed = next((record for record in records if record["event"] == "Resumed"), records[0])
    return int(resumed["step"])


def _outcome_of_code(code: int, reason: str) -> Outcome:
    """Exit codes of the design, section 8."""
    if code == 0:
        return Outcome("complete", "good", reason)
    if code in (Stopped.exit_code, SupersededError.exit_code):
        return Outcome("stopped" if code == Stopped.exit_code else "superseded", "note", f"{reason} (exit {code})")
    return Outcome("failed", "stop", f"{reason} (exit {code})")
