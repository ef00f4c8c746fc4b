"""Draws a word as strips of stick figures, one row per signer, frames from left to right, for a person to look at.

A group that was not found in a frame is said so: a hollow ring at the wrist where the body tells where that is, and its
name under the figure. Layouts without lines to draw (a glove) show the path of their points.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError, SettingsError
from trainer.tasks.signs.packed import ClassInfo, Recordings
from trainer.tasks.signs.schema import Schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_FRAMES = 9
MAX_SIGNERS = 6
_COLOURS = ("#38404a", "#8a94a0", "#d1495b", "#1f77b4", "#2a9d6f", "#b5761f")
_WRISTS = {"rh": 5, "lh": 4}
"""Pose row of each hand's wrist in the KArSL layout."""
_CELL_INCHES = 1.9
_DPI = 110


def show(
    recordings: Recordings,
    word: int | str,
    file: str | Path,
    *,
    signers: Sequence[str] = (),
    num_frames: int = NUM_FRAMES,
) -> Path:
    """Write a PNG of one word, one recording of each signer (at most six), and return its path.

    `word` is a word id or a name. Raises DataError for a word or signer that is not there, SettingsError without
    matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingsError("drawing needs matplotlib: pip install 'signs-trainer[report]'") from None
    label = find_class(recordings, word)
    rows = _one_per_signer(recordings, label, signers)
    figure = Figure(figsize=(_CELL_INCHES * num_frames, 0.45 + _CELL_INCHES * len(rows)), dpi=_DPI, facecolor="white")
    axes = figure.subplots(len(rows), num_frames, squeeze=False)
    for row, cells in zip(rows, axes, strict=True):
        _draw_row(recordings, row, cells)
    figure.suptitle(_title(recordings.classes[label]), fontsize=11, y=0.995, va="top")
    figure.subplots_adjust(
        left=0.03, right=0.998, bottom=0.01, top=1 - 0.35 / figure.get_figheight(), wspace=0.03, hspace=0.04
    )
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file


def find_class(recordings: Recordings, word: int | str) -> int:
    """The class id of a word id (a number, or text that is one) or of a name in either language.

    Raises DataError for an unknown word, and for a name that several words have.
    """
    number = int(word) if str(word).isdecimal() else None
    found = [i for i, info in enumerate(recordings.classes) if number == info.word]
    found = found or [i for i, info in enumerate(recordings.classes) if str(word) in (info.name, info.native)]
    if len(found) == 1:
        return found[0]
    known = [info.word for info in recordings.classes]
    if found:
        several = ", ".join(str(known[i]) for i in found)
        raise DataError(f"{recordings.path}: {len(found)} words are named {word!r}; say which by its number: {several}")
    raise DataError(f"{recordings.path} has no word {word!r}; there are words {min(known)} to {max(known)}")


def _one_per_signer(recordings: Recordings, label: int, signers: Sequence[str]) -> list[int]:
    """The recording of median length of each signer, in the set's order."""
    wanted = recordings.signer_ids(signers) if signers else range(len(recordings.signers))
    chosen = []
    for signer in wanted:
        own = np.flatnonzero((recordings.label == label) & (recordings.signer == signer))
        if len(own):
            by_length = own[np.argsort(recordings.lengths[own], kind="stable")]
            chosen.append(int(by_length[len(own) // 2]))
    if not chosen:
        raise DataError(f"{recordings.path}: no recording of {_title(recordings.classes[label])}")
    return chosen[:MAX_SIGNERS]


def _title(info: ClassInfo) -> str:
    """Number and English name; the native name is left to viewers that shape its script."""
    return f"word {info.word}: {info.name}"


def _draw_row(recordings: Recordings, index: int, cells: Sequence["Axes"]) -> None:
    """One recording, its frames spread evenly over the cells, in one frame of reference."""
    clip, schema = recordings.clip(index), recordings.schema
    if "x" not in schema.features or "y" not in schema.features:
        raise DataError(f"{recordings.path}: a layout without x and y ({', '.join(schema.features)}) cannot be drawn")
    xy = clip[:, :, [schema.features.index("x"), schema.features.index("y")]]
    seen = clip[:, :, schema.visibility] > 0 if schema.visibility is not None else np.ones(clip.shape[:2], bool)
    low, high = _limits(xy[seen])
    vertical = (high[1], low[1]) if schema.edges else (low[1], high[1])  # a picture's y points down, a tracker's up
    for cell, frame in zip(cells, np.linspace(0, len(clip) - 1, len(cells)).round().astype(int), strict=True):
        cell.set(xlim=(low[0], high[0]), ylim=vertical, xticks=[], yticks=[], aspect="equal")
        cell.spines[:].set_color("#d5dae0")
        if schema.edges:
            _draw_figure(cell, schema, xy[frame], seen[frame])
        else:
            _draw_path(cell, xy[: frame + 1])
        cell.text(0.03, 0.98, f"{frame + 1}/{len(clip)}", transform=cell.transAxes, fontsize=7, va="top", color="#667")
    cells[0].set_ylabel(f"signer {recordings.signers[recordings.signer[index]]}", fontsize=9)


def _limits(points: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A square that holds nearly all points, with a margin; outliers of a bad frame do not shrink the figure."""
    if not len(points):
        return np.zeros(2), np.ones(2)
    low, high = np.percentile(points, [0.2, 99.8], axis=0)
    middle, half = (low + high) / 2, max(0.54 * float((high - low).max()), 1e-3)
    return middle - half, middle + half


def _draw_figure(cell: "Axes", schema: Schema, xy: NDArray[np.float32], seen: NDArray[np.bool_]) -> None:
    """One stick figure, group by group; what is missing is marked."""
    from matplotlib.collections import LineCollection

    missing = []
    for i, (rows, group) in enumerate(zip(schema.rows, schema.groups, strict=True)):
        colour = _COLOURS[i % len(_COLOURS)]
        if not seen[rows].any():
            missing.append(group.name)
            _draw_missing(cell, schema, group.name, xy, seen, colour)
            continue
        points, shown = xy[rows], seen[rows]
        lines = [points[[a, b]] for a, b in group.edges if shown[a] and shown[b]]
        body = group.name == "pose"
        cell.add_collection(
            LineCollection(
                lines, colors=colour, linewidths={"pose": 2.4, "face": 0.6}.get(group.name, 1.1), capstyle="round"
            )
        )
        if body:
            cell.plot(*points[shown].T, "o", color=colour, markersize=3)
    _draw_neck(cell, schema, xy, seen)
    if missing:
        cell.text(
            0.97,
            0.98,
            f"no {', '.join(missing)}",
            transform=cell.transAxes,
            fontsize=7,
            ha="right",
            va="top",
            color="#b00",
        )


def _draw_missing(
    cell: "Axes", schema: Schema, name: str, xy: NDArray[np.float32], seen: NDArray[np.bool_], colour: str
) -> None:
    """A hollow ring where the lost hand must be, as far as the pose knows."""
    if "pose" in schema.group_names and name in _WRISTS:
        row = schema.rows[schema.group_names.index("pose")].start + _WRISTS[name]
        if seen[row]:
            cell.plot(*xy[row], "o", markersize=9, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1)


def _draw_neck(cell: "Axes", schema: Schema, xy: NDArray[np.float32], seen: NDArray[np.bool_]) -> None:
    """A line from between the shoulders to the lowest face point, so that head and body are one figure."""
    if not {"pose", "face"} <= set(schema.group_names):
        return
    pose, face = (schema.rows[schema.group_names.index(name)] for name in ("pose", "face"))
    if seen[pose].any() and seen[face].any():
        chin = xy[face][xy[face][:, 1].argmax()]
        cell.plot(*np.stack([xy[pose][:2].mean(axis=0), chin]).T, color=_COLOURS[0], linewidth=2.4)


def _draw_path(cell: "Axes", xy: NDArray[np.float32]) -> None:
    """The way of every point up to this frame, and where it is now."""
    for point in range(xy.shape[1]):
        cell.plot(*xy[:, point].T, color=_COLOURS[1], linewidth=0.9)
        cell.plot(*xy[-1, point], "o", color=_COLOURS[2], markersize=5)
