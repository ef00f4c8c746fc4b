"""Fixtures of the tests on a real cluster, that of the current context. A part that is missing is a skip that says so.

E2E_IMAGE           the trainer's image on the nodes, signs-trainer:dev
E2E_SHELL_IMAGE     one with a shell to look into volumes, local/busybox:1
E2E_DISPOSABLE=1    the cluster may be touched outside the tests' own namespaces
S3_ENDPOINT_URL, S3_ENDPOINT_URL_IN_CLUSTER, S3_BUCKET, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
PROMETHEUS_URL      a Prometheus of the cluster that takes monitors and rules of every namespace
"""

import json
import os
import secrets
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.e2e.prometheus import Prometheus
from tests.e2e.releases import TINY, Release, Values, image_values, merged, missing_command
from trainer.checkpoint.store import Store
from trainer.checkpoint.stores import open_store
from trainer.config.s3 import S3Settings
from trainer.telemetry.reading import Record, read_run

if TYPE_CHECKING:
    from tests.e2e.kube import Kube

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SECRET = "s3-keys"
MONITORING_API = "monitoring.coreos.com/v1"


@pytest.fixture(scope="session")
def cluster() -> "Kube":
    """The cluster, with the training operator."""
    pytest.importorskip("kubernetes", reason="the cluster is asked with the kubernetes client (extra kube)")
    from tests.e2e.kube import Kube

    try:
        kube = Kube()
    except Exception as error:
        pytest.skip(f"no cluster: {str(error).splitlines()[0]}")
    if not kube.has_operator():
        pytest.skip("the cluster has no training operator")
    return kube


@pytest.fixture(scope="session")
def disposable() -> None:
    """For tests that reach outside their own namespace: drain, restart of the S3 server, patch of the operator."""
    if os.environ.get("E2E_DISPOSABLE") != "1":
        pytest.skip("touches the cluster outside its own namespace; E2E_DISPOSABLE=1 allows it")


@pytest.fixture(scope="session")
def image(cluster: "Kube") -> str:
    """The trainer's image; without it on a node nothing here can run."""
    name = os.environ.get("E2E_IMAGE", "signs-trainer:dev")
    if not cluster.has_image(name):
        pytest.skip(f"no node has the image {name}: `make image TAG=dev`, load it, or set E2E_IMAGE")
    return name


@pytest.fixture(scope="session")
def shell_image(cluster: "Kube") -> str:
    """An image with `sh`, `find` and `cat`."""
    name = os.environ.get("E2E_SHELL_IMAGE", "local/busybox:1")
    if not cluster.has_image(name):
        pytest.skip(f"no node has the image {name}, which looks into volumes; set E2E_SHELL_IMAGE")
    return name


@pytest.fixture(scope="session")
def make_namespace(cluster: "Kube") -> Iterator[Callable[..., str]]:
    """`make_namespace("faults", restricted=False)`: a fresh one, gone with everything in it when the tests end."""
    made: list[str] = []

    def make(prefix: str, *, restricted: bool = True) -> str:
        made.append(cluster.make_namespace(f"e2e-{prefix}", restricted=restricted))
        return made[-1]

    yield make
    for name in made:
        cluster.core.delete_namespace(name)


def _short(request: pytest.FixtureRequest) -> str:
    return str(request.module.__name__).rpartition(".")[2].removeprefix("test_").replace("_", "-")[:20]


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest, make_namespace: Callable[..., str]) -> str:
    """The module's own, with Pod Security `restricted` enforced: for one pod, and for elastic workers."""
    return make_namespace(_short(request))


@pytest.fixture(scope="module")
def plain_namespace(request: pytest.FixtureRequest, make_namespace: Callable[..., str]) -> str:
    """The module's own without Pod Security: the operator's init container of Workers needs it as it comes."""
    return make_namespace(f"{_short(request)}-plain", restricted=False)


