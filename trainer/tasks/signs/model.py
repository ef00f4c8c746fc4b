"""The ST-Transformer of signs.md 8: landmarks of a clip in, logits of its word out.

    [b, t, k*f] -> input norm -> one projection a group -> + part embedding -> LayerNorm, GELU -> + time code
    -> blocks -> mean over groups -> attention pooling over time -> head -> [b, c]

State-dict names and parameter counts are those of the published model for the karsl layout and `input_norm: batch`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config.signs import SignsModel
from trainer.errors import SettingsError
from trainer.tasks.signs.blocks import AttentionPool, Block, time_code
from trainer.tasks.signs.dropout import Dropout
from trainer.tasks.signs.schema import Schema

_CHANNELS = {"t": 16, "s": 32, "m": 64, "l": 128}
_DEFAULTS = {"t": (4, 2), "s": (4, 4), "m": (4, 6), "l": (6, 8)}


@dataclass(frozen=True)
class ModelSize:
    """`<letter>_<heads>_<blocks>`; the letter is the number of channels a head."""

    letter: str
    heads: int
    blocks: int

    @classmethod
    def parse(cls, text: str) -> "ModelSize":
        """`s_4_2`, or a letter alone for its default. Raises SettingsError."""
        letter, *numbers = text.split("_")
        if letter not in _CHANNELS or len(numbers) not in (0, 2) or not all(number.isdigit() for number in numbers):
            raise SettingsError(f"model.size is {text!r}; write <letter>_<heads>_<blocks> such as s_4_2 (t, s, m, l)")
        heads, blocks = (int(number) for number in numbers) if numbers else _DEFAULTS[letter]
        return cls(letter, heads, blocks)

    @property
    def width(self) -> int:
        """D: channels of the trunk."""
        return _CHANNELS[self.letter] * self.heads

    def to_str(self) -> str:
        """The text form, in file names and reports."""
        return f"{self.letter}_{self.heads}_{self.blocks}"


class DatasetNorm(nn.Module):
    """`input_norm: dataset`: BatchNorm1d's names and affine parameters, with statistics that training never moves.

    Not a BatchNorm for torch, so that nothing turns it into SyncBatchNorm and no result hangs on the batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        """The identity (but for eps) until `set_statistics`."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Mean and variance `[k*f]` of the training split."""
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, k*f]`, each column centred, scaled, and passed through the affine parameters."""
        mean, variance = self.running_mean, self.running_var
        return nn.functional.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)


class Embedding(nn.Module):
    """Flattened frames to one token per frame and group: `[b, t, k*f]` to `[b, t, g, d]`."""

    def __init__(self, schema: Schema, width: int, *, batch_norm: bool) -> None:
        """One linear projection a group, named `<group>_proj`."""
        super().__init__()
        self.names = [f"{group.name}_proj" for group in schema.groups]
        self.sizes = [columns.stop - columns.start for columns in schema.columns]
        for name, size in zip(self.names, self.sizes, strict=True):
            self.add_module(name, nn.Linear(size, width))
        self.layer_norm = nn.LayerNorm(width)
        self.part_embed = nn.Parameter(torch.empty(1, 1, schema.num_groups, width))
        self.input_bn: nn.Module = nn.BatchNorm1d(schema.width) if batch_norm else DatasetNorm(schema.width)
        nn.init.trunc_normal_(self.part_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over (b, t) per column, project, add the part embedding."""
        flat = self.input_bn(x.reshape(-1, x.shape[-1])).view(x.shape)
        parts = flat.split(self.sizes, -1)
        tokens = torch.stack([getattr(self, name)(part) for name, part in zip(self.names, parts, strict=True)], 2)
        return nn.functional.gelu(self.layer_norm(tokens + self.part_embed))


class TimeCode(nn.Module):
    """Adds the sinusoidal code; the stored one for clips up to the length of the settings, a longer one as needed."""

    pe: Tensor

    def __init__(self, num_frames: int, width: int) -> None:
        """`num_frames`: length of the code that is kept in the state dict."""
        super().__init__()
        self.register_buffer("pe", time_code(num_frames, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[b, t, g, d]` for any t."""
        t, d = x.shape[1], x.shape[3]
        code = self.pe[:, :t] if t <= self.pe.shape[1] else time_code(t, d).to(self.pe)
        return x + code


class STTransformer(nn.Module):
    """The classifier; `forward` takes landmarks `[b, t, k*f]` and returns logits `[b, c]`."""

    def __init__(self, schema: Schema, num_classes: int, settings: SignsModel, num_frames: int = 50) -> None:
        """`schema` is the layout of what comes in, derived features included."""
        super().__init__()
        self.schema = schema
        self.num_classes = num_classes
        self.model_size = ModelSize.parse(settings.size)
        # The published block was trained without masks.
        self.mask_missing = settings.mask_missing and settings.residual == "pre"
        width, bits = self.model_size.width, settings.dropout_bits
        self.embedding = Embedding(schema, width, batch_norm=settings.input_norm == "batch")
        self.pos_encoder = TimeCode(num_frames, width)
        self.dropout = Dropout(settings.dropout, bits)
        self.blocks = nn.ModuleList(
            Block(
                width,
                self.model_size.heads,
                dropout=settings.dropout,
                attention_dropout=settings.attention_dropout,
                bits=bits,
                residual=settings.residual,
            )
            for _ in range(self.model_size.blocks)
        )
        self.final_norm = nn.LayerNorm(width) if settings.final_norm else None
        self.attention_pool = AttentionPool(width)
        self.head_dropout = Dropout(settings.head_dropout, bits)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Logits of a batch. `present` bool `[b, t, g]`: groups that were found; taken from `x` where not given."""
        spatial = temporal = frames = None
        if self.mask_missing:
            spatial, temporal, frames = attention_masks(self.present_in(x) if present is None else present)
        tokens = self.dropout(self.pos_encoder(self.embedding(x)))
        for block in self.blocks:
            tokens = block(tokens, spatial, temporal)
        if self.final_norm is not None:
            tokens = self.final_norm(tokens)
        pooled = self.attention_pool(tokens.mean(2), frames)
        logits: Tensor = self.fc(self.head_dropout(pooled))
        return logits

    def present_in(self, x: Tensor) -> Tensor:
        """Which groups `[b, t, g]` a clip holds: those with a visibility, or without that feature any value, not 0."""
        visible = self.schema.visibility
        first, step = (0, 1) if visible is None else (visible, self.schema.num_features)
        parts = [(x[..., c.start + first : c.stop : step] != 0).any(-1) for c in self.schema.columns]
        return torch.stack(parts, -1)


def attention_masks(present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys that attention may see, out of `present` `[b,t,g]`: spatial `[b*t,1,1,g]`, temporal `[b*g,1,1,t]`, `[b,t]`.

    Every row keeps a key, so that softmax stays finite: a frame without any group sees itself, a group that is never
    there sees the frames that have another one, and a clip with nothing at all sees everything.
    """
    t, g = present.shape[1:]
    in_frame = present.any(2)
    frames = in_frame | ~in_frame.any(1, keepdim=True)
    spatial = present | ~in_frame[..., None]
    temporal = present | (frames[..., None] & ~present.any(1, keepdim=True))
    return spatial.reshape(-1, 1, 1, g), temporal.transpose(1, 2).reshape(-1, 1, 1, t), frames
