"""The cluster as the tests see it: made, waited for by watching, looked into.

    kube.until(call, found, 60, "a pod")     watches what a list call lists until `found` says something
    kube.job_until("ns", "job", "Succeeded") and at once no, with the pods' words, where it ends another way
    kube.follow("ns", "pod", "Epoch 2/")     reads the log of a running container up to a line

Objects are plain dicts, as the API writes them.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import kubernetes

Object = dict[str, Any]

JOBS = {"group": "kubeflow.org", "version": "v1", "plural": "pytorchjobs"}
OVER = ("Succeeded", "Failed")
CONTAINER = "pytorch"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Of a pod that a namespace with Pod Security `restricted` lets in."""
LOOK_SECONDS = 120


class Kube:
    """The cluster of the current context. Raises what the client raises where there is none."""

    def __init__(self) -> None:
        kubernetes.config.load_config()
        self.core = kubernetes.client.CoreV1Api()
        self.apps = kubernetes.client.AppsV1Api()
        self.objects = kubernetes.client.CustomObjectsApi()
        self.dynamic = kubernetes.dynamic.DynamicClient(kubernetes.client.ApiClient())
        self.nodes = self.core.list_node(_request_timeout=5).items

    def has_image(self, image: str) -> bool:
        names = [name for node in self.nodes for one in node.status.images or () for name in one.names or ()]
        return any(name == image or name.endswith(f"/{image}") for name in names)

    def has_operator(self) -> bool:
        return any(found.kind == "PyTorchJob" for found in self.dynamic.resources.search(group="kubeflow.org"))

    # made and removed

    def make_namespace(self, prefix: str, *, restricted: bool) -> str:
        name = f"{prefix}-{secrets.token_hex(3)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"} if restricted else {}
        self.core.create_namespace({"metadata": {"name": name, "labels": labels}})
        # The cluster furnishes it a moment later; without its service account it takes no pods.
        for call, thing in (
            (self.core.list_namespaced_service_account, "default"),
            (self.core.list_namespaced_config_map, "kube-root-ca.crt"),
        ):
            one = partial(call, name, field_selector=f"metadata.name={thing}")
            self.until(one, lambda _kind, _thing: True, 60, f"{thing} in namespace {name}")
        return name

    def create(self, namespace: str, *documents: Object) -> None:
        for document in documents:
            api = self.dynamic.resources.get(api_version=document["apiVersion"], kind=document["kind"])
            api.create(body=document, namespace=namespace)

    def make_secret(self, namespace: str, name: str, values: dict[str, str]) -> None:
        self.core.create_namespaced_secret(namespace, {"metadata": {"name": name}, "stringData": values})

    # waited for

    def until(
        self, call: Callable[..., Any], found: Callable[[str, Object], Any], seconds: float, what: str, since: str = ""
    ) -> Any:
        """What `found(kind of event, object)` answers first, of all that is there and all that comes."""
        end = time.monotonic() + seconds
        given = {"resource_version": since} if since else {}
        while (left := end - time.monotonic()) > 0:
            watch = kubernetes.watch.Watch()
            for event in watch.stream(call, timeout_seconds=max(1, int(left)), **given):
                if answer := found(event["type"], event["raw_object"]):
                    watch.stop()
                    return answer
        raise AssertionError(f"{what}: not within {seconds:.0f} s")

    def job_until(self, namespace: str, name: str, *states: str, seconds: float = 300) -> Object:
        """The job once its state is one of these. AssertionError, with reasons, where it ends another way."""

        def found(_kind: str, job: Object) -> Object | None:
            state = state_of(job)
            assert state in states or state not in OVER, f"job {name} is {state}: {self.describe(namespace, name)}"
            return job if state in states else None

        call = partial(self._list_jobs(), namespace=namespace, field_selector=f"metadata.name={name}")
        try:
            return self.until(call, found, seconds, f"job {name} {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.describe(namespace, name)}") from None

    def pod_until(
        self, namespace: str, name: str, found: Callable[[Object], Any], seconds: float = 180, what: str = ""
    ) -> Any:
        """What `found(pod)` answers first about a pod, in each of its lives."""
        call = partial(self._list_pods(), namespace=namespace, field_selector=f"metadata.name={name}")
        answers = lambda kind, pod: found(pod)  # noqa: E731
        return self.until(call, answers, seconds, what or f"pod {name}")

    def end_of(self, namespace: str, pod: str, seconds: float = 300, *, uid: str = "") -> Object:
        """The terminated state of the training container (`exitCode`, `message`); with `uid`, of this life."""

        def found(one: Object) -> Object | None:
            return None if uid and one["metadata"]["uid"] != uid else container_of(one)["state"].get("terminated")

        return self.pod_until(namespace, pod, found, seconds, f"end of pod {pod}")

    def only_left(self, namespace: str, expected: set[tuple[str, str]], seconds: float = 180) -> set[tuple[str, str]]:
        """What is in the namespace once everything else than the expected had its time to go."""
        end = time.monotonic() + seconds
        for kind, name in self.inventory(namespace) - expected:
            api = self._kinds()[kind]
            chosen = {"namespace": namespace, "field_selector": f"metadata.name={name}"}
            listed = api.get(**chosen).to_dict()
            if listed["items"] and (left := int(end - time.monotonic())) > 0:
                watch = api.watch(**chosen, resource_version=listed["metadata"]["resourceVersion"], timeout=left)
                next((event for event in watch if event["type"] == "DELETED"), None)
        return self.inventory(namespace)

    def inventory(self, namespace: str) -> set[tuple[str, str]]:
        """(kind, name) of every object in a namespace, of every kind that the server knows, but for events."""
        found = {kind: api.get(namespace=namespace).to_dict()["items"] for kind, api in self._kinds().items()}
        return {(kind, one["metadata"]["name"]) for kind, items in found.items() for one in items}

    def wait_gone(self, namespace: str, name: str, seconds: float = 180) -> None:
        """Until no pod of that name is there."""
        call = partial(self._list_pods(), namespace=namespace, field_selector=f"metadata.name={name}")
        there = call()
        if there.items:
            since = there.metadata.resource_version
            self.until(call, lambda kind, _pod: kind == "DELETED", seconds, f"pod {name} gone", since)

    def follow(self, namespace: str, pod: str, pattern: str, seconds: float = 180, *, uid: str = "") -> str:
        """The first line of the training's log that has the pattern in it; of the pod's life `uid`, if given.

        The log of a pod that has ended is read, too. AssertionError with the log's end where there is no such line.
        """
        end = time.monotonic() + seconds

        def begun(one: Object) -> bool:
            mine = not uid or one["metadata"]["uid"] == uid
            return mine and bool({"running", "terminated"} & set(container_of(one)["state"]))

        self.pod_until(namespace, pod, begun, seconds, f"pod {pod} running")
        lines: list[str] = []
        for line in self._lines(namespace, pod, end):
            lines.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(
            f"pod {pod}: no {pattern!r} within {seconds:.0f} s or its life:\n" + "\n".join(lines[-30:])
        )

    def _lines(self, namespace: str, pod: str, end: float) -> Iterator[str]:
        left = max(1, end - time.monotonic())
        given = {"container": CONTAINER, "follow": True, "_preload_content": False, "_request_timeout": (5, left)}
        answer = self.core.read_namespaced_pod_log(pod, namespace, **given)
        rest = b""
        try:
            for chunk in answer.stream():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
                if time.monotonic() > end:
                    return
        finally:
            answer.close()

    # looked at

    def job(self, namespace: str, name: str) -> Object:
        return self.objects.get_namespaced_custom_object(namespace=namespace, name=name, **JOBS)

    def jobs(self, namespace: str) -> list[Object]:
        return self.objects.list_namespaced_custom_object(namespace=namespace, **JOBS)["items"]

    def pods(self, namespace: str, labels: str = "") -> list[Object]:
        found = self.core.list_namespaced_pod(namespace, label_selector=labels).items
        return [self._plain(pod) for pod in found]

    def pods_of(self, namespace: str, job: str) -> list[Object]:
        return self.pods(namespace, f"training.kubeflow.org/job-name={job}")

    def uid_of(self, namespace: str, pod: str) -> str:
        return self.core.read_namespaced_pod(pod, namespace).metadata.uid

    def num_created(self, namespace: str, job: str) -> int:
        """How many pods the operator has made for a job."""
        events = self.core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={job}").items
        return sum(event.count or 1 for event in events if event.reason == "SuccessfulCreatePod")

    def log(self, namespace: str, pod: str, *, container: str = CONTAINER, previous: bool = False) -> str:
        given = {
            "container": container,
            "previous": previous,
            "_preload_content": False,
        }  # else it reads JSON as Python
        return self.core.read_namespaced_pod_log(pod, namespace, **given).data.decode(errors="replace")

    def describe(self, namespace: str, job: str) -> str:
        """What one would look up by hand after a failure."""
        lines = [f"state {state_of(one)}" for one in self.jobs(namespace) if one["metadata"]["name"] == job]
        for pod in self.pods_of(namespace, job):
            name = pod["metadata"]["name"]
            lines.append(f"{name}: {pod['status'].get('phase')} {container_of(pod)['state']}")
            try:
                lines += self.log(namespace, name).splitlines()[-15:]
            except kubernetes.client.ApiException as error:
                lines.append(f"no log: {error.reason}")
        for event in self.core.list_namespaced_event(namespace).items:
            if event.type == "Warning" and event.involved_object.name.startswith(job):
                lines.append(f"event {event.involved_object.name}: {event.reason} {event.message}")
        return "\n  ".join(lines) or "there is nothing of it"

    def look(self, namespace: str, claim: str, command: str, image: str) -> str:
        """What a shell command says in a pod that has the claim, read-only, at /store."""
        name = f"look-{secrets.token_hex(3)}"
        container = {
            "name": "look",
            "image": image,
            "command": ["sh", "-c", f"({command}) 2>&1"],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "store", "mountPath": "/store", "readOnly": True}],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": RESTRICTED,
            "containers": [container],
            "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": claim}}],
        }
        self.core.create_namespaced_pod(namespace, {"metadata": {"name": name}, "spec": spec})
        ended = lambda pod: pod["status"].get("phase") in OVER and pod["status"]["phase"]  # noqa: E731
        phase = self.pod_until(namespace, name, ended, LOOK_SECONDS, f"a look into claim {claim}")
        text = self.log(namespace, name, container="look")
        self.core.delete_namespaced_pod(name, namespace)
        assert phase == "Succeeded", f"{command}: {text}"
        return text

    def _kinds(self) -> dict[str, Any]:
        """The namespaced kinds that can be listed."""
        known = [api for api in self.dynamic.resources.search(preferred=True) if not api.kind.endswith("List")]
        return {api.kind: api for api in known if api.namespaced and "list" in api.verbs and api.kind != "Event"}

    def _plain(self, model: Any) -> Object:
        return self.core.api_client.sanitize_for_serialization(model)

    def _list_pods(self) -> Callable[..., Any]:
        return self.core.list_namespaced_pod

    def _list_jobs(self) -> Callable[..., Any]:
        return partial(self.objects.list_namespaced_custom_object, **JOBS)


def state_of(job: Object) -> str:
    """The last condition that is true, as `kubectl get` shows it."""
    true = [one["type"] for one in job.get("status", {}).get("conditions") or () if one["status"] == "True"]
    return next((one for one in true if one in OVER), true[-1] if true else "")


def container_of(pod: Object) -> Object:
    """The status of the training container; an empty one before it has any."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((one for one in statuses if one["name"] == CONTAINER), {"state": {}, "restartCount": 0})
