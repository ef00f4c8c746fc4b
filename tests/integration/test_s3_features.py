"""What servers of S3 lack, and keys that change in mid-run: the store goes on, and says once what it does without."""

import http.server
import threading
from pathlib import Path

import pytest

from tests.s3.objects import MIB, PART, content, pieces
from tests.s3.proxy import Answer, FaultProxy
from trainer.checkpoint.store import StoreConflict
from trainer.checkpoint.stores import open_store
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError


@pytest.fixture
def proxy(s3_env, s3_server, monkeypatch):
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def test_checksums(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", PART)
    rule = proxy.add(Answer(501, "NotImplemented"), header="^x-amz-checksum|^x-amz-sdk-checksum", times=None)
    store.put("a", [b"1"])
    store.put("b", [b"2"])
    data = content(11 * MIB)
    store.put("large", [data])
    assert (store.get("a"), store.get("b"), store.get("large")) == (b"1", b"2", data)
    assert rule.hits == 1
    (notice,) = store.notices
    assert notice.startswith(f"s3://{bucket}/p: the server (NotImplemented) does not know the SDK's checksums")


def test_checksums_when_the_first_object_is_large(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", PART)
    proxy.add(Answer(400, "InvalidArgument"), header="^x-amz-(sdk-)?checksum", times=None)
    data = content(11 * MIB)
    store.put("large", pieces(data, MIB))
    assert store.get("large") == data
    assert len(store.notices) == 1
    assert store.requests["UploadPart"] == 1 + 3, "one byte to find out, then the parts"


def test_checksums_that_were_asked_for_are_not_dropped(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings(checksums="when_supported"))
    proxy.add(Answer(501, "NotImplemented"), header="^x-amz-(sdk-)?checksum", times=None)
    with pytest.raises(StoreRefusedError, match=r"NotImplemented.*s3\.checksums when_required"):
        store.put("a", [b"1"])
    assert not store.notices


def test_when_nothing_helps_the_first_error_stands(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings(encryption="AES256"))
    rule = proxy.add(Answer(501, "NotImplemented"), method="PUT", times=None)
    with pytest.raises(StoreRefusedError, match=r"cannot write .*/p/a: .*NotImplemented"):
        store.put("a", [b"1"])
    assert rule.hits == 4, "as it is, without each of two, without both"
    assert not store.notices
    rule.heal()
    store.put("a", [b"1"])


def test_a_server_that_fails_is_not_one_that_lacks_something(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings(tries=1))
    for status, code in ((503, "SlowDown"), (400, "BadDigest"), (403, "AccessDenied")):
        rule = proxy.add(Answer(status, code), method="PUT")
        with pytest.raises(InfrastructureError, match=code):
            store.put("a", [b"1"])
        assert rule.hits == 1
    store.put("a", [b"1"])
    assert not store.notices


def test_encryption(s3_env, bucket):
    """Swift does not know it."""
    store = open_store(f"s3://{bucket}/p", S3Settings(encryption="AES256", part_mib=5))
    store.put("large", [content(6 * MIB)])
    store.put("small", [b"1"], only_new=True)
    (notice,) = store.notices
    assert "does not encrypt on request" in notice
    assert store.requests["PutObject"] == 1


@pytest.mark.parametrize("size", [1, 6 * MIB])
def test_encryption_that_is_required(s3_env, bucket, size):
    settings = S3Settings(encryption="aws:kms", kms_key="k1", encryption_required=True, part_mib=5)
    store = open_store(f"s3://{bucket}/p", settings)
    with pytest.raises(StoreRefusedError, match=r"does not encrypt as s3\.encryption aws:kms asks"):
        store.put("k", [bytes(size)])
    assert list(store.entries("")) == []
    assert not store.notices


class Unheeding(http.server.BaseHTTPRequestHandler):
    """Answers as a server of S3 that has not seen the header for encryption."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<R><UploadId>1</UploadId></R>" if self.command == "POST" else b""
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("size", [1, 6 * MIB])
def test_a_server_that_ignores_required_encryption_is_refused(s3_env, size):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unheeding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        settings = S3Settings(endpoint=url, encryption="AES256", encryption_required=True, part_mib=5)
        with pytest.raises(StoreRefusedError, match=r"does not encrypt as s3\.encryption AES256 asks; take a server"):
            open_store("s3://some-bucket/p", settings).put("k", [bytes(size)])
        open_store("s3://some-bucket/p", S3Settings(endpoint=url, encryption="AES256")).put("k", [b"1"])
        server.shutdown()


def test_conditional_writes(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings())
    rule = proxy.add(Answer(501, "NotImplemented"), header="if-none-match", times=None)
    store.put("a", [b"1"], only_new=True)
    store.put("b", [b"1"], only_new=True)
    with pytest.raises(StoreConflict):
        store.put("a", [b"2"], only_new=True)
    assert store.get("a") == b"1"
    assert len(store.notices) == 1
    assert "conditional writes" in store.notices[0]
    assert rule.hits == 2, "as it is, and without checksums"


def test_deletes_of_many(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings())
    rule = proxy.add(Answer(400, "MissingContentMD5"), method="POST", times=None)
    for _ in range(2):
        for key in ("a", "b"):
            store.put(key, [b"1"])
        store.delete(["a", "nothing", "b"])
        assert list(store.entries("")) == []
    assert rule.hits == 1
    assert ["one by one" in notice for notice in store.notices] == [True]


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied")])
def test_the_list_of_uploads(proxy, bucket, status, code):
    store = open_store(f"s3://{bucket}/p", S3Settings())
    rule = proxy.add(Answer(status, code), method="GET", path=r"\?uploads", times=None)
    store.sweep("", lambda _: True)
    store.sweep("", lambda _: True)
    assert rule.hits == 1
    assert ["unfinished uploads" in notice for notice in store.notices] == [True]


def credentials(path: Path, keys: tuple[str, str]) -> None:
    path.write_text(f"[default]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n")


def test_credentials_that_expire_in_mid_run_are_read_anew(proxy, s3_server, bucket, tmp_path, monkeypatch):
    """A file of keys is rewritten while the run goes on; the server calls the old ones expired."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    credentials(file, (s3_server.access_key, s3_server.secret_key))
    store = open_store(f"s3://{bucket}/p", PART)
    store.put("k", [b"1"])
    # The new keys are those of another user, who may read: that shows whose are in use.
    s3_server.client().put_bucket_acl(Bucket=bucket, ACL="public-read")
    credentials(file, s3_server.guest)
    rule = proxy.add(Answer(403, "ExpiredToken"), header=f"Credential={s3_server.access_key}/", times=None)
    assert store.get("k") == b"1"
    assert rule.hits == 1
    assert f"credential={s3_server.guest[0]}/" in proxy.requests[-1].header("authorization")
    num_requests = len(proxy.requests)
    assert [entry.key for entry in store.entries("")] == ["k"]
    assert len(proxy.requests) == num_requests + 1, "the new keys stay in use"


def test_a_large_put_whose_keys_expire_fails_once_and_works_when_tried_again(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", PART)
    store.put("k", [b"1"])
    rule = proxy.add(Answer(403, "ExpiredToken"), method="PUT", path="partNumber=2")
    data = content(12 * MIB)
    with pytest.raises(InfrastructureError, match=r"the credentials have expired \(ExpiredToken\)") as caught:
        store.put("r/model", [data])
    assert not isinstance(caught.value, StoreRefusedError)
    assert rule.hits == 1
    store.put("r/model", [data])
    assert store.get("r/model") == data


def test_keys_that_are_replaced_without_expiring_are_read_anew_too(s3_env, s3_server, bucket, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    credentials(file, ("old-key", "old-secret"))
    store = open_store(f"s3://{bucket}/p")
    with pytest.raises(StoreRefusedError, match="SignatureDoesNotMatch"):
        store.put("k", [b"1"])
    credentials(file, (s3_server.access_key, s3_server.secret_key))
    store.put("k", [b"1"])
