"""Who may scrape: a file of users with the hashes of their passwords, for HTTP basic authentication.

    monitoring:scrypt$16384$8$1$kGb0...$9Qyz...      one user a line, as `trainer metrics password` writes it

A hash takes about 40 ms to compute, which is what makes it safe to keep; a header that was right once is known again
by its digest, so that a scraper pays it once, and wrong ones are looked at one after the other.
"""

import base64
import binascii
import hashlib
import hmac
import os
import threading
from pathlib import Path
from typing import NamedTuple

SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_PARALLEL = 1 << 14, 8, 1
"""16 MiB and about 40 ms (OWASP's password storage cheat sheet names this cost for less memory with more lanes)."""
MAX_MEMORY_BYTES = 128 << 20


class _Hash(NamedTuple):
    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    def is_of(self, password: str) -> bool:
        return hmac.compare_digest(_scrypt(password, self.salt, self.cost, self.block, self.parallel), self.digest)


def hash_line(user: str, password: str) -> str:
    """The line of the file for a user. Raises ValueError for a name that cannot stand there."""
    if not user or ":" in user or not user.isprintable():
        raise ValueError(f"a user name is printable and without a colon, not {user!r}")
    salt = os.urandom(16)
    digest = _scrypt(password, salt, SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_PARALLEL)
    return f"{user}:scrypt${SCRYPT_COST}${SCRYPT_BLOCK}${SCRYPT_PARALLEL}${_text(salt)}${_text(digest)}"


class Users:
    """The users of a file. Raises OSError or ValueError, which names the line, if it cannot be read."""

    def __init__(self, path: str) -> None:
        self._hashes: dict[str, _Hash] = {}
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip() and not line.startswith("#"):
                user, hashed = _parse(line.strip(), f"{path}:{number}")
                self._hashes[user] = hashed
        if not self._hashes:
            raise ValueError(f"{path} names no user")
        self._one_at_a_time = threading.Lock()
        self._known: set[bytes] = set()
        """Digests of headers that were right; no more than there are users."""

    def may(self, header: str | None) -> bool:
        """Whether this `Authorization` header is one of a user with the right password."""
        if not header:
            return False
        digest = hashlib.sha256(header.encode("utf-8", "replace")).digest()
        with self._one_at_a_time:
            if digest not in self._known and self._is_right(header):
                self._known.add(digest)
            return digest in self._known

    def _is_right(self, header: str) -> bool:
        kind, _, value = header.partition(" ")
        try:
            user, _, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeError):
            return False
        return kind.lower() == "basic" and user in self._hashes and self._hashes[user].is_of(password)


def _parse(line: str, place: str) -> tuple[str, _Hash]:
    user, _, text = line.partition(":")
    try:
        kind, cost, block, parallel, salt, digest = text.split("$")
        if kind != "scrypt" or not user:
            raise ValueError("another kind of hash")
        hashed = _Hash(int(cost), int(block), int(parallel), base64.b64decode(salt), base64.b64decode(digest))
        hashed.is_of("")  # costs that cannot be met are found here, not at a scrape
    except ValueError as error:
        raise ValueError(f"{place} is no `user:scrypt$...` line; `trainer metrics password` writes one") from error
    return user, hashed


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=MAX_MEMORY_BYTES, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
