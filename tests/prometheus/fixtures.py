"""Fixtures with the real programs: `promtool`, `prometheus` (makes servers), `pushgateway`; a skip where they are not.

def test_it(prometheus):
    server = prometheus({"trainer": [{"targets": ["127.0.0.1:9090"]}]})
    server.wait_until("up == 1")
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.prometheus.install import Missing, program
from tests.prometheus.server import PrometheusServer, Pushgateway

__all__ = ["PrometheusServer", "Pushgateway", "prometheus", "prometheus_for_module", "promtool", "pushgateway"]


def _program(name: str) -> Path:
    try:
        return program(name)
    except Missing as error:
        pytest.skip(f"no {name} here: {error}")


@pytest.fixture(scope="session")
def promtool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`promtool("check", "rules", file)` runs it and gives what came out of it; `input=` is its standard input."""
    path = _program("promtool")

    def run(*arguments: object, input: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(path), *map(str, arguments)]
        return subprocess.run(command, input=input, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def prometheus() -> Iterator[Callable[..., PrometheusServer]]:
    """`prometheus(jobs, rules=..., interval="1s", blocks=...)` starts a server that ends with the test."""
    with _servers() as start:
        yield start


@pytest.fixture(scope="module")
def prometheus_for_module() -> Iterator[Callable[..., PrometheusServer]]:
    """As `prometheus`, for servers that the tests of a module share."""
    with _servers() as start:
        yield start


@pytest.fixture
def pushgateway() -> Iterator[Pushgateway]:
    """A Pushgateway of one test, which may stop and start it."""
    _program("prometheus-pushgateway")
    with Pushgateway() as server:
        yield server


@contextmanager
def _servers() -> Iterator[Callable[..., PrometheusServer]]:
    _program("prometheus")
    with ExitStack() as running:
        yield lambda *arguments, **options: running.enter_context(PrometheusServer(*arguments, **options))
