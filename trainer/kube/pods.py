"""What a pod of a job is doing, and why it is not training, out of the objects that the API gives.

conditions ─► containers (first those that run before) ─► events       the first that has a reason gives it
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from trainer.kube.cluster import CONTAINER, Object
from trainer.kube.codes import in_words

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}
_TELLING = {"FailedMount", "FailedAttachVolume", "FailedScheduling", "FailedCreatePodSandBox"}
"""Events that say why a container does not start; others are about what was tried."""
_EXITED = re.compile(r"Pod: [^.]+\.(?P<pod>\S+) exited with code (?P<code>\d+)")
_ENDED = re.compile(
    r"Error pod (?P<pod>\S+) container pytorch exitCode: (?P<code>\d+) terminated message:(?P<said>.*)", re.S
)
_CREATED = re.compile(r"Created pod: (?P<pod>\S+)")
"""What the operator notes about the pods of a job; it replaces a pod that may be tried again."""


OVERDUE_SECONDS = 30.0
"""After the end of its grace period; a kubelet that lives has removed a pod well before that."""
RETRYABLE = 128
"""From this exit code on the operator replaces a pod (restart policy ExitCode)."""


@dataclass(frozen=True, kw_only=True)
class PodState:
    """One pod at a glance."""

    name: str
    replica: str
    """`master-0`, `worker-1`"""
    state: str
    """In one word, as `kubectl get pods` would say it."""
    restarts: int
    """Lives before this one, in this pod and in those that had its name."""
    earlier_codes: list[int]
    """Exit codes that those lives ended with, as far as the cluster still knows them."""
    node: str
    why: str
    """Why it is not training, how it ended, or after what it was restarted; empty where nothing is to be said."""
    code: int | None
    """Exit code of the training container if it has ended."""


def read_pod(pod: Object, events: Sequence[Object] = (), job_events: Sequence[Object] = ()) -> PodState:
    """Sum up a pod; `events` are its own, `job_events` those of its job (they know of earlier pods of its name)."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    ours = container_status(pod)
    ended = ours.get("state", {}).get("terminated")
    earlier, num_earlier = _earlier(pod, job_events), _num_earlier_pods(metadata["name"], job_events)
    return PodState(
        name=metadata["name"],
        replica=f"{labels.get('training.kubeflow.org/replica-type', 'pod')}-"
        f"{labels.get('training.kubeflow.org/replica-index', '0')}",
        state=_state(pod),
        restarts=ours.get("restartCount", 0) + num_earlier,
        earlier_codes=list(dict.fromkeys(one["exitCode"] for one in earlier)),
        node=pod.get("spec", {}).get("nodeName", ""),
        why=next(_reasons(pod, events, earlier, num_earlier), ""),
        code=ended["exitCode"] if ended else (1 if status.get("phase") == "Failed" and not ours else None),
    )


def container_status(pod: Object) -> Object:
    """Status of the training container, empty until the kubelet has one."""
    found: list[Object] = pod.get("status", {}).get("containerStatuses") or []
    return next((one for one in found if one["name"] == CONTAINER), {})


def has_started(pod: Object) -> bool:
    """Whether the training container runs or has run: whether it has a log."""
    state = container_status(pod).get("state", {})
    return "running" in state or "terminated" in state


def _state(pod: Object) -> str:
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    state = container_status(pod).get("state", {})
    if reason := status.get("reason"):
        return str(reason)
    for kind in ("waiting", "terminated"):
        if reason := state.get(kind, {}).get("reason"):
            return str(reason)
    return str(status.get("phase", "Unknown"))


def _reasons(pod: Object, events: Sequence[Object], earlier: Sequence[Object], num_earlier: int) -> Iterator[str]:
    """Every reason there is, the most telling first."""
    status = pod.get("status", {})
    ours = container_status(pod)
    yield from _of_end(status, ours)
    yield from _of_leaving(pod["metadata"], pod.get("spec", {}).get("nodeName", ""))
    for condition in status.get("conditions", ()):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            yield f"told to go, not by this job: {_line(condition.get('message') or condition.get('reason'))}"
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"cannot be scheduled: {_line(condition.get('message') or condition.get('reason'))}"
    for one in status.get("initContainerStatuses", ()):
        yield from _of_init(one)
    placed = bool(pod.get("spec", {}).get("nodeName"))  # then what kept it from its node is over
    yield from _of_waiting(ours, [one for one in events if not (placed and one.get("reason") == "FailedScheduling")])
    for life in earlier[-1:]:
        yield f"restarted after {in_words(life['exitCode'], life.get('reason', ''))}{_said(life)}"
    if num_earlier:
        yield "made anew; those before it left no exit code: an init container failed, or they or their node were lost"


