"""Text in, text out: a trained model with its two tokenizers. `trainer translate` and the passes stand on it.

A sentence gets the same translation alone and in any batch (`steppers.for_decoding`), so batches are made of sentences
of like length, whatever order they come in.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.config.translation import TranslationSettings
from trainer.tasks.translation.decode import DecodeOptions, Hypothesis, decode, greedy, limits_of
from trainer.tasks.translation.model import TranslationModel
from trainer.tasks.translation.steppers import Cached, for_decoding
from trainer.tasks.translation.vocabulary import EOS, PAD, Tokenizer


@dataclass(frozen=True)
class Translation:
    """One sentence: its text, token ids without `<eos>`, score, and what else the beam held, best first."""

    text: str
    tokens: tuple[int, ...] = ()
    score: float = 0.0
    log_probability: float = 0.0
    is_complete: bool = True
    nbest: tuple["Translation", ...] = ()
    """All hypotheses asked for, this one included."""


def options_of(settings: TranslationSettings) -> DecodeOptions:
    """How the settings want it decoded."""
    given = settings.decode
    return DecodeOptions(
        beam_size=given.beam_size,
        alpha=given.alpha,
        no_repeat_ngram=given.no_repeat_ngram,
        min_len=given.min_len,
        max_len=settings.data.max_target_len - 1,  # of which `<bos>` is not written
    )


class Translator:
    """Translates lists of sentences. The model is copied where decoding needs another precision."""

    def __init__(
        self,
        model: TranslationModel,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        settings: TranslationSettings,
    ) -> None:
        self.model = for_decoding(model)
        """The model as decoding uses it."""
        self._device = next(model.parameters()).device
        self._source, self._target, self._settings = source_tokenizer, target_tokenizer, settings
        self.num_truncated = 0
        """Sentences so far that were longer than `data.max_source_len`."""

    def translate(
        self,
        texts: Sequence[str],
        *,
        num_best: int = 1,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Translation]:
        """A translation of each text, in order; an empty one (or all blanks) stays empty.

        `num_best` hypotheses are kept of each, at most `decode.beam_size`; `choose` (`decode.sampler`) draws instead.
        """
        ids = self._ids(texts)
        found = [Translation("")] * len(texts)
        places = [place for place, one in enumerate(ids) if one]
        for batch in self._batches(places, [len(one) for one in ids]):
            outputs = self._decode(padded([ids[place] for place in batch]).to(self._device), num_best, choose)
            for place, hypotheses in zip(batch, outputs, strict=True):
                nbest = tuple(self._translation(one) for one in hypotheses)
                found[place] = replace(nbest[0], nbest=nbest)
        return found

    def decode_ids(self, source_ids: Tensor) -> tuple[list[Hypothesis], float]:
        """The best hypothesis of each row of padded `source_ids` `[b, s]`, and the seconds it took."""
        started = time.perf_counter()
        found = self._decode(source_ids, 1, None)
        return [hypotheses[0] for hypotheses in found], time.perf_counter() - started

    def _decode(
        self, source_ids: Tensor, num_best: int, choose: Callable[[Tensor], Tensor] | None
    ) -> list[list[Hypothesis]]:
        """Hypotheses of every row, best first."""
        options = options_of(self._settings)
        options = replace(options, num_best=min(num_best, options.beam_size))
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            stepper = Cached(self.model, source_ids)
            if choose is None:
                return decode(stepper, source_ids, options)
            drawn = greedy(stepper, limits_of(source_ids, options.max_len), options, self._device, choose)
            return [[one] for one in drawn]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text with `<eos>`, cut at the limit; none for an empty text."""
        limit = self._settings.data.max_source_len - 1
        encoded = self._source.encode(texts)
        self.num_truncated += sum(len(one) > limit for one in encoded)
        return [[*one[:limit], EOS] if one else [] for one in encoded]

    def _batches(self, places: list[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """Sentences of like length together."""
        size = self._settings.decode.batch_size
        ordered = sorted(places, key=lambda place: (lengths[place], place))
        yield from (ordered[start : start + size] for start in range(0, len(ordered), size))

    def _translation(self, one: Hypothesis) -> Translation:
        text = self._target.decode(one.tokens)
        return Translation(text, one.tokens, one.score, one.log_probability, one.is_complete)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one int64 matrix, padded on the right."""
    matrix = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, ids in zip(matrix, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(matrix)
