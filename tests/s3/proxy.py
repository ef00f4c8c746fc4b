"""A proxy between an S3 client and its server that does what networks and busy servers do, when a test says so.

    with FaultProxy(server.endpoint) as proxy:
        rule = proxy.add(Answer(503, "SlowDown"), method="PUT", path=r"/model", first=2, times=3)
        ...                       # talk to proxy.endpoint
        assert rule.hits == 3     # the fault really happened

A fault strikes requests that match its rule; without one, bytes go through unchanged, the Host header included (it is
signed). Requests are seen in `proxy.requests`.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from tests.s3.wire import Change, Exchange, Gone, Head, Peer

WAIT_SECONDS = 90.0
"""Longest wait of a test for something that the proxy should see; a failure, never a pace."""


class Fault(Protocol):
    def play(self, exchange: Exchange, healed: threading.Event) -> None:
        """Lead the exchange, and tell it the moment at which the fault strikes."""
        ...


@dataclass(frozen=True)
class Reset:
    """The connection is reset: before the request reaches the server, after `body_bytes` of its body, or `passed`:
    when the server has done what was asked, in place of its answer."""

    body_bytes: int | None = None
    passed: bool = False

    def play(self, exchange: Exchange, healed: threading.Event) -> None:
        def reset() -> None:
            exchange.strike()
            exchange.end(is_reset=True)

        if self.passed or self.body_bytes is not None:
            exchange.pass_request(self.body_bytes, reset)
            exchange.drop_answer()
        if self.passed or self.body_bytes is None:
            reset()
        exchange.end()  # the body was shorter than that: nothing struck, `hits` stays 0


@dataclass(frozen=True)
class Cut:
    """The answer's body ends after `body_bytes`, whatever its head promised."""

    body_bytes: int

    def play(self, exchange: Exchange, healed: threading.Event) -> None:
        def cut() -> None:
            exchange.strike()
            exchange.end()

        exchange.pass_request()
        exchange.pass_answer(self.body_bytes, cut)


@dataclass(frozen=True)
class Answer:
    """An error of S3 in place of the server's answer; `passed`: the server has done what was asked all the same.

    `body` (and its `kind`) makes it the answer of something that is no S3 server.
    """

    status: int
    code: str = ""
    passed: bool = False
    body: str | None = None
    kind: str = "application/xml"

    def play(self, exchange: Exchange, healed: threading.Event) -> None:
        if self.passed:
            exchange.pass_request()
            exchange.drop_answer()
        else:
            exchange.drop_request()
        exchange.strike()
        text = self.body
        if text is None:
            text = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>by the proxy</Message></Error>"
        lines = [f"HTTP/1.1 {self.status} Fault", f"Content-Type: {self.kind}", f"Content-Length: {len(text.encode())}"]
        exchange.answer("\r\n".join([*lines, "", text]).encode())


@dataclass(frozen=True)
class Stall:
    """Silence until the rule is healed or `until` is set: before the request reaches the server, `passed`: before its
    answer, or after `body_bytes` of the answer's body. A client that has given up meanwhile is left."""

    passed: bool = False
    body_bytes: int | None = None
    until: threading.Event | None = None

    def play(self, exchange: Exchange, healed: threading.Event) -> None:
        def hold() -> None:
            exchange.strike()
            (self.until or healed).wait()
            if exchange.client.is_gone():
                exchange.end()

        if self.body_bytes is not None:
            exchange.pass_request()
            exchange.pass_answer(self.body_bytes, hold)
            return
        if not self.passed:
            hold()
        exchange.pass_request()
        if self.passed:
            exchange.read_answer()
            hold()
        exchange.pass_answer()


@dataclass(frozen=True)
class Flip:
    """One bit of the byte at `at` of a body arrives changed: of the request's, or `answer`: of the answer's."""

    at: int
    answer: bool = False

    def play(self, exchange: Exchange, healed: threading.Event) -> None:
        def flip(piece: bytes, begin: int) -> bytes:
            place = self.at - begin
            if not 0 <= place < len(piece):
                return piece
            exchange.strike()
            return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]

        change: dict[str, Change] = {"change": flip}
        exchange.pass_request(**({} if self.answer else change))
        exchange.pass_answer(**(change if self.answer else {}))


