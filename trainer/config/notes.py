"""Settings that were changed but do nothing, each said in one line.

A rule reads "`names` work only while `governor` is one of `working`". A name that stands at its default is no news.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from trainer.config.names import leaves
from trainer.config.settings import CommonSettings


@dataclass(frozen=True)
class Rule:
    """What a group of settings depends on; without `working` any value but null and zero will do."""

    names: tuple[str, ...]
    governor: str
    working: tuple[Any, ...] = ()


def _rule(section: str, names: str, governor: str, *working: Any) -> Rule:
    return Rule(tuple(f"{section}.{name}" if section else name for name in names.split()), governor, working)


RULES: Sequence[Rule] = (
    _rule("run", "init_allow", "run.init_from"),
    _rule("optim", "momentum nesterov", "optim.name", "sgd"),
    _rule("optim", "betas eps", "optim.name", "adam", "adamw"),
    _rule("optim", "reference_batch", "optim.lr_scaling", "sqrt", "linear"),
    _rule("schedule", "metric patience threshold", "schedule.name", "plateau"),
    _rule("schedule", "factor", "schedule.name", "plateau", "step"),
    _rule("schedule", "floor", "schedule.name", "plateau", "cosine", "linear", "wsd"),
    _rule("schedule", "interval", "schedule.name", "step"),
    _rule("schedule", "stable decay", "schedule.name", "wsd"),
    _rule("schedule", "curve", "schedule.name", "curve"),
    _rule("schedule", "width", "schedule.name", "noam"),
    _rule("balance", "weights", "balance.kind", "fixed", "gradnorm"),
    _rule("balance", "every eta", "balance.kind", "gradnorm", "uncertainty"),
    _rule("balance", "alpha floor momentum", "balance.kind", "gradnorm"),
    _rule("ema", "decay every", "ema.enabled"),
    _rule("precision", "init_scale", "precision.amp", "auto", "fp16"),
    _rule("early_stop", "mode min_delta", "early_stop.patience"),
    _rule("nonfinite", "budget", "nonfinite.policy", "skip", "rollback"),
    _rule("watchdog", "first_step_seconds", "watchdog.step_seconds"),
    _rule("telemetry", "wandb_project", "telemetry.wandb", "offline", "online"),
    _rule("data", "bad_budget", "data.bad_samples", "skip"),
    _rule(
        "data",
        "synthetic_words synthetic_signers synthetic_repetitions synthetic_difficulty synthetic_seed",
        "data.layout",
        "synthetic",
    ),
    _rule("data", "corpus pairs corpus_seed", "data.layout", "embedded"),
    _rule("data", "max_tokens pool", "data.batch_by", "tokens"),
    _rule("tokenizer", "min_count", "tokenizer.kind", "auto", "word"),
    _rule("loss", "smoothing_mass", "loss.label_smoothing"),
    _rule("data.dataset_schema", "features groups", "data.dataset_schema.preset", "custom"),
    _rule("data.augment", "flip_except", "data.augment.flip"),
    _rule("data.augment", "degrees scale shift", "data.augment.affine"),
    _rule("data", "image_column image_size", "data.layout", "auto", "images", "packed"),
    _rule("data", "toy_seed", "data.layout", "t1", "t2"),
    _rule("mix", "alpha cutmix", "mix.probability"),
    _rule("mask", "combinations", "mask.partial"),
    _rule("loss", "weights", "loss.class_weights", "explicit"),
    _rule("decode", "threshold", "decode.rule", "stop"),
)


def notes(settings: CommonSettings) -> list[str]:
    """One line for every setting that differs from its default and has no effect beside the others."""
    known = leaves(type(settings))
    lines = []
    for rule in RULES:
        if rule.governor not in known:
            continue
        value = _value(settings, rule.governor)
        if value in rule.working if rule.working else bool(value):
            continue
        changed = [name for name in rule.names if name in known and _value(settings, name) != known[name].default]
        lines += [f"{name} has no effect: {rule.governor} is {_text(value)}, {_needs(rule)}" for name in changed]
    return lines


def _needs(rule: Rule) -> str:
    return f"it works with {' or '.join(map(_text, rule.working))} only" if rule.working else "which switches it off"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(settings: BaseModel, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
