"""Benchmarks: `make bench`. Every figure is a ratio or a difference of things run in turns A B A B in one process."""

import os


def size(name: str, default: int) -> int:
    """A size that `BENCH_<name>` sets, for a quick look or a larger machine."""
    return int(os.environ.get(f"BENCH_{name}", default))
