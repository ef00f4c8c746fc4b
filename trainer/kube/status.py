"""How a job stands: what the operator says, what its pods say, and how far the training is, out of the run's ledger."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from trainer.errors import InfrastructureError
from trainer.kube.cluster import Cluster, Object
from trainer.kube.pods import RETRYABLE, PodState, read_pod, seconds
from trainer.kube.refusals import NotFoundError

INSTANCE_LABEL = "app.kubernetes.io/instance"
OURS = "app.kubernetes.io/name=trainer"
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
UNSEEN_SECONDS = 30.0
"""An operator that runs has written something about a new job well before that."""

State = Literal["Unseen", "Created", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]
_ORDER: tuple[State, ...] = ("Succeeded", "Failed", "Suspended", "Restarting", "Running", "Created")
"""Conditions that are true at once: the first of these is the state."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job and its pods at a glance."""

    name: str
    namespace: str
    state: State
    reason: str
    """The operator's words on a state that needs some; else empty."""
    since: str
    """When it came into this state, as the API writes times."""
    conditions: list[dict[str, str]]
    replicas: dict[str, int]
    pods: list[PodState] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Why pods could not be made, and what of all this could not be found out."""

    @property
    def is_over(self) -> bool:
        """Whether it ended, well or not."""
        return self.state in ("Succeeded", "Failed")

    @property
    def code(self) -> int | None:
        """Exit code of the job: that of the pod that decided it; None while it goes on."""
        if self.state == "Succeeded":
            return 0
        codes = [pod.code for pod in self.pods if pod.code]
        # A code that forbids a retry is what failed the job; 1 may be a peer's echo of it.
        return min(codes, key=lambda code: (code >= RETRYABLE, code == 1, code), default=1) if self.is_over else None


def find_job(cluster: Cluster, name: str) -> Object:
    """The job of that name, or else the newest of that run or release. Raises NotFoundError with the nearest name."""
    try:
        return cluster.job(name)
    except NotFoundError:
        jobs = cluster.jobs()
    same = [job for job in jobs if (job["metadata"].get("labels") or {}).get(INSTANCE_LABEL) == name]
    if same:
        return same[-1]
    names = [job["metadata"]["name"] for job in jobs]
    near = get_close_matches(name, names, 1, 0.4)
    known = f"there are: {', '.join(names[-5:])}" if names else "there are none; `trainer submit` makes one"
    hint = f"did you mean {near[0]}?" if near else known
    raise NotFoundError(f"there is no job {name} in namespace {cluster.namespace}; {hint}")


def read_status(cluster: Cluster, job: Object) -> JobStatus:
    """Everything about a job that the cluster knows."""
    warnings: list[str] = []
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    own_events = _events(cluster, uid, warnings)
    pods = cluster.pods(name)
    healthy = all(pod.get("status", {}).get("phase") in ("Running", "Succeeded") for pod in pods)
    events = {
        pod["metadata"]["name"]: _events(cluster, pod["metadata"]["uid"], warnings)
        for pod in ([] if healthy else pods)
        if pod.get("status", {}).get("phase") == "Pending"
    }
    states = [read_pod(pod, events.get(pod["metadata"]["name"], ()), own_events) for pod in pods]
    return summed_up(job, states, own_events, warnings)


def summed_up(
    job: Object, pods: Sequence[PodState] = (), events: Sequence[Object] = (), warnings: Sequence[str] = ()
) -> JobStatus:
    """The status out of what was read."""
    conditions, state = _conditions(job), state_of(job)
    condition = next((one for one in conditions if one["type"] == state), {})
    found = list(warnings)
    if (
        state == "Unseen"
        and not events
        and time.time() - seconds(job["metadata"]["creationTimestamp"]) > UNSEEN_SECONDS
    ):
        found.append("the training operator has not seen this job: does it run, and watch this namespace?")
    replicas = {kind: spec.get("replicas", 1) for kind, spec in job["spec"]["pytorchReplicaSpecs"].items()}
    if len(pods) < sum(replicas.values()) and state in ("Unseen", "Created", "Restarting", "Running"):
        failed = [event for event in events if event.get("type") == "Warning" and "Create" in event.get("reason", "")]
        found += [f"{event['reason']}: {' '.join(event['message'].split())}" for event in failed[-1:]]
    return JobStatus(
        name=job["metadata"]["name"],
        namespace=job["metadata"]["namespace"],
        state=state,
        reason=condition.get("message", "") if state in ("Failed", "Restarting") else "",
        since=condition.get("lastTransitionTime", job["metadata"]["creationTimestamp"]),
        conditions=[
            {"type": one["type"], "since": one["lastTransitionTime"], "message": one.get("message", "")}
            for one in conditions
        ],
        replicas=replicas,
        pods=list(pods),
        warnings=list(dict.fromkeys(found)),
    )


def state_of(job: Object) -> State:
    """The condition that counts."""
    types = {one["type"] for one in _conditions(job)}
    return next((one for one in _ORDER if one in types), "Unseen")


def is_over(job: Object) -> bool:
    """Whether the job ended, well or not."""
    return state_of(job) in ("Succeeded", "Failed")


def _conditions(job: Object) -> list[Object]:
    """Those that are true."""
    return [one for one in job.get("status", {}).get("conditions") or [] if one["status"] == "True"]


def _events(cluster: Cluster, uid: str, warnings: list[str]) -> list[Object]:
    """Events are a help, not a need: without permission the rest is shown all the same."""
    try:
        return cluster.events(uid)
    except InfrastructureError as error:
        warnings.append(f"events could not be read: {error}")
        return []
