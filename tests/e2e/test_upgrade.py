"""Upgrades and rollbacks of a release: what starts a new job, with which checkpoint it goes on, and what is refused."""

from functools import partial

import pytest

from tests.e2e.releases import HelmError
from trainer.telemetry.reading import select

ENDLESS = {"config": {"num_epochs": 100_000, "checkpoint": {"every": "every 20 steps"}}}


@pytest.fixture(scope="module")
def started(make_release, namespace):
    """The releases of all tests here, so that they train at once."""
    values = {"endless": ENDLESS, "longer": {}, "other": {}}
    releases = {name: make_release(name, namespace) for name in values}
    for name, release in releases.items():
        release.install(values[name])
    return releases


def master_of(job):
    return f"{job}-master-0"


def ends_of(records):
    """(attempt, exit code, step) of every attempt that said how it ended."""
    return [(one["attempt"][:4], one["code"], one["step"]) for one in select(records, "AttemptEnded")]


def test_a_label_starts_nothing_anew(cluster, started, namespace):
    release = started["endless"]
    job, pod = release.job, master_of(release.job)
    cluster.follow(namespace, pod, "Epoch 1/")
    before = cluster.uid_of(namespace, pod), cluster.job(namespace, job)["metadata"]["uid"]

    labels = {"commonLabels": {"team": "signs"}, "podLabels": {"cost": "low"}, "podAnnotations": {"note": "new"}}
    notes = release.upgrade(ENDLESS, labels)
    assert f"Nothing is started: the job {job} has these settings already." in notes
    assert release.job == job
    now = cluster.job(namespace, job)
    assert now["metadata"]["labels"]["team"] == "signs"
    assert (cluster.uid_of(namespace, pod), now["metadata"]["uid"]) == before
    names = [one["metadata"]["name"] for one in cluster.jobs(namespace)]
    assert [name for name in names if name.startswith("endless")] == [job]
    assert cluster.num_created(namespace, job) == 1


def test_a_pinned_job_keeps_to_its_settings(make_release, namespace):
    """The pods that the operator makes anew must find what the others began with."""
    pinned = make_release("pinned", namespace)
    held = {"jobId": "a", "runPolicy": {"suspend": True}}
    pinned.install(held)
    with pytest.raises(HelmError, match="jobId is a, and the job of that name has begun with another config"):
        pinned.upgrade(held, {"config": {"num_epochs": 5}})
    assert "Nothing is started" in pinned.upgrade(held, {"podLabels": {"cost": "low"}})
    pinned.upgrade(held, {"jobId": "b", "config": {"num_epochs": 5}})
    assert pinned.job == "pinned-b"


def test_a_claim_keeps_its_access_mode(make_release, namespace):
    """The API would say so on a page of its own, half of the upgrade done."""
    held = make_release("claimed", namespace, base={"runPolicy": {"suspend": True}})
    held.install()
    for change in ({"accessModes": ["ReadWriteMany"]}, {"storageClassName": "other"}):
        with pytest.raises(
            HelmError, match=r"the claim claimed-store is there with store.accessModes \[ReadWriteOnce\]"
        ):
            held.upgrade({"store": change})
    held.upgrade({"config": {"num_epochs": 5}})
    held.upgrade({"store": {"accessModes": ["ReadWriteMany"], "existingClaim": "another"}})


def test_an_upgrade_and_a_new_installation_take_over_in_mid_run(cluster, started, namespace, ledger):
    """The pods before them are still at their last checkpoint by then."""
    release = started["endless"]
    first = master_of(release.job)
    cluster.follow(namespace, first, "Epoch 10/")
    more = {"config": {"num_epochs": 200_000}}
    release.upgrade(ENDLESS, more)
    second = master_of(release.job)
    assert second != first
    assert "goes on from" in cluster.follow(namespace, second, "goes on from|complete")
    cluster.follow(namespace, second, "Epoch ")
    cluster.wait_gone(namespace, first)

    old = cluster.uid_of(namespace, second)
    release.uninstall()
    release.install(ENDLESS, more)
    assert master_of(release.job) == second
    new = cluster.pod_until(namespace, second, lambda pod: (uid := pod["metadata"]["uid"]) != old and uid)
    assert "goes on from" in cluster.follow(namespace, second, "goes on from|complete", uid=new)
    cluster.follow(namespace, second, "Epoch ", uid=new)
    release.uninstall()
    cluster.wait_gone(namespace, second)

    records = ledger(namespace, "endless-store", "endless")
    assert [one["attempt"][:4] for one in select(records, "Resumed")] == ["0002", "0003"]
    assert all(code in (143, 171) for _, code, _ in ends_of(records)), "told to stop, or superseded"


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
    assert (resumed["attempt"][:4], resumed["step"], resumed["redone_steps"]) == ("0002", 12, 0)
    assert ends_of(records) == [("0001", 0, 12), ("0002", 0, 20)]
    cluster.wait_gone(namespace, master_of(first))

    release.rollback(1)
    assert release.job == first
    assert "is complete already" in cluster.follow(namespace, master_of(first), "complete")
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
