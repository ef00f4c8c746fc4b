"""Draws rows of a dashboard with matplotlib from what a Prometheus answers to its queries: pictures for a README.

    python -m charts.tools.dashboards.pictures http://127.0.0.1:9090 signs-train --minutes 5 --out pictures

Places, titles, units, thresholds and queries are those of the dashboard; Grafana's look is another.
"""

import argparse
import io
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charts.tools.dashboards import DASHBOARDS
from charts.tools.dashboards.answers import Points, Source
from charts.tools.dashboards.grafana import COLUMNS, Dashboard, Json

COLORS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a949e")
NAMED = {"green": "#2f8f4e", "orange": "#d9822b", "red": "#c0392b", "blue": "#2b6cb0", "purple": "#8f3bb8"}
INK, MUTED, LINE = "#1f2933", "#616e7c", "#dde3e8"
UNIT_INCHES = (0.5, 0.34)
"""Width of a column and height of a row of Grafana's grid."""
NOTE = "Drawn with matplotlib from Prometheus data by the dashboard's own queries; Grafana's look differs."


def draw(dashboard: Dashboard, source: Source, out: Path) -> None:
    """The whole dashboard as PNG; see `only` for a part of it."""
    from matplotlib.figure import Figure
    from PIL import Image

    made = dashboard.json()
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in made["panels"]) + 1
    figure = Figure(figsize=(COLUMNS * UNIT_INCHES[0], height * UNIT_INCHES[1]), facecolor="white")
    timed = (one for one in made["annotations"]["list"] if one["useValueForTime"])
    marks = {one["iconColor"]: source.moments(one) for one in timed}
    for panel in made["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        place = [x / COLUMNS, 1 - (y + h) / height, w / COLUMNS, h / height]
        if panel["type"] == "row":
            figure.text(0.006, place[1] + 0.3 / height, panel["title"], size=11, weight="bold", color=INK)
        else:
            _panel(figure, panel, place, source, marks)
    figure.text(0.006, 0.25 / height, NOTE, size=7.5, color=MUTED)
    raw = io.BytesIO()
    figure.savefig(raw, dpi=84)
    out.parent.mkdir(parents=True, exist_ok=True)
    # a palette makes a third of it; pictures lie in the repository
    Image.open(raw).convert("RGB").quantize(224).save(out, optimize=True)


def only(dashboard: Dashboard, rows: Sequence[str], leave_out: Sequence[str] = ()) -> Dashboard:
    """The rows of these titles without the panels of those."""
    kept = [
        replace(row, panels=[panel for panel in row.panels if panel.title not in leave_out])
        for row in dashboard.rows
        if row.title in rows
    ]
    return replace(dashboard, rows=kept)


def _panel(figure: Any, panel: Json, place: list[float], source: Source, marks: dict[str, list[float]]) -> None:
    """Frame and title, and what is in it."""
    left, bottom, width, height = place
    inch_x, inch_y = 1 / figure.get_figwidth(), 1 / figure.get_figheight()
    frame = figure.add_axes(
        (left + 0.04 * inch_x, bottom + 0.04 * inch_y, width - 0.08 * inch_x, height - 0.08 * inch_y)
    )
    frame.set(xticks=[], yticks=[], facecolor="none")
    for spine in frame.spines.values():
        spine.set(color=LINE)
    figure.text(left + 0.12 * inch_x, bottom + height - 0.22 * inch_y, panel["title"], size=8, color=INK)
    inner = (left + 0.1 * inch_x, bottom + 0.08 * inch_y, width - 0.2 * inch_x, height - 0.36 * inch_y)
    if panel["type"] in ("stat", "gauge"):
        _tile(figure.add_axes(inner), panel, source)
    elif panel["type"] == "bargauge":
        _bars(figure.add_axes(inner), panel, source)
    elif panel["type"] == "table":
        _table(figure.add_axes(inner), panel, source)
    else:
        inner = (left + 0.62 * inch_x, bottom + 0.3 * inch_y, width - 0.78 * inch_x, height - 0.62 * inch_y)
        paint = _timeline if panel["type"] == "state-timeline" else _curves
        paint(figure.add_axes(inner), panel, source, marks)


def _tile(axes: Any, panel: Json, source: Source) -> None:
    axes.axis("off")
    defaults = panel["fieldConfig"]["defaults"]
    shown = [one for index in range(len(panel["targets"])) for one in source.ask(panel, index)]
    texts = [_text(points[-1][1], defaults) for _, points in shown] or [defaults["noValue"]]
    if panel["options"].get("textMode") == "value_and_name":
        texts = [f"{text}  {name}" for text, (name, _) in zip(texts, shown, strict=False)] or texts
    color = _color(shown[0][1][-1][1], defaults) if shown else MUTED
    # a letter is about 0.7 of its size wide; sizes are points, the box is pixels of 72 to the inch here
    size = min(18, axes.bbox.width * 0.72 / 0.75 / max(5, *map(len, texts)), 0.3 * axes.bbox.height / len(texts))
    axes.text(0.5, 0.5, "\n".join(texts), ha="center", va="center", size=size, weight="bold", color=color,
              transform=axes.transAxes)  # fmt: skip
    if panel["type"] == "gauge" and shown:
        axes.barh([0.12], [1], height=0.1, color=LINE, transform=axes.transAxes)
        axes.barh([0.12], [shown[0][1][-1][1]], height=0.1, color=color, transform=axes.transAxes)


def _bars(axes: Any, panel: Json, source: Source) -> None:
    axes.axis("off")
    defaults = panel["fieldConfig"]["defaults"]
    shown = [
        (name, points[-1][1]) for index in range(len(panel["targets"])) for name, points in source.ask(panel, index)
    ]
    if not shown:
        axes.text(0.5, 0.5, defaults["noValue"], ha="center", va="center", color=MUTED, transform=axes.transAxes)
        return
    colors = [_of_series(panel, name) or _color(value, defaults) for name, value in shown]
    axes.barh(range(len(shown)), [value for _, value in shown], color=colors, height=0.6)
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 1.9 * max(value for _, value in shown) or 1))
    for row, (name, value) in enumerate(shown):
        axes.text(value, row, f"  {_text(value, defaults)}  {name}", va="center", size=7.5, color=INK)


