"""Real runs before a real Prometheus and a real Pushgateway: how they ended is seen there."""

import os
import re
import ssl
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from tests.prometheus.server import WAIT_SECONDS, held_port
from tests.s3.tls import CERTIFICATE, KEY
from tests.toy import Attempt, Pace, toy_settings
from trainer.checkpoint.stores import open_store
from trainer.config.prometheus import PrometheusSettings
from trainer.telemetry.prometheus.auth import hash_line
from trainer.telemetry.prometheus.backfill import replay
from trainer.telemetry.prometheus.push import forget, push
from trainer.telemetry.prometheus.server import serve
from trainer.telemetry.reading import read_run

HOST = "127.0.0.1"
ENDS_SECONDS = 30
"""Far more than any of these runs needs, far less than the waits that they must not wait."""
OF_THE_MOMENT = re.compile("timestamp|duration|data_wait|seconds|memory|s3_requests|phase")
"""Families whose values differ between two looks at them, or between what happened and what was written down."""


def exporting(folder, port, **settings):
    """Settings of a toy run that serves its metrics."""
    prometheus = {"enabled": "on", "port": port, "host": HOST, "linger_seconds": 600.0} | settings
    return toy_settings(folder, telemetry__prometheus=prometheus)


def ended(attempt, seconds=ENDS_SECONDS):
    """Exit codes of an attempt that must end in this time."""
    begun = time.monotonic()
    codes = attempt.wait()
    assert time.monotonic() - begun < seconds
    return codes


