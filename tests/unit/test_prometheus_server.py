"""Serving metrics: who gets what, who is counted, and that nobody who hangs holds up anybody else."""

import base64
import gzip
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from tests.prometheus.server import held_port
from tests.s3.tls import CERTIFICATE, KEY
from trainer.config.prometheus import PrometheusSettings
from trainer.telemetry.prometheus import endpoint, push
from trainer.telemetry.prometheus.auth import hash_line
from trainer.telemetry.prometheus.pages import FRESH_SECONDS, Pages
from trainer.telemetry.prometheus.server import serve

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Gauge("trainer_epoch", "Epochs done.", registry=registry).set(3)
    return registry


@contextmanager
def serving(registry, **settings):
    """A served registry on a free port of loopback, and the warnings there were."""
    warnings = []
    served = serve(registry, PrometheusSettings(**{"port": 0, "host": "127.0.0.1"} | settings), warnings.append)
    assert served, warnings
    try:
        yield served
    finally:
        served.close()
        assert not warnings


def ask(served, path="/metrics", method="GET", **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def values(text):
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def in_background(work):
    thread = ThreadPoolExecutor(1)
    future = thread.submit(work)
    thread.shutdown(wait=False)
    return future


class Counted(Gauge):
    """Tells how often it was looked at."""

    looks = 0

    def collect(self):
        type(self).looks += 1
        return super().collect()


# What is answered


def test_metrics_in_the_formats_that_scrapers_ask_for(registry):
    with serving(registry) as served:
        status, headers, body = ask(served)
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert values(body.decode()) == {"trainer_epoch": 3.0}
        _, headers, body = ask(served, Accept=OPENMETRICS, Accept_Encoding="gzip")
        assert headers["Content-Type"].startswith(OPENMETRICS)
        assert gzip.decompress(body).endswith(b"# EOF\n")


def test_other_paths_and_methods(registry):
    with serving(registry) as served:
        assert ask(served, "/-/healthy")[::2] == (200, b"ok\n")
        assert b'href="/metrics"' in ask(served, "/")[2]
        assert ask(served, "/other")[0] == 404
        assert [ask(served, method=method)[0] for method in ("POST", "PUT", "DELETE", "OPTIONS")] == [501] * 4
        status, headers, body = ask(served, method="HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) == len(ask(served)[2])


@pytest.mark.parametrize("accept", ["", ",;=,", "application/openmetrics-text; version=latest", "text/plain;version=x"])
def test_a_strange_wish_gets_the_plain_format(registry, accept):
    with serving(registry) as served:
        status, headers, body = ask(served, Accept=accept)
        assert (status, values(body.decode())) == (200, {"trainer_epoch": 3.0})
        assert headers["Content-Type"].startswith("text/plain")


def test_a_collector_that_fails_is_an_error_of_that_scrape_alone(registry):
    class Broken:
        def collect(self):
            raise RuntimeError("no such device")

        def describe(self):
            return []

    broken = Broken()
    registry.register(broken)
    with serving(registry) as served:
        assert ask(served)[::2] == (500, b"RuntimeError: no such device\n")
        registry.unregister(broken)
        assert ask(served)[0] == 200


def test_both_kinds_of_address_are_served_where_no_host_is_named(registry):
    with serving(registry, host="") as served:
        for host in ["127.0.0.1"] + (["[::1]"] if socket.has_dualstack_ipv6() else []):
            with urllib.request.urlopen(f"http://{host}:{served.port}/metrics", timeout=20) as answer:
                assert answer.status == 200


# What cannot be had


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_a_port_that_is_taken_is_one_warning(registry, free_port, host):
    with socket.create_server(("127.0.0.1", free_port)):
        warnings = []
        assert serve(registry, PrometheusSettings(port=free_port, host=host), warnings.append) is None
    assert len(warnings) == 1
    assert str(free_port) in warnings[0]
    assert "training goes on" in warnings[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "256.0.0.1"}, "256.0.0.1"),
        ({"tls_cert": "missing.pem", "tls_key": "missing.key"}, "missing.pem"),
        ({"auth_file": "missing.users"}, "missing.users"),
        ({"auth_file": __file__}, f"{__file__}:1 "),
    ],
)
def test_files_and_hosts_that_are_wrong_are_one_warning(registry, settings, named):
    warnings = []
    assert serve(registry, PrometheusSettings(port=0, **settings), warnings.append) is None
    assert len(warnings) == 1
    assert named in warnings[0]


def test_the_port_is_free_again_after_the_end(registry, free_port):
    for _ in range(2):
        with serving(registry, port=free_port) as served:
            assert ask(served)[0] == 200


# Who hangs, and who comes too often


def hanging(served, request=b"GET /metrics HTTP/1.1\r\n\r\n"):
    """A scraper that reads nothing of its answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", served.port))
    client.sendall(request)
    return client


def talk_to(client):
    """Send for as long as somebody takes it."""
    while True:
        client.sendall(b"\n")


def ended(served):
    """The training is over: from now on there is nothing but final values."""
    served.linger(lambda: True, 0.0)


def is_ended(client):
    """Whether the server ends this connection within the test's time."""
    client.settimeout(20)
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    client.close()
    return True


