"""Who may read the one buffer that checkpoints are copied to."""

import time
from collections.abc import Iterable, Iterator

from trainer.checkpoint.commit import Files
from trainer.checkpoint.store import Chunk
from trainer.errors import InfrastructureError


class Lease:
    """The right to read the buffer, which a newer checkpoint can take away from one that a silent store holds up."""

    def __init__(self) -> None:
        self.touched = time.monotonic()
        """When the store last took something."""
        self._is_over = False

    def end(self) -> None:
        """From here on nothing more is read, and what was read may not be committed."""
        self._is_over = True

    def check(self) -> None:
        """Raises InfrastructureError when it has ended."""
        if self._is_over:
            raise InfrastructureError("the store was silent for too long, and a newer checkpoint took its place")

    def of(self, files: Files) -> Files:
        """The files as long as it lasts."""
        return ((name, self._watched(chunks)) for name, chunks in files)

    def _watched(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.check()
            self.touched = time.monotonic()
            yield chunk
