"""The S3 server of the tests is a real one: it refuses what must be refused, and an outage loses nothing."""

import base64
import hashlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.s3 import install
from tests.s3.fixtures import GivenS3, SwiftS3

ROOT = Path(__file__).resolve().parents[2]
ONCE = {"total_max_attempts": 1}


def _refusal(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_the_environment_alone_leads_to_the_server(s3_env: dict[str, str], bucket: str) -> None:
    client = boto3.session.Session().client("s3")
    client.put_object(Bucket=bucket, Key="a/b", Body=b"text")
    assert client.get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"text"
    assert {name for name in os.environ if name.startswith("AWS_")} == set(s3_env)


@pytest.mark.parametrize("wrong", ["access key", "secret"])
def test_wrong_keys_are_refused(s3_server: GivenS3, bucket: str, wrong: str) -> None:
    keys = {"access key": ("nobody", s3_server.secret_key), "secret": (s3_server.access_key, "wrong")}[wrong]
    with pytest.raises(ClientError) as error:
        s3_server.client(keys=keys).put_object(Bucket=bucket, Key="a", Body=b"text")
    refusals = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "XAdminUserNotFound"}  # the last one is versitygw's
    assert _refusal(error) in refusals


def test_a_wrong_checksum_is_refused_and_leaves_nothing(s3_server: GivenS3, bucket: str) -> None:
    client = s3_server.client()
    wrong = base64.b64encode(hashlib.sha256(b"another text").digest()).decode()
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=bucket, Key="a", Body=b"text", ChecksumSHA256=wrong)
    assert _refusal(error) == "BadDigest"
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_condition_is_kept_by_put_and_by_multipart(s3_server: GivenS3, bucket: str) -> None:
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="a", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=bucket, Key="a", Body=b"second", IfNoneMatch="*")
    assert _refusal(error) == "PreconditionFailed"
    upload = client.create_multipart_upload(Bucket=bucket, Key="a")["UploadId"]
    where = {"Bucket": bucket, "Key": "a", "UploadId": upload}
    part = client.upload_part(**where, PartNumber=1, Body=b"third")
    assert [found["Key"] for found in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["a"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    with pytest.raises(ClientError) as error:
        client.complete_multipart_upload(**where, MultipartUpload=parts, IfNoneMatch="*")
    assert _refusal(error) == "PreconditionFailed"
    client.abort_multipart_upload(**where)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"first"


def test_many_keys_go_in_one_request_and_a_listing_of_folders_starts_where_it_is_told(
    s3_server: GivenS3, bucket: str
) -> None:
    client = s3_server.client()
    for key in ("a/1", "a/2", "b/1", "c/1", "c/2"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    found = client.list_objects_v2(Bucket=bucket, Delimiter="/", StartAfter="a/~")
    assert [folder["Prefix"] for folder in found["CommonPrefixes"]] == ["b/", "c/"]
    keys = [{"Key": key} for key in ("a/1", "b/1", "never-there")]
    assert "Errors" not in client.delete_objects(Bucket=bucket, Delete={"Objects": keys})
    assert [left["Key"] for left in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/2", "c/1", "c/2"]


def test_an_outage_refuses_connections_and_keeps_port_and_data(own_s3_server: SwiftS3) -> None:
    if not own_s3_server.keeps_data:
        pytest.skip("no user xattrs where temporary folders are: Swift then keeps objects in memory")
    client = own_s3_server.client(retries=ONCE)
    client.create_bucket(Bucket="kept")
    client.put_object(Bucket="kept", Key="a", Body=b"text")
    before = own_s3_server.endpoint
    own_s3_server.stop()
    with pytest.raises(EndpointConnectionError):
        client.get_object(Bucket="kept", Key="a")
    own_s3_server.start()
    assert own_s3_server.endpoint == before
    assert client.get_object(Bucket="kept", Key="a")["Body"].read() == b"text"


def test_guest_keys_may_do_nothing_until_a_bucket_is_opened_for_reading(own_s3_server: SwiftS3) -> None:
    owner, guest = own_s3_server.client(), own_s3_server.client(keys=own_s3_server.guest)
    owner.create_bucket(Bucket="shown")
    owner.put_object(Bucket="shown", Key="a", Body=b"text")
    with pytest.raises(ClientError) as error:
        guest.list_objects_v2(Bucket="shown")
    assert _refusal(error) == "AccessDenied"
    owner.put_bucket_acl(Bucket="shown", ACL="public-read")
    assert guest.list_objects_v2(Bucket="shown")["KeyCount"] == 1
    with pytest.raises(ClientError) as error:
        guest.put_object(Bucket="shown", Key="b", Body=b"text")
    assert _refusal(error) == "AccessDenied"


def test_the_server_and_its_folder_end_with_a_killed_parent() -> None:
    lines = [
        "from tests.s3.server import SwiftS3",
        "server = SwiftS3()",
        "server.start()",
        "print(server.root, flush=True)",
        "input()",
    ]
    parent = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    folder = Path(parent.stdout.readline().strip())
    servers = _processes_of(folder)
    assert len(servers) == 1
    ended = os.pidfd_open(servers[0])
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    _wait_for_end(ended)
    assert not folder.exists()


def _processes_of(folder: Path) -> list[int]:
    def command(process: Path) -> bytes:
        try:
            return (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            return b""

    running = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(path.name) for path in running if str(folder).encode() in command(path).split(b"\0")]


def _wait_for_end(pidfd: int) -> None:
    ready, _, _ = select.select([pidfd], [], [], 30)
    os.close(pidfd)
    assert ready, "the server still runs 30 s after its parent's end"


def test_an_installation_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def fail_in_pip(*command: str) -> None:
        ran.append(command[2])
        if command[2] == "venv":
            Path(command[3]).mkdir()
        elif len(ran) == 2:
            raise RuntimeError("no network")

    monkeypatch.setattr(install, "SERVERS", tmp_path / "servers")
    monkeypatch.setattr(install, "_run", fail_in_pip)
    with pytest.raises(RuntimeError, match="no network"):
        install.installed()
    assert install.installed() == install.installed()
    assert ran == ["venv", "pip", "venv", "pip"]
    assert install.installed().parents[1].is_dir()
