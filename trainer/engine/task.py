"""The seam between the engine and a task: what a task must give, and nothing more.

A task gives **sums**, never means. The engine divides the loss terms by their counts over the whole global batch,
so accumulation, ragged batches, padded tokens and world size never change the mathematics:

    gradient of a step = d/dw  sum over terms l of  weight_l * (sum of loss_l over ranks and micro-batches) / count_l

`counts` is asked on the host for the whole global batch *before* the forward pass: every rank knows the plan, so
the denominators need no collective.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from trainer.data.dataset import Batch, DataSet, Indices
from trainer.data.plan import Plan
from trainer.telemetry.events import Metrics


@dataclass
class Loss:
    """What the forward pass of one micro-batch gives."""

    terms: dict[str, Tensor]
    """Differentiable sums over the samples, one scalar a term; the engine weighs and divides them."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Detached sums for the training metrics (`top1` -> number of correct ones), each divided by the count of the
    first term, or for a name such as `fine/top1` by that of the term `fine`."""


@dataclass(frozen=True)
class Placed:
    """A batch's part of a sum `[size, ...]` that is zero but for the rows `index`: a table with a row for each sample.

    Only these rows are handed over, so that a batch costs as much in a long pass as in a short one.
    """

    values: Tensor
    """`[b, ...]`"""
    index: Tensor
    """int64 `[b]`, below `size`."""
    size: int


Sums = Mapping[str, Tensor | Placed]
"""What a batch of a pass gives, by name."""


@dataclass(frozen=True)
class Pass:
    """One kind of evaluation: a name, a data set, when it is due, and an optional change of its batches."""

    name: str
    data: DataSet
    trigger: str = "every 1 epochs and end"
    batch_size: int = 64
    transform: Callable[[Batch], Batch] | None = None
    evaluate: Callable[[nn.Module, Batch], Sums] | None = None
    """Sums of a batch where they are made otherwise than by the task's `evaluate`."""
    metrics: Sequence[str] = ()
    """What it reports of the task's metrics; empty: all of them."""
    loader: Callable[[], Iterable[Batch]] | None = None
    """Batches of a data set that can only be walked (a DataLoader from outside), in place of `data.take`."""


@dataclass(frozen=True)
class PassResult:
    """A finished pass: its metrics, and what the report pages draw (JSON-able)."""

    metrics: Metrics
    detail: dict[str, Any] = field(default_factory=dict)
    """Kept of passes that brought a new best, and of the final ones."""
    always: dict[str, Any] = field(default_factory=dict)
    """The little that is kept of every other pass, to show how it changed over the run."""
    terms: Metrics = field(default_factory=dict)
    """Mean of each term of the loss (None without a sample), for a task that has several: where they are weighed, the
    engine adds `WEIGHTED_LOSS` to the metrics."""


WEIGHTED_LOSS = "weighted_loss"
"""Metric of a pass that names none: the sum of its terms, each with the weight of that moment."""


class Task(Protocol):
    """Model, data, loss and metrics of one kind of training."""

    name: str
    model_name: str
    metrics: Mapping[str, str]
    """Every name this task reports in steps or passes, with `min` or `max` as the better direction; the engine may add
    `WEIGHTED_LOSS`."""
    best_metric: str
    """`pass/metric` that chooses the best checkpoint by default."""

    def build_model(self) -> nn.Module:
        """A freshly initialised model on the CPU; called under the engine's keyed seed."""
        ...

    def train_data(self) -> DataSet:
        """The training set."""
        ...

    def plan(self) -> Plan:
        """Which samples make up each step of each epoch."""
        ...

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        """What each loss term of these training samples is divided by (samples, tokens, weights).

        A sum over samples: it is asked for global batches, and for one micro-batch when the balance is measured.
        """
        ...

    def passes(self) -> Sequence[Pass]:
        """The evaluation passes in the order in which they run when due together."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Forward pass of one training micro-batch."""
        ...

    def evaluate(self, model: nn.Module, batch: Batch) -> Sums:
        """Sums over one evaluation batch; every one keeps its shape over the pass, the engine adds them up."""
        ...

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        """Metrics and detail of a pass out of its sums (float64, over all ranks)."""
        ...

    # A task may also have
    #   derived(metrics, count, seconds) -> Metrics    what follows from the training means of an interval, whose first
    #                                                  term had this count and which took so long
    #   shared(model) -> Sequence[nn.Parameter]        what all loss terms depend on; `balance.kind: gradnorm` measures
    #                                                  there
    #   curves: Mapping[str, Course]                   values that follow curves of the settings, for ledger and plan
    #   has_unused_parameters: bool                    parameters without a gradient in some steps
    #   files: dict[str, bytes]                        what lies beside the weights in every checkpoint (tokenizers)
    #   remarks: list[str]                             what a user should be told once, at the start
    #   caveat: str                                    why its numbers are no headline; empty: they may be
    #   left_out: dict[str, int]                       bad samples its data go without: `skipped` and `tolerated`
    #   samples(n)                                     what an exported model is checked on

    def info(self) -> dict[str, Any]:
        """What the ledger should know of model and data (class names, split sizes); JSON-able."""
        ...


def caveat_of(task: Task) -> str:
    """Why the numbers of this task with its data are no headline; empty if they may be one."""
    text: str = getattr(task, "caveat", "")
    return text