def _of_end(status: Object, ours: Object) -> Iterator[str]:
    """How it ended, if it has."""
    if status.get("reason") and status.get("message"):  # evicted, preempted, past its deadline
        yield f"{status['reason']}: {_line(status['message'])}"
    ended = ours.get("state", {}).get("terminated")
    if ended:
        yield in_words(ended["exitCode"], ended.get("reason", "")) + _said(ended)


def _of_leaving(metadata: Object, node: str) -> Iterator[str]:
    """The API keeps a pod until the kubelet says that it has ended, and the job makes no other one before that."""
    due = metadata.get("deletionTimestamp")
    if due and time.time() - seconds(due) > OVERDUE_SECONDS:
        yield f"should be gone: does {node} still answer? `kubectl delete pod {metadata['name']} --force` gives it up"


def _of_init(status: Object) -> Iterator[str]:
    """What a container that runs before the training is at."""
    state, name = status.get("state", {}), status["name"]
    waiting, ended = state.get("waiting"), state.get("terminated")
    if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
        yield f"init container {name}: {_of_reason(status, waiting)}"
    elif ended and (ended["exitCode"] or ended.get("reason") == "OOMKilled"):
        # killed in a child of its shell it ends with 0, and the kubelet starts nothing after it all the same
        yield f"init container {name}: {in_words(ended['exitCode'], ended.get('reason', ''))}{_said(ended)}"
    elif "running" in state and name == "init-pytorch":
        yield "waits for the master's name in DNS, which answers once the master is ready"


def _of_waiting(ours: Object, events: Sequence[Object]) -> Iterator[str]:
    waiting = ours.get("state", {}).get("waiting")
    if not waiting and ours:
        return
    last = ours.get("lastState", {}).get("terminated")
    if waiting and waiting.get("reason") == "CrashLoopBackOff" and last:
        yield f"waits before its next try, after {in_words(last['exitCode'], last.get('reason', ''))}{_said(last)}"
    elif waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating", None):
        yield _of_reason(ours, waiting)
    for event in reversed(events):
        if event.get("type") == "Warning" and event.get("reason") in _TELLING:
            yield f"{event['reason']}: {_line(event.get('message'))}"


def _of_reason(status: Object, waiting: Object) -> str:
    """A waiting container: images and secrets are what people get wrong."""
    reason, message = waiting["reason"], _line(waiting.get("message"))
    if reason in _IMAGE_REASONS:
        return f"the image {status.get('image')} cannot be pulled ({reason}): {message or 'no reason given'}"
    if reason == "CreateContainerConfigError":
        return f"what it needs is missing: {message}"
    return f"{reason}: {message}" if message else str(reason)


def _said(ended: Object) -> str:
    """What the launcher wrote to the termination log; without it that is the end of the log, whose last line counts."""
    lines = [line for line in (ended.get("message") or "").splitlines() if line.strip()]
    return f" ({lines[-1].strip()})" if lines and ended["exitCode"] else ""


def _earlier(pod: Object, job_events: Sequence[Object]) -> list[Object]:
    """How earlier lives of a pod ended, oldest first, as the kubelet would say it (`exitCode`, `reason`, `message`)."""
    name, lives = pod["metadata"]["name"], []
    for event in job_events:
        text = event.get("message") or ""
        match = _ENDED.match(text) or _EXITED.match(text)
        if match and match["pod"] == name and int(match["code"]) >= RETRYABLE:
            said = match.groupdict().get("said", "")
            lives.append({"exitCode": int(match["code"]), "reason": event["reason"], "message": said})
    lives.sort(key=lambda life: bool(life["message"]))  # those that say why last
    last = container_status(pod).get("lastState", {}).get("terminated")
    return [*lives, *([last] if last else [])]


def _num_earlier_pods(name: str, job_events: Sequence[Object]) -> int:
    """Pods of this name before this one."""
    found = ((_CREATED.fullmatch(event.get("message") or ""), event) for event in job_events)
    made = sum(int(event.get("count") or 1) for match, event in found if match and match["pod"] == name)
    return max(0, made - 1)


def _line(text: object) -> str:
    return " ".join(str(text or "").split())


def seconds(stamp: str) -> float:
    """Seconds since the epoch out of a time of the API."""
    return datetime.fromisoformat(stamp).timestamp()
