"""How numbers of a run are written for people: the columns of the console lines, durations, sizes."""

from collections.abc import Iterable, Mapping

from trainer.telemetry.events import Metrics


def number(value: float | None, digits: int = 4) -> str:
    """A number with fixed decimals; `-` for one that does not exist."""
    return "-" if value is None else f"{value:.{digits}f}"


def rate(value: float | None) -> str:
    """Samples a second: whole from 10 on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """`45 s`, `12:34`, `3:05:07`; `-` for an unknown one."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(num_bytes: float) -> str:
    """Decimal units, as disks and object stores count."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def shown_names(declared: Mapping[str, str], width: int) -> list[str]:
    """The metrics that fit on a line of `width` columns: `loss`, then the first that the task declares."""
    return ["loss", *(name for name in declared if name != "loss")][: 4 if width >= 100 else 3]


def metrics_text(metrics: Metrics, names: Iterable[str]) -> str:
    """`loss 0.1234  top1 0.9123`, of the named ones that exist."""
    return "  ".join(f"{name} {number(metrics[name])}" for name in names if name in metrics)
