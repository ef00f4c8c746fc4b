"""Reads a pickled 0-d object array without trusting it: dict, list, int and numpy's own reconstruction, nothing else.

A pickle names the functions it wants called. Only the few that numpy needs to rebuild the table are handed out; any
other name ends the reading with an error that says which.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import DataError

_ALLOWED: dict[tuple[str, str], Any] = {}
for _module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "ndarray"] = np.ndarray
    _ALLOWED[_module, "dtype"] = np.dtype
_SCALAR = np.int64(0).__reduce__()[0]
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "scalar"] = _SCALAR
    _ALLOWED[_module, "_reconstruct"] = _RECONSTRUCT
_MAX_BYTES = 64 << 20
"""The table of 75,300 clips takes under 1 MB."""


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that a table of lengths does not need."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Hand out an allowed object; everything else is refused by name."""
        if (module, name) not in _ALLOWED:
            raise RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """A table refers to nothing outside of itself."""
        raise RefusedError(f"a persistent object {pid!r}")


def load_table(file: Path) -> dict[Any, Any]:
    """The dict in a pickled 0-d object array. Raises DataError if it is missing, damaged, or asks for more."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file} is larger than any table of lengths")
        with file.open("rb") as stream:
            _skip_npy_header(stream)
            array = _Unpickler(stream).load()
    except FileNotFoundError:
        raise DataError(f"{file} is missing") from None
    except RefusedError as error:
        raise DataError(f"{file} is refused: it asks for {error}, a table of lengths has no need of it") from None
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(f"{file} is damaged ({error})") from None
    table = array.item() if isinstance(array, np.ndarray) and array.shape == () else array
    if not isinstance(table, dict):
        raise DataError(f"{file} is no table sign -> signer -> list of lengths, but {type(table).__name__}")
    return table


def _skip_npy_header(stream: io.BufferedReader) -> None:
    """Leave the stream where the pickle begins. Raises ValueError for another format."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"an array {shape} of {dtype}, expected one object")
