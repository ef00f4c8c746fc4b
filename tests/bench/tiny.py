"""A task so small that nothing but the loop costs: an MLP 32-64-10 on random numbers, 32 samples a step."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.bench.turns import Stamped
from trainer.data.dataset import Batch, Indices
from trainer.data.plan import FixedPlan, Plan
from trainer.engine.task import Loss, Pass, PassResult

INPUTS, HIDDEN, CLASSES, BATCH = 32, 64, 10, 32


def tiny_model() -> Stamped:
    """The model, with a stamp at every step."""
    return Stamped(nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)))


def tiny_batches(num_steps: int) -> list[tuple[Tensor, Tensor]]:
    """Ready batches, for those who take lists."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_steps, BATCH, INPUTS, generator=draw)
    labels = torch.randint(0, CLASSES, (num_steps, BATCH), generator=draw)
    return list(zip(inputs, labels, strict=True))


class TinyData:
    """The same numbers as a data set: `take` picks rows."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.inputs = torch.cat([inputs for inputs, _ in batches])
        self.labels = torch.cat([labels for _, labels in batches])

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def take(self, indices: Indices, epoch: int) -> Batch:
        """Rows by index; nothing depends on the epoch."""
        rows = torch.from_numpy(indices)
        return {"inputs": self.inputs[rows], "label": self.labels[rows], "index": rows}


class TinyTask:
    """What the engine asks of a task."""

    name = "tiny"
    model_name = "mlp"
    metrics: ClassVar[Mapping[str, str]] = {"loss": "min"}
    best_metric = "val/loss"

    def __init__(self, batches: list[tuple[Tensor, Tensor]], seed: int) -> None:
        self.data = TinyData(batches)
        self.seed = seed
        self.model = tiny_model()

    def build_model(self) -> nn.Module:
        """The stamped model."""
        return self.model

    def train_data(self) -> TinyData:
        """All samples."""
        return self.data

    def plan(self) -> Plan:
        """Shuffled batches."""
        return FixedPlan(len(self.data), BATCH, self.seed)

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        """Samples."""
        return {"loss": float(len(indices))}

    def passes(self) -> Sequence[Pass]:
        """One, never due within what is measured."""
        return [Pass("val", self.data, trigger="never")]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Summed cross-entropy, and no metric: the others compute none."""
        return Loss({"loss": cross_entropy(model(batch["inputs"]), batch["label"], reduction="sum")})

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums of a pass."""
        loss = self.loss(model, batch)
        return {"loss": loss.terms["loss"], "count": torch.tensor(float(len(batch["label"])))}

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        """Metrics of a pass."""
        return PassResult({"loss": float(sums["loss"] / sums["count"])})

    def info(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}
