"""What can be wrong with a place, its keys, its server: one line that says so and what to do, soon, and no secret."""

import http.server
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import botocore.auth
import botocore.compat
import pytest
from botocore.awsrequest import AWSResponse

from tests.s3.proxy import Answer, FaultProxy, Stall
from tests.s3.tls import TlsFront
from trainer.checkpoint.stores import open_store
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, SettingsError, StoreRefusedError, TrainerError

SECRETS = ("AKIAHIDDENHIDDEN0001", "hidden/secret+0001", "hidden-token-0001", "hidden-password")


@pytest.fixture
def proxy(s3_env, s3_server, monkeypatch):
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def every_verb(store, path: Path):
    """Each way to ask a store for something, by name."""
    return {
        "write": lambda: store.put("run/k", [b"1"]),
        "write new": lambda: store.put("run/k", [b"1"], only_new=True),
        "write large": lambda: store.put("run/k", [bytes(6 << 20)]),
        "read": lambda: store.get("run/k"),
        "fetch": lambda: store.fetch("run/k", path / "k"),
        "list": lambda: list(store.entries("run/")),
        "folders": lambda: store.folders("run/"),
        "delete": lambda: store.delete(["run/k"]),
        "delete many": lambda: store.delete(["run/k", "run/l"]),
        "sweep": lambda: store.sweep("run/", lambda _: True),
    }


def refused(store, path: Path, words: str, kind: type[TrainerError] = StoreRefusedError, leaving_out=()) -> list[str]:
    """The texts of all verbs, each of which must be refused with these words."""
    texts = []
    for name, ask in every_verb(store, path).items():
        if name in leaving_out:
            continue
        with pytest.raises(TrainerError) as caught:
            ask()
        text = str(caught.value)
        assert type(caught.value) is kind, f"{name}: {text}"
        assert re.search(words, text), f"{name}: {text}"
        assert re.match(rf"cannot \w+ {store.url}\b", text), f"{name}: {text}"
        assert "; " in text, f"{name} says not what to do: {text}"
        assert "\n" not in text
        texts.append(text)
    return texts


@contextmanager
def web_server(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Page(http.server.BaseHTTPRequestHandler):
    """Answers everything with one page, as portals and wrong ports do."""

    status = 200
    page = b"<html><head><title>Welcome</title></head><body><p>Log in</p></body></html>"
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.page)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def log_message(self, *_):
        pass


class ToLogin(Page):
    status, page = 302, b"<html><body>Over there</body></html>"


class NotAllowed(Page):
    status, page = 405, b"<html><head><title>405 Not Allowed</title></head></html>"


class NotFound(Page):
    status, page = 404, b"<html><body><h1>404 Not Found<hr></body></html>"


class PlainToTls(Page):
    """What web servers say on a TLS port."""

    status, page = 400, b"<html>The plain HTTP request was sent to HTTPS port<br></html>"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "names no bucket; write s3://bucket/prefix"),
        ("/prefix", "names no bucket"),
        ("ab/x", "3 to 63 letters"),
        ("a" * 64, "3 to 63 letters"),
        ("my bucket/x", "3 to 63 letters"),
        ("my..bucket/x", "3 to 63 letters"),
        ("-bucket/x", "3 to 63 letters"),
        ("büchse/x", "3 to 63 letters"),
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "more than a bucket's name"),
        ("bucket:9000/x", "more than a bucket's name"),
        ("bucket/a//b", "single slashes"),
        ("bucket//a", "single slashes"),
        ("bucket/../other", "none of them '.' or '..'"),
        ("bucket/a/./b", "none of them '.' or '..'"),
        ("bucket/a\nb", "is made of names"),
    ],
)
def test_odd_places_are_refused_before_anything_is_asked(place, words):
    with pytest.raises(SettingsError, match="^run.store .*" + re.escape(words)) as caught:
        open_store(f"s3://{place}")
    assert "\n" not in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated(s3_env, monkeypatch):
    with pytest.raises(SettingsError, match=r"run\.store must not hold credentials") as caught:
        open_store("s3://AKIAHIDDENHIDDEN0001:hidden-password@bucket/x")
    texts = [str(caught.value)]
    with pytest.raises(ValueError, match=r"s3\.endpoint must not hold credentials") as wrong:
        S3Settings(endpoint="https://AKIAHIDDENHIDDEN0001:hidden-password@s3.example.org")
    assert wrong.value
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://AKIAHIDDENHIDDEN0001:hidden-password@127.0.0.1:1")
    with pytest.raises(SettingsError, match="endpoint URL of the environment or profile") as caught:
        open_store("s3://bucket/x").get("k")
    texts.append(str(caught.value))
    assert not [secret for secret in SECRETS for text in texts if secret in text]


