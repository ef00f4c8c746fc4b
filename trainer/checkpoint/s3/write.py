"""Puts into an S3 store: small objects in one request, large ones in parts, conditional ones where the server can.

    chunks ─► Source.peek() ─► less than one part: PutObject            (only_new: IfNoneMatch)
                           └► more: create ─ parts in parallel ─ complete      (upload)

Nothing is seen by readers before the last request is answered.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from trainer.checkpoint.s3.bucket import Bucket
from trainer.checkpoint.s3.errors import NotS3, code_of, is_unsupported
from trainer.checkpoint.s3.features import CHECKSUMS, CONDITIONAL, ENCRYPTION
from trainer.checkpoint.s3.upload import MAX_PARTS, Source, SourceFailed, TooManyParts, upload
from trainer.checkpoint.store import Chunk, StoreConflict
from trainer.errors import StoreRefusedError

_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}


class Writer:
    """The writing side of a store in one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._settings = bucket.settings
        self._part_bytes = bucket.settings.part_mib << 20
        self._unsure: set[str] = set()
        """Keys whose conditional write ended without an answer: it may have happened."""

    def put(self, key: str, chunks: Iterable[Chunk], only_new: bool) -> None:
        """See `Store.put`; an error of the iterator is raised as it is."""
        source = Source(chunks, self._part_bytes)
        own: BaseException | None = None
        try:
            with self._bucket.asking("write", key):
                if source.peek() < self._part_bytes:
                    self._put_small(key, source.read(), only_new)
                else:
                    self._put_large(key, source, only_new)
        except SourceFailed as failed:
            own = failed.error
        if own is not None:
            raise own

    def _put_small(self, key: str, body: bytes, only_new: bool) -> None:
        """One PutObject.

        When the answer to a conditional one is lost, the next try meets our own object: that is no conflict.
        """
        is_retry = key in self._unsure
        if only_new:
            self._unsure.add(key)
        send = partial(self._put_object, key, body, only_new)
        try:
            self._send(key, self._wanted(only_new), send)
        except ClientError as error:
            if code_of(error) not in _TAKEN:
                raise
            is_retry |= error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
            if not (is_retry and self._holds(key, body)):
                self._unsure.discard(key)
                raise StoreConflict(key) from None
        self._unsure.discard(key)

    def _put_object(self, key: str, body: bytes, only_new: bool, used: frozenset[str]) -> None:
        if only_new and CONDITIONAL not in used:
            self._refuse_existing(key)
        condition = {"IfNoneMatch": "*"} if CONDITIONAL in used else {}
        name, extra = self._bucket.full(key), self._extra(used)
        answer = self._bucket.ask("put_object", CHECKSUMS in used, Key=name, Body=body, **extra, **condition)
        if "ETag" not in answer:
            raise NotS3
        self._check_encrypted(answer, key)

    def _put_large(self, key: str, source: Source, only_new: bool) -> None:
        """Several parts, whose chunks come once: what the server lacks must be known before."""
        if only_new:  # the transfer manager knows no conditions
            self._refuse_existing(key)
        features, wanted = self._bucket.features, self._wanted(only_new=False)
        if not features.are_known(wanted):
            self._send(key, wanted, partial(self._try_upload, key))
        used = frozenset(name for name in wanted if features.has(name))
        client = self._bucket.connection.client(CHECKSUMS in used)
        try:
            upload(client, self._settings, self._bucket.name, self._bucket.full(key), source, self._extra(used))
        except TooManyParts:
            mib = self._settings.part_mib
            reason = f"it has more than {MAX_PARTS:,} parts of {mib} MiB; raise s3.part_mib"
            raise StoreRefusedError(self._bucket.request("write", key).failed(reason)) from None
        except KeyError:  # the manager takes for granted what a server of S3 answers
            raise NotS3 from None
        except ClientError as error:
            self._bucket.forget_stale(client, error)
            raise

    def _send(self, key: str, wanted: frozenset[str], send: Callable[[frozenset[str]], None]) -> None:
        """Send with what the server has of `wanted`; without encryption only where it is not required."""
        required = self._required()
        try:
            self._bucket.features.send(wanted, required, send)
        except ClientError as error:
            if ENCRYPTION in required and is_unsupported(error):
                raise self._unencrypted(key, f" ({code_of(error)})") from None
            raise

    def _try_upload(self, key: str, used: frozenset[str]) -> None:
        """Begin an upload, send one byte, abort it: nobody sees that."""
        ask, name, checksums = self._bucket.ask, self._bucket.full(key), CHECKSUMS in used
        config = self._bucket.connection.client(checksums).meta.config
        # As the transfer manager will ask for them.
        crc = {"ChecksumAlgorithm": "CRC32"} if config.request_checksum_calculation == "when_supported" else {}
        begun = ask("create_multipart_upload", checksums, Key=name, **self._extra(used), **crc)
        if "UploadId" not in begun:
            raise NotS3
        try:
            self._check_encrypted(begun, key)
            ask("upload_part", checksums, Key=name, UploadId=begun["UploadId"], PartNumber=1, Body=b"\0", **crc)
        finally:
            ask("abort_multipart_upload", Key=name, UploadId=begun["UploadId"])

    def _holds(self, key: str, body: bytes) -> bool:
        answer = self._bucket.ask("get_object", Key=self._bucket.full(key))
        return bool(answer["Body"].read() == body)

    def _refuse_existing(self, key: str) -> None:
        try:
            self._bucket.ask("head_object", Key=self._bucket.full(key))
        except ClientError as error:
            if code_of(error) not in ("404", "NotFound", "NoSuchKey"):
                raise
        else:
            raise StoreConflict(key)

    def _check_encrypted(self, answer: dict[str, Any], key: str) -> None:
        if ENCRYPTION in self._required() and "ServerSideEncryption" not in answer:
            raise self._unencrypted(key)

    def _unencrypted(self, key: str, said: str = "") -> StoreRefusedError:
        reason = f"the server does not encrypt as s3.encryption {self._settings.encryption} asks{said}"
        advice = "take a server that does, or clear s3.encryption_required"
        return StoreRefusedError(self._bucket.request("write", key).failed(f"{reason}; {advice}"))

    def _wanted(self, only_new: bool) -> frozenset[str]:
        wanted = {
            CONDITIONAL: only_new,
            CHECKSUMS: self._settings.checksums != "when_required",
            ENCRYPTION: self._settings.encryption != "none",
        }
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    def _required(self) -> frozenset[str]:
        required = {
            CHECKSUMS: self._settings.checksums == "when_supported",
            ENCRYPTION: self._settings.encryption != "none" and self._settings.encryption_required,
        }
        return frozenset(name for name, is_required in required.items() if is_required)

    def _extra(self, used: frozenset[str]) -> dict[str, str]:
        extra = {"StorageClass": self._settings.storage_class}
        if ENCRYPTION in used:
            extra |= {"ServerSideEncryption": self._settings.encryption, "SSEKMSKeyId": self._settings.kms_key}
        return {name: value for name, value in extra.items() if value is not None}
