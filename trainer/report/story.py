"""How the run went and what it was: time account, attempts, checkpoints, settings, environment."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from trainer.report.curves import speed_pictures
from trainer.report.view import Attempt, RunView
from trainer.tasks.page import Beside, Cell, Code, Details, Draw, Notice, Part, Picture, Section, Share, Table, Text
from trainer.telemetry.events import TIME_KINDS
from trainer.telemetry.reading import Record, select
from trainer.telemetry.text import duration, size

KIND_COLORS = dict(
    zip(TIME_KINDS, ("#0072b2", "#e69f00", "#56b4e9", "#cc79a7", "#8a949e", "#d55e00", "#dde2e7"), strict=True)
)
NUM_CHECKPOINTS = 20
ABSENT = "(not set)"


def story_sections(view: RunView, draw: Draw, defaults: dict[str, object]) -> list[Section]:
    """Time, attempts, checkpoints, settings, environment, as far as there is something to tell."""
    if not view.all:
        return []
    sections = [Section("Time", _time(view, draw)), Section("Attempts", _attempts(view))]
    if select(view.all, "CheckpointTaken") or select(view.all, "CheckpointRejected"):
        sections.append(Section("Checkpoints", _checkpoints(view)))
    if view.start:
        sections.append(Section("Settings", _settings(view.start["config"], defaults)))
        sections.append(Section("Environment", _environment(view.start)))
    return sections


def _time(view: RunView, draw: Draw) -> list[Part]:
    account, total = view.account, sum(view.account.values())
    goodput = "" if view.goodput is None else f" Goodput {view.goodput:.1%}: the share that trained something new."
    rows: list[list[Cell]] = [
        [kind.replace("_", " "), duration(account[kind]), Share(account[kind] / total if total else None)]
        for kind in TIME_KINDS
    ]
    return [
        Text(f"{duration(total)} of wall clock.{goodput}"),
        _time_picture(view, draw),
        Table(("kind", "time", "share"), rows),
        *speed_pictures(view, draw),
    ]


def _time_picture(view: RunView, draw: Draw) -> Picture:
    """One stacked bar for each attempt (its idle part is the gap before it), and one for the whole."""
    accounts = view.attempt_accounts
    unit, seconds = _unit(max(sum(account.values()) for _, account in accounts))

    def paint(axes: Any) -> None:
        left = np.zeros(len(accounts))
        for kind in TIME_KINDS:
            width = np.array([account[kind] for _, account in accounts]) / seconds
            axes.barh(range(len(accounts)), width, left=left, color=KIND_COLORS[kind], label=kind.replace("_", " "))
            left += width
        axes.set_yticks(range(len(accounts)), labels=[name for name, _ in accounts])
        axes.set(xlabel=unit, ylim=(len(accounts) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(TIME_KINDS), columnspacing=1.4)

    alt = "Where the time went, by attempt"
    return draw.paint(paint, alt=alt, size=(12.0, 1.35 + 0.3 * len(accounts)), wide=True)


def _unit(longest: float) -> tuple[str, float]:
    """The unit in which a time axis reads best, and its seconds."""
    return ("hours", 3600.0) if longest > 3 * 3600 else ("minutes", 60.0) if longest > 180 else ("seconds", 1.0)


def _attempts(view: RunView) -> list[Part]:
    rows = [_attempt_row(attempt) for attempt in view.attempts]
    marked = frozenset(i for i, attempt in enumerate(view.attempts) if attempt.killed)
    columns = (
        "attempt",
        "started (UTC)",
        "lasted",
        "from step",
        "to step",
        "processes",
        "device",
        "exit",
        "how it ended",
    )
    parts: list[Part] = [Table(columns, rows, marked=marked)]
    resumed = select(view.all, "Resumed")
    if resumed:
        cells = [[r["attempt"], r["step"], Code(r["checkpoint"]), r["redone_steps"]] for r in resumed]
        parts.append(Table(("attempt", "at step", "went on from", "steps redone"), cells, "Resumed"))
    notes = list(dict.fromkeys(record["text"] for record in select(view.all, "Noted")))
    if notes:
        parts.append(Details(f"Notes ({len(notes)})", [Text(note) for note in notes]))
    return parts


def _attempt_row(attempt: Attempt) -> list[Cell]:
    ended = "killed: no end is recorded" if attempt.killed else attempt.reason
    return [
        attempt.name,
        utc(attempt.started),
        duration(attempt.last_heard - attempt.started),
        attempt.first_step,
        attempt.last_step,
        attempt.world_size,
        attempt.device,
        attempt.code,
        ended or "no end is recorded yet",
    ]


def _checkpoints(view: RunView) -> list[Part]:
    taken, published = select(view.all, "CheckpointTaken"), select(view.all, "CheckpointPublished")
    parts: list[Part] = [
        Notice("warn", record["reason"], f"{record['checkpoint']} was rejected and stepped over:")
        for record in select(view.all, "CheckpointRejected")
    ]
    for record in select(view.all, "CheckpointFailed"):
        again = "it is tried again" if record["will_retry"] else "given up"
        parts.append(Notice("warn", f"{record['reason']} ({again})", f"{record['checkpoint']} could not be published:"))
    if taken:
        parts.append(Text(_stall_text(taken, len(published))))
    return [*parts, _published(view, published)] if published else parts


def _stall_text(taken: Sequence[Record], num_published: int) -> str:
    stalls = [float(record["stall_seconds"]) for record in taken]
    replaced = sum(bool(record["replaced"]) for record in taken)
    return (
        f"{len(taken):,} taken, {num_published:,} published, {replaced:,} gave way to a newer one. "
        f"Training stood still for {1000 * float(np.mean(stalls)):.1f} ms each, at most {1000 * max(stalls):.1f} ms, "
        f"{duration(sum(stalls))} in all."
    )


def _published(view: RunView, published: Sequence[Record]) -> Table:
    """The newest checkpoints first; retired ones are gone from the store."""
    retired = {name for record in select(view.all, "CheckpointRetired") for name in record["checkpoints"]}
    newest = list(reversed(published))[:NUM_CHECKPOINTS]
    rows: list[list[Cell]] = [
        [
            r["step"], Code(r["checkpoint"]), size(r["size_bytes"]), duration(r["seconds"]),
            "best" if r["is_best"] else "", "retired" if r["checkpoint"] in retired else "kept",
        ]
        for r in newest
    ]  # fmt: skip
    caption = f"The newest {len(newest)} of {len(published)}" if len(published) > len(newest) else "Published"
    return Table(("step", "checkpoint", "size", "published in", "", "state"), rows, caption)


def _settings(config: dict[str, Any], defaults: dict[str, object]) -> list[Part]:
    """What differs from the defaults first; all settings folded away below."""
    flat = flatten(config, defaults)
    if not defaults:
        return [Table(("setting", "value"), [[Code(name), Code(_show(value))] for name, value in flat.items()])]
    changed = {name for name, value in flat.items() if name not in defaults or _show(value) != _show(defaults[name])}
    columns = ("setting", "value", "default")
    rows = {name: [Code(name), Code(_show(value)), Code(_default(name, defaults))] for name, value in flat.items()}
    all_rows = Table(
        columns, list(rows.values()), marked=frozenset(i for i, name in enumerate(rows) if name in changed)
    )
    text = f"{len(changed)} of {len(flat)} settings differ from the defaults."
    differing = [Table(columns, [row for name, row in rows.items() if name in changed])] if changed else []
    return [Text(text), *differing, Details("All settings", [all_rows])]


def flatten(config: dict[str, Any], known: dict[str, object], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; a mapping that is itself a setting (in `known`) stays whole."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict) and value and dotted not in known:
            flat |= flatten(value, known, f"{dotted}.")
        else:
            flat[dotted] = value
    return flat


def _default(name: str, defaults: dict[str, object]) -> str:
    return _show(defaults[name]) if name in defaults else ABSENT


def _show(value: object) -> str:
    """A value as in YAML; tuples and lists, 1 and 1.0 read the same, because JSON and YAML do not tell them apart."""
    if value is None or value == "":
        return "null" if value is None else '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_show(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _environment(start: dict[str, Any]) -> list[Part]:
    facts = ("run", "attempt", "task", "model", "device", "world_size", "precision", "seed", "config_digest")
    rows: list[list[Cell]] = [[name.replace("_", " "), Code(_show(start[name]))] for name in facts]
    versions: list[list[Cell]] = [[name, Code(_show(value))] for name, value in start["versions"].items()]
    machine: list[list[Cell]] = [
        [name, Code(_show(value))] for name, value in flatten(start["environment"], {}).items()
    ]
    parts: list[Part] = [Beside(Table(("newest attempt", ""), rows), Table(("version of", ""), versions))]
    return [*parts, Details("Machine", [Table(("", ""), machine)])] if machine else parts


def utc(wall: float) -> str:
    """Seconds since the epoch as `2026-01-31 12:00:59`, UTC."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S")