@pytest.mark.parametrize(
    "keys",
    [("test:tester", "hidden/secret+0001"), ("AKIAHIDDENHIDDEN0001", "hidden/secret+0001")],
    ids=["secret", "id"],
)
def test_wrong_keys(s3_env, bucket, monkeypatch, tmp_path, keys):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
    words = r"does not accept the keys \(SignatureDoesNotMatch\); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    refused(store, tmp_path, words, leaving_out=() if keys[0] == "test:tester" else ("write", "folders", "delete many"))


def test_no_credentials(s3_env, bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
    refused(store, tmp_path, "half of the credentials is missing|there are no credentials")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused(open_store(f"s3://{bucket}/p"), tmp_path, r"there are no credentials.*set AWS_ACCESS_KEY_ID")


def test_half_of_the_credentials(s3_env, bucket, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreRefusedError, match=r"half of the credentials is missing \(AWS_SECRET_ACCESS_KEY\)"):
        open_store(f"s3://{bucket}/p").get("k")


def test_an_unknown_profile(s3_env, bucket, monkeypatch):
    for settings in (S3Settings(profile="nobody"), S3Settings()):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(SettingsError, match=r"profile 'nobody' .*is not in the AWS files"):
            open_store(f"s3://{bucket}/p", settings).get("k")


def test_a_missing_bucket_is_never_made(s3_env, s3_server, tmp_path):
    store = open_store("s3://no-such-bucket-anywhere/p", S3Settings(part_mib=5))
    refused(store, tmp_path, r"there is no such bucket \(NoSuchBucket\); create the bucket or correct run\.store")
    names = [one["Name"] for one in s3_server.client().list_buckets()["Buckets"]]
    assert "no-such-bucket-anywhere" not in names


def test_keys_that_may_read_but_not_write(s3_env, s3_server, bucket, monkeypatch, tmp_path):
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="p/run/k", Body=b"theirs")
    client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.guest[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.guest[1])
    store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
    assert store.get("run/k") == b"theirs"
    words = rf"access denied \(AccessDenied\): .*right s3:\w+.*; run `trainer preflight --store s3://{bucket}/p`"
    texts = refused(store, tmp_path, words, leaving_out=("read", "fetch", "list", "folders", "sweep"))
    assert [re.search(r"s3:\w+ *[,;]", text)[0].rstrip(";,") for text in texts] == ["s3:PutObject"] * 3 + [
        "s3:DeleteObject"
    ] * 2
    store.sweep("run/", lambda _: True)
    assert client.get_object(Bucket=bucket, Key="p/run/k")["Body"].read() == b"theirs"


def test_without_the_right_to_list_a_missing_object_answers_403(s3_env, s3_server, bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.guest[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.guest[1])
    store = open_store(f"s3://{bucket}/p", S3Settings())
    for read in (lambda: store.get("k"), lambda: store.fetch("k", tmp_path / "k")):
        with pytest.raises(StoreRefusedError, match=r"s3:GetObject, or the object is missing and they lack s3:ListBuc"):
            read()
    with pytest.raises(StoreRefusedError, match="right s3:ListBucket;"):
        store.folders("")


@pytest.mark.parametrize("minutes", [61, -61])
def test_a_clock_an_hour_off(s3_env, bucket, monkeypatch, tmp_path, minutes):
    real = botocore.compat.get_current_datetime

    def wrong(remove_tzinfo=True):
        return real(remove_tzinfo) + timedelta(minutes=minutes)

    monkeypatch.setattr(botocore.compat, "get_current_datetime", wrong)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", wrong)
    store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
    side = "ahead of" if minutes > 0 else "behind"
    words = rf"clock of this machine is 61 min {side} the server's \(RequestTimeTooSkewed\); set the clock"
    refused(store, tmp_path, words)


def test_a_dead_port_is_told_soon_and_may_come_back(s3_env, bucket, monkeypatch, tmp_path, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port}")
    store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5, connect_seconds=2, tries=3))
    begin = time.monotonic()
    words = rf"no connection to http://127\.0\.0\.1:{free_port} \(Connection refused\); check that the server runs"
    refused(store, tmp_path, words, InfrastructureError)
    assert time.monotonic() - begin < 20


def test_a_host_without_address(s3_env, bucket, monkeypatch):
    store = open_store(f"s3://{bucket}/p", S3Settings(endpoint="http://no-such-host.invalid:9000", tries=1))
    with pytest.raises(
        InfrastructureError, match=r"no connection to http://no-such-host\.invalid:9000 \(.*known|.*name"
    ):
        store.get("k")


