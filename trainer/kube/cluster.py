"""The cluster a person means, and the few things that the desk asks of it; a failure is one line with its way out.

Objects are plain dicts, spelled as in YAML. kubeflow-training's client serves for the pods of a job, for patches and
deletes; it cannot read every job (1.9.4 fails on some fields), nor make one from YAML, nor read earlier logs, so the
rest goes through the kubernetes client. Both are an extra, imported here only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import SettingsError
from trainer.kube.refusals import NotFoundError, Question, translated

Object = dict[str, Any]

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "pytorchjobs"
JOB_LABEL = "training.kubeflow.org/job-name"
CONTAINER = "pytorch"
REQUEST_SECONDS = (10.0, 30.0)
"""Longest wait for a connection and for an answer."""
_TOKEN_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own access to the API."""


@dataclass(frozen=True)
class Cluster:
    """An open way to the API server, for one namespace."""

    namespace: str
    context: str
    host: str
    training: Any
    core: Any
    custom: Any

    @contextmanager
    def asking(self, verb: str, resource: str, name: str = "") -> Iterator[None]:
        """Whatever fails inside comes out as an error of ours."""
        try:
            yield
        except Exception as error:
            known = translated(error, Question(verb, resource, name, self.namespace, self.host, self.context))
            if known is None:
                raise
            raise known from error

    def job(self, name: str) -> Object:
        """The job of that name. Raises NotFoundError."""
        with self.asking("get", PLURAL, name):
            found: Object = self.custom.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, _request_timeout=REQUEST_SECONDS
            )
            return found

    def jobs(self, labels: str = "") -> list[Object]:
        """Jobs of the namespace, the newest last."""
        with self.asking("list", PLURAL):
            found = self.custom.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, label_selector=labels, _request_timeout=REQUEST_SECONDS
            )
        return sorted(found["items"], key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))

    def pods(self, job: str) -> list[Object]:
        """Pods of a job, the master first."""
        with self.asking("list", "pods"):
            pods = self.training.get_job_pods(name=job, namespace=self.namespace, timeout=int(REQUEST_SECONDS[1]))
        return sorted((self.plain(pod) for pod in pods), key=pod_order)

    def pods_now(self, job: str) -> tuple[list[Object], str]:
        """Pods of a job, and the version of this answer, from which they can be watched."""
        with self.asking("list", "pods"):
            found = self.core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOB_LABEL}={job}", _request_timeout=REQUEST_SECONDS
            )
        return [self.plain(pod) for pod in found.items], str(found.metadata.resource_version)

    def watch_pods(self, job: str, version: str, seconds: int) -> Iterator[tuple[str, Object]]:
        """("ADDED" | "MODIFIED" | "DELETED", pod), all that happened since that version, for so long at most."""
        from kubernetes.watch import Watch

        arguments = {"label_selector": f"{JOB_LABEL}={job}", "resource_version": version, "timeout_seconds": seconds}
        with self.asking("watch", "pods"):
            for event in Watch().stream(self.core.list_namespaced_pod, self.namespace, **arguments):
                yield event["type"], self.plain(event["object"])

    def events(self, uid: str) -> list[Object]:
        """What the cluster noted about one object, oldest first."""
        with self.asking("list", "events"):
            found = self.core.list_namespaced_event(
                self.namespace, field_selector=f"involvedObject.uid={uid}", _request_timeout=REQUEST_SECONDS
            )
        return sorted((self.plain(event) for event in found.items), key=lambda event: event.get("lastTimestamp") or "")

    def log(self, pod: str, *, previous: bool = False, follow: bool = False, tail: int | None = None) -> Any:
        """The log of a pod's container as a stream of bytes, to be closed; with `follow` it ends with the container."""
        seconds = (REQUEST_SECONDS[0], None) if follow else REQUEST_SECONDS
        with self.asking("get", "pods/log", pod):
            return self.core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=CONTAINER,
                previous=previous,
                follow=follow,
                **({} if tail is None else {"tail_lines": tail}),
                _preload_content=False,
                _request_timeout=seconds,
            )

    def config_map(self, name: str) -> Object:
        """A ConfigMap. Raises NotFoundError."""
        with self.asking("get", "configmaps", name):
            return self.plain(
                self.core.read_namespaced_config_map(name, self.namespace, _request_timeout=REQUEST_SECONDS)
            )

    def create(self, item: Object) -> Object:
        """Make a job, a ConfigMap or a claim. Raises ExistsError."""
        resource, name = item["kind"].lower() + "s", item["metadata"]["name"]
        with self.asking("create", resource, name):
            if item["kind"] == "PyTorchJob":
                made: Object = self.custom.create_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, item, _request_timeout=REQUEST_SECONDS
                )
                return made
            makers = {
                "ConfigMap": self.core.create_namespaced_config_map,
                "PersistentVolumeClaim": self.core.create_namespaced_persistent_volume_claim,
            }
            return self.plain(makers[item["kind"]](self.namespace, item, _request_timeout=REQUEST_SECONDS))

    def patch_job(self, name: str, change: Object) -> None:
        """Change some fields of a job."""
        with self.asking("patch", PLURAL, name):
            self.training.update_job(change, name, self.namespace)

    def delete_job(self, name: str) -> None:
        """Remove a job; it is gone when all that it owns is."""
        from kubernetes.client import V1DeleteOptions

        with self.asking("delete", PLURAL, name):
            options = V1DeleteOptions(propagation_policy="Foreground")
            self.training.delete_job(name, self.namespace, delete_options=options)

    def exists(self, name: str) -> bool:
        """Whether there is a job of that name."""
        try:
            self.job(name)
        except NotFoundError:
            return False
        return True

    def plain(self, model: Any) -> Object:
        """A model of the client as the dict that the API sent."""
        found: Object = self.core.api_client.sanitize_for_serialization(model)
        return found


