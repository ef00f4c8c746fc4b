"""A trained model for others: `.pth`, and ONNX that was checked against onnxruntime.

    hierarchy_<size>.pth     tensors and facts
    hierarchy_<size>.onnx    features [b, ...], blocks [b, w], valid bool [b, n]  ->  logits_<level> [b, c] by level

Blocks and their validity are inputs only if there are blocks; an invalid block is zeros. The standardisation of the
features is in the graph. The metadata hold what turns rows into features (their shape, and what the bytes of an image
are divided by) and logits into answers: the tree with its class names, the map of the blocks, the rule of decoding,
and whether the logits are log-probabilities already (sibling heads).
"""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config.hierarchy import HierarchyDecode, HierarchySettings
from trainer.data.dataset import Batch
from trainer.errors import RunError
from trainer.tasks.exporting import TOLERANCE, Exported, Signature, write_onnx
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.decode import decode
from trainer.tasks.hierarchy.heads import log_probabilities
from trainer.tasks.hierarchy.task import build, model_name
from trainer.tasks.hierarchy.tree import Tree
from trainer.tasks.hierarchy.trunks import HierarchyNet
from trainer.tasks.weight_files import bare, load_into, save_pth

FORMAT = "hierarchy-model-1"
INPUTS = ("features", "blocks", "valid")
Logits = tuple[Tensor, ...]


class WithoutBlocks(nn.Module):
    """The model as a function of the features alone."""

    def __init__(self, model: HierarchyNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Logits:
        """Logits of each level."""
        nothing = features.new_zeros(features.shape[0], 0)  # a len() would fix the batch
        logits: Logits = self.model(features, nothing, nothing.bool())
        return logits


def export_model(
    settings: HierarchySettings,
    info: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    folder: Path,
    formats: Iterable[str],
    *,
    samples: Batch,
    epoch: int = 1,
    metrics: Mapping[str, Any] | None = None,
) -> list[Exported]:
    """Write the model in `formats` ("pth", "onnx") below `folder`.

    `info` is what `HierarchyTask.info` gave, `samples` real rows to compare on, `epoch` counts from 1. Raises
    SettingsError for a missing extra, RunError if onnxruntime differs by more than 1e-4 or answers otherwise.
    """
    tree = Tree.from_json(info["tree"])
    model = build(settings, tuple(info["shape"]), info["blocks"], tree)
    load_into(model, {bare(name): value for name, value in state_dict.items()}, [], "the checkpoint")
    model.eval()
    about = {
        "format": FORMAT,
        "tree": info["tree"],
        "blocks": BlockMap(info["blocks"]).ranges,
        "decode": info["decode"],
        "heads": settings.model.heads,
        "features": {name: info.get(name) for name in ("shape", "divisor")},
        "info": {name: value for name, value in info.items() if name not in ("tree", "blocks", "decode")},
        "model": settings.model.model_dump(),
        "metrics": dict(metrics or {}),
        "epoch": epoch,
    }
    stem, written = f"hierarchy_{model_name(settings)}", []
    for kind in formats:
        path = folder / f"{stem}.{kind}"
        if kind == "pth":
            save_pth(path, model.state_dict(), about)
            written.append(Exported("pth", path))
        else:
            difference = write_graph(model, path, about, samples, tree)
            written.append(Exported("onnx", path, difference, len(samples["features"])))
    return written


def write_graph(model: HierarchyNet, path: Path, about: Mapping[str, Any], samples: Batch, tree: Tree) -> float:
    """Write, check and compare an ONNX file; returns the greatest difference of a logit."""
    inputs = INPUTS if about["blocks"] else INPUTS[:1]
    graph = model if about["blocks"] else WithoutBlocks(model)
    rows = tuple(samples[name] for name in inputs)
    batch = torch.export.Dim("batch", min=1)
    signature = Signature(
        example=tuple(_two(one) for one in rows),
        inputs=inputs,
        outputs=[f"logits_{level}" for level in tree.levels],
        dynamic_shapes=[{0: batch}] * len(inputs),
    )
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in about.items()}
    return write_onnx(graph, path, signature, texts, partial(_compare, graph, about, tree, rows))


def _two(rows: Tensor) -> Tensor:
    """Two rows to trace with: torch.export takes an axis of length 1 for a fixed one."""
    return rows[:2] if len(rows) > 1 else torch.cat([rows, rows])


def _compare(graph: nn.Module, about: Mapping[str, Any], tree: Tree, rows: tuple[Tensor, ...], path: Path) -> float:
    """Greatest difference of a logit, all rows at once and one by one. Raises RunError for another decoded answer."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    greatest = 0.0
    for size in (1, len(rows[0])):
        for start in range(0, len(rows[0]), size):
            part = [one[start : start + size] for one in rows]
            with torch.no_grad():
                ours = graph(*part)
            feed = {name: one.numpy() for name, one in zip(names, part, strict=True)}
            theirs = tuple(map(torch.from_numpy, session.run(None, feed)))
            pairs = list(zip(ours, theirs, strict=True))
            greatest = max(chain([greatest], (float((one - other).abs().max()) for one, other in pairs)))
            if greatest <= TOLERANCE:
                _compare_answers(about, tree, (ours, theirs), path)
    return greatest


def _compare_answers(about: Mapping[str, Any], tree: Tree, both: tuple[Logits, Logits], path: Path) -> None:
    """The same decoded classes, but for rows that lie closer to another answer than the tolerance."""
    rule = HierarchyDecode.model_validate(about["decode"])
    ours, theirs = (decode(log_probabilities(about["heads"], one), tree, rule) for one in both)
    for row in np.flatnonzero((ours != theirs).any(1).numpy()).tolist():
        if not _is_close(about, tree, rule, tuple(level[row : row + 1] for level in both[0])):
            raise RunError(f"{path}: onnxruntime answers sample {row} otherwise than torch; report this model")


def _is_close(about: Mapping[str, Any], tree: Tree, rule: HierarchyDecode, logits: Logits) -> bool:
    """Whether shifts of the logits within the tolerance change the answer of a row, in any of a few directions."""
    generator = torch.Generator().manual_seed(0)
    shifts = (torch.randn(256, level.shape[1], generator=generator).sign() for level in logits)
    shifted = tuple(level + TOLERANCE * shift for level, shift in zip(logits, shifts, strict=True))
    answers = decode(log_probabilities(about["heads"], shifted), tree, rule)
    return bool((answers != answers[0]).any())
