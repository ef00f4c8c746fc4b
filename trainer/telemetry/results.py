"""The end of a run on the console: a table of the final passes, then where the files are."""

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.telemetry.events import PassDone
from trainer.telemetry.text import number


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