class Rule:
    """Which requests a fault strikes, and how often it did."""

    def __init__(self, fault: Fault, matches: Callable[[Head], bool], first: int, times: int | None) -> None:
        self.fault, self._matches, self._first, self._times = fault, matches, first, times
        self.hits = 0
        """How often the fault struck."""
        self.seen = 0
        """How many requests matched, struck or not."""
        self.healed = threading.Event()
        self._changed = threading.Condition()

    def heal(self) -> None:
        """The fault ends, also for requests that it holds."""
        self.healed.set()

    def wait(self, hits: int = 1) -> None:
        """Returns when the fault has struck that often. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.hits >= hits, WAIT_SECONDS):
                raise TimeoutError(f"{self.fault} struck {self.hits} of {hits} times; {self.seen} requests matched")

    def takes(self, request: Head) -> bool:
        """Whether the fault is this request's; counts it."""
        with self._changed:
            if self.healed.is_set() or not self._matches(request):
                return False
            self.seen += 1
            return self._first <= self.seen and (self._times is None or self.seen < self._first + self._times)

    def strike(self) -> None:
        with self._changed:
            self.hits += 1
            self._changed.notify_all()


class FaultProxy:
    """Listens on a port of its own until the end of the `with` block, `down()` included."""

    def __init__(self, target_endpoint: str) -> None:
        target = urlsplit(target_endpoint)
        assert target.hostname is not None
        assert target.port is not None
        self._target = (target.hostname, target.port)
        self._held = _bound(("127.0.0.1", 0))  # keeps the port while nobody listens
        self._address = self._held.getsockname()
        self.endpoint = f"http://127.0.0.1:{self._address[1]}"
        self.requests: list[Head] = []
        """Every request, in the order of arrival."""
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.heal()
        self.down()
        self._held.close()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "a connection of the proxy does not end"

    def add(
        self,
        fault: Fault,
        *,
        method: str = "",
        path: str = "",
        header: str = "",
        first: int = 1,
        times: int | None = 1,
    ) -> Rule:
        """Strike requests of this `method` whose path and query, and head, hold the regular expressions.

        From the `first` that matches on, `times` in a row (None: until healed). The oldest rule that takes a request
        has it; the others do not count it.
        """

        def matches(request: Head) -> bool:
            is_asked = method in ("", request.method) and re.search(path, request.target) is not None
            return is_asked and re.search(header, request.raw.decode("latin-1"), re.I | re.M) is not None

        rule = Rule(fault, matches, first, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    @property
    def hits(self) -> int:
        """How often any fault struck."""
        return sum(rule.hits for rule in self._rules)

    def heal(self) -> None:
        """End every fault that there is; what waits goes on."""
        for rule in self._rules:
            rule.heal()

    def down(self) -> None:
        """Refuse connections, and hang up on those that are open; the port stays ours."""
        with self._lock:
            listener, self._listener = self._listener, None
            open_now = list(self._open)
        for connection in ([listener] if listener else []) + open_now:
            # Wakes a thread that waits on it; where the other side was first there is nothing to wake.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if listener:
            listener.close()

    def up(self) -> None:
        """Accept connections again, on the same port."""
        assert self._listener is None, "the proxy is up"
        self._listener = _bound(self._address)
        self._listener.listen(128)
        self._start(self._accept, self._listener)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed by down()
                return
            with self._lock:
                is_up = self._listener is listener
                if is_up:
                    self._open.add(connection)
            if is_up:
                self._start(self._serve, connection)
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        """All requests of one client connection, over at most one connection to the server at a time."""
        client, server = Peer(connection), _Server(self._target)
        try:
            while self._exchange(client, server):
                pass
        except Gone:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            server.close()
            client.close()

    def _exchange(self, client: Peer, server: "_Server") -> bool:
        request = client.head()
        with self._lock:
            self.requests.append(request)
            rule = next((rule for rule in self._rules if rule.takes(request)), None)
        exchange = Exchange(request, client, server.reach, rule.strike if rule else lambda: None)
        if rule:
            rule.fault.play(exchange, rule.healed)
        else:
            exchange.pass_request()
            exchange.pass_answer()
        return exchange.goes_on


class _Server:
    """The way to the server, opened when needed and again when the server has closed it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._peer: Peer | None = None

    def reach(self) -> Peer:
        if self._peer is not None and self._peer.has_news():  # between two requests that can only be its end
            self.close()
        if self._peer is None:
            try:
                self._peer = Peer(socket.create_connection(self._address))
            except OSError as error:
                raise Gone from error
        return self._peer

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None


def _bound(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound
