"""The sign model of a run or of a file of weights: built from settings, filled from files, described in facts.

The facts of a model (size, classes, layout, normalisation) travel inside its files as plain lists and texts.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trainer.config.signs import SignsModel, SignsSettings
from trainer.tasks import weight_files
from trainer.tasks.signs.model import STTransformer
from trainer.tasks.signs.schema import Schema

TIME_CODE = "pos_encoder.pe"
"""A formula, not a weight: a clip length other than the file's is no reason to refuse it."""
FORMAT = "signs-model-1"


def build(settings: SignsSettings, schema: Schema, num_classes: int) -> STTransformer:
    """A fresh model for clips of `schema` (derived features included)."""
    return STTransformer(schema, num_classes, settings.model, settings.data.sampling.frames)


def load_into(model: nn.Module, state: Mapping[str, Tensor], allow: list[str], source: str) -> list[str]:
    """Copy `state` into `model` as `weight_files.load_into` does; returns the names that keep their fresh values.

    `allow` takes patterns such as `fc.*` (another number of classes). Raises DataError naming the file.
    """
    return weight_files.load_into(model, state, allow, source, formulas=(TIME_CODE,))


def facts(info: Mapping[str, Any], model: SignsModel, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a user of the weights must know, as plain types: the task's `info`, the model's settings, results."""
    return {"format": FORMAT, "info": dict(info), "model": model.model_dump(), "metrics": dict(metrics)}
