"""What is done to a job from the desk: made, waited for, stopped with a checkpoint, gone on with.

stop suspends the job: the operator deletes its pods, which publish a checkpoint and end with 143; resume lets it make
them again. A job that failed is made anew from its own definition, as the operator never revives one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field

from trainer.errors import InfrastructureError, SettingsError, Stopped
from trainer.kube.cluster import Cluster, Object
from trainer.kube.job import Planned
from trainer.kube.pods import PodState, read_pod
from trainer.kube.refusals import ClusterRefusedError, ExistsError
from trainer.kube.status import KUEUE_LABEL, JobStatus, is_over, read_status, state_of

POLL_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""How long an API server may be away while one waits for a job."""
DELETE_SECONDS = 60.0
"""For deleting a job, beside its pods' grace period."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class StopOutcome:
    """How a job was stopped."""

    job: str
    text: str
    pods: list[PodState] = field(default_factory=list)
    """The last that was seen of each."""
    exit_code: int = 0


def create(cluster: Cluster, planned: Planned) -> list[str]:
    """Make the objects and give those that are new. Raises ExistsError if the job is there already."""
    *others, job = planned.objects
    try:
        made = _create_all(cluster, job, others)
    except ExistsError:
        name = planned.job
        raise ExistsError(
            f"job {name} is there already; `trainer status {name}` shows it, `trainer resume {name}` goes on with it "
            "if it was stopped or has failed, and another --name makes another one"
        ) from None
    return [f"{item['kind']} {item['metadata']['name']}" for item in made]


def wait(cluster: Cluster, name: str, seconds: float | None, say: Say) -> JobStatus:
    """Until the job ends, well or not. Raises InfrastructureError after `seconds`, NotFoundError when it is gone."""
    end = None if seconds is None else time.monotonic() + seconds
    away_since: float | None = None
    state = ""
    while True:
        try:
            job = cluster.job(name)
            away_since = None
            if state_of(job) != state:
                state = state_of(job)
                say(f"{name}: {state}")
            if is_over(job):
                return read_status(cluster, job)
        except ClusterRefusedError:
            raise
        except InfrastructureError:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise
        if end is not None and time.monotonic() > end:
            raise InfrastructureError(f"job {name} is {state or 'unknown'} after {seconds:g} s; it goes on by itself")
        _pause(POLL_SECONDS)


def stop(cluster: Cluster, job: Object, say: Say) -> StopOutcome:
    """Suspend a job and wait until its pods are gone. Raises InfrastructureError if they do not go."""
    name = job["metadata"]["name"]
    if is_over(job):
        return StopOutcome(name, f"{name} is over already: {state_of(job)}")
    _refuse_kueue(job, "stop")
    pods, version = cluster.pods_now(name)
    last = {pod["metadata"]["uid"]: pod for pod in pods}
    if is_suspended(job) and not last:
        return StopOutcome(name, f"{name} is stopped already; `trainer resume {name}` goes on")
    cluster.patch_job(name, {"spec": {"runPolicy": {"suspend": True}}})
    if last:
        say(f"{name}: {len(last)} pods are told to publish a checkpoint and end")
        _watch_them_go(cluster, name, last, version, _grace_seconds(job) + DELETE_SECONDS)
    return _stopped(name, [read_pod(pod) for pod in last.values()])


def resume(cluster: Cluster, job: Object, say: Say) -> str:
    """Let a suspended job go on, or make a failed one anew; what was done, in words."""
    name = job["metadata"]["name"]
    if state_of(job) == "Succeeded":
        return f"{name} is complete; submit it with more num_epochs or max_steps to go on with its run"
    _refuse_kueue(job, "resume")
    if state_of(job) == "Failed":
        _make_anew(cluster, job, say)
        return f"{name} is made anew"
    if not is_suspended(job):
        return f"{name} is not stopped: {state_of(job)}"
    cluster.patch_job(name, {"spec": {"runPolicy": {"suspend": False}}})
    return f"{name} goes on"


def is_suspended(job: Object) -> bool:
    """Whether the job is told to have no pods."""
    return bool(job["spec"].get("runPolicy", {}).get("suspend"))


def _stopped(name: str, pods: list[PodState]) -> StopOutcome:
    """What the ends of its pods say of a stop."""
    resume_with = f"`trainer resume {name}` goes on"
    bad = [pod for pod in pods if pod.code not in (None, 0, Stopped.exit_code)]
    if bad:
        ends = "; ".join(f"{pod.replica} {pod.why}" for pod in bad)
        text = f"{name} is stopped, but not with its last step published: {ends}; {resume_with} from an earlier one"
        return StopOutcome(name, text, pods, InfrastructureError.exit_code)
    if any(pod.code == Stopped.exit_code for pod in pods):
        return StopOutcome(name, f"{name} is stopped, its checkpoint published; {resume_with}", pods)
    return StopOutcome(name, f"{name} is stopped; nothing was training; {resume_with}", pods)


def _create_all(cluster: Cluster, job: Object, others: list[Object]) -> list[Object]:
    """The job first, so that it can own its ConfigMaps, which go with it; its pods wait for what they mount."""
    made = [cluster.create(job)]
    metadata = made[0]["metadata"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    try:
        for item in others:
            if item["kind"] == "ConfigMap":
                item["metadata"]["ownerReferences"] = [owner]
            with suppress(*([ExistsError] if item["kind"] == "PersistentVolumeClaim" else [])):
                cluster.create(item)  # a claim may be there from an earlier job of the run
                made.append(item)
    except Exception:
        cluster.delete_job(metadata["name"])
        raise
    return made


def _make_anew(cluster: Cluster, job: Object, say: Say) -> None:
    """The operator never revives a failed job, and its pods keep their names until they are deleted."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    mounted = [cluster.config_map(one) for one in _config_names(job)]
    owned = [item for item in mounted if uid in [one["uid"] for one in item["metadata"].get("ownerReferences") or ()]]
    say(f"{name}: failed before; it is deleted and made anew, the run goes on from its last checkpoint")
    cluster.delete_job(name)
    end = time.monotonic() + _grace_seconds(job) + DELETE_SECONDS
    while cluster.exists(name):
        if time.monotonic() > end:
            raise InfrastructureError(f"job {name} is still being deleted; `trainer submit` makes it again afterwards")
        _pause(0.5)
    fresh = _fresh(job)
    fresh["spec"].get("runPolicy", {}).pop("suspend", None)
    _create_all(cluster, fresh, [{**_fresh(item), "kind": "ConfigMap", "apiVersion": "v1"} for item in owned])


