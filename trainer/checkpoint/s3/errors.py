"""What an S3 server, the SDK and the network can say, turned into our errors: one line with the next step.

    translated(...) ─► the answer has a code?   the server said no: keys, rights, bucket, clock, a full store ...
                       no answer?               credentials, the network, TLS where there is none   (network)

Two kinds: `StoreRefusedError` where a retry will not help, else `InfrastructureError`. No text repeats what the SDK
attached to an error beside code and status: that can hold key ids, signatures and the text that was signed. For the
same reason errors are raised without their cause.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime

import botocore.compat
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError
from s3transfer import exceptions as transfer
from urllib3.exceptions import HTTPError

from trainer.checkpoint.s3.client import Connection
from trainer.checkpoint.s3.network import KEYS, without_answer
from trainer.checkpoint.store import StoreDamaged, StoreMissing
from trainer.errors import InfrastructureError, StoreRefusedError


class NotS3(Exception):
    """The answer lacks what every S3 server sends; the text says what."""


STALE = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"})
"""Codes that mean: read the credentials anew."""
ROTATED = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound"})
"""Codes of wrong keys; also what a file of keys gives that was rewritten after it was read."""

_REGION = "set s3.region (and s3.endpoint) to those of the bucket"
_CREATE = "create the bucket or correct run.store"
_ENDPOINT = "check s3.endpoint (or AWS_ENDPOINT_URL_S3)"
_REFUSED = {
    "SignatureDoesNotMatch": f"the server does not accept the keys; {KEYS}",
    "InvalidAccessKeyId": f"the server does not know the access key; {KEYS}",
    "XAdminUserNotFound": f"the server does not know the access key; {KEYS}",
    "InvalidSecurity": f"the server does not accept the keys; {KEYS}",
    "NoSuchBucket": f"there is no such bucket; {_CREATE}",
    "InvalidBucketName": "the server does not take this name of a bucket; correct run.store",
    "AllAccessDisabled": "the server has closed this bucket; ask who runs it",
    "AccountProblem": "the account of these keys is closed or unpaid; ask who runs it",
    "PermanentRedirect": f"the bucket is in another region or at another server; {_REGION}",
    "AuthorizationHeaderMalformed": f"the request was signed for another region; {_REGION}",
    "IllegalLocationConstraintException": f"the bucket is in another region; {_REGION}",
    "InvalidStorageClass": "the server has no such storage class; correct or leave out s3.storage_class",
    "InvalidObjectState": "the object is archived; restore it in the store, or choose another s3.storage_class",
    "KeyTooLongError": "the name is too long; shorten the prefix of run.store or run.name",
    "EntityTooLarge": "it is larger than the server (or a quota there) allows; raise s3.part_mib or free space",
    "EntityTooSmall": "the server wants larger parts; raise s3.part_mib",
    "InvalidPart": "the server lost a part of it; try again",
    "MethodNotAllowed": f"the server does not allow this; {_ENDPOINT}",
    "UnsupportedOperation": f"the server does not offer this; {_ENDPOINT}",
    "NotImplemented": "the server lacks a feature; try s3.checksums when_required and s3.encryption none",
}
_STALE_TEXT = "the credentials have expired; renew them, they are read anew at the next try"
_DAMAGED = "the bytes were damaged on the way; try again"
_FULL = "the store is full; free space there or raise the quota"
_BUSY = "the server is overloaded or failing; try again"
_GONE = "the unfinished upload is gone (swept or timed out); try again"
_TRANSIENT = {
    **dict.fromkeys(STALE, _STALE_TEXT),
    **dict.fromkeys(("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"), _DAMAGED),
    **dict.fromkeys(("QuotaExceeded", "InsufficientStorage", "ServiceQuotaExceeded", "XMinioStorageFull"), _FULL),
    "RequestTimeout": "the server waited too long for the data; try again",
    "NoSuchUpload": _GONE,
    "OperationAborted": _BUSY,
    "SlowDown": _BUSY,
}
_ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
"""Rights by operation, as an IAM policy names them (Amazon S3 service authorization reference)."""
_SECRET = re.compile(
    r"//[^/@\s]+@|\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|(?:credential|signature|token|secret|key\s?id)\S*\s*[=:]\s*\S+", re.I
)
_FOREIGN = (
    sdk.ClientError,
    sdk.BotoCoreError,
    transfer.S3DownloadFailedError,
    transfer.S3ValidationError,
    ResponseParserError,
    HTTPError,
    OSError,
    NotS3,
)


@dataclass(frozen=True)
class Request:
    """What was asked of the store, for the texts: a verb, and the key below `store_url` (or a prefix, or nothing)."""

    verb: str
    store_url: str
    key: str
    connection: Connection

    @property
    def endpoint(self) -> str:
        """`scheme://host` of the server."""
        return self.connection.endpoint or "the endpoint"

    def failed(self, reason: str) -> str:
        """The one line of an error: what, where, why and what to do."""
        return f"cannot {self.verb} {self.store_url}{'/' if self.key else ''}{self.key}: {reason}"


@contextmanager
def translated(request: Request) -> Iterator[None]:
    """Raises what `translate` makes of an error of SDK, network or local file; all others pass."""
    try:
        yield
    except _FOREIGN as error:
        raise translate(error, request) from None
    except Exception as error:
        if (last := _wrapped(error)) is None:
            raise
        raise translate(last, request) from None


def translate(error: Exception, request: Request) -> Exception:
    """The error of ours for one of theirs: StoreMissing, StoreDamaged, StoreRefusedError or InfrastructureError."""
    if isinstance(error, sdk.ClientError):
        return _from_answer(error, request)
    if isinstance(error, sdk.FlexibleChecksumError):
        return StoreDamaged(request.failed("its bytes are not those that were written (checksum of the store)"))
    if isinstance(error, ResponseParserError | NotS3):
        reason = f"what answers at {request.endpoint} is no S3 server; {_ENDPOINT}"
        return StoreRefusedError(request.failed(reason))
    if isinstance(error, transfer.S3DownloadFailedError | transfer.S3ValidationError):
        return InfrastructureError(request.failed("it was replaced while it was read; try again"))
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.filename}: {error.strerror}; check that disk or volume"
        return InfrastructureError(request.failed(reason))
    kind, reason = without_answer(error, request.endpoint, request.connection.has_answered)
    return kind(request.failed(reason))


def code_of(error: Exception) -> str:
    """The server's own code of an error (`NoSuchKey`), the status as text where it sent none, else empty."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def status_of(error: Exception) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    response = getattr(error, "response", None)
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(response, dict) else 0


