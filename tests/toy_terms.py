"""A toy whose loss has three terms with unknown labels, six kinds of passes, and a probability that follows a curve.

Sizes are those of T1 in the hierarchy reference: 600 and 150 samples, 64 a step in two micro-batches, 12 epochs of 10
steps; a pass every 40 steps and five every 60: 228 forward passes of training and 65 of passes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.toy import FEATURES, toy_settings
from trainer.config.base import setting
from trainer.config.expressions import Curve
from trainer.config.settings import CommonSettings
from trainer.data.dataset import Batch, Indices
from trainer.data.keys import derive, normal, uniform
from trainer.data.plan import FixedPlan, Plan, steps_of_samples
from trainer.engine.setup import run_length
from trainer.engine.task import Loss, Pass, PassResult

CLASSES = {"fine": 8, "mid": 4, "coarse": 2}
UNKNOWN = {"fine": 0.3, "mid": 0.1, "coarse": 0.02}
MASKS = 5


class TermsSettings(CommonSettings):
    """Common settings and what the tests vary."""

    task: str = setting("terms")
    num_samples: int = setting(600)
    dropout: float = setting(0.1)
    scale: float = setting(1.0)
    """Multiplies the loss of the term `coarse`."""
    hide: str = setting("0.5 @ 0, 0 @ 100%")
    """Probability that the first feature of a sample is hidden, over the run."""


class TermsData:
    """Points around eight centres, their classes at three levels, and which of them are known."""

    def __init__(self, size: int, seed: int) -> None:
        index = np.arange(size, dtype=np.int64)
        fine = index % CLASSES["fine"]
        centres = normal(derive(1, "centres"), np.arange(CLASSES["fine"]), FEATURES)
        self.points = 2 * centres[fine] + normal(derive(seed, "points"), index, FEATURES)
        levels = np.stack([fine, fine // 2, fine // 4], 1)
        known = uniform(derive(seed, "known"), index, 3) >= np.array(list(UNKNOWN.values()))
        self.labels = np.where(known, levels, -1)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices, epoch: int) -> Batch:
        return self.batch(indices, np.zeros(len(indices), bool))

    def batch(self, indices: Indices, hidden: Any) -> Batch:
        points = self.points[indices].copy()
        points[hidden, 0] = 0.0
        return {
            "x": torch.from_numpy(points).float(),
            "labels": torch.from_numpy(self.labels[indices]),
            "index": torch.from_numpy(indices.copy()),
        }


class HidingData(TermsData):
    """The training set: what is hidden depends on the step to which a sample belongs."""

    def __init__(self, settings: TermsSettings, plan: Plan) -> None:
        super().__init__(settings.num_samples, settings.seed)
        per_epoch = plan.num_steps(0)
        self.plan, self.per_epoch, self.seed = plan, per_epoch, settings.seed
        self.curve = Curve.parse(settings.hide).resolve(run_length(settings, per_epoch), per_epoch)

    def take(self, indices: Indices, epoch: int) -> Batch:
        steps = epoch * self.per_epoch + steps_of_samples(self.plan, len(self), epoch)[indices]
        limits = np.array([self.curve.at(step) for step in steps.tolist()])
        return self.batch(indices, uniform(derive(self.seed, "hide", epoch), indices, 1)[:, 0] < limits)


class Heads(nn.Module):
    """A shared trunk and a head for each term."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Dropout(dropout))
        self.heads = nn.ModuleDict({name: nn.Linear(16, number) for name, number in CLASSES.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shared = self.trunk(x)
        return {name: head(shared) for name, head in self.heads.items()}


class TermsTask:
    """Three terms; a sample counts in those whose label it knows."""

    name = "terms"
    model_name = "heads"
    best_metric = "val/loss"
    metrics = {  # noqa: RUF012
        "loss": "min", **{f"{name}/top1": "max" for name in CLASSES}, **{f"{name}/loss": "min" for name in CLASSES}
    }  # fmt: skip

    def __init__(self, settings: TermsSettings) -> None:
        self.settings = settings
        self.data = HidingData(settings, self.plan())
        self.validation = TermsData(150, settings.seed + 1)
        self.curves = {"hide": self.data.curve}
        self.forwards = 0
        """Micro-batches and evaluation batches so far."""

    def build_model(self) -> nn.Module:
        return Heads(self.settings.dropout)

    def shared(self, model: nn.Module) -> Sequence[nn.Parameter]:
        return list(model.trunk.parameters())

    def train_data(self) -> TermsData:
        return self.data

    def plan(self) -> Plan:
        return FixedPlan(self.settings.num_samples, self.settings.batch_size, self.settings.seed)

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        known = (self.data.labels[indices] >= 0).sum(0)
        return dict(zip(CLASSES, map(float, known), strict=True))

    def passes(self) -> Sequence[Pass]:
        masked = [
            Pass(f"val_{feature}", self.validation, "every 60 steps and end", 32, lambda b, f=feature: without(b, f))
            for feature in range(MASKS)
        ]
        return [Pass("val", self.validation, "every 40 steps and end", 32), *masked]

    def sums(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss and right answers of each term."""
        self.forwards += 1
        losses, right = {}, {}
        for column, (name, logits) in enumerate(model(batch["x"]).items()):
            label = batch["labels"][:, column]
            losses[name] = cross_entropy(logits, label, ignore_index=-1, reduction="sum")
            right[f"{name}/top1"] = ((logits.argmax(-1) == label) & (label >= 0)).sum().float()
        losses["coarse"] = losses["coarse"] * self.settings.scale
        return losses, right

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        return Loss(*self.sums(model, batch))

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        losses, right = self.sums(model, batch)
        known = (batch["labels"] >= 0).sum(0)
        return losses | right | {f"{name}/count": known[column] for column, name in enumerate(CLASSES)}

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        counts = {term: sums[f"{term}/count"].item() for term in CLASSES}
        metrics = {f"{term}/top1": sums[f"{term}/top1"].item() / counts[term] for term in CLASSES}
        terms = {term: sums[term].item() / counts[term] for term in CLASSES}
        metrics |= {f"{term}/loss": value for term, value in terms.items()}
        return PassResult({"loss": sum(terms.values()), **metrics}, terms=terms)

    def info(self) -> dict[str, Any]:
        return {}


def without(batch: Batch, feature: int) -> Batch:
    """A copy of the batch with one feature masked."""
    x = batch["x"].clone()
    x[:, feature] = 0.0
    return {**batch, "x": x}


def terms_settings(folder: Path, **values: Any) -> TermsSettings:
    """As `toy_settings`: 12 epochs of 10 steps, `gradnorm` measured every 7 steps."""
    usual = {
        "num_epochs": 12, "batch_size": 64, "accumulation": 2, "best__metric": "val/loss", "schedule__name": "cosine",
        "balance__kind": "gradnorm", "balance__every": "every 7 steps", "checkpoint__every": "every 1 epochs and end",
        "run__name": "terms",
    }  # fmt: skip
    return toy_settings(folder, TermsSettings, **(usual | values))