def _fresh(item: Object) -> Object:
    """An object as somebody would write it: without what the cluster added."""
    kept = {key: value for key, value in deepcopy(item).items() if key != "status"}
    names = ("name", "namespace", "labels", "annotations")
    kept["metadata"] = {key: value for key, value in item["metadata"].items() if key in names}
    return kept


def _config_names(job: Object) -> list[str]:
    """Names of the ConfigMaps that the job's pods mount."""
    specs = job["spec"]["pytorchReplicaSpecs"].values()
    volumes = [volume for spec in specs for volume in spec["template"]["spec"].get("volumes", ())]
    return list(dict.fromkeys(volume["configMap"]["name"] for volume in volumes if "configMap" in volume))


def _grace_seconds(job: Object) -> float:
    """The longest time that a pod of the job has between SIGTERM and SIGKILL."""
    specs = [spec["template"]["spec"] for spec in job["spec"]["pytorchReplicaSpecs"].values()]
    return max(float(spec.get("terminationGracePeriodSeconds", 30)) for spec in specs)


def _watch_them_go(cluster: Cluster, name: str, last: dict[str, Object], version: str, seconds: float) -> None:
    """Follow pods to their end: the exit code is in the last thing that is said of them."""
    going = set(last)
    end = time.monotonic() + seconds
    while going and (left := end - time.monotonic()) > 0:
        for kind, pod in cluster.watch_pods(name, version, max(1, int(left))):
            uid = pod["metadata"]["uid"]
            if uid in last:
                last[uid] = pod
            if kind == "DELETED":
                going.discard(uid)
            if not going:
                return
        pods, version = cluster.pods_now(name)  # the connection ended
        going &= {pod["metadata"]["uid"] for pod in pods}
    if going:
        raise InfrastructureError(f"{name}: {len(going)} pods are not gone after {seconds:.0f} s; is their node alive?")


def _refuse_kueue(job: Object, verb: str) -> None:
    if KUEUE_LABEL in (job["metadata"].get("labels") or {}):
        wanted = "false" if verb == "stop" else "true"
        raise SettingsError(
            f"job {job['metadata']['name']} is Kueue's, which suspends and admits it by itself: "
            f"set spec.active of its Workload to {wanted}"
        )


def _pause(seconds: float) -> None:
    """Asking an API again later is all that is left where there is nothing to wait on."""
    threading.Event().wait(seconds)
