"""The job that `trainer submit` makes: the shipped manifest with one's own settings, image, size and keys put in.

    settings + wishes ─► claim for the store (if it is a volume), ConfigMap with the settings, PyTorchJob

The name of the job ends in a hash of all that its pods will be, since the operator never rolls out a change: the same
wishes give the same name. The run's name is `run.name`, else the job's (`--name`), else task and digest of the
settings, so a job with other pods goes on with the run.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from trainer.config.digest import digest, matters
from trainer.config.settings import CommonSettings
from trainer.config.sources import Loaded
from trainer.errors import SettingsError
from trainer.kube.cluster import CONTAINER, Object
from trainer.kube.status import INSTANCE_LABEL

MAX_NAME = 50
"""A pod's name and its Service's are this and `-worker-<i>`, and have 63 characters."""
HASH_LENGTH = 8
STORE_URL = "file:///store"
"""Where the claim for the store is mounted in the pods."""
DATA_FOLDER = "/data"
GPU = "nvidia.com/gpu"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")
"""DNS-1035, as the webhook asks for, and short enough."""
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a person says of a job besides the settings of the training; None leaves it as the manifest has it."""

    name: str | None = None
    image: str | None = None
    workers: int = 0
    """Pods beside the first."""
    nproc: int | None = None
    """Processes of a pod; default one for each GPU, or one."""
    gpus: int = 0
    cpu: str | None = None
    memory: str | None = None
    secret: str | None = None
    """Secret with the keys of the store in S3."""
    service_account: str | None = None
    store_claim: str | None = None
    data_claim: str | None = None


@dataclass(frozen=True)
class Planned:
    """The objects of a job in the order in which they are made."""

    job: str
    run: str
    store: str
    objects: list[Object]
    notes: list[str]
    """What a person may want to know before."""


def plan(loaded: Loaded, wishes: Wishes) -> Planned:
    """The objects for a training. Raises SettingsError for a name or a store that no cluster can have."""
    claim, config_map, job = _template()
    config = _config(loaded, wishes)
    task, run, store = config["task"], config["run"]["name"], config["run"]["store"]
    base = _base_name(run, task)
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    _volumes(template["spec"], wishes, store, wishes.store_claim or f"{base}-store")
    _container(template["spec"], wishes, run, store)
    if "grace_seconds" in config["run"]:
        _grace(template["spec"], math.ceil(config["run"]["grace_seconds"]))
    if port := config.get("telemetry", {}).get("prometheus", {}).get("port"):
        _metrics(template["spec"], port)
    template["metadata"]["labels"][INSTANCE_LABEL] = base
    _shape(job["spec"], wishes)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    name = wishes.name or f"{base}-{_hash(job['spec'], text)}"
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--name {name}: small letters, digits and '-', beginning with a letter, at most {MAX_NAME} characters"
        )
    for spec in job["spec"]["pytorchReplicaSpecs"].values():
        _config_volume(spec["template"]["spec"])["configMap"]["name"] = name
    config_map["data"] = {"config.yaml": text}
    for item, its_name in ((claim, wishes.store_claim or f"{base}-store"), (config_map, name), (job, name)):
        item["metadata"]["name"] = its_name
        item["metadata"]["labels"][INSTANCE_LABEL] = base
    with_claim = store.startswith("file:") and not wishes.store_claim
    objects = [*([claim] if with_claim else []), config_map, job]
    return Planned(name, run, store, objects, list(_notes(wishes, store)))


def as_yaml(planned: Planned, namespace: str | None) -> str:
    """The objects as a file for `kubectl apply -f`."""
    for item in planned.objects if namespace else ():
        item["metadata"]["namespace"] = namespace
    return yaml.dump_all(planned.objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors, which people cannot read."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _template() -> tuple[Object, Object, Object]:
    """Claim, ConfigMap and job of the manifest; a submitted job needs no more of it."""
    text = (files("trainer") / "kube" / "pytorchjob.yaml").read_text("utf-8")
    by_kind = {item["kind"]: item for item in yaml.safe_load_all(text) if item}
    return by_kind["PersistentVolumeClaim"], by_kind["ConfigMap"], by_kind["PyTorchJob"]


def _config(loaded: Loaded, wishes: Wishes) -> Object:
    """The settings that somebody gave, as a tree, and what only the job knows."""
    settings = loaded.settings
    if loaded.source_of["run.store"] == "default":
        settings.run.store = STORE_URL
    if not f"{settings.run.store}/".startswith(("s3://", f"{STORE_URL}/")):
        raise SettingsError(
            f"run.store is {settings.run.store}, a place on this machine; pods reach s3://bucket/prefix, "
            f"or {STORE_URL}, which is a volume of the cluster"
        )
    given = {name for name, source in loaded.source_of.items() if source != "default"}
    if wishes.data_claim and "data.path" in loaded.source_of and "data.path" not in given:
        settings.data.path = DATA_FOLDER  # type: ignore[attr-defined]  # a task's own, asked for by its name
        given.add("data.path")
    settings.run.name = settings.run.name or wishes.name or f"{settings.task}-{digest(matters(settings))[:HASH_LENGTH]}"
    return _tree(settings, {*given, "task", "run.name", "run.store"})


def _tree(settings: CommonSettings, names: set[str]) -> Object:
    """These settings by section, in the order of their declaration."""
    whole = settings.model_dump(mode="json")

    def pick(tree: Object, prefix: str) -> Object:
        found = {}
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if name in names:
                found[key] = value
            elif isinstance(value, dict) and (below := pick(value, f"{name}.")):
                found[key] = below
        return found

    return pick(whole, "")


def _base_name(run: str, task: str) -> str:
    """The run's name as names of objects are spelled, with room for the hash."""
    base = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    base = base if base[:1].isalpha() else f"{task}-{base}"
    return base[: MAX_NAME - HASH_LENGTH - 1].rstrip("-")


def _volumes(pod: Object, wishes: Wishes, store: str, claim: str) -> None:
    volumes, mounts = pod["volumes"], training_container(pod)["volumeMounts"]
    if store.startswith("file:"):
        next(one for one in volumes if one["name"] == "store")["persistentVolumeClaim"]["claimName"] = claim
    else:
        volumes[:] = [one for one in volumes if one["name"] != "store"]
        mounts[:] = [one for one in mounts if one["name"] != "store"]
    if wishes.data_claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": wishes.data_claim, "readOnly": True}})
        mounts.append({"name": "data", "mountPath": DATA_FOLDER, "readOnly": True})


def _container(pod: Object, wishes: Wishes, run: str, store: str) -> None:
    """Image, size and environment of the training container."""
    container = training_container(pod)
    container["image"] = wishes.image or container["image"]
    requests = container["resources"].setdefault("requests", {})
    limits = container["resources"].setdefault("limits", {})
    if wishes.cpu:
        requests["cpu"] = wishes.cpu
    if wishes.memory:
        requests["memory"] = limits["memory"] = wishes.memory
    if wishes.gpus:
        limits[GPU] = wishes.gpus
    _variable(pod, "TRAINER__RUN__NAME")["value"] = run
    if wishes.secret and not store.startswith("s3://"):
        raise SettingsError(f"--secret {wishes.secret} has no effect: the store is {store}; --store s3://bucket/prefix")
    for key in _KEYS if wishes.secret else ():
        container["env"].append({"name": key, "valueFrom": {"secretKeyRef": {"name": wishes.secret, "key": key}}})
    pod["serviceAccountName"] = wishes.service_account or "default"


def _grace(pod: Object, grace_seconds: int) -> None:
    """The kubelet's time between SIGTERM and SIGKILL, which the environment tells the trainer."""
    pod["terminationGracePeriodSeconds"] = grace_seconds
    _variable(pod, "TRAINER__RUN__GRACE_SECONDS")["value"] = str(grace_seconds)


def _metrics(pod: Object, port: int) -> None:
    """The port at which a PodMonitor finds the metrics, and at which the trainer serves them."""
    _variable(pod, "TRAINER__TELEMETRY__PROMETHEUS__PORT")["value"] = str(port)
    next(one for one in training_container(pod)["ports"] if one["name"] == "metrics")["containerPort"] = port


def _shape(spec: Object, wishes: Wishes) -> None:
    """Pods and processes; the operator takes the number of processes as a text only."""
    spec["nprocPerNode"] = str(wishes.nproc or max(1, wishes.gpus))
    if wishes.workers:
        spec["pytorchReplicaSpecs"]["Worker"] = {
            **deepcopy(spec["pytorchReplicaSpecs"]["Master"]),
            "replicas": wishes.workers,
        }


def _notes(wishes: Wishes, store: str) -> Iterator[str]:
    if store.startswith("s3://") and not (wishes.secret or wishes.service_account):
        yield "no --secret and no --service-account: the pods get no keys for the store unless their node has some"
    if store.startswith("file:") and wishes.workers:
        yield "the store is a volume: all pods must run on its node, unless its storage class allows ReadWriteMany"


def training_container(pod: Object) -> Object:
    """The container that trains, out of the spec of a pod."""
    found: Object = next(one for one in pod["containers"] if one["name"] == CONTAINER)
    return found


def _variable(pod: Object, name: str) -> Object:
    found: Object = next(one for one in training_container(pod)["env"] if one["name"] == name)
    return found


def _config_volume(pod: Object) -> Object:
    found: Object = next(one for one in pod["volumes"] if "configMap" in one)
    return found


def _hash(spec: Object, config: str) -> str:
    """Of everything that decides what the pods do; the ConfigMap's name depends on it and is left out."""
    blank = deepcopy(spec)
    for replica in blank["pytorchReplicaSpecs"].values():
        _config_volume(replica["template"]["spec"])["configMap"]["name"] = ""
    text = json.dumps(blank, sort_keys=True) + config
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
