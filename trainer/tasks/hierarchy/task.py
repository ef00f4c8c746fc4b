"""The task `hierarchy` as the engine sees it: model, rows, a loss term a level, passes by sets of masked blocks.

val, test                the standard pass (`test` at the end only)
val_mask_all             without any block
val_mask_<A>_<B>         without these blocks, in the order of the blocks, so that a set has one name

In passes the loss is cross-entropy whatever is trained on, so that runs with different criteria compare.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config.hierarchy import HierarchySettings
from trainer.data.dataset import Batch, Indices
from trainer.data.plan import Plan
from trainer.engine.task import Loss, Pass, PassResult, Sums
from trainer.errors import SettingsError
from trainer.tasks.hierarchy import metrics
from trainer.tasks.hierarchy.blocks import BlockMap, BlockSet
from trainer.tasks.hierarchy.criteria import build_criteria, class_weights, cross_entropy
from trainer.tasks.hierarchy.dataset import HierarchyRows
from trainer.tasks.hierarchy.heads import log_probabilities
from trainer.tasks.hierarchy.loss import Targets, level_sums, right_sums
from trainer.tasks.hierarchy.remarks import caveat, odd, remarks, without_blocks
from trainer.tasks.hierarchy.rows import RowSets, open_data
from trainer.tasks.hierarchy.tree import FILE, Tree
from trainer.tasks.hierarchy.trunks import HierarchyNet, Shape
from trainer.telemetry.events import Metrics

Settings = HierarchySettings
ROWS = "rows"
"""Named sum of training rows; what shares of rows are divided by, as the terms count known labels."""


class HierarchyTask:
    """Implements `engine.task.Task` for rows with labels on a tree."""

    name = "hierarchy"
    best_metric = "val/loss"

    def __init__(self, settings: HierarchySettings, rows: RowSets) -> None:
        """Raises SettingsError for names of classes that there are not, and for passes of one name."""
        self.settings, self.rows = settings, rows
        self.tree, self.blocks = rows.opened.tree, rows.opened.blocks
        self.model_name = model_name(settings)
        self.curves = rows.train.curves.by_name
        self.caveat = caveat(rows.opened, settings.data)
        self.remarks = [
            *remarks(rows.opened, settings.data),
            *without_blocks(self.blocks, settings.mask),
            *odd(rows.opened),
        ]
        self.left_out = left_out(rows.opened.report["rows"])
        self.subsets = {name: _classes(self.tree, name, chosen) for name, chosen in settings.data.subsets.items()}
        self.metrics = metrics.metric_names(self.tree, self.blocks.names, list(self.subsets))
        self.table_size = max(len(own) for own in rows.evaluated.values())
        _refuse_twins(self.blocks, self._mask_sets())
        self.criteria = build_criteria(settings.loss, self.tree)
        self.class_weights = class_weights(settings.loss, self.tree, rows.plain.labels)

    def build_model(self) -> nn.Module:
        """A fresh model with the statistics of the training rows; with `run.init_from`, that file's weights."""
        model = build(self.settings, self.rows.shape, self.blocks.widths, self.tree)
        if self.settings.model.input_norm == "dataset":
            model.trunk.set_statistics(self.rows.plain.statistics, self.rows.plain.block_statistics)
        run = self.settings.run
        if run.init_from is not None:
            from trainer.tasks.weight_files import load_into, read_weights

            load_into(model, read_weights(run.init_from), run.init_allow, run.init_from)
        return model

    def shared(self, model: nn.Module) -> Sequence[nn.Parameter]:
        """The trunk, which the terms of all levels pull at."""
        assert isinstance(model, HierarchyNet)
        return list(model.trunk.parameters())

    def train_data(self) -> HierarchyRows:
        """The training rows, changed, mixed and masked as the settings say."""
        return self.rows.train

    def plan(self) -> Plan:
        """The shuffled order, or pairs of rows of a group next to each other."""
        return self.rows.train.plan

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        """Rows whose label is known, by level; of mixed rows those that both know it."""
        known = self.rows.train.known(indices, epoch)
        return dict(zip(self.tree.levels, map(float, known), strict=True))

    def passes(self) -> Sequence[Pass]:
        """The standard passes, then the masked ones from all blocks to single ones."""
        size = self.settings.eval_batch_size or self.settings.batch_size
        triggers = {"val": "every 1 epochs and end", "test": "never"}
        plain = [Pass(name, rows, triggers[name], size) for name, rows in self.rows.evaluated.items()]
        return [*plain, *(self._masked(blocks, trigger, size) for blocks, trigger in self._mask_sets().items())]

    def _mask_sets(self) -> dict[BlockSet, str]:
        """When the pass of each set of blocks runs."""
        mask, blocks = self.settings.mask, self.blocks
        found = {
            names: "every 1 epochs and end" if len(names) == len(blocks.names) else mask.when
            for names in blocks.sets(mask.passes)
        }
        return found | {
            names: "never" for names in blocks.sets(["subsets"] if mask.final else []) if names not in found
        }

    def _masked(self, blocks: BlockSet, trigger: str, size: int) -> Pass:
        name = self.blocks.pass_name(blocks)
        return Pass(name, self.rows.evaluated["val"], trigger, size, transform=partial(self._without, blocks))

    def _without(self, blocks: BlockSet, batch: Batch) -> Batch:
        """A copy of the batch whose rows have lost these blocks."""
        values, valid = self.blocks.masked(batch["blocks"], batch["valid"], blocks)
        return batch | {"blocks": values, "valid": valid}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """A sum a level over the rows known there; right answers, valid blocks and rows for their shares."""
        log_p, targets = self._log_p(model, batch), Targets.of(batch)
        levels = self.tree.levels
        terms = dict(zip(levels, level_sums(log_p, targets, self.criteria, self.class_weights), strict=True))
        found = {f"{name}/top1": one for name, one in zip(levels, right_sums(log_p, targets), strict=True)}
        valid = batch["valid"].float().sum(0)
        found |= {f"valid_{name}": one for name, one in zip(self.blocks.names, valid.unbind(0), strict=True)}
        if self.blocks.names:
            found[ROWS] = torch.full_like(valid[0], float(len(batch["valid"])))
        return Loss(terms, found)

    def derived(self, means: Metrics, count: float, seconds: float) -> Metrics:  # noqa: ARG002 - of the seam
        """Shares of valid blocks over all rows of a training interval."""
        rows = means.pop(ROWS, None)
        valid = {f"valid_{name}": means.get(f"valid_{name}") for name in self.blocks.names}
        return {name: value / rows if rows and value is not None else None for name, value in valid.items()}

    def _log_p(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        logits = model(batch["features"], batch["blocks"], batch["valid"])
        return log_probabilities(self.settings.model.heads, logits)

    def evaluate(self, model: nn.Module, batch: Batch) -> Sums:
        """The batch's rows of the pass's table."""
        weights = self.class_weights if self.settings.loss.weigh_passes else [None] * len(self.tree.levels)
        criteria = [(cross_entropy, one) for one in weights]
        log_p = self._log_p(model, batch)
        return {"table": metrics.batch_rows(log_p, batch, self.tree, self.settings.decode, criteria, self.table_size)}

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        """Metrics and detail of a pass out of its table; the terms are the losses of the levels."""
        known = self._known["test" if name == "test" else "val"]
        found, detail = metrics.summarize_table(sums["table"], known)
        return PassResult(found, detail, terms={level: found[f"{level}/loss"] for level in self.tree.levels})

    @cached_property
    def _known(self) -> dict[str, metrics.Known]:
        """What is known of the rows of each split."""
        labels, frequencies = self.rows.plain.labels, []
        for level, size in enumerate(self.tree.num_classes):
            own = labels[:, level]
            frequencies.append(np.bincount(own[own >= 0], minlength=size))
        return {
            name: metrics.Known(own.labels, own.names, self.tree, self.blocks.names, frequencies, self.subsets)
            for name, own in self.rows.evaluated.items()
        }

    def samples(self, num_samples: int) -> Batch:
        """Real rows, evenly spread over the validation split; for the check of an export."""
        rows = self.rows.evaluated["val"]
        return rows.take(np.linspace(0, len(rows) - 1, min(num_samples, len(rows))).astype(np.int64), 0)

    @property
    def files(self) -> dict[str, bytes]:
        """The tree, without which the logits have no names."""
        return {FILE: json.dumps(self.tree.to_json(), ensure_ascii=False).encode()}

    def info(self) -> dict[str, Any]:
        """What the ledger, the report and the exported model need to know of data and model."""
        opened = self.rows.opened
        splits = {"train": self.rows.plain} | self.rows.evaluated
        return {
            "tree": self.tree.to_json(),
            "blocks": self.blocks.widths,
            "shape": list(self.rows.shape),
            "divisor": self.rows.plain.divisor,
            "decode": self.settings.decode.model_dump(),
            "data": opened.report,
            "data_digest": opened.table.digest,
            "tree_digest": self.tree.digest,
            "model_size": self.model_name,
            "splits": {name: len(rows) for name, rows in splits.items()},
        }


def left_out(rows: dict[str, int]) -> dict[str, int]:
    """Rows that the run goes without: bad ones, and those whose image is not there."""
    return {"skipped": rows["bad"], "tolerated": rows.get("missing_image", 0)}


def _classes(tree: Tree, subset: str, chosen: Sequence[str]) -> Indices:
    """Finest classes by name. Raises SettingsError for one that there is not."""
    names = {name: number for number, name in enumerate(tree.names[0])}
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise SettingsError(f"data.subsets.{subset} names {unknown[0]!r}; {tree.levels[0]} has no such class")
    return np.array([names[name] for name in chosen], np.int64)


def _refuse_twins(blocks: BlockMap, sets: Iterable[BlockSet]) -> None:
    """Raises SettingsError for two sets of blocks whose passes would have one name: a and b, and a_b."""
    found: dict[str, BlockSet] = {}
    for one in sets:
        other = found.setdefault(blocks.pass_name(one), one)
        if other != one:
            pair = f"{'+'.join(other)} and {'+'.join(one)}"
            raise SettingsError(f"mask.passes: {pair} would both be {blocks.pass_name(one)}; rename a block")


def build(settings: HierarchySettings, shape: Shape, blocks: dict[str, int], tree: Tree) -> HierarchyNet:
    """A fresh model for rows of this shape and blocks of these widths."""
    return HierarchyNet(shape, list(blocks.values()), tree, settings.model)


def model_name(settings: HierarchySettings) -> str:
    """Trunk, its size, and heads, for names of runs and files."""
    model = settings.model
    return f"{model.trunk}_{model.width}_{model.depth}_{model.heads}"


def create(settings: HierarchySettings) -> HierarchyTask:
    """Read the rows, build the tree, and make the task. Raises DataError and SettingsError."""
    return HierarchyTask(settings, open_data(settings))
