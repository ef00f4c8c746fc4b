"""What a report page is made of: the seam between a task and the report.

A task's module `pages` has one function, `pages(run: RunFacts, draw: Draw) -> Pages`. It says what is on its pages in
plain data (sections of texts, tables, pictures); the report room turns that into HTML and does all escaping, so a
task never writes markup. Pictures come from the drawing helpers `draw`, which the report passes in: a task imports
neither the report nor matplotlib.

    RunFacts + Draw  ->  pages(...)  ->  Pages(sections, classification)  ->  HTML page, CSV, diagnostics picture

In pictures use Latin text and ids only: matplotlib shapes no Arabic. In tables any text is right, the browser
shapes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Severity = Literal["good", "note", "warn", "stop"]


@dataclass(frozen=True)
class Share:
    """A table cell: a number between 0 and 1, shown with a bar behind it; None shows a dash."""

    value: float | None


@dataclass(frozen=True)
class Code:
    """A table cell or text in fixed-width type (file names, settings, pairs)."""

    text: str


Cell = str | int | float | None | Share | Code


@dataclass(frozen=True)
class Text:
    """A paragraph; `muted` for remarks."""

    text: str
    muted: bool = False


@dataclass(frozen=True)
class Notice:
    """A line that must be seen, coloured by its severity."""

    severity: Severity
    text: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under column heads; rows whose position is in `marked` stand out."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A finished picture; `alt` says in words what it shows. `wide` ones take the whole width of the page."""

    data: bytes
    kind: Literal["svg", "png"]
    alt: str
    caption: str = ""
    wide: bool = False
    width: int = 1152
    """Pixels at which its text has the size of the page's; it is never shown wider."""


@dataclass(frozen=True)
class Tile:
    """A key number with its name and a remark."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Tiles:
    """A row of key numbers."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Beside:
    """Two parts side by side where the page is wide enough."""

    left: "Part"
    right: "Part"


@dataclass(frozen=True)
class Details:
    """Parts that are folded away until a reader asks for them."""

    summary: str
    parts: "Sequence[Part]"


Part = Text | Notice | Table | Picture | Tiles | Beside | Details


@dataclass(frozen=True)
class Section:
    """A titled part of the page; pictures that follow each other stand side by side."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Class:
    """What a class is called: its word id, English name, and native name (any script)."""

    word: int
    name: str
    native: str = ""


@dataclass(frozen=True)
class Classification:
    """Counts `[C, C]` (rows true, columns predicted) with the name of each class, for the files beside the page."""

    confusion: NDArray[np.int64]
    classes: Sequence[Class]


@dataclass(frozen=True)
class Pages:
    """What a task adds to a report."""

    sections: Sequence[Section]
    classification: Classification | None = None


@dataclass(frozen=True)
class RunFacts:
    """What a task's pages are made from: the ledger without redone work, and shortcuts into it."""

    records: Sequence[dict[str, Any]]
    """All effective records in order; each has `event`, `attempt`, `epoch`, `step`, and the fields of its event."""
    info: dict[str, Any]
    """What the task said of itself at the start; empty before the first start."""
    config: dict[str, Any]
    best_metric: str
    """`pass/metric`; empty before the first start."""
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each pass by name the record that has the detail to show: the final one, else that of the newest best."""


@dataclass(frozen=True)
class Line:
    """One curve: `y` may hold NaN for gaps; `faint` ones are the raw values behind a smoothed one."""

    label: str
    x: Floats
    y: Floats
    color: str
    faint: bool = False
    dashed: bool = False
    points: bool = False


@dataclass(frozen=True)
class Mark:
    """A moment on the x axis: a vertical line with a word (restart), or a symbol."""

    x: float
    label: str
    color: str
    kind: Literal["line", "tick", "star"] = "line"
    y: float | None = None
    """Height of a star."""


NO_HEADLINE = "No headline."
"""Title of the notice that stands in place of key numbers which would mislead."""

LABELLED_CLASSES = 40
"""Classes up to which a confusion matrix has room for names and counts."""

Paint = Callable[[Any], None]
"""Draws on a matplotlib Axes, which it gets as its argument."""


def told_apart(number: int, colors: Sequence[str]) -> tuple[str, bool]:
    """Colour of line `number` (from 0) and whether it is dashed, which tells twice as many apart."""
    return colors[number % len(colors)], number // len(colors) % 2 == 1


class Draw(Protocol):
    """The drawing helpers: one restrained, colour-blind safe style for every picture of a report."""

    @property
    def colors(self) -> Sequence[str]:
        """Colours told apart by everyone, in the order of use: blue, vermilion, green, orange, purple, sky."""
        ...

    @property
    def bad(self) -> str:
        """The colour of what needs a look."""
        ...

    @property
    def muted(self) -> str:
        """The colour of what stands back."""
        ...

    def plain(self, text: str, limit: int = 22) -> str:
        """Text as a picture can set it: cut to `limit` letters, no formulas, `?` for scripts beyond Cyrillic."""
        ...

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
        """Whatever `paint` draws; `size` in inches; `raster` makes a PNG, for pictures of very many marks."""
        ...

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
        """Curves over steps; with `epoch_steps` a second axis counts epochs of that many steps."""
        ...

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
        """Horizontal bars from top to bottom, with a text at the end of each; `limit` is the end of the axis."""
        ...

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
        """Upright bars in the given order (bins of a quantity)."""
        ...

    def matrix(
        self,
        counts: NDArray[np.int64],
        rows: Sequence[str],
        columns: Sequence[str],
        *,
        alt: str,
        caption: str = "",
    ) -> Picture:
        """Counts `[rows, columns]` of true against predicted classes, coloured by their share of the row.

        Up to `LABELLED_CLASSES` rows the cells carry their counts and the axes the names. Beyond, the matrix must be
        square: every confusion is a dot large enough to be seen, dark by the logarithm of its count, the diagonal is
        coloured by recall, and `rows` (short ones) name ticks of both axes.
        """
        ...

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
        """Shares `[rows, columns]` between 0 and 1 as shades, under the names of both axes."""
        ...
