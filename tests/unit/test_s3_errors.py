"""Errors of SDK and network in words: kind, one line, the next step; and what a server lacks."""

import re
import socket
import ssl
import traceback
from collections import deque

import pytest
from boto3.exceptions import RetriesExceededError as BotoRetriesExceededError
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError
from s3transfer import exceptions as transfer
from urllib3.exceptions import NewConnectionError, ProtocolError

from trainer.checkpoint.s3.client import Connection, origin
from trainer.checkpoint.s3.errors import NotS3, Request, code_of, is_unsupported, status_of, translate, translated
from trainer.checkpoint.s3.features import CHECKSUMS, CONDITIONAL, ENCRYPTION, Features
from trainer.checkpoint.s3.network import speaks_tls
from trainer.checkpoint.s3.upload import Source, SourceFailed
from trainer.checkpoint.store import StoreDamaged, StoreMissing
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError

ENDPOINT = "http://127.0.0.1:9"
SECRET = "AKIAHIDDENHIDDEN0001"


def answer(code: str, status: int = 400, operation: str = "PutObject", message: str = "", **headers: str):
    """What the SDK raises for an answer; like servers do, it repeats what was signed."""
    error = {"Code": code, "Message": message, "AWSAccessKeyId": SECRET, "StringToSign": SECRET}
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return sdk.ClientError({"Error": error, "ResponseMetadata": metadata}, operation)


def request(verb: str = "write", key: str = "run/k") -> Request:
    connection = Connection(S3Settings())
    connection.endpoint = ENDPOINT
    connection.has_answered = True
    return Request(verb, "s3://bucket/p", key, connection)


def said(error: Exception) -> tuple[type[Exception], str]:
    ours = translate(error, request())
    text = str(ours)
    assert "\n" not in text
    assert SECRET not in text
    if isinstance(ours, InfrastructureError):
        assert text.startswith("cannot write s3://bucket/p/run/k: ")
        assert "; " in text or ": " in text.removeprefix("cannot write s3://bucket/p/run/k: ")
    return type(ours), text


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("SlowDown", 503, InfrastructureError, "overloaded or failing (SlowDown); try again"),
        ("ServiceUnavailable", 503, InfrastructureError, "overloaded or failing (ServiceUnavailable)"),
        ("InternalError", 500, InfrastructureError, "overloaded or failing (InternalError)"),
        ("502", 502, InfrastructureError, "overloaded or failing (502)"),
        ("TooManyRequests", 429, InfrastructureError, "overloaded or failing"),
        ("BadDigest", 400, InfrastructureError, "damaged on the way (BadDigest)"),
        ("XAmzContentSHA256Mismatch", 400, InfrastructureError, "damaged on the way"),
        ("IncompleteBody", 400, InfrastructureError, "damaged on the way"),
        ("RequestTimeout", 400, InfrastructureError, "waited too long for the data"),
        ("ExpiredToken", 400, InfrastructureError, "the credentials have expired (ExpiredToken); renew them"),
        ("TokenRefreshRequired", 400, InfrastructureError, "the credentials have expired"),
        ("InvalidToken", 400, InfrastructureError, "the credentials have expired"),
        ("NoSuchUpload", 404, InfrastructureError, "the unfinished upload is gone"),
        ("QuotaExceeded", 403, InfrastructureError, "the store is full (QuotaExceeded); free space"),
        ("XMinioStorageFull", 507, InfrastructureError, "the store is full"),
        ("507", 507, InfrastructureError, "the store is full (507)"),
        ("AccessDenied", 403, StoreRefusedError, "lack the right s3:PutObject; run `trainer preflight --store s3://"),
        ("403", 403, StoreRefusedError, "access denied (403)"),
        ("SignatureDoesNotMatch", 403, StoreRefusedError, "does not accept the keys (SignatureDoesNotMatch); check"),
        ("InvalidAccessKeyId", 403, StoreRefusedError, "does not know the access key"),
        ("NoSuchBucket", 404, StoreRefusedError, "create the bucket"),
        ("PermanentRedirect", 301, StoreRefusedError, "set s3.region"),
        ("AuthorizationHeaderMalformed", 400, StoreRefusedError, "set s3.region"),
        ("InvalidBucketName", 400, StoreRefusedError, "correct run.store"),
        ("InvalidStorageClass", 400, StoreRefusedError, "s3.storage_class"),
        ("EntityTooSmall", 400, StoreRefusedError, "raise s3.part_mib"),
        ("NotImplemented", 501, StoreRefusedError, "s3.checksums when_required"),
        ("MethodNotAllowed", 405, StoreRefusedError, "check s3.endpoint"),
        ("404", 404, StoreRefusedError, f"what answers at {ENDPOINT} is no S3 server (404); check s3.endpoint"),
        ("405", 405, StoreRefusedError, "is no S3 server (405)"),
        ("", 418, StoreRefusedError, "is no S3 server (418)"),
        ("Strange", 400, StoreRefusedError, "refuses it (Strange)"),
    ],
)
def test_an_answer_is_temporary_or_refused_and_says_what_to_do(code, status, kind, words):
    found, text = said(answer(code, status))
    assert found is kind
    assert words in text


