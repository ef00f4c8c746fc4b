"""Serve a registry to Prometheus: open the port, and at the end stay until the final values were scraped.

served = serve(registry, settings, warn)       None, after one warning, where the port or a file cannot be had
...
served.linger(stop.is_asked, seconds)          the last interval of a job is lost otherwise
served.close()
"""

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from trainer.config.prometheus import PrometheusSettings
from trainer.telemetry.prometheus.auth import Users
from trainer.telemetry.prometheus.endpoint import Endpoint
from trainer.telemetry.prometheus.pages import Pages

LOOK_SECONDS = 0.1
"""How soon the wait for the last scrape notices that it is not wanted any more."""


class Served:
    """A registry on a port."""

    def __init__(
        self,
        listening: socket.socket,
        registry: CollectorRegistry,
        tls: ssl.SSLContext | None = None,
        users: Users | None = None,
        linger_scrapes: int = 1,
    ) -> None:
        self.port: int = listening.getsockname()[1]
        self._begun = time.monotonic()
        self._changed = threading.Condition()
        self._num_scrapes = self._num_final_scrapes = 0
        self._linger_scrapes = linger_scrapes
        self._pages = Pages(registry)
        self._endpoint = Endpoint(listening, self._pages, self._scraped, tls, users)

    def linger(self, is_stopping: Callable[[], bool], seconds: float) -> bool:
        """Wait until the values as they are now were scraped often enough; says whether they were.

        Ends when `is_stopping()` or after `seconds`, and at once where nobody came in a longer time before.
        """
        self._pages.finish()
        deadline = time.monotonic() + seconds
        with self._changed:
            is_alone = not self._num_scrapes and time.monotonic() - self._begun > seconds
            while not (is_done := self._num_final_scrapes >= self._linger_scrapes):
                left = deadline - time.monotonic()
                if is_alone or left <= 0 or is_stopping():
                    break
                self._changed.wait(min(left, LOOK_SECONDS))
        return is_done

    def close(self) -> None:
        """Let go of the port; a scrape that is under way is cut off."""
        self._endpoint.close()

    def _scraped(self, is_final: bool) -> None:
        with self._changed:
            self._num_scrapes += 1
            self._num_final_scrapes += is_final
            self._changed.notify_all()


def serve(registry: CollectorRegistry, settings: PrometheusSettings, warn: Callable[[str], None]) -> Served | None:
    """Serve the registry on a thread of its own. Never raises: what is wrong goes to `warn`, once, with None back.

    Certificate, key and users are read now, so that a renewed certificate serves from the next attempt on.
    """
    where = f"{settings.host or '*'}:{settings.port}"
    try:
        tls = _tls(settings)
        users = Users(settings.auth_file) if settings.auth_file else None
        return Served(_listen(settings.host, settings.port), registry, tls, users, settings.linger_scrapes)
    except (OSError, ValueError) as error:
        warn(f"metrics are not served on {where}, training goes on: {error}")
        return None


def _tls(settings: PrometheusSettings) -> ssl.SSLContext | None:
    """Raises OSError that names the files."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:
        raise OSError(f"tls_cert {settings.tls_cert} with tls_key {settings.tls_key}: {error}") from error
    return context


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket: of IPv4 and IPv6 where the host is left out and the machine has both."""
    if host:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        except OSError as error:
            # A kernel may know IPv6 and have no address of it.
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    return socket.create_server(("", port), backlog=128)