def _table(axes: Any, panel: Json, source: Source) -> None:
    axes.axis("off")
    rows = source.table(panel)
    if not rows:
        text = panel["fieldConfig"]["defaults"]["noValue"]
        axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=axes.transAxes)
        return
    hidden = {"run"} | ({"value"} if len({row["value"] for row in rows}) == 1 else set())
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in hidden]
    names = [name for name in names if any(row.get(name) for row in rows)]
    # turned on its side: a column of the picture for each row of the table
    for line, name in enumerate(names):
        y = 1 - (line + 0.5) / max(8, len(names))
        axes.text(0.02, y, name, size=7.5, color=MUTED, va="center", transform=axes.transAxes)
        for column, row in enumerate(rows[:2]):
            value = row.get(name, "")
            text = f"{float(value):.4g}" if name == "value" else value
            axes.text(0.36 + 0.32 * column, y, text, size=7.5, color=INK, va="center", transform=axes.transAxes)


def _timeline(axes: Any, panel: Json, source: Source, marks: dict[str, list[float]]) -> None:
    series = [one for index in range(len(panel["targets"])) for one in source.ask(panel, index)]
    step = source.step
    for row, (name, points) in enumerate(series):
        color = _of_series(panel, name) or COLORS[row % len(COLORS)]
        spans = [(at, step) for at, value in points if value >= 1]
        axes.broken_barh(spans, (row - 0.36, 0.72), color=color, linewidth=0)
    axes.set_yticks(range(len(series)), [name for name, _ in series])
    axes.set_ylim(len(series) - 0.4, -0.6)
    _time_axis(axes, source, marks)


