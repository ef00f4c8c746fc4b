"""Models: a trunk over features and blocks that all levels share, and a head for every level.

    features ─► standardise ─► mlp | cnn ─┐
                                          ├─► joint ─► heads ─► logits of each level, fine to coarse
    blocks, valid ─► linear ──────────────┘

Letters of shapes: b rows, w columns of all blocks, n blocks, d width, c classes of a level.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.config.hierarchy import HierarchyModel
from trainer.errors import SettingsError
from trainer.tasks.hierarchy.heads import build_heads
from trainer.tasks.hierarchy.tree import Tree

Floats = NDArray[np.float32]
Shape = tuple[int, ...]


class Standardise(nn.Module):
    """Numbers minus mean over deviation; both are part of the model, so that an export needs no second recipe."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def set_statistics(self, mean: Floats, deviation: Floats) -> None:
        """Take mean and deviation of each feature, or of each channel of images `[channels, 1, 1]`."""
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def forward(self, values: Tensor) -> Tensor:
        """The same shape."""
        return (values - self.mean) / self.deviation


def mlp(shape: Shape, model: HierarchyModel) -> nn.Module:
    """Layers of `width` over vectors or flattened images."""
    sizes = [torch.Size(shape).numel(), *[model.width] * model.depth]
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *layers)


def cnn(shape: Shape, model: HierarchyModel) -> nn.Module:
    """Convolutions over images `[channels, height, width]`, each halving the picture, then the mean over it.

    GroupNorm, because statistics of a batch would make results depend on the number of processes.
    """
    if len(shape) != 3:
        raise SettingsError(f"model.trunk is cnn, but a row has the shape {list(shape)}, which is no image; use mlp")
    layers: list[nn.Module] = []
    channels = shape[0]
    for _ in range(model.depth):
        layers += [nn.Conv2d(channels, model.width, 3, padding=1), nn.GroupNorm(1, model.width), nn.ReLU()]
        layers.append(nn.AvgPool2d(2, ceil_mode=True))
        channels = model.width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


TRUNKS: dict[str, Callable[[Shape, HierarchyModel], nn.Module]] = {"mlp": mlp, "cnn": cnn}
"""By `model.trunk`; each gives `width` numbers a row."""


class BlockLayer(nn.Module):
    """`[b, block_width]` out of the blocks; an invalid one is zeros, whatever the mean of the others is."""

    owner: Tensor

    def __init__(self, widths: Sequence[int], model: HierarchyModel) -> None:
        super().__init__()
        self.standardise = Standardise((sum(widths),))
        owner = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
        self.register_buffer("owner", owner, persistent=False)
        self.linear = nn.Linear(sum(widths) + len(widths) * model.validity, model.block_width)
        self._has_validity = model.validity

    def forward(self, blocks: Tensor, valid: Tensor) -> Tensor:
        """`blocks` `[b, w]`, `valid` bool `[b, n]`."""
        flags = valid.to(blocks.dtype)
        known = self.standardise(blocks) * flags[:, self.owner]
        hidden: Tensor = self.linear(torch.cat([known, flags], 1) if self._has_validity else known)
        return hidden.relu()


class Trunk(nn.Module):
    """What all levels share: `[b, joint_width]` out of features and blocks."""

    def __init__(self, shape: Shape, widths: Sequence[int], model: HierarchyModel) -> None:
        super().__init__()
        self.standardise = Standardise(shape)
        self.features = TRUNKS[model.trunk](shape, model)
        self.blocks = BlockLayer(widths, model) if widths else None
        self.joint = nn.Linear(model.width + (model.block_width if widths else 0), model.joint_width)
        self.dropout = nn.Dropout(model.dropout)

    def set_statistics(self, features: tuple[Floats, Floats], blocks: tuple[Floats, Floats]) -> None:
        """Mean and deviation of both inputs over the training rows."""
        self.standardise.set_statistics(*features)
        if self.blocks is not None:
            self.blocks.standardise.set_statistics(*blocks)

    def forward(self, features: Tensor, blocks: Tensor, valid: Tensor) -> Tensor:
        """`features` `[b, ...]`, `blocks` `[b, w]`, `valid` bool `[b, n]`."""
        hidden = self.features(self.standardise(features))
        if self.blocks is not None:
            hidden = torch.cat([hidden, self.blocks(blocks, valid)], 1)
        joint: Tensor = self.dropout(self.joint(hidden).relu())
        return joint


class HierarchyNet(nn.Module):
    """Trunk and heads; gives float32 logits `[b, c]` of every level, fine to coarse."""

    def __init__(self, shape: Shape, widths: Sequence[int], tree: Tree, model: HierarchyModel) -> None:
        """`shape` is that of a row's features, `widths` are those of the blocks."""
        super().__init__()
        self.trunk = Trunk(shape, widths, model)
        self.heads = build_heads(model.heads, model.joint_width, tree)

    def forward(self, features: Tensor, blocks: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Logits by level; with sibling heads they are log-probabilities already."""
        logits: tuple[Tensor, ...] = self.heads(self.trunk(features, blocks, valid))
        return logits
