"""`trainer preflight`: on a folder, on a real S3 server, and on servers that refuse, lack a feature or are away."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.s3.proxy import Answer, FaultProxy, Flip, Stall
from tests.s3.server import SwiftS3
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.probe import policy, probe, verdict
from trainer.checkpoint.probe_steps import Check
from trainer.checkpoint.s3 import probe as probe_s3
from trainer.checkpoint.s3.probe_requests import Requests
from trainer.checkpoint.stores import open_store
from trainer.cli import main
from trainer.config.s3 import S3Settings

FILE_CHECKS = ["writable", "free space", "atomic rename", "locks", "hard links", "fsync of folders"]


def preflight(capsys, *arguments):
    """Exit code, checks by name, the whole answer, and stderr."""
    code = main(["preflight", "--json", *map(str, arguments)])
    out, err = capsys.readouterr()
    answer = json.loads(out)
    return code, {check["name"]: check for check in answer["checks"]}, answer, err


def tree(folder: Path):
    """Everything in a folder with size and time of last change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_a_folder_that_has_all_passes_and_stays_as_it_was(tmp_path, capsys):
    (tmp_path / "somebody's").write_text("file")
    before = tree(tmp_path)
    code, checks, answer, err = preflight(capsys, "--store", f"file://{tmp_path}")
    assert (code, answer["ok"], answer["policy"], err) == (0, True, None, "")
    assert list(checks) == FILE_CHECKS
    assert {check["result"] for check in checks.values()} == {"ok"}
    assert checks["writable"]["milliseconds"] > 0
    assert tree(tmp_path) == before


def test_a_folder_that_was_not_there_is_not_there_afterwards(tmp_path, capsys):
    assert preflight(capsys, "--store", f"file://{tmp_path}/new/deep")[0] == 0
    assert not (tmp_path / "new").exists()


