"""The end of a run on the console: a table of the final passes, then where the files are."""

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.telemetry.events import PassDone, Profiled
from trainer.telemetry.text import number, size

NUM_METRICS = 12
"""Shown of what a task declares, the telling ones first; the report has them all."""
_BORDER = 3
"""Places on the console that a column takes beside its text; the table takes one more."""
_Column = tuple[str, list[str]]
"""Head and cells."""


def print_results(
    console: Console, passes: Mapping[str, PassDone], declared: Iterable[str], *, caveat: str = ""
) -> None:
    """One row a pass, one column a metric in the order in which the task declares them, nothing cut.

    What does not fit beside each other stands in tables below each other. A `caveat` comes before the numbers.
    """
    console.print("\nResults of the best weights", style="bold", highlight=False)
    if caveat:
        console.print(f"no headline: {caveat}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    names = _ordered(passes.values(), declared)
    columns = [("samples", [f"{event.num_samples:,}" for event in passes.values()])]
    columns += [(name, [_cell(event, name) for event in passes.values()]) for name in names[:NUM_METRICS]]
    for part in _bands(columns, console.width - 1 - _BORDER - _width("pass", passes)):
        table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII)
        table.add_column("pass", overflow="fold")
        for name, _ in part:
            table.add_column(name, justify="right", overflow="fold")
        for row, name in enumerate(passes):
            table.add_row(name, *(cells[row] for _, cells in part))
        console.print(table)
    if names[NUM_METRICS:]:
        console.print(f"metrics that only the report shows: {len(names) - NUM_METRICS}", highlight=False)


def print_profile(console: Console, event: Profiled) -> None:
    """One row a part of a step, with its milliseconds and its share; the operators stand in the report."""
    each = 1000.0 * event.seconds / event.num_steps
    peak = f", memory peak {size(event.peak_memory_bytes)}" if event.peak_memory_bytes else ""
    console.print(f"\nProfile of {event.num_steps} steps of {each:.2f} ms{peak}", style="bold", highlight=False)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII)
    table.add_column("part of a step")
    for name in ("ms", "%"):
        table.add_column(name, justify="right")
    for name, seconds in event.phases.items():
        table.add_row(name, f"{1000.0 * seconds / event.num_steps:.3f}", f"{100.0 * seconds / event.seconds:.1f}")
    console.print(table)


def print_paths(console: Console, paths: Iterable[tuple[str, str]]) -> None:
    """`kind  path` lines, whole however long, so that they can be copied."""
    rows = [(kind.replace("_", " "), path) for kind, path in paths]
    width = max((len(kind) for kind, _ in rows), default=0)
    for kind, path in rows:
        console.print(f"{kind:<{width}}  {path}", soft_wrap=True, markup=False, highlight=False)


def _bands(columns: Iterable[_Column], width: int) -> list[list[_Column]]:
    """The columns in groups that fit into this width, each of one column at least."""
    bands: list[list[_Column]] = []
    left = 0
    for name, cells in columns:
        needed = _width(name, cells) + _BORDER
        if not bands or needed > left:
            bands.append([])
            left = width
        bands[-1].append((name, cells))
        left -= needed
    return bands


def _width(name: str, cells: Iterable[str]) -> int:
    return max(map(len, [name, *cells]))


def _ordered(events: Iterable[PassDone], declared: Iterable[str]) -> list[str]:
    reported = {name for event in events for name in event.metrics}
    order = dict.fromkeys(["loss", *declared])
    return [name for name in order if name in reported] + sorted(reported - order.keys())


def _cell(event: PassDone, metric: str) -> str:
    return number(event.metrics[metric]) if metric in event.metrics else ""