def test_a_scraper_that_hangs_in_the_middle_of_a_response_is_not_counted_and_ended(registry, monkeypatch):
    wide = Gauge("trainer_wide", "Far more than the buffers between two sockets hold.", ["name"], registry=registry)
    for number in range(2_000):
        wide.labels(f"{number}:{'x' * 5_000}")
    with serving(registry) as served:
        ended(served)
        client = hanging(served)
        assert client.recv(15) == b"HTTP/1.0 200 OK"
        assert ask(served, "/-/healthy")[0] == 200
        assert not served.linger(lambda: False, 0.0)
        monkeypatch.setattr(endpoint, "CONNECTION_SECONDS", 0.0)
        assert is_ended(client)
        assert not served.linger(lambda: False, 0.0)


def test_a_scraper_that_breaks_off_is_not_counted(registry):
    with serving(registry) as served:
        ended(served)
        client = hanging(served)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset in place of a farewell
        client.close()
        ask(served, "/-/healthy")
        assert not served.linger(lambda: False, 0.3)


def test_an_answer_that_nobody_has_taken_yet_is_not_counted(registry):
    with serving(registry) as served:
        ended(served)
        client = hanging(served)
        assert client.recv(15) == b"HTTP/1.0 200 OK"
        assert not served.linger(lambda: False, 0.2), "all of it is in buffers, but who knows who reads them"
        client.recv(1 << 16)
        client.close()
        assert served.linger(lambda: False, 20.0)


def test_who_is_ended_before_the_answer_was_taken_is_not_counted(registry, monkeypatch):
    with serving(registry) as served:
        ended(served)
        client = hanging(served)
        assert client.recv(15) == b"HTTP/1.0 200 OK"
        monkeypatch.setattr(endpoint, "CONNECTION_SECONDS", 0.0)
        with pytest.raises(ConnectionError):  # once the server has closed its socket
            talk_to(client)
        assert not served.linger(lambda: False, 0.2)
        client.close()


def test_any_number_of_silent_connections_lets_a_scrape_through(registry, monkeypatch):
    monkeypatch.setattr(endpoint, "CONNECTION_SECONDS", 3600.0)
    with serving(registry) as served:
        silent = [hanging(served, b"GET") for _ in range(2 * endpoint.MAX_CONNECTIONS)]
        assert ask(served)[0] == 200
        assert all(is_ended(client) for client in silent[: endpoint.MAX_CONNECTIONS])
        for client in silent:
            client.close()


def test_pages_are_written_at_most_ten_times_a_second():
    registry, now = CollectorRegistry(), [0.0]
    counted = Counted("trainer_epoch", "Epochs done.", registry=registry)
    pages, before = Pages(registry, lambda: now[0]), Counted.looks
    for number in range(1, 101):
        counted.set(number)
        now[0] = number / 100
        pages.get(None, None)
    assert Counted.looks - before <= 1 / FRESH_SECONDS + 1
    now[0] += FRESH_SECONDS
    counted.set(7)
    assert values(pages.get(None, None).body.decode()) == {"trainer_epoch": 7.0}, "none is older than that"


def test_the_values_of_the_end_are_never_an_old_page():
    registry = CollectorRegistry()
    counter = Counter("trainer_steps", "Steps.", registry=registry)
    pages = Pages(registry, lambda: 0.0)
    assert not pages.get(None, None).is_final
    counter.inc()
    pages.finish()
    page = pages.get(None, None)
    assert page.is_final
    assert values(page.body.decode())["trainer_steps_total"] == 1


def test_a_hundred_scrapes_a_second_are_all_answered_and_hardly_written(registry):
    Counted("trainer_step", "Steps.", registry=registry)
    before = Counted.looks
    with serving(registry) as served, ThreadPoolExecutor(8) as scrapers:
        begun = time.monotonic()
        assert {status for status, _, _ in scrapers.map(lambda _: ask(served), range(100))} == {200}
        assert Counted.looks - before <= (time.monotonic() - begun) / FRESH_SECONDS + 2


# The wait for the last scrape


def test_only_a_scrape_of_the_final_values_ends_the_wait(registry):
    with serving(registry) as served:
        ask(served)
        assert not served.linger(lambda: False, 0.0), "this scrape came before the end"
        ask(served, "/-/healthy")
        ask(served, method="HEAD")
        assert not served.linger(lambda: False, 0.2)
        waiting = in_background(lambda: served.linger(lambda: False, 60.0))
        ask(served)
        assert waiting.result(20)


def test_as_many_scrapes_as_are_asked_for(registry):
    with serving(registry, linger_scrapes=2) as served:
        ended(served)
        waiting = in_background(lambda: served.linger(lambda: False, 60.0))
        ask(served)
        assert not served.linger(lambda: False, 0.0)
        ask(served)
        assert waiting.result(20)


