"""Jobs that something happens to in mid-run: they succeed, and nobody can tell it from the weights.

A class is one job. Its tests disturb it one after another, each as soon as the attempt that the last one led to has
published a checkpoint; the last test compares the end. The numbers of attempts and their codes are part of that.
"""

import os
from datetime import datetime
from functools import partial

import pytest

from tests.e2e.kube import container_of
from tests.e2e.runs import ELASTIC, ONE_POD, PATIENCE, WORKERS, Trial, desk_weights

STOPPED, LOST_PEER, KILLED, GAVE_UP = 143, 170, 137, 4
S3_SERVER = os.environ.get("E2E_S3_DEPLOYMENT", "s3/s3")
"""Namespace and name of the S3 server's Deployment."""


@pytest.fixture(scope="module")
def namespaces(cluster, s3, namespace, plain_namespace):
    """The module's own: with Pod Security `restricted`, and without."""
    for one in (namespace, plain_namespace):
        s3.make_secret(cluster, one)
    return namespace, plain_namespace


class TestMasterAndWorkers:
    @pytest.fixture(scope="class")
    @staticmethod
    def trial(cluster, s3, make_release, namespaces):
        return Trial.start(cluster, s3, make_release("workers", namespaces[1]), WORKERS)

    def test_the_master_is_deleted(self, trial):
        trial.published()
        check_stop(trial, trial.pod())

    def test_a_worker_is_deleted(self, trial):
        trial.published()
        check_stop(trial, trial.pod("worker", 1))

    def test_a_rank_is_killed(self, trial):
        trial.published()
        lives = trial.lives()
        trial.kill_rank(trial.pod("worker"))
        ends = trial.ends_of(lives)
        assert {pod: end["exitCode"] for pod, end in ends.items()} == {
            trial.pod(): LOST_PEER,
            trial.pod("worker"): KILLED,
            trial.pod("worker", 1): LOST_PEER,
        }
        assert "lost another process of this run" in ends[trial.pod()]["message"]
        assert "killed by SIGKILL" in ends[trial.pod("worker")]["message"]
        trial.ended(LOST_PEER)

    def test_the_node_is_drained(self, trial, disposable, cluster):
        trial.published()
        drain(cluster, trial)
        trial.ended(STOPPED)

    def test_the_weights_are_those_of_an_undisturbed_run(self, trial):
        trial.check_end(desk_weights(trial, 3))


class TestElasticWorkers:
    @pytest.fixture(scope="class")
    @staticmethod
    def trial(cluster, s3, make_release, namespaces):
        return Trial.start(cluster, s3, make_release("elastic", namespaces[0]), ELASTIC)

    def test_a_rank_is_killed_and_starts_in_place(self, trial):
        trial.published()
        lives = trial.lives()
        trial.kill_rank(next(pod for pod in lives.uids if pod != trial.first_pod()))
        trial.ended(LOST_PEER)
        trial.published()
        assert trial.lives().uids == lives.uids

    def test_the_worker_where_they_meet_is_deleted(self, trial):
        trial.published()
        check_stop(trial, trial.pod("worker"))

    def test_the_weights_are_those_of_an_undisturbed_run(self, trial):
        trial.check_end(desk_weights(trial, 2))


class TestOnePod:
    @pytest.fixture(scope="class")
    @staticmethod
    def trial(cluster, s3, make_release, namespaces):
        return Trial.start(cluster, s3, make_release("one", namespaces[0]), ONE_POD)

    def test_a_stop_publishes_within_the_grace_period(self, trial):
        trial.published()
        check_stop(trial, trial.pod())

    def test_its_process_is_killed(self, trial):
        trial.published()
        lives = trial.lives()
        trial.kill_rank(trial.pod())
        assert trial.ends_of(lives)[trial.pod()]["exitCode"] == KILLED
        trial.killed()

    def test_the_s3_server_is_away_for_a_while(self, trial, disposable, cluster):
        trial.published()
        lives = trial.lives()
        restart_s3(cluster, trial)
        failures = lambda: [one["step"] for one in trial.records() if one["event"] == "CheckpointFailed"]  # noqa: E731
        step = trial.look_for(failures, PATIENCE, "the failure in the ledger")[-1]
        trial.look_for(lambda: trial.published().step > step, PATIENCE, f"a checkpoint after step {step}")
        assert trial.lives().uids == lives.uids

    def test_the_weights_are_those_of_an_undisturbed_run(self, trial):
        trial.check_end(desk_weights(trial, 1))


