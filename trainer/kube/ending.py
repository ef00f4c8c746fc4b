"""From what is known of an end to one exit code and one sentence.

What is known: the code of the child, the verdicts its ranks left, torchrun's report of what each rank ended with,
whether somebody asked for the end, and whether the kernel killed for memory meanwhile. One rank's end makes the others
end, so the question is always which of them explains the rest:

    bad settings, data, store, run (2-5, 171)     of any rank
    a kill from outside, an uncaught error        of a rank that was not ended by torchrun itself
    infrastructure (170), then a stop (143)       the lowest rank

0 needs a child that ended with 0. 171 becomes 4, because the operator makes a pod anew for every code from 128 on.
"""

import json
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import (
    DataError,
    InfrastructureError,
    PreflightError,
    RunError,
    SettingsError,
    Stopped,
    SupersededError,
)
from trainer.kube.limits import gibibytes
from trainer.kube.process import Outcome
from trainer.kube.verdict import Verdict

TERMINATION_LOG = "/dev/termination-log"
"""Where the kubelet looks for the reason; there is one in every container."""
TERMINATION_LOG_VARIABLE = "TRAINER_TERMINATION_LOG"
_MAX_BYTES = 4096
"""The kubelet cuts there."""

_FINAL = {kind.exit_code for kind in (SettingsError, DataError, RunError, PreflightError, SupersededError)}
_KILLED = 128 + signal.SIGKILL
_TERMINATED = 128 + signal.SIGTERM
_TOGETHER_SECONDS = 5
"""torchrun ends the other ranks 30 s after the first failure; a kill before that came from elsewhere."""


@dataclass(frozen=True)
class Report:
    """What torchrun saw: by rank the exit code (128 + n for signal n) and the second in which it was noticed."""

    failures: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    error: str = ""
    """Why there were no ranks to begin with."""


@dataclass(frozen=True)
class Memory:
    """The out-of-memory killer's part in it."""

    num_kills: int = 0
    limit_bytes: int | None = None

    def describe(self) -> str:
        """One sentence with what to do."""
        limit = f"memory limit of {gibibytes(self.limit_bytes)}" if self.limit_bytes else "node's memory"
        return (
            f"killed because the pod's {limit} was used up; raise resources.limits.memory, or lower batch_size or the "
            "number of processes"
        )


@dataclass(frozen=True)
class Ending:
    """Exit code and reason, one line."""

    code: int
    reason: str


def explain(outcome: Outcome, verdicts: Sequence[Verdict], report: Report, memory: Memory) -> Ending:
    """Why it ended, and with which code a cluster should hear of it."""
    if outcome.code == 0:
        return Ending(0, "complete")
    final = next((one for one in verdicts if one.code in _FINAL), None)
    if final:
        return _of(final)
    if outcome.told:
        return _told(outcome, verdicts, memory)
    said = [one for one in verdicts if one.code]
    return _unasked(outcome, [*said, *_silent(report, said)], report, memory)


def read_report(path: Path) -> Report:
    """The agent's report, an empty one if it wrote none."""
    with suppress(OSError, ValueError, TypeError):
        said = json.loads(path.read_text(encoding="utf-8"))
        failures = {int(rank): (_code(code), float(when)) for rank, (code, when) in said.get("failures", {}).items()}
        return Report(failures, said.get("error", ""))
    return Report()


def write_reason(reason: str, environ: Mapping[str, str] = os.environ) -> None:
    """Leave the reason where the kubelet finds it; nowhere outside of a container."""
    path = Path(environ.get(TERMINATION_LOG_VARIABLE) or TERMINATION_LOG)
    if not path.exists() and TERMINATION_LOG_VARIABLE not in environ:
        return
    line = " ".join(reason.split()).encode("utf-8")
    cut = line if len(line) <= _MAX_BYTES else line[: _MAX_BYTES - 3].decode("utf-8", "ignore").encode("utf-8") + b"..."
    with suppress(OSError):
        path.write_bytes(cut)


def _told(outcome: Outcome, said: Sequence[Verdict], memory: Memory) -> Ending:
    """Somebody asked for the end; 143 promises a published checkpoint, so all that spoke must say so."""
    if outcome.was_killed:
        reason = f"{outcome.told}: not ended within run.grace_seconds and killed; the last published checkpoint counts"
        return Ending(_KILLED, f"{reason}; raise terminationGracePeriodSeconds or checkpoint more often")
    other = next((one for one in said if one.code not in (0, Stopped.exit_code)), None)
    if other:
        return _of(other)
    if memory.num_kills:
        return Ending(_KILLED, f"{outcome.told}: a process was {memory.describe()}")
    stopped = next((one for one in said if one.code == Stopped.exit_code), None)
    if stopped:
        return _of(stopped)
    done = "after the run was complete" if said else "before the training began"
    return Ending(Stopped.exit_code, f"told to stop by {outcome.told} {done}")


def _unasked(outcome: Outcome, ends: Sequence[Verdict], report: Report, memory: Memory) -> Ending:
    """It ended by itself."""
    if report.error:
        return Ending(InfrastructureError.exit_code, report.error)
    if outcome.was_left and outcome.was_killed:
        return Ending(InfrastructureError.exit_code, "the first node has ended, and the processes here did not follow")
    explaining = min(ends, key=lambda one: (_weight(one.code), one.rank), default=None)
    if memory.num_kills and (explaining is None or explaining.code == _KILLED):
        who = f"rank {explaining.rank}" if explaining else "a process"
        return Ending(_KILLED, f"{who} was {memory.describe()}")
    if explaining is None:
        return Ending(outcome.code, _words(outcome.code))
    ending = _of(explaining)
    if memory.num_kills:
        return Ending(ending.code, f"{ending.reason} (and a process was {memory.describe()})")
    return ending


def _silent(report: Report, said: Sequence[Verdict]) -> Iterable[Verdict]:
    """Ranks that ended without a verdict, in words of ours; those that torchrun ended itself explain nothing."""
    spoken = {one.rank for one in said}
    first = min((when for _, when in report.failures.values()), default=0.0)
    for rank, (code, when) in report.failures.items():
        is_consequence = code == _TERMINATED or (code == _KILLED and when > first + _TOGETHER_SECONDS)
        if rank in spoken or (is_consequence and len(report.failures) > 1):
            continue
        yield Verdict(rank, code, _words(code))


def _words(code: int) -> str:
    if code == InfrastructureError.exit_code:
        return "nothing moved any more (watchdog); its log has the stacks"
    if code > 128 and (name := _signal_name(code)):
        return f"killed by {name}"
    return f"ended with {code} without a word; its log has the rest"


def _weight(code: int) -> int:
    """Which explains which: a kill the error of another rank, that the loss of a peer, that a stop."""
    if code == Stopped.exit_code:
        return 3
    if code == InfrastructureError.exit_code:
        return 2
    return 0 if _signal_name(code) else 1


def _of(verdict: Verdict) -> Ending:
    code = RunError.exit_code if verdict.code == SupersededError.exit_code else verdict.code
    return Ending(code, verdict.reason if verdict.rank == 0 else f"rank {verdict.rank}: {verdict.reason}")


def _code(exitcode: int) -> int:
    """Python's number for a signal is negative, a shell's is above 128."""
    return 128 - exitcode if exitcode < 0 else exitcode


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""