def test_a_silent_server_is_told_after_the_set_time(proxy, bucket):
    rule = proxy.add(Stall(), times=None)
    store = open_store(f"s3://{bucket}/p", S3Settings(read_seconds=0.3, tries=2))
    with pytest.raises(InfrastructureError, match=r"is silent for longer than s3\.read_seconds"):
        store.get("k")
    assert rule.hits == 2


@pytest.mark.parametrize("handler", [Page, ToLogin, NotAllowed, NotFound, PlainToTls])
def test_a_server_that_is_not_s3(s3_env, bucket, monkeypatch, tmp_path, handler):
    with web_server(handler) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
        left_out = ("fetch", "delete", "delete many", "sweep") if handler is Page else ("sweep",)
        refused(store, tmp_path, rf"what answers at {url} is no S3 server.*; check s3\.endpoint", leaving_out=left_out)


def test_a_server_of_plain_files_is_not_s3(s3_env, bucket, monkeypatch, tmp_path):
    (tmp_path / "www" / bucket).mkdir(parents=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with web_server(partial(Quiet, directory=str(tmp_path / "www"))) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
        refused(store, tmp_path, "is no S3 server", leaving_out=("sweep",))


def test_https_where_plain_http_is_spoken(s3_env, s3_server, bucket, tmp_path):
    endpoint = s3_server.endpoint.replace("http://", "https://")
    store = open_store(f"s3://{bucket}/p", S3Settings(endpoint=endpoint, part_mib=5, tries=2))
    refused(store, tmp_path, rf"{endpoint} speaks no TLS; write http:// in s3\.endpoint")


def test_http_where_tls_is_spoken(s3_env, s3_server, bucket, tmp_path):
    with TlsFront(s3_server.endpoint, tmp_path) as front:
        endpoint = front.endpoint.replace("https://", "http://")
        store = open_store(f"s3://{bucket}/p", S3Settings(endpoint=endpoint, part_mib=5, tries=2))
        refused(store, tmp_path, rf"{endpoint} speaks TLS; write https:// in s3\.endpoint")


def test_a_certificate_that_nobody_trusts(s3_env, s3_server, bucket, tmp_path):
    with TlsFront(s3_server.endpoint, tmp_path) as front:
        store = open_store(f"s3://{bucket}/p", S3Settings(endpoint=front.endpoint, part_mib=5, tries=1))
        refused(store, tmp_path, rf"the certificate of {front.endpoint} is not trusted; set s3\.ca_bundle")


def test_a_file_of_certificates_that_is_none(s3_env, s3_server, bucket, tmp_path, monkeypatch):
    with TlsFront(s3_server.endpoint, tmp_path) as front:
        with pytest.raises(SettingsError, match=r"s3\.ca_bundle \(or AWS_CA_BUNDLE\) is .*no such file"):
            open_store(f"s3://{bucket}/p", S3Settings(ca_bundle=str(tmp_path / "none"))).get("k")
        empty = tmp_path / "empty.pem"
        empty.write_text("nothing\n")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(empty))
        store = open_store(f"s3://{bucket}/p", S3Settings(endpoint=front.endpoint, tries=1))
        with pytest.raises(StoreRefusedError, match="holds no certificates"):
            store.get("k")


def test_a_full_disk_or_missing_folder_of_the_reader_is_named(s3_env, bucket, tmp_path):
    store = open_store(f"s3://{bucket}/p")
    store.put("k", [b"1"])
    with pytest.raises(InfrastructureError, match=rf"cannot read s3://{bucket}/p/k: .*none/k.*: No such file or dir"):
        store.fetch("k", tmp_path / "none" / "k")


def test_too_many_parts_name_the_setting(s3_env, bucket, monkeypatch):
    monkeypatch.setattr("trainer.checkpoint.s3.upload.MAX_PARTS", 2)
    monkeypatch.setattr("trainer.checkpoint.s3.write.MAX_PARTS", 2)
    store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5))
    with pytest.raises(StoreRefusedError, match=r"more than 2 parts of 5 MiB; raise s3\.part_mib"):
        store.put("k", [bytes(1 << 20)] * 11)
    assert list(store.entries("")) == []
    store.put("k", [bytes(1 << 20)] * 10)


def test_a_key_that_is_too_long(s3_env, bucket):
    with pytest.raises(StoreRefusedError, match=r"KeyTooLongError.*shorten"):
        open_store(f"s3://{bucket}/p").put("k" * 1100, [b"1"])


def secretive(error: BaseException) -> str:
    """All that anything might print of an error."""
    chain, texts = error, []
    while chain is not None:
        texts += [str(chain), repr(chain)]
        chain = chain.__cause__
    return "\n".join([*texts, *traceback.format_exception(error)])


