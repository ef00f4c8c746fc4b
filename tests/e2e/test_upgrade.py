"""Upgrades and rollbacks of a release: what starts a new job, with which checkpoint it goes on, and what is refused."""

from functools import partial

import pytest

from trainer.telemetry.reading import select

LONG = {"config": {"num_epochs": 100_000, "checkpoint": {"every": "every 20 steps"}}}


def master_of(job):
    return f"{job}-master-0"


def uid_of(cluster, namespace, pod):
    return cluster.core.read_namespaced_pod(pod, namespace).metadata.uid


@pytest.fixture(scope="module")
def started(make_release, namespace):
    """Releases of all tests here, so that they train at once."""
    releases = {name: make_release(name, namespace) for name in ("labelled", "longer", "other")}
    releases["labelled"].install(LONG)
    releases["longer"].install()
    releases["other"].install()
    return releases


def ends_of(records):
    """(attempt, status, step) of every attempt that said how it ended."""
    return [(one["attempt"][:4], one["code"], one["step"]) for one in select(records, "AttemptEnded")]


def test_more_epochs_go_on_from_the_last_checkpoint_and_a_rollback_finds_them_done(cluster, started, namespace, ledger):
    release = started["longer"]
    first = release.job
    succeeded = partial(cluster.job_until, namespace, seconds=300)
    succeeded(first, "Succeeded")

    notes = release.upgrade({"config": {"num_epochs": 5}})
    second = release.job
    assert second != first
    assert f"The job {second} takes the place of the one before it" in notes
    succeeded(second, "Succeeded")
    records = ledger(namespace, "longer-store", "longer")
    (resumed,) = select(records, "Resumed")
    last = max(one["step"] for one in records if one["attempt"].startswith("0001"))
    assert (resumed["step"], resumed["redone_steps"], resumed["attempt"][:4]) == (last, 0, "0002")
    assert last == 12
    assert ends_of(records) == [("0001", 0, 12), ("0002", 0, 20)]
    cluster.wait_gone(namespace, master_of(first))

    release.rollback(1)
    assert release.job == first
    assert "longer is complete already" in cluster.follow(namespace, master_of(first), "complete")
    succeeded(first, "Succeeded")
    assert ledger(namespace, "longer-store", "longer") == records
    cluster.wait_gone(namespace, master_of(second))


def test_another_learning_rate_is_refused_with_the_difference(cluster, started, namespace, ledger):
    release = started["other"]
    cluster.job_until(namespace, release.job, "Succeeded")
    other = {"config": {"optim": {"lr": 0.01}}}
    release.upgrade(other)
    refused = release.job
    cluster.job_until(namespace, refused, "Failed")
    end = cluster.end_of(namespace, master_of(refused))
    assert end["exitCode"] == 4
    assert "optim.lr: 0.002 -> 0.01" in end["message"]
    assert cluster.num_created(namespace, refused) == 1
    assert len(ends_of(ledger(namespace, "other-store", "other"))) == 1

    release.upgrade(other, {"config": {"num_epochs": 4, "run": {"resume_with_changes": True}}})
    cluster.job_until(namespace, release.job, "Succeeded")
    assert ends_of(ledger(namespace, "other-store", "other"))[-1] == ("0002", 0, 16)


def test_a_label_starts_nothing_and_a_longer_run_takes_over_in_mid_run(cluster, started, namespace):
    release = started["labelled"]
    job, pod = release.job, master_of(release.job)
    cluster.follow(namespace, pod, "Epoch 1/")
    before = uid_of(cluster, namespace, pod), cluster.job(namespace, job)["metadata"]["uid"]
    labels = {"commonLabels": {"team": "signs"}, "podLabels": {"cost": "low"}, "podAnnotations": {"note": "new"}}
    notes = release.upgrade(LONG, labels)
    assert f"Nothing is started: the job {job} has these settings already." in notes
    assert release.job == job
    now = cluster.job(namespace, job)
    assert now["metadata"]["labels"]["team"] == "signs"
    assert (uid_of(cluster, namespace, pod), now["metadata"]["uid"]) == before
    mine = [
        one["metadata"]["name"] for one in cluster.jobs(namespace) if one["metadata"]["name"].startswith("labelled")
    ]
    assert mine == [job]
    assert cluster.num_created(namespace, job) == 1

    release.upgrade(LONG, labels, {"config": {"num_epochs": 200_000}})
    after = release.job
    assert after != job
    line = cluster.follow(namespace, master_of(after), "goes on from|complete")
    assert "goes on from" in line
    cluster.wait_gone(namespace, pod)
    cluster.follow(namespace, master_of(after), "Epoch ")
    assert cluster.num_created(namespace, after) == 1
    release.uninstall()
