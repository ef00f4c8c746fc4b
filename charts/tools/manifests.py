"""manifests/ out of the chart: the same objects without Helm, and overlays as JSON patches between two renderings.

manifests/pytorchjob.yaml            complete in itself (kubectl apply -f)
manifests/base/                      the same as a kustomize base
manifests/overlays/<name>/           gpu, s3, elastic: what differs, object by object
manifests/monitoring/                PodMonitor and alerts for all runs of a cluster (one file there is written by hand)
trainer/kube/pytorchjob.yaml         the same for `trainer submit`, as package data
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from charts.tools.helm import render

ROOT = Path(__file__).resolve().parents[2]
NAME = "signs-train"
PLAIN: dict[str, Any] = {"jobId": "1", "test": {"enabled": False}}
"""A number instead of the hash: people who edit a file count on."""

OVERLAYS: dict[str, dict[str, Any]] = {
    "gpu": {
        "jobId": "gpu",
        "gpu": {"count": 1},
        "resources": {"requests": {"cpu": 4, "memory": "16Gi"}, "limits": {"memory": "32Gi"}},
        "shm": {"size": "8Gi"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "s3": {
        "jobId": "s3",
        "config": {"run": {"store": "s3://my-bucket/runs"}, "s3": {"region": "us-east-1"}},
        "s3": {"existingSecret": "signs-train-s3"},
    },
    "elastic": {
        "jobId": "elastic",
        "elastic": {"enabled": True, "minReplicas": 1},
        "worker": {"replicas": 2},
        "store": {"accessModes": ["ReadWriteMany"]},
    },
}

_HEADER = """\
# Generated from charts/trainer by `make manifests`.
"""
_HOWTO = """\
# Trains generated signs on one pod and keeps the run on a volume:
#
#   kubectl apply -f manifests/pytorchjob.yaml
#   kubectl get pytorchjob signs-train-1 --watch
#
# The operator never rolls a change out to a job that is there. After an edit give job and ConfigMap another name
# (signs-train-2): the run keeps its name and goes on.
"""
_OVERLAY_NOTES = {
    "gpu": "One GPU for the pod.",
    "s3": "The store in S3: edit bucket and region; the keys come from the Secret signs-train-s3 (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY).",
    "elastic": "Two workers without a master, which go on when one of them leaves.",
}
MONITORING: dict[str, Any] = {
    "requireApi": False,
    "podMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
}
_MONITORING_HOWTO = """\
# For all runs of a cluster, instead of monitoring.podMonitor and monitoring.prometheusRule in every release:
#
#   kubectl apply --namespace monitoring --kustomize manifests/monitoring
#
# A Prometheus that picks by labels wants its own on both (kube-prometheus-stack: `release`). The dashboards are plain
# files: kubectl create configmap training-run --from-file charts/trainer/files/dashboards/training-run.json, and
# label it grafana_dashboard=1.
"""
_ORDER = ("ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "PyTorchJob")
"""What a pod needs comes before it, as with Helm."""
_FROM_HELM = {
    "labels": ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"),
    "annotations": ("helm.sh/resource-policy",),
}


def files() -> dict[Path, str]:
    """Content of every generated file by its path."""
    base = objects({})
    whole = _HEADER + _HOWTO + dump(base)
    made = {
        ROOT / "manifests/pytorchjob.yaml": whole,
        ROOT / "manifests/base/pytorchjob.yaml": whole,
        ROOT / "manifests/base/kustomization.yaml": _HEADER + dump([_kustomization(resources=["pytorchjob.yaml"])]),
        ROOT / "trainer/kube/pytorchjob.yaml": whole,
    }
    own = {f"{found['kind'].lower()}.yaml": found for found in monitoring()}
    for name, found in own.items():
        made[ROOT / "manifests/monitoring" / name] = _HEADER + dump([found])
    listed = dump([_kustomization(resources=sorted(own))])
    made[ROOT / "manifests/monitoring/kustomization.yaml"] = _HEADER + _MONITORING_HOWTO + listed
    for name, values in OVERLAYS.items():
        header = f"{_HEADER}# {_OVERLAY_NOTES[name]}\n"
        made[ROOT / f"manifests/overlays/{name}/kustomization.yaml"] = header + dump([overlay(base, objects(values))])
    return made


def objects(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The chart's objects for these values beside the plain ones, without what only Helm needs."""
    return sorted(map(_without_helm, render(PLAIN | values, NAME)), key=lambda found: _ORDER.index(found["kind"]))


