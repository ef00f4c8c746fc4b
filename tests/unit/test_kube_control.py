"""Making, waiting, stopping and logs against a cluster of dicts; the real one is in tests/e2e."""

import io
import threading
from contextlib import nullcontext

import pytest

from trainer.config.sources import load_settings
from trainer.errors import InfrastructureError, SettingsError
from trainer.kube import control, logs
from trainer.kube.job import Wishes, plan
from trainer.kube.refusals import ClusterRefusedError, ExistsError, NotFoundError
from trainer.kube.status import find_job

STAMP = "2026-11-21T16:00:00Z"


def job(name="one", state="Running", **labels):
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": STAMP,
            "labels": labels,
        },
        "spec": {"runPolicy": {}, "pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": {"spec": {}}}}},
        "status": {"conditions": [{"type": state, "status": "True", "lastTransitionTime": STAMP, "message": "m"}]},
    }


def pod(uid="pod-1", restarts=0, state=None, name="one-master-0"):
    container = {"name": "pytorch", "restartCount": restarts, "state": state or {"running": {}}}
    labels = {"training.kubeflow.org/replica-type": "master", "training.kubeflow.org/replica-index": "0"}
    return {
        "metadata": {"name": name, "uid": uid, "labels": labels},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }


def ended(code):
    return {"terminated": {"exitCode": code, "reason": "Error", "message": ""}}


class Stream(io.BytesIO):
    """As urllib3's answer, in pieces that know nothing of lines."""

    def stream(self, amt=None):
        while piece := self.read(7):
            yield piece


class Cluster:
    """The verbs of `trainer.kube.cluster.Cluster`, on dicts."""

    namespace = "team"

    def __init__(self, *jobs, pods=(), fails=()):
        self.by_name = {one["metadata"]["name"]: one for one in jobs}
        self.all_pods, self.fails = list(pods), dict(fails)
        self.made, self.deleted, self.patches, self.texts, self.answers = [], [], [], {}, []

    def asking(self, *_):
        return nullcontext()

    def job(self, name):
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if name not in self.by_name:
            raise NotFoundError(f"there is no {name}")
        return self.by_name[name]

    def jobs(self, _labels=""):
        return list(self.by_name.values())

    def pods(self, _job):
        return self.all_pods.pop(0) if self.all_pods and isinstance(self.all_pods[0], list) else self.all_pods

    def events(self, _uid):
        raise ClusterRefusedError("no permission: you may not list events")

    def create(self, item):
        if error := self.fails.get(item["kind"]):
            raise error
        self.made.append(item)
        return {**item, "metadata": {**item["metadata"], "uid": "uid-new"}}

    def patch_job(self, name, change):
        self.patches.append((name, change))

    def delete_job(self, name):
        self.deleted.append(name)
        self.by_name.pop(name, None)

    def exists(self, name):
        return name in self.by_name

    def pods_now(self, job):
        return self.pods(job), "7"

    def watch_pods(self, _job, version, _seconds):
        assert version == "7"
        yield from self.watched.pop(0)

    def log(self, name, *, previous=False, follow=False, tail=None):
        text = self.texts[name, "previous" if previous else "now"]
        return Stream(text.encode())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(control, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.01)


def quick(**wishes):
    return plan(load_settings(config="quick"), Wishes(**wishes))


def test_the_job_owns_its_settings_but_not_the_store():
    cluster = Cluster()
    made = control.create(cluster, quick(name="one"))
    assert [text.split()[0] for text in made] == ["PyTorchJob", "PersistentVolumeClaim", "ConfigMap"]
    _, claim, config_map = cluster.made
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == "uid-new"
    assert "ownerReferences" not in claim["metadata"]


def test_the_claim_of_an_earlier_job_is_used_again():
    made = control.create(Cluster(fails={"PersistentVolumeClaim": ExistsError("there")}), quick(name="one"))
    assert made == ["PyTorchJob one", "ConfigMap one"]


def test_a_job_that_cannot_have_its_settings_is_taken_back():
    cluster = Cluster(fails={"ConfigMap": ClusterRefusedError("no permission")})
    with pytest.raises(ClusterRefusedError):
        control.create(cluster, quick(name="one"))
    assert cluster.deleted == ["one"]


def test_the_same_job_twice_is_refused_with_what_to_do():
    with pytest.raises(ExistsError, match=r"job one is there already; .*trainer resume one"):
        control.create(Cluster(fails={"PyTorchJob": ExistsError("there")}), quick(name="one"))


def test_waiting_ends_with_the_job_and_reads_its_pods():
    cluster = Cluster(pods=[pod(state=ended(5))])
    cluster.answers = [job(state="Created"), InfrastructureError("away"), job(), job(), job(state="Failed")]
    said = []
    now = control.wait(cluster, "one", None, said.append)
    assert (now.state, now.code) == ("Failed", 5)
    assert said == ["one: Created", "one: Running", "one: Failed"]
    assert "you may not list events" in now.warnings[0]


