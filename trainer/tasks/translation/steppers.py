"""The model as decoding sees it: the newest tokens of every hypothesis in, logits of the next ones out.

`Cached` keeps keys and values, `Uncached` runs the whole prefix again, and an exported model can stand behind the same
three verbs. Shapes: b sentences, g hypotheses of each side by side, n = b * g rows, s source and t target tokens.
"""

import copy
from typing import Protocol

import torch
from torch import Tensor

from trainer.tasks.translation.model import TranslationModel


class Stepper(Protocol):
    """Decodes in step: all rows are equally long."""

    def step(self, ids: Tensor) -> Tensor:
        """Logits `[n, v]` after the newest tokens `ids` int64 `[n]`."""
        ...

    def select(self, sentences: Tensor | None, rows: Tensor) -> None:
        """Go on with these sentences (None: all) and these rows, in this order."""
        ...


class Cached:
    """Every token goes through the decoder once."""

    def __init__(self, model: TranslationModel, source_ids: Tensor) -> None:
        """`source_ids` `[b, s]`."""
        self._model = model
        self._cache = model.start(*model.encode(source_ids))

    def step(self, ids: Tensor) -> Tensor:
        """Logits after the newest tokens."""
        return self._model.decode_step(ids, self._cache)

    def select(self, sentences: Tensor | None, rows: Tensor) -> None:
        """Reorder the cache."""
        self._cache.select(sentences, rows)


class Uncached:
    """The whole prefix goes through the decoder for every token: the plain definition, slow."""

    def __init__(self, model: TranslationModel, source_ids: Tensor) -> None:
        """`source_ids` `[b, s]`."""
        self._model = model
        self._memory, self._allowed = model.encode(source_ids)
        self._prefix: Tensor | None = None

    def step(self, ids: Tensor) -> Tensor:
        """Logits after the newest tokens."""
        new = ids[:, None]
        self._prefix = new if self._prefix is None else torch.cat([self._prefix, new], 1)
        group = len(ids) // len(self._memory)
        memory, allowed = (one.repeat_interleave(group, 0) for one in (self._memory, self._allowed))
        return self._model.decode(memory, allowed, self._prefix)[:, -1]

    def select(self, sentences: Tensor | None, rows: Tensor) -> None:
        """Reorder prefixes and memories."""
        if sentences is not None:
            self._memory, self._allowed = self._memory[sentences], self._allowed[sentences]
        assert self._prefix is not None
        self._prefix = self._prefix[rows]


def for_decoding(model: TranslationModel) -> TranslationModel:
    """The model in evaluation mode, on the CPU as a copy in double precision.

    Kernels add in an order that hangs on the numbers of rows and of padded columns, which moves a logit of single
    precision by 1e-6, often enough to turn a close decision: a sentence would read otherwise in another batch. In
    double precision it is 1e-15, and decoding rounds to 1e-8. Costs a copy of the weights and twice the arithmetic;
    GPUs are spared it, most have next to no double precision.
    """
    device = next(model.parameters()).device
    return copy.deepcopy(model).double().eval() if device.type == "cpu" else model.eval()
