"""The top of the page: where the run stands, its key numbers, its results, and what looks wrong."""

import math
from collections.abc import Sequence

import numpy as np

from trainer.report.view import RunView, column
from trainer.tasks.page import NO_HEADLINE, Cell, Details, Notice, Part, Section, Severity, Table, Text, Tile, Tiles
from trainer.telemetry.reading import Record, select
from trainer.telemetry.rules import Rule
from trainer.telemetry.text import duration
from trainer.telemetry.warnings import find_warnings

NUM_RESULT_METRICS = 7
NUM_KEY_METRICS = 3
_SEVERITIES: dict[str, Severity] = {"note": "note", "warn": "warn", "stop": "stop"}
_RANK = {"stop": 0, "warn": 1, "note": 2}


def header(view: RunView) -> list[Part]:
    """What it is, where it stands, and the numbers one looks for first."""
    start, outcome = view.start, view.outcome
    parts: list[Part] = []
    if start:
        processes = start["world_size"]
        machine = f"{start['device']} x {processes} processes" if processes > 1 else str(start["device"])
        parts.append(Text(f"{start['task']}, model {start['model']}, {machine}, {start['precision']}", muted=True))
    parts.append(Notice(outcome.severity, outcome.text, f"{outcome.word.capitalize()}."))
    caveat = start.get("caveat", "")
    if caveat:
        parts.append(Notice("warn", caveat, NO_HEADLINE))
    tiles = [*([] if caveat else _best_tiles(view)), *_progress_tiles(view)]
    return [*parts, Tiles(tiles)] if tiles else parts


def warnings_section(view: RunView, rules: Sequence[Rule] | None = None) -> Section | None:
    """Warning signs by the rules (default: the general ones) and non-finite losses; None where there are none."""
    parts: list[Part] = [
        Notice(_SEVERITIES.get(severity, "warn"), text, f"{name}, {where}:")
        for name, severity, where, text in _signs(view, rules)
    ]
    broken = select(view.all, "NonFinite")
    if broken:
        columns = ("step", "what", "policy", "used", "budget", "samples")
        rows = [[r["step"], r["what"], r["policy"], r["used"], r["budget"], _ids(r["sample_ids"])] for r in broken]
        parts.append(Table(columns, rows, "Losses or gradients that were not finite"))
    return Section("Warning signs", parts) if parts else None


def results_section(view: RunView) -> Section | None:
    """Metrics of every pass: of the best weights after training, or the newest while it goes on."""
    results = view.results()
    if not results:
        return None
    declared = [*dict.fromkeys(["loss", *view.start.get("metrics", {})])]
    names = [name for name in declared if any(name in record["metrics"] for record in results.values())]
    parts: list[Part] = [_result_table(results, names[:NUM_RESULT_METRICS])]
    more = names[NUM_RESULT_METRICS:]
    if more:
        tables = [
            _result_table(results, more[first : first + NUM_RESULT_METRICS])
            for first in range(0, len(more), NUM_RESULT_METRICS)
        ]
        parts.append(Details(f"More metrics ({len(more)})", tables))
    return Section("Results", parts)


def _result_table(results: dict[str, Record], names: Sequence[str]) -> Table:
    """One row a pass, one column a metric."""
    rows: list[list[Cell]] = [
        [
            name,
            record["num_samples"],
            "best weights" if record["is_final"] else f"step {record['step']:,}",
            *(record["metrics"].get(metric) for metric in names),
        ]
        for name, record in results.items()
    ]
    return Table(("pass", "samples", "of", *names), rows)


def _best_tiles(view: RunView) -> list[Tile]:
    """The value that chose the best checkpoint, then the first other metrics of that pass."""
    pass_name, _, metric = view.start.get("best_metric", "").partition("/")
    result = view.results().get(pass_name)
    tiles = []
    if view.best is not None:
        where = f"step {view.best['step']:,}, epoch {_epoch(view, view.best['step'])}"
        tiles.append(Tile(f"best {pass_name}/{metric}", _number(view.best["metrics"].get(metric)), where))
    others = [name for name in view.start.get("metrics", {}) if name not in ("loss", metric)][:NUM_KEY_METRICS]
    if result is not None:
        values = {name: result["metrics"][name] for name in others if result["metrics"].get(name) is not None}
        remark = "best weights" if result["is_final"] else f"step {result['step']:,}"
        tiles += [Tile(f"{pass_name}/{name}", _number(value), remark) for name, value in values.items()]
    return tiles


def _progress_tiles(view: RunView) -> list[Tile]:
    start = view.start
    if not start:
        return []
    speeds = column(view.steps, "samples_per_second")
    speed = f"{np.nanmedian(speeds):,.0f}" if np.isfinite(speeds).any() else "-"
    total, killed = start["total_steps"], sum(attempt.killed for attempt in view.attempts)
    epochs = f"epoch {_epoch(view, view.last_step)} of {start['num_epochs']}"
    goodput = view.goodput
    return [
        Tile("steps", f"{view.last_step:,}", f"of {total:,}, {epochs}"),
        Tile("samples per second", speed, f"median, batch size {start['batch_size']:,}"),
        Tile("wall time", duration(sum(view.account.values())), "" if goodput is None else f"goodput {goodput:.1%}"),
        Tile("attempts", str(len(view.attempts)), f"{killed} killed" if killed else ""),
        Tile("parameters", _short(start["num_parameters"]), f"{start['num_samples']:,} training samples"),
    ]


def _signs(view: RunView, rules: Sequence[Rule] | None) -> list[tuple[str, str, str, str]]:
    """(name, severity, where, text): the rules' findings and what a task's own rules said, worst and earliest first."""
    found = {(w.name, w.step): (w.severity, w.text) for w in find_warnings(view.all, rules)}
    for record in view.select("Warned"):
        found.setdefault((record["name"], record["step"]), (record["severity"], record["text"]))
    order = sorted(found.items(), key=lambda item: (_RANK.get(item[1][0], 1), item[0][1], item[0][0]))
    return [(name, severity, f"step {step:,}", text) for (name, step), (severity, text) in order]


def _epoch(view: RunView, step: int) -> str:
    """Epochs done at a step, to two decimals; a dash where their length is not known."""
    per_epoch = view.start.get("steps_per_epoch") or 0
    return f"{round(step / per_epoch, 2):g}" if per_epoch else "-"


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def _short(count: int) -> str:
    """`1.23 M`: a count with three digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _ids(ids: Sequence[int], limit: int = 12) -> str:
    shown = ", ".join(str(number) for number in ids[:limit])
    return shown if len(ids) <= limit else f"{shown} and {len(ids) - limit} more"
