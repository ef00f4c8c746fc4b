"""Report pages of the task signs: what any classifier has, then signers, worst clips, and what makes clips hard.

They read a pass's `detail` as `tasks.signs.metrics` writes it: `per_signer` as name -> count and top1, `worst` as
`[clip, true, predicted, loss]`, `by_length` and `by_missing` as `[low, high, count, top1]`.
"""

from collections.abc import Sequence
from typing import Any

from trainer.tasks import classification_pages
from trainer.tasks.page import (
    Beside,
    Cell,
    Class,
    Code,
    Draw,
    Pages,
    Part,
    Picture,
    RunFacts,
    Section,
    Share,
    Table,
    Text,
)

MAX_SIGNER_BARS = 40


def pages(run: RunFacts, draw: Draw) -> Pages:
    """The sections of the main pass (test if there is one), and its confusion for the files beside the page."""
    name = classification_pages.main_pass(run)
    if name is None:
        return Pages([])
    detail = run.details[name]["detail"]
    classification = classification_pages.classification_of(run, name)
    sections = classification_pages.sections(name, classification, detail, draw)
    if detail.get("per_signer"):
        sections.append(Section("Signers", _signers(run, name, draw)))
    if detail.get("by_length") or detail.get("by_missing"):
        sections.append(Section("What makes clips hard", _conditions(detail, draw)))
    if detail.get("worst"):
        sections.append(Section("Worst clips", _worst(detail["worst"], classification.classes)))
    return Pages(sections, classification)


def _signers(run: RunFacts, name: str, draw: Draw) -> list[Part]:
    """A table with the signers of every pass that tells them apart, and a picture of the main one."""
    found = {
        p: record["detail"]["per_signer"] for p, record in run.details.items() if record["detail"].get("per_signer")
    }
    rows: list[list[Cell]] = [
        [pass_name, signer, int(numbers["count"]), Share(numbers["top1"])]
        for pass_name, signers in found.items()
        for signer, numbers in signers.items()
    ]
    table = Table(("pass", "signer", "clips", "top-1"), rows)
    signers = sorted(found[name].items(), key=lambda item: float(item[1]["top1"]))[:MAX_SIGNER_BARS]
    if len(signers) < 2:
        return [table]
    return [Beside(table, _signer_bars(signers, draw))]


def _signer_bars(signers: Sequence[tuple[str, dict[str, Any]]], draw: Draw) -> Picture:
    return draw.bars(
        [signer for signer, _ in signers],
        [float(numbers["top1"]) for _, numbers in signers],
        texts=[f"{numbers['top1']:.3f}" for _, numbers in signers],
        value_label="top-1",
        limit=1.1,
        alt="Top-1 of each signer",
        caption="Top-1 by signer, the hardest first.",
    )


def _conditions(detail: dict[str, Any], draw: Draw) -> list[Part]:
    parts: list[Part] = [Text("Number of clips above each bar.", muted=True)]
    if detail.get("by_length"):
        labels = [_frames(low, high) for low, high, *_ in detail["by_length"]]
        parts.append(_accuracy(detail["by_length"], labels, "frames of the recording", "Top-1 by length.", draw))
    if detail.get("by_missing"):
        labels = [_percent(low, high) for low, high, *_ in detail["by_missing"]]
        caption = "Top-1 by share of hands that were not found."
        parts.append(_accuracy(detail["by_missing"], labels, "hands missing", caption, draw))
    return parts


def _accuracy(rows: Sequence[Sequence[float]], labels: list[str], x_label: str, caption: str, draw: Draw) -> Picture:
    return draw.columns(
        labels,
        [row[3] for row in rows],
        texts=[f"{int(row[2]):,}" for row in rows],
        x_label=x_label,
        y_label="top-1",
        limit=1.0,
        alt=caption,
        caption=caption,
    )


def _frames(low: float, high: float) -> str:
    """A range of lengths: `32-40`; one length stands alone."""
    return f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


def _percent(low: float, high: float) -> str:
    """A range of shares; the first bin holds clips in which nothing is missing."""
    return "none" if high <= 1e-6 else f"{low:.0%}–{high:.0%}"


def _worst(rows: Sequence[Sequence[Any]], classes: Sequence[Class]) -> list[Part]:
    cells: list[list[Cell]] = [
        [Code(clip), *_names(classes[true]), *_names(classes[predicted]), float(loss)]
        for clip, true, predicted, loss in rows
    ]
    right = frozenset(position for position, row in enumerate(rows) if row[1] == row[2])
    parts: list[Part] = [Table(("clip", "true", "name", "native", "predicted", "name", "native", "loss"), cells)]
    if right:
        parts.insert(0, Text(f"{len(right)} of them are answered right, with little confidence.", muted=True))
    return parts


def _names(named: Class) -> tuple[int, str, str]:
    return named.word, named.name, named.native
