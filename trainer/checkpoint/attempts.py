"""The lives of a run: one small record each, written when an attempt begins and when it ends by itself.

    <run>/attempts/0003-1a2b3c.json        it began
    <run>/attempts/0003-1a2b3c.end.json    it ended; an attempt without this record was killed or is alive

The greatest (number, suffix) owns the run. The suffix is random, so two attempts that start at once never share a
name, and both see the same owner.
"""

import json
import os
import platform
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from trainer.checkpoint.manifest import software, utc_now
from trainer.checkpoint.store import Store, StoreMissing
from trainer.errors import RunError

ALIVE_SECONDS = 300.0
"""An attempt on another machine that stored something within this time may be alive; segments come every 60 s."""
_RECORD = re.compile(r"(\d{4,})-([0-9a-f]{6})(\.end)?\.json")


@dataclass(frozen=True, order=True)
class AttemptId:
    """A counter and a random suffix; the order is the order of ownership."""

    number: int
    suffix: str

    def __str__(self) -> str:
        return f"{self.number:04d}-{self.suffix}"

    @classmethod
    def parse(cls, text: str) -> "AttemptId":
        """From `0003-1a2b3c`."""
        number, _, suffix = text.partition("-")
        return cls(int(number), suffix)

    @classmethod
    def following(cls, earlier: Iterable["AttemptId"]) -> "AttemptId":
        """A new id behind all others."""
        return cls(max((attempt.number for attempt in earlier), default=0) + 1, secrets.token_hex(3))


@dataclass(frozen=True)
class Attempts:
    """The attempts of a run as one listing shows them."""

    begun: tuple[AttemptId, ...]
    """Sorted; the last one owns the run."""
    ended: frozenset[AttemptId]

    @classmethod
    def read(cls, store: Store, run: str) -> "Attempts":
        """One listing."""
        prefix = f"{run}/attempts/"
        begun: set[AttemptId] = set()
        ended: set[AttemptId] = set()
        for entry in store.entries(prefix):
            if match := _RECORD.fullmatch(entry.key.removeprefix(prefix)):
                (ended if match[3] else begun).add(AttemptId(int(match[1]), match[2]))
        return cls(tuple(sorted(begun)), frozenset(ended))


def begin(store: Store, run: str, attempt: AttemptId, config_digest: str) -> None:
    """Write the record of a new attempt; from here on it owns the run."""
    record = {
        "attempt": str(attempt),
        "begun": utc_now(),
        "host": platform.node(),
        "process": os.getpid(),
        "digest": config_digest,
        "versions": software(),
    }
    put_json(store, f"{run}/attempts/{attempt}.json", record, only_new=True)


def end(store: Store, run: str, attempt: AttemptId, code: int, reason: str, *, has_lost_peer: bool = False) -> None:
    """Write that an attempt ended by itself, and how."""
    record = {"ended": utc_now(), "code": code, "reason": reason, "has_lost_peer": has_lost_peer}
    put_json(store, f"{run}/attempts/{attempt}.end.json", record)


def host_of(store: Store, run: str, attempt: AttemptId) -> str | None:
    """The machine on which an attempt began; None where its record is gone or unreadable."""
    record = get_json(store, f"{run}/attempts/{attempt}.json")
    return record.get("host") if record else None


def seems_alive(store: Store, run: str) -> str | None:
    """Who seems to be training a run in a store that has no locks, in words; None if nobody does.

    On this machine the process is looked for; of another one the age of its last ledger segment is all there is to
    see, so for some minutes after a kill it still seems alive.
    """
    attempts = Attempts.read(store, run)
    newest = attempts.begun[-1] if attempts.begun else None
    if store.has_locks or newest is None or newest in attempts.ended:
        return None
    record = get_json(store, f"{run}/attempts/{newest}.json") or {}
    if record.get("host") == platform.node():
        process = record.get("process")
        return f"attempt {newest}, process {process} on this machine" if _is_process(process) else None
    signs = [*store.entries(f"{run}/attempts/{newest}.json"), *store.entries(f"{run}/ledger/{newest}/")]
    age = time.time() - max((sign.modified for sign in signs), default=0.0)
    return f"attempt {newest} on {record.get('host')}, {max(0.0, age):.0f} s ago" if age < ALIVE_SECONDS else None


def is_gone(store: Store, run: str, attempt: AttemptId) -> bool:
    """Whether an attempt began on this machine and its process does not run any more."""
    record = get_json(store, f"{run}/attempts/{attempt}.json") or {}
    return record.get("host") == platform.node() and not _is_process(record.get("process"))


def _is_process(number: int | None) -> bool:
    """Whether another process of that number runs."""
    if not number or number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def dead_in_a_row(store: Store, run: str, attempts: Attempts) -> list[AttemptId]:
    """The newest attempts that were killed, newest first, up to one that ended for another reason.

    Where another process of the attempt was killed, this one could still say so; it is as dead.
    """
    row: list[AttemptId] = []
    for attempt in reversed(attempts.begun):
        if attempt in attempts.ended:
            record = get_json(store, f"{run}/attempts/{attempt}.end.json")
            if not (record and record.get("has_lost_peer")):
                break
        row.append(attempt)
    return row


def check_dead_budget(store: Store, run: str, dead: list[AttemptId], published_by: set[str], limit: int) -> None:
    """Give up when the last `limit` attempts are dead and none of them published. Raises RunError."""
    fruitless = len(list(takewhile(lambda attempt: str(attempt) not in published_by, dead)))
    if fruitless >= limit:
        raise RunError(
            f"run {run} in {store.url}: the last {fruitless} attempts were killed without a new checkpoint (out of "
            f"memory? node lost?); mend the cause, then raise run.max_dead_attempts above {fruitless} to go on"
        )


def put_json(store: Store, key: str, record: dict[str, Any], *, only_new: bool = False) -> None:
    """Write a small record that people can read."""
    store.put(key, [json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"], only_new=only_new)


def get_json(store: Store, key: str) -> dict[str, Any] | None:
    """A small record; None where it is missing or not a JSON object (somebody else's, or damaged)."""
    try:
        record = json.loads(store.get(key))
    except (StoreMissing, ValueError):
        return None
    return record if isinstance(record, dict) else None
