"""Reading a ledger back: in order, whatever was cut off, and without what a later attempt did again.

    records = read_records(list_keys, get, run_prefix)     all of them: attempt by attempt, segment by segment
    records = effective(records)                           one truth per step: redone steps are the later attempt's

A record is a dict with `event`, `run`, `attempt`, `wall`, `mono` and the fields of the event's class. Pictures,
reports and rules use the effective records; the time account and the story of attempts use all of them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from trainer.telemetry.account import goodput, highest, time_account

__all__ = [
    "Record",
    "attempt_key",
    "effective",
    "goodput",
    "highest",
    "read_records",
    "read_run",
    "select",
    "time_account",
]

Record = dict[str, Any]

SUPERSEDED_EVENTS = frozenset({"StepDone", "Balanced", "EpochDone", "PassStarted", "PassDone", "Warned"})
"""What an attempt says of its steps; facts such as publishes, ends and non-finite losses stay true."""
NUM_READERS = 8
"""Segments read at once: a day of training leaves 1,440, and one request to an object store takes 20-100 ms."""
_STAMPS = ("event", "run", "attempt", "wall", "mono", "epoch", "step")
_SEGMENT = re.compile(r"ledger/(?P<attempt>[^/]+)/(?P<segment>\d+)\.jsonl$")


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


class Readable(Protocol):
    """What reading needs of a store."""

    def entries(self, prefix: str) -> Iterable[_Keyed]:
        """Every object whose key starts with the prefix."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object."""
        ...


def read_records(
    list_keys: Callable[[str], Iterable[str]], get: Callable[[str], bytes], run_prefix: str = ""
) -> list[Record]:
    """All records of a run in the order in which they happened.

    `list_keys(prefix)` gives the keys below a prefix, `get(key)` the bytes of one; `run_prefix` is empty or ends in
    `/`. A cut last line is left out; a damaged one elsewhere too, and a `Noted` record in its place says so.
    """
    found = ((key, _SEGMENT.search(key)) for key in list_keys(f"{run_prefix}ledger/"))
    segments = [(attempt_key(match["attempt"]), int(match["segment"]), key) for key, match in found if match]
    keys = [key for _, _, key in sorted(segments)]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        return [record for key, data in zip(keys, readers.map(get, keys), strict=True) for record in _parse(key, data)]


def read_run(store: Readable, run: str) -> list[Record]:
    """All records of a run in a store."""
    return read_records(lambda prefix: [entry.key for entry in store.entries(prefix)], store.get, f"{run}/")


def attempt_key(attempt: str) -> tuple[int, str]:
    """Order of attempts: their number, then the suffix; `12-ab3f` is (12, "ab3f")."""
    number, _, suffix = attempt.partition("-")
    return (int(number) if number.isdigit() else 0, suffix)


def select(records: Iterable[Record], event: str) -> list[Record]:
    """The records of one kind of event, in order."""
    return [record for record in records if record["event"] == event]


def effective(records: Sequence[Record]) -> list[Record]:
    """The records without those that were overtaken.

    An attempt that goes on from step s (a `Resumed` at s, at its start or as a rollback in its middle; without one
    the step of its `RunStarted`) supersedes what was said of later steps before; a pass that was owed and ran again
    at the same step supersedes its first walk.
    """
    resuming = {record["attempt"] for record in records if record["event"] == "Resumed"}
    kept: list[Record] = []
    for record in records:
        anew = record["event"] == "RunStarted" and record["attempt"] not in resuming
        if anew or record["event"] == "Resumed":
            kept = [old for old in kept if not _overtaken(old, record["step"])]
        kept.append(record)
    return _without_repeated_passes(kept)


def _overtaken(record: Record, step: int) -> bool:
    return record["step"] > step and record["event"] in SUPERSEDED_EVENTS


def _without_repeated_passes(records: list[Record]) -> list[Record]:
    last = {_pass_identity(record): index for index, record in enumerate(records) if record["event"] == "PassDone"}
    return [
        record
        for index, record in enumerate(records)
        if record["event"] != "PassDone" or last[_pass_identity(record)] == index
    ]


def _pass_identity(record: Record) -> tuple[str, int, bool]:
    return record["name"], record["step"], record["is_final"]


def _parse(key: str, data: bytes) -> Iterator[Record]:
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    cut = not data.endswith(b"\n")
    parsed = [(number, _parse_line(line)) for number, line in lines]
    if cut and parsed and parsed[-1][1] is None:
        parsed.pop()  # the writer died in the middle of this line
    near = next((record for _, record in parsed if record), None)
    for number, record in parsed:
        near = record or near
        if near is not None:
            yield record or _damaged(key, number, near)


def _parse_line(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() >= set(_STAMPS) else None


def _damaged(key: str, number: int, near: Record) -> Record:
    stamps = {name: near[name] for name in _STAMPS}
    return {**stamps, "event": "Noted", "text": f"line {number} of {key} is damaged and was left out"}
