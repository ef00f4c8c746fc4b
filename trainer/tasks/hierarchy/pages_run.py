"""Report sections of the course of a hierarchy run: levels, balance, curves of the settings, masked blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.tasks.hierarchy.tree import Tree
from trainer.tasks.page import Cell, Draw, Floats, Line, Mark, Part, Picture, RunFacts, Section, Share, Table, Text

Record = dict[str, Any]
MAX_LEVELS = 6
"""Colours that are told apart."""


def sections(run: RunFacts, tree: Tree, draw: Draw) -> list[Section]:
    """What there is to show; a run without balance, curves or blocks has no section of them."""
    steps = sorted((one for one in run.records if one["event"] == "StepDone"), key=lambda one: int(one["step"]))
    passes = [one for one in run.records if one["event"] == "PassDone"]
    found = []
    if steps or passes:
        found.append(Section("Levels", _levels(steps, passes, tree, draw)))
    if any(one.get("weights") for one in steps):
        found.append(Section("Balance of the levels", _balance(steps, tree, draw)))
    if any(one.get("curves") for one in steps):
        found.append(Section("Mixing and masking over the run", _curves(steps, passes, draw)))
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
        for level, color in zip(tree.levels, draw.colors, strict=False):
            lines += _line(f"{level}, training", steps, _of(trained, level), color, faint=True)
            lines += _line(
                level, val, _of(lambda one, key: one["metrics"].get(key), f"{level}/{name}"), color, points=True
            )
        if lines:
            caption = (
                f"{'Loss' if name == 'loss' else 'Top-1'} of each level: points are the pass val, faint is training."
            )
            pictures.append(_over_steps(lines, name, caption, draw, from_zero=name == "top1"))
    return pictures


def _of(get: Callable[[Record, str], Any], key: str) -> Callable[[Record], Any]:
    return lambda one: get(one, key)


def _balance(steps: Sequence[Record], tree: Tree, draw: Draw) -> list[Part]:
    """Weights, norms at the shared trunk, and losses over their first values."""
    pictures: list[Part] = []
    for title, label, get in (
        ("Weight of each level's loss; together they are the number of levels.", "weight", _entry("weights")),
        ("Norm of each level's gradient at the shared trunk, running mean.", "norm", _entry("norms")),
        ("Loss of each level over its first value: who has gained how much.", "loss / first loss", _relative(steps)),
    ):
        lines = [
            line
            for level, color in zip(tree.levels, draw.colors, strict=False)
            for line in _line(level, steps, _of(get, level), color)
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


def _curves(steps: Sequence[Record], passes: Sequence[Record], draw: Draw) -> list[Part]:
    """The curves of the settings; ticks stand where passes ran."""
    names = list(dict.fromkeys(name for one in steps for name in one.get("curves", {})))
    lines = [
        line
        for name, color in zip(names, draw.colors, strict=False)
        for line in _line(name, steps, _of(_entry("curves"), name), color)
    ]
    marks = [Mark(float(step), kind, color, "tick") for step, kind, color in _ran(passes, draw)]
    caption = "Values that follow the settings' curves; ticks stand where passes ran."
    return [_over_steps(lines, "value", caption, draw, marks=marks, from_zero=True, wide=True)]


def _ran(passes: Sequence[Record], draw: Draw) -> list[tuple[int, str, str]]:
    """Steps after which passes ran, what kinds they were, and a colour for each."""
    at: dict[int, set[bool]] = {}
    for one in passes:
        if not one.get("is_final"):
            at.setdefault(int(one["step"]), set()).add("_mask_" in one["name"])
    kinds = {
        frozenset({False}): ("standard pass", draw.muted),
        frozenset({True}): ("masked passes", draw.bad),
        frozenset({False, True}): ("both", draw.colors[4]),
    }
    return [(step, *kinds[frozenset(found)]) for step, found in sorted(at.items())]


def _blocks(passes: Sequence[Record], blocks: dict[str, int], tree: Tree, draw: Draw) -> list[Part]:
    """Accuracy without sets of blocks, as far below the standard pass, and how many rows have each block."""
    latest = {one["name"]: one["metrics"] for one in passes}
    standard = latest.get("val")
    if standard is None:
        return [Text("No standard pass is finished yet.", muted=True)]
    valid: list[list[Cell]] = [[name, width, Share(standard.get(f"valid_{name}"))] for name, width in blocks.items()]
    parts: list[Part] = [Table(("block", "columns", "valid"), valid, "Share of validation rows that have each block.")]
    masked = {name: metrics for name, metrics in latest.items() if name.startswith("val_mask_")}
    if not masked:
        return parts
    rows: list[list[Cell]] = []
    for name, metrics in {"val": standard, **masked}.items():
        cells: list[Cell] = [name.removeprefix("val_mask_") if name != "val" else "(nothing)"]
        for level in tree.levels:
            value, best = metrics.get(f"{level}/top1"), standard.get(f"{level}/top1")
            has_both = value is not None and best is not None and name != "val"
            cells += [Share(value), f"{value - best:+.3f}" if has_both else None]
        rows.append(cells)
    heads = [text for level in tree.levels for text in (f"{level} top-1", "change")]
    parts.append(Table(("without", *heads), rows, "Top-1 of each level without blocks, next to the standard pass."))
    parts.append(_block_bars(masked, standard, tree.levels[0], draw))
    return parts


def _block_bars(masked: dict[str, Any], standard: dict[str, Any], level: str, draw: Draw) -> Picture:
    names = ["(nothing)", *(name.removeprefix("val_mask_").replace("_", " + ") for name in masked)]
    values = [float(one.get(f"{level}/top1") or 0.0) for one in (standard, *masked.values())]
    return draw.bars(
        names,
        values,
        texts=[f"{value:.3f}" for value in values],
        colors=[draw.colors[0], *[draw.colors[1]] * len(masked)],
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
    color: str,
    *,
    faint: bool = False,
    points: bool = False,
) -> list[Line]:
    """A curve over steps with gaps where there is no value; none without any value."""
    x: Floats = np.array([float(one["step"]) for one in records])
    y: Floats = np.array([np.nan if (value := get(one)) is None else float(value) for one in records])
    return [Line(label, x, y, color, faint=faint, points=points)] if np.isfinite(y).any() else []


def _over_steps(
    lines: Sequence[Line],
    y_label: str,
    caption: str,
    draw: Draw,
    *,
    marks: Sequence[Mark] = (),
    from_zero: bool = False,
    wide: bool = False,
) -> Picture:
    alt = caption.rstrip(".")
    return draw.lines(
        lines, alt=alt, caption=caption, x_label="step", y_label=y_label, marks=marks, from_zero=from_zero, wide=wide
    )