@pytest.fixture(scope="module")
def ports():
    """Two ports that are kept for the targets of Prometheus."""
    with ExitStack() as held:
        yield [held.enter_context(held_port()).getsockname()[1] for _ in range(2)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory, ports):
    """TLS and one user: settings of the trainer, and those of Prometheus."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "tls.crt").write_text(CERTIFICATE)
    (folder / "tls.key").write_text(KEY)
    (folder / "users").write_text(hash_line("prometheus", "secret"))
    ours = PrometheusSettings(
        host=HOST,
        port=ports[1],
        tls_cert=str(folder / "tls.crt"),
        tls_key=str(folder / "tls.key"),
        auth_file=str(folder / "users"),
    )
    theirs = {
        "job_name": "secured",
        "scheme": "https",
        "tls_config": {"ca_file": ours.tls_cert},
        "basic_auth": {"username": "prometheus", "password": "secret"},
    }
    return ours, theirs


@pytest.fixture(scope="module")
def scraper(prometheus_for_module, ports, secured):
    """A Prometheus that looks at both ports every second, and has begun to."""
    secure = secured[1] | {"static_configs": [{"targets": [f"{HOST}:{ports[1]}"]}]}
    server = prometheus_for_module({"run": [{"targets": [f"{HOST}:{ports[0]}"]}]}, scrape_configs=[secure])
    server.wait_until("count(up) == 2")
    return server


def test_a_run_shorter_than_the_interval_is_seen_to_its_end(scraper, ports, tmp_path):
    settings = exporting(tmp_path, ports[0])
    assert ended(Attempt(settings)) == [0]

    def last(selector):
        return {tuple(sorted(point.labels.items())): point.value for point in scraper.query(selector)}

    [value] = last('last_over_time(trainer_epoch{run="toy"}[1m])').values()
    assert value == settings.num_epochs
    [value] = last('last_over_time(trainer_exit_code{run="toy"}[1m])').values()
    assert value == 0
    assert scraper.query('last_over_time(trainer_phase{phase="done"}[1m])')[0].value == 1

    # What the ledger says is what Prometheus saw.
    recording = replay(read_run(open_store(settings.run.store), "toy"), "toy")
    told = {}
    for family in text_string_to_metric_families(b"".join(recording.text()).decode().replace("# EOF\n", "")):
        for one in family.samples:  # an empty label is none to Prometheus
            told[one.name, *sorted(label for label in one.labels.items() if label[1])] = one.value
    seen = {
        (labels.pop("__name__"), *sorted((name, labels[name]) for name in labels.keys() - {"job", "instance"})): value
        for labels, value, _ in scraper.query('last_over_time({run="toy",__name__=~"trainer_.*"}[1m])')
    }
    compared = {key for key in seen if not OF_THE_MOMENT.search(key[0])}
    assert len(compared) > 40
    assert {key: told.get(key) for key in compared} == {key: seen[key] for key in compared}
    assert {key for key in told if not OF_THE_MOMENT.search(key[0])} == compared


def test_over_tls_with_a_password(scraper, secured):
    registry = CollectorRegistry()
    Gauge("trainer_secured", "Seen only by who may.", registry=registry).set(7)
    served = serve(registry, secured[0], pytest.fail)
    try:
        assert served.linger(lambda: False, WAIT_SECONDS)
        assert scraper.wait_until("trainer_secured")[0].value == 7
        context = ssl.create_default_context(cafile=secured[0].tls_cert)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"https://{HOST}:{served.port}/metrics", context=context, timeout=WAIT_SECONDS)
    finally:
        served.close()


def test_where_nobody_scrapes_the_run_ends_in_time(tmp_path, free_port):
    begun = time.monotonic()
    assert ended(Attempt(exporting(tmp_path, free_port, linger_seconds=2.0))) == [0]
    assert time.monotonic() - begun >= 2.0


# Pushgateway


def pushed(gateway):
    """Values of what a gateway holds, without what it adds by itself."""
    families = text_string_to_metric_families(gateway.get("/metrics").decode())
    return {
        (sample.name, sample.labels["run"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("trainer_") and len(sample.labels) <= 4
    }


def test_a_push_replaces_the_group_of_its_run_and_no_other(pushgateway, monkeypatch):
    monkeypatch.setenv("POD_NAMESPACE", "ml")
    settings = PrometheusSettings(pushgateway=pushgateway.url, push_job="nightly")

    def registry(*names):
        made = CollectorRegistry()
        for number, name in enumerate(names):
            Gauge(f"trainer_{name}", name, ["run"], registry=made).labels("a").set(number)
        return made

    assert push(registry("epoch", "step"), settings, "a", pytest.fail)
    assert push(registry("epoch"), settings, "b", pytest.fail)
    assert {"job": "nightly", "namespace": "ml", "run": "a"} in pushgateway.groups()
    assert push(registry("loss", "epoch"), settings, "a", pytest.fail)
    assert pushed(pushgateway) == {("trainer_loss", "a"): 0, ("trainer_epoch", "a"): 1, ("trainer_epoch", "b"): 0}
    assert forget(settings, "a", pytest.fail)
    assert forget(settings, "never-pushed", pytest.fail)
    assert pushed(pushgateway) == {("trainer_epoch", "b"): 0}


def test_the_end_of_a_run_is_pushed_and_forgotten_at_its_next_start(pushgateway, tmp_path, free_port):
    settings = exporting(tmp_path, free_port, pushgateway=pushgateway.url, linger_seconds=0.0)
    assert ended(Attempt(settings)) == [0]
    assert pushed(pushgateway)["trainer_exit_code", "toy"] == 0
    assert pushed(pushgateway)["trainer_epoch", "toy"] == 3

    pace = Pace()
    longer = Attempt(settings.model_copy(update={"num_epochs": 4, **pace.settings}))
    pace.let(1)
    assert pushgateway.groups() == [], "while the run goes on, an old end must not be shown"
    pace.free()
    assert ended(longer) == [0]
    assert pushed(pushgateway)["trainer_epoch", "toy"] == 4


def test_a_gateway_that_is_down_costs_a_warning(pushgateway, tmp_path, free_port, capfd):
    pushgateway.stop()
    settings = exporting(tmp_path, free_port, pushgateway=pushgateway.url, linger_seconds=0.0)
    assert ended(Attempt(settings)) == [0]
    assert "does not have the final values" in capfd.readouterr().err
    assert os.path.isfile(tmp_path / "toy" / "COMPLETE.json")
