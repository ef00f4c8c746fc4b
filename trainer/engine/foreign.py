"""The lesser door: a model, optimizer, scheduler and DataLoaders that somebody brings along.

They are made to look like a task and a source, so that there is one loop. What cannot be promised: the order of a
DataLoader is the same after a restart only as far as its own shuffling draws from the re-keyed global generators.
"""

import hashlib
import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from trainer.data.dataset import Batch, Indices
from trainer.data.keys import derive
from trainer.data.plan import Plan
from trainer.engine.cursor import Cursor
from trainer.engine.rng import rekey
from trainer.engine.source import StepBatch
from trainer.engine.task import Loss, Pass, PassResult
from trainer.engine.world import World
from trainer.errors import SettingsError
from trainer.telemetry.events import Metrics

Pairs = Iterable[Any]
LossFunction = Callable[[Any, Any], Tensor]
_VALUE = "trainer/value"
"""What a scheduler is shown at the end of an epoch without a pass, among its own values in a checkpoint."""


class WalkedData:
    """A loader as the data set of a pass: it has a length and can be walked, but not asked for samples."""

    def __init__(self, loader: Pairs) -> None:
        count_batches(loader)  # refuses what cannot be walked again and again
        self._length = self._count(loader)

    def __len__(self) -> int:
        return self._length

    def _count(self, loader: Pairs) -> int:
        return count_samples(loader)

    def take(self, indices: Indices, epoch: int) -> Batch:
        """Never called: the pass has a loader."""
        raise AssertionError(f"samples {indices[:1]} of epoch {epoch} asked from a loader")


class LoaderTask:
    """What every task of loaders answers alike: its model is there, and nobody asks it for samples by their index."""

    model: nn.Module

    def build_model(self) -> nn.Module:
        """The model as it came."""
        return self.model

    def train_data(self) -> Any:
        """The loader is the source; there is no data set to ask."""
        raise AssertionError("a foreign run walks its loader")

    def plan(self) -> Plan:
        """The loader batches by itself."""
        raise AssertionError("a foreign run walks its loader")

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        """The source counts its batches."""
        raise AssertionError(f"counts of {indices[:1]} in epoch {epoch} asked of a foreign task")


@dataclass
class ForeignTask(LoaderTask):
    """A model and a loss function as a task; accuracy is measured where the output looks like class logits."""

    model: nn.Module
    loss_function: LossFunction
    validation: Pairs
    world: World
    seed: int
    num_classes: int | None
    name: str = "plain"
    model_name: str = field(init=False)
    metrics: Mapping[str, str] = field(init=False)
    best_metric: str = "val/loss"

    def __post_init__(self) -> None:
        self.model_name = plain_name(self.model, self.num_classes)
        self.metrics = {"loss": "min", "top1": "max"} if self.num_classes else {"loss": "min"}

    def passes(self) -> Sequence[Pass]:
        """One pass over the validation loader."""
        return [Pass("val", WalkedData(self.validation), "every 1 epochs and end", loader=self._batches)]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The caller's loss as a sum: a mean is multiplied by its number of samples."""
        output, value = self._forward(model, batch)
        return Loss({"loss": value}, self._hits(output, batch["target"]))

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss, hits, count and, for class logits, the confusion matrix `[classes, classes]` (true, predicted)."""
        output, value = self._forward(model, batch)
        target = batch["target"]
        sums = {"loss": value, "count": torch.tensor(float(num_samples(target))), **self._hits(output, target)}
        if self.num_classes:
            cells = target.reshape(-1) * self.num_classes + output.argmax(-1).reshape(-1)
            flat = torch.bincount(cells, minlength=self.num_classes**2)
            sums["confusion"] = flat.reshape(self.num_classes, self.num_classes).double()
        return sums

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:  # noqa: ARG002 - one kind of pass
        """Means, and the confusion as `[true, predicted, count]` triplets."""
        count = sums["count"].item()
        metrics: Metrics = {key: sums[key].item() / count if count else None for key in self.metrics if key in sums}
        if "confusion" not in sums:
            return PassResult(metrics)
        cells = sums["confusion"].nonzero().tolist()
        return PassResult(metrics, {"confusion": [[t, p, int(sums["confusion"][t, p])] for t, p in cells]})

    def info(self) -> dict[str, Any]:
        """Class ids, where there are classes."""
        ids = range(self.num_classes or 0)
        return {"classes": [{"word": number + 1, "name": str(number + 1), "native": ""} for number in ids]}

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Output of the model and the loss as a sum over the samples."""
        output = model(batch["input"])
        value = self.loss_function(output, batch["target"])
        if value.dim() > 0:
            return output, value.sum()
        is_sum = getattr(self.loss_function, "reduction", "mean") == "sum"
        return output, value if is_sum else value * num_samples(batch["target"])

    def _hits(self, output: Any, target: Any) -> dict[str, Tensor]:
        """The number of right classes, if the output holds class logits."""
        return {"top1": (output.argmax(-1) == target).sum().float()} if self.num_classes else {}

    def _batches(self) -> Iterator[Batch]:
        """The validation loader's pairs, on the device."""
        key_global_generators(self.seed, "val")
        for pair in self.validation:
            yield as_batch(pair, self.world.device)


