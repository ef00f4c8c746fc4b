"""The chart's own objects in a real Prometheus operator: targets, series to the very last, rules, alerts of a sick run.

A job is made without pods first and let go once Prometheus has the monitor: a run of seconds would else be over before
the operator has told Prometheus of it.
"""

import pytest
import yaml

from charts.tools.values_docs import CHART
from tests.e2e.prometheus import POD_MONITOR, WAITING, of
from tests.e2e.releases import Release, Values

RULES = yaml.safe_load((CHART / "files/alerts/trainer.rules.yaml").read_text("utf-8"))
SEEN: Values = {
    "monitoring": {"intervalSeconds": 5},
    "config": {"telemetry": {"prometheus": {"linger_seconds": 60}}},  # the other tests' runs do not wait
}
SERVICE_MONITOR: Values = {"monitoring": {"serviceMonitor": {"enabled": True}}}
ELASTIC: Values = {"elastic": {"enabled": True}, "worker": {"replicas": 2}}
LONGER: Values = {
    # a pod without the first rank waits for no scrape, so it has to live through some
    "config": {"num_epochs": 400, "passes": {"val": "never and end"}, "checkpoint": {"every": "never and end"}}
}
DIVERGING: Values = {"config": {"optim": {"lr": 1e30, "clip": None}, "telemetry": {"log_every": "every 1 steps"}}}
RUNS: dict[str, tuple[Values, ...]] = {
    # its rules speak of the others, too
    "seen": (POD_MONITOR, {"monitoring": {"prometheusRule": {"enabled": True}}}),
    "served": (SERVICE_MONITOR, ELASTIC, LONGER),
    "sick": (POD_MONITOR, DIVERGING),
}


@pytest.fixture(scope="module")
def releases(prometheus, make_release, namespace) -> dict[str, Release]:
    """All of RUNS, whose pods were let go together once Prometheus waited for them."""
    made = {name: make_release(name, namespace) for name in RUNS}
    for name, release in made.items():
        release.install(SEEN, *RUNS[name], WAITING)
    for name, release in made.items():
        prometheus.wait_for_monitor("serviceMonitor" if SERVICE_MONITOR in RUNS[name] else "podMonitor", release)
    for name, release in made.items():
        release.upgrade(SEEN, *RUNS[name], {"runPolicy": {"suspend": False}})
    return made


@pytest.fixture(scope="module")
def seen(cluster, releases) -> Release:
    """One pod, trained to its end under a PodMonitor."""
    release = releases["seen"]
    cluster.job_until(release.namespace, release.job, "Succeeded")
    return release


def test_the_series_say_whose_they_are(prometheus, seen):
    ((labels, _),) = prometheus.until(of(seen, "trainer_run_info"))
    wanted = {
        "job": seen.name,
        "job_name": seen.job,
        "namespace": seen.namespace,
        "pod": f"{seen.job}-master-0",
        "replica_type": "master",
        "replica_index": "0",
        "run": seen.name,
        "task": "signs",
        "world_size": "1",
    }
    assert {name: labels.get(name) for name in wanted} == wanted


def test_nothing_is_lost_at_the_end(prometheus, seen):
    """The run is over in fewer seconds than some Prometheus takes between two scrapes; the pod waited for it."""
    assert [value for _, value in prometheus.ask(of(seen, "trainer_epoch"))] == [3]
    assert [value for _, value in prometheus.ask(of(seen, "trainer_exit_code"))] == [0]
    assert [value for _, value in prometheus.ask(of(seen, "trainer_phase", phase="done"))] == [1]
    assert [value for _, value in prometheus.ask(of(seen, "trainer_progress_ratio"))] == [1]
    ((_, loss),) = prometheus.ask(of(seen, "trainer_loss", **{"pass": "val"}))
    assert loss > 0


def test_prometheus_has_the_rules_and_can_work_with_them(prometheus, seen):
    wanted = [rule.get("alert") or rule["record"] for group in RULES["groups"] for rule in group["rules"]]

    def evaluated() -> list[dict]:
        rules = prometheus.rules(seen)
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = prometheus.wait_for(evaluated, "rules to be evaluated")
    assert sorted(rule["name"] for rule in rules) == sorted(wanted)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}


def test_a_good_run_raises_no_alarm(prometheus, seen):
    assert prometheus.ask(f'last_over_time(ALERTS{{namespace="{seen.namespace}", run="{seen.name}"}}[1h])') == []


def test_a_service_monitor_has_every_pod_once(cluster, prometheus, releases):
    """The operator's Services have the same port; with those, two of each."""
    release = releases["served"]
    cluster.job_until(release.namespace, release.job, "Succeeded")
    pods = f'namespace="{release.namespace}", job="{release.name}"'
    counted = prometheus.ask(f"count by (pod) (last_over_time(up{{{pods}}}[1h]))")
    assert {labels["pod"]: value for labels, value in counted} == {f"{release.job}-worker-{one}": 1 for one in (0, 1)}
    # the run's own series come from its first process, those of processes from each pod
    assert len(prometheus.ask(of(release, "trainer_epoch"))) == 1
    assert len(prometheus.ask(of(release, "trainer_build_info"))) == 2


def test_a_run_that_diverges_is_reported(cluster, prometheus, releases):
    """By the rules of another release, which speak of every run."""
    release = releases["sick"]
    cluster.job_until(release.namespace, release.job, "Failed")
    firing = f'ALERTS{{alertstate="firing", namespace="{release.namespace}", alertname="%s", %s="%s"}}'
    prometheus.until(firing % ("TrainingNonFiniteLoss", "run", release.name))
    ((labels, _),) = prometheus.until(firing % ("TrainingJobFailed", "job_name", release.job))
    assert labels["severity"] == "critical"
