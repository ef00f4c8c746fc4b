"""Named places where a test can kill the process, to prove that the next attempt goes on as if nothing had happened.

`TRAINER_CRASH_AT=after_manifest:2` sends SIGKILL to this process when it comes to the point `after_manifest` for the
second time. Where nothing is armed `point` is one comparison (about 50 ns), so the points stay in production code.
"""

import os
import signal

VARIABLE = "TRAINER_CRASH_AT"

POINTS = frozenset(
    {
        # an attempt and its run
        "before_attempt", "after_attempt", "in_restore", "after_restore", "before_complete", "after_complete",
        # a checkpoint
        "before_copy", "mid_copy", "after_copy",
        "before_write", "mid_write", "between_files", "after_data", "before_manifest", "after_manifest",
        "before_hints", "between_hints", "after_hints", "before_retention", "mid_retention", "after_retention",
        # the loop
        "after_forward", "mid_accumulation", "after_backward", "before_update", "after_update",
        "before_pass", "mid_pass", "after_pass", "after_epoch", "before_finish", "after_finish",
    }
)  # fmt: skip
"""Every name there is; a test holds this set and the calls of `point` together."""

_armed: tuple[str, int] | None = None


def arm(text: str | None) -> None:
    """Kill at `name` or `name:count` from now on; None or an empty text disarms. Raises ValueError."""
    global _armed
    if not text:
        _armed = None
        return
    name, _, count = text.partition(":")
    if name not in POINTS or (count and not (count.isdecimal() and int(count) > 0)):
        raise ValueError(f"{VARIABLE}={text}: write <point> or <point>:<count>, points: {', '.join(sorted(POINTS))}")
    _armed = (name, int(count or 1))


def point(name: str) -> None:
    """A place where an armed process dies."""
    if _armed is not None:
        _meet(name)


def _meet(name: str) -> None:
    global _armed
    assert name in POINTS, name
    assert _armed is not None
    wanted, left = _armed
    if name != wanted:
        return
    if left == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _armed = (wanted, left - 1)


arm(os.environ.get(VARIABLE))