def monitoring() -> list[dict[str, Any]]:
    """PodMonitor and PrometheusRule of the chart, for the pods of every release and job instead of one."""
    rendered = render(PLAIN | {"monitoring": MONITORING}, "trainer")
    found = [_without_helm(one) for one in rendered if one["kind"] in ("PodMonitor", "PrometheusRule")]
    for one in found:
        one["metadata"]["labels"].pop("app.kubernetes.io/instance")
        if one["kind"] == "PodMonitor":
            one["spec"]["namespaceSelector"] = {"any": True}
            one["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/instance")
    return found


def dump(documents: list[dict[str, Any]]) -> str:
    """YAML in the order of the objects, texts of several lines as they are read."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def overlay(base: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """A kustomization that makes the wanted objects of the base. Both have at most one object of a kind."""
    new = {found["kind"]: found for found in wanted}
    assert set(new) <= {found["kind"] for found in base}, "an overlay changes and removes objects, it adds none"
    patches = []
    for old in base:
        target = {"kind": old["kind"], "name": old["metadata"]["name"]}
        if old["kind"] not in new:
            gone = {key: old[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": old["metadata"]["name"]}}
            patches.append({"target": target, "patch": dump([{"$patch": "delete"} | gone])})
            continue
        operations = list(differences(old, new[old["kind"]], ""))
        if operations:
            is_renamed = old["metadata"]["name"] != new[old["kind"]]["metadata"]["name"]
            options = {"options": {"allowNameChange": True}} if is_renamed else {}
            patches.append({"target": target, "patch": dump([operations])} | options)
    return _kustomization(resources=["../../base"]) | {"patches": patches}


def differences(old: Any, new: Any, path: str) -> Iterator[dict[str, Any]]:
    """JSON patch operations that turn one value into another."""
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _of_maps(old, new, path)
    elif isinstance(old, list) and isinstance(new, list):
        for index, (left, right) in enumerate(zip(old, new, strict=False)):
            yield from differences(left, right, f"{path}/{index}")
        yield from ({"op": "remove", "path": f"{path}/{index}"} for index in reversed(range(len(new), len(old))))
        yield from ({"op": "add", "path": f"{path}/-", "value": value} for value in new[len(old) :])
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}


def _of_maps(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    places = {key: f"{path}/{key.replace('~', '~0').replace('/', '~1')}" for key in (*old, *new)}
    gone, come = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    if len(gone) == len(come) == 1 and isinstance(old[gone[0]], dict):
        # Master becomes Worker: a move and what differs says more than the whole again
        yield {"op": "move", "from": places[gone[0]], "path": places[come[0]]}
        yield from differences(old[gone[0]], new[come[0]], places[come[0]])
        gone, come = [], []
    yield from ({"op": "remove", "path": places[key]} for key in gone)
    yield from ({"op": "add", "path": places[key], "value": new[key]} for key in come)
    for key in sorted(old.keys() & new.keys()):
        yield from differences(old[key], new[key], places[key])


def _without_helm(found: dict[str, Any]) -> dict[str, Any]:
    metadata = found["metadata"]
    metadata.pop("namespace")
    for kind, names in _FROM_HELM.items():
        kept = {name: value for name, value in metadata.pop(kind, {}).items() if name not in names}
        if kept:
            metadata[kind] = kept
    return found


def _kustomization(resources: list[str]) -> dict[str, Any]:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}


class _Dumper(yaml.SafeDumper):
    """Lists stand below their key with an indent, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  # PyYAML's name
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
