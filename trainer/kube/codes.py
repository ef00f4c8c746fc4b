"""Exit codes of containers in plain words: what happened, and what to do about it."""

import signal

_WORDS = {
    0: "complete",
    1: "uncaught error; the log has the traceback",
    2: "bad settings or command line; a new job with other settings is needed",
    3: "bad data; mend the data, then `trainer resume`",
    4: "the run cannot go on (diverged, a budget is used up, checkpoint refused)",
    5: "preflight failed for a reason that a retry will not mend",
    126: "the command of the container cannot be run: is it our image?",
    127: "the command of the container is not in the image: is it our image?",
    135: "bus error (SIGBUS): /dev/shm is full, perhaps; shm.size of the chart is its size",
    137: "killed (SIGKILL): out of memory, past its grace period, or its node is gone",
    139: "crashed (SIGSEGV)",
    143: "told to stop, checkpoint published",
    170: "infrastructure (storage, network, a lost peer, watchdog); tried again",
    171: "superseded by a newer attempt",
}


def in_words(code: int, reason: str = "") -> str:
    """`137: out of memory`; `reason` is the container's own (`OOMKilled`, `Error`)."""
    if reason == "OOMKilled":
        return f"{code}: out of memory"
    return f"{code}: {_WORDS.get(code) or _signal(code) or 'unknown exit code; the log says more'}"


def _signal(code: int) -> str | None:
    try:
        return f"ended by {signal.Signals(code - 128).name}" if code > 128 else None
    except ValueError:
        return None
