"""The curves of a run over its steps: losses, metrics, learning rate, gradients, speed.

They show the effective ledger (redone steps are the later attempt's). Long runs are thinned to bins of equal width:
a faint line of bin means, a strong one smoothed over its neighbours; gaps stay gaps.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from trainer.report.view import RunView, column
from trainer.tasks.page import Details, Draw, Floats, Line, Mark, Part, Picture, Section, Text, told_apart
from trainer.telemetry.reading import select

MAX_POINTS = 600
"""Points of a drawn curve: about one for each pixel of the picture."""
NUM_SHOWN_METRICS = 4
MAX_METRICS = 12
"""Metrics that get a picture (0.2 s each); a task may declare one for each of many signers."""
MAX_PASSES = 8
"""Passes that get a curve, in the order in which they first ended; the results have all."""
MAX_TICKS = 80
"""Checkpoint ticks on the loss picture; of more only every n-th is drawn."""


def curve_sections(view: RunView, draw: Draw) -> list[Section]:
    """Loss and metrics, then how the optimizer and the machine did."""
    if not view.steps and not view.pass_names():
        return [Section("Curves", [Text("No log point and no pass is recorded yet.", muted=True)])]
    return [Section("Curves", [_loss(view, draw), *_metrics(view, draw)]), Section("Optimizer", _optimizer(view, draw))]


def speed_pictures(view: RunView, draw: Draw) -> list[Picture]:
    """Samples per second and the share of time the steps waited for data."""
    if not view.steps:
        return []
    wait = 100 * column(view.steps, "data_wait_seconds") / np.maximum(column(view.steps, "seconds"), 1e-9)
    return [
        _steps_picture(view, draw, column(view.steps, "samples_per_second"), "samples/s", "Throughput."),
        _steps_picture(view, draw, wait, "% of step time", "Waiting for data."),
    ]


def _loss(view: RunView, draw: Draw) -> Picture:
    lines = _train_lines(view, column(view.steps, "loss"), draw.colors[0])
    lines += _pass_lines(view, "loss", draw)
    marks = [*_restarts(view, draw), *_checkpoints(view, draw), *_best_mark(view, "loss", draw)]
    num_left = len(view.pass_names()) - MAX_PASSES
    more = f" Of {num_left + MAX_PASSES} passes these curves show the first {MAX_PASSES}." if num_left > 0 else ""
    return draw.lines(
        lines,
        alt="Training and validation loss over steps",
        caption=f"Loss. Triangles are published checkpoints, the star is the best one.{more}",
        x_label="step",
        y_label="loss",
        marks=marks,
        epoch_steps=_epoch_steps(view),
        log_y=_spans_decades([line.y for line in lines]),
        wide=True,
    )


def _metrics(view: RunView, draw: Draw) -> list[Part]:
    """The first metrics the task declares; some further ones are folded away, all stand in the results."""
    names = [name for name in view.start.get("metrics", {}) if name != "loss"]
    drawn = (picture for name in names if (picture := _metric(view, name, draw)))
    pictures = list(islice(drawn, MAX_METRICS))
    shown: list[Part] = [*pictures[:NUM_SHOWN_METRICS]]
    rest = pictures[NUM_SHOWN_METRICS:]
    return [*shown, Details(f"More metrics ({len(rest)})", rest)] if rest else shown


def _metric(view: RunView, name: str, draw: Draw) -> Picture | None:
    """One metric in training and in every pass; None when it has no value anywhere."""
    lines = _train_lines(view, column(view.steps, "metrics", name), draw.colors[0]) + _pass_lines(view, name, draw)
    if not lines:
        return None
    marks = [*_restarts(view, draw), *_best_mark(view, name, draw)]
    return draw.lines(
        lines, alt=f"{name} over steps", caption=name, x_label="step", y_label=name, marks=marks,
        epoch_steps=_epoch_steps(view),
    )  # fmt: skip


def _optimizer(view: RunView, draw: Draw) -> list[Part]:
    steps = view.steps
    if not steps:
        return [Text("No log point is recorded yet.", muted=True)]
    found: list[Part] = [
        _steps_picture(view, draw, column(steps, "learning_rate"), "learning rate", "Learning rate."),
        _gradients(view, draw),
    ]
    clipped = 100 * column(steps, "clipped_share")
    if np.nanmax(clipped, initial=0.0) > 0:
        found.append(_steps_picture(view, draw, clipped, "% of steps", "Steps whose gradient was clipped."))
    for name, y_label, caption in (
        ("update_ratio", "update / weights", "Norm of the last update over norm of the weights."),
        ("loss_scale", "loss scale", "Loss scale of fp16."),
    ):
        values = column(steps, name)
        if np.isfinite(values).any():
            found.append(_steps_picture(view, draw, values, y_label, caption))
    return found


def _gradients(view: RunView, draw: Draw) -> Picture:
    x = column(view.steps, "step")
    norm, highest = column(view.steps, "grad_norm"), column(view.steps, "max_grad_norm")
    lines = [_thin(Line("largest since the last point", x, highest, draw.colors[5]), largest=True)]
    lines.append(_thin(Line("gradient norm", x, norm, draw.colors[0])))
    clip = (view.start.get("config", {}).get("optim") or {}).get("clip")
    if clip and len(x):
        lines.append(Line("clip", x[[0, -1]], np.full(2, float(clip)), draw.bad, dashed=True))
    return draw.lines(
        lines, alt="Gradient norm over steps", caption="Gradient norm before clipping.", x_label="step",
        y_label="norm", marks=_restarts(view, draw), epoch_steps=_epoch_steps(view),
        log_y=_spans_decades([norm, highest]),
    )  # fmt: skip


def _steps_picture(view: RunView, draw: Draw, y: Floats, y_label: str, caption: str) -> Picture:
    line = _thin(Line("_", column(view.steps, "step"), y, draw.colors[0]))
    return draw.lines(
        [line], alt=caption, caption=caption, x_label="step", y_label=y_label, marks=_restarts(view, draw),
        epoch_steps=_epoch_steps(view), from_zero=True,
    )  # fmt: skip


def _train_lines(view: RunView, values: Floats, color: str) -> list[Line]:
    """The values as they were and, where there are enough, smoothed."""
    if not np.isfinite(values).any():
        return []
    raw = _thin(Line("train", column(view.steps, "step"), values, color))
    if len(raw.x) < 20:
        return [raw]
    return [
        Line("train", raw.x, raw.y, color, faint=True),
        Line("train (smoothed)", raw.x, _smooth(raw.y, max(3, len(raw.x) // 40)), color),
    ]


def _pass_lines(view: RunView, name: str, draw: Draw) -> list[Line]:
    found = []
    for number, pass_name in enumerate(view.pass_names()[:MAX_PASSES]):
        walks = view.history(pass_name)
        values = column(walks, "metrics", name)
        if np.isfinite(values).any():
            color, is_dashed = told_apart(number, draw.colors[1:])
            steps, has_points = column(walks, "step"), len(walks) <= 60
            found.append(Line(pass_name, steps, values, color, dashed=is_dashed, points=has_points))
    return found


def _best_mark(view: RunView, name: str, draw: Draw) -> list[Mark]:
    """A star where the best checkpoint was, on the picture of the metric that chose it."""
    metric = view.start.get("best_metric", "").partition("/")[2]
    if view.best is None or metric != name or view.best["metrics"].get(name) is None:
        return []
    return [Mark(view.best["step"], "best", draw.colors[3], "star", y=view.best["metrics"][name])]


def _restarts(view: RunView, draw: Draw) -> list[Mark]:
    return [Mark(attempt.first_step, "restart", draw.muted) for attempt in view.attempts[1:]]


def _checkpoints(view: RunView, draw: Draw) -> list[Mark]:
    published = select(view.all, "CheckpointPublished")
    every = 1 + len(published) // MAX_TICKS
    return [Mark(record["step"], "checkpoint", draw.colors[2], "tick") for record in published[::every]]


def _epoch_steps(view: RunView) -> int:
    return int(view.start.get("steps_per_epoch") or 0)


def _thin(line: Line, largest: bool = False) -> Line:
    """Means (or maxima) over at most `MAX_POINTS` groups of neighbours; a group without a value stays a gap."""
    if len(line.x) <= MAX_POINTS:
        return line
    groups = np.array_split(np.arange(len(line.x)), MAX_POINTS)
    x = np.array([line.x[group].mean() for group in groups])
    y = np.array([_sum_up(line.y[group], largest) for group in groups])
    return Line(line.label, x, y, line.color, line.faint, line.dashed, line.points)


def _smooth(values: Floats, width: int) -> Floats:
    """Centred running mean over `width` points that exist; at the ends over fewer."""
    exists = np.isfinite(values)
    window = np.ones(width)
    total = np.convolve(np.where(exists, values, 0.0), window, mode="same")
    count = np.convolve(exists.astype(np.float64), window, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sum_up(values: Floats, largest: bool) -> float:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan")
    return float(finite.max() if largest else finite.mean())


def _spans_decades(values: Sequence[Floats]) -> bool:
    """Whether the values are positive and their range wants a logarithmic axis."""
    together = np.concatenate([*values, np.empty(0)])
    finite = together[np.isfinite(together)]
    return bool(len(finite) and finite.min() > 0 and finite.max() / finite.min() > 100)