def _curves(axes: Any, panel: Json, source: Source, marks: dict[str, list[float]]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    series = [one for index in range(len(panel["targets"])) for one in source.ask(panel, index)]
    if not series:
        axes.axis("off")
        axes.text(0.5, 0.5, defaults["noValue"], ha="center", va="center", color=MUTED, transform=axes.transAxes)
        return
    mode = defaults.get("custom", {}).get("stacking", {}).get("mode")
    if mode:
        _stack(axes, panel, series, mode)
    else:
        right = _right_axis(axes) if any(_has(panel, name, "custom.axisPlacement") for name, _ in series) else None
        for number, (name, points) in enumerate(series):
            xs, ys = _with_gaps(points, source)
            color = _of_series(panel, name) or COLORS[number % len(COLORS)]
            side = right if right and _has(panel, name, "custom.axisPlacement") else axes
            axes.plot([], [], color=color, label=name)
            side.plot(xs, ys, color=color, linewidth=1.3, marker="." if len(points) < 4 else None)
    axes.legend(fontsize=6.5, loc="best", labelcolor=INK, handlelength=1.2, edgecolor="none", framealpha=0.75,
                ncols=1 + len(series) // 8)  # fmt: skip
    unit = "percentunit" if mode == "percent" else defaults["unit"]
    axes.yaxis.set_major_formatter(lambda value, _: _text(value, {"unit": unit}))
    _time_axis(axes, source, marks)


def _right_axis(axes: Any) -> Any:
    """A second axis from 0 to 1, with room for its labels."""
    box = axes.get_position()
    axes.set_position((box.x0, box.y0, box.width * 0.88, box.height))
    right = axes.twinx()
    right.set(ylim=(0, 1.05), frame_on=False)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.tick_params(labelsize=6.5, colors=MUTED, length=0)
    return right


def _stack(axes: Any, panel: Json, series: list[tuple[str, Points]], mode: str) -> None:
    times = sorted({at for _, points in series for at, _ in points})
    heights = [[max(0.0, dict(points).get(at, 0.0)) for at in times] for _, points in series]
    if mode == "percent":
        totals = [sum(column) or math.nan for column in zip(*heights, strict=True)]
        heights = [[value / total for value, total in zip(row, totals, strict=True)] for row in heights]
    colors = [_of_series(panel, name) or COLORS[number % len(COLORS)] for number, (name, _) in enumerate(series)]
    axes.stackplot(times, heights, labels=[name for name, _ in series], colors=colors, alpha=0.85, linewidth=0)


def _with_gaps(points: Points, source: Source) -> tuple[list[float], list[float]]:
    """Nothing is drawn over times without values."""
    step = source.step
    xs, ys = [], []
    for at, value in points:
        if xs and at - xs[-1] > 2 * step:
            xs.append(at - step)
            ys.append(math.nan)
        xs.append(at)
        ys.append(value)
    return xs, ys


def _time_axis(axes: Any, source: Source, marks: dict[str, list[float]]) -> None:
    for color, moments in marks.items():
        for at in moments:
            axes.axvline(
                at, color=NAMED.get(color, color), linewidth=0.7, alpha=0.5 if color == "green" else 1, zorder=0
            )
    axes.set_xlim(source.start, source.end)
    ticks = [source.start + (source.end - source.start) * part / 4 for part in range(1, 4)]
    axes.set_xticks(ticks, [datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") for at in ticks])
    axes.tick_params(labelsize=6.5, colors=MUTED, length=0)
    axes.grid(color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=LINE)


def _has(panel: Json, name: str, key: str) -> bool:
    """Whether an override sets something for this series."""
    overrides = panel["fieldConfig"]["overrides"]
    return any(
        one["matcher"]["options"] == name and rule["id"] == key for one in overrides for rule in one["properties"]
    )


def _of_series(panel: Json, name: str) -> str | None:
    """The colour that an override gives to this series."""
    for one in panel["fieldConfig"]["overrides"]:
        for rule in one["properties"]:
            if one["matcher"]["options"] == name and rule["id"] in ("color", "thresholds"):
                value = rule["value"]
                color: str = value["fixedColor"] if rule["id"] == "color" else value["steps"][-1]["color"]
                return NAMED.get(color, color)
    return None


def _color(value: float, defaults: Json) -> str:
    for one in defaults.get("mappings", []):
        if color := one["options"].get(f"{value:g}", {}).get("color"):
            return NAMED.get(color, color)
    steps = defaults.get("thresholds", {}).get("steps", [])
    reached = [one["color"] for one in steps if one["value"] is None or value >= one["value"]]
    return NAMED.get(reached[-1], reached[-1]) if reached else INK


def _text(value: float, defaults: Json) -> str:
    """A number in its unit, as Grafana would write it."""
    for one in defaults.get("mappings", []):
        if text := one["options"].get(f"{value:g}", {}).get("text"):
            return str(text)
    if not math.isfinite(value):
        return f"{value}"
    match defaults["unit"]:
        case "percentunit":
            return f"{value:.0%}" if value >= 0.05 or not value else f"{value:.2%}"
        case "s":
            return f"{value / 60:.1f} min" if value >= 90 else f"{value:.3g} s"
        case "bytes" | "Bps":
            power = min(3, int(math.log(value, 1024))) if value >= 1 else 0
            return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
        case "sci":
            return f"{value:.1e}"
        case _:
            return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m charts.tools.dashboards.pictures", description=__doc__)
    parser.add_argument("url", help="of a Prometheus that knows the run")
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, default=60, help="time range, up to now")
    parser.add_argument("--dashboard", default="training-run.json", choices=list(DASHBOARDS))
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for one PNG a row")
    given = parser.parse_args()
    source = Source(given.url.rstrip("/"), given.run, time.time() - 60 * given.minutes, time.time())
    dashboard = DASHBOARDS[given.dashboard]()
    for number, row in enumerate(dashboard.rows, 1):
        draw(only(dashboard, [row.title]), source, given.out / f"{Path(given.dashboard).stem}-{number}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
