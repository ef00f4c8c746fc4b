"""A stream of chunks into one object of several parts, by the SDK's own transfer manager.

    chunks ─► Source.read() ─► [part][part][part][part] ─► UploadPart, `parallel` at once ─► Complete
              in a thread of the manager    at most `parallel` are there, and one that is being filled

So memory beside the source is (parallel + 1) parts, however large the object is.
"""

import io
from collections.abc import Iterable
from typing import Any

from trainer.checkpoint.store import Chunk
from trainer.config.s3 import S3Settings

MAX_PARTS = 10_000
"""Parts of one object (Amazon S3 multipart upload limits)."""
_COPY_BYTES = 1 << 20
"""Copied at once: copying holds the interpreter, and training needs it."""


class SourceFailed(Exception):
    """The iterator of chunks raised `error`: the caller's own, no failure of the store."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class TooManyParts(Exception):
    """The object has more parts than a server takes."""


class Source:
    """The chunks as a file that can only be read: each `read` gives a whole part, the last one is shorter."""

    def __init__(self, chunks: Iterable[Chunk], part_bytes: int) -> None:
        self._chunks = iter(chunks)
        self._part_bytes = part_bytes
        self._rest = memoryview(b"")
        self._first: bytes | None = None
        self._num_parts = 0
        self.transfer: Any = None
        """The future of the upload: when it has failed nobody takes further parts, so none are made."""

    def peek(self) -> int:
        """The size of the first part, in bytes."""
        self._first = self.read()
        return len(self._first)

    def read(self, amount: int = -1) -> bytes:
        """The next part; the manager asks for just its size. Raises SourceFailed, TooManyParts."""
        del amount
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self.transfer is not None and self.transfer.done():
            return b""
        try:
            part = self._fill()
        except BaseException as error:
            raise SourceFailed(error) from None
        self._num_parts += bool(part)
        if self._num_parts > MAX_PARTS:
            raise TooManyParts
        return part

    def _fill(self) -> bytes:
        # It hands out its bytes without a copy, and a chunk is let go once it is used.
        buffer = io.BytesIO()
        if self._num_parts:  # of the right size at once: what grows leaves holes, and the first may be a small object
            buffer.seek(self._part_bytes - 1)
            buffer.write(b"\0")
            buffer.seek(0)
        while missing := self._part_bytes - buffer.tell():
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk).cast("B")
            piece = self._rest[: min(missing, _COPY_BYTES)]
            buffer.write(piece)
            self._rest = self._rest[len(piece) :]
        buffer.truncate()
        return buffer.getvalue()


def transfer_config(settings: S3Settings) -> Any:
    """How the SDK cuts objects into parts, on the way up and down."""
    from boto3.s3.transfer import TransferConfig

    part_bytes = settings.part_mib << 20
    config = TransferConfig(
        multipart_threshold=part_bytes,
        multipart_chunksize=part_bytes,
        max_concurrency=settings.parallel,
        num_download_attempts=settings.tries,
        preferred_transfer_client="classic",  # the other one does not heed the client's settings
    )
    config.max_in_memory_upload_chunks = settings.parallel
    return config


def upload(client: Any, settings: S3Settings, bucket: str, key: str, source: Source, extra: dict[str, str]) -> None:
    """Upload all that the source has; on any failure the upload is aborted and nothing of it is seen."""
    from boto3.s3.transfer import create_transfer_manager

    with create_transfer_manager(client, transfer_config(settings)) as manager:
        source.transfer = manager.upload(source, bucket, key, extra)
        source.transfer.result()
