"""A bucket and prefix of an S3 server: names, and requests with their errors turned into ours."""

import re
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from trainer.checkpoint.s3.client import Connection
from trainer.checkpoint.s3.errors import ROTATED, STALE, Request, code_of, translated
from trainer.checkpoint.s3.features import CHECKSUMS, Features
from trainer.config.s3 import S3Settings
from trainer.errors import SettingsError

Result = TypeVar("Result")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class Bucket:
    """What the parts of an S3 store share: where it is, how it is asked, what the server turned out to lack.

    `place` is `bucket` or `bucket/prefix`; raises SettingsError for one that cannot be.
    """

    def __init__(self, place: str, settings: S3Settings) -> None:
        self.name, prefix = _split(place)
        self.root = f"{prefix}/" if prefix else ""
        self.url = f"s3://{self.name}/{prefix}".rstrip("/")
        self.settings = settings
        self.notices: deque[str] = deque()
        self.connection = Connection(settings)
        self.features = Features(self.url, self.notices)

    def full(self, key: str) -> str:
        """The server's name of a key."""
        assert not any(part in ("", ".", "..") for part in key.split("/")), key
        return self.root + key

    def key(self, full: str) -> str:
        """Back from the server's name."""
        return full[len(self.root) :]

    def ask(self, operation: str, checksums: bool | None = None, /, **params: Any) -> Any:
        """One request by its name in the SDK; `checksums` where it matters more than what is known of the server."""
        return self.renewed(lambda client: getattr(client, operation)(Bucket=self.name, **params), checksums)

    def renewed(self, work: Callable[[Any], Result], checksums: bool | None = None) -> Result:
        """Do it with a client, and once more with credentials read anew where the server does not take the old ones."""
        checksums = self.features.has(CHECKSUMS) if checksums is None else checksums
        client = self.connection.client(checksums)
        try:
            return work(client)
        except ClientError as error:
            if not self.forget_stale(client, error):
                raise
        return work(self.connection.client(checksums))

    def forget_stale(self, client: Any, error: ClientError) -> bool:
        """Drop a client whose credentials the server does not take (any more); the next one reads them anew."""
        is_stale = code_of(error) in STALE | ROTATED
        if is_stale:
            self.connection.forget(client)
        return is_stale

    def asking(self, verb: str, key: str) -> AbstractContextManager[None]:
        """Turns errors of what is asked inside into ours, which name verb and key."""
        return translated(self.request(verb, key))

    def request(self, verb: str, key: str) -> Request:
        """For the text of an error."""
        return Request(verb, self.url, key, self.connection)


def _split(place: str) -> tuple[str, str]:
    """Bucket and prefix; a slash at the end is ignored."""
    bucket, _, prefix = place.partition("/")
    prefix = prefix.rstrip("/")
    if not bucket:
        raise SettingsError("run.store names no bucket; write s3://bucket/prefix")
    if "@" in bucket or ":" in bucket:  # not repeated: it may be a password
        raise SettingsError("run.store has more than a bucket's name after s3://; keys belong into the environment")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        rule = "3 to 63 letters, digits, dots and dashes, a letter or digit at both ends"
        raise SettingsError(f"run.store names the bucket {bucket!r}; a bucket's name has {rule}")
    if prefix and (not prefix.isprintable() or any(part in ("", ".", "..") for part in prefix.split("/"))):
        rule = "names with single slashes between them, none of them '.' or '..'"
        raise SettingsError(f"run.store has the prefix {prefix!r}; a prefix is made of {rule}")
    return bucket, prefix
