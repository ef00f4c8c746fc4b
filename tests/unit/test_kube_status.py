"""What `trainer status` says of jobs, from objects that a real cluster gave (operator 1.9.4, Kubernetes 1.34)."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from trainer.cli.cluster_text import end_text, show_status
from trainer.kube.codes import in_words
from trainer.kube.pods import PodState, read_pod
from trainer.kube.progress import Progress
from trainer.kube.status import summed_up

RECORDED = json.loads((Path(__file__).parent / "recorded" / "jobs.json").read_text("utf-8"))


def status(name):
    one = RECORDED[name]
    pods = [read_pod(pod, one["events"][pod["metadata"]["name"]], one["job_events"]) for pod in one["pods"]]
    return summed_up(one["job"], pods, one["job_events"])


def pod(**changes):
    one = deepcopy(RECORDED["vol"]["pods"][0])
    one["status"].update(changes)
    return one


def ended(code, message="", reason="Error"):
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    container = {**RECORDED["vol"]["pods"][0]["status"]["containerStatuses"][0], "state": state}
    return read_pod(pod(phase="Failed" if code else "Succeeded", containerStatuses=[container]))


@pytest.mark.parametrize(
    ("name", "state", "why"),
    [
        ("noimage", "ImagePullBackOff", "the image local/nothing:9 cannot be pulled"),
        ("badset", "CreateContainerConfigError", 'secret "nosecret" not found'),
        ("nopvc", "Pending", 'cannot be scheduled: 0/1 nodes are available: persistentvolumeclaim "nostore" not found'),
        ("huge", "Pending", "cannot be scheduled: 0/1 nodes are available: 1 Insufficient memory"),
        ("oom", "Running", "restarted after 137: out of memory (a process was killed because the pod's memory limit"),
        ("vol", "Running", "restarted after 143: told to stop, checkpoint published"),
    ],
)
def test_a_pod_says_why_it_does_not_train(name, state, why):
    found = status(name).pods[0]
    assert found.state == state
    assert why in found.why


def test_the_operators_events_know_of_pods_that_are_gone():
    found = status("oom").pods[0]
    assert (found.restarts, found.earlier_codes) == (2, [137])
    assert status("badset").pods[0].restarts == 0


def test_a_worker_waits_for_the_name_of_its_master():
    master, worker = status("noimage2").pods
    assert "cannot be pulled" in master.why
    assert worker.why == "waits for the master's name in DNS, which answers once the master is ready"


def test_without_pods_the_reason_is_that_none_could_be_made():
    found = status("pss")
    assert found.state == "Unseen"
    assert len(found.warnings) == 1
    assert 'violates PodSecurity "restricted:latest"' in found.warnings[0]


def test_the_reason_is_said_as_well_where_only_some_pods_could_not_be_made():
    one = RECORDED["pss"]
    assert summed_up(one["job"], [ended(0)], one["job_events"]).warnings == status("pss").warnings
    assert summed_up(one["job"], [ended(0)] * 2, one["job_events"]).warnings == []


def test_a_job_that_no_operator_has_seen_says_so():
    job = deepcopy(RECORDED["pss"]["job"])
    assert "the training operator has not seen this job" in summed_up(job).warnings[0]


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 5], 5), ([143, 3], 3), ([1, 4], 4), ([1], 1), ([143], 143), ([170, 137], 137), ([], 1), ([None, 2], 2)],
)
def test_the_code_of_a_failed_job_is_that_of_the_pod_that_decided_it(codes, code):
    job = deepcopy(RECORDED["vol"]["job"])
    job["status"]["conditions"].append(
        {"type": "Failed", "status": "True", "lastTransitionTime": "2026-11-21T16:00:00Z", "message": "failed"}
    )
    base = status("vol").pods[0].__dict__
    assert summed_up(job, [PodState(**{**base, "code": one}) for one in codes]).code == code


def test_the_end_of_a_pod_is_its_code_in_words_and_what_the_launcher_wrote():
    assert ended(0).why == "0: complete"
    found = ended(2, "first line\nbatch_size is 0: must be at least 1\n")
    assert found.why.startswith("2: bad settings")
    assert found.why.endswith("(batch_size is 0: must be at least 1)")
    assert ended(137, reason="OOMKilled").why == "137: out of memory"


def test_an_evicted_pod_says_what_the_node_ran_out_of():
    found = read_pod(pod(phase="Failed", reason="Evicted", message="The node was low on memory.", containerStatuses=[]))
    assert (found.state, found.why) == ("Evicted", "Evicted: The node was low on memory.")
    assert found.code == 1


def test_a_volume_that_cannot_be_mounted_is_named():
    waiting = {"name": "pytorch", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}
    events = [
        {"type": "Normal", "reason": "Scheduled", "message": "assigned"},
        {"type": "Warning", "reason": "FailedMount", "message": 'configmap "gone" not found'},
    ]
    found = read_pod(pod(phase="Pending", containerStatuses=[waiting]), events)
    assert found.why == 'FailedMount: configmap "gone" not found'


def test_a_pod_that_was_told_to_go_says_by_whom_and_when_its_node_is_lost():
    """A pod on a node whose kubelet had stopped, as the cluster had it."""
    asked = {"type": "DisruptionTarget", "status": "True", "message": "Taint manager: deleting due to NoExecute taint"}
    leaving = pod(conditions=[asked])
    leaving["metadata"]["deletionTimestamp"] = "9999-01-01T00:00:00+00:00"
    found = read_pod(leaving)
    assert (found.state, found.why) == (
        "Terminating",
        "told to go, not by this job: Taint manager: deleting due to NoExecute taint",
    )
    leaving["metadata"]["deletionTimestamp"] = "2026-11-22T02:29:18Z"
    lost = f"should be gone: does node-0 still answer? `kubectl delete pod {found.name} --force` gives it up"
    assert read_pod(leaving).why == lost


def test_pods_that_end_before_they_train_are_told_apart_from_a_first_one():
    """An init container that fails ends the pod, and the operator makes the next one two seconds later, for ever."""
    one = pod()
    made = [{"reason": "SuccessfulCreatePod", "message": f"Created pod: {one['metadata']['name']}", "count": 7}]
    found = read_pod(one, (), made)
    assert found.restarts == 6
    assert found.why.startswith("made anew; those before it left no exit code: an init container failed")


def test_a_scheduling_that_failed_once_is_no_reason_of_a_pod_on_a_node():
    """A volume that is bound at the same moment makes the scheduler try twice."""
    waiting = {"name": "pytorch", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
    events = [{"type": "Warning", "reason": "FailedScheduling", "message": "the object has been modified"}]
    assert read_pod(pod(phase="Pending", containerStatuses=[waiting]), events).why == ""
    unplaced = {**pod(phase="Pending", containerStatuses=[waiting]), "spec": {}}
    assert read_pod(unplaced, events).why == "FailedScheduling: the object has been modified"


def test_an_init_container_out_of_memory_is_named_though_it_ended_with_0():
    """As seen: the kernel takes a child of its shell, which goes on; the kubelet starts nothing after it."""
    init = {"name": "init-pytorch", "state": {"terminated": {"exitCode": 0, "reason": "OOMKilled"}}}
    waiting = {"name": "pytorch", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
    found = read_pod(pod(phase="Pending", initContainerStatuses=[init], containerStatuses=[waiting]))
    assert found.why == "init container init-pytorch: 0: out of memory"
    init["state"]["terminated"]["reason"] = "Completed"
    assert read_pod(pod(phase="Pending", initContainerStatuses=[init], containerStatuses=[waiting])).why == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "complete"),
        (5, "preflight"),
        (135, "/dev/shm"),
        (139, "SIGSEGV"),
        (134, "ended by SIGABRT"),
        (77, "unknown exit code"),
    ],
)
def test_codes_are_said_in_words(code, words):
    assert words in in_words(code)


def test_people_read_one_screen(capsys):
    found = status("oom")
    show_status(found, Progress("oom", "s3://signs/runs", problem="no connection; check s3.endpoint"))
    out = capsys.readouterr().out
    assert out.startswith("oom-af1a756c in namespace desk-dev: Running for ")
    assert "run oom in s3://signs/runs: no connection" in out
    assert "--set s3.endpoint=URL" in out
    assert "2 (137)" in out


def failed():
    """A job that the operator has given up."""
    one = deepcopy(RECORDED["vol"]["job"])
    one["status"]["conditions"].append(
        {
            "type": "Failed",
            "status": "True",
            "lastTransitionTime": "2026-11-21T16:00:00Z",
            "message": "operator's words",
        }
    )
    return one


def test_a_job_that_took_its_pods_along_has_the_operators_words(capsys):
    """A deadline of the job, say; what the pods ended with is not known then."""
    show_status(summed_up(failed()), Progress("vol", "file:///store"))
    out = capsys.readouterr().out
    assert "operator's words" in out
    assert "ended with" not in out


def test_the_end_is_one_line():
    one = failed()
    assert end_text(summed_up(one, [ended(3, "no folder data")])).endswith("`trainer resume` (no folder data)")
    assert end_text(summed_up(one)).endswith("Failed, operator's words")