def test_only_a_missing_key_is_missing():
    for error in (answer("NoSuchKey", 404, "GetObject"), answer("404", 404, "HeadObject")):
        ours = translate(error, request("read"))
        assert isinstance(ours, StoreMissing)
        assert str(ours) == "run/k"
    for error in (answer("404", 404, "GetObject"), answer("NoSuchBucket", 404, "GetObject")):
        assert isinstance(translate(error, request("read")), StoreRefusedError)


def test_a_role_that_cannot_be_assumed_is_not_about_the_bucket():
    kind, text = said(answer("AccessDenied", 403, "AssumeRoleWithWebIdentity"))
    assert kind is StoreRefusedError
    assert "role cannot be assumed (AccessDenied); check AWS_ROLE_ARN" in text
    assert said(answer("Throttling", 503, "AssumeRole"))[0] is InfrastructureError


def test_the_server_own_words_come_short_on_one_line_and_without_credentials():
    words = f"no\n good: {SECRET} https://me:pw@host/ Signature=abc token: xyz " + "x" * 500
    text = said(answer("Strange", message=words))[1]
    assert "no good:" in text
    assert len(text) < 330
    assert not [hidden for hidden in ("me:pw", "abc", "xyz") if hidden in text]


def test_a_skewed_clock_without_date_still_has_words():
    kind, text = said(answer("RequestTimeTooSkewed", 403))
    assert kind is StoreRefusedError
    assert "too far apart (RequestTimeTooSkewed); set the clock" in text


def refused_connection():
    inner = NewConnectionError(None, "failed")
    inner.__cause__ = ConnectionRefusedError(111, "Connection refused")
    return sdk.EndpointConnectionError(endpoint_url="http://me:pw@host:9/b/k?x=1", error=inner)


