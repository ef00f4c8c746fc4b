"""Report pages of the task translation: what it writes, what it writes worst, how that changed, and what it looks at.

They read a pass's `detail` as `tasks.translation.task` writes it: `samples` and `worst` as objects of `source`,
`reference`, `output` and `bleu`; `attention` as objects of `source` and `output` (tokens) and `weights` (a row an
output token); `signatures` by score. Every walk of the pass that decodes has at least the samples to follow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.tasks.page import Cell, Draw, Pages, Part, Picture, RunFacts, Section, Table, Text

PASSES = ("test_translate", "val_translate")
"""The pass that is shown is the first of these that has something to show."""
FOLLOWED = "val_translate"
MAX_MOMENTS = 6
"""Walks at which a followed sentence is shown; of more, evenly spread ones with the first and the last."""
BUCKETS = {"bleu_to_10": "up to 10", "bleu_to_20": "11–20", "bleu_to_40": "21–40", "bleu_longer": "more"}
_COLUMNS = ("source", "reference", "output", "BLEU")
_MAX_TOKENS = 40
"""Tokens of a side that an attention picture has room for."""


def pages(run: RunFacts, draw: Draw) -> Pages:
    """The sections of the pass that decodes; none before its first walk."""
    name = next((one for one in PASSES if run.details.get(one)), None)
    if name is None:
        return Pages([])
    record = run.details[name]
    detail = record["detail"]
    sections = [Section("Translations", _samples(name, record))]
    if detail.get("worst"):
        sections.append(Section("Worst translations", [_table(detail["worst"])]))
    if lengths := _by_length(name, record["metrics"], draw):
        sections.append(Section("BLEU by length", [lengths]))
    if followed := _followed(run):
        sections.append(Section("How translations changed", followed))
    if detail.get("attention"):
        sections.append(Section("Attention", _attention(detail["attention"], draw)))
    return Pages(sections)


def _samples(name: str, record: dict[str, Any]) -> list[Part]:
    """The fixed samples under the scores of the whole pass, with how they were made."""
    metrics, signatures = record["metrics"], record["detail"].get("signatures", {})
    scores = [
        f"{label} {metrics[key]:.2f} ({signatures.get(key, 'no signature')})"
        for key, label in (("bleu", "BLEU"), ("chrf", "chrF"))
        if metrics.get(key) is not None
    ]
    about = f"Pass {name}, {record['num_samples']:,} sentences. {'; '.join(scores)}."
    rest = "The BLEU beside a sentence is its own, over the n-grams that it is long enough for."
    return [Text(about), _table(record["detail"].get("samples", [])), Text(rest, muted=True)]


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    """Sentences with what was written; those that are not exactly the reference stand out."""
    cells: list[list[Cell]] = [[row["source"], row["reference"], row["output"], _bleu(row)] for row in rows]
    wrong = frozenset(place for place, row in enumerate(rows) if row["output"] != row["reference"])
    return Table(_COLUMNS, cells, marked=wrong if len(wrong) < len(rows) else frozenset())


def _by_length(name: str, metrics: dict[str, float | None], draw: Draw) -> Picture | None:
    """BLEU of the sentences of each range of source lengths; None unless there are two."""
    known = {label: value for key, label in BUCKETS.items() if (value := metrics.get(key)) is not None}
    if len(known) < 2:
        return None
    caption = f"BLEU of {name} by the length of the source."
    return draw.columns(
        list(known), list(known.values()), texts=[f"{value:.1f}" for value in known.values()],
        x_label="tokens of the source", y_label="BLEU", limit=100.0, alt=caption, caption=caption,
    )  # fmt: skip


def _followed(run: RunFacts) -> list[Part]:
    """The same few sentences at several moments of the run."""
    walks = [one for one in run.records if one["event"] == "PassDone" and one["name"] == FOLLOWED]
    walks = [one for one in walks if one["detail"].get("samples") and not one["is_final"]]
    if len(walks) < 2:
        return []
    count = min(len(walks), MAX_MOMENTS)
    shown = [walks[place] for place in np.linspace(0, len(walks) - 1, count).round().astype(int)]
    num_samples = min(len(one["detail"]["samples"]) for one in walks)
    rows = [row for place in range(num_samples) for row in _history(place, shown)]
    references = frozenset(range(0, len(rows), count + 1))
    return [Table(("source", "step", "output", "BLEU"), rows, "The reference, and what was written.", references)]


def _history(place: int, walks: Sequence[dict[str, Any]]) -> list[list[Cell]]:
    """One sentence: its reference, then a row a moment."""
    samples = [(walk["step"], walk["detail"]["samples"][place]) for walk in walks]
    first = samples[0][1]
    moments: list[list[Cell]] = [["", f"{step:,}", sample["output"], _bleu(sample)] for step, sample in samples]
    return [[first["source"], "reference", first["reference"], ""], *moments]


def _attention(found: Sequence[dict[str, Any]], draw: Draw) -> list[Part]:
    """What each output token looked at in the source."""
    return [_heat(sample, draw) for sample in found]


def _heat(sample: dict[str, Any], draw: Draw) -> Picture:
    """Weights `[output, source]`: dark is much."""
    source, output = sample["source"][:_MAX_TOKENS], sample["output"][:_MAX_TOKENS]
    weights = np.array(sample["weights"], dtype=np.float64)[: len(output), : len(source)]
    output = output[: len(weights)]

    caption = f"{' '.join(source)} → {' '.join(output)}"
    about = "Weights of the last decoder layer over the source, mean of its heads"
    return draw.weights(
        weights, output, source, x_label="source", y_label="output",
        alt=f"{about}: {caption}", caption=f"{caption}. {about}.",
    )  # fmt: skip


def _bleu(row: dict[str, Any]) -> str:
    """With one decimal, as nobody tells finer differences of a sentence."""
    return f"{row['bleu']:.1f}"
