"""BLEU and chrF by sacrebleu, out of sums that every rank can work out for its own sentences.

    output, reference -> whole numbers [n, 28] -> added up over batches and ranks -> corpus BLEU and chrF

Both scores are functions of summed n-gram counts, so neither the order of sentences nor the number of ranks matters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import SettingsError

Counts = NDArray[np.int64]
_BLEU_COLUMNS = 10
"""Length of output and reference, matches and n-grams of order 1 to 4; 18 of chrF follow."""
COLUMNS = _BLEU_COLUMNS + 18


class TextScores:
    """sacrebleu's default BLEU and chrF2 on detokenised text. Raises SettingsError without the library."""

    def __init__(self) -> None:
        try:
            from sacrebleu.metrics.bleu import BLEU
            from sacrebleu.metrics.chrf import CHRF
        except ImportError:
            raise SettingsError("BLEU and chrF need sacrebleu: pip install 'signs-trainer[translation]'") from None
        # `force`: no warning about references that end in " .", which embedded corpora may.
        self._bleu: Any = BLEU(force=True)
        self._sentence_bleu: Any = BLEU(effective_order=True, force=True)
        self._chrf: Any = CHRF()
        self.counts([""], [""])  # a signature knows the number of references only after the first use

    @property
    def signatures(self) -> dict[str, str]:
        """What sacrebleu says of how each number was made."""
        return {"bleu": str(self._bleu.get_signature()), "chrf": str(self._chrf.get_signature())}

    def counts(self, outputs: Sequence[str], references: Sequence[str]) -> Counts:
        """N-gram statistics of every sentence `[n, COLUMNS]`."""
        parts = [one._extract_corpus_statistics(outputs, [references]) for one in (self._bleu, self._chrf)]
        return np.concatenate([np.asarray(part, np.int64).reshape(len(outputs), -1) for part in parts], 1)

    def bleu(self, counts: Counts) -> float:
        """Corpus BLEU of summed counts `[COLUMNS]`, 0 to 100."""
        return _score(self._bleu, counts[:_BLEU_COLUMNS])

    def chrf(self, counts: Counts) -> float:
        """Corpus chrF2 of summed counts, 0 to 100."""
        return _score(self._chrf, counts[_BLEU_COLUMNS:])

    def sentence_bleu(self, counts: Counts) -> float:
        """BLEU of one sentence, over the orders that it is long enough for."""
        return _score(self._sentence_bleu, counts[:_BLEU_COLUMNS])


def length_ratio(counts: Counts) -> float | None:
    """Words of the outputs over words of the references."""
    return float(counts[0] / counts[1]) if counts[1] else None


def _score(metric: Any, counts: Counts) -> float:
    return float(metric._compute_score_from_stats(counts.tolist()).score)