def test_without_store_it_is_that_of_the_settings(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.yaml").write_text(f"run: {{store: 'file://{tmp_path}/from-file'}}\n")
    assert preflight(capsys, "--config", tmp_path / "mine.yaml")[2]["store"] == f"file://{tmp_path}/from-file"
    assert preflight(capsys, "--set", f"run.store=file://{tmp_path}/set")[2]["store"] == f"file://{tmp_path}/set"
    monkeypatch.setenv("TRAINER__RUN__STORE", f"file://{tmp_path}/env")
    assert preflight(capsys)[2]["store"] == f"file://{tmp_path}/env"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINER__RUN__STORE")
    assert preflight(capsys)[2]["store"] == f"file://{tmp_path}/checkpoints"


def test_a_folder_that_cannot_be_written_is_refused_at_the_first_step(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    code, checks, answer, err = preflight(capsys, "--store", f"file://{tmp_path}/file/runs")
    assert (code, answer["ok"]) == (5, False)
    assert checks["writable"]["result"] == "failed"
    assert [checks[name]["result"] for name in FILE_CHECKS[1:]] == ["skipped"] * 5
    assert checks["locks"]["advice"] == "writable failed"
    assert err.startswith(f"error: file://{tmp_path}/file/runs: writable: cannot write ")
    assert err.count("\n") == 1


def test_what_a_file_system_lacks_is_no_failure_but_said(tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    code, checks, _, err = preflight(capsys, "--store", f"file://{tmp_path}")
    assert (code, err) == (0, "")
    assert checks["hard links"]["result"] == "missing"
    assert checks["hard links"]["advice"].startswith("the file system says: Operation not permitted; a new file gets")


def test_a_disk_without_space_and_one_that_is_away_have_codes_of_their_own(tmp_path, capsys, monkeypatch):
    status = os.statvfs(tmp_path)
    full = os.statvfs_result((*status[:4], 5, *status[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    code, checks, _, err = preflight(capsys, "--store", f"file://{tmp_path}")
    assert code == 5
    assert "free space there" in err
    assert checks["fsync of folders"]["result"] == "ok"

    def stale(_):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "statvfs", stale)
    code, checks, _, err = preflight(capsys, "--store", f"file://{tmp_path}")
    assert code == 170
    assert checks["locks"]["result"] == "skipped"


def test_the_table_is_aligned(tmp_path, capsys):
    assert main(["preflight", "--store", f"file://{tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "check"
    assert {line.index("ok") for line in lines[1:]} == {lines[0].index("result")}


def test_nothing_is_printed_by_the_functions_themselves(tmp_path, capsys):
    assert all(check.ok for check in probe(FileStore(tmp_path)))
    assert capsys.readouterr() == ("", "")


# An S3 server


NEEDED = ["endpoint", "credentials", "clock", "bucket", "list", "put", "get", "ranged get", "multipart"]
NEEDED += ["abort upload", "overwrite", "delete", "list after put"]
OPTIONAL = ["list uploads", "conditional put", "delete of many", "encryption"]


@pytest.fixture
def client(s3_server):
    return s3_server.client()


@pytest.fixture
def proxied(s3_server, s3_env, monkeypatch):
    """A fault proxy between the command and the server."""
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def everything(client, bucket):
    """Every object with its last change, and every open upload."""
    objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [(one["Key"], one["ETag"], one["LastModified"]) for one in objects], [one["UploadId"] for one in uploads]


def results(checks):
    return {name: check["result"] for name, check in checks.items()}


def test_a_server_that_has_all_passes_and_only_own_keys_are_touched(bucket, proxied, client, capsys):
    for key in ("runs/first/run.json", "runs/.preflight-of-another/x", "elsewhere"):
        client.put_object(Bucket=bucket, Key=key, Body=b"mine")
    client.create_multipart_upload(Bucket=bucket, Key="runs/first/big")
    before = everything(client, bucket)
    code, checks, answer, err = preflight(capsys, "--store", f"s3://{bucket}/runs")
    assert (code, answer["ok"], answer["policy"], err) == (0, True, None, "")
    assert set(checks) == {*NEEDED, *OPTIONAL}
    assert {check["name"] for check in checks.values() if check["needed"]} == set(NEEDED)
    assert results(checks) == dict.fromkeys(checks, "ok") | {"encryption": "skipped"}
    assert checks["credentials"]["advice"] == "from environment (AWS_ACCESS_KEY_ID)"
    assert checks["multipart"]["milliseconds"] > 1
    assert everything(client, bucket) == before
    for request in proxied.requests:
        asked = unquote(request.target)
        assert (
            f"{bucket}/runs/.preflight-" in asked
            or "prefix=runs/.preflight-" in asked
            or (request.method == "GET" and "delimiter=/" in asked and "max-keys=1" in asked)
            or (request.method, asked) == ("POST", f"/{bucket}?delete")
        )
    assert {request.method for request in proxied.requests} == {"GET", "PUT", "POST", "DELETE"}


def test_the_keys_decide_and_a_statement_names_exactly_what_they_lack(bucket, s3_server, s3_env, monkeypatch, capsys):
    if not isinstance(s3_server, SwiftS3):
        pytest.skip("keys that may do nothing are Swift's")
    access_key, secret_key = s3_server.guest
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    code, checks, answer, err = preflight(capsys, "--store", f"s3://{bucket}/my/runs")
    assert (code, checks["list"]["result"], checks["put"]["result"]) == (5, "failed", "failed")
    assert set(answer["policy"]["Action"]) == {
        "s3:ListBucket", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads"
    }  # fmt: skip
    assert answer["policy"]["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/my/runs/*"]
    assert err.startswith(f"error: s3://{bucket}/my/runs: list: access denied (AccessDenied): the keys in use lack the")
    s3_server.client().put_bucket_acl(Bucket=bucket, ACL="public-read")
    code, checks, answer, _ = preflight(capsys, "--store", f"s3://{bucket}")
    assert (code, checks["list"]["result"], checks["get"]["result"]) == (5, "ok", "skipped")
    assert "s3:ListBucket" not in answer["policy"]["Action"]
    assert answer["policy"]["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]


RIGHTS = {
    "s3:ListBucket": ("list", {"method": "GET", "path": "list-type=2"}),
    "s3:PutObject": ("put", {"method": "PUT", "path": "/object"}),
    "s3:GetObject": ("get", {"method": "GET", "path": "/object"}),
    "s3:DeleteObject": ("delete", {"method": "DELETE", "path": r"/object"}),
    "s3:AbortMultipartUpload": ("abort upload", {"method": "DELETE", "path": "uploadId"}),
    "s3:ListBucketMultipartUploads": ("list uploads", {"method": "GET", "path": r"\?uploads|&uploads"}),
}


@pytest.mark.parametrize("action", RIGHTS)
def test_each_right_that_is_refused_is_in_the_statement_alone(action, bucket, proxied, client, capsys):
    name, requests = RIGHTS[action]
    rule = proxied.add(Answer(403, "AccessDenied"), times=None, **requests)
    code, checks, answer, err = preflight(capsys, "--store", f"s3://{bucket}/p")
    assert rule.hits
    assert answer["policy"]["Action"] == [action]
    assert answer["policy"]["Effect"] == "Allow"
    is_of_bucket = action in ("s3:ListBucket", "s3:ListBucketMultipartUploads")
    assert answer["policy"]["Resource"] == [f"arn:aws:s3:::{bucket}" + ("" if is_of_bucket else "/p/*")]
    assert checks[name]["refused_action"] == action
    if action == "s3:ListBucketMultipartUploads":
        assert (code, checks[name]["result"], err) == (0, "missing", "")
        assert "until a lifecycle rule of the bucket removes it" in checks[name]["advice"]
    else:
        assert (code, checks[name]["result"], err.count("\n")) == (5, "failed", 1)
        assert f": {name}: access denied" in err
    left, uploads = everything(client, bucket)
    if action == "s3:DeleteObject":
        assert f"then remove s3://{bucket}/p/.preflight-" in checks["delete"]["advice"]
        assert all(key.startswith("p/.preflight-") for key, *_ in left)
    else:
        assert left == []
    assert len(uploads) == (action == "s3:AbortMultipartUpload")


def test_the_table_shows_the_statement_to_people(bucket, proxied, capsys):
    proxied.add(Answer(403, "AccessDenied"), method="PUT", times=None)
    assert main(["preflight", "--store", f"s3://{bucket}/p"]) == 5
    out, err = capsys.readouterr()
    table, statement = out.split("gives the rights that were refused:")
    assert json.loads(statement)["Action"] == ["s3:PutObject"]
    rows = {line[: table.index("result")].strip(): line for line in table.splitlines()[1:-2]}
    assert "failed" in rows["put"]
    assert "skipped (put failed)" in rows["overwrite"]
    assert err.startswith("error: ")


FEATURES = {
    "conditional put": ({"method": "PUT", "header": "if-none-match"}, "looks whether a name is free before it writes"),
    "delete of many": ({"method": "POST", "path": r"\?delete"}, "objects are deleted one by one"),
    "list uploads": ({"method": "GET", "path": r"\?uploads|&uploads"}, "until a lifecycle rule"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_that_a_server_lacks_is_no_failure_and_it_is_said_what_happens_instead(
    name, bucket, proxied, client, capsys
):
    requests, says = FEATURES[name]
    rule = proxied.add(Answer(501, "NotImplemented"), times=None, **requests)
    code, checks, answer, err = preflight(capsys, "--store", f"s3://{bucket}/p")
    assert rule.hits
    assert (code, answer["ok"], answer["policy"], err) == (0, True, None, "")
    missing = [check for check in checks.values() if check["result"] == "missing"]
    assert [check["name"] for check in missing] == [name]
    assert says in missing[0]["advice"]
    assert everything(client, bucket) == ([], [])


def test_encryption_is_tried_when_asked_for_and_fails_only_when_required(bucket, s3_env, client, capsys, s3_server):
    if not isinstance(s3_server, SwiftS3):
        pytest.skip("Swift is the server without encryption")
    line = ["--store", f"s3://{bucket}/p", "--set", "s3.encryption=AES256"]
    code, checks, *_ = preflight(capsys, *line)
    assert (code, checks["put"]["result"], checks["encryption"]["result"]) == (0, "ok", "missing")
    assert checks["encryption"]["advice"].endswith("(NotImplemented); objects are written without it")
    code, checks, _, err = preflight(capsys, *line, "--set", "s3.encryption_required=true")
    assert (code, checks["encryption"]["result"], checks["list after put"]["result"]) == (5, "failed", "ok")
    assert "encryption: the server does not know this (NotImplemented); use another server" in err
    assert everything(client, bucket) == ([], [])


def test_a_key_that_may_not_be_used_is_a_refused_right_of_kms(bucket, proxied, capsys):
    proxied.add(Answer(403, "AccessDenied"), method="PUT", header="x-amz-server-side-encryption: aws:kms", times=None)
    line = ["--set", "s3.encryption=aws:kms", "--set", "s3.kms_key=1234-abcd"]
    code, checks, answer, _ = preflight(capsys, "--store", f"s3://{bucket}/p", *line)
    assert (code, checks["put"]["result"], checks["encryption"]["result"]) == (5, "ok", "failed")
    assert answer["policy"]["Action"] == ["kms:GenerateDataKey"]
    assert answer["policy"]["Resource"] == ["arn:aws:kms:*:*:key/1234-abcd"]


@pytest.mark.parametrize(
    ("keys", "store", "says"),
    [
        (("{known}", "wrong"), "{bucket}", "bucket: the server does not accept the keys (SignatureDoesNotMatch)"),
        (("nobody", "wrong"), "{bucket}", "bucket: the server "),
        (None, "no-such-bucket-here", "bucket: there is no such bucket (NoSuchBucket)"),
        (("", ""), "{bucket}", "credentials: there are no credentials (NoCredentialsError)"),
    ],
)
def test_what_no_retry_mends_ends_with_five(keys, store, says, bucket, s3_server, s3_env, monkeypatch, capsys):
    if keys:
        for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
            monkeypatch.setenv(name, value.format(known=s3_server.access_key)) if value else monkeypatch.delenv(name)
    code, checks, answer, err = preflight(capsys, "--store", f"s3://{store.format(bucket=bucket)}/p")
    assert code == 5
    assert says in err
    assert err.count("\n") == 1
    assert list(results(checks).values()).count("failed") == 1
    assert checks["put"]["result"] == "skipped"
    assert "wrong" not in err + json.dumps(answer)


@pytest.mark.parametrize("answer", [Answer(200, body="<html><p>Welcome</p></html>", kind="text/html"),
                                    Answer(404, body="not here", kind="text/plain")])  # fmt: skip
def test_a_web_server_is_no_store(answer, bucket, proxied, capsys):
    proxied.add(answer, times=None)
    code, checks, _, err = preflight(capsys, "--store", f"s3://{bucket}/p")
    assert code == 5
    assert "is no S3 server" in err
    assert checks["put"]["result"] == "skipped"


def test_a_server_that_is_away_may_come_back(bucket, proxied, capsys):
    proxied.down()
    code, checks, _, err = preflight(capsys, "--store", f"s3://{bucket}/p")
    proxied.up()
    assert code == 170
    assert results(checks) == dict.fromkeys(checks, "skipped") | {"endpoint": "failed"}
    assert f"endpoint: no connection to {proxied.endpoint} (Connection refused)" in err
    rule = proxied.add(Answer(503, "SlowDown"), method="PUT", path="/only-new", times=None)
    code, checks, _, err = preflight(capsys, "--store", f"s3://{bucket}/p")
    assert rule.hits > 1
    assert code == 170
    assert results(checks)["overwrite"] == "skipped"
    assert "conditional put: the server is overloaded or failing (SlowDown); try again" in err


def test_a_server_that_is_away_is_not_waited_for_longer_than_said(bucket, proxied, capsys):
    rule = proxied.add(Stall(), times=None)
    code, checks, _, err = preflight(capsys, "--store", f"s3://{bucket}/p", "--set", "s3.read_seconds=0.2")
    assert rule.seen == 1
    assert code == 170
    assert checks["endpoint"]["result"] == "failed"
    assert "s3.read_seconds" in err


def test_bytes_that_come_back_changed_are_seen(bucket, proxied, client, capsys):
    rule = proxied.add(Flip(5, answer=True), method="GET", path="/object")
    code, checks, *_ = preflight(capsys, "--store", f"s3://{bucket}/p")
    assert rule.hits == 1
    assert (code, checks["get"]["result"], checks["ranged get"]["result"]) == (5, "failed", "ok")
    assert everything(client, bucket) == ([], [])


def test_a_server_that_ignores_a_condition_is_found_out(bucket, s3_env, capsys, monkeypatch):
    put = Requests.put

    def without(self, name, body, *action, IfNoneMatch="", **how):  # noqa: N803
        return put(self, name, body, *action, **how)

    monkeypatch.setattr(Requests, "put", without)
    code, checks, *_ = preflight(capsys, "--store", f"s3://{bucket}/p")
    assert (code, checks["conditional put"]["result"]) == (0, "missing")
    assert checks["conditional put"]["advice"].startswith("the server overwrites an object in spite of If-None-Match")


@pytest.mark.parametrize(("hours", "says"), [(1, "3600 s ahead of"), (-1, "3600 s behind"), (0.1, "360 s ahead of")])
def test_the_clock_is_compared_with_the_servers(hours, says, bucket, s3_env, monkeypatch, capsys):
    now = time.time
    monkeypatch.setattr(probe_s3.time, "time", lambda: round(now()) + hours * 3600)
    code, checks, _, err = preflight(capsys, "--store", f"s3://{bucket}/p")
    numbers = re.search(r"(\d+) s (ahead of|behind) the server's", checks["clock"]["advice"])
    wanted = says.split()
    assert abs(int(numbers[1]) - int(wanted[0])) <= 2
    assert numbers[2] == " ".join(wanted[2:])
    assert (code, checks["clock"]["result"]) == ((0, "ok") if hours == 0.1 else (5, "failed"))
    assert ("set it (NTP)" in err) == (code == 5)
    assert checks["put"]["result"] == "ok", "the server itself did not mind"


def test_what_was_put_goes_also_when_somebody_interrupts(bucket, s3_env, client, capsys, monkeypatch):
    def interrupt(self):
        assert everything(client, bucket)[0], "there is something by then"
        raise KeyboardInterrupt

    monkeypatch.setattr(probe_s3.S3Probe, "_overwrite", interrupt)
    assert main(["preflight", "--store", f"s3://{bucket}/p"]) == 130
    assert everything(client, bucket) == ([], [])


def test_credentials_of_a_file_and_of_a_container_are_told_apart(
    bucket, s3_server, s3_env, monkeypatch, capsys, tmp_path
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(
        f"[mine]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    line = ["--store", f"s3://{bucket}/p"]
    code, checks, *_ = preflight(capsys, *line, "--set", "s3.profile=mine")
    assert (code, checks["credentials"]["advice"]) == (0, "from file of credentials")
    keys = {"AccessKeyId": s3_server.access_key, "SecretAccessKey": s3_server.secret_key, "Token": "",
            "Expiration": "2099-01-01T00:00:00Z"}  # fmt: skip
    with answering(json.dumps(keys).encode()) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        code, checks, *_ = preflight(capsys, *line)
    assert checks["credentials"]["advice"] == "from container"
    code, checks, _, err = preflight(capsys, *line)
    assert (code, checks["credentials"]["result"]) == (170, "failed")
    assert "credentials: no credentials come from" in err


@contextmanager
def answering(body):
    """A web server of this machine that gives one answer to everything; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys"
        finally:
            server.shutdown()
            thread.join()


def test_the_statement_names_the_partition_and_only_what_was_refused():
    def refused(*actions):
        return [Check("x", False, True, 1.0, "", action) for action in actions]

    assert policy("s3://b/p", [Check("x", True, True, 1.0, "")]) is None
    china = S3Settings(region="cn-north-1", encryption="aws:kms", kms_key="arn:aws-cn:kms:cn-north-1:1:key/k")
    statement = policy("s3://b", refused("kms:Decrypt", "s3:GetObject", "s3:GetObject"), china)
    assert statement == {
        "Effect": "Allow",
        "Action": ["kms:Decrypt", "s3:GetObject"],
        "Resource": ["arn:aws-cn:s3:::b/*", "arn:aws-cn:kms:cn-north-1:1:key/k"],
    }


def test_the_probes_are_functions_for_others(bucket, s3_env, capsys):
    url = f"s3://{bucket}/p"
    checks = probe(open_store(url))
    assert verdict(url, checks) is None
    away = verdict(url, [Check("endpoint", False, True, 1.0, "gone", retry_helps=True)])
    assert (away.exit_code, str(away)) == (170, f"{url}: endpoint: gone")
    both = verdict(url, [*checks, Check("put", False, True, 1.0, "full", retry_helps=True),
                         Check("delete", False, True, 1.0, "denied")])  # fmt: skip
    assert (both.exit_code, str(both)) == (5, f"{url}: delete: denied (and put)")
    assert capsys.readouterr() == ("", "")


def test_preflight_needs_no_torch(tmp_path):
    script = (
        "import sys; from trainer.cli import main; code = main(['preflight', '--store', 's3://a-bucket/p',"
        "'--set', 's3.endpoint=http://127.0.0.1:1']); assert code == 170, code;"
        "sys.exit(', '.join({'torch', 'numpy', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
