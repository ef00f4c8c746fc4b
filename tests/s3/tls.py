"""TLS in front of a server that has none, with a certificate for 127.0.0.1 that nobody trusts."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

# For tests alone; it opens nothing.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKrXP1c7RcAcfo2OH
ZgvJ6ch8qWl1/HJz3CBG0c0gwlqhRANCAAREKrrGBwX0mmDUOK8OFct+am32s4ou
LNsMYO7mpbOprKumXB+V77KNozG89Swbj5Ow1/kKVBbpHWcj+hR6ji1V
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBlDCCATmgAwIBAgIUCJjWb5StEmIpxZ73Nk4Vv2KgtTowCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFdGVzdHMwIBcNMjYxMTIxMTYzNTAxWhgPMjEyNjEwMjgxNjM1
MDFaMBAxDjAMBgNVBAMMBXRlc3RzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
RCq6xgcF9Jpg1DivDhXLfmpt9rOKLizbDGDu5qWzqayrplwfle+yjaMxvPUsG4+T
sNf5ClQW6R1nI/oUeo4tVaNvMG0wHQYDVR0OBBYEFFxsefh8PFdLstZPpOZ1wPEZ
9O5YMB8GA1UdIwQYMBaAFFxsefh8PFdLstZPpOZ1wPEZ9O5YMA8GA1UdEwEB/wQF
MAMBAf8wGgYDVR0RBBMwEYcEfwAAAYIJbG9jYWxob3N0MAoGCCqGSM49BAMCA0kA
MEYCIQDWXfj8BB4k6wLms1dGsKgzn2B4RAXY8QzvbiTVSp9zaAIhALpdEaDtJ8PX
p3Fhu3sbPvu5vUi/whyHdYgYdh+hfav4
-----END CERTIFICATE-----
"""


class TlsFront:
    """Listens until the end of the `with` block and passes bytes on; `ca_bundle` is a file that makes it trusted."""

    def __init__(self, target_endpoint: str, folder: Path) -> None:
        parts = urlsplit(target_endpoint)
        self._target = (parts.hostname, parts.port)
        self.ca_bundle = folder / "certificate.pem"
        self.ca_bundle.write_text(CERTIFICATE)
        key = folder / "key.pem"
        key.write_text(KEY)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.ca_bundle, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.endpoint = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(self._target) as server,
        ):
            back = threading.Thread(target=_pass, args=(server, client), daemon=True)
            back.start()
            _pass(client, server)
            back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
