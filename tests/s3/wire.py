"""HTTP/1.1 as bytes on two sockets: heads are passed on as they came (a signature covers them), bodies piece by piece.

`Exchange` is one request and its answer on their way through the proxy; a fault is a list of its verbs.
"""

import re
import select
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

Change = Callable[[bytes, int], bytes]
"""What becomes of a piece of a body, given the piece and where in the body it begins."""
UNTIL_CLOSE = -1
PIECE_BYTES = 256 * 1024


def _same(piece: bytes, at: int) -> bytes:
    return piece


class Gone(Exception):
    """The other side has hung up."""


@dataclass
class Head:
    """First line and headers, as bytes and in parts."""

    raw: bytes

    @property
    def first(self) -> str:
        return self.raw.partition(b"\r\n")[0].decode("latin-1")

    def header(self, name: str) -> str:
        """The value in lower case, empty if there is none."""
        found = re.search(rf"\r\n{name}:[ \t]*([^\r]*)".encode(), self.raw, re.IGNORECASE)
        return found[1].decode("latin-1").strip().lower() if found else ""

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first.split()[1])

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split()[0]

    @property
    def target(self) -> str:
        """Path and query of a request."""
        return self.first.split()[1]

    def is_last(self) -> bool:
        """Whether the connection ends with this message."""
        return self.header("connection") == "close" or "HTTP/1.0" in self.first

    def length(self, otherwise: int) -> int | None:
        """Size of the body in bytes, None when it comes in chunks."""
        if "chunked" in self.header("transfer-encoding"):
            return None
        return int(self.header("content-length") or otherwise)


