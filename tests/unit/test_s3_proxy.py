"""The fault-injecting proxy of the S3 tests: bytes pass unchanged, and each fault does to them what it says."""

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.s3.proxy import Answer, Cut, Fault, FaultProxy, Flip, Reset, Stall

TEXT = bytes(range(256)) * 2048  # more than one piece of the proxy
WAIT_SECONDS = 20


class Objects(BaseHTTPRequestHandler):
    """PUT keeps a body, GET gives it back (`/chunked...` in chunks); `seen` holds method, path and Host header."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]
    seen: list[tuple[str, str, str]]
    ports: set[int]
    port: int

    def do_PUT(self) -> None:
        self._note()
        if "refused" in self.path:
            self._say(403, b"", close=True)
            return
        is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
        size = int(self.headers.get("Content-Length") or 0)
        body = b"".join(self._chunks()) if is_chunked else self.rfile.read(size)
        if is_chunked or len(body) == size:
            self.kept[self.path] = body
            self._say(200, b"")
        else:
            self.kept[self.path + ":torn"] = body

    def do_GET(self) -> None:
        self._note()
        body = self.kept[self.path]
        if not self.path.startswith("/chunked"):
            self._say(200, body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for begin in range(0, len(body), 1000):
            piece = body[begin : begin + 1000]
            self.wfile.write(b"%x;extension=1\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\nTrailer: yes\r\n\r\n")

    def do_HEAD(self) -> None:
        self._note()
        self._say(200, self.kept[self.path])

    def handle_expect_100(self) -> bool:
        if "refused" in self.path:
            self._note()
            self._say(403, b"", close=True)
            return False
        return super().handle_expect_100()

    def _note(self) -> None:
        self.seen.append((self.command, self.path, self.headers["Host"]))
        self.ports.add(self.client_address[1])

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline() != b"\r\n":
            pass

    def _say(self, status: int, body: bytes, *, close: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that vanishes is what these tests are about."""


@pytest.fixture
def objects() -> Iterator[type[Objects]]:
    """The handler class of a running server; `kept` and `seen` are this test's alone."""

    class Mine(Objects):
        kept, seen, ports = {}, [], set()

    server = Server(("127.0.0.1", 0), Mine)
    Mine.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Mine
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(objects: type[Objects]) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{objects.port}") as proxy:
        yield proxy


def _connect(proxy: FaultProxy, timeout: float = WAIT_SECONDS) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=timeout)


def _ask(proxy: FaultProxy, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = _connect(proxy)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_bytes_pass_unchanged_over_one_connection(objects: type[Objects], proxy: FaultProxy) -> None:
    connection = _connect(proxy)
    for path in ("/plain", "/chunked"):
        connection.request("PUT", path, TEXT, headers={"Host": "signed.example:1"})
        assert connection.getresponse().read() == b""
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (int(answer.headers["Content-Length"]), answer.read()) == (len(TEXT), b"")
        connection.request("GET", path)
        assert connection.getresponse().read() == TEXT
    connection.request("PUT", "/sent-in-chunks", iter([TEXT[:70000], TEXT[70000:]]), encode_chunked=True)
    connection.getresponse().read()
    connection.close()
    assert objects.kept["/sent-in-chunks"] == TEXT
    assert objects.seen[0] == ("PUT", "/plain", "signed.example:1")
    assert len(objects.ports) == 1
    assert [request.method for request in proxy.requests] == ["PUT", "HEAD", "GET"] * 2 + ["PUT"]
    assert proxy.hits == 0


@pytest.mark.parametrize("path", ["/taken", "/refused"])
def test_a_client_that_asks_before_it_sends_hears_the_server(
    objects: type[Objects], proxy: FaultProxy, path: str
) -> None:
    host, port = proxy.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as client, client.makefile("rb") as lines:
        client.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
        first = lines.readline()
        if path == "/refused":
            assert first.startswith(b"HTTP/1.1 403")
            assert objects.kept == {}
            return
        assert first.startswith(b"HTTP/1.1 100")
        assert lines.readline() == b"\r\n"
        client.sendall(b"text")
        assert lines.readline().startswith(b"HTTP/1.1 200")
    assert objects.kept == {path: b"text"}


def test_a_refusal_in_the_middle_of_a_body_arrives(objects: type[Objects], proxy: FaultProxy) -> None:
    assert _ask(proxy, "PUT", "/refused", TEXT * 40) == (403, b"")
    assert objects.kept == {}


def test_reset_before_the_server_hears_of_it(objects: type[Objects], proxy: FaultProxy) -> None:
    rule = proxy.add(Reset())
    with pytest.raises(ConnectionResetError):
        _ask(proxy, "GET", "/a")
    assert (rule.hits, objects.seen) == (1, [])
    assert _ask(proxy, "PUT", "/a", b"text") == (200, b"")


def test_reset_within_the_body_of_a_request(objects: type[Objects], proxy: FaultProxy) -> None:
    rule = proxy.add(Reset(body_bytes=300_000))
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        _ask(proxy, "PUT", "/a", TEXT)
    rule.wait()
    assert "/a" not in objects.kept


def test_reset_in_place_of_the_answer(objects: type[Objects], proxy: FaultProxy) -> None:
    rule = proxy.add(Reset(passed=True))
    with pytest.raises(ConnectionResetError):
        _ask(proxy, "PUT", "/a", TEXT)
    assert rule.hits == 1
    assert objects.kept == {"/a": TEXT}


@pytest.mark.parametrize("path", ["/plain", "/chunked"])
@pytest.mark.parametrize("num_bytes", [0, 10, 300_000])
def test_cut_answer(objects: type[Objects], proxy: FaultProxy, path: str, num_bytes: int) -> None:
    objects.kept[path] = TEXT
    rule = proxy.add(Cut(num_bytes), path=path)
    with pytest.raises(http.client.IncompleteRead) as error:
        _ask(proxy, "GET", path)
    whole_chunks = num_bytes // 1000 * 1000  # the client throws a torn chunk away
    assert error.value.partial == TEXT[: num_bytes if path == "/plain" else whole_chunks]
    assert rule.hits == 1


def test_a_fault_that_cannot_strike_does_not_count(objects: type[Objects], proxy: FaultProxy) -> None:
    objects.kept["/short"] = b"text"
    rules = [proxy.add(fault, method="GET") for fault in (Cut(5), Flip(4, answer=True))]
    assert _ask(proxy, "GET", "/short") == _ask(proxy, "GET", "/short") == (200, b"text")
    assert [(rule.seen, rule.hits) for rule in rules] == [(2, 0), (1, 0)]


@pytest.mark.parametrize("is_passed", [False, True])
def test_an_error_in_place_of_the_answer(objects: type[Objects], proxy: FaultProxy, is_passed: bool) -> None:
    rule = proxy.add(Answer(503, "SlowDown", passed=is_passed), times=2)
    connection = _connect(proxy)
    for _ in range(2):
        connection.request("PUT", "/a", TEXT)
        answer = connection.getresponse()
        assert (answer.status, b"<Code>SlowDown</Code>" in answer.read()) == (503, True)
    assert objects.kept == ({"/a": TEXT} if is_passed else {})
    connection.request("PUT", "/a", b"text")
    assert connection.getresponse().status == 200
    connection.close()
    assert rule.hits == 2


def test_an_answer_of_something_that_is_no_s3_server(proxy: FaultProxy) -> None:
    proxy.add(Answer(200, body="<html>Welcome</html>", kind="text/html"), times=None)
    assert _ask(proxy, "GET", "/") == (200, b"<html>Welcome</html>")
    assert _ask(proxy, "HEAD", "/") == (200, b"")


@pytest.mark.parametrize("fault", [Stall(), Stall(passed=True), Stall(body_bytes=1000)])
def test_a_stall_holds_until_it_is_healed(objects: type[Objects], proxy: FaultProxy, fault: Stall) -> None:
    objects.kept["/a"] = TEXT
    rule = proxy.add(fault)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_ask, proxy, "GET", "/a")
        rule.wait()
        assert not asked.done()
        assert bool(objects.seen) == (fault != Stall())
        rule.heal()
        assert asked.result(WAIT_SECONDS) == (200, TEXT)


