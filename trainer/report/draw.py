"""The drawing helpers behind `tasks.page.Draw`: matplotlib figures in one restrained style, as SVG or PNG bytes.

Colours are those of Okabe and Ito (2008), told apart with every kind of colour vision; what matters is never said by
colour alone. The same input gives the same bytes. matplotlib is imported on first use; nothing here opens a window.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import SettingsError
from trainer.report.heat import RASTER_DPI, paint_cells, paint_dots
from trainer.tasks.page import LABELLED_CLASSES, Floats, Line, Mark, Paint, Picture

COLORS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
MUTED = "#8a949e"
GRID = "#e6eaee"
MAX_HALF_WIDTH_ROWS = 14
"""Rows of a confusion matrix whose labels can be read at half the width of the page."""

MAX_FLAT_LETTERS = 60
"""Letters of all column names that fit below a picture of half the width side by side."""

MAX_INSIDE = 6
"""Entries of a legend that leave room for the curves; a longer one stands below the picture."""

LEGEND_INCHES = 2.3
"""Width of a column of a legend below a picture."""

PAGE_DPI = 96
"""Pixels of the page for an inch of a picture, so that text has one size everywhere."""

STYLE: Any = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": "#b5bec7",
    "axes.labelcolor": "#3e4c59",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "trainer",
}


class Pencil:
    """Implements `Draw`; has no state."""

    @property
    def colors(self) -> Sequence[str]:
        """Blue, vermilion, green, orange, purple, sky."""
        return COLORS

    @property
    def bad(self) -> str:
        """Vermilion: what needs a look."""
        return COLORS[1]

    @property
    def muted(self) -> str:
        """Grey: what stands back."""
        return MUTED

    def plain(self, text: str, limit: int = 22) -> str:
        """Text that matplotlib can set."""
        return plain(text, limit)

    def paint(
        self,
        paint: Paint,
        *,
        alt: str,
        caption: str = "",
        size: tuple[float, float] = (6.0, 3.6),
        wide: bool = False,
        raster: bool = False,
    ) -> Picture:
        """Whatever `paint` draws on the axes it is given."""
        kind = "png" if raster else "svg"
        data = render(lambda figure: paint(figure.add_subplot()), size=size, kind=kind, dpi=RASTER_DPI)
        return Picture(data, "png" if raster else "svg", alt, caption, wide, round(size[0] * PAGE_DPI))

    def lines(
        self,
        lines: Sequence[Line],
        *,
        alt: str,
        x_label: str,
        y_label: str,
        caption: str = "",
        marks: Sequence[Mark] = (),
        epoch_steps: int = 0,
        log_y: bool = False,
        from_zero: bool = False,
        wide: bool = False,
    ) -> Picture:
        """Curves over steps with marks, and epochs on the upper axis."""

        def paint(axes: Any) -> None:
            for line in lines:
                _paint_line(axes, line)
            if log_y and any(np.any(line.y > 0) for line in lines):
                axes.set_yscale("log")
            if from_zero:
                axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            _paint_marks(axes, marks)
            axes.set(xlabel=x_label, ylabel=y_label)
            if epoch_steps > 0:
                _add_epoch_axis(axes, epoch_steps)
            _add_legend(axes, has_marks=bool(marks))

        return self.paint(paint, alt=alt, caption=caption, size=(12.0, 3.9) if wide else (6.0, 3.7), wide=wide)

    def bars(
        self,
        labels: Sequence[str],
        values: Sequence[float],
        *,
        alt: str,
        value_label: str,
        caption: str = "",
        texts: Sequence[str] = (),
        colors: Sequence[str] = (),
        limit: float | None = None,
        wide: bool = False,
    ) -> Picture:
        """Horizontal bars, the first one at the top."""

        def paint(axes: Any) -> None:
            positions = np.arange(len(values))
            bars = axes.barh(positions, values, color=list(colors) or COLORS[0], height=0.72)
            axes.bar_label(bars, labels=list(texts) or None, padding=3, fontsize=8.5, color="#3e4c59")
            axes.set_yticks(positions, labels=[plain(label, limit=60) for label in labels])
            axes.set(xlabel=value_label, ylim=(len(values) - 0.4, -0.6))
            axes.set_xlim(0, limit) if limit else axes.margins(x=0.12)
            axes.grid(visible=False, axis="y")

        width, height = (12.0 if wide else 6.0), max(1.6, 0.9 + 0.235 * len(values))
        return self.paint(paint, alt=alt, caption=caption, size=(width, height), wide=wide)

    def columns(
        self,
        labels: Sequence[str],
        values: Sequence[float],
        *,
        alt: str,
        x_label: str,
        y_label: str,
        caption: str = "",
        texts: Sequence[str] = (),
        limit: float | None = None,
    ) -> Picture:
        """Upright bars, such as the bins of a quantity."""

        def paint(axes: Any) -> None:
            positions = np.arange(len(values))
            bars = axes.bar(positions, values, color=COLORS[0], width=0.72)
            axes.bar_label(bars, labels=list(texts) or None, padding=2, fontsize=8, color="#3e4c59")
            is_long = sum(map(len, labels)) > MAX_FLAT_LETTERS
            axes.set_xticks(positions, labels=[plain(label) for label in labels], rotation=20 if is_long else 0)
            axes.set(xlabel=x_label, ylabel=y_label)
            axes.set_ylim(0, limit * 1.08) if limit else axes.margins(y=0.12)
            axes.grid(visible=False, axis="x")

        return self.paint(paint, alt=alt, caption=caption)

    def matrix(
        self,
        counts: NDArray[np.int64],
        rows: Sequence[str],
        columns: Sequence[str],
        *,
        alt: str,
        caption: str = "",
    ) -> Picture:
        """Labelled cells up to `LABELLED_CLASSES` rows, dots beyond."""
        if len(rows) > LABELLED_CLASSES:
            size = (10.8, 8.9)
            return self.paint(
                lambda axes: paint_dots(axes, counts, rows), alt=alt, caption=caption, size=size, wide=True, raster=True
            )
        side, wide = 2.0 + 0.3 * max(len(rows), 11), len(rows) > MAX_HALF_WIDTH_ROWS
        names = [plain(name) for name in rows], [plain(name) for name in columns]
        return self.paint(
            lambda axes: paint_cells(axes, counts, *names),
            alt=alt,
            caption=caption,
            size=(min(side + 1.2, 12.0), min(side, 11.0)),
            wide=wide,
        )

    def weights(
        self,
        values: Floats,
        rows: Sequence[str],
        columns: Sequence[str],
        *,
        alt: str,
        x_label: str,
        y_label: str,
        caption: str = "",
    ) -> Picture:
        """Shades of blue with a scale beside them; columns are named upright where their names are long."""
        names = [plain(name) for name in columns]
        is_long = sum(map(len, names)) > MAX_FLAT_LETTERS

        def paint(axes: Any) -> None:
            shades = axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
            axes.set_xticks(
                range(len(names)),
                labels=names,
                rotation=60 if is_long else 0,
                ha="right" if is_long else "center",
                rotation_mode="anchor" if is_long else "default",
            )
            axes.set_yticks(range(len(rows)), labels=[plain(name) for name in rows])
            axes.set(xlabel=x_label, ylabel=y_label)
            axes.grid(visible=False)
            axes.figure.colorbar(shades, ax=axes, fraction=0.04, pad=0.02)

        return self.paint(paint, alt=alt, caption=caption, size=(6.0, max(2.4, 1.5 + 0.26 * len(rows))))


def render(paint: Paint, *, size: tuple[float, float], kind: str, dpi: int) -> bytes:
    """Bytes (`svg`, `png`, `jpg`) of a figure of `size` inches that `paint` fills, in the style of all pictures."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError("a report needs matplotlib: pip install 'signs-trainer[report]'") from error
    buffer = io.BytesIO()
    # Without dates and creator the same run gives the same page.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        paint(figure)
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def plain(text: str, limit: int = 22) -> str:
    """Text that matplotlib can set: cut to `limit`, no formulas; scripts beyond Cyrillic become `?`."""
    readable = "".join(c if ord(c) < 0x530 or 0x2010 <= ord(c) <= 0x2027 else "?" for c in text).replace("$", r"\$")
    return readable if len(readable) <= limit else readable[: limit - 1] + "…"


