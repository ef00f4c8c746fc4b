"""Fixtures of tests that talk to a real S3 server: `s3_server` (for the session), `bucket`, `s3_env`.

The server starts when a test first asks for it. With TEST_S3_ENDPOINT, TEST_S3_ACCESS_KEY and TEST_S3_SECRET_KEY set
the same tests run against that server; those that must stop it are skipped.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.s3.install import installed
from tests.s3.server import GivenS3, SwiftS3

__all__ = ["GivenS3", "SwiftS3", "bucket", "fresh_bucket", "installed", "own_s3_server", "s3_env", "s3_server"]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[GivenS3]:
    """The server that all tests of this session share; nobody may stop it."""
    if endpoint := os.environ.get("TEST_S3_ENDPOINT"):
        yield GivenS3(endpoint, os.environ["TEST_S3_ACCESS_KEY"], os.environ["TEST_S3_SECRET_KEY"])
        return
    with SwiftS3() as server:
        yield server


@pytest.fixture
def own_s3_server() -> Iterator[SwiftS3]:
    """A server of one test, which may stop, start and damage it."""
    if os.environ.get("TEST_S3_ENDPOINT"):
        pytest.skip("the server of TEST_S3_ENDPOINT is not ours to stop")
    with SwiftS3() as server:
        yield server


@pytest.fixture
def bucket(s3_server: GivenS3) -> Iterator[str]:
    """The name of a fresh, empty bucket."""
    with fresh_bucket(s3_server) as name:
        yield name


@pytest.fixture
def s3_env(s3_server: GivenS3, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of this process leads every AWS SDK to `s3_server`; child processes inherit it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    return s3_server.env()


@contextmanager
def fresh_bucket(server: GivenS3) -> Iterator[str]:
    """A bucket for fixtures of another scope than `bucket`."""
    name, client = f"test-{uuid.uuid4().hex[:16]}", server.client()
    client.create_bucket(Bucket=name)
    yield name
    if not server.can_stop:  # our own server's folder goes as a whole
        _remove(client, name)


def _remove(client: Any, bucket: str) -> None:
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    client.delete_bucket(Bucket=bucket)
