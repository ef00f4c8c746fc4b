"""The task `hierarchy` by the chart: nothing but its name on a volume, and killed in mid-run with a store in S3."""

import re

import pytest

from tests.e2e.prometheus import WAITING, of
from tests.e2e.releases import TINY, Values
from tests.e2e.runs import Trial, desk_weights

LOST_PEER, KILLED = 170, 137
NAMED: Values = {"config": {"task": "hierarchy"}, "monitoring": {"intervalSeconds": 5, "podMonitor": {"enabled": True}}}
LEVELS = ("fine", "mid", "coarse")
WORKER: Values = {"worker": {"replicas": 1}}
SMALL: Values = {
    "resources": TINY["resources"],
    "config": {"output": {"report": False, "export": []}, "telemetry": {"prometheus": {"linger_seconds": 0}}},
}
BALANCED: Values = {
    # all that this task has to take up again: weights and means of the balance, mixed groups, masks, owed passes
    "config": {
        "task": "hierarchy",
        "max_steps": 400,
        "balance": {"kind": "gradnorm", "every": "every 20 steps"},
        "mix": {"probability": "0.5 @ 0", "level": "mid"},
        "mask": {"partial": "0.2 @ 0"},
    }
}


@pytest.fixture(scope="module")
def named(make_release, prometheus, namespace):
    """The task's name and no other setting, without pods until Prometheus waits for them."""
    release = make_release("tree", namespace, base={"resources": TINY["resources"]})
    release.install(NAMED, WAITING)
    return release


@pytest.fixture(scope="module")
def trial(cluster, s3, make_release, plain_namespace, named):
    """`named` is so early because its monitor takes a while."""
    s3.make_secret(cluster, plain_namespace)
    return Trial.start(cluster, s3, make_release("killed", plain_namespace, SMALL), BALANCED, WORKER)


def test_a_rank_is_killed(trial):
    trial.published()
    lives = trial.lives()
    trial.kill_rank(trial.pod("worker"))
    ends = trial.ends_of(lives)
    assert {pod: end["exitCode"] for pod, end in ends.items()} == {trial.pod(): LOST_PEER, trial.pod("worker"): KILLED}
    trial.ended(LOST_PEER)


def test_the_weights_are_those_of_an_undisturbed_run(trial):
    trial.check_end(desk_weights(trial, 2))
    weights = [one["weights"] for one in trial.records() if one["event"] == "StepDone"]
    assert weights[-1].keys() == set(LEVELS)
    assert weights[-1] != weights[0], "else nothing of the balance had to be taken up again"


def test_its_name_alone_gives_a_report_and_a_model(cluster, prometheus, named, look):
    prometheus.wait_for_monitor("podMonitor", named)
    named.upgrade(NAMED, {"runPolicy": {"suspend": False}})
    cluster.job_until(named.namespace, named.job, "Succeeded")
    files = set(look(named.namespace, "tree-store", "cd /store && find . -type f -size +0").split())
    assert {"./tree/COMPLETE.json", "./tree/report/index.html", "./tree/export/tree.json"} <= files
    for kind in ("export/.*[.]onnx", "export/.*[.]pth", "checkpoints/.*/MANIFEST[.]json"):
        assert any(re.fullmatch(f"./tree/{kind}", file) for file in files), kind


def test_its_levels_and_passes_are_series(prometheus, named):
    """After the test before it: the pod has waited for the last scrape."""
    ((labels, _),) = prometheus.ask(of(named, "trainer_run_info"))
    assert labels["task"] == "hierarchy"
    found = prometheus.ask(of(named, "trainer_metric"))
    assert {f"{one['pass']} {one['name']}" for one, _ in found} >= {
        f"{name} {level}/top1" for name in ("train", "val", "val_mask_all", "val_mask_SITE") for level in LEVELS
    }
    assert [value for _, value in prometheus.ask(of(named, "trainer_phase", phase="done"))] == [1]