class LoaderSource:
    """Walks a training DataLoader; what a run has done already is walked over again after a restart."""

    def __init__(self, loader: Pairs, sampler: Any, world: World, seed: int) -> None:
        self._loader, self._sampler, self._world, self._seed = loader, sampler, world, seed
        self._length = count_batches(loader)

    def steps_per_epoch(self, num_epochs: int, max_steps: int | None) -> int:  # noqa: ARG002 - all walks are alike
        """Batches of one walk over the loader."""
        return self._length

    def num_samples(self) -> int:
        """Samples of one walk over the loader."""
        return count_samples(self._loader)

    def walk(self, cursor: Cursor, num_epochs: int) -> Iterator[list[StepBatch]]:
        """Every batch from the cursor on, one by one."""
        start = cursor.batch
        for epoch in range(cursor.epoch, num_epochs):
            yield from ([step] for step in self._walk_epoch(epoch, start))
            start = 0

    def _walk_epoch(self, epoch: int, start: int) -> Iterator[StepBatch]:
        """One walk; the global generators are keyed before each fetch, so that a replay draws the same."""
        for sampler in (self._sampler, getattr(self._loader, "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch:
                # The programs people know count epochs from 1.
                set_epoch(epoch + 1)
        key_global_generators(self._seed, "loader", epoch)
        pairs = iter(self._loader)
        for number in range(self._length):
            key_global_generators(self._seed, "fetch", epoch, number)
            pair = next(pairs, None)
            if pair is None:
                raise SettingsError(f"a loader ended after {number} of the {self._length} batches that its len() says")
            if number >= start:
                yield self._step(epoch, number, self._batch(pair))

    def _batch(self, given: Any) -> Batch:
        """What the loader gave, on the device."""
        return as_batch(given, self._world.device)

    def _sizes(self, batch: Batch) -> tuple[int, int]:
        """What the loss of a batch is divided by, and its samples."""
        number = num_samples(batch["target"])
        return number, number

    def _step(self, epoch: int, number: int, batch: Batch) -> StepBatch:
        """The batch with its sizes over all ranks."""
        sizes = torch.tensor(self._sizes(batch), dtype=torch.float32, device=self._world.device)
        count, samples = self._world.sum(sizes).tolist()
        return StepBatch(
            epoch=epoch,
            batch=number,
            micro=[batch],
            weight=1.0,
            counts={"loss": count},
            num_samples=int(samples),
            indices=None,
            ends_epoch=number + 1 == self._length,
        )


class ForeignSchedule:
    """A torch scheduler, stepped once an epoch, with the validation loss if it takes one; or none at all."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._takes_metric = scheduler is not None and "metrics" in inspect.signature(scheduler.step).parameters
        self._value: float | None = None
        self._is_restored = False

    def factor(self, updates: int) -> None:
        """Leave the optimizer's rates alone."""

    def see(self, name: str, metrics: Metrics) -> None:
        """Remember the validation loss for the next step of the scheduler."""
        if name == "val":
            self._value = metrics["loss"]

    def epoch_done(self) -> None:
        """Step."""
        if self._scheduler is None:
            return
        with warnings.catch_warnings():
            if self._is_restored:
                # Going on at the end of an epoch: torch misses the optimizer steps of the attempt before.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            if not self._takes_metric:
                self._scheduler.step()
            elif self._value is not None:
                self._scheduler.step(self._value)

    def state(self) -> dict[str, Any]:
        """The scheduler's plain values; functions and objects in it are the caller's to make again."""
        if self._scheduler is None:
            return {}
        plain = {name: value for name, value in self._scheduler.state_dict().items() if is_plain(value)}
        return {**plain, _VALUE: self._value}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        if self._scheduler is not None:
            plain = dict(state)
            self._value = plain.pop(_VALUE, None)  # None in checkpoints of before it was kept
            self._scheduler.load_state_dict({**self._scheduler.state_dict(), **plain})
            self._is_restored = True


def num_classes_of(model: nn.Module) -> int | None:
    """The model's `num_classes`, if it says so: then its output is taken for class logits `[batch, classes]`."""
    number = getattr(model, "num_classes", None)
    return number if isinstance(number, int) and number > 1 else None


def plain_name(model: nn.Module, num_classes: int | None) -> str:
    """`signs_<classes>_<size>` as the plain trainer writes it, if the model says both; else its class's name."""
    size = getattr(model, "model_size", None)
    if num_classes is None or size is None:
        return type(model).__name__
    return f"signs_{num_classes}_{size.to_str() if hasattr(size, 'to_str') else size}"


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> str:
    """What tells this training from another: names and shapes of the weights, optimizer and scheduler."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    rules = {key: value for key, value in optimizer.defaults.items() if is_plain(value)}
    text = repr((shapes, type(optimizer).__name__, sorted(rules.items()), type(scheduler).__name__))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_plain(value: Any) -> bool:
    """Whether JSON holds the value without loss."""
    if isinstance(value, list):
        return all(is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def as_batch(pair: Any, device: torch.device) -> Batch:
    """An (input, target) pair of any nesting as a batch on the device."""
    if not isinstance(pair, (tuple, list)) or len(pair) < 2:
        raise SettingsError(f"a loader must yield (input, target) pairs, got {type(pair).__name__}")
    move = tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), (pair[0], pair[1]))
    return cast(Batch, {"input": move[0], "target": move[1]})


def num_samples(target: Any) -> int:
    """Samples in a batch: the length of its target."""
    return len(target)


def count_batches(loader: Pairs) -> int:
    """Batches of one walk. Raises SettingsError for an iterator that can be walked only once, or an empty loader."""
    if iter(loader) is loader:
        raise SettingsError("a loader can be walked only once (it is an iterator); pass a DataLoader or a list")
    number = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if number == 0:
        raise SettingsError("a loader is empty; there is nothing to train on or to validate with")
    return number


def count_samples(loader: Pairs) -> int:
    """Samples of one walk: the data set's length, else counted once."""
    data = getattr(loader, "dataset", None)
    return len(data) if isinstance(data, Sized) else sum(num_samples(pair[1]) for pair in loader)


def key_global_generators(seed: int, purpose: str, *position: int) -> None:
    """Key torch's, numpy's and Python's global generators, from which foreign code draws."""
    rekey(torch.device("cpu"), seed, purpose, *position)
    key = derive(seed, purpose, *position)
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