@dataclass(frozen=True)
class S3:
    """A store in S3 of one test module, as pods and as the desk see it."""

    url: str
    """s3://bucket/prefix"""
    endpoint: str
    """As pods see it."""
    desk_endpoint: str
    keys: dict[str, str] = field(repr=False)
    secret: str = SECRET

    @property
    def values(self) -> Values:
        """Of the chart; the Secret must be in the release's namespace (`make_secret`)."""
        config = {"run": {"store": self.url}, "s3": {"endpoint": self.endpoint}}
        return {"config": config, "s3": {"existingSecret": self.secret}}

    def make_secret(self, cluster: "Kube", namespace: str) -> None:
        cluster.make_secret(namespace, self.secret, self.keys)

    def store(self) -> Store:
        return open_store(self.url, S3Settings(endpoint=self.desk_endpoint))

    def records(self, run: str) -> list[Record]:
        """The run's ledger."""
        return read_run(self.store(), run)


@pytest.fixture(scope="module")
def s3(request: pytest.FixtureRequest) -> Iterator[S3]:
    """A prefix of the S3 server, emptied when the module ends; `s3.make_secret(cluster, namespace)` puts keys there."""
    wanted = ("S3_ENDPOINT_URL", "S3_ENDPOINT_URL_IN_CLUSTER", "S3_BUCKET", *KEYS)
    if missing := [name for name in wanted if name not in os.environ]:
        pytest.skip(f"no S3 server: {', '.join(missing)} not set")
    url = f"s3://{os.environ['S3_BUCKET']}/e2e-{_short(request)}-{secrets.token_hex(3)}"
    keys = {name: os.environ[name] for name in KEYS}
    found = S3(url, os.environ["S3_ENDPOINT_URL_IN_CLUSTER"], os.environ["S3_ENDPOINT_URL"], keys)
    yield found
    store = found.store()
    store.delete([entry.key for entry in store.entries("")])


@pytest.fixture(scope="session")
def prometheus(cluster: "Kube") -> Prometheus:
    """The cluster's own, with its operator."""
    if "PROMETHEUS_URL" not in os.environ:
        pytest.skip("PROMETHEUS_URL names no Prometheus of the cluster")
    if not cluster.dynamic.resources.search(api_version=MONITORING_API, kind="PodMonitor"):
        pytest.skip(f"the cluster has no {MONITORING_API}: no Prometheus operator")
    found = Prometheus(os.environ["PROMETHEUS_URL"])
    try:
        found.api("status/buildinfo")
    except urllib.error.URLError as error:
        pytest.skip(f"no Prometheus at {found.url}: {error.reason}")
    return found


@pytest.fixture(scope="session")
def make_release(cluster: "Kube", image: str) -> Callable[..., Release]:
    """`make_release("train", namespace)`: a release of the chart with the image and tiny values, not installed yet.

    `base={}` leaves everything but the image at the chart's defaults. It goes with its namespace.
    """
    if problem := missing_command("helm"):
        pytest.skip(problem)

    def make(name: str, namespace: str, base: Values = TINY) -> Release:
        return Release(name, namespace, merged(base, image_values(image)))

    return make


@pytest.fixture(scope="module")
def helm(make_release: Callable[..., Release], namespace: str) -> Callable[..., Release]:
    """`helm("train", values, ...)`: a release installed in the module's namespace, tiny but for these values."""

    def install(name: str, *values: Values, into: str | None = None, base: Values = TINY) -> Release:
        release = make_release(name, into or namespace, base)
        release.install(*values)
        return release

    return install


@pytest.fixture(scope="session")
def look(cluster: "Kube", shell_image: str) -> Callable[[str, str, str], str]:
    """`look(namespace, claim, "cat /store/x")`: what a shell command says about a volume."""

    def run(namespace: str, claim: str, command: str) -> str:
        return cluster.look(namespace, claim, command, shell_image)

    return run


@pytest.fixture(scope="session")
def ledger(look: Callable[[str, str, str], str]) -> Callable[[str, str, str], list[Record]]:
    """`ledger(namespace, claim, run)`: all records of a run on a volume, attempt by attempt."""

    def read(namespace: str, claim: str, run: str) -> list[Record]:
        return [json.loads(line) for line in look(namespace, claim, f"cat /store/{run}/ledger/*/*.jsonl").splitlines()]

    return read
