"""Where the time of a step went, if the run measured it: parts, operators, memory, and the trace."""

from trainer.report.view import RunView
from trainer.tasks.page import Beside, Cell, Code, Part, Section, Share, Table, Text
from trainer.telemetry.reading import Record, select
from trainer.telemetry.text import size


def profile_section(view: RunView) -> Section | None:
    """The newest profile of the run; None when there is none."""
    found = select(view.all, "Profiled")
    if not found:
        return None
    record = found[-1]
    traces = [one["path"] for one in select(view.all, "ArtifactWritten") if one["kind"] == "trace"]
    parts: list[Part] = [Text(_about(record)), Beside(_phases(record), _operators(record))]
    if traces:
        parts.append(Text(f"Trace, for chrome://tracing or ui.perfetto.dev: {traces[-1]}", muted=True))
    return Section("Profile", parts)


def _about(record: Record) -> str:
    """How long the measured steps were, and what they held."""
    peak = record["peak_memory_bytes"]
    memory = f", memory peak {size(peak)}" if peak else ""
    each = 1000.0 * record["seconds"] / record["num_steps"]
    return f"{record['num_steps']} steps up to step {record['step']:,}, {each:.2f} ms each{memory}."


def _phases(record: Record) -> Table:
    rows: list[list[Cell]] = [
        [name, 1000.0 * seconds / record["num_steps"], Share(seconds / record["seconds"])]
        for name, seconds in record["phases"].items()
    ]
    return Table(("part of a step", "ms", "share"), rows)


def _operators(record: Record) -> Table:
    """Own time a step; a CPU run has no device's."""
    has_device = any(device for *_, device in record["operators"])
    per_step = 1000.0 / record["num_steps"]
    rows: list[list[Cell]] = [
        [Code(name), calls, cpu * per_step, *([device * per_step] if has_device else [])]
        for name, calls, cpu, device in record["operators"]
    ]
    return Table(("operator", "calls", "own ms, CPU", *(["own ms, device"] if has_device else [])), rows)
