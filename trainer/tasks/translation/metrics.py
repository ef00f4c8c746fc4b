"""Sums and metrics of the passes: teacher-forced (`val`, `test`) and translated (`val_translate`, `test_translate`).

Every batch gives sums of fixed shape that the engine adds up over batches and ranks; all counts are whole numbers, so
any sharding gives the same metrics. The outputs of the first sentences are kept as ids, for samples in the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.engine.meter import perplexity
from trainer.engine.task import Placed
from trainer.tasks.translation.decode import Hypothesis
from trainer.tasks.translation.loss import TokenSums
from trainer.tasks.translation.text_scores import COLUMNS, TextScores, length_ratio
from trainer.tasks.translation.vocabulary import UNK, Tokenizer
from trainer.telemetry.events import Metrics

BUCKETS = (10, 20, 40)
"""Longest source, in tokens with `<eos>`, of each bucket of BLEU by length; one more holds the rest."""
NUM_KEPT = 500
NUM_SAMPLES, NUM_WORST, NUM_FOLLOWED = 20, 10, 5
"""Translations shown, the worst ones, and those shown in every pass to follow how they change."""
METRICS = {
    "loss": "min", "perplexity": "min", "accuracy": "max", "bleu": "max", "exact_match": "max", "nll": "min",
    "chrf": "max", "length_ratio": "max", "unknown_label_share": "min", "empty_share": "min",
    "limit_share": "min", "unknown_share": "min", "loop_share": "min", "copy_share": "min",
    "seconds_per_sentence": "min", "padding_share": "min", "tokens_per_sec": "max",
} | {f"bleu_{name}": "max" for name in ("to_10", "to_20", "to_40", "longer")}  # fmt: skip
"""The closed set, with the better direction (a length ratio is best at 1; too short is the commoner fault)."""
TEACHER = ("loss", "perplexity", "accuracy", "nll", "unknown_label_share")
"""What a teacher-forced pass reports; one that decodes reports the others."""
TRANSLATED = tuple(name for name in METRICS if name not in (*TEACHER, "padding_share", "tokens_per_sec"))
_BUCKET_NAMES = [name for name in METRICS if name.startswith("bleu_")]
_COUNTERS = ("sentences", "exact", "empty", "limit", "unknown", "tokens", "loops", "copies")


def teacher_sums(sums: TokenSums, labels: Tensor) -> dict[str, Tensor]:
    """Sums of one teacher-forced batch."""
    unknown = (labels == UNK).sum()
    return {"loss": sums.smoothed, "nll": sums.nll, "accuracy": sums.correct, "unknown": unknown, "tokens": sums.tokens}


def teacher_metrics(sums: dict[str, Tensor]) -> Metrics:
    """Means over tokens; perplexity is that of the un-smoothed nll, whatever the loss is."""
    tokens = sums["tokens"].item()
    if not tokens:
        return dict.fromkeys(("loss", "nll", "perplexity", "accuracy"))
    means: Metrics = {name: sums[name].item() / tokens for name in ("loss", "nll", "accuracy")}
    means["perplexity"] = perplexity(means["nll"])
    means["unknown_label_share"] = sums["unknown"].item() / tokens
    return means


@dataclass(frozen=True)
class Pair:
    """A sentence of a pass as text, and how many tokens its source has."""

    source: str
    reference: str
    source_len: int


class TranslatedPass:
    """Sums and metrics of one pass whose sentences are decoded."""

    def __init__(self, pairs: Sequence[Pair], tokenizer: Tokenizer, max_len: int, scores: TextScores) -> None:
        """`tokenizer` is the target's, `max_len` the most tokens that are written."""
        self._pairs, self._tokenizer, self._scores = pairs, tokenizer, scores
        self._num_kept, self._max_len = min(NUM_KEPT, len(pairs)), max_len

    def sums(self, index: Sequence[int], outputs: Sequence[Hypothesis], seconds: float) -> dict[str, Tensor | Placed]:
        """Sums of the sentences at `index`, which took `seconds` to decode."""
        pairs = [self._pairs[place] for place in index]
        texts = [self._tokenizer.decode(one.tokens) for one in outputs]
        grams = np.zeros((len(BUCKETS) + 1, COLUMNS), np.int64)
        buckets = np.searchsorted(BUCKETS, [pair.source_len for pair in pairs])
        np.add.at(grams, buckets, self._scores.counts(texts, [pair.reference for pair in pairs]))
        near = [(place, one.tokens) for place, one in zip(index, outputs, strict=True) if place < self._num_kept]
        kept = torch.zeros(len(near), self._max_len, dtype=torch.int64)
        for row, (_, tokens) in zip(kept, near, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        counters = np.sum([_counters(*row) for row in zip(pairs, texts, outputs, strict=True)], axis=0)
        return {
            "grams": torch.from_numpy(grams),
            "counters": torch.from_numpy(counters),
            "kept": Placed(kept, torch.tensor([place for place, _ in near], dtype=torch.int64), self._num_kept),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
        }

    def metrics(self, sums: dict[str, Tensor]) -> Metrics:
        """Scores of the whole pass."""
        counted = dict(zip(_COUNTERS, sums["counters"].tolist(), strict=True))
        num_sentences = counted["sentences"]
        grams = sums["grams"].to(torch.int64).numpy()
        total, scores = grams.sum(0), self._scores
        found: Metrics = {"bleu": scores.bleu(total), "chrf": scores.chrf(total), "length_ratio": length_ratio(total)}
        names = {"exact": "exact_match", "loops": "loop_share", "copies": "copy_share"}
        for name in ("exact", "empty", "limit", "loops", "copies"):
            found[names.get(name, f"{name}_share")] = counted[name] / num_sentences
        found["unknown_share"] = counted["unknown"] / max(counted["tokens"], 1)
        found["seconds_per_sentence"] = sums["seconds"].item() / num_sentences
        for name, bucket in zip(_BUCKET_NAMES, grams, strict=True):
            found[name] = scores.bleu(bucket) if bucket[1] else None
        return found

    def samples(self, sums: dict[str, Tensor]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The first translations kept, and the worst of all kept: source, reference, output and sentence BLEU."""
        outputs = [self._tokenizer.decode(row) for row in sums["kept"].to(torch.int64).tolist()]
        pairs = self._pairs[: len(outputs)]
        counts = self._scores.counts(outputs, [pair.reference for pair in pairs])
        rows: list[dict[str, Any]] = [
            {
                "source": pair.source,
                "reference": pair.reference,
                "output": output,
                "bleu": round(self._scores.sentence_bleu(row), 2),
            }
            for pair, output, row in zip(pairs, outputs, counts, strict=True)
        ]
        worst = sorted((row for row in rows if row["output"] != row["reference"]), key=lambda row: row["bleu"])
        return rows[:NUM_SAMPLES], worst[:NUM_WORST]


def _counters(pair: Pair, text: str, output: Hypothesis) -> list[int]:
    """One sentence's part of `_COUNTERS`."""
    tokens = output.tokens
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return [
        1,
        text == pair.reference,
        not tokens,
        not output.is_complete,
        tokens.count(UNK),
        len(tokens),
        len(set(grams)) < len(grams),
        bool(text) and text == pair.source,
    ]
