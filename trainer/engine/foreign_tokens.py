"""The lesser door for sequences: dict batches of token ids, a criterion over tokens, a scheduler stepped every step.

    {"source_ids" [b, s], "target_ids" [b, t]}  ->  model(source, target[:, :-1])  ->  criterion(logits, labels)

Labels are `target_ids[:, 1:]`, cut here and nowhere else. A criterion that cuts them itself, as those of the programs
people know do, is found out at its first call and gets whole targets; the number of tokens it returns is held against
the labels that are no padding, so that a shift by one cannot go unseen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.data.dataset import Batch
from trainer.engine.foreign import LoaderSource, LoaderTask, Pairs, WalkedData, is_plain, key_global_generators
from trainer.engine.meter import perplexity
from trainer.engine.task import Loss, Pass, PassResult
from trainer.engine.world import World
from trainer.errors import RunError, SettingsError
from trainer.telemetry.events import Metrics

PAD = 0
"""Id that never counts."""
SOURCE_KEYS = ("source_ids", "src", "src_ids", "source", "input_ids")
TARGET_KEYS = ("target_ids", "tgt", "tgt_ids", "target", "labels")
"""What batches call the two sides, the first one that is there."""
CHECKED_CALLS = 20
Criterion = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Judged:
    """What a criterion said of one batch, as sums over its tokens."""

    loss: Tensor
    correct: Tensor
    nll: Tensor | None


@dataclass
class SequenceTask(LoaderTask):
    """A sequence model and a criterion as a task; loss, accuracy and perplexity are means over tokens."""

    model: nn.Module
    criterion: Criterion
    validation: Pairs
    world: World
    seed: int
    name: str = "plain"
    model_name: str = field(init=False)
    metrics: Mapping[str, str] = field(init=False)
    best_metric: str = "val/loss"
    shifts: bool | None = None
    """Whether the criterion cuts targets into labels by itself; None: not known yet."""
    num_checked: int = 0
    """Calls of the criterion whose number of tokens was checked."""

    def __post_init__(self) -> None:
        self.model_name = type(self.model).__name__
        self.metrics = {
            "loss": "min", "perplexity": "min", "accuracy": "max", "nll": "min", "tokens_per_sec": "max",
        }  # fmt: skip

    def passes(self) -> Sequence[Pass]:
        """One pass over the validation loader."""
        return [Pass("val", WalkedTokens(self.validation), "every 1 epochs and end", loader=self._batches)]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The criterion's loss as a sum over tokens."""
        judged = self._judge(model, batch)
        sums = {"accuracy": judged.correct} | ({} if judged.nll is None else {"nll": judged.nll})
        return Loss({"loss": judged.loss}, {name: value.detach() for name, value in sums.items()})

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums of one batch."""
        judged = self._judge(model, batch)
        sums = {"loss": judged.loss, "accuracy": judged.correct, "tokens": torch.tensor(float(num_labels(batch)))}
        return sums if judged.nll is None else {**sums, "nll": judged.nll}

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:  # noqa: ARG002 - one kind of pass
        """Means over tokens."""
        tokens = sums["tokens"].item()
        known = (one for one in ("loss", "accuracy", "nll") if one in sums)
        metrics: Metrics = {one: sums[one].item() / tokens if tokens else None for one in known}
        return PassResult(metrics | {"perplexity": perplexity_of(metrics)})

    def derived(self, metrics: Metrics, count: float, seconds: float) -> Metrics:
        """Tokens a second of an interval of training, and perplexity if the criterion gives the nll."""
        known = {"perplexity": perplexity_of(metrics)} if "nll" in metrics else {}
        return {**known, "tokens_per_sec": count / seconds if seconds else None}

    def info(self) -> dict[str, Any]:
        """Nothing is known of what came along."""
        return {}

    def _judge(self, model: nn.Module, batch: Batch) -> Judged:
        source, target = batch["source_ids"], batch["target_ids"]
        logits = model(source, target[:, :-1])
        said = self._ask(logits, target)
        tokens = (target[:, 1:] != PAD).sum()
        self._check(said["tokens"], tokens)
        scale = 1 if getattr(self.criterion, "reduction", "mean") == "sum" else tokens
        correct = torch.as_tensor(said["accuracy"], device=logits.device) * tokens
        nll = said.get("nll")
        return Judged(said["loss"] * scale, correct, None if nll is None else torch.as_tensor(nll) * scale)

    def _check(self, said: Any, tokens: Tensor) -> None:
        """Hold the criterion's number of tokens against the labels; at the first calls only, as it waits for a GPU."""
        if self.num_checked >= CHECKED_CALLS:
            return
        self.num_checked += 1
        if int(said) != int(tokens):
            raise SettingsError(
                f"the criterion counted {int(said)} tokens in a batch with {int(tokens)} labels that are not padding "
                f"({PAD}): it must count every label of target_ids[:, 1:] once"
            )

    def _ask(self, logits: Tensor, target: Tensor) -> dict[str, Any]:
        """Call the criterion with what it wants; which that is shows at the first call."""
        labels = target[:, 1:]
        if self.shifts is not None:
            return as_said(self.criterion(logits, target if self.shifts else labels))
        try:
            said = as_said(self.criterion(logits, labels))
            self.shifts = False
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            try:
                said = as_said(self.criterion(logits, target))
            except (RuntimeError, ValueError, IndexError, AssertionError):
                raise error from None
            self.shifts = True
        return said

    def _batches(self) -> Iterator[Batch]:
        """The validation loader's batches, on the device."""
        key_global_generators(self.seed, "val")
        for given in self.validation:
            yield as_token_batch(given, self.world.device)