def test_out_of_memory_is_tried_again_and_then_given_up(cluster, s3, make_release, namespaces):
    """A batch that no pod of this size can hold."""
    hungry = {"batch_size": 64, "data": {"sampling": {"frames": 1500}}, "run": {"max_dead_attempts": 2}}
    values = {"resources": {"limits": {"memory": "1Gi"}}, "shm": {"enabled": False}, "config": hungry}
    trial = Trial.start(cluster, s3, make_release("hungry", namespaces[0]), values)
    cluster.job_until(trial.release.namespace, trial.job, "Failed", seconds=2 * PATIENCE)
    (pod,) = cluster.pods_of(trial.release.namespace, trial.job)
    end = container_of(pod)["state"]["terminated"]
    assert end["exitCode"] == GAVE_UP, trial.story()
    assert "the last 2 attempts were killed without a new checkpoint (out of memory?" in end["message"]
    assert trial.attempts() == [None, None]
    made = cluster.num_created(trial.release.namespace, trial.job)
    assert made == 3, "two tries, and the start that gives up"


def check_stop(trial, pod):
    """Delete a pod of a job: it ends with 143 in time, and the attempt at the step of its last checkpoint."""
    end = trial.delete_pod(pod)
    assert end["exitCode"] == STOPPED, end
    assert end["message"].endswith(("told to stop by SIGTERM", "another rank asked (code 143)")), end
    assert moment(end["finishedAt"]) < moment(end["deletionTimestamp"]), "its time had run out"
    said = trial.ended(STOPPED)
    mine = trial.records(len(trial.ends))
    assert said["step"] == max(one["step"] for one in mine if one["event"] == "CheckpointPublished"), trial.story()


def moment(text):
    return datetime.fromisoformat(text)


def drain(cluster, trial):
    """What `kubectl drain` does, for the pods of one job: no new pods on their nodes, and an eviction of each."""
    core, namespace, lives = cluster.core, trial.release.namespace, trial.lives()
    nodes = {pod["spec"]["nodeName"] for pod in cluster.pods_of(namespace, trial.job)}
    closed = [node for node in nodes if not core.read_node(node).spec.unschedulable]
    try:
        for node in closed:
            core.patch_node(node, {"spec": {"unschedulable": True}})
        for pod in lives.uids:
            core.create_namespaced_pod_eviction(pod, namespace, {"metadata": {"name": pod, "namespace": namespace}})
        assert {end["exitCode"] for end in trial.ends_of(lives).values()} == {STOPPED}
        trial.wait_for_new(lives)
        assert not {pod["spec"].get("nodeName") for pod in cluster.pods_of(namespace, trial.job)} & nodes
    finally:
        for node in closed:
            core.patch_node(node, {"spec": {"unschedulable": False}})


def restart_s3(cluster, trial):
    """Take the S3 server away until the run has noticed it, and give it back."""
    namespace, name = S3_SERVER.split("/")
    apps = cluster.apps
    number = apps.read_namespaced_deployment_scale(name, namespace).spec.replicas
    try:
        apps.patch_namespaced_deployment_scale(name, namespace, {"spec": {"replicas": 0}})
        cluster.follow(trial.release.namespace, trial.pod(), "warning: checkpoint .* will try again", PATIENCE)
    finally:
        apps.patch_namespaced_deployment_scale(name, namespace, {"spec": {"replicas": number}})
    is_ready = lambda kind, one: one["status"].get("readyReplicas") == number  # noqa: E731
    call = partial(apps.list_namespaced_deployment, namespace=namespace, field_selector=f"metadata.name={name}")
    cluster.until(call, is_ready, PATIENCE, f"deployment {S3_SERVER} ready again")
