"""Bytes for tests of object stores."""

import os
from collections.abc import Iterator

from trainer.config.s3 import S3Settings

MIB = 1 << 20
PART = S3Settings(part_mib=5, parallel=2)
"""Small parts, so that several of them need few bytes."""


def content(size: int) -> bytes:
    """Bytes that differ from MiB to MiB."""
    block = os.urandom(MIB)
    return b"".join(number.to_bytes(4, "big") + block[4:] for number in range(-(-size // MIB)))[:size]


def pieces(data: bytes, size: int) -> Iterator[memoryview]:
    """Views of the bytes in order, each of that size but the last."""
    view = memoryview(data)
    return (view[start : start + size] for start in range(0, len(view), size))
