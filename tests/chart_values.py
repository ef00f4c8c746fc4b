"""For every value of the chart one that changes what is rendered, and what else it needs to do so.

The table is also the frozen list of names that people's values files hold on to.
"""

import json
from functools import cache

import pytest

from charts.tools import helm

S3 = {"config": {"run": {"store": "s3://bucket/runs"}}}
KEYS = {**S3, "s3": {"existingSecret": "keys"}}
ELASTIC = {"elastic": {"enabled": True}, "worker": {"replicas": 2}}
CONTAINER = {"name": "more", "image": "busybox:1.36"}
NETWORK = {"networkPolicy": {"enabled": True}}
SCRAPED = {"monitoring": {"requireApi": False, "podMonitor": {"enabled": True}}}
RULED = {"monitoring": {"requireApi": False, "prometheusRule": {"enabled": True}}}
SHOWN = {"monitoring": {"dashboards": {"configMaps": {"enabled": True}}}}
OF_GRAFANA = {"monitoring": {"requireApi": False, "dashboards": {"grafanaDashboards": {"enabled": True}}}}
REFUSED = "is refused"
"""In place of a difference: the value makes the chart say no, which is its effect."""

EFFECTS = {
    "preset": ("karsl", {}),
    "config": ({"num_epochs": 3}, {}),
    "data.existingClaim": ("recordings", {"preset": "none"}),
    "data.subPath": ("packed", {"preset": "none", "data": {"existingClaim": "recordings"}}),
    "data.readOnly": (False, {"preset": "none", "data": {"existingClaim": "recordings"}}),
    "image.registry": ("registry.example.org:5000", {}),
    "image.repository": ("me/signs-trainer", {}),
    "image.tag": ("dev", {}),
    "image.digest": ("sha256:" + "0" * 64, {}),
    "image.pullPolicy": ("Always", {}),
    "imagePullSecrets": ([{"name": "registry"}], {}),
    "master.replicas": (0, {}, REFUSED),
    "worker.replicas": (2, {}),
    "nprocPerNode": ("2", {}),
    "gpu.count": (2, {}),
    "gpu.resource": ("amd.com/gpu", {"gpu": {"count": 1}}),
    "elastic.enabled": (True, {"worker": {"replicas": 2}}),
    "elastic.minReplicas": (1, ELASTIC),
    "elastic.maxReplicas": (4, ELASTIC),
    "elastic.maxRestarts": (3, ELASTIC),
    "elastic.rdzvConf": ([{"key": "join_timeout", "value": "60"}], ELASTIC),
    "rendezvousPort": (29500, {}),
    "resources": ({"limits": {"cpu": 2}}, {}),
    "nccl.debug": ("INFO", {}),
    "nccl.socketInterface": ("eth0", {}),
    "preflight": (False, {}),
    "store.existingClaim": ("shared", {}),
    "store.size": ("100Gi", {}),
    "store.storageClassName": ("nfs", {}),
    "store.accessModes": (["ReadWriteMany"], {}),
    "store.keep": (False, {}),
    "store.annotations": ({"example.org/backup": "daily"}, {}),
    "s3.existingSecret": ("keys", {**S3, "s3": {"ambient": True}}),
    "s3.keys.accessKeyId": ("access", KEYS),
    "s3.keys.secretAccessKey": ("secret", KEYS),
    "s3.keys.sessionToken": ("session", KEYS),
    "s3.keys.credentials": ("ini", {**S3, "s3": {"existingSecret": "keys", "mode": "file"}}),
    "s3.accessKeyId": ("other", {**S3, "s3": {"accessKeyId": "access", "secretAccessKey": "secret"}}),
    "s3.secretAccessKey": ("other", {**S3, "s3": {"accessKeyId": "access", "secretAccessKey": "secret"}}),
    "s3.mode": ("file", KEYS),
    "s3.ambient": (False, {**S3, "s3": {"ambient": True}}, REFUSED),
    "workloadIdentity.aws.roleArn": ("arn:aws:iam::123456789012:role/trainer", {**S3, "s3": {"ambient": True}}),
    "workloadIdentity.aws.audience": (
        "sts.amazonaws.com",
        {**S3, "workloadIdentity": {"aws": {"roleArn": "arn:aws:iam::123456789012:role/trainer"}}},
    ),
    "workloadIdentity.gcp.serviceAccount": ("trainer@project.iam.gserviceaccount.com", {}),
    "workloadIdentity.azure.clientId": ("01234567-89ab-cdef-0123-456789abcdef", {}),
    "workloadIdentity.azure.tenantId": ("01234567-89ab-cdef-0123-456789abcdef", {}),
    "serviceAccount.create": (False, {}),
    "serviceAccount.name": ("robot", {}),
    "serviceAccount.annotations": ({"example.org/owner": "signs"}, {}),
    "terminationGracePeriodSeconds": (300, {}),
    "checkpointSeconds": (100, {}, REFUSED),
    "shm.enabled": (False, {}),
    "shm.size": ("8Gi", {}),
    "scratch.size": ("100Gi", {}),
    "cache.existingClaim": ("compiled", {}),
    "cache.subPath": ("signs", {"cache": {"existingClaim": "compiled"}}),
    "jobId": ("2", {}),
    "runPolicy.cleanPodPolicy": ("All", {}),
    "runPolicy.backoffLimit": (0, {}),
    "runPolicy.activeDeadlineSeconds": (3600, {}),
    "runPolicy.ttlSecondsAfterFinished": (0, {}),
    "runPolicy.suspend": (False, {}),
    "runPolicy.managedBy": ("kueue.x-k8s.io/multikueue", {}),
    "schedulingPolicy": ({"minAvailable": 1}, {}),
    "kueue.queueName": ("gpus", {}),
    "kueue.priorityClass": ("high", {"kueue": {"queueName": "gpus"}}),
    "nodeSelector": ({"disk": "ssd"}, {}),
    "tolerations": ([{"key": "spot", "operator": "Exists"}], {}),
    "affinity": ({"nodeAffinity": {}}, {}),
    "topologySpreadConstraints": (
        [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}],
        {},
    ),
    "priorityClassName": ("high", {}),
    "runtimeClassName": ("nvidia", {}),
    "schedulerName": ("volcano", {}),
    "nameOverride": ("training", {}),
    "fullnameOverride": ("training", {}),
    "namespaceOverride": ("training", {}),
    "commonLabels": ({"team": "signs"}, {}),
    "commonAnnotations": ({"example.org/owner": "signs"}, {}),
    "podLabels": ({"team": "signs"}, {}),
    "podAnnotations": ({"example.org/owner": "signs"}, {}),
    "podSecurityContext": ({"runAsUser": 12345}, {}),
    "containerSecurityContext": ({"readOnlyRootFilesystem": False}, {}),
    "networkPolicy.enabled": (True, {}),
    "networkPolicy.s3Ports": ([9000], {**KEYS, **NETWORK}),
    "networkPolicy.s3To": ([{"ipBlock": {"cidr": "10.0.0.0/8"}}], {**KEYS, **NETWORK}),
    "networkPolicy.monitoringNamespace": ("prometheus", NETWORK),
    "networkPolicy.extraIngress": ([{"ports": [{"port": 22}]}], NETWORK),
    "networkPolicy.extraEgress": ([{"ports": [{"port": 22}]}], NETWORK),
    "podDisruptionBudget.enabled": (True, {}),
    "podDisruptionBudget.minAvailable": (2, {"podDisruptionBudget": {"enabled": True}, "worker": {"replicas": 2}}),
    "monitoring.enabled": (False, {}),
    "monitoring.port": (9191, {}),
    "monitoring.requireApi": (True, SCRAPED, REFUSED),
    "monitoring.namespace": ("monitoring", SCRAPED),
    "monitoring.labels": ({"release": "kube-prometheus-stack"}, RULED),
    "monitoring.intervalSeconds": (30, SCRAPED),
    "monitoring.endpoint": ({"scrapeTimeout": "5s"}, SCRAPED),
    "monitoring.podMonitor.enabled": (True, {"monitoring": {"requireApi": False}}),
    "monitoring.serviceMonitor.enabled": (True, {"monitoring": {"requireApi": False}}),
    "monitoring.annotations.enabled": (True, {}),
    "monitoring.prometheusRule.enabled": (True, {"monitoring": {"requireApi": False}}),
    "monitoring.prometheusRule.runbookUrl": ("https://git.example.org/charts/trainer/README.md", RULED),
    "monitoring.dashboards.folder": ("Signs", SHOWN),
    "monitoring.dashboards.configMaps.enabled": (True, {}),
    "monitoring.dashboards.configMaps.label": ("dashboards", SHOWN),
    "monitoring.dashboards.configMaps.labelValue": ("yes", SHOWN),
    "monitoring.dashboards.configMaps.folderAnnotation": ("folder", SHOWN),
    "monitoring.dashboards.grafanaDashboards.enabled": (True, {"monitoring": {"requireApi": False}}),
    "monitoring.dashboards.grafanaDashboards.instanceSelector": ({"grafana": "main"}, OF_GRAFANA),
    "test.enabled": (False, {}),
    "test.resources": ({"limits": {"cpu": 1}}, {}),
    "extraEnv": ([{"name": "A", "value": "b"}], {}),
    "extraEnvFrom": ([{"configMapRef": {"name": "more"}}], {}),
    "extraVolumes": ([{"name": "more", "emptyDir": {}}], {}),
    "extraVolumeMounts": ([{"name": "more", "mountPath": "/more"}], {}),
    "initContainers": ([CONTAINER], {}),
    "sidecars": ([CONTAINER], {}),
    "extraObjects": (
        [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}}],
        {},
    ),
    "global.imageRegistry": ("registry.example.org", {}),
    "global.imagePullSecrets": ([{"name": "registry"}], {}),
}


def merged(*parts):
    """Values on top of each other, as Helm merges them: maps by key, the last one wins elsewhere."""
    result = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def at(path, value):
    """`at("a.b", 1)` is `{"a": {"b": 1}}`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def render(values=None, name="signs-train", namespace="default", apis=()):
    """`helm.render`, where Helm is asked once for what the tests of a file want again and again."""
    return helm.parsed(_text(json.dumps(values or {}), name, namespace, tuple(apis)))


@cache
def _text(values, name, namespace, apis):
    return helm.text(json.loads(values), name, namespace, apis=apis)


def refusal(values):
    """What Helm says to values that it must refuse."""
    with pytest.raises(helm.ChartError) as caught:
        render(values)
    return str(caught.value)
