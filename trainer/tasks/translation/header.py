"""`corpus.json` beside the files of a prepared corpus: its languages, and size and SHA-256 of every file."""

import json
from pathlib import Path
from typing import Any

from trainer.errors import DataError

HEADER = "corpus.json"
FORMAT = "translation-text"
VERSION = 1
"""Raised when a reader of the old format would misread the new one."""


def header_bytes(languages: tuple[str, str], pairs: dict[str, int], files: dict[str, Any]) -> bytes:
    """The header of a corpus with so many pairs by split and these files."""
    body = {"format": FORMAT, "version": VERSION, "languages": languages, "pairs": pairs, "files": files}
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a prepared corpus. Raises DataError for anything else."""
    path = folder / HEADER
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        is_ours = (body["format"], body["version"]) == (FORMAT, VERSION) and len(body["languages"]) == 2
        known = is_ours and isinstance(body["files"], dict) and isinstance(body["pairs"], dict)
    except FileNotFoundError:
        raise DataError(f"{folder} is no prepared corpus: it has no {HEADER}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); prepare the corpus again") from None
    if not known:
        raise DataError(f"{path} is no header that this version reads; prepare the corpus again")
    return body


def languages_of(folder: Path) -> tuple[str, str]:
    """Source and target of a prepared corpus."""
    source, target = read_header(folder)["languages"]
    return str(source), str(target)


def files_of(folder: Path) -> list[str]:
    """Names of all files of a prepared corpus."""
    return [HEADER, *read_header(folder)["files"]]