def test_waiting_gives_up_in_time_or_where_it_may_not_look(monkeypatch):
    with pytest.raises(InfrastructureError, match="job one is Running after 0 s") as error:
        control.wait(Cluster(job()), "one", 0, lambda _: None)
    assert error.value.exit_code == 170
    with pytest.raises(NotFoundError):
        control.wait(Cluster(), "one", 1, lambda _: None)
    cluster = Cluster()
    cluster.answers = [ClusterRefusedError("no permission")]
    with pytest.raises(ClusterRefusedError):
        control.wait(cluster, "one", 1, lambda _: None)
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0)
    cluster.answers = [InfrastructureError("away")] * 9
    with pytest.raises(InfrastructureError, match="away"):
        control.wait(cluster, "one", None, lambda _: None)


@pytest.mark.parametrize(
    ("end", "says", "code"),
    [(143, "its checkpoint published", 0), (137, "not with its last step published: master-0 137", 170)],
)
def test_a_stop_says_whether_the_last_step_is_safe(end, says, code):
    cluster = Cluster(job(), pods=[pod()])
    cluster.watched = [[("MODIFIED", pod())], [("MODIFIED", pod(state=ended(end))), ("DELETED", pod(state=ended(end)))]]
    outcome = control.stop(cluster, job(), lambda _: None)
    assert cluster.patches == [("one", {"spec": {"runPolicy": {"suspend": True}}})]
    assert says in outcome.text
    assert outcome.exit_code == code


def test_stopping_and_resuming_what_needs_none_of_it():
    suspended = job(state="Suspended")
    suspended["spec"]["runPolicy"]["suspend"] = True
    cluster = Cluster()
    assert "over already: Succeeded" in control.stop(cluster, job(state="Succeeded"), print).text
    assert "stopped already" in control.stop(cluster, suspended, print).text
    assert "is complete" in control.resume(cluster, job(state="Succeeded"), print)
    assert "is not stopped: Running" in control.resume(cluster, job(), print)
    assert not cluster.patches
    assert control.resume(cluster, suspended, print) == "one goes on"
    assert cluster.patches == [("one", {"spec": {"runPolicy": {"suspend": False}}})]


def test_a_failed_job_is_made_anew_without_what_the_cluster_added():
    failed = job(state="Failed")
    failed["metadata"].update(resourceVersion="5", managedFields=[{}])
    failed.update(apiVersion="kubeflow.org/v1", kind="PyTorchJob")
    cluster = Cluster(failed)
    assert control.resume(cluster, failed, lambda _: None) == "one is made anew"
    assert cluster.deleted == ["one"]
    assert set(cluster.made[0]["metadata"]) == {"name", "namespace", "labels"}
    assert "status" not in cluster.made[0]


def test_kueue_keeps_its_jobs():
    queued = job(**{"kueue.x-k8s.io/queue-name": "team"})
    with pytest.raises(SettingsError, match=r"set spec\.active of its Workload to false"):
        control.stop(Cluster(), queued, print)


def test_a_job_is_found_by_its_name_its_run_or_nearly():
    label = {"app.kubernetes.io/instance": "my-run"}
    cluster = Cluster(job("my-run-11111111", **label), job("my-run-22222222", **label))
    assert find_job(cluster, "my-run-11111111")["metadata"]["name"] == "my-run-11111111"
    assert find_job(cluster, "my-run")["metadata"]["name"] == "my-run-22222222"
    with pytest.raises(NotFoundError, match="did you mean my-run-11111111"):
        find_job(cluster, "my-run-1111111")
    with pytest.raises(NotFoundError, match="there are none; `trainer submit`"):
        find_job(Cluster(), "my-run")


def test_logs_of_a_restarted_container_begin_with_the_life_before():
    cluster = Cluster(job(), pods=[pod(restarts=1), pod("pod-2", name="one-worker-0")])
    cluster.texts = {
        ("one-master-0", "previous"): "old\n",
        ("one-master-0", "now"): "new\nend",
        ("one-worker-0", "now"): "",
    }
    lines = []
    assert logs.print_logs(cluster, "one", follow=False, tail=None, write=lines.append) == 3
    assert lines == ["[master-0] old", "[master-0] new", "[master-0] end"]


def test_following_goes_over_to_the_pod_that_takes_the_place():
    first, second = pod("pod-1"), pod("pod-2")
    cluster = Cluster(pods=[[first], [first], [second], [second]])
    cluster.texts = {("one-master-0", "now"): "a line\nof text\n"}
    cluster.answers = [job(), job(), InfrastructureError("away"), job(state="Succeeded")]
    lines = []
    assert logs.print_logs(cluster, "one", follow=True, tail=None, write=lines.append) == 2
    assert threading.active_count() < 20
    assert lines.count("[master-0] a line") >= 2


def test_a_log_that_is_gone_does_not_hide_the_others():
    cluster = Cluster(job(), pods=[pod("pod-1"), pod("pod-2", name="one-worker-0")])

    def log(name, **_):
        if name == "one-master-0":
            raise NotFoundError("there is no pods/log one-master-0")
        return Stream(b"\xff still here\n")

    cluster.log = log
    lines = []
    logs.print_logs(cluster, "one", follow=False, tail=None, write=lines.append)
    assert lines == [
        "[master-0] -- this log ends here: there is no pods/log one-master-0",
        "[master-0] \\xff still here",
    ]


def test_pods_without_a_log_are_passed_over():
    cluster = Cluster(job(), pods=[pod(state={"waiting": {"reason": "ContainerCreating"}})])
    assert logs.print_logs(cluster, "one", follow=False, tail=None, write=print) == 0
