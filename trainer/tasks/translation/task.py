"""The task `translation` as the engine sees it: model, pairs, loss, passes; the rest lives in the files beside this.

val, test                        teacher-forced: loss, nll, perplexity, accuracy (`test` at the end only)
val_translate, test_translate    decoded: BLEU, chrF, exact match, shares of odd outputs
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config.translation import TranslationSettings
from trainer.data.dataset import Batch, Indices
from trainer.data.plan import Plan
from trainer.engine.meter import perplexity
from trainer.engine.task import Loss, Pass, PassResult, Sums
from trainer.tasks.translation.attention import pictures
from trainer.tasks.translation.batching import fill_of
from trainer.tasks.translation.corpus import Corpus, open_corpus
from trainer.tasks.translation.dataset import TranslationPairs
from trainer.tasks.translation.loss import TokenSums, token_sums
from trainer.tasks.translation.metrics import (
    METRICS,
    NUM_FOLLOWED,
    TEACHER,
    TRANSLATED,
    Pair,
    TranslatedPass,
    teacher_metrics,
    teacher_sums,
)
from trainer.tasks.translation.model import TranslationModel
from trainer.tasks.translation.remarks import remarks
from trainer.tasks.translation.text_scores import TextScores
from trainer.tasks.translation.tokenizer import FILE
from trainer.tasks.translation.translate import Translator
from trainer.tasks.translation.vocabulary import EOS, PAD
from trainer.tasks.weight_files import load_into, read_weights
from trainer.telemetry.events import Metrics

Settings = TranslationSettings
TERM = "smoothed"
TRANSLATE = "_translate"
NUM_PICTURES = 2
"""Sentences whose attention is kept for a picture."""


class TranslationTask:
    """Implements `engine.task.Task` for pairs of sentences."""

    name = "translation"
    best_metric = "val/nll"
    metrics = METRICS

    def __init__(self, settings: TranslationSettings, corpus: Corpus) -> None:
        """Raises SettingsError without sacrebleu: after hours of training it is too late."""
        self.settings, self.corpus = settings, corpus
        self.model_name = model_name(settings)
        self.scores = TextScores()
        self._plan = corpus.plan(settings)
        self.fill = fill_of(self._plan, corpus.train.target_lengths)
        self.remarks = remarks(corpus.report, self.fill, settings)

    @cached_property
    def translated(self) -> dict[str, tuple[TranslationPairs, TranslatedPass]]:
        """What each pass that decodes runs over, by its name: validation perhaps in part, the test as a whole."""
        found = {}
        for split, pairs in self.corpus.evaluated.items():
            limit = self.settings.decode.translate_samples if split == "val" else None
            pairs = pairs.select(spread(len(pairs), limit))
            rows = zip(pairs.texts, pairs.source_lengths.tolist(), strict=True)
            known = [Pair(source, reference, length) for (source, reference), length in rows]
            max_len = self.settings.data.max_target_len
            target = self.corpus.tokenizers.target
            found[split + TRANSLATE] = pairs, TranslatedPass(known, target, max_len, self.scores)
        return found

    def build_model(self) -> nn.Module:
        """A fresh model; with `run.init_from` that file's weights."""
        model = build(self.settings, self.corpus.tokenizers.source.size, self.corpus.tokenizers.target.size)
        run = self.settings.run
        if run.init_from is not None:
            load_into(model, read_weights(run.init_from), run.init_allow, run.init_from)
        return model

    def train_data(self) -> TranslationPairs:
        """The training split."""
        return self.corpus.train

    def plan(self) -> Plan:
        """Batches by tokens, or of a fixed number of pairs."""
        return self._plan

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:  # noqa: ARG002 - pairs never change
        """Target tokens, `<eos>` included."""
        return {TERM: float(self.corpus.train.target_tokens(indices))}

    def passes(self) -> Sequence[Pass]:
        """Validation after every epoch, its translation ten times in a run, both tests at the end only."""
        settings = self.settings
        triggers = {"val": "every 1 epochs and end", "val_translate": "every 10% and end"}
        plain = [
            Pass(
                name,
                pairs,
                triggers.get(name, "never"),
                settings.eval_batch_size or settings.batch_size,
                metrics=TEACHER,
            )
            for name, pairs in self.corpus.evaluated.items()
        ]
        decoded = [
            Pass(
                name,
                pairs,
                triggers.get(name, "never"),
                settings.decode.batch_size,
                evaluate=partial(self._translate, name),
                metrics=TRANSLATED,
            )
            for name, (pairs, _) in self.translated.items()
        ]
        return [*plain, *decoded]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Smoothed cross-entropy of the next token; sums over tokens, and the padded cells for their share."""
        sums = self._sums(model, batch)
        cells = torch.tensor(float(batch["labels"].numel()), device=sums.nll.device)
        return Loss({TERM: sums.smoothed}, {"nll": sums.nll, "accuracy": sums.correct.float(), "cells": cells})

    def derived(self, metrics: Metrics, count: float, seconds: float) -> Metrics:
        """Perplexity, share of padding and target tokens a second of a training interval."""
        cells = metrics.pop("cells", None)
        return {
            "perplexity": perplexity(metrics.get("nll")),
            "padding_share": 1.0 - 1.0 / cells if cells else None,
            "tokens_per_sec": count / seconds,
        }

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums of a teacher-forced batch."""
        return teacher_sums(self._sums(model, batch), batch["labels"])

    def _sums(self, model: nn.Module, batch: Batch) -> TokenSums:
        logits = model(batch["source_ids"], batch["decoder_ids"])
        loss = self.settings.loss
        return token_sums(logits, batch["labels"], smoothing=loss.label_smoothing, mass=loss.smoothing_mass, pad=PAD)

    def _translate(self, name: str, model: nn.Module, batch: Batch) -> Sums:
        """Sums of a batch that is decoded in pass `name`."""
        assert isinstance(model, TranslationModel)
        tokenizers = self.corpus.tokenizers
        translator = Translator(model, tokenizers.source, tokenizers.target, self.settings)
        outputs, seconds = translator.decode_ids(batch["source_ids"])
        index = batch["index"].tolist()
        sums = self.translated[name][1].sums(index, outputs, seconds)
        shape = (NUM_PICTURES, self.settings.data.max_target_len, self.settings.data.max_source_len)
        return sums | {"attention": pictures(translator.model, batch["source_ids"], index, outputs, shape)}

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        """Metrics of a pass; of one that decodes also samples for the report."""
        if name not in self.translated:
            return PassResult(teacher_metrics(sums))
        a_pass = self.translated[name][1]
        samples, worst = a_pass.samples(sums)
        detail = {
            "samples": samples,
            "worst": worst,
            "signatures": self.scores.signatures,
            "attention": self._pictures(name, sums),
        }
        return PassResult(a_pass.metrics(sums), detail, always={"samples": samples[:NUM_FOLLOWED]})

    def _pictures(self, name: str, sums: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Tokens of source and output of the first sentences, and how much each output token looks at each of them."""
        pairs, tokenizers = self.translated[name][0], self.corpus.tokenizers
        found = []
        for place, weights in enumerate(sums["attention"][: len(pairs)]):
            source = [*pairs.source.row(place), EOS]
            output = [one for one in sums["kept"][place].to(torch.int64).tolist() if one != PAD]
            table = weights[: len(output) + 1, : len(source)]
            found.append(
                {
                    "source": tokenizers.source.tokens(source),
                    "output": tokenizers.target.tokens([*output, EOS]),
                    "weights": [[round(value, 4) for value in row] for row in table.tolist()],
                }
            )
        return found

    def samples(self, num_samples: int) -> Batch:
        """Real pairs, evenly spread over the validation split; for the check of an export."""
        return self.corpus.val.take(spread(len(self.corpus.val), num_samples), 0)

    @property
    def files(self) -> dict[str, bytes]:
        """The tokenizers, without which the weights mean nothing."""
        return {FILE: self.corpus.tokenizers.to_bytes()}

    def info(self) -> dict[str, Any]:
        """What the ledger, the report and the exported model need to know of data and model."""
        corpus, tokenizers = self.corpus, self.corpus.tokenizers
        train = corpus.report["train"]
        return {
            "corpus": corpus.name,
            "languages": list(corpus.languages),
            "data": corpus.report | {"over_limit_share": train["over_limit"] / max(train["pairs"], 1)},
            "batching": asdict(self.fill),
            "data_digest": corpus.digest,
            "splits": {"train": len(corpus.train)} | {name: len(pairs) for name, pairs in corpus.evaluated.items()},
            "source_vocab_size": tokenizers.source.size,
            "target_vocab_size": tokenizers.target.size,
            "tokenizer_kinds": [tokenizers.source.kind, tokenizers.target.kind],
            "tokenizer_digest": tokenizers.digest,
            "signatures": self.scores.signatures,
        }


def spread(size: int, wanted: int | None) -> Indices:
    """`wanted` of `size` positions, evenly spread; all of them for None. The same ones in every pass."""
    count = size if wanted is None else min(wanted, size)
    return np.linspace(0, size - 1, count).astype(np.int64)


def build(settings: TranslationSettings, source_vocab: int, target_vocab: int) -> TranslationModel:
    """A fresh model for vocabularies of these sizes."""
    longest = max(settings.data.max_source_len, settings.data.max_target_len)
    return TranslationModel(settings.model, source_vocab, target_vocab, longest)


def model_name(settings: TranslationSettings) -> str:
    """Width, heads and layers, for names of runs and files."""
    model = settings.model
    return f"d{model.d_model}_h{model.num_heads}_l{model.num_layers}"


def create(settings: TranslationSettings) -> TranslationTask:
    """Read the text, train or load tokenizers, and make the task. Raises DataError and SettingsError."""
    return TranslationTask(settings, open_corpus(settings))
