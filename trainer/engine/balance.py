"""How much each term of the loss counts: weights that stay, or weights that follow what is measured on due steps.

    step that is due:   forward ─► measure the last micro-batch ─► new weights, from the next step on ─► backward

Measured are the mean loss L of each term and the norm g of its gradient with respect to the parameters that all terms
share, taken on the graph that the backward uses next: no stored gradient, no hook of DDP and no loss scale has part in
it. Both are summed over the ranks, so the weights w are the same on every rank. With K terms, the rules are

    gradnorm      G = w g,  r = (L / L0) / mean(L / L0),  w <- w (mean(G) r^alpha / G)^eta,
                  then sum w = K, floor, sum w = K                                    (after Chen et al. 2018)
    uncertainty   w = exp(-s), s <- s - eta (1/2 - w L), the slope cut to [-1, 1], w to 1000  (Kendall et al. 2018)

The first step is always due: L0 is the first measured loss of a term, and what it is compared with must be that of the
run's beginning. L and g are running means. A term without samples in what was measured keeps its weight.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, ClassVar

from torch import nn

from trainer.config.expressions import Moments, Trigger
from trainer.config.lengths import PerEpoch
from trainer.config.settings import BalanceSettings
from trainer.engine.task import Task
from trainer.errors import SettingsError
from trainer.telemetry.events import Metrics

Values = dict[str, float]
"""One number for each term, by its name."""
_STEEPEST = 1.0
_LARGEST = 1000.0
"""Weight of `uncertainty`: that of a solved term, 1 / (2 L), would grow until it is no number."""


@dataclass
class Balance:
    """Weights that stay as they began (`fixed`, `inverse_density`), and what every rule has."""

    settings: BalanceSettings
    weights: Values
    moments: Moments
    trunk: Sequence[nn.Parameter] = ()
    """Parameters that all terms share, if the rule looks at gradients."""
    norms: Values = field(default_factory=dict)
    follows: ClassVar[bool] = False
    """Whether the weights ever move."""
    kept: ClassVar[tuple[str, ...]] = ()
    """What follows the measurements and is in the checkpoint."""

    def is_due(self, step: int) -> bool:
        """Whether step number `step` (from 1) is to be measured."""
        return self.moments.due(step)

    def remark(self, total_steps: int) -> str | None:
        """What a user should know of the rule in a run of this length, if anything."""
        if not self.follows or self.moments.fires_between(1, total_steps):
            return None
        return (
            f"balance.every is {self.settings.every!r}, which does not come within the {total_steps:,} steps of the "
            f"run: {self.settings.kind} moves its weights after the first step only"
        )

    def follow(self, losses: Values, norms: Values) -> None:
        """Move the weights after a measurement of some terms."""

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint; nothing that the settings say."""
        return {name: dict(getattr(self, name)) for name in self.kept}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; after that of another rule everything stays as it began."""
        for name in () if self.is_foreign(state) else self.kept:
            setattr(self, name, dict(state[name]))

    def is_foreign(self, state: Mapping[str, Any] | None) -> bool:
        """Whether this is what another rule keeps (`balance.kind` was changed), of which nothing can be taken over."""
        others = [set(rule.kept) for rule in KINDS.values() if rule.kept not in ((), self.kept)]
        return set(state or ()) in others


class Uncertainty(Balance):
    """Every measurement is a step of gradient descent on the log-variances s of the terms."""

    follows = True
    kept = ("weights",)

    def follow(self, losses: Values, norms: Values) -> None:  # noqa: ARG002 - no gradient is needed
        """Move each weight towards 1 / (2 L)."""
        for name, loss in losses.items():
            slope = 0.5 - self.weights[name] * loss
            grown = self.weights[name] * math.exp(self.settings.eta * min(max(slope, -_STEEPEST), _STEEPEST))
            self.weights[name] = min(grown, _LARGEST)


@dataclass
class GradNorm(Balance):
    """Evens out how strongly the terms pull at the trunk; those that have gained less may pull more."""

    losses: Values = field(default_factory=dict)
    reference: Values = field(default_factory=dict)
    follows: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("weights", "reference", "losses", "norms")

    def follow(self, losses: Values, norms: Values) -> None:
        """Take the measurement into the running means and go one round; a term that cannot pull is left alone."""
        self.reference = {name: loss for name, loss in losses.items() if loss > 0} | self.reference
        for name, loss in losses.items():
            self.losses[name] = self._mean(self.losses.get(name, loss), loss)
            self.norms[name] = self._mean(self.norms.get(name, norms[name]), norms[name])
        known = [name for name in losses if name in self.reference and min(self.losses[name], self.norms[name]) > 0]
        if known:
            gained = {name: self.losses[name] / self.reference[name] for name in known}
            mean = sum(gained.values()) / len(gained)
            rates = {name: value / mean for name, value in gained.items()}
            self.weights = rebalanced(self.weights, self.norms, rates, self.settings)

    def _mean(self, old: float, new: float) -> float:
        return self.settings.momentum * old + (1.0 - self.settings.momentum) * new


KINDS: Mapping[str, type[Balance]] = {
    "fixed": Balance,
    "inverse_density": Balance,
    "gradnorm": GradNorm,
    "uncertainty": Uncertainty,
}


def balance_moments(settings: BalanceSettings, total_steps: int, per_epoch: PerEpoch) -> Moments:
    """The steps that are measured: the first one and those of `balance.every`; none for weights that stay."""
    if settings.kind == "none" or not KINDS[settings.kind].follows:
        return Moments(None, frozenset())
    found = Trigger.parse(settings.every).resolve(total_steps, per_epoch)
    return replace(found, steps=found.steps | {1})


def rebalanced(weights: Values, norms: Values, rates: Values, settings: BalanceSettings) -> Values:
    """One round of `gradnorm` among the terms of `rates` (r above); their sum stays, the other terms keep theirs."""
    pulls = {name: weights[name] * norms[name] for name in rates}
    mean = sum(pulls.values()) / len(pulls)
    total = sum(weights[name] for name in rates)
    moved = {
        name: weights[name] * (mean * rate**settings.alpha / pulls[name]) ** settings.eta
        for name, rate in rates.items()
    }
    floored = {name: max(weight, settings.floor) for name, weight in scaled(moved, total).items()}
    return weights | scaled(floored, total)


def scaled(weights: Values, total: float) -> Values:
    """Multiplied so that they sum to `total`."""
    factor = total / sum(weights.values())
    return {name: weight * factor for name, weight in weights.items()}


def weighted_sum(terms: Metrics, weights: Values) -> float | None:
    """Of the terms that have samples, each with its weight; None without any."""
    known = [weights[name] * value for name, value in terms.items() if value is not None]
    return sum(known) if known else None


def build_balance(settings: BalanceSettings, task: Task, model: nn.Module, counts: Values, moments: Moments) -> Balance:
    """The rule at its start; `counts` are those of all training samples by term.

    Raises SettingsError where there is nothing to weigh or to measure.
    """
    if len(counts) < 2:
        raise SettingsError(f"balance.kind is {settings.kind}, but the loss has only one term; leave it at none")
    trunk = shared_trunk(task, model) if settings.kind == "gradnorm" else ()
    return KINDS[settings.kind](settings, start_weights(settings, counts), moments, trunk)


def start_weights(settings: BalanceSettings, counts: dict[str, float]) -> Values:
    """Weights before the first measurement; `counts` are those of all training samples by term."""
    for name in settings.weights:
        if name not in counts:
            near = get_close_matches(name, counts, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(counts)}"
            raise SettingsError(f"balance.weights names {name!r}, which is no term of the loss{hint}")
    given = {name: settings.weights.get(name, 1.0) for name in counts}
    match settings.kind:
        case "fixed":
            return given
        case "gradnorm":
            return scaled(given, len(given))
        case "inverse_density":
            # A term without samples has no say: one over next to nothing would leave the others next to no weight.
            there = {name: 1.0 / count for name, count in counts.items() if count > 0}
            return dict.fromkeys(counts, 1.0) | scaled(there, len(there))
        case _:
            return dict.fromkeys(counts, 1.0)


def shared_trunk(task: Task, model: nn.Module) -> Sequence[nn.Parameter]:
    """The trained ones of the parameters that the task says all terms share. Raises SettingsError without any."""
    shared = getattr(task, "shared", None)
    trunk = [parameter for parameter in shared(model) if parameter.requires_grad] if shared else []
    if not trunk:
        raise SettingsError(
            "balance.kind is gradnorm, which measures gradients at a trunk that all loss terms share, but this model "
            "names none that is trained; use fixed or uncertainty"
        )
    return trunk