def connect(context: str | None = None, namespace: str | None = None) -> Cluster:
    """The cluster of a context of the kubeconfig (default: the current one), or the one this process runs in.

    Nothing is asked of it yet. Raises SettingsError where the extra, the kubeconfig or the context is missing.
    """
    try:
        from kubeflow.training import TrainingClient
        from kubernetes import client
    except ImportError as error:
        raise SettingsError(f"no module {error.name}: install the extra, pip install 'signs-trainer[kube]'") from None
    configuration, found_context, found_namespace = _configuration(context)
    # One failed try is an answer here; urllib3 would log its retries past us.
    configuration.retries = False
    namespace = namespace or found_namespace
    training = TrainingClient(client_configuration=configuration, namespace=namespace)
    api = client.ApiClient(configuration)
    core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
    return Cluster(namespace, found_context, configuration.host, training, core, custom)


def pod_order(pod: Object) -> tuple[str, int]:
    """Masters, then workers by their number."""
    labels = pod["metadata"].get("labels") or {}
    index = labels.get("training.kubeflow.org/replica-index", "0")
    return labels.get("training.kubeflow.org/replica-type", ""), int(index)


def _configuration(context: str | None) -> tuple[Any, str, str]:
    """What the clients need, the name of the context and its namespace."""
    from kubernetes import client, config

    configuration = client.Configuration()
    where = os.environ.get("KUBECONFIG") or "~/.kube/config"
    has_one = any(Path(name).expanduser().is_file() for name in where.split(os.pathsep) if name)
    if context is None and not has_one and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)
        return configuration, "of this pod", (_TOKEN_FOLDER / "namespace").read_text("utf-8").strip()
    if not has_one:
        raise SettingsError(f"no cluster: there is no kubeconfig at {where}; set KUBECONFIG or log in to a cluster")
    try:
        contexts, active = config.list_kube_config_contexts(where)
        chosen = next((one for one in contexts if one["name"] == context), None) if context else active
        if chosen is None:
            known = ", ".join(one["name"] for one in contexts)
            raise SettingsError(f"there is no context {context!r} in the kubeconfig; there are: {known}")
        config.load_kube_config(where, context=chosen["name"], client_configuration=configuration)
    except config.ConfigException as error:
        raise SettingsError(f"the kubeconfig cannot be used: {' '.join(str(error).split())}") from None
    return configuration, chosen["name"], chosen["context"].get("namespace", "default")
