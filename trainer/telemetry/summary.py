"""Where a run stands, out of its ledger: for the report, and for a person who asks whether it still goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.telemetry.events import Metrics
from trainer.telemetry.reading import Record, effective, highest, select, time_account

SILENT_SECONDS = 300.0
"""A run without a new record for this long counts as killed: five times the longest life of a segment."""

Status = Literal["running", "complete", "stopped", "failed", "killed", "empty"]
_STATUS_OF_CODE: dict[int, Status] = {0: "complete", 143: "stopped"}
_PLACES = ("StepDone", "EpochDone", "Resumed", "RunStarted")
"""Events that know where training stands; others may come from outside of the loop."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best value of the run's best metric and the step that gave it."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run at a glance; `step` is where it stands now, `highest_step` the furthest it ever was."""

    status: Status
    run: str
    task: str
    model: str
    num_attempts: int
    code: int | None
    reason: str
    epoch: int
    num_epochs: int
    step: int
    total_steps: int
    highest_step: int
    loss: float | None
    samples_per_second: float | None
    seconds_left: float | None
    best: Best | None
    caveat: str
    """Why the metrics are no headline; empty if they may be one."""
    passes: dict[str, Metrics]
    """Newest metrics of each pass, final ones where there are."""
    checkpoint: str | None
    """The newest published one."""
    artifacts: dict[str, str]
    """Path of the newest file of each kind."""
    first_wall: float | None
    last_wall: float | None
    seconds_by_kind: dict[str, float]


def summary(records: Sequence[Record], *, now: float, silent_seconds: float = SILENT_SECONDS) -> Summary:
    """Sum up all records of a run (as `read_records` gives them); `now` is in seconds since the epoch.

    A run without a last word is running while its newest record is younger than `silent_seconds`, else killed.
    """
    story = effective(records)
    started = (select(story, "RunStarted") or [{}])[-1]
    step = (select(story, "StepDone") or [{}])[-1]
    place = next((record for record in reversed(story) if record["event"] in _PLACES), {})
    published = select(story, "CheckpointPublished")
    last = records[-1] if records else {}
    status, code, reason = _end(records, now, silent_seconds)
    return Summary(
        status=status,
        code=code,
        reason=reason,
        run=last.get("run", ""),
        task=started.get("task", ""),
        model=started.get("model", ""),
        num_attempts=len({record["attempt"] for record in records}),
        epoch=place.get("epoch", 0),
        num_epochs=started.get("num_epochs", 0),
        step=place.get("step", 0),
        total_steps=started.get("total_steps", 0),
        highest_step=highest(records),
        loss=step.get("loss"),
        samples_per_second=step.get("samples_per_second"),
        seconds_left=step.get("seconds_left") if status == "running" else None,
        best=best_so_far(story),
        caveat=started.get("caveat", ""),
        passes={record["name"]: record["metrics"] for record in select(story, "PassDone")},
        checkpoint=published[-1]["checkpoint"] if published else None,
        artifacts={record["kind"]: record["path"] for record in select(story, "ArtifactWritten")},
        first_wall=records[0]["wall"] if records else None,
        last_wall=last.get("wall"),
        seconds_by_kind=time_account(records),
    )


def best_so_far(records: Sequence[Record]) -> Best | None:
    """The newest pass that was the best of its time, out of effective records."""
    metric = next((record["best_metric"] for record in select(records, "RunStarted")), None)
    best = [record for record in select(records, "PassDone") if record["is_best"]]
    if metric is None or not best:
        return None
    value = best[-1]["metrics"].get(metric.partition("/")[2])
    return None if value is None else Best(metric=metric, value=value, step=best[-1]["step"])


def _end(records: Sequence[Record], now: float, silent_seconds: float) -> tuple[Status, int | None, str]:
    if not records:
        return "empty", None, "nothing is recorded yet"
    ended = [record for record in records if record["event"] == "AttemptEnded"]
    if ended and ended[-1]["attempt"] == records[-1]["attempt"]:
        code = ended[-1]["code"]
        return _STATUS_OF_CODE.get(code, "failed"), code, ended[-1]["reason"]
    silent = now - records[-1]["wall"]
    if silent > silent_seconds:
        return "killed", None, f"the last record is {silent:.0f} s old and says nothing of an end"
    return "running", None, ""
