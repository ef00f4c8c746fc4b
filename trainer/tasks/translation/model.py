"""The encoder-decoder Transformer (Vaswani et al. 2017) of translation.md 2.

    source ids [b, s] -> embedding * sqrt(d) + position -> encoder layers (-> norm) -> memory [b, s, d]
    decoder ids [b, t] -> embedding * sqrt(d) + position -> decoder layers (-> norm) -> logits [b, t, v]

Training runs the whole target at once (`forward`); decoding feeds one token at a time to `decode_step`, which keeps
keys and values of everything before it. Parameters are counted by the formula of translation.md 2, tied matrices once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.translation import TranslationModelSettings
from trainer.tasks.translation.layers import Attention, FeedForward, Heads, Sublayer, sinusoids
from trainer.tasks.translation.vocabulary import PAD


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, settings: TranslationModelSettings) -> None:
        """Sizes from the settings."""
        super().__init__()
        width, drop, is_pre = settings.d_model, settings.dropout, settings.norm == "pre"
        self.attention = Attention(width, settings.num_heads, drop, is_rotary=settings.position == "rotary")
        self.feed_forward = FeedForward(width, settings.d_ff, drop, settings.activation)
        self.around_attention, self.around_feed_forward = (Sublayer(width, drop, is_pre=is_pre) for _ in range(2))

    def forward(self, x_bsd: Tensor, allowed: Tensor) -> Tensor:
        """`allowed` bool `[b, 1, 1, s]`: the source tokens that are no padding."""
        x_bsd = self.around_attention(x_bsd, lambda x: self.attention(x, self.attention.heads(x), allowed))
        return cast(Tensor, self.around_feed_forward(x_bsd, self.feed_forward))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward."""

    def __init__(self, settings: TranslationModelSettings) -> None:
        """Sizes from the settings."""
        super().__init__()
        width, drop, is_pre = settings.d_model, settings.dropout, settings.norm == "pre"
        self.attention = Attention(width, settings.num_heads, drop, is_rotary=settings.position == "rotary")
        self.cross_attention = Attention(width, settings.num_heads, drop)
        self.feed_forward = FeedForward(width, settings.d_ff, drop, settings.activation)
        self.around_attention, self.around_cross_attention, self.around_feed_forward = (
            Sublayer(width, drop, is_pre=is_pre) for _ in range(3)
        )

    def forward(self, x_btd: Tensor, source: Heads, allowed: Tensor) -> Tensor:
        """A whole target. Padding is on the right of it, so that causality alone hides it from every real token."""
        x_btd = self.around_attention(x_btd, lambda x: self.attention(x, self.attention.heads(x), is_causal=True))
        x_btd = self.around_cross_attention(x_btd, lambda x: self.cross_attention(x, source, allowed))
        return cast(Tensor, self.around_feed_forward(x_btd, self.feed_forward))

    def step(self, x_n1d: Tensor, before: "LayerCache", allowed: Tensor, position: int) -> Tensor:
        """One token of every hypothesis; its keys and values join the cache."""
        x_n1d = self.around_attention(
            x_n1d, lambda x: self.attention(x, before.extended(*self.attention.heads(x, position)), first=position)
        )
        width, num_sentences = x_n1d.shape[-1], len(allowed)
        x_bgd = x_n1d.view(num_sentences, -1, width)
        x_bgd = self.around_cross_attention(x_bgd, lambda x: self.cross_attention(x, before.source, allowed))
        return cast(Tensor, self.around_feed_forward(x_bgd.reshape(-1, 1, width), self.feed_forward))


@dataclass
class LayerCache:
    """Keys and values of one decoder layer: of the source once a sentence, of the target for each hypothesis."""

    source: Heads
    target: Heads | None = None

    def extended(self, key_n1: Tensor, value_n1: Tensor) -> Heads:
        """Keys and values of all tokens so far, the new ones included."""
        if self.target is None:
            self.target = key_n1, value_n1
        else:
            self.target = torch.cat([self.target[0], key_n1], 2), torch.cat([self.target[1], value_n1], 2)
        return self.target

    def select(self, sentences: Tensor | None, rows: Tensor) -> None:
        """Keep these sentences (None: all) and these hypotheses, in this order."""
        if sentences is not None:
            self.source = self.source[0][sentences], self.source[1][sentences]
        if self.target is not None:
            self.target = self.target[0][rows], self.target[1][rows]


@dataclass
class Cache:
    """What decoding has worked out so far: n = b * g rows, g hypotheses of each of b sentences side by side."""

    layers: list[LayerCache]
    allowed: Tensor
    """Bool `[b, 1, 1, s]`: source tokens that are no padding."""
    position: int = 0
    """Tokens decoded."""

    def select(self, sentences: Tensor | None, rows: Tensor) -> None:
        """Keep these sentences (None: all) and these rows of hypotheses, in this order."""
        if sentences is not None:
            self.allowed = self.allowed[sentences]
        for layer in self.layers:
            layer.select(sentences, rows)


