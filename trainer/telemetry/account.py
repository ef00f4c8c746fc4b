"""The time account of a run over all its attempts: seven kinds of seconds whose sum is the wall clock.

Where an attempt wrote `TimeAccounted`, that counts; what came after it (an attempt that was killed) is rebuilt from
its records. Steps that were done before count as `redone`, not `productive`. Time that nobody recorded, after the last
word of a killed attempt or between two attempts, is `idle`.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from trainer.telemetry.events import TIME_KINDS

Record = dict[str, Any]


def time_account(records: Sequence[Record], *, until: float | None = None) -> dict[str, float]:
    """Seconds by kind of `TIME_KINDS` from the start of the first attempt to the end of the last one.

    `records` are those of `read_records` (all of them, not only the effective ones), in order. `until` (seconds
    since the epoch) counts the time after the last record as idle, for an attempt that starts now.
    """
    total = dict.fromkeys(TIME_KINDS, 0.0)
    last_end: float | None = None
    highest_step = 0
    for _, group in groupby(records, key=lambda record: record["attempt"]):
        attempt = list(group)
        start, end = _span(attempt)
        for kind, seconds in _attempt_account(attempt, start, end, highest_step).items():
            total[kind] += seconds
        if last_end is not None:
            total["idle"] += max(0.0, start - last_end)
        last_end = max(end, last_end or end)
        highest_step = max(highest_step, highest(attempt))
    if until is not None and last_end is not None:
        total["idle"] += max(0.0, until - last_end)
    return total


def goodput(account: dict[str, float]) -> float | None:
    """Share of productive time in the account; None while it is empty."""
    total = sum(account.values())
    return account["productive"] / total if total > 0 else None


def highest(records: Iterable[Record]) -> int:
    """The highest step that was ever trained according to the records."""
    return max((record["step"] for record in records), default=0)


def _span(attempt: list[Record]) -> tuple[float, float]:
    """Wall time of start and end: an attempt starts before its first record, by what its account says."""
    start = attempt[0]["wall"]
    for record in attempt:
        if record["event"] == "TimeAccounted":
            start = min(start, record["wall"] - sum(record["seconds"].values()))
        elif record["event"] == "AttemptEnded":
            start = min(start, record["wall"] - record["seconds"])
    return start, attempt[-1]["wall"]


def _attempt_account(attempt: list[Record], start: float, end: float, highest_step: int) -> dict[str, float]:
    """The last `TimeAccounted` of one attempt plus what its later records say, cut to the time there was."""
    account = dict.fromkeys(TIME_KINDS, 0.0)
    told, tail = [], attempt
    for index, record in enumerate(attempt):
        if record["event"] == "TimeAccounted":
            account = dict.fromkeys(TIME_KINDS, 0.0) | record["seconds"]
            told, tail = attempt[: index + 1], attempt[index + 1 :]
    redone = min(account["productive"], _redone(told, highest_step) if not account["redone"] else 0.0)
    account["productive"] -= redone
    account["redone"] += redone
    _add_tail(account, _rebuild(tail, max(highest_step, highest(told))), start, end)
    if not told:
        account["startup"] += min(account["idle"], _startup(attempt, start, end))
        account["idle"] -= account["startup"]
    return account


def _add_tail(account: dict[str, float], rebuilt: dict[str, float], start: float, end: float) -> None:
    """Add what was rebuilt, cut down to the time that is not accounted for; the rest of that time is idle."""
    available = max(0.0, (end - start) - sum(account.values()))
    used = sum(rebuilt.values())
    share = min(1.0, available / used) if used else 0.0
    for kind, seconds in rebuilt.items():
        account[kind] += seconds * share
    account["idle"] += available - used * share


def _rebuild(records: list[Record], highest_step: int) -> dict[str, float]:
    seconds = dict.fromkeys(TIME_KINDS, 0.0)
    for record in records:
        if record["event"] == "StepDone":
            seconds["data_wait"] += record["data_wait_seconds"]
            seconds["productive"] += record["seconds"] - record["data_wait_seconds"]
        elif record["event"] == "PassDone":
            seconds["evaluation"] += record["seconds"]
        elif record["event"] == "CheckpointTaken":
            seconds["checkpoint_stall"] += record["stall_seconds"]
    seconds["redone"] = _redone(records, highest_step)
    seconds["productive"] -= seconds["redone"]
    return seconds


def _redone(records: list[Record], highest_step: int) -> float:
    """Computing time of steps that were trained before, by an earlier attempt or before a rollback."""
    seconds = 0.0
    for record in records:
        if record["event"] == "StepDone" and record["num_steps"]:  # none where a rollback left the step out
            num_again = min(record["num_steps"], max(0, highest_step - record["step"] + record["num_steps"]))
            seconds += (record["seconds"] - record["data_wait_seconds"]) * num_again / record["num_steps"]
            highest_step = max(highest_step, record["step"])
    return seconds


def _startup(attempt: list[Record], start: float, end: float) -> float:
    """Seconds until the first step or pass began; the whole attempt where there was none."""
    begun = (record["wall"] - record["seconds"] for record in attempt if record["event"] in ("StepDone", "PassDone"))
    return max(0.0, next(begun, end) - start)