def test_a_stop_ends_the_wait(registry):
    with serving(registry) as served:
        stopping = threading.Event()
        waiting = in_background(lambda: served.linger(stopping.is_set, 60.0))
        assert not waiting.done()
        stopping.set()
        assert not waiting.result(20)


def test_nobody_is_waited_for_longer_than_told_and_not_at_all_who_never_came(registry):
    with serving(registry) as served:
        begun = time.monotonic()
        assert not served.linger(lambda: False, 1.0)
        assert time.monotonic() - begun >= 1.0, "it might have come in that time"
        assert not served.linger(lambda: pytest.fail("who did not come in a longer time will not come now"), 0.5)


# Secrets


@pytest.fixture
def tls(tmp_path):
    (tmp_path / "tls.crt").write_text(CERTIFICATE)
    (tmp_path / "tls.key").write_text(KEY)
    return {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}


def test_over_tls_a_handshake_that_hangs_is_nobody_elses_matter(registry, tls):
    trusted = ssl.create_default_context(cafile=tls["tls_cert"])
    with serving(registry, **tls) as served:
        silent = [hanging(served, b"\x16\x03\x01") for _ in range(3)]
        plain = hanging(served)
        with urllib.request.urlopen(f"https://127.0.0.1:{served.port}/metrics", context=trusted, timeout=20) as answer:
            assert values(answer.read().decode()) == {"trainer_epoch": 3.0}
        waiting = in_background(lambda: served.linger(lambda: False, 60.0))
        while not waiting.done():
            urllib.request.urlopen(f"https://127.0.0.1:{served.port}/metrics", context=trusted, timeout=20).read()
        assert waiting.result()
        assert is_ended(plain), "without TLS there is no answer"
        for client in silent:
            client.close()


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_only_users_of_the_file_with_their_passwords_may_scrape(registry, tmp_path, monkeypatch):
    users = tmp_path / "users"
    users.write_text(f"# who scrapes\n{hash_line('prometheus', 'pässword: long')}\n\n{hash_line('other', 'b')}\n")
    assert "pässword" not in users.read_text()
    with serving(registry, auth_file=str(users)) as served:
        for header in (basic("prometheus", "b"), basic("nobody", "b"), "Basic ???", "Bearer b", "Basic", "Basic /w=="):
            assert ask(served, Authorization=header)[0] == 401, header
        status, headers, _ = ask(served, "/")
        assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="trainer"')
        assert ask(served, "/-/healthy")[0] == 200
        right = basic("prometheus", "pässword: long")
        assert [ask(served, Authorization=header)[0] for header in (right, basic("other", "b"))] == [200, 200]
        # The second time the hash is not computed again: 40 ms of a core for each scrape would be a tax on training.
        monkeypatch.delattr("hashlib.scrypt")
        assert ask(served, Authorization=right)[0] == 200


@pytest.mark.parametrize("line", ["prometheus:secret", ":scrypt$16384$8$1$YQ==$YQ==", "u:scrypt$3$8$1$YQ==$YQ==", ""])
def test_a_file_of_users_that_makes_no_sense_opens_nothing(registry, tmp_path, line):
    (tmp_path / "users").write_text(f"# users\n{line}\n")
    warnings = []
    assert serve(registry, PrometheusSettings(port=0, auth_file=str(tmp_path / "users")), warnings.append) is None
    assert len(warnings) == 1
    assert "secret" not in warnings[0]


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
def test_a_user_name_that_cannot_stand_in_a_line(user):
    with pytest.raises(ValueError, match="user name"):
        hash_line(user, "password")


# Pushgateway


def test_without_a_gateway_nothing_is_pushed(registry):
    assert push.push(registry, PrometheusSettings(), "r", pytest.fail)
    assert push.forget(PrometheusSettings(), "r", pytest.fail)


def test_a_gateway_that_is_down_is_one_warning(registry):
    with held_port() as refusing:
        settings = PrometheusSettings(pushgateway=f"http://127.0.0.1:{refusing.getsockname()[1]}")
        warnings = []
        assert not push.push(registry, settings, "r", warnings.append)
        assert not push.forget(settings, "r", warnings.append)
    assert ["refused" in text and settings.pushgateway in text for text in warnings] == [True, True]


def test_a_gateway_that_says_nothing_is_waited_for_shortly(registry, monkeypatch):
    monkeypatch.setattr(push, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = PrometheusSettings(pushgateway=f"http://127.0.0.1:{silent.getsockname()[1]}")
        warnings, begun = [], time.monotonic()
        assert not push.push(registry, settings, "r", warnings.append)
        assert time.monotonic() - begun < 5
    assert len(warnings) == 1


def test_a_name_server_that_says_nothing_is_waited_for_shortly(registry, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(20) and [])
    monkeypatch.setattr(push, "ANSWER_SECONDS", 0.2)
    warnings = []
    assert not push.push(registry, PrometheusSettings(pushgateway="http://gateway:9091"), "r", warnings.append)
    release.set()
    assert "no answer in 0.2 s" in warnings[0]
