"""Files of weights that a person may bring or take away: `.pth` and safetensors, read without running any code.

Everything is read with `weights_only=True`; names lose what DDP and torch.compile put before them. The facts of a model
travel inside a `.pth` file of ours as plain lists and texts.
"""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.checkpoint.pt import UNREADABLE, load_restricted
from trainer.errors import DataError

PREFIXES = ("module.", "_orig_mod.")
"""What DDP and torch.compile put before every name."""
STATE_KEYS = ("model", "state_dict", "model_state_dict")
"""Under which of the known programs' files hold the weights."""


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
    """The state dict of a `.pth` file: bare, or under one of `STATE_KEYS`; prefixes are gone.

    Raises DataError naming the file if it is missing or does not hold weights.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} does not exist; give the path of a .pth file with weights")
    try:
        content = load_restricted(file)
    except UNREADABLE as error:
        raise DataError(f"{file} is not a file of weights ({_first_line(error)}); give a .pth of tensors") from error
    return {bare(name): tensor for name, tensor in _state_dict(file, content).items()}


def _first_line(error: Exception) -> str:
    """The start of torch's long explanations."""
    return str(error).strip().split("\n")[0].split(". ")[0][:120] or type(error).__name__


def _state_dict(file: Path, content: Any) -> Mapping[str, Tensor]:
    """The mapping of names to tensors inside a loaded file."""
    for key in STATE_KEYS:
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


def load_into(
    model: nn.Module, state: Mapping[str, Tensor], allow: list[str], source: str, *, formulas: Collection[str] = ()
) -> list[str]:
    """Copy `state` into `model`; returns the names that keep their fresh values.

    `formulas` are names of what is no weight and may be missing or of any shape.

    Missing names and other shapes are tolerated only where a pattern of `allow` matches (`fc.*` for another number of
    classes). Raises DataError naming the file and up to five of the names that do not fit.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    fresh = [name for name in own if name not in fitting and name not in formulas]
    wrong = [name for name in fresh if not any(fnmatchcase(name, pattern) for pattern in allow)]
    wrong += [name for name in state if name not in own and not any(fnmatchcase(name, p) for p in allow)]
    if wrong:
        names = ", ".join(wrong[:5]) + (" and more" if len(wrong) > 5 else "")
        raise DataError(f"{source} does not fit the model at {names}; change the model or run.init_allow")
    model.load_state_dict(fitting, strict=False)
    return fresh


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
