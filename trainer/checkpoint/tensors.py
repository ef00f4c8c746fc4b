"""Tensors as a safetensors stream, straight from the memory they lie in, and back.

    file = length of the header (8 bytes, little endian) + header (JSON, padded to 8) + data

The data of all tensors lie in one flat buffer in file order, so that a file is the header and slices of that buffer:
no second copy, whatever the size. Tensors that share their memory (tied weights) are stored once; the other names are
in the header's metadata under `tied` and come back as the same tensor.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CHUNK_BYTES = 8 * 2**20
"""Bytes that are hashed and written at once: large enough to run without the GIL, small enough for the cache."""

TIED = "tied"

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Number formats by their names in safetensors (huggingface.co/docs/safetensors, "Format")."""


class TensorsError(Exception):
    """A file is not the safetensors file it should be."""


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in the flat buffer."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """The order of the tensors of one file, without holes, wide formats first (so each one is aligned)."""

    slots: tuple[Slot, ...]
    tied: dict[str, str]
    """Further names of stored tensors: name -> stored name."""
    size_bytes: int


def plan_layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Where each tensor goes; names of one and the same memory share a slot."""
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owner: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        first = owner.setdefault(_identity(name, tensor), name)
        if first == name:
            stored[name] = tensor
        else:
            tied[name] = first
    slots: list[Slot] = []
    start = 0
    for name in sorted(stored, key=lambda name: (-stored[name].element_size(), name)):
        tensor = stored[name]
        stop = start + tensor.numel() * tensor.element_size()
        slots.append(Slot(name, tensor.dtype, tuple(tensor.shape), start, stop))
        start = stop
    return Layout(tuple(slots), tied, start)


def views(layout: Layout, buffer: Tensor) -> list[Tensor]:
    """The slots of a layout as tensors inside a flat uint8 buffer."""
    return [buffer[slot.start : slot.stop].view(slot.dtype).view(slot.shape) for slot in layout.slots]


def stream(layout: Layout, buffer: Tensor) -> Iterator[memoryview]:
    """The bytes of the file in order; `buffer` is flat uint8 on the host and must not change meanwhile."""
    yield memoryview(_header(layout))
    data = buffer.numpy().data.cast("B")
    for start in range(0, layout.size_bytes, CHUNK_BYTES):
        yield data[start : min(start + CHUNK_BYTES, layout.size_bytes)]


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file in own memory (never mapped to the file), tied names included. Raises TensorsError."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            tied = json.loads((file.metadata() or {}).get(TIED, "{}"))
    except (SafetensorError, ValueError) as error:
        raise TensorsError(f"{path.name} is no safetensors file: {error}") from error
    return {**tensors, **{name: tensors[first] for name, first in tied.items()}}


def _identity(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Equal for two names of the same memory; an empty tensor shares nothing."""
    if tensor.numel() == 0:
        return (name,)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _header(layout: Layout) -> bytes:
    texts = {"format": "pt"}
    if layout.tied:
        texts[TIED] = json.dumps(layout.tied, sort_keys=True)
    header: dict[str, object] = {"__metadata__": texts}
    for slot in layout.slots:
        assert slot.dtype in _CODES, f"{slot.name}: {slot.dtype} has no name in safetensors"
        assert slot.stop - slot.start == prod(slot.shape) * slot.dtype.itemsize
        header[slot.name] = {
            "dtype": _CODES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [slot.start, slot.stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
