"""The HTTP side of `/metrics`: a thread for each connection, and an end to each of them.

    accept ─► at most 32 connections, the oldest gives way ─► TLS handshake ─► who? ─► page ─► was it read? ─► counted
                      a connection that is 10 s old ends, wherever it hangs

A scrape counts when the scraper has closed its side in order, which it does once it has read the answer: bytes in a
kernel buffer are not in a Prometheus yet.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

from trainer.telemetry.prometheus.auth import Users
from trainer.telemetry.prometheus.pages import Page, Pages

MAX_CONNECTIONS = 32
"""A healthy scrape is over in milliseconds, so that the oldest of so many is one that hangs."""
CONNECTION_SECONDS = 10.0
"""Longest life of a connection: Prometheus' own default for giving up on a scrape."""
POLL_SECONDS = 0.1
"""Between two looks at the age of connections; `close` takes as long."""

TEXT = "text/plain; charset=utf-8"
FRONT_PAGE = b"""<!DOCTYPE html>
<html lang="en"><title>trainer</title><h1>trainer</h1><p><a href="/metrics">Metrics</a> of this process.</p></html>
"""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: "Endpoint"
    wbufsize = -1  # head and body go out together
    page: Page | None = None
    """What was given to a scrape."""

    def setup(self) -> None:
        """The handshake is made here, on the connection's own thread."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        """`/metrics`, `/` for people, `/-/healthy` for probes (to anybody)."""
        path = self.path.partition("?")[0]
        if path == "/-/healthy":
            self._send(200, TEXT, b"ok\n")
        elif self.server.users and not self.server.users.may(self.headers.get("Authorization")):
            self._send(401, TEXT, b"a user and a password are needed\n", WWW_Authenticate='Basic realm="trainer"')
        elif path == "/metrics":
            self._send_metrics()
        elif path == "/":
            self._send(200, "text/html; charset=utf-8", FRONT_PAGE)
        else:
            self._send(404, TEXT, b"there is /metrics\n")

    def do_HEAD(self) -> None:
        """The same without the body."""
        self.do_GET()

    def finish(self) -> None:
        """Close our side and wait for the other one; only then was the answer read. Raises OSError if it was not."""
        self.wfile.flush()
        # Below TLS, whose own farewell not every client answers; what still comes is no concern of ours.
        socket.socket.shutdown(self.request, socket.SHUT_WR)
        while socket.socket.recv(self.request, 1024):
            pass
        super().finish()
        if self.page and self.server.is_open(self.request):
            self.server.scraped(self.page.is_final)

    def version_string(self) -> str:
        """Nothing about versions to strangers."""
        return "trainer"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the training's console is not the place."""

    def _send_metrics(self) -> None:
        try:
            page = self.server.pages.get(self.headers.get("Accept"), self.headers.get("Accept-Encoding"))
        except Exception as error:
            self._send(500, TEXT, f"{type(error).__name__}: {error}\n".encode())
            return
        encoding = {"Content_Encoding": "gzip"} if page.is_gzipped else {}
        self._send(200, page.content_type, page.body, Vary="Accept, Accept-Encoding", **encoding)
        self.page = page if self.command == "GET" else None

    def _send(self, status: int, content_type: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Endpoint(ThreadingMixIn, HTTPServer):
    """Serves pages on a listening socket from a daemon thread; `on_scraped(is_final)` is called from many."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        pages: Pages,
        on_scraped: Callable[[bool], None],
        tls: ssl.SSLContext | None = None,
        users: Users | None = None,
    ) -> None:
        super().__init__(listening.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.pages, self.scraped, self.users = pages, on_scraped, users
        self._tls = tls
        self._open: dict[socket.socket, float] = {}
        """Connections with their beginning, the oldest first."""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no longer and end every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            self._end(connection)

    def is_open(self, connection: socket.socket) -> bool:
        """Whether a connection was not ended from here."""
        return connection in self._open

    def get_request(self) -> tuple[socket.socket, Any]:
        """A new connection; its handshake comes later, where nobody else waits for it."""
        connection, address = self.socket.accept()
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start its thread; where there are too many, the oldest gives way."""
        with self._lock:
            crowd = list(self._open)[: max(0, len(self._open) + 1 - MAX_CONNECTIONS)]
            self._open[request] = time.monotonic()
        for connection in crowd:
            self._end(connection)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End those that are too old; called between two looks for new ones."""
        with self._lock:
            over = time.monotonic() - CONNECTION_SECONDS
            old = [connection for connection, begun in self._open.items() if begun < over]
        for connection in old:
            self._end(connection)

    def shutdown_request(self, request: Any) -> None:
        """Its thread is done with it."""
        with self._lock:
            self._open.pop(request, None)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(request, socket.SHUT_RDWR)
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that broke off, or hung and was ended; the next one comes by itself."""

    def _end(self, connection: socket.socket) -> None:
        """Whatever its thread waits for ends at once, and the thread closes it."""
        with self._lock:
            self._open.pop(connection, None)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
