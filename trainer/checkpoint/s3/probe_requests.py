"""Requests of a probe, all below one prefix of its own, and their errors as findings.

What is put there is remembered and removed by `clean`, as far as the server lets it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from botocore.exceptions import ClientError

from trainer.checkpoint.probe_steps import Finding, Untried
from trainer.checkpoint.s3.bucket import Bucket
from trainer.checkpoint.s3.client import Connection
from trainer.checkpoint.s3.errors import NotS3, Request, code_of, is_unsupported, status_of, translated
from trainer.checkpoint.store import StoreDamaged, StoreMissing
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError

_TRIES = 2
"""Of one request: a person or a starting pod waits, and asks again if it should."""
_DENIED = {"AccessDenied", "Forbidden", "403"}


class Refused(Finding):
    """The server answered with an error."""

    def __init__(self, error: ClientError, advice: str, **how: Any) -> None:
        super().__init__(advice, **how)
        self.code = code_of(error)
        self.status = status_of(error)
        self.is_unsupported = is_unsupported(error)
        self.is_denied = self.code in _DENIED


class _Reason(Request):
    """Asks for the reason of an error alone: what was tried and where is known."""

    def failed(self, reason: str) -> str:
        """Without verb and key."""
        return reason


class Requests:
    """Requests for the keys below `folder`; names are relative to it. Every method raises Finding, Refused mostly."""

    def __init__(self, url: str, name: str, settings: S3Settings) -> None:
        self._settings = settings
        quick = settings.model_copy(update={"tries": min(settings.tries, _TRIES)})
        self._bucket = Bucket(url.removeprefix("s3://"), quick)
        self.top = self._bucket.root
        """The store's own prefix."""
        self.folder = f"{self.top}{name}/"
        self.url = f"s3://{self._bucket.name}/{self.folder}"
        self.has_checksums = settings.checksums != "when_required"
        self.extra = encryption(settings)
        """Asked for with every object."""
        self._storage = {"StorageClass": settings.storage_class} if settings.storage_class else {}
        self._keys: set[str] = set()
        self._uploads: set[tuple[str, str]] = set()

    @property
    def num_left(self) -> int:
        """How many objects are there still."""
        return len(self._keys)

    def put(self, name: str, body: bytes, action: str | None = "s3:PutObject", **how: str) -> Any:
        """Write an object; the server's answer."""
        known = set(self._keys)
        self._keys.add(name)  # before the request: an answer that gets lost on its way leaves the object there
        try:
            with self.explained(action):
                how = {**self._storage, **self.extra, **how}
                answer = self._ask("put_object", name, Body=body, **how)
                if "ETag" not in answer:
                    raise NotS3
                return answer
        except Refused:
            self._keys = known
            raise

    def get(self, name: str, span: str = "", action: str | None = "s3:GetObject") -> bytes:
        """An object, or the `span` of it (`bytes=0-7`)."""
        part = {"Range": span} if span else {}
        with self.explained(action):
            return bytes(self._ask("get_object", name, **part)["Body"].read())

    def delete(self, name: str) -> Any:
        """Remove an object, which may be missing; the server's answer."""
        with self.explained("s3:DeleteObject"):
            answer = self._ask("delete_object", name)
        self._keys.discard(name)
        return answer

    def delete_many(self, names: list[str]) -> None:
        """Remove objects with one request."""
        keys = [{"Key": self.folder + name} for name in names]
        with self.explained("s3:DeleteObject"):
            answer = self._ask("delete_objects", Delete={"Objects": keys, "Quiet": True})
        if errors := answer.get("Errors"):
            raise Finding(f"the server does not delete them ({errors[0].get('Code')})")
        self._keys -= set(names)

    def page(self, prefix: str, **how: Any) -> Any:
        """One page of keys; the server's answer."""
        with self.explained("s3:ListBucket"):
            found = self._ask("list_objects_v2", Prefix=prefix, **how)
            if not {"Name", "KeyCount"} & found.keys():
                raise NotS3  # else some web page would look like an empty bucket
            return found

    def begin_upload(self, name: str) -> str:
        """Open an upload of parts; its id."""
        how = {**self._storage, **self.extra}
        if self.has_checksums:
            how["ChecksumAlgorithm"] = (
                "CRC32"  # as the transfer manager asks: some servers refuse sums they were not told of
            )
        with self.explained("s3:PutObject"):
            answer = self._ask("create_multipart_upload", name, **how)
        self._uploads.add((name, answer["UploadId"]))
        return str(answer["UploadId"])

    def finish_upload(self, name: str, upload: str, bodies: list[bytes]) -> None:
        """Put the parts and make them one object."""
        parts = []
        self._keys.add(name)
        with self.explained("s3:PutObject"):
            for number, body in enumerate(bodies, start=1):
                answer = self._ask("upload_part", name, UploadId=upload, PartNumber=number, Body=body)
                sums = {key: value for key, value in answer.items() if key.startswith("Checksum")}
                parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
            self._ask("complete_multipart_upload", name, UploadId=upload, MultipartUpload={"Parts": parts})
        self._uploads.discard((name, upload))

    def abort(self, name: str, upload: str) -> None:
        """End an upload without an object."""
        with self.explained("s3:AbortMultipartUpload"):
            self._ask("abort_multipart_upload", name, UploadId=upload)
        self._uploads.discard((name, upload))

    def open_uploads(self) -> set[tuple[str, str]]:
        """Name and id of the uploads that are open here, as the server lists them."""
        with self.explained("s3:ListBucketMultipartUploads"):
            found = self._ask("list_multipart_uploads", Prefix=self.folder)
        return {(one["Key"].removeprefix(self.folder), one["UploadId"]) for one in found.get("Uploads", [])}

    def clean(self) -> None:
        """Remove what is left; a server that refuses or is away keeps it."""
        with suppress(Finding):
            for name, upload in sorted(self._uploads):
                self.abort(name, upload)
        with suppress(Finding):
            for name in sorted(self._keys):
                self.delete(name)

    def reach(self, seen: Callable[..., None]) -> None:
        """Ask once without keys; `seen` hears of the answer, whatever it says. Raises Untried, SettingsError, too."""
        from botocore.handlers import disable_signing

        connection = Connection(self._settings.model_copy(update={"tries": 1}))
        try:
            with self.explained():
                client = connection.client(checksums=False)
        except Finding:
            raise Untried("the SDK wants credentials first") from None
        client.meta.events.register("choose-signer.s3", disable_signing)
        client.meta.events.register("after-call.s3", seen)
        self._bucket.connection.endpoint = connection.endpoint
        with self.explained():
            client.list_objects_v2(Bucket=self._bucket.name, Prefix=self.folder, MaxKeys=1)

    @property
    def endpoint(self) -> str:
        """The server as `scheme://host`; known after the first request."""
        return self._bucket.connection.endpoint

    @contextmanager
    def explained(self, action: str | None = None) -> Iterator[None]:
        """Errors of server, network and SDK become findings; `action` is the IAM right that the request needs."""
        request = _Reason("probe", self.url, "", self._bucket.connection)
        answer: ClientError | None = None
        try:
            with translated(request):
                try:
                    yield
                except ClientError as error:
                    answer = error
                    raise
        except (StoreMissing, StoreDamaged, InfrastructureError) as error:
            later = isinstance(error, InfrastructureError) and not isinstance(error, StoreRefusedError)
            text = "the object is not there" if isinstance(error, StoreMissing) else str(error)
            if answer is None:
                raise Finding(text, retry_helps=later) from None
            raise _refused(answer, text, action, later) from None

    def _ask(self, operation: str, name: str | None = None, /, **params: Any) -> Any:
        """One request of the SDK, about the object of that name or about the bucket."""
        key = {} if name is None else {"Key": self.folder + name}
        return self._bucket.ask(operation, self.has_checksums, **key, **params)


def encryption(settings: S3Settings) -> dict[str, str]:
    """What asks for server-side encryption."""
    if settings.encryption == "none":
        return {}
    key = {"SSEKMSKeyId": settings.kms_key} if settings.kms_key and settings.encryption == "aws:kms" else {}
    return {"ServerSideEncryption": settings.encryption, **key}


def _refused(error: ClientError, text: str, action: str | None, retry_helps: bool) -> Refused:
    code = code_of(error)
    if code in _DENIED:
        lack = f"the right {action}" if action else "a right"
        refused = Refused(error, f"access denied ({code}): the keys in use lack {lack}; give it to them", action=action)
        # A right is no feature: the store does not go around it, but it can do without a list of uploads.
        refused.is_fatal = action != "s3:ListBucketMultipartUploads"
        return refused
    if is_unsupported(error):
        mend = "use another server, or leave out what s3.* asks of it"
        return Refused(error, f"the server does not know this ({code or status_of(error)})", mend=mend)
    return Refused(error, text, retry_helps=retry_helps)
