"""The door to a run's corpus: text, tokenizers, and every split encoded.

    s3://... ─► fetched once a node ─┐
    folder, file, embedded ──────────┴─► text ─► tokenizers (given, or trained on train) ─► train, val, test

Both digests go into the settings, so that other text and other tokenizers are another run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.config.translation import TokenizerSettings, TranslationData, TranslationSettings
from trainer.data.plan import FixedPlan, Plan
from trainer.errors import DataError, SettingsError
from trainer.tasks.remote import is_url, local_path
from trainer.tasks.translation.batching import TokenPlan
from trainer.tasks.translation.corpora import CORPORA
from trainer.tasks.translation.dataset import Tokens, TranslationPairs
from trainer.tasks.translation.splits import Split, Text, read_text, texts_of
from trainer.tasks.translation.subwords import train_subwords
from trainer.tasks.translation.tokenizer import TokenizerPair, train_list
from trainer.tasks.translation.vocabulary import Kind, Tokenizer

_LARGEST_RATIO = 3.0
"""Pairs whose sides differ by more are counted as outliers."""


@dataclass(frozen=True)
class Corpus:
    """Everything a run reads."""

    name: str
    languages: tuple[str, str]
    tokenizers: TokenizerPair
    train: TranslationPairs
    val: TranslationPairs
    test: TranslationPairs | None
    digest: str
    report: dict[str, Any]
    """What was found while reading and encoding; JSON-able."""

    @property
    def evaluated(self) -> dict[str, TranslationPairs]:
        """Validation, and the test if there is one."""
        return {"val": self.val} | ({"test": self.test} if self.test else {})

    def plan(self, settings: TranslationSettings) -> Plan:
        """Which pairs make up each step."""
        data = settings.data
        if data.batch_by == "sentences":
            return FixedPlan(len(self.train), settings.batch_size, settings.seed)
        lengths = self.train.source_lengths, self.train.target_lengths
        return TokenPlan(*lengths, max_tokens=data.max_tokens, pool=data.pool, seed=settings.seed)


def open_corpus(settings: TranslationSettings) -> Corpus:
    """Read, train or load tokenizers, encode; fills in `data.digest` and `tokenizer.digest`.

    Raises DataError for bad text and for digests other than those that the settings already hold.
    """
    text = text_of(settings)
    digest = text.digest
    if settings.data.digest not in (None, digest):
        raise DataError(f"{text.name} has the digest {digest}, data.digest is {settings.data.digest}: other data")
    tokenizers = tokenizers_of(settings, text)
    tokenizers.check(settings.tokenizer.digest, "the run")
    settings.data.digest, settings.tokenizer.digest = digest, tokenizers.digest
    report = text.report()
    encoded = {}
    for name, split in text.splits.items():
        encoded[name], found = encode(split, tokenizers, settings.data, is_training=name == "train")
        report[name] |= found
    sizes = {"source": tokenizers.source.size, "target": tokenizers.target.size}
    return Corpus(
        text.name,
        text.languages,
        tokenizers,
        encoded["train"],
        encoded["val"],
        encoded.get("test"),
        digest,
        report | {"vocabulary": sizes},
    )


def text_of(settings: TranslationSettings) -> Text:
    """The text of the settings, fetched first if `data.path` is a URL. Raises as `read_text` and `local_path`."""
    path = settings.data.path
    return read_text(
        settings.data, None if path is None else local_path(path, settings) if is_url(path) else Path(path)
    )


def tokenizers_of(settings: TranslationSettings, text: Text) -> TokenizerPair:
    """Those of `tokenizer.path`, or new ones from the training split alone."""
    wanted = settings.tokenizer
    if wanted.path is not None:
        return load_tokenizers(Path(wanted.path))
    source_kind, target_kind = kinds(settings)
    train = text.splits["train"]
    if wanted.joint:
        if source_kind != target_kind:
            raise SettingsError(
                f"tokenizer.joint needs one kind for both sides, {text.name} has {source_kind} and {target_kind}: "
                "set tokenizer.kind"
            )
        joint = _train(list(texts_of(train)), source_kind, wanted.vocab_size, wanted)
        return TokenizerPair(joint, joint)
    target_size = wanted.target_vocab_size or wanted.vocab_size
    return TokenizerPair(
        _train(train.sources, source_kind, wanted.vocab_size, wanted),
        _train(train.targets, target_kind, target_size, wanted),
    )


def kinds(settings: TranslationSettings) -> tuple[Kind, Kind]:
    """How both sides are cut."""
    kind = settings.tokenizer.kind
    if kind != "auto":
        return kind, kind
    if settings.data.layout != "embedded":
        return "bpe", "bpe"
    corpus = CORPORA[settings.data.corpus]
    return corpus.source_kind, corpus.target_kind


def _train(texts: Sequence[str], kind: Kind, vocab_size: int, settings: TokenizerSettings) -> Tokenizer:
    if kind == "bpe" or kind == "unigram":
        return train_subwords(texts, kind, vocab_size=vocab_size, form=settings.normalise)
    min_count = settings.min_count if kind == "word" else 1
    return train_list(texts, kind, vocab_size=vocab_size, min_count=min_count, form=settings.normalise)


def encode(
    split: Split, tokenizers: TokenizerPair, data: TranslationData, *, is_training: bool
) -> tuple[TranslationPairs, dict[str, Any]]:
    """A split as ids, pairs over the limits treated as the settings say, and what was found.

    Raises DataError naming file and line under `long_pairs: fail`, and for a pair that fits into no batch.
    """
    source = Tokens.of(tokenizers.source.encode(split.sources))
    target = Tokens.of(tokenizers.target.encode(split.targets))
    limits = data.max_source_len - 1, data.max_target_len - 2
    is_long = (source.lengths > limits[0]) | (target.lengths > limits[1])
    ratio = (source.lengths + 1) / (target.lengths + 1)
    found: dict[str, Any] = {
        "over_limit": int(is_long.sum()),
        "ratio_outliers": int(((ratio > _LARGEST_RATIO) | (ratio < 1 / _LARGEST_RATIO)).sum()),
    }
    policy: Literal["drop", "truncate", "fail"] = data.long_pairs if is_training else "truncate"
    if policy == "fail" and is_long.any():
        raise DataError(_too_long(split, int(np.argmax(is_long)), source, target, data))
    texts = () if is_training else list(zip(split.sources, split.targets, strict=True))
    pairs = TranslationPairs(source.cut(limits[0]), target.cut(limits[1]), texts)
    rows = np.flatnonzero(~is_long) if policy == "drop" else np.arange(len(split))
    if not len(rows):
        raise DataError(f"{split.place(0)}: every pair is over data.max_source_len or data.max_target_len; raise them")
    if is_training and data.batch_by == "tokens" and (pairs.cells[rows] > data.max_tokens).any():
        row = int(rows[np.argmax(pairs.cells[rows] > data.max_tokens)])
        raise DataError(
            f"{split.place(row)} takes {pairs.cells[row]} cells, data.max_tokens is {data.max_tokens}: raise it, or "
            "lower data.max_source_len and data.max_target_len"
        )
    kept = pairs if len(rows) == len(pairs) else pairs.select(rows)
    tokens = {"source": int(kept.source.lengths.sum()), "target": int(kept.target.lengths.sum())}
    unknown = {"source": kept.source.num_unknown, "target": kept.target.num_unknown}
    return kept, found | {"used": len(kept), "tokens": tokens, "unknown_tokens": unknown}


def _too_long(split: Split, row: int, source: Tokens, target: Tokens, data: TranslationData) -> str:
    """Which side of a pair is too long, and by how much."""
    sides = (
        ("source", int(source.lengths[row]) + 1, data.max_source_len),
        ("target", int(target.lengths[row]) + 2, data.max_target_len),
    )
    side, length, limit = next(one for one in sides if one[1] > one[2])
    return (
        f"{split.place(row)}: the {side} has {length:,} tokens, data.max_{side}_len is {limit}; "
        "data.long_pairs: drop or truncate goes on without"
    )


def load_tokenizers(path: Path) -> TokenizerPair:
    """The tokenizers in a file. Raises DataError for a missing or damaged one."""
    try:
        return TokenizerPair.from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"tokenizer.path: {path} cannot be read ({error.strerror})") from None
