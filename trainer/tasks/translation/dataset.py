"""Encoded pairs as a data set of the engine: `take` makes a whole padded batch at once.

Batch, all int64: `source_ids` `[B, S]` (tokens, `<eos>`, padding), `decoder_ids` and `labels` `[B, T]`, `index` `[B]`.
With the target as `<bos>`, tokens, `<eos>`, padding, `decoder_ids` are all columns but the last, `labels` all but the
first, so an `<eos>` among the inputs always stands over padding. A pair's cells are the longer of its own S and T.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.dataset import Batch, Indices
from trainer.tasks.translation.vocabulary import BOS, EOS, PAD, UNK

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Token sequences of different length, end to end; no reserved ones but `<unk>`."""

    flat: NDArray[np.int32]
    starts: Ints
    lengths: Ints

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "Tokens":
        """Join sequences."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        flat = np.fromiter((one for ids in sequences for one in ids), np.int32, int(lengths.sum()))
        return cls(flat, np.cumsum(lengths) - lengths, lengths)

    def select(self, rows: Ints) -> "Tokens":
        """Some of the sequences; the tokens themselves are shared."""
        return Tokens(self.flat, self.starts[rows], self.lengths[rows])

    def cut(self, longest: int) -> "Tokens":
        """The same with at most `longest` tokens each."""
        return Tokens(self.flat, self.starts, np.minimum(self.lengths, longest))

    def row(self, index: int) -> list[int]:
        """One sequence."""
        start = self.starts[index]
        ids: list[int] = self.flat[start : start + self.lengths[index]].tolist()
        return ids

    def padded(self, rows: Ints, *, with_bos: bool) -> Ints:
        """Sequences `rows` as `[B, longest]`, with `<eos>` behind each and perhaps `<bos>` before."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        ends = np.cumsum(lengths)
        ids = np.full((len(rows), with_bos + int(lengths.max()) + 1), PAD, np.int64)
        inside = np.arange(ids.shape[1] - with_bos) < lengths[:, None]
        ids[:, with_bos:][inside] = self.flat[np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)]
        ids[np.arange(len(rows)), with_bos + lengths] = EOS
        if with_bos:
            ids[:, 0] = BOS
        return ids

    @property
    def num_unknown(self) -> int:
        """Tokens that stand for something that is not in the vocabulary."""
        counts = np.concatenate([[0], np.cumsum(self.flat == UNK)])
        return int((counts[self.starts + self.lengths] - counts[self.starts]).sum())


class TranslationPairs:
    """A view of encoded pairs."""

    def __init__(self, source: Tokens, target: Tokens, texts: Sequence[tuple[str, str]] = ()) -> None:
        """`texts` are the pairs as they were read, for evaluation; training keeps none."""
        self.source, self.target, self.texts = source, target, texts
        self.source_lengths: Ints = source.lengths + 1
        """Cells of each source, with `<eos>`."""
        self.target_lengths: Ints = target.lengths + 1
        """Cells of each target in the decoder: what the loss counts."""
        self.cells: Ints = np.maximum(self.source_lengths, self.target_lengths)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.cells)

    def select(self, rows: Ints) -> "TranslationPairs":
        """Some of the pairs, in this order."""
        texts = [self.texts[row] for row in rows.tolist()] if self.texts else ()
        return TranslationPairs(self.source.select(rows), self.target.select(rows), texts)

    def take(self, indices: Indices, epoch: int) -> Batch:  # noqa: ARG002 - pairs look the same in every epoch
        """Pairs at `indices`, padded to the longest of them."""
        target = torch.from_numpy(self.target.padded(indices, with_bos=True))
        return {
            "source_ids": torch.from_numpy(self.source.padded(indices, with_bos=False)),
            "decoder_ids": target[:, :-1].contiguous(),
            "labels": target[:, 1:].contiguous(),
            "index": torch.from_numpy(np.array(indices, np.int64)),
        }

    def take_parts(self, parts: Sequence[Indices], epoch: int) -> list[Batch]:
        """Every part as a batch of its own, padded to its own longest pair."""
        return [self.take(part, epoch) for part in parts]

    def costs(self, indices: Indices) -> Ints:
        """Cells of each pair: what a batch costs per sentence if it is the longest one."""
        return self.cells[indices]

    def target_tokens(self, indices: Indices) -> int:
        """Labels that are not padding."""
        return int(self.target_lengths[indices].sum())
