"""A real Prometheus and a real Pushgateway for tests, each a child process on loopback with a folder of its own.

    with PrometheusServer({"trainer": [{"targets": ["127.0.0.1:9090"]}]}, rules=[file]) as server:
        server.wait_until('trainer_epoch == 3')

Targets are known from the start, because Prometheus takes five seconds to look at new ones; one that is not there yet
has `up == 0`, and so tests begin with `server.wait_until("up")`.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlencode

import yaml

from tests.prometheus.install import program
from tests.s3.server import HOST, held_port

WAIT_SECONDS = 30.0
"""Longest wait for something that must come; a failure, never a pace."""
LOOK_SECONDS = 0.05

Answer = TypeVar("Answer")


class Point(NamedTuple):
    """One series at one moment: its labels (`__name__` among them) and its value."""

    labels: dict[str, str]
    value: float
    seconds: float


class Series(NamedTuple):
    """One series over time; `points` are pairs of seconds since the epoch and value."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Server(ABC):
    """A program that serves HTTP at `url` until `close()`, or until this process ends in any way."""

    def __init__(self, name: str) -> None:
        self._program = program(name)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-")).absolute()
        # Bound and never listening: between a stop and a start the port stays ours, and a connection is refused.
        self._held = held_port()
        self.port: int = self._held.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def log(self) -> Path:
        """What the program had to say."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Returns when the server is ready. Raises TimeoutError with its log when it does not come up."""
        assert self._child is None, "the server runs already"
        # The shell waits for its standard input to close, which every end of this process does.
        script = '"$@" & child=$!; cat; kill -KILL $child; wait $child'
        command = ["sh", "-c", script, "sh", str(self._program), *self.arguments()]
        with self.log.open("a") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self.wait_for(self._is_ready, f"{self._program.name} to be ready")

    def stop(self) -> None:
        """SIGKILL; `start()` goes on with the same port and data. No error when it does not run."""
        if self._child is not None:
            # Not by its standard input: a process that a test forked may hold the other end of it, too.
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.communicate()
            self._child = None

    def close(self) -> None:
        """Stop, let go of the port, remove the folder."""
        self.stop()
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def arguments(self) -> list[str]:
        """Of the command line."""

    def get(self, path: str, **parameters: object) -> bytes:
        """The answer to a GET, or to a POST of `parameters` as a form."""
        data = urlencode(parameters).encode() if parameters else None
        with urllib.request.urlopen(self.url + path, data, timeout=WAIT_SECONDS) as answer:
            body: bytes = answer.read()
        return body

    def wait_for(self, look: Callable[[], Answer], what: str, seconds: float = WAIT_SECONDS) -> Answer:
        """What `look` answers as soon as that is true. Raises TimeoutError with the server's last words."""
        deadline, never = time.monotonic() + seconds, threading.Event()
        while not (answer := look()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s for {what}; the log ends:\n{self.log.read_text()[-2000:]}")
            never.wait(LOOK_SECONDS)
        return answer

    def _is_ready(self) -> bool:
        try:
            return bool(self.get("/-/ready"))
        except OSError:
            return False


class PrometheusServer(Server):
    """Prometheus over `jobs` (of the name, entries as in `static_configs`) with `rules` (files), all at `interval`.

    `scrape_configs` are further jobs as Prometheus' own settings have them (TLS, basic auth, honor_labels); `blocks`
    is a folder of TSDB blocks, which it takes as its data.
    """

    def __init__(
        self,
        jobs: dict[str, list[dict[str, Any]]] | None = None,
        rules: Sequence[Path] = (),
        interval: str = "1s",
        blocks: Path | None = None,
        scrape_configs: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__("prometheus")
        # A timeout above the interval is refused.
        times = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        settings = {
            "global": times,
            "rule_files": [str(path.absolute()) for path in rules],
            "scrape_configs": [
                *({"job_name": name, "static_configs": entries} for name, entries in (jobs or {}).items()),
                *scrape_configs,
            ],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        if blocks:
            shutil.copytree(blocks, self.folder / "data")

    def arguments(self) -> list[str]:
        return [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=100y",  # else blocks with old times are removed
            f"--web.listen-address={HOST}:{self.port}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]

    def api(self, path: str, **parameters: object) -> Any:
        """`data` of an answer of /api/v1/<path>. Raises ValueError with what Prometheus says of a bad query."""
        try:
            answer = json.loads(self.get(f"/api/v1/{path}", **parameters))
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from error
        return answer["data"]

    def query(self, expression: str, at: float | None = None) -> list[Point]:
        """Every series of an expression, now or at a moment (seconds since the epoch)."""
        data = self.api("query", query=expression, **({} if at is None else {"time": at}))
        if data["resultType"] == "scalar":
            data = {"result": [{"metric": {}, "value": data["result"]}]}
        return [Point(one["metric"], float(one["value"][1]), float(one["value"][0])) for one in data["result"]]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Every series of an expression from `start` to `end`, every `step` seconds."""
        return _series(self.api("query_range", query=expression, start=start, end=end, step=step))

    def samples(self, selector: str, at: float, back: str = "1000d") -> list[Series]:
        """The stored samples of a selector, as they were written, within `back` before `at`."""
        return _series(self.api("query", query=f"{selector}[{back}]", time=at))

    def alerts(self, state: str = "firing") -> dict[str, dict[str, str]]:
        """Labels of the alerts in this state (`pending`, `firing`), by name."""
        found = (alert for alert in self.api("alerts")["alerts"] if alert["state"] == state)
        return {alert["labels"]["alertname"]: alert["labels"] for alert in found}

    def wait_until(self, expression: str, seconds: float = WAIT_SECONDS) -> list[Point]:
        """The result of an expression as soon as it has one. Raises TimeoutError."""
        return self.wait_for(lambda: self.query(expression), expression, seconds)


class Pushgateway(Server):
    """A Pushgateway; it forgets everything when it stops."""

    def __init__(self) -> None:
        super().__init__("prometheus-pushgateway")

    def arguments(self) -> list[str]:
        return [f"--web.listen-address={HOST}:{self.port}", "--log.level=warn"]

    def groups(self) -> list[dict[str, str]]:
        """The grouping keys of what it holds."""
        return [group["labels"] for group in json.loads(self.get("/api/v1/metrics"))["data"]]


def _series(data: Any) -> list[Series]:
    return [Series(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in data["result"]]