def _paint_line(axes: Any, line: Line) -> None:
    axes.plot(
        line.x,
        line.y,
        label="_" if line.faint else line.label,
        color=line.color,
        alpha=0.28 if line.faint else 1.0,
        linewidth=0.9 if line.faint else None,
        linestyle="--" if line.dashed else "-",
        marker="o" if line.points else None,
        markersize=3.4,
        markerfacecolor="white" if line.dashed else None,
    )


def _paint_marks(axes: Any, marks: Sequence[Mark]) -> None:
    """Each kind of mark has one entry in the legend, whatever their number."""
    seen: set[str] = set()
    for mark in marks:
        label = "_" if mark.label in seen else mark.label
        seen.add(mark.label)
        if mark.kind == "line":
            axes.axvline(mark.x, color=mark.color, linestyle=(0, (4, 3)), linewidth=1.1, label=label, zorder=1.5)
        elif mark.kind == "tick":
            above_axis = axes.get_xaxis_transform()
            axes.plot(
                [mark.x], [0.0], "^", color=mark.color, markersize=4.5, transform=above_axis, label=label, clip_on=False
            )
        elif mark.y is not None:
            axes.plot([mark.x], [mark.y], "*", color=mark.color, markersize=13, label=label, zorder=4, mec="white")


def _add_epoch_axis(axes: Any, epoch_steps: int) -> None:
    upper = axes.secondary_xaxis("top", functions=(lambda x: x / epoch_steps, lambda x: x * epoch_steps))
    upper.set_xlabel("epoch", fontsize=8.5)
    upper.tick_params(labelsize=8.5)
    upper.spines["top"].set_visible(False)
    upper.xaxis.get_major_locator().set_params(integer=True)


def _add_legend(axes: Any, has_marks: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > MAX_INSIDE:
        columns = int(axes.figure.get_figwidth() / LEGEND_INCHES)
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    elif len(handles) > 1 or has_marks:
        axes.legend(ncols=1 if len(handles) < 5 else 2)