def test_no_secret_is_ever_shown(proxy, bucket, monkeypatch, tmp_path, caplog):
    """Also where the server repeats what it was sent, as S3 servers do when a signature is wrong."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRETS[2])
    talkative = (
        f"<Error><Code>%s</Code><Message>%s Credential={SECRETS[0]}/x, token={SECRETS[2]}</Message>"
        f"<AWSAccessKeyId>{SECRETS[0]}</AWSAccessKeyId><StringToSign>{SECRETS[2]}</StringToSign></Error>"
    )
    shown = []
    with caplog.at_level("INFO"):
        for code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "AccessDenied", "Odd", ""):
            rule = proxy.add(Answer(403 if code else 418, body=talkative % (code, code)), times=None)
            store = open_store(f"s3://{bucket}/p", S3Settings(part_mib=5, tries=1))
            for name in ("write", "fetch", "delete many"):
                try:
                    every_verb(store, tmp_path)[name]()
                except TrainerError as error:
                    shown.append(secretive(error))
            shown += [repr(store), repr(vars(store)), *store.notices]
            rule.heal()
        proxy.down()
        with pytest.raises(InfrastructureError) as caught:
            store.get("k")
        shown.append(secretive(caught.value))
    assert len(shown) > 25
    text = "\n".join([*shown, caplog.text])
    assert "SignatureDoesNotMatch" in text
    assert not [secret for secret in SECRETS if secret in text]


def test_no_secret_is_in_what_a_dying_process_leaves(s3_env, bucket, monkeypatch, tmp_path):
    """Its traceback, uncaught, and the dump of a crash."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
    code = f"""
import faulthandler, os, signal
from trainer.checkpoint.stores import open_store
faulthandler.enable()
store = open_store("s3://{bucket}/p")
try:
    store.get("k")
finally:
    faulthandler.dump_traceback()
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "StoreRefusedError: cannot read" in done.stderr
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]


def test_a_proxy_of_the_network_that_is_away_is_named(s3_env, bucket, monkeypatch, free_port):
    monkeypatch.setenv("HTTP_PROXY", f"http://somebody:hidden-password@127.0.0.1:{free_port}")
    store = open_store(f"s3://{bucket}/p", S3Settings(endpoint="http://s3.example.org", tries=1))
    with pytest.raises(InfrastructureError, match=r"HTTP proxy.*check HTTPS_PROXY") as caught:
        store.get("k")
    assert "hidden-password" not in secretive(caught.value)


def test_an_endpoint_that_is_no_url(s3_env, bucket, monkeypatch):
    for value in ("127.0.0.1:9000", "s3.example.org", "http://bad_host name"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", value)
        with pytest.raises(SettingsError, match=r"AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is no URL"):
            open_store(f"s3://{bucket}/p").get("k")


def test_addresses_follow_settings_and_environment(s3_env, monkeypatch):
    """Path style wherever an endpoint is named, the region of others' servers, and AWS as the SDK has it."""

    def url(**settings):
        client = open_store("s3://some-bucket/p", S3Settings(**settings))._bucket.connection.client()
        client.meta.events.register("before-send.s3", lambda request, **_: asked.append(request) or nothing)
        client.put_object(Bucket="some-bucket", Key="k", Body=b"")
        request = asked.pop()
        return request.url, re.search(r"/([^/]+)/s3/aws4", request.headers["Authorization"].decode())[1]

    asked = []
    nothing = AWSResponse("", 200, {}, None)
    nothing._content = b""

    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example.org:9000")
    assert url() == ("http://s3.example.org:9000/some-bucket/k", "us-east-1")
    assert url(addressing="virtual") == ("http://some-bucket.s3.example.org:9000/k", "us-east-1")
    assert url(endpoint="https://other.example.org", region="x-1") == ("https://other.example.org/some-bucket/k", "x-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all.example.org")
    assert url()[0] == "http://all.example.org/some-bucket/k"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert url() == ("https://some-bucket.s3.eu-central-1.amazonaws.com/k", "eu-central-1")
    assert url(addressing="path")[0] == "https://s3.eu-central-1.amazonaws.com/some-bucket/k"


def test_a_profile_brings_keys_region_and_endpoint(s3_env, s3_server, bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        f"[profile mine]\nservices = local\naws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {s3_server.secret_key}\n"
        f"[services local]\ns3 =\n  endpoint_url = {s3_server.endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    store = open_store(f"s3://{bucket}/p", S3Settings(profile="mine"))
    store.put("k", [b"1"])
    assert store.get("k") == b"1"


def test_a_port_that_takes_connections_and_says_nothing_costs_the_set_time(s3_env, bucket, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = open_store(f"s3://{bucket}/p", S3Settings(endpoint=endpoint, read_seconds=0.2, tries=1, part_mib=5))
        begin = time.monotonic()
        refused(store, tmp_path, "is silent for longer", InfrastructureError)
        assert time.monotonic() - begin < 30