class TranslationModel(nn.Module):
    """`forward(source_ids [b, s], decoder_ids [b, t])` gives logits `[b, t, v]`."""

    def __init__(
        self, settings: TranslationModelSettings, source_vocab: int, target_vocab: int, max_len: int = 128
    ) -> None:
        """`max_len`: positions of `position: learned`; the other kinds know no limit."""
        super().__init__()
        self.settings, self.width = settings, settings.d_model
        is_tied = settings.tie != "none"
        assert settings.tie != "all" or source_vocab == target_vocab, "one vocabulary for both sides"
        self.source_embedding = nn.Embedding(source_vocab, self.width, padding_idx=PAD)
        # Not registered a second time where it is the same matrix: a checkpoint holds it once.
        self.target_embedding = (
            None if settings.tie == "all" else nn.Embedding(target_vocab, self.width, padding_idx=PAD)
        )
        self.output = None if is_tied else nn.Linear(self.width, target_vocab, bias=False)
        is_learned = settings.position == "learned"
        self.source_position = nn.Embedding(max_len, self.width) if is_learned else None
        self.target_position = nn.Embedding(max_len, self.width) if is_learned else None
        self.dropout = nn.Dropout(settings.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.num_layers))
        num_decoder_layers = settings.decoder_layers or settings.num_layers
        self.decoder = nn.ModuleList(DecoderLayer(settings) for _ in range(num_decoder_layers))
        has_final_norm = settings.norm == "pre"
        self.encoder_norm = nn.LayerNorm(self.width) if has_final_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(self.width) if has_final_norm else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        """Xavier uniform for matrices, N(0, 1/d) for embeddings, biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.width**-0.5)
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])

    @property
    def target_matrix(self) -> Tensor:
        """Embeddings of the target tokens `[v, d]`."""
        return (self.target_embedding or self.source_embedding).weight

    @property
    def output_matrix(self) -> Tensor:
        """What turns the decoder's output into logits `[v, d]`."""
        return self.target_matrix if self.output is None else self.output.weight

    @property
    def decoder_layers(self) -> Sequence[DecoderLayer]:
        """The decoder's layers with their type, which a module list forgets."""
        return cast(Sequence[DecoderLayer], self.decoder)

    def forward(self, source_ids: Tensor, decoder_ids: Tensor) -> Tensor:
        """Logits `[b, t, v]` of the token after each of `decoder_ids` (teacher forcing)."""
        memory, allowed = self.encode(source_ids)
        return self.decode(memory, allowed, decoder_ids)

    def encode(self, source_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `[b, s, d]` and the mask of `allowed`."""
        allowed = self.allowed(source_ids)
        x = self._embed(source_ids, self.source_embedding.weight, self.source_position, 0)
        for layer in self.encoder:
            x = layer(x, allowed)
        return self.encoder_norm(x), allowed

    @staticmethod
    def allowed(source_ids: Tensor) -> Tensor:
        """Bool `[b, 1, 1, s]`: the source tokens that may be seen, which are those that are no padding.

        A source of nothing but padding sees all of it: its numbers mean nothing, but they are finite.
        """
        real = source_ids != PAD
        return (real | ~real.any(1, keepdim=True))[:, None, None]

    def decode(self, memory: Tensor, allowed: Tensor, decoder_ids: Tensor) -> Tensor:
        """Logits `[b, t, v]` of whole targets."""
        x = self._embed(decoder_ids, self.target_matrix, self.target_position, 0)
        for layer in self.decoder_layers:
            x = layer(x, layer.cross_attention.heads(memory), allowed)
        return self._logits(x)

    def start(self, memory: Tensor, allowed: Tensor) -> Cache:
        """A cache for decoding with `decode_step`, nothing decoded yet."""
        return Cache([LayerCache(layer.cross_attention.heads(memory)) for layer in self.decoder_layers], allowed)

    def decode_step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits `[n, v]` after the tokens `ids` `[n]`, each the newest of its hypothesis."""
        x = self._embed(ids[:, None], self.target_matrix, self.target_position, cache.position)
        for layer, before in zip(self.decoder_layers, cache.layers, strict=True):
            x = layer.step(x, before, cache.allowed, cache.position)
        cache.position += 1
        return self._logits(x)[:, 0]

    def _embed(self, ids: Tensor, matrix: Tensor, learned: nn.Embedding | None, first: int) -> Tensor:
        """E[id] * sqrt(d) + position, with dropout; `first` is the position of the first token."""
        x = functional.embedding(ids, matrix, padding_idx=PAD) * math.sqrt(self.width)
        positions = torch.arange(first, first + ids.shape[1], device=ids.device)
        if learned is not None:
            x = x + learned(positions)
        elif self.settings.position == "sinusoidal":
            x = x + sinusoids(positions, self.width).to(x.dtype)
        return cast(Tensor, self.dropout(x))

    def _logits(self, x: Tensor) -> Tensor:
        """Output matrix on the last layer; the row of `<pad>` of a tied one stays without gradient, thus zero."""
        matrix: Tensor = self.output_matrix
        if self.output is None and torch.is_grad_enabled():
            matrix = torch.cat([matrix[: PAD + 1].detach(), matrix[PAD + 1 :]])
        return functional.linear(self.decoder_norm(x), matrix)
