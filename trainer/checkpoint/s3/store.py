"""Runs in a bucket of an S3-compatible server: the `s3://` store.

    put      ─► PutObject, or create ─ parts in parallel ─ complete        (write)
    get      ─► GetObject                    fetch  ─► HeadObject, GetObject by parts in parallel
    entries, folders ─► ListObjectsV2        delete ─► DeleteObjects, up to 1,000 at once
    sweep    ─► ListMultipartUploads, AbortMultipartUpload

What a server lacks is found out once, said once in `notices` and done without (`features`). Requests that fail on
the way are sent again by the SDK (`s3.tries`); what fails all the same is one error of ours (`errors`).
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from botocore import exceptions as sdk

from trainer.checkpoint.s3.bucket import Bucket
from trainer.checkpoint.s3.errors import NotS3, code_of, is_unsupported
from trainer.checkpoint.s3.features import MANY_DELETES, UPLOAD_LIST
from trainer.checkpoint.s3.upload import transfer_config
from trainer.checkpoint.s3.write import Writer
from trainer.checkpoint.store import Chunk, Entry
from trainer.config.s3 import S3Settings

_MAX_DELETES = 1000
"""Keys of one DeleteObjects (its reference page)."""
_BROKEN_BODY = (sdk.IncompleteReadError, sdk.ResponseStreamingError, sdk.ReadTimeoutError, sdk.FlexibleChecksumError)


class S3Store:
    """A store in `place`, which is `bucket` or `bucket/prefix`; nothing is asked of the server before it is used.

    Raises SettingsError for a place that cannot be. Threads may share it, and a forked child may go on with it.
    """

    has_locks = False

    def __init__(self, place: str, settings: S3Settings) -> None:
        self._bucket = Bucket(place, settings)
        self._writer = Writer(self._bucket)
        self.url = self._bucket.url
        self.notices: deque[str] = self._bucket.notices

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def requests(self) -> Counter[str]:
        """Requests sent so far by operation (`PutObject`, ...), retries included."""
        return self._bucket.connection.requests

    @property
    def failed_requests(self) -> Counter[str]:
        """Those of `requests` that the server refused or nobody answered."""
        return self._bucket.connection.failed

    def put(self, key: str, chunks: Iterable[Chunk], *, only_new: bool = False) -> None:
        """Write an object from its chunks in order, durable on return; atomic for readers.

        The chunks of a large object are asked for in another thread. Raises StoreConflict when `only_new` and the key
        exists; for an object of several parts, or on a server without conditional writes, that is a look beforehand and
        no guard against a second writer.
        """
        self._writer.put(key, chunks, only_new)

    def get(self, key: str) -> bytes:
        """The whole object (for small ones). Raises StoreMissing, StoreDamaged."""
        num_left = self._bucket.settings.tries
        with self._bucket.asking("read", key):
            while True:
                answer = self._bucket.ask("get_object", Key=self._bucket.full(key))
                if "ETag" not in answer:
                    raise NotS3
                try:
                    return bytes(answer["Body"].read())
                except _BROKEN_BODY:  # the SDK tries again only until the answer has begun
                    num_left -= 1
                    if num_left == 0:
                        raise

    def fetch(self, key: str, path: Path) -> Path:
        """The object as a local file: written to `path` whole or not at all, large ones by parts in parallel.

        Raises StoreMissing, StoreDamaged.
        """
        bucket, config = self._bucket, transfer_config(self._bucket.settings)

        def load(client: Any) -> None:
            client.download_file(bucket.name, bucket.full(key), str(path), Config=config)

        with bucket.asking("read", key):
            try:
                bucket.renewed(load)
            except sdk.ClientError as error:
                if error.operation_name != "HeadObject":
                    raise
                bucket.ask("get_object", Key=bucket.full(key))["Body"].close()  # the answer to HEAD never says why
                bucket.renewed(load)
        return path

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key starts with `prefix`, sorted by key; each 1,000 are asked for when due."""
        for page in self._pages(prefix, {}):
            for one in page.get("Contents", []):
                if not one["Key"].endswith("/"):  # what consoles write to show a folder
                    yield Entry(self._bucket.key(one["Key"]), one["Size"], one["LastModified"].timestamp())

    def folders(self, prefix: str, after: str = "") -> list[str]:
        """Names directly below `prefix` that hold objects and are greater than `after`, sorted; 1,000 a request."""
        top = self._bucket.root + prefix
        start = {"StartAfter": top + after} if after else {}
        names = [
            one["Prefix"][len(top) : -1]
            for page in self._pages(prefix, {"Delimiter": "/", **start})
            for one in page.get("CommonPrefixes", [])
        ]
        return sorted(name for name in names if name > after)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, up to 1,000 at once, and these batches in the order given; a missing key is no error."""
        rest = iter(keys)
        while batch := list(islice(rest, _MAX_DELETES)):
            with self._bucket.asking("delete", batch[0]):
                if len(batch) == 1 or not self._bucket.features.has(MANY_DELETES):
                    self._delete_singly(batch)
                else:
                    self._delete_together(batch)

    def claim(self, key: str) -> bool:
        """True: an object store has no locks."""
        del key
        return True

    def release(self, key: str) -> None:
        """Nothing to let go of."""
        del key

    def sweep(self, prefix: str, is_dead: Callable[[Entry], bool]) -> None:
        """Abort unfinished uploads below `prefix` for which `is_dead` holds (their key, 0 bytes, when they began)."""
        bucket = self._bucket
        if not bucket.features.has(UPLOAD_LIST):
            return
        with bucket.asking("sweep", prefix):
            try:
                uploads = list(self._uploads(prefix))
            except sdk.ClientError as error:
                if code_of(error) != "AccessDenied" and not is_unsupported(error):
                    raise
                bucket.features.lack(UPLOAD_LIST, error)
                return
        for one in uploads:
            key = bucket.key(one["Key"])
            if is_dead(Entry(key, 0, one["Initiated"].timestamp())):
                with bucket.asking("sweep", key):
                    self._forgive("NoSuchUpload", "abort_multipart_upload", Key=one["Key"], UploadId=one["UploadId"])

    def _pages(self, prefix: str, how: dict[str, str]) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            with self._bucket.asking("list", prefix):
                page = self._bucket.ask("list_objects_v2", Prefix=self._bucket.root + prefix, **how, **more)
                token = page.get("NextContinuationToken")
                if not {"Name", "KeyCount"} & page.keys() or (page.get("IsTruncated") and not token):
                    raise NotS3  # else some web page would look like an empty store
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": token}

    def _uploads(self, prefix: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            page = self._bucket.ask("list_multipart_uploads", Prefix=self._bucket.root + prefix, **more)
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _delete_together(self, batch: list[str]) -> None:
        objects = [{"Key": self._bucket.full(key)} for key in batch]
        try:
            answer = self._bucket.ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
        except sdk.ClientError as error:
            if not is_unsupported(error):
                raise
            self._delete_singly(batch)
            self._bucket.features.lack(MANY_DELETES, error)
            return
        refused = [one for one in answer.get("Errors", []) if one.get("Code") != "NoSuchKey"]
        if refused:
            with self._bucket.asking("delete", self._bucket.key(refused[0].get("Key", objects[0]["Key"]))):
                raise sdk.ClientError({"Error": refused[0], "ResponseMetadata": {}}, "DeleteObjects")

    def _delete_singly(self, batch: list[str]) -> None:
        for key in batch:
            with self._bucket.asking("delete", key):
                self._forgive("NoSuchKey", "delete_object", Key=self._bucket.full(key))

    def _forgive(self, code: str, operation: str, **params: str) -> None:
        """Ask for the removal of something; that it is gone already is no error."""
        try:
            self._bucket.ask(operation, **params)
        except sdk.ClientError as error:
            if code_of(error) != code:
                raise
