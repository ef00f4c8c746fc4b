"""Model files for people: published and own `.pth` files in, tensors-only `.pth` files out.

Everything is read with `weights_only=True`, so that a file cannot run code. The facts of a model (size, classes,
layout, normalisation) travel inside the file as plain lists and texts.
"""

import pickle
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.config.signs import SignsModel, SignsSettings
from trainer.errors import DataError
from trainer.tasks.signs.model import STTransformer
from trainer.tasks.signs.schema import Schema

PREFIXES = ("module.", "_orig_mod.")
"""What DDP and torch.compile put before every name."""
TIME_CODE = "pos_encoder.pe"
"""A formula, not a weight: a clip length other than the file's is no reason to refuse it."""
FORMAT = "signs-model-1"


def build(settings: SignsSettings, schema: Schema, num_classes: int) -> STTransformer:
    """A fresh model for clips of `schema` (derived features included)."""
    return STTransformer(schema, num_classes, settings.model, settings.data.sampling.frames)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a `.pth` or `.safetensors` file, or of a checkpoint's folder. Raises DataError."""
    file = Path(path)
    if file.is_dir():
        file = file / "model.safetensors"
    return _load_safetensors(file) if file.suffix == ".safetensors" else load_pth(file)


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors by their bare names."""
    try:
        return {bare(name): tensor for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} cannot be read as safetensors ({_first_line(error)}); give other weights") from error


def load_pth(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a `.pth` file: bare, under `model` (the published format) or `state_dict`; prefixes are gone.

    Raises DataError naming the file if it is missing or does not hold weights.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} does not exist; give the path of a .pth file with weights")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise DataError(f"{file} is not a file of weights ({_first_line(error)}); give a .pth of tensors") from error
    return {bare(name): tensor for name, tensor in _state_dict(file, content).items()}


def _first_line(error: Exception) -> str:
    """The start of torch's long explanations."""
    return str(error).strip().split("\n")[0].split(". ")[0][:120] or type(error).__name__


def _state_dict(file: Path, content: Any) -> Mapping[str, Tensor]:
    """The mapping of names to tensors inside a loaded file."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{file} holds no state dict; expected names and tensors, or these under `model`")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise DataError(f"{file} holds more than tensors; expected a state dict, or one under `model`")
    return content


def bare(name: str) -> str:
    """A parameter's name without what DDP and torch.compile put before it."""
    while any(name.startswith(prefix) for prefix in PREFIXES):
        name = name.split(".", 1)[1]
    return name


def load_into(model: nn.Module, state: Mapping[str, Tensor], allow: list[str], source: str) -> list[str]:
    """Copy `state` into `model`; returns the names that keep their fresh values.

    Missing names and other shapes are tolerated only where a pattern of `allow` matches (`fc.*` for another number of
    classes). Raises DataError naming the file and up to five of the names that do not fit.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    fresh = [name for name in own if name not in fitting and name != TIME_CODE]
    wrong = [name for name in fresh if not any(fnmatchcase(name, pattern) for pattern in allow)]
    wrong += [name for name in state if name not in own and not any(fnmatchcase(name, p) for p in allow)]
    if wrong:
        names = ", ".join(wrong[:5]) + (" and more" if len(wrong) > 5 else "")
        raise DataError(f"{source} does not fit the model at {names}; change the model or run.init_allow")
    model.load_state_dict(fitting, strict=False)
    return fresh


def facts(info: Mapping[str, Any], model: SignsModel, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a user of the weights must know, as plain types: the task's `info`, the model's settings, results."""
    return {"format": FORMAT, "info": dict(info), "model": model.model_dump(), "metrics": dict(metrics)}


def save_pth(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `{"model": tensors, "facts": plain types}`, readable with `weights_only=True`; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    tensors = {bare(name): tensor.detach().cpu().clone() for name, tensor in state.items()}
    torch.save({"model": tensors, "facts": dict(about)}, unfinished)
    unfinished.replace(path)


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts inside a file of `save_pth`; empty for other files."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    found = content.get("facts", {}) if isinstance(content, Mapping) else {}
    return dict(found)
