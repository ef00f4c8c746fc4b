"""Report sections of the course of a hierarchy run: levels, balance, curves of the settings, masked blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.tasks.hierarchy.blocks import MASKED
from trainer.tasks.hierarchy.tree import Tree
from trainer.tasks.page import (
    Cell,
    Draw,
    Floats,
    Line,
    Part,
    Picture,
    RunFacts,
    Section,
    Share,
    Table,
    Text,
    told_apart,
)

Record = dict[str, Any]
ROW = 0.1
"""Height of a row of ticks, next to a probability of 1."""
NOTHING = "(nothing)"
GROUPS = "mix_level"
"""The one curve that is no probability: the level of the groups of mixing, 0 the finest."""


def sections(run: RunFacts, tree: Tree, draw: Draw) -> list[Section]:
    """What there is to show; a run without balance, curves or blocks has no section of them."""
    steps = sorted((one for one in run.records if one["event"] == "StepDone"), key=lambda one: int(one["step"]))
    passes = [one for one in run.records if one["event"] == "PassDone"]
    found = []
    if steps or passes:
        found.append(Section("Levels", _levels(steps, passes, tree, draw)))
    if any(one.get("weights") for one in steps):
        measured = [one for one in run.records if one["event"] == "Balanced"]
        found.append(Section("Balance of the levels", _balance(steps, measured or steps, tree, draw)))
    if any(one.get("curves") for one in steps) or any(one["name"].startswith(MASKED) for one in passes):
        found.append(Section("Mixing, masks and passes", [_schedule(steps, passes, draw), *_groups(steps, tree)]))
    if run.info.get("blocks"):
        found.append(Section("Blocks", _blocks(passes, run.info["blocks"], tree, draw)))
    return found


def _levels(steps: Sequence[Record], passes: Sequence[Record], tree: Tree, draw: Draw) -> list[Part]:
    """Loss and top-1 of each level, in training and in the standard pass."""
    val = _during(passes, "val")
    pictures: list[Part] = []
    for name, trained in (
        ("loss", lambda one, level: one.get("terms", {}).get(level)),
        ("top1", lambda one, level: one.get("metrics", {}).get(f"{level}/top1")),
    ):
        lines = []
        for number, level in enumerate(tree.levels):
            style = told_apart(number, draw.colors)
            lines += _line(f"{level}, training", steps, _of(trained, level), style, faint=True)
            lines += _line(
                level, val, _of(lambda one, key: one["metrics"].get(key), f"{level}/{name}"), style, points=True
            )
        if lines:
            caption = (
                f"{'Loss' if name == 'loss' else 'Top-1'} of each level: points are the pass val, faint is training."
            )
            pictures.append(_over_steps(lines, name, caption, draw, from_zero=name == "top1"))
    return pictures


def _of(get: Callable[[Record, str], Any], key: str) -> Callable[[Record], Any]:
    return lambda one: get(one, key)


def _balance(steps: Sequence[Record], measured: Sequence[Record], tree: Tree, draw: Draw) -> list[Part]:
    """Weights and norms at the shared trunk where they were measured, and losses over their first values."""
    pictures: list[Part] = []
    ratio = "Loss of each level over its first value: who has gained how much."
    for title, label, records, get in (
        ("Weight of each level's loss.", "weight", measured, _entry("weights")),
        ("Norm of each level's gradient at the shared trunk, running mean.", "norm", measured, _entry("norms")),
        (ratio, "loss / first loss", steps, _relative(steps)),
    ):
        lines = [
            line
            for number, level in enumerate(tree.levels)
            for line in _line(level, records, _of(get, level), told_apart(number, draw.colors))
        ]
        if lines:
            pictures.append(_over_steps(lines, label, title, draw, from_zero=True))
    return pictures


def _entry(field: str) -> Callable[[Record, str], Any]:
    return lambda one, level: one.get(field, {}).get(level)


def _relative(steps: Sequence[Record]) -> Callable[[Record, str], Any]:
    first: dict[str, float] = {}
    for one in steps:
        for level, value in one.get("terms", {}).items():
            if value:
                first.setdefault(level, value)

    def get(one: Record, level: str) -> float | None:
        value = one.get("terms", {}).get(level)
        return None if value is None or level not in first else value / first[level]

    return get


def _schedule(steps: Sequence[Record], passes: Sequence[Record], draw: Draw) -> Picture:
    """The curves of the settings, and below them a row of ticks for each pass: where it ran."""
    curves = list(dict.fromkeys(name for one in steps for name in one.get("curves", {}) if name != GROUPS))
    lines = [
        line
        for number, name in enumerate(curves)
        for line in _line(name, steps, _of(_entry("curves"), name), told_apart(number, draw.colors))
    ]
    ran: dict[str, list[int]] = {}
    for one in passes:
        if not one.get("is_final"):
            ran.setdefault(one["name"], []).append(int(one["step"]))
    top = 1.05 if lines else 0.0
    places = [-ROW * (row + 1) for row in range(len(ran))]
    height = top + ROW * (len(ran) + 0.6)

    def paint(axes: Any) -> None:
        for line in lines:
            axes.plot(line.x, line.y, label=line.label, color=line.color, linestyle="--" if line.dashed else "-")
        for place, (name, at) in zip(places, ran.items(), strict=True):
            color = draw.bad if name.startswith(MASKED) else draw.muted
            axes.plot(at, [place] * len(at), "|", color=color, markersize=9, markeredgewidth=1.6)
        shares = [0.0, 0.25, 0.5, 0.75, 1.0] if lines else []
        names = [draw.plain(name, limit=40) for name in ran]
        axes.set_yticks([*shares, *places], labels=[*(f"{share:g}" for share in shares), *names])
        axes.set(xlabel="step", ylim=(top - height, top))
        axes.set_xlim(left=0)
        if lines:
            axes.axhline(0.0, color=draw.muted, linewidth=0.8)
            axes.legend()

    what = "Probabilities that follow the settings' curves" if lines else "No curve is set"
    caption = f"{what}; below, a tick where each pass ran."
    return draw.paint(paint, alt=caption.rstrip("."), caption=caption, size=(12.0, 0.8 + 2.9 * height), wide=True)


def _groups(steps: Sequence[Record], tree: Tree) -> list[Part]:
    """Whose classes were the groups of mixing, where that changed over the run."""
    found: dict[str, int] = {}
    for one in steps:
        if (level := one.get("curves", {}).get(GROUPS)) is not None:
            found.setdefault(tree.levels[int(level)], int(one["step"]))
    if not found:
        return []
    text = ", then ".join(f"{level} (seen at step {step:,})" for level, step in found.items())
    return [Text(f"Rows were mixed with rows of the same {text}.", muted=True)]


def _blocks(passes: Sequence[Record], blocks: dict[str, int], tree: Tree, draw: Draw) -> list[Part]:
    """Accuracy without sets of blocks, as far below the standard pass, and how many rows have each block."""
    latest = {one["name"]: one["metrics"] for one in passes}
    standard = latest.get("val")
    if standard is None:
        return [Text("No standard pass is finished yet.", muted=True)]
    valid: list[list[Cell]] = [[name, width, Share(standard.get(f"valid_{name}"))] for name, width in blocks.items()]
    parts: list[Part] = [Table(("block", "columns", "valid"), valid, "Share of validation rows that have each block.")]
    masked = {_without(name, list(blocks)): metrics for name, metrics in latest.items() if name.startswith(MASKED)}
    if not masked:
        return parts
    rows: list[list[Cell]] = []
    for name, metrics in {NOTHING: standard, **masked}.items():
        cells: list[Cell] = [name]
        for level in tree.levels:
            value, best = metrics.get(f"{level}/top1"), standard.get(f"{level}/top1")
            has_both = value is not None and best is not None and name != NOTHING
            cells += [Share(value), f"{value - best:+.3f}" if has_both else None]
        rows.append(cells)
    heads = [text for level in tree.levels for text in (f"{level} top-1", "change")]
    parts.append(Table(("without", *heads), rows, "Top-1 of each level without blocks, next to the standard pass."))
    parts.append(_block_bars(masked, standard, tree.levels[0], draw))
    return parts


def _without(name: str, blocks: Sequence[str]) -> str:
    """The blocks of a masked pass as people read them; their own names may hold the sign that joins them."""

    def split(rest: str, left: Sequence[str]) -> list[str] | None:
        if rest in left:
            return [rest]
        for place, block in enumerate(left):
            if rest.startswith(f"{block}_") and (more := split(rest[len(block) + 1 :], left[place + 1 :])):
                return [block, *more]
        return None

    rest = name.removeprefix(MASKED)
    return "all of them" if rest == "all" else " + ".join(split(rest, blocks) or [rest])


def _block_bars(masked: dict[str, Any], standard: dict[str, Any], level: str, draw: Draw) -> Picture:
    names = [NOTHING, *masked]
    values = [float(one.get(f"{level}/top1") or 0.0) for one in (standard, *masked.values())]
    return draw.bars(
        names,
        values,
        texts=[f"{value:.3f}" for value in values],
        colors=[draw.colors[0], *[draw.colors[5]] * len(masked)],
        value_label=f"{level} top-1",
        limit=1.1,
        alt=f"Top-1 of {level} without sets of blocks",
        caption=f"Top-1 of {level} without these blocks.",
    )


def _during(passes: Sequence[Record], name: str) -> list[Record]:
    """A pass as it ran in training, in order."""
    return [one for one in passes if one["name"] == name and not one.get("is_final")]


def _line(
    label: str,
    records: Sequence[Record],
    get: Callable[[Record], Any],
    style: tuple[str, bool],
    *,
    faint: bool = False,
    points: bool = False,
) -> list[Line]:
    """A curve over steps with gaps where there is no value; none without any value."""
    x: Floats = np.array([float(one["step"]) for one in records])
    y: Floats = np.array([np.nan if (value := get(one)) is None else float(value) for one in records])
    color, is_dashed = style
    line = Line(label, x, y, color, faint=faint, dashed=is_dashed, points=points)
    return [line] if np.isfinite(y).any() else []


def _over_steps(lines: Sequence[Line], y_label: str, caption: str, draw: Draw, *, from_zero: bool = False) -> Picture:
    alt = caption.rstrip(".")
    return draw.lines(lines, alt=alt, caption=caption, x_label="step", y_label=y_label, from_zero=from_zero)