def is_unsupported(error: sdk.ClientError) -> bool:
    """Whether an answer may mean that the server does not know something that was asked for with the request."""
    code = code_of(error)
    named = code in _TRANSIENT or (code in _REFUSED and code not in ("NotImplemented", "UnsupportedOperation"))
    return not named and (status_of(error) in (400, 405, 411, 501) or code in ("NotImplemented", "MissingContentMD5"))


def _wrapped(error: Exception) -> Exception | None:
    """The error inside of one that only says that all tries were used (boto3's and s3transfer's are two classes)."""
    last = getattr(error, "last_exception", None)
    return last if isinstance(last, Exception) else None


def _from_answer(error: sdk.ClientError, request: Request) -> Exception:
    code, status, operation = code_of(error), status_of(error), str(error.operation_name)
    said = f"({code or status})"
    if operation.startswith("AssumeRole"):
        advice = "check AWS_ROLE_ARN, its trust policy and the service account"
        return _by_status(status, request.failed(f"the role cannot be assumed {said}; {advice}"))
    if code == "NoSuchKey" or (code in ("404", "NotFound") and operation == "HeadObject"):
        return StoreMissing(request.key)
    if code == "RequestTimeTooSkewed":
        return StoreRefusedError(request.failed(f"{_skew(error)} {said}; set the clock of this machine (NTP)"))
    if code in _REFUSED:
        return StoreRefusedError(request.failed(_with_code(_REFUSED[code], said)))
    if code in _TRANSIENT:
        return InfrastructureError(request.failed(_with_code(_TRANSIENT[code], said)))
    if code in ("AccessDenied", "403", "Forbidden") or status == 403:
        return StoreRefusedError(request.failed(_denied(operation, said, request)))
    if status == 507:
        return InfrastructureError(request.failed(_with_code(_FULL, said)))
    if status == 429 or (status >= 500 and status != 501):
        return InfrastructureError(request.failed(_with_code(_BUSY, said)))
    if code in ("", str(status)) and operation != "HeadObject":  # an S3 server says why, except to HEAD
        tls = " (https:// in place of http://, perhaps)" if request.endpoint.startswith("http:") else ""
        return StoreRefusedError(
            request.failed(f"what answers at {request.endpoint} is no S3 server {said}; {_ENDPOINT}{tls}")
        )
    return StoreRefusedError(request.failed(f"the server refuses it {said}: {_message(error)}"))


def _by_status(status: int, text: str) -> Exception:
    return InfrastructureError(text) if status >= 500 or status == 429 else StoreRefusedError(text)


def _with_code(text: str, said: str) -> str:
    reason, _, advice = text.partition("; ")
    return f"{reason} {said}; {advice}"


def _denied(operation: str, said: str, request: Request) -> str:
    right = _ACTIONS.get(operation)
    lack = f"the keys in use lack the right {right}" if right else "the keys in use lack a right"
    hidden = ""
    if right == "s3:GetObject":
        hidden = ", or the object is missing and they lack s3:ListBucket"
    return f"access denied {said}: {lack}{hidden}; run `trainer preflight --store {request.store_url}`"


def _skew(error: sdk.ClientError) -> str:
    """How far the clock that signed the request is from the server's, by the Date header of the answer."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        server = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return "the clocks of this machine and of the server are too far apart"
    ahead: timedelta = botocore.compat.get_current_datetime(remove_tzinfo=False) - server
    minutes = round(ahead.total_seconds() / 60)
    return f"the clock of this machine is {abs(minutes)} min {'ahead of' if minutes > 0 else 'behind'} the server's"


def _message(error: sdk.ClientError) -> str:
    """The server's own words, shortened, on one line and without anything that looks like a credential."""
    words = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    return _SECRET.sub("***", words)[:200] or "it does not say why"
