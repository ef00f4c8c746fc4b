"""What the decoder looks at in the source, for a picture: the weights of its last layer, averaged over the heads."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.engine.task import Placed
from trainer.tasks.translation.decode import Hypothesis
from trainer.tasks.translation.model import TranslationModel
from trainer.tasks.translation.vocabulary import BOS, PAD


def cross_attention(model: TranslationModel, source_ids: Tensor, decoder_ids: Tensor) -> Tensor:
    """Weights `[b, t, s]` of the last decoder layer; each row sums to one.

    The fused kernel of training does not give its weights, so they are worked out again from what goes into it.
    """
    layer = model.decoder_layers[-1].cross_attention
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(_: object, inputs: tuple[Tensor, tuple[Tensor, Tensor], Tensor]) -> None:
        x, (key, _value), allowed = inputs
        seen.append((x, key, allowed))

    handle = layer.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            memory, allowed = model.encode(source_ids)
            model.decode(memory, allowed, decoder_ids)
    finally:
        handle.remove()
    x, key, allowed = seen[0]
    query = layer.split(layer.query(x))
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights: Tensor = scores.masked_fill(~allowed, -torch.inf).softmax(-1).mean(1)
    return weights


def pictures(
    model: TranslationModel,
    source_ids: Tensor,
    index: Sequence[int],
    outputs: Sequence[Hypothesis],
    shape: tuple[int, int, int],
) -> Placed:
    """The weights of those among the first `shape[0]` sentences of a pass that a batch holds, each at its place.

    `index` are the places of the rows of `source_ids` in the pass; the whole has the shape `[n, t, s]`.
    """
    rows = [row for row, place in enumerate(index) if place < shape[0]]
    table = torch.zeros(len(rows), *shape[1:])
    for number, row in enumerate(rows):
        length = int((source_ids[row] != PAD).sum())
        decoder_ids = torch.tensor([[BOS, *outputs[row].tokens]], device=source_ids.device)
        (weights,) = cross_attention(model, source_ids[row : row + 1, :length], decoder_ids)
        table[number, : weights.shape[0], :length] = weights
    return Placed(table, torch.tensor([index[row] for row in rows], dtype=torch.int64), shape[0])
