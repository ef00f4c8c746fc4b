"""The task `signs` as the engine sees it: model, data, loss, metrics; everything else lives in the files beside this.

The loss is cross-entropy, with label smoothing in training only, so that losses of passes compare across settings.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.signs import SignsSettings
from trainer.data.dataset import Batch, Indices
from trainer.data.plan import FixedPlan, Plan
from trainer.engine.task import Loss, Pass, PassResult, Sums
from trainer.errors import DataError
from trainer.tasks.signs import metrics, weights
from trainer.tasks.signs.balance import EvenPlan, inverse_frequency
from trainer.tasks.signs.dataset import SignsDataSet, Source, input_statistics
from trainer.tasks.signs.model import DatasetNorm, ModelSize
from trainer.tasks.signs.packed import Recordings
from trainer.tasks.signs.recordings import recordings_of
from trainer.tasks.signs.split import split
from trainer.tasks.weight_files import read_weights

Settings = SignsSettings
TERM = "loss"


class SignsTask:
    """Implements `engine.task.Task` for recordings of landmarks."""

    name = "signs"
    best_metric = "val/loss"

    def __init__(self, settings: SignsSettings, recordings: Recordings, parts: Mapping[str, Indices]) -> None:
        """`parts`: rows of `train`, `val` and `test`. Raises DataError if there is nothing to train or validate on."""
        self.settings = settings
        self.recordings = recordings
        self.parts = {name: np.asarray(rows, np.int64) for name, rows in parts.items()}
        for name in ("train", "val"):
            if not len(self.parts.get(name, ())):
                raise DataError(f"{recordings.path}: no recording is left for {name}; change data.split or the signers")
        self.left_out = recordings.left_out
        self.model_name = ModelSize.parse(settings.model.size).to_str()
        self.metrics = metrics.metric_names(recordings.signers)
        self.source = Source(recordings, settings.data)
        self.evaluated = {name: SignsDataSet(self.source, self.parts[name]) for name in self._pass_names()}
        self.table_size = max(len(data) for data in self.evaluated.values())
        self.training = SignsDataSet(
            self.source, self.parts["train"], seed=settings.seed, class_weights=self._class_weights()
        )

    def _pass_names(self) -> list[str]:
        return [name for name in ("val", "test") if len(self.parts.get(name, ()))]

    def _class_weights(self) -> NDArray[np.float32] | None:
        if self.settings.data.balance != "weights":
            return None
        return inverse_frequency(self.recordings.label[self.parts["train"]], len(self.recordings.classes))

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the training split as evaluation would see it."""
        return input_statistics(SignsDataSet(self.source, self.parts["train"]))

    def build_model(self) -> nn.Module:
        """A fresh model with the input statistics of the training split; with `run.init_from`, that file's weights.

        The file's input statistics come with its weights, because these were trained on inputs scaled by them.
        """
        model = weights.build(self.settings, self.source.input_schema, len(self.recordings.classes))
        if isinstance(model.embedding.input_bn, DatasetNorm):
            model.embedding.input_bn.set_statistics(*self.statistics)
        run = self.settings.run
        if run.init_from is not None:
            weights.load_into(model, read_weights(run.init_from), run.init_allow, run.init_from)
        return model

    def train_data(self) -> SignsDataSet:
        """The training split with augmentation."""
        return self.training

    def plan(self) -> Plan:
        """The shuffled order, or with `balance: sampler` classes in turn."""
        if self.settings.data.balance == "sampler":
            return EvenPlan(self.training.labels, self.settings.batch_size, self.settings.seed)
        return FixedPlan(len(self.training), self.settings.batch_size, self.settings.seed)

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        """Number of samples, or with class weights their sum (with mixup that of the blended weights)."""
        table = self.training.class_weights
        if table is None:
            return {TERM: float(len(indices))}
        labels = self.training.labels
        total = table[labels[indices]].astype(np.float64)
        if self.training.mixes:
            partner, share = self.training.partners(indices, epoch)
            total = share * total + (1.0 - share) * table[labels[partner]]
        return {TERM: float(total.sum())}

    def passes(self) -> Sequence[Pass]:
        """`val` after every epoch; `test`, if there is such a split, only at the end."""
        size = self.settings.eval_batch_size or self.settings.batch_size
        triggers = {"val": "every 1 epochs and end", "test": "never"}
        return [Pass(name, data, triggers[name], size) for name, data in self.evaluated.items()]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Weighted cross-entropy and right answers, both as sums."""
        logits = model(batch["keypoints"], batch["present"]).float()
        each = self._cross_entropy(logits, batch["label"], batch.get("weight"))
        right = (logits.detach().argmax(1) == batch["label"]).float()
        weight = batch.get("weight", torch.ones_like(right))
        if "label_b" in batch:
            mix = batch["mix"]
            each = mix * each + (1.0 - mix) * self._cross_entropy(logits, batch["label_b"], batch.get("weight_b"))
            weight = mix * weight + (1.0 - mix) * batch.get("weight_b", torch.ones_like(right))
        return Loss({TERM: each.sum()}, {"top1": (right * weight).sum()})

    def _cross_entropy(self, logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        smoothing = self.settings.loss.label_smoothing
        each = functional.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)
        return each if weight is None else each * weight

    def evaluate(self, model: nn.Module, batch: Batch) -> Sums:
        """The batch's rows of the pass's table."""
        logits = model(batch["keypoints"], batch["present"])
        return {"table": metrics.batch_rows(logits, batch, self.source.schema.hands, self.table_size)}

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        """Metrics and detail of a pass out of its table."""
        return PassResult(*metrics.summarize_table(sums["table"], self._known(name)))

    def _known(self, name: str) -> metrics.Known:
        recordings, rows = self.recordings, self.evaluated[name].rows
        return metrics.Known(
            label=recordings.label[rows],
            signer=recordings.signer[rows],
            length=recordings.lengths[rows],
            names=[recordings.names[i] for i in rows],
            signers=recordings.signers,
            classes=class_list(recordings),
        )

    def samples(self, num_samples: int) -> Tensor:
        """Real clips float32 `[n, T, K*F]`, evenly spread over the validation split; for the check of an export."""
        data = self.evaluated["val"]
        positions = np.linspace(0, len(data) - 1, min(num_samples, len(data))).astype(np.int64)
        return data.take(positions, 0)["keypoints"]

    def info(self) -> dict[str, Any]:
        """What the ledger, the report and the exported model need to know of data and model."""
        return {
            "classes": class_list(self.recordings),
            "signers": self.recordings.signers,
            "schema": self.source.input_schema.to_json(),
            "normalisation": self.source.profile,
            "sampling": self.settings.data.sampling.model_dump(),
            "frames": self.settings.data.sampling.frames,
            "model_size": self.model_name,
            "data_digest": self.recordings.digest,
            "splits": {name: len(rows) for name, rows in self.parts.items()},
            "split_signers": {name: self._signers_of(rows) for name, rows in self.parts.items()},
        }

    def _signers_of(self, rows: Indices) -> list[str]:
        return [self.recordings.signers[i] for i in np.unique(self.recordings.signer[rows]).tolist()]


def class_list(recordings: Recordings) -> list[list[Any]]:
    """`[word, name, native]` of every class, in the order of the logits."""
    return [[info.word, info.name, info.native] for info in recordings.classes]


def create(settings: SignsSettings) -> SignsTask:
    """Open the recordings, split them and make the task. Raises DataError."""
    recordings = recordings_of(settings)
    if settings.data.digest not in (None, recordings.digest):
        raise DataError(
            f"{recordings.path} has the digest {recordings.digest}, data.digest is {settings.data.digest}: other data"
        )
    settings.data.digest = recordings.digest
    return SignsTask(settings, recordings, split(recordings, settings.data.split))
