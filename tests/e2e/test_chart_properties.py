"""Whatever the chart's schema accepts, the API server of the current context accepts, webhook of the operator included.

Everything is a dry run on the server in a namespace of its own. The pod templates of a job are tried as pods, too: what
only a pod's own admission finds (a bad toleration, a volume twice) would else show when the operator makes them.
"""

import copy
import secrets

import pytest
from hypothesis import HealthCheck, event, given, note, settings

from charts.tools import helm
from tests.chart_strategies import values

kubernetes = pytest.importorskip("kubernetes", reason="the cluster is asked with the kubernetes client (extra kube)")

pytestmark = pytest.mark.skipif(helm.missing() is not None, reason=str(helm.missing()))

ABSENT = ("priorityClassName", "runtimeClassName", "serviceAccountName", "imagePullSecrets")
"""Names of objects that a dry run does not make; admission would miss them."""


@pytest.fixture(scope="module")
def cluster():
    """A dynamic client and a namespace that goes with the test."""
    try:
        kubernetes.config.load_config()
        client = kubernetes.dynamic.DynamicClient(kubernetes.client.ApiClient())
    except Exception as error:
        pytest.skip(f"no cluster: {str(error).splitlines()[0]}")
    if not any(found.kind == "PyTorchJob" for found in client.resources.search(group="kubeflow.org")):
        pytest.skip("the cluster has no training operator")
    core = kubernetes.client.CoreV1Api()
    name = f"chart-properties-{secrets.token_hex(3)}"
    core.create_namespace({"metadata": {"name": name}})
    yield client, name
    core.delete_namespace(name)


def try_out(client, document, namespace):
    """The server's answer: None, or why not."""
    api = client.resources.get(api_version=document["apiVersion"], kind=document["kind"])
    try:
        api.create(body=document, namespace=namespace, dry_run="All", query_params=[("fieldValidation", "Strict")])
    except kubernetes.dynamic.exceptions.DynamicApiError as error:
        return f"{document['kind']}: {error.body.decode() if isinstance(error.body, bytes) else error.body}"
    return None


def is_known(client, document):
    """Monitors, rules and dashboards are of operators that a cluster need not have."""
    return bool(client.resources.search(api_version=document["apiVersion"], kind=document["kind"]))


def pods_of(job):
    """The pods of a job as far as the chart decides them."""
    for kind, spec in job["spec"]["pytorchReplicaSpecs"].items():
        template = copy.deepcopy(spec["template"])
        template["metadata"]["name"] = f"pod-{kind.lower()}"
        # the operator writes these
        template["metadata"]["labels"]["training.kubeflow.org/job-name"] = job["metadata"]["name"]
        template["spec"]["restartPolicy"] = "Never"
        for name in ABSENT:
            template["spec"].pop(name, None)
        yield {"apiVersion": "v1", "kind": "Pod", **template}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(drawn=values())
def test_what_the_schema_accepts_the_server_accepts(cluster, drawn):
    client, namespace = cluster
    note(str(drawn))
    try:
        rendered = helm.render(drawn, name="signs-train", namespace=namespace)
    except helm.ChartError as error:
        # a template may say no, in words; the schema may not, for it is what was drawn from
        if not str(error).startswith("execution error at") or "nil pointer" in str(error):
            raise
        event("refused by a template")
        return
    event("rendered")
    documents = [found for found in rendered if found["kind"] != "Pod" and is_known(client, found)]
    for found in rendered:
        if found["kind"] == "PyTorchJob":
            documents += pods_of(found)
        elif found["kind"] == "Pod":
            pod = copy.deepcopy(found)
            for name in ABSENT:
                pod["spec"].pop(name, None)
            documents.append(pod)
    for document in documents:
        document["metadata"]["namespace"] = namespace
    assert not [problem for document in documents if (problem := try_out(client, document, namespace))]
