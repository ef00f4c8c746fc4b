"""How a rank ended, left in a file: torchrun turns every code of its children into 1.

A rank calls `leave(5, "the bucket is not there")`, which writes $TRAINER_VERDICT_DIR/<RANK>.json when that variable is
set; the launcher, who sets it, calls `read(folder)`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERDICT_DIR = "TRAINER_VERDICT_DIR"
"""Names the folder; without it nobody asks and nothing is written."""


@dataclass(frozen=True)
class Verdict:
    """What a rank said before it ended."""

    rank: int
    code: int
    """As in the table of exit codes."""
    reason: str
    """One line."""


def begin(environ: Mapping[str, str] = os.environ) -> None:
    """A rank starts: what this process's place said in an earlier life no longer counts (elastic restarts)."""
    for path, said in _said(environ):
        if said.get("place") == environ.get("LOCAL_RANK", "0"):
            path.unlink(missing_ok=True)


def leave(code: int, reason: str, environ: Mapping[str, str] = os.environ) -> None:
    """Say how this process ends; never raises, because the end itself matters more."""
    folder, rank = environ.get(VERDICT_DIR), environ.get("RANK", "0")
    if not folder:
        return
    line = "; ".join(part.strip() for part in reason.splitlines() if part.strip())
    path = Path(folder, f"{rank}.json")
    temporary = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        said = {"code": code, "reason": line, "place": environ.get("LOCAL_RANK", "0")}
        temporary.write_text(json.dumps(said), encoding="utf-8")
        temporary.replace(path)


def read(folder: Path) -> list[Verdict]:
    """The verdicts in a folder by rank; what is no verdict is left out."""
    found = []
    for path, said in _said({VERDICT_DIR: str(folder)}):
        with suppress(ValueError, KeyError, TypeError):
            found.append(Verdict(int(path.stem), int(said["code"]), str(said["reason"])))
    return sorted(found, key=lambda verdict: verdict.rank)


def _said(environ: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = environ.get(VERDICT_DIR)
    for path in Path(folder).glob("*.json") if folder else ():
        with suppress(OSError, ValueError):
            said = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(said, dict):
                yield path, said
