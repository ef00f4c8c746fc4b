"""Memory that a process owns: RssAnon of Linux, which leaves out mapped files."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def rss_anon(pid: int | str = "self") -> int:
    """Bytes of RssAnon of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


@dataclass
class Peak:
    """The greatest RssAnon seen so far, in bytes."""

    size_bytes: int = 0


@contextmanager
def watching(pid: int | str = "self", every_seconds: float = 0.005) -> Iterator[Peak]:
    """Sample a process's RssAnon in a thread while the block runs."""
    peak, done = Peak(rss_anon(pid)), threading.Event()

    def sample() -> None:
        while not done.wait(every_seconds):
            peak.size_bytes = max(peak.size_bytes, rss_anon(pid))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.size_bytes = max(peak.size_bytes, rss_anon(pid))
