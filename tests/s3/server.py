"""S3 servers for tests: `SwiftS3`, a real one on loopback in a child process, and `GivenS3`, one that runs already.

    with SwiftS3() as server:
        server.client().create_bucket(Bucket="some-bucket")

OpenStack Swift with its S3 API checks signatures and checksums as a production server does. It needs no root, no
/etc/swift and no memcached. What the configuration must say: object-storage reference, section 8.1.
"""

import configparser
import os
import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.s3.install import installed

HOST = "127.0.0.1"
# Signatures before users; multipart uploads are made of `slo`, deletion of many keys of `bulk`.
PIPELINE = (
    "catch_errors gatekeeper listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server"
)


@cache
def _descriptions() -> Any:
    """The SDK's descriptions of S3, read once: a client for every test costs a tenth of a second less."""
    from botocore.loaders import create_loader

    return create_loader()


class GivenS3:
    """A server that somebody else runs: reached, never stopped."""

    can_stop = False

    def __init__(self, endpoint: str, access_key: str, secret_key: str, region: str = "us-east-1") -> None:
        self.endpoint, self.access_key, self.secret_key, self.region = endpoint, access_key, secret_key, region

    def client(self, *, endpoint: str = "", keys: tuple[str, str] | None = None, **config: Any) -> Any:
        """A boto3 client; by way of another `endpoint` (a proxy), with other `keys`, with botocore's `config`."""
        import boto3
        import botocore.session
        from botocore.config import Config

        access_key, secret_key = keys or (self.access_key, self.secret_key)
        base = botocore.session.Session()
        base.register_component("data_loader", _descriptions())
        return boto3.session.Session(botocore_session=base).client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def env(self) -> dict[str, str]:
        """The variables with which any AWS SDK reaches this server and nothing else of this machine's."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent/aws/config",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/aws/credentials",
        }


class SwiftS3(GivenS3):
    """Swift over one folder: `stop()` and `start()` together are an outage, with the same port and the same data.

    `root` is a new temporary folder unless given, removed at the end, also when this process is killed. `keeps_data`
    is False where the file system has no user xattrs: objects then live in memory and an outage loses them.
    """

    can_stop = True
    guest = ("test:guest", "guesting")
    """Keys that are valid but may do nothing; `put_bucket_acl(ACL="public-read")` lets them read and list."""

    def __init__(self, root: Path | None = None) -> None:
        self._is_root_removed = root is None
        self.root = Path(root or tempfile.mkdtemp(prefix="swift-s3-")).absolute()
        self._child: subprocess.Popen[str] | None = None
        # Bound and never listening: during an outage the ports stay ours, and a connection is refused.
        self._held = [held_port() for _ in range(4)]
        self._ports = [held.getsockname()[1] for held in self._held]
        super().__init__(f"http://{HOST}:{self._ports[-1]}", "test:tester", "testing")
        (self.root / "devices" / "disk").mkdir(parents=True, exist_ok=True)
        self.keeps_data = _has_xattrs(self.root)
        self._write_settings()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Returns when the server answers. Raises RuntimeError with its log when it does not come up."""
        assert self._child is None, "the server runs already"
        script = Path(__file__).with_name("serve.py")
        command = [installed(), "-I", "-W", "ignore", script, self.root, *map(str, self._ports)]
        with self.log.open("a") as log:
            self._child = subprocess.Popen(
                [*map(str, command), *(["remove"] if self._is_root_removed else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for pytest, which then ends the server in order
            )
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError(f"Swift did not start; its log:\n{self.log.read_text()}")

    def stop(self) -> None:
        """SIGKILL, as a power cut: what was acknowledged is in files already. No error when it does not run."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def close(self) -> None:
        """Stop, let go of the ports, and remove the folder if it was made here."""
        self.stop()
        for held in self._held:
            held.close()
        if self._is_root_removed:
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def log(self) -> Path:
        """What Swift had to say: warnings and errors."""
        return self.root / "server.log"

    def _write_settings(self) -> None:
        """swift.conf and one file for each server."""
        common = {"swift_dir": str(self.root), "log_level": "ERROR"}
        # fallocate_reserve: the default answers 507 when less than 1 % of the disk is free.
        disk = {"devices": str(self.root / "devices"), "mount_check": "false", "fallocate_reserve": "0"}
        _write_ini(self.root / "swift.conf", {"swift-hash": {"swift_hash_path_suffix": "tests"}})
        for name in ("account", "container", "object"):
            kind = "mem_object" if name == "object" and not self.keeps_data else name
            sections = {"DEFAULT": common | disk, "app:main": {"use": f"egg:swift#{kind}"}}
            _write_ini(self.root / f"{name}.conf", sections)
        admin, guest = (name.replace(":", "_") for name in (self.access_key, self.guest[0]))
        options = {
            "s3api": {"location": self.region, "max_upload_part_num": "10000"},
            "tempauth": {f"user_{admin}": f"{self.secret_key} .admin", f"user_{guest}": self.guest[1]},
            "versioned_writes": {"allow_object_versioning": "true"},
            "proxy-server": {"account_autocreate": "true"},
        }
        sections = {"DEFAULT": common, "pipeline:main": {"pipeline": PIPELINE}}
        for name in PIPELINE.split():
            kind, egg = ("app", "proxy") if name == "proxy-server" else ("filter", name)
            sections[f"{kind}:{name}"] = {"use": f"egg:swift#{egg}", **options.get(name, {})}
        _write_ini(self.root / "proxy.conf", sections)


def held_port() -> socket.socket:
    """A socket bound to a free port: others who set SO_REUSEADDR may bind it, too, the kernel gives it to nobody."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, 0))
    return held


def _has_xattrs(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.probe", b"1")
    except OSError:
        return False
    return True


def _write_ini(path: Path, sections: dict[str, dict[str, str]]) -> None:
    parser = configparser.RawConfigParser(default_section="-")
    parser.read_dict(sections)
    with path.open("w") as file:
        parser.write(file)
