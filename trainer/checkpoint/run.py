"""A run and this attempt of it: its folder in the store, who owns it, whether it is complete.

Which run a start belongs to is decided in `opening`.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.checkpoint import attempts as lives
from trainer.checkpoint.attempts import AttemptId, Attempts, get_json, put_json
from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import utc_now
from trainer.checkpoint.store import Store
from trainer.errors import InfrastructureError, SettingsError, SupersededError
from trainer.telemetry.events import Event

RUN_FILE = "run.json"
COMPLETE_FILE = "COMPLETE.json"
CHECKPOINTS = "checkpoints/"
OWNER_LOCK = "owner"
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Resume = Literal["auto", "required", "never"]
Emit = Callable[[Event], None]


@dataclass
class Run:
    """One attempt of a run. Keys are relative to the run's folder; `key` makes them the store's."""

    store: Store
    name: str
    id: AttemptId
    digest: str
    length: dict[str, int | None]
    resume: Resume
    is_complete: bool = False
    """The run reached this length already: there is no attempt, nothing may be written."""
    owns_lock: bool = True
    restored_from: str | None = None
    """Folder this attempt went on from; retention leaves it alone."""
    rejected: set[str] = field(default_factory=set)
    """Folders that failed verification in this attempt."""
    made: dict[str, Any] | None = None
    """The run's record, if this attempt made the run."""

    @property
    def attempt(self) -> str:
        """The id of this attempt, `<number>-<suffix>`."""
        return str(self.id)

    @property
    def number(self) -> int:
        """This is the run's how many-th attempt, from 1."""
        return self.id.number

    def key(self, path: str) -> str:
        """The store's key of a path in the run's folder."""
        return f"{self.name}/{path}"

    def check_owner(self) -> None:
        """Make sure that no newer attempt owns the run. Raises SupersededError, InfrastructureError."""
        begun = Attempts.read(self.store, self.name).begun
        if self.id not in begun:
            raise InfrastructureError(
                f"the record of attempt {self.attempt} is gone from {self.store.url}/{self.name}: was the folder "
                "deleted or the volume unmounted? Nothing more is written there"
            )
        if begun[-1] != self.id:
            raise SupersededError(
                f"attempt {begun[-1]} has taken over run {self.name}; attempt {self.attempt} writes no more"
            )
        self.owns_lock = self.owns_lock or self.store.claim(self.key(OWNER_LOCK))
        if self.made and not self.store.has_locks:
            self._confirm_record(self.made)

    def _confirm_record(self, made: dict[str, Any]) -> None:
        """The owner's record counts.

        Where a server has no true conditional writes, another start at the same moment may have written over ours.
        """
        if (get_json(self.store, self.key(RUN_FILE)) or {}).get("made_by") != made["made_by"]:
            put_json(self.store, self.key(RUN_FILE), made)

    def end(self, code: int, reason: str, *, has_lost_peer: bool = False) -> None:
        """Write that this attempt ended by itself; without it the next start counts it as dead.

        A store that fails here is why most attempts end that way: its error is known by then and is not raised again.
        """
        if not self.is_complete:
            with suppress(InfrastructureError):
                lives.end(self.store, self.name, self.id, code, reason, has_lost_peer=has_lost_peer)
        self.store.release(self.key(OWNER_LOCK))

    def complete(self, record: dict[str, Any]) -> None:
        """Mark the run as finished at its length. Raises SupersededError."""
        self.check_owner()
        point("before_complete")
        whole = {"length": self.length, "attempt": self.attempt, "completed": utc_now(), **record}
        put_json(self.store, self.key(COMPLETE_FILE), whole)
        point("after_complete")


def check_name(name: str) -> None:
    """Refuse what no run can be called. Raises SettingsError."""
    if not RUN_NAME.fullmatch(name):
        raise SettingsError(f"run.name is {name!r}: use letters, digits, '.', '_' and '-', at most 100 of them")
