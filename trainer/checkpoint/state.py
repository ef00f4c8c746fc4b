"""What a checkpoint holds, and the one copy that training waits for.

    State (live tensors, any device)  -- one copy, the stall -->  Snapshot (host buffer)  -- thread -->  files

The buffer is kept and reused: writing to fresh memory costs two to three times as much (page faults). On CUDA it is
pinned. A snapshot is valid until the next copy.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.crash import point
from trainer.checkpoint.store import Chunk
from trainer.checkpoint.tensors import Layout, plan_layout, stream, views

STATE_FILE = "state.json"
TENSORS = ".safetensors"
"""Ending of the files with tensors."""
_ALIGNMENT = 64
_SHAPE, _DTYPE = attrgetter("shape"), attrgetter("dtype")


@dataclass
class State:
    """Everything needed to go on: parts of named tensors, and the rest as JSON."""

    tensors: dict[str, dict[str, Tensor]]
    """By part (`model`, `optimizer`, `ema`); each part is one file."""
    meta: dict[str, Any]
    """JSON values: cursor, schedule, scaler, best."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Small files that lie beside the weights, because these mean nothing without them (tokenizers)."""


@dataclass(frozen=True)
class Snapshot:
    """A state on the host, frozen at one moment."""

    parts: dict[str, tuple[Layout, Tensor]]
    """By part: the layout and its slice of the flat buffer."""
    meta_json: bytes
    extra: Mapping[str, bytes]
    """`State.files`, which never change."""
    size_bytes: int

    @property
    def cursor(self) -> Any:
        """`cursor` of the state's meta, for the manifest."""
        return json.loads(self.meta_json).get("cursor")

    def files(self) -> Iterator[tuple[str, Iterator[Chunk]]]:
        """Name and bytes of every file, in the order in which they are written."""
        for part, (layout, buffer) in self.parts.items():
            yield file_of(part), stream(layout, buffer)
        for name, content in self.extra.items():
            yield name, iter([content])
        yield STATE_FILE, iter([self.meta_json])


@dataclass(frozen=True)
class _Plan:
    """How a state of one signature is copied; made once, as planning costs more than copying a small state."""

    signature: tuple[object, ...]
    offsets: dict[str, tuple[Layout, int]]
    size_bytes: int


class HostBuffers:
    """One flat host buffer for a whole state, reused by every copy."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._plan: _Plan | None = None
        self._parts: dict[str, tuple[Layout, Tensor]] = {}
        self._targets: dict[str, list[Tensor]] = {}

    def warm(self, state: State) -> None:
        """Make the buffer for a state and touch its memory, so that the first copy is as quick as the others."""
        self._prepare(state)
        self._buffer.zero_()

    def copy(self, state: State) -> Snapshot:
        """Copy a state; the snapshot is valid until the next call."""
        plan = self._prepare(state)
        point("before_copy")
        devices: set[torch.device] = set()
        with torch.no_grad():
            for part, (layout, _) in self._parts.items():
                sources = [state.tensors[part][slot.name] for slot in layout.slots]
                if sources:
                    torch._foreach_copy_(self._targets[part], sources, non_blocking=True)
                devices.update(source.device for source in sources)
                point("mid_copy")
        for device in devices:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        point("after_copy")
        meta_json = json.dumps(state.meta, sort_keys=True).encode()
        size_bytes = plan.size_bytes + len(meta_json) + sum(map(len, state.files.values()))
        return Snapshot(dict(self._parts), meta_json, state.files, size_bytes)

    def _prepare(self, state: State) -> _Plan:
        signature = _signature(state.tensors)
        if self._plan is None or self._plan.signature != signature:
            self._plan = _make_plan(state.tensors, signature)
            self._reserve(self._plan.size_bytes, _pins(state.tensors))
            self._parts = {
                part: (layout, self._buffer[start : start + layout.size_bytes])
                for part, (layout, start) in self._plan.offsets.items()
            }
            self._targets = {part: views(layout, buffer) for part, (layout, buffer) in self._parts.items()}
        return self._plan

    def _reserve(self, size_bytes: int, pinned: bool) -> None:
        self._parts, self._targets = {}, {}
        if self._buffer.numel() < size_bytes or (pinned and not self._buffer.is_pinned()):
            self._buffer = torch.empty(0, dtype=torch.uint8)  # let go of the old one first: never two at a time
            self._buffer = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)


def file_of(part: str) -> str:
    """The file of a part of the state."""
    return part + TENSORS


def _signature(tensors: Mapping[str, Mapping[str, Tensor]]) -> tuple[object, ...]:
    """What a plan hangs on, put together by `map` because it is part of the stall (0.4 us a tensor)."""
    parts: list[object] = []
    for part, named in tensors.items():
        values = named.values()
        pointers, shapes = tuple(map(Tensor.data_ptr, values)), tuple(map(_SHAPE, values))
        parts.append((part, tuple(named), pointers, shapes, tuple(map(_DTYPE, values))))
    return tuple(parts)


def _make_plan(tensors: Mapping[str, Mapping[str, Tensor]], signature: tuple[object, ...]) -> _Plan:
    offsets: dict[str, tuple[Layout, int]] = {}
    start = 0
    for part, named in tensors.items():
        layout = plan_layout(named)
        offsets[part] = (layout, start)
        start += -(-layout.size_bytes // _ALIGNMENT) * _ALIGNMENT
    return _Plan(signature, offsets, start)


def _pins(tensors: Mapping[str, Mapping[str, Tensor]]) -> bool:
    return any(tensor.is_cuda for named in tensors.values() for tensor in named.values())