class Peer:
    """One end of a connection, with what was read too far."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._ahead = b""

    def send(self, piece: bytes) -> None:
        try:
            self.connection.sendall(piece)
        except OSError as error:
            raise Gone from error

    def has_news(self) -> bool:
        """Whether something, if only the end, has come that nobody has read."""
        return bool(self._ahead or select.select([self.connection], [], [], 0)[0])

    def is_gone(self) -> bool:
        """Whether the other side has hung up, even if what it sent before is not read yet."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)  # errors and hang-ups are reported unasked
        return bool(poll.poll(0))

    def read(self, at_most: int) -> bytes:
        if not self._ahead:
            self._ahead = self._receive()
        piece, self._ahead = self._ahead[:at_most], self._ahead[at_most:]
        return piece

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self._ahead:
            self._ahead += self._receive()
        piece, _, self._ahead = self._ahead.partition(mark)
        return piece + mark

    def head(self) -> Head:
        return Head(self.read_until(b"\r\n\r\n"))

    def body(self, length: int | None) -> Iterator[tuple[bytes, bool]]:
        """Pieces and whether each is content (or what frames a chunk)."""
        if length is None:
            yield from self._chunks()
            return
        while length:
            try:
                piece = self.read(PIECE_BYTES if length == UNTIL_CLOSE else min(length, PIECE_BYTES))
            except Gone:
                if length == UNTIL_CLOSE:
                    return
                raise
            length -= len(piece) if length != UNTIL_CLOSE else 0
            yield piece, True

    def _chunks(self) -> Iterator[tuple[bytes, bool]]:
        while True:
            line = self.read_until(b"\r\n")
            yield line, False
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            yield from self.body(size)
            yield self.read_until(b"\r\n"), False
        while (line := self.read_until(b"\r\n")) != b"\r\n":  # trailers
            yield line, False
        yield line, False

    def _receive(self) -> bytes:
        try:
            piece = self.connection.recv(PIECE_BYTES)
        except OSError as error:
            raise Gone from error
        if not piece:
            raise Gone
        return piece

    def close(self, *, is_reset: bool = False) -> None:
        if is_reset:  # lingering for zero seconds means RST in place of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Exchange:
    """One request of `client`, its head read already; `reach` opens (or finds open) the way to the server."""

    def __init__(self, request: Head, client: Peer, reach: Callable[[], Peer], strike: Callable[[], None]) -> None:
        self.request, self.client, self._reach, self.strike = request, client, reach, strike
        self.goes_on = not request.is_last()
        """Whether the connection is good for another request."""
        self._server: Peer | None = None
        self._answer: Head | None = None

    def pass_request(self, at: int | None = None, do: Callable[[], object] = bool, change: Change = _same) -> None:
        """Head and body to the server; `do` is called once when `at` bytes of content are there."""
        self._server = self._reach()
        self._server.send(self.request.raw)
        if self.request.header("expect") == "100-continue" and not self._may_send_body():
            return
        _relay(self._body_of_request(), self._to_server, at, do, change)

    def drop_request(self) -> None:
        """Read the body, for nobody; one that waits to be asked for never comes."""
        if self.request.header("expect") == "100-continue" and not self.client.has_news():
            self.goes_on = False
            return
        _relay(self._body_of_request())

    def read_answer(self) -> None:
        """Wait for the head of the server's answer, so that what was asked has been done."""
        assert self._server is not None
        while self._answer is None or self._answer.status < 200:  # a late "100 Continue" is no answer
            self._answer = self._server.head()

    def pass_answer(self, at: int | None = None, do: Callable[[], object] = bool, change: Change = _same) -> None:
        """To the client; `do` is called once when `at` bytes of content are there."""
        body = self._body_of_answer()
        assert self._answer is not None
        self.client.send(self._answer.raw)
        _relay(body, self.client.send, at, do, change)

    def drop_answer(self) -> None:
        _relay(self._body_of_answer())

    def answer(self, raw: bytes) -> None:
        """Ours in place of the server's."""
        closing = b"" if self.goes_on else b"Connection: close\r\n"
        head, _, body = raw.partition(b"\r\n\r\n")
        self.client.send(head + b"\r\n" + closing + b"\r\n" + (b"" if self.request.method == "HEAD" else body))

    def end(self, *, is_reset: bool = False) -> NoReturn:
        """Hang up on both sides."""
        for peer in (self._server, self.client):
            if peer is not None:
                peer.close(is_reset=is_reset)
        raise Gone

    def _may_send_body(self) -> bool:
        """A client that waits for "100 Continue" gets it, or the answer that comes instead, from the server."""
        assert self._server is not None
        while not self.client.has_news():
            select.select([self.client.connection, self._server.connection], [], [])
            if self._server.has_news():
                self._answer = self._server.head()
                if self._answer.status >= 200:
                    self.goes_on = False
                    return False
                self.client.send(self._answer.raw)
                break
        return True

    def _to_server(self, piece: bytes) -> None:
        """A server that has refused already reads no further: the client must be able to finish and hear it."""
        assert self._server is not None
        if self._answer is not None and self._answer.status >= 200:
            return
        if not self._server.has_news():
            try:
                self._server.send(piece)
                return
            except Gone:  # it may have answered before it hung up
                pass
        self._answer = self._server.head()
        if self._answer.status < 200:  # "100 Continue" for a body that is under way already
            self._to_server(piece)
        else:
            self.goes_on = False

    def _body_of_request(self) -> Iterator[tuple[bytes, bool]]:
        return self.client.body(self.request.length(otherwise=0))

    def _body_of_answer(self) -> Iterator[tuple[bytes, bool]]:
        self.read_answer()
        assert self._server is not None
        assert self._answer is not None
        has_body = self.request.method != "HEAD" and self._answer.status not in (204, 304)
        length = self._answer.length(otherwise=UNTIL_CLOSE) if has_body else 0
        self.goes_on = self.goes_on and length != UNTIL_CLOSE and not self._answer.is_last()
        return self._server.body(length)


def _relay(
    pieces: Iterator[tuple[bytes, bool]],
    send: Callable[[bytes], object] = bool,
    point: int | None = None,
    do: Callable[[], object] = bool,
    change: Change = _same,
) -> None:
    at = 0
    for piece, is_content in pieces:
        if not is_content:
            send(piece)
            continue
        rest = change(piece, at)
        at += len(piece)
        if point is not None and at >= point:
            before = len(rest) - (at - point)
            send(rest[:before])
            do()
            rest, point = rest[before:], None
        send(rest)