def tls(reason: str):
    error = ssl.SSLError(1, f"[SSL: {reason}] something (_ssl.c:1006)")
    error.reason = reason
    return sdk.SSLError(endpoint_url="https://host:9/b", error=error)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refused_connection(), InfrastructureError, "no connection to http://host:9 (Connection refused); check that"),
        (sdk.ConnectTimeoutError(endpoint_url="http://h/b"), InfrastructureError, "no connection to http://h ("),
        (sdk.ReadTimeoutError(endpoint_url="http://h/b"), InfrastructureError, "http://h is silent for longer than"),
        (
            sdk.ConnectionClosedError(
                error=ProtocolError("x", ConnectionResetError(104, "Reset")), endpoint_url="http://h"
            ),
            InfrastructureError,
            "the connection to http://h broke (Reset); try again",
        ),
        (sdk.ResponseStreamingError(error="x"), InfrastructureError, f"the connection to {ENDPOINT} broke"),
        (sdk.IncompleteReadError(actual_bytes=1, expected_bytes=2), InfrastructureError, "broke (IncompleteReadError)"),
        (ProtocolError("x"), InfrastructureError, "broke (ProtocolError)"),
        (sdk.HTTPClientError(error="x"), InfrastructureError, "broke (HTTPClientError)"),
        (sdk.ProxyConnectionError(proxy_url="x"), InfrastructureError, "check HTTPS_PROXY"),
        (
            tls("CERTIFICATE_VERIFY_FAILED"),
            StoreRefusedError,
            "certificate of https://host:9 is not trusted; set s3.ca_b",
        ),
        (tls("WRONG_VERSION_NUMBER"), StoreRefusedError, "https://host:9 speaks no TLS; write http:// in s3.endpoint"),
        (tls("NO_CERTIFICATE_OR_CRL_FOUND"), StoreRefusedError, "holds no certificates"),
        (tls("UNEXPECTED_EOF_WHILE_READING"), InfrastructureError, "broke (UNEXPECTED_EOF_WHILE_READING); try again"),
        (sdk.NoCredentialsError(), StoreRefusedError, "there are no credentials (NoCredentialsError); set AWS_"),
        (
            sdk.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
            StoreRefusedError,
            "half of the credentials is missing (AWS_SECRET_ACCESS_KEY); check",
        ),
        (sdk.UnauthorizedSSOTokenError(), StoreRefusedError, "run `aws sso login`"),
        (
            sdk.CredentialRetrievalError(provider="custom-process", error_msg=SECRET),
            InfrastructureError,
            "no credentials come from custom-process (CredentialRetrievalError); check that service",
        ),
        (sdk.MetadataRetrievalError(error_msg=SECRET), InfrastructureError, "the metadata service"),
        (sdk.ParamValidationError(report=SECRET), StoreRefusedError, "the SDK does not take it (ParamValidationError)"),
        (ResponseParserError(f"no xml {SECRET}"), StoreRefusedError, "is no S3 server; check s3.endpoint"),
        (NotS3(), StoreRefusedError, "is no S3 server; check s3.endpoint"),
        (transfer.S3DownloadFailedError("etag"), InfrastructureError, "it was replaced while it was read; try again"),
        (
            OSError(28, "No space left on device", "/x/k"),
            InfrastructureError,
            "/x/k: No space left on device; check th",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_without_answer(error, kind, words):
    found, text = said(error)
    assert found is kind
    assert words in text


def test_damage_that_the_store_finds_is_damage():
    ours = translate(sdk.FlexibleChecksumError(error_msg="x"), request("read"))
    assert isinstance(ours, StoreDamaged)
    assert "s3://bucket/p/run/k" in str(ours)


@pytest.mark.parametrize("wrapper", [transfer.RetriesExceededError, BotoRetriesExceededError])
def test_when_all_tries_are_used_the_last_error_counts(wrapper):
    words = r"no connection to http://host:9 \(Connection refused\)"
    with pytest.raises(InfrastructureError, match=words), translated(request("read")):
        raise wrapper(refused_connection())


def test_errors_that_are_not_the_stores_pass_and_ours_show_no_cause():
    for own in (KeyError("x"), ValueError("x"), InfrastructureError("x"), SourceFailed(OSError(1, "x", "y"))):
        with pytest.raises(type(own)) as caught, translated(request()):
            raise own
        assert caught.value is own
    with pytest.raises(StoreRefusedError) as caught, translated(request()):
        raise answer("SignatureDoesNotMatch", 403, message=SECRET)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_code_and_status_are_empty_where_there_was_no_answer():
    assert (code_of(ValueError()), status_of(ValueError())) == ("", 0)
    assert (code_of(answer("A", 418)), status_of(answer("A", 418))) == ("A", 418)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pw@host:9/b/k?x=1", "http://host:9"),
        ("https://s3.example.org", "https://s3.example.org"),
        ("http://[::1]:9/b", "http://[::1]:9"),
        ("not a url", ""),
    ],
)
def test_of_a_url_only_the_server_is_shown(url, shown):
    assert origin(url) == shown


def test_a_plain_server_speaks_no_tls():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not speaks_tls(f"http://127.0.0.1:{port}")
    assert not speaks_tls("https://127.0.0.1:1")
    assert not speaks_tls("")


@pytest.mark.parametrize(
    ("code", "status", "is_feature"),
    [
        ("NotImplemented", 501, True),
        ("InvalidArgument", 400, True),
        ("InvalidRequest", 400, True),
        ("MissingContentLength", 411, True),
        ("501", 501, True),
        ("BadDigest", 400, False),
        ("ExpiredToken", 400, False),
        ("EntityTooLarge", 400, False),
        ("AccessDenied", 403, False),
        ("SlowDown", 503, False),
        ("PreconditionFailed", 412, False),
        ("NoSuchBucket", 404, False),
    ],
)
def test_which_answers_may_mean_that_something_is_lacking(code, status, is_feature):
    assert is_unsupported(answer(code, status)) is is_feature


