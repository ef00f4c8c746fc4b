"""The end of a run on the console: a table of the final passes, then where the files are."""

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.telemetry.events import PassDone, Profiled
from trainer.telemetry.text import number, size


def print_results(console: Console, passes: Mapping[str, PassDone], declared: Iterable[str]) -> None:
    """One row a metric in the order in which the task declares them, one column a pass."""
    console.print("\nResults of the best weights", style="bold", highlight=False)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII)
    table.add_column("metric")
    for name in passes:
        table.add_column(name, justify="right")
    for metric in _ordered(passes.values(), declared):
        table.add_row(metric, *(_cell(event, metric) for event in passes.values()))
    table.add_row("samples", *(f"{event.num_samples:,}" for event in passes.values()))
    console.print(table)


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


def _ordered(events: Iterable[PassDone], declared: Iterable[str]) -> list[str]:
    reported = {name for event in events for name in event.metrics}
    order = dict.fromkeys(["loss", *declared])
    return [name for name in order if name in reported] + sorted(reported - order.keys())


def _cell(event: PassDone, metric: str) -> str:
    return number(event.metrics[metric]) if metric in event.metrics else ""