def test_a_stall_ends_with_its_event_and_leaves_a_client_that_gave_up(objects: type[Objects]) -> None:
    over = threading.Event()
    with FaultProxy(f"http://127.0.0.1:{objects.port}") as proxy:
        proxy.add(Stall(until=over))
        connection = _connect(proxy, timeout=0.05)
        connection.request("PUT", "/a", b"late")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        over.set()
        assert _ask(proxy, "PUT", "/b", b"text") == (200, b"")
    assert objects.kept == {"/b": b"text"}  # every connection has ended


@pytest.mark.parametrize("at", [0, 262_144, len(TEXT) - 1])
def test_a_flipped_bit(objects: type[Objects], proxy: FaultProxy, at: int) -> None:
    wrong = TEXT[:at] + bytes([TEXT[at] ^ 1]) + TEXT[at + 1 :]
    rules = [proxy.add(Flip(at), method="PUT"), proxy.add(Flip(at, answer=True), method="GET")]
    _ask(proxy, "PUT", "/chunked", TEXT)
    assert objects.kept["/chunked"] == wrong
    assert _ask(proxy, "GET", "/chunked") == (200, TEXT)
    assert [rule.hits for rule in rules] == [1, 1]


def test_down_refuses_and_hangs_up_and_up_is_the_same_port(objects: type[Objects], proxy: FaultProxy) -> None:
    objects.kept["/a"] = b"text"
    kept_open = _connect(proxy)
    kept_open.request("GET", "/a")
    kept_open.getresponse().read()
    endpoint = proxy.endpoint
    for _ in range(2):
        proxy.down()
        with pytest.raises(ConnectionRefusedError):
            _ask(proxy, "GET", "/a")
        proxy.up()
        assert (proxy.endpoint, _ask(proxy, "GET", "/a")) == (endpoint, (200, b"text"))
    kept_open.request("GET", "/a")
    with pytest.raises(http.client.RemoteDisconnected):
        kept_open.getresponse()


def test_which_requests_a_rule_takes(objects: type[Objects], proxy: FaultProxy) -> None:
    objects.kept.update({"/a?list=2": b"1", "/b": b"2"})
    fault: Fault = Answer(500, "InternalError")
    by_path = proxy.add(fault, method="GET", path=r"list=\d$", first=2, times=1)
    by_header = proxy.add(fault, header=r"^x-amz-thing: (?!none)", times=None)
    assert [_ask(proxy, "GET", "/a?list=2")[0] for _ in range(3)] == [200, 500, 200]
    assert _ask(proxy, "GET", "/b") == (200, b"2")
    connection = _connect(proxy)
    statuses = []
    for _ in range(2):
        connection.request("GET", "/b", headers={"X-Amz-Thing": "some"})
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
        by_header.heal()
    connection.close()
    assert statuses == [500, 200]
    assert (by_path.seen, by_path.hits, by_header.hits, proxy.hits) == (3, 1, 1, 2)


def test_waiting_for_a_fault_that_never_comes_fails(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = proxy.add(Reset())
    with monkeypatch.context() as patched:
        patched.setattr("tests.s3.proxy.WAIT_SECONDS", 0)
        with pytest.raises(TimeoutError, match="struck 0 of 1 times"):
            rule.wait()
