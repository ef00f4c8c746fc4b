"""JSON that guards itself: it holds the digest of its own body and counts only in exactly the bytes it was written in.

So no change of any byte goes unseen. Manifests of checkpoints and indexes of data sets are stored this way.
"""

import hashlib
import json
from typing import Any


class SealError(Exception):
    """The bytes are not what was sealed; the text says why, `what` they should be first."""


def sealed(body: dict[str, Any]) -> bytes:
    """The one form in which `body` is stored; it must hold a number `format` and no `digest`."""
    return _canonical({**body, "digest": digest(body)})


def unsealed(data: bytes, what: str, newest_format: int) -> dict[str, Any]:
    """The body without its digest. Raises SealError for damage and for a format above `newest_format`."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise SealError(f"{what} is not readable ({len(data)} bytes)") from error
    if not isinstance(body, dict) or not isinstance(body.get("format"), int):
        raise SealError(f"{what} has no format number")
    if body["format"] > newest_format:
        raise SealError(f"{what} has format {body['format']}, this version reads {newest_format}")
    recorded = body.pop("digest", None)
    if recorded != digest(body) or data != _canonical({**body, "digest": recorded}):
        raise SealError(f"{what} does not match its own digest")
    return body


def digest(body: dict[str, Any]) -> str:
    """SHA-256 of the body's one form, 64 hex characters."""
    return hashlib.sha256(_canonical(body)).hexdigest()


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
