"""`.pt` files of plain training loops: one dictionary with weights, optimizer, scheduler, counters and a config.

They are pickles, so they are read by torch's restricted reader: tensors and plain values come in, a class that somebody
used for the config comes in as an empty shell, and what could run code is refused. Nothing of the file is ever called.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from trainer.errors import DataError


class Shell:
    """Stands for an object of a class that is not loaded; takes whatever it is given and keeps nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        """Whatever the class wanted."""

    def __setstate__(self, _: object) -> None:
        """Whatever the object held."""


UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError)
"""What torch raises for a file that is damaged or none of its own."""


def load_restricted(file: Path) -> Any:
    """What torch's restricted reader makes of a file, classes it does not know as shells. Raises one of UNREADABLE."""
    shells: list[Any] = [(Shell, name) for name in get_unsafe_globals_in_checkpoint(file)]
    with safe_globals(shells):
        return torch.load(file, map_location="cpu", weights_only=True)


def read_pt(path: str | Path) -> dict[str, Any]:
    """The dictionary in a file. Raises DataError naming the file if it is missing, damaged or of another kind."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} does not exist; give the path of a .pt file")
    try:
        content = load_restricted(file)
    except UNREADABLE as error:
        raise DataError(
            f"{file} cannot be read ({_reason(error)}); give a .pt file of tensors and plain values"
        ) from error
    if not isinstance(content, Mapping):
        raise DataError(f"{file} holds a {type(content).__name__}; give a .pt file with model_state_dict")
    return {str(name): value for name, value in content.items() if not isinstance(value, Shell)}


def write_pt(path: Path, content: Mapping[str, Any]) -> None:
    """Write such a file; a reader finds the old one or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(dict(content), scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The line of torch's long explanation that says what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "global" in line]
    return (telling or lines or [type(error).__name__])[0].split(". ")[0][:160]
