"""Jobs that something happens to in mid-run: they succeed, and nobody can tell it from the weights.

A class is one job. Its tests disturb it one after another, each as soon as the attempt that the last one led to has
published a checkpoint; the last test compares the end. The numbers of attempts and their codes are part of that.
"""

import json
import os
from datetime import datetime
from functools import partial

import pytest

from tests.e2e.kube import container_of
from tests.e2e.runs import ELASTIC, ONE_POD, PATIENCE, WORKERS, Trial, desk_weights

STOPPED, LOST_PEER, KILLED, GAVE_UP = 143, 170, 137, 4
GRACE_SECONDS = 120
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
        pod = trial.pod("worker")
        uid, master = trial.uid(pod), trial.uid(trial.pod())
        trial.kill_rank(pod)
        end = trial.end_of_life(pod, uid)
        assert (end["exitCode"], "killed by SIGKILL" in end["message"]) == (KILLED, True)
        end = trial.end_of_life(trial.pod(), master)
        assert (end["exitCode"], "lost another process" in end["message"]) == (LOST_PEER, True)
        trial.ended(LOST_PEER)

    def test_the_node_is_drained(self, trial, disposable, cluster):
        trial.published()
        drain(cluster, trial, [trial.pod(), trial.pod("worker"), trial.pod("worker", 1)])
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
        pods = {trial.pod("worker", number): trial.uid(trial.pod("worker", number)) for number in (0, 1)}
        trial.kill_rank(next(pod for pod in pods if pod != trial.first_pod()))
        trial.ended(LOST_PEER)
        trial.published()
        assert {pod: trial.uid(pod) for pod in pods} == pods

    def test_the_worker_where_they_meet_is_deleted(self, trial):
        trial.published()
        check_stop(trial, trial.pod("worker"))

    def test_the_weights_are_those_of_an_undisturbed_run(self, trial):
        trial.check_end(desk_weights(trial, 2))


class TestOnePod:
    @pytest.fixture(scope="class")
    @staticmethod
    def trial(cluster, s3, make_release, namespaces):
        values = {"terminationGracePeriodSeconds": GRACE_SECONDS}
        return Trial.start(cluster, s3, make_release("one", namespaces[0]), ONE_POD, values)

    def test_a_stop_publishes_within_the_grace_period(self, trial):
        trial.published()
        check_stop(trial, trial.pod())

    def test_its_process_is_killed(self, trial):
        trial.published()
        uid = trial.uid(trial.pod())
        trial.kill_rank(trial.pod())
        assert trial.end_of_life(trial.pod(), uid)["exitCode"] == KILLED
        trial.killed()

    def test_the_s3_server_is_away_for_a_while(self, trial, disposable, cluster):
        trial.published()
        uid = trial.uid(trial.pod())
        restart_s3(cluster, trial)
        said = lambda: [one for one in trial.records(len(trial.ends) + 1) if one["event"] == "CheckpointFailed"]  # noqa: E731
        failed = trial.look_for(said, PATIENCE, "the failure in the ledger")[-1]
        later = lambda: trial.published().step > failed["step"]  # noqa: E731
        trial.look_for(later, PATIENCE, f"a checkpoint after step {failed['step']}")
        assert trial.uid(trial.pod()) == uid

    def test_the_weights_are_those_of_an_undisturbed_run(self, trial):
        trial.check_end(desk_weights(trial, 1))


def test_out_of_memory_is_tried_again_and_then_given_up(cluster, s3, make_release, namespaces):
    """A batch that no pod of this size can hold."""
    hungry = {"batch_size": 64, "data": {"sampling": {"frames": 1500}}, "run": {"max_dead_attempts": 2}}
    values = {"resources": {"limits": {"memory": "1Gi"}}, "shm": {"enabled": False}, "config": hungry}
    trial = Trial.start(cluster, s3, make_release("hungry", namespaces[0]), values)
    job = cluster.job_until(trial.release.namespace, trial.job, "Failed", seconds=2 * PATIENCE)
    assert "exit" in json.dumps(job["status"]["conditions"])
    (pod,) = cluster.pods_of(trial.release.namespace, trial.job)
    end = container_of(pod)["state"]["terminated"]
    assert end["exitCode"] == GAVE_UP, trial.story()
    assert "the last 2 attempts were killed without a new checkpoint (out of memory?" in end["message"]
    assert trial.attempts() == [None, None]
    events = cluster.core.list_namespaced_event(trial.release.namespace).items
    made = [one for one in events if one.involved_object.name == trial.job and one.reason == "SuccessfulCreatePod"]
    assert sum(one.count or 1 for one in made) == 3, "two tries and the start that gives up"


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


def drain(cluster, trial, pods):
    """What `kubectl drain` does, for the pods of one job: no new pods on their nodes, and an eviction of each."""
    space = trial.release.namespace
    lives = {pod: trial.uid(pod) for pod in pods}
    nodes = {cluster.core.read_namespaced_pod(pod, space).spec.node_name for pod in pods}
    open_nodes = [node for node in nodes if not cluster.core.read_node(node).spec.unschedulable]
    try:
        for node in open_nodes:
            cluster.core.patch_node(node, {"spec": {"unschedulable": True}})
        for pod in pods:
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": space}}
            cluster.core.create_namespaced_pod_eviction(pod, space, body)
        for pod, uid in lives.items():
            assert trial.end_of_life(pod, uid)["exitCode"] == STOPPED, trial.story()
            new = trial.new_life(pod, uid)
            assert new["spec"].get("nodeName") not in nodes
    finally:
        for node in open_nodes:
            cluster.core.patch_node(node, {"spec": {"unschedulable": False}})


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
