"""One look at a store: steps that are tried in order, and what each came to."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Result = Literal["ok", "missing", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """None: it could not be tried; `advice` says why."""
    needed: bool
    """Training cannot do without; of the others `advice` says what happens in their place."""
    milliseconds: float
    advice: str
    """What is wrong and what to do; of what is right a remark, or nothing."""
    refused_action: str | None = None
    """The IAM action that the server refused, e.g. `s3:PutObject`."""
    retry_helps: bool = False
    """The store could not be reached or was busy: later the answer may be another."""

    @property
    def result(self) -> Result:
        """In one word. What was not answered has failed, needed or not."""
        if self.ok is None:
            return "skipped"
        if self.ok:
            return "ok"
        return "failed" if self.needed or self.retry_helps else "missing"


class Finding(Exception):
    """A step did not go as it should; the text says what is wrong, and what to do unless `mend` does."""

    def __init__(self, advice: str, *, mend: str = "", action: str | None = None, retry_helps: bool = False) -> None:
        super().__init__(advice)
        self.mend = mend
        """What to do where the trainer cannot do without."""
        self.action = action
        self.retry_helps = retry_helps
        self.is_fatal = False
        """The trainer cannot do without, although it could if the store lacked this in another way."""


class Untried(Exception):
    """A step cannot be tried; the text says why."""


@dataclass(frozen=True)
class Step:
    """Something to try: returns a remark, raises Finding or Untried."""

    name: str
    attempt: Callable[[], str]
    instead: str | None = None
    """What the trainer does without it; None: it cannot do without."""
    is_gate: bool = False
    """Nothing behind it can be tried when it fails."""


def try_all(steps: Sequence[Step]) -> list[Check]:
    """Try the steps in order."""
    checks: list[Check] = []
    closed = ""
    for step in steps:
        if closed:
            checks.append(Check(step.name, None, step.instead is None, 0.0, closed))
            continue
        check = _try(step)
        if check.ok is False and (step.is_gate or check.retry_helps):
            closed = f"{step.name} failed"
        checks.append(check)
    return checks


def _try(step: Step) -> Check:
    is_needed = step.instead is None
    begun = time.perf_counter()
    try:
        remark = step.attempt()
    except Untried as reason:
        return Check(step.name, None, is_needed, 0.0, str(reason))
    except Finding as finding:
        is_needed |= finding.is_fatal
        rest = finding.mend if is_needed else "" if finding.retry_helps else step.instead
        advice = f"{finding}; {rest}" if rest else str(finding)
        passed = (time.perf_counter() - begun) * 1000
        return Check(step.name, False, is_needed, passed, advice, finding.action, finding.retry_helps)
    return Check(step.name, True, is_needed, (time.perf_counter() - begun) * 1000, remark)