class Server:
    """Refuses a request that uses what it lacks, as a real one: without saying what it was."""

    def __init__(self, *lacks: str) -> None:
        self.lacks, self.asked = set(lacks), []
        self.notices: deque[str] = deque()
        self.features = Features("s3://bucket/p", self.notices)

    def __call__(self, used: frozenset[str]) -> str:
        self.asked.append(used)
        if used & self.lacks:
            raise answer("NotImplemented", 501)
        return "done"


ALL = frozenset({CHECKSUMS, CONDITIONAL, ENCRYPTION})


@pytest.mark.parametrize(
    "lacks",
    [(), (CHECKSUMS,), (CONDITIONAL,), (ENCRYPTION,), (CHECKSUMS, ENCRYPTION), (CHECKSUMS, CONDITIONAL, ENCRYPTION)],
)
def test_what_is_lacking_is_found_once_and_said_once(lacks):
    server = Server(*lacks)
    for _ in range(3):
        assert server.features.send(ALL, frozenset(), server) == "done"
    assert len(server.notices) == len(lacks)
    assert server.asked[-2:] == [ALL - set(lacks)] * 2, "no refused request after the first time"
    assert {name for name in ALL if not server.features.has(name)} == set(lacks)
    assert server.features.are_known(ALL)


def test_what_worked_before_is_not_blamed_for_a_later_refusal():
    server = Server()
    server.features.send(ALL, frozenset(), server)
    server.lacks = {CHECKSUMS}
    with pytest.raises(sdk.ClientError):
        server.features.send(ALL, frozenset(), server)
    assert not server.notices


def test_what_is_required_is_never_left_out():
    server = Server(ENCRYPTION)
    with pytest.raises(sdk.ClientError):
        server.features.send(ALL, frozenset({ENCRYPTION}), server)
    assert all(ENCRYPTION in used for used in server.asked)
    assert not server.notices


def test_an_error_of_another_kind_ends_the_search():
    server = Server(CHECKSUMS)

    def busy(used):
        server(used)
        raise answer("SlowDown", 503)

    with pytest.raises(sdk.ClientError, match="SlowDown"):
        server.features.send(frozenset({CHECKSUMS}), frozenset(), busy)
    assert not server.notices
    assert server.features.has(CHECKSUMS)


def test_a_conflict_is_an_answer_to_a_request_that_was_understood():
    server = Server(CHECKSUMS)

    def taken(used):
        server(used)
        raise answer("PreconditionFailed", 412)

    with pytest.raises(sdk.ClientError, match="PreconditionFailed"):
        server.features.send(frozenset({CHECKSUMS, CONDITIONAL}), frozenset(), taken)
    assert [re.search("checksums", notice) is not None for notice in server.notices] == [True]


@pytest.mark.parametrize("sizes", [[], [0], [1], [10], [3, 0, 7], [25], [10, 10], [1] * 23, [9, 2, 100]])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda piece: memoryview(bytearray(piece))])
def test_a_source_gives_whole_parts_and_a_rest(sizes, kind):
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    source = Source(map(kind, pieces), 10)
    whole = b"".join(pieces)
    assert source.peek() == len(whole[:10])
    parts = list(iter(source.read, b""))
    assert b"".join(parts) == whole
    assert [len(part) for part in parts[:-1]] == [10] * (len(parts) - 1)
    assert source.read() == b""


def test_a_source_wraps_what_its_chunks_raise():
    def broken():
        yield b"123"
        raise SystemExit(3)

    source = Source(broken(), 2)
    assert source.read() == b"12"
    with pytest.raises(SourceFailed) as caught:
        source.read()
    assert isinstance(caught.value.error, SystemExit)


def test_a_source_counts_in_bytes_whatever_the_items_are():
    array = memoryview(bytearray(range(16))).cast("I")
    assert Source([array], 100).read() == bytes(range(16))
