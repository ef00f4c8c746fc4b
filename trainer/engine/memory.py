"""Memory: peaks for the ledger, the cache of CUDA, and the garbage collector kept out of the steps."""

import ctypes
import gc
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_THRESHOLD = 1 << 30, 32 << 20
_LITTLE_FREE = 0.1
"""Share of free GPU memory under which `empty_cache: auto` empties the cache after a pass."""


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak of allocated GPU memory since the last reset; on the CPU the peak resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def empty_cache(device: torch.device, when: Literal["auto", "pass", "never"]) -> None:
    """Give cached GPU blocks back after a pass; `auto` does it only when little is free (it costs a sync)."""
    if device.type != "cuda" or when == "never":
        return
    free, total = torch.cuda.mem_get_info(device)
    if when == "pass" or free < _LITTLE_FREE * total:
        torch.cuda.empty_cache()


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let glibc keep what a step frees for the next one instead of handing it back to the system.

    By default large blocks are mapped anew and the heap is trimmed after every step; the page faults of the next one
    (60,000 of them for a step of a second) cost about a tenth of its time. Nothing happens on other C libraries.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    # The largest threshold that glibc takes for its heaps is 32 MiB; a refused value leaves the default.
    for option, value in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _KEPT_BYTES)):
        if not library.mallopt(option, value):
            library.mallopt(option, _LARGEST_THRESHOLD)


@contextmanager
def collector_by_hand() -> Iterator[None]:
    """No automatic garbage collection during the block: a full scan costs up to half a second in a large process."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def freeze_objects() -> None:
    """After the first step: what lives now lives on, later collections need not look at it.

    Not collected first: the little garbage of the start-up is not worth the quarter of a second.
    """
    gc.freeze()


def collect() -> None:
    """One collection, at a pass boundary."""
    gc.collect()
