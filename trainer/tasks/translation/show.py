"""Pairs as a run sees them: text, tokens, ids with the padding of their batch, and decoded again."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from trainer.config.translation import TranslationSettings
from trainer.tasks.translation.corpus import encode, text_of, tokenizers_of
from trainer.tasks.translation.splits import Split
from trainer.tasks.translation.vocabulary import Tokenizer

_LABEL = 16
"""Width of the first column."""


def show(settings: TranslationSettings, count: int) -> list[str]:
    """`count` training pairs, evenly spread and in one batch, each as a block of lines."""
    text = text_of(settings)
    tokenizers = tokenizers_of(settings, text)
    train = text.splits["train"]
    rows = np.linspace(0, len(train) - 1, min(count, len(train))).astype(np.int64).tolist()
    chosen = Split()
    for row in rows:
        file, _, line = train.place(row).rpartition(":")
        chosen.add(train.sources[row], train.targets[row], int(line), file)
    limited = settings.data.model_copy(update={"long_pairs": "truncate", "batch_by": "sentences"})
    pairs, _ = encode(chosen, tokenizers, limited, is_training=True)
    batch = pairs.take(np.arange(len(rows)), 0)
    return [
        "\n".join(
            [
                f"pair {row + 1:,} of {len(train):,}  {chosen.place(number)}",
                *_side("source", chosen.sources[number], tokenizers.source, {"": batch["source_ids"][number]}),
                *_side(
                    "target",
                    chosen.targets[number],
                    tokenizers.target,
                    {"decoder": batch["decoder_ids"][number], "label": batch["labels"][number]},
                ),
            ]
        )
        for number, row in enumerate(rows)
    ]


def _side(name: str, text: str, tokenizer: Tokenizer, rows: dict[str, Tensor]) -> list[str]:
    """Lines of one side; the last row of ids is the one that is decoded."""
    lines = [(name, text)]
    ids: Sequence[int] = ()
    for label, row in rows.items():
        ids = row.tolist()
        lines += [(f"{label} tokens".lstrip(), " ".join(tokenizer.tokens(ids)))]
        lines += [(f"{label} ids".lstrip(), " ".join(map(str, ids)))]
    lines.append(("decoded", tokenizer.decode(ids)))
    return [f"  {label:<{_LABEL}}{content}" for label, content in lines]