class WalkedTokens(WalkedData):
    """A loader of dict batches as the data set of a pass."""

    def _count(self, loader: Pairs) -> int:
        return count_sentences(loader)


class TokenSource(LoaderSource):
    """Walks a training loader of dict batches; the loss is divided by the tokens of a step."""

    def num_samples(self) -> int:
        """Sentences of one walk."""
        return count_sentences(self._loader)

    def _batch(self, given: Any) -> Batch:
        return as_token_batch(given, self._world.device)

    def _sizes(self, batch: Batch) -> tuple[int, int]:
        return num_labels(batch), len(batch["target_ids"])


class StepSchedule:
    """A scheduler that is stepped after every update, so that a step's rate is a function of the updates before it.

    One without a `state_dict` is stepped as often as there were updates, which is the same for every pure one.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._num_steps = 0

    def factor(self, updates: int) -> None:
        """Bring the scheduler to this many updates; it sets the optimizer's rates itself."""
        while self._scheduler is not None and self._num_steps < updates:
            self._scheduler.step()
            self._num_steps += 1

    def see(self, name: str, metrics: Metrics) -> None:
        """No metric matters."""

    def epoch_done(self) -> None:
        """No epoch matters."""

    def state(self) -> dict[str, Any]:
        """The steps taken, and the scheduler's plain values where it gives them."""
        values = self._scheduler.state_dict() if hasattr(self._scheduler, "state_dict") else {}
        return {"steps": self._num_steps, "values": {name: one for name, one in values.items() if is_plain(one)}}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`. Raises RunError for a scheduler that would have to go back and cannot."""
        if not state["values"] or not hasattr(self._scheduler, "load_state_dict"):
            if state["steps"] < self._num_steps:
                raise RunError("the scheduler has no state to go back to; give it state_dict and load_state_dict")
            return  # `factor` takes the steps again
        self._scheduler.load_state_dict({**self._scheduler.state_dict(), **state["values"]})
        self._num_steps = state["steps"]


def as_said(answer: Any) -> dict[str, Any]:
    """What a criterion returned, by name: `(loss, tokens, accuracy)`, or a mapping or object with such names."""
    if isinstance(answer, (tuple, list)) and len(answer) >= 3:
        return dict(zip(("loss", "tokens", "accuracy", "nll"), answer, strict=False))
    found = {
        "loss": _named(answer, "loss"),
        "tokens": _named(answer, "tokens", "num_tokens", "n_tokens", "ntokens"),
        "accuracy": _named(answer, "accuracy", "acc"),
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise SettingsError(
            f"the criterion returned {type(answer).__name__} without {', '.join(missing)}; it must return loss, "
            "number of tokens and accuracy, as a tuple in this order or by these names"
        )
    return found | {"nll": _named(answer, "nll")}


def _named(answer: Any, *names: str) -> Any:
    """The first of these names that a mapping or an object has."""
    values = answer if isinstance(answer, Mapping) else getattr(answer, "__dict__", {})
    return next((values[name] for name in names if name in values), None)


def as_token_batch(given: Any, device: torch.device) -> Batch:
    """`source_ids` and `target_ids` of a dict batch, on the device. Raises SettingsError for anything else."""
    if not isinstance(given, Mapping):
        raise SettingsError(f"a loader must yield dicts with source_ids and target_ids, got {type(given).__name__}")
    found: dict[str, Any] = {}
    for own, keys in (("source_ids", SOURCE_KEYS), ("target_ids", TARGET_KEYS)):
        key = next((name for name in keys if isinstance(given.get(name), Tensor)), None)
        if key is None:
            raise SettingsError(f"a batch has no {own}; it holds: {', '.join(map(str, given))}")
        found[own] = given[key].to(device, non_blocking=True)
    return cast(Batch, found)


def num_labels(batch: Batch) -> int:
    """Labels of a batch that are no padding."""
    return int((batch["target_ids"][:, 1:] != PAD).sum())


def count_sentences(loader: Pairs) -> int:
    """Sentences of one walk: the data set's length, else counted once."""
    data = getattr(loader, "dataset", None)
    if hasattr(data, "__len__"):
        return len(cast(Any, data))
    device = torch.device("cpu")
    return sum(len(as_token_batch(given, device)["target_ids"]) for given in loader)


def perplexity_of(metrics: Metrics) -> float | None:
    """Perplexity by the nll if the criterion gives it, else by its loss."""
    return perplexity(metrics.get("nll", metrics.get("loss")))
