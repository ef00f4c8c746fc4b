"""Who the pods are and what they may do, where keys stand, whom they talk to, and what stands on every object."""

import json
import shutil
import subprocess

import pytest
import yaml

from charts.tools import helm, manifests
from charts.tools.values_docs import CHART
from tests.chart_values import ELASTIC, KEYS, S3, at, merged, render

pytestmark = pytest.mark.skipif(helm.missing() is not None, reason=str(helm.missing()))

CASES = {path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
LITERAL = merged(S3, {"s3": {"accessKeyId": "AKIAEXAMPLE", "secretAccessKey": "not-to-be-seen"}})
ROLE = "arn:aws:iam::123456789012:role/trainer"
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected", "downwardAPI", "csi", "ephemeral"}


def case(name):
    return yaml.safe_load(CASES[name].read_text("utf-8")) or {}


def find(values, kind):
    return [found for found in render(values) if found["kind"] == kind]


def pods(rendered):
    """Specs of all pods that will be made."""
    for found in rendered:
        if found["kind"] == "Pod":
            yield found["spec"]
        elif found["kind"] == "PyTorchJob":
            yield from (spec["template"]["spec"] for spec in found["spec"]["pytorchReplicaSpecs"].values())


def violations(spec):
    """What Pod Security `restricted` would say, and two things that it does not ask for."""
    own = spec.get("securityContext", {})
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    if spec.get("automountServiceAccountToken") is not False:
        yield "token"
    yield from (f"volume {volume}" for volume in spec["volumes"] if not VOLUMES & volume.keys())
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = {**own, **container.get("securityContext", {})}
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            yield f"{container['name']}: root"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']}: privilege escalation"
        if "ALL" not in context.get("capabilities", {}).get("drop", []):
            yield f"{container['name']}: capabilities"
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{container['name']}: seccomp"
        if container["name"] in ("pytorch", "preflight") and context.get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']}: root file system"


@pytest.mark.parametrize("name", CASES)
def test_every_pod_passes_the_restricted_standard(name):
    specs = list(pods(render(case(name))))
    assert len(specs) >= 2
    assert [list(violations(spec)) for spec in specs] == [[]] * len(specs)


@pytest.mark.parametrize("name", CASES)
def test_objects_have_the_usual_labels_and_selectors_hang_on_what_stays(name):
    rendered = render(case(name))
    for found in rendered:
        if found["metadata"]["name"].endswith(("-more", "-text")):
            continue
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "trainer"
        assert labels["app.kubernetes.io/instance"] == "signs-train"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"].startswith("trainer-")
        assert found["metadata"]["namespace"] == "default"
    (job,) = (found for found in rendered if found["kind"] == "PyTorchJob")
    for spec in job["spec"]["pytorchReplicaSpecs"].values():
        labels = spec["template"]["metadata"]["labels"]
        assert not [key for key in labels if key.endswith(("/chart", "/version", "/managed-by"))]
        for other in rendered:
            selector = {"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}.get(other["kind"])
            if selector:
                assert other["spec"][selector]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("values", [LITERAL, merged(LITERAL, at("s3.mode", "file"))], ids=["env", "file"])
def test_keys_given_as_values_stand_in_the_secret_alone(values):
    rendered = render(values)
    holders = [found["kind"] for found in rendered if "not-to-be-seen" in json.dumps(found)]
    assert holders == ["Secret"]
    assert not [found for found in render(KEYS) if found["kind"] == "Secret"]


def test_the_pod_takes_keys_from_the_secret():
    values = merged(KEYS, at("s3.keys", {"accessKeyId": "access", "secretAccessKey": "s", "sessionToken": "t"}))
    (spec, test) = pods(render(values))
    for container in (spec["containers"][0], test["containers"][0]):
        env = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container["env"]}
        assert env["AWS_ACCESS_KEY_ID"] == {"name": "keys", "key": "access"}
        assert env["AWS_SECRET_ACCESS_KEY"] == {"name": "keys", "key": "s"}
        assert env["AWS_SESSION_TOKEN"] == {"name": "keys", "key": "t"}
    assert not [volume for volume in spec["volumes"] if volume["name"] == "store"]


def test_the_pod_takes_keys_from_a_file():
    spec = next(pods(render(merged(KEYS, at("s3.mode", "file")))))
    env = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    assert env["AWS_SHARED_CREDENTIALS_FILE"] == "/etc/aws/credentials"
    assert "AWS_SECRET_ACCESS_KEY" not in env
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "aws")
    assert volume["secret"]["secretName"] == "keys"
    (secret,) = find(merged(LITERAL, at("s3.mode", "file")), "Secret")
    assert "aws_secret_access_key = not-to-be-seen" in secret["stringData"]["credentials"]


@pytest.mark.parametrize(
    ("identity", "annotation", "value"),
    [
        (at("aws.roleArn", ROLE), "eks.amazonaws.com/role-arn", ROLE),
        (at("gcp.serviceAccount", "a@b"), "iam.gke.io/gcp-service-account", "a@b"),
        (
            at("azure.clientId", "01234567-89ab-cdef-0123-456789abcdef"),
            "azure.workload.identity/client-id",
            "01234567-89ab-cdef-0123-456789abcdef",
        ),
    ],
    ids=["aws", "gcp", "azure"],
)
def test_identity_is_the_service_accounts(identity, annotation, value):
    rendered = render(merged(S3, {"workloadIdentity": identity}))
    (account,) = (found for found in rendered if found["kind"] == "ServiceAccount")
    assert account["metadata"]["annotations"] == {annotation: value}
    assert account["automountServiceAccountToken"] is False
    (job,) = (found for found in rendered if found["kind"] == "PyTorchJob")
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert template["spec"]["serviceAccountName"] == "signs-train"
    assert ("azure.workload.identity/use" in template["metadata"]["labels"]) == ("azure" in identity)


def test_a_role_without_amazons_webhook_gets_its_token_from_the_kubelet():
    spec = next(pods(render(case("identity"))))
    env = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    assert env["AWS_ROLE_ARN"] == ROLE
    assert env["AWS_WEB_IDENTITY_TOKEN_FILE"] == "/var/run/secrets/aws/token"
    (token,) = (volume["projected"] for volume in spec["volumes"] if volume["name"] == "token")
    assert token["sources"][0]["serviceAccountToken"]["audience"] == "sts.amazonaws.com"


def test_without_an_account_of_its_own_a_pod_has_the_default_one():
    rendered = render(at("serviceAccount.create", False))
    assert not [found for found in rendered if found["kind"] == "ServiceAccount"]
    assert {spec["serviceAccountName"] for spec in pods(rendered)} == {"default"}


def test_images_by_digest_and_from_a_registry_for_all():
    digest = "sha256:" + "0" * 64
    values = {"image": {"registry": "a.example.org", "repository": "me/t", "tag": "x", "digest": digest}}
    assert {spec["containers"][0]["image"] for spec in pods(render(values))} == {f"a.example.org/me/t@{digest}"}
    everywhere = {"global": {"imageRegistry": "b.example.org", "imagePullSecrets": [{"name": "one"}]}}
    (spec, _) = pods(render(merged(values, at("image.digest", ""), everywhere, {"imagePullSecrets": [{"name": "2"}]})))
    assert spec["containers"][0]["image"] == "b.example.org/me/t:x"
    assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "2"}]


def test_placement_is_passed_on():
    spec = next(pods(render(case("gpu"))))
    assert spec["priorityClassName"] == "training"
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    (spread,) = spec["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "signs-train"
    (job,) = find(case("gpu"), "PyTorchJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    (gang,) = find(case("gang"), "PyTorchJob")
    assert gang["spec"]["runPolicy"] == {
        "cleanPodPolicy": "All",
        "backoffLimit": 10,
        "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 604800,
        "schedulingPolicy": {"minAvailable": 4, "queue": "default", "priorityClass": "high"},
    }
    template = gang["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert (template["schedulerName"], template["activeDeadlineSeconds"]) == ("volcano", 86400)


def test_extras_may_hold_templates():
    rendered = render(case("extras"))
    spec = next(pods(rendered))
    assert {"name": "RELEASE", "value": "signs-train"} in spec["containers"][0]["env"]
    assert spec["containers"][0]["envFrom"] == [{"configMapRef": {"name": "signs-train-more"}}]
    fetch, watch = spec["initContainers"]
    assert fetch["command"][-1] == "echo signs-train > /more/name"
    assert (watch["name"], watch["restartPolicy"]) == ("watch", "Always")
    assert len(spec["containers"]) == 1, "a second container would keep a finished pod alive"
    assert {"signs-train-more", "signs-train-text"} <= {found["metadata"]["name"] for found in rendered}


def test_the_network_policy_opens_the_job_dns_and_the_store():
    (policy,) = find(case("workers-s3"), "NetworkPolicy")
    own = [{"podSelector": {"matchLabels": policy["spec"]["podSelector"]["matchLabels"]}}]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"][0] == {"from": own}, "all ports: Gloo and NCCL choose theirs as they go"
    peers, dns, store, extra = policy["spec"]["egress"]
    assert peers == {"to": own}
    assert {port["port"] for port in dns["ports"]} == {53, 5353}, "5353: OpenShift's, behind the Service's 53"
    assert store == {"ports": [{"port": 9000, "protocol": "TCP"}]}
    assert extra["to"][0]["ipBlock"]["cidr"] == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [(None, 443), ("https://s3.example.org", 443), ("http://minio", 80), ("http://minio:9000/", 9000)],
)
def test_the_network_policy_knows_the_port_of_the_store(endpoint, port):
    values = merged(KEYS, at("networkPolicy.enabled", True), at("config.s3.endpoint", endpoint) if endpoint else {})
    (policy,) = find(values, "NetworkPolicy")
    assert policy["spec"]["egress"][2]["ports"] == [{"port": port, "protocol": "TCP"}]


def test_the_network_policy_opens_s3_for_data_too():
    values = {"preset": "none", "networkPolicy": {"enabled": True}}
    data = {"data": {"path": "s3://bucket/rows"}, "s3": {"endpoint": "http://minio:9000"}}
    (policy,) = find(merged(values, {"config": data}), "NetworkPolicy")
    assert policy["spec"]["egress"][2]["ports"] == [{"port": 9000, "protocol": "TCP"}]
    (policy,) = find(merged(values, at("config.data.path", "/data")), "NetworkPolicy")
    assert len(policy["spec"]["egress"]) == 2


def test_metrics_come_in_from_the_monitoring_namespace_only():
    values = {"networkPolicy": {"enabled": True, "monitoringNamespace": "prometheus"}}
    (policy,) = find(values, "NetworkPolicy")
    (scrape,) = policy["spec"]["ingress"][1:]
    assert scrape == {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "prometheus"}}}],
        "ports": [{"port": "metrics", "protocol": "TCP"}],
    }
    (policy,) = find(merged(values, at("monitoring.enabled", False)), "NetworkPolicy")
    assert len(policy["spec"]["ingress"]) == 1


def test_the_budget_keeps_all_pods():
    (budget,) = find(case("workers-s3"), "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 3


def test_the_budget_lets_pods_of_a_lost_node_go():
    """They are no longer Ready, so with all pods asked for no drain would ever get past them."""
    (budget,) = find(case("workers-s3"), "PodDisruptionBudget")
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_claim_outlives_the_release_unless_told():
    (claim,) = find({}, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (claim,) = find({"store": {"keep": False, "storageClassName": "nfs"}}, "PersistentVolumeClaim")
    assert "annotations" not in claim["metadata"]
    assert claim["spec"]["storageClassName"] == "nfs"
    for values in (KEYS, at("store.existingClaim", "mine")):
        assert not find(values, "PersistentVolumeClaim")


def test_the_test_pod_runs_preflight_and_goes():
    (pod,) = find(KEYS, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["trainer", "preflight", "--config", "/etc/trainer/config.yaml"]
    assert pod["spec"]["restartPolicy"] == "Never"


def test_the_test_pod_goes_where_the_volume_is():
    """A ReadWriteOnce volume that trains on another node would keep it from starting."""
    away = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    (pod,), (job,) = (find({"affinity": away}, kind) for kind in ("Pod", "PyTorchJob"))
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    assert template["spec"]["affinity"] == away
    beside = pod["spec"]["affinity"].pop("podAffinity")
    assert pod["spec"]["affinity"] == away
    (one,) = beside["preferredDuringSchedulingIgnoredDuringExecution"]
    assert one["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert one["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert not one["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_overlays_are_the_chart_with_other_values():
    """Without kubectl: each kustomization is built here the way kustomize would."""
    base = {found["kind"]: found for found in manifests.objects({})}
    for name, values in manifests.OVERLAYS.items():
        overlay = yaml.safe_load((manifests.ROOT / f"manifests/overlays/{name}/kustomization.yaml").read_text("utf-8"))
        built = json.loads(json.dumps(base))
        for patch in overlay["patches"]:
            body = yaml.safe_load(patch["patch"])
            if isinstance(body, dict):
                assert body["$patch"] == "delete"
                del built[patch["target"]["kind"]]
            else:
                apply(built[patch["target"]["kind"]], body)
        assert built == {found["kind"]: found for found in manifests.objects(values)}, name


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the path")
@pytest.mark.parametrize("name", manifests.OVERLAYS)
def test_overlays_are_the_chart_to_kustomize_too(name):
    command = ["kubectl", "kustomize", str(manifests.ROOT / "manifests/overlays" / name)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    wanted = {found["kind"]: found for found in manifests.objects(manifests.OVERLAYS[name])}
    assert {found["kind"]: found for found in yaml.safe_load_all(built)} == wanted


def apply(document, operations):
    """JSON patch (RFC 6902) as far as the overlays use it."""
    for operation in operations:
        value = operation.get("value")
        if operation["op"] == "move":
            parent, key = place(document, operation["from"])
            value = parent.pop(key)
        parent, key = place(document, operation["path"])
        if operation["op"] == "remove":
            del parent[key]
        elif key == "-":
            parent.append(value)
        else:
            assert (key in parent) == (operation["op"] == "replace") or isinstance(parent, list)
            parent[key] = value


def place(document, path):
    *above, last = (part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])
    for part in above:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document, int(last) if isinstance(document, list) and last != "-" else last


def test_only_elastic_and_single_pods_are_free_of_the_operators_init_container():
    """The operator adds one to workers beside a master; the chart's own pods have none in either shape."""
    for values in ({}, ELASTIC):
        assert not [spec for spec in pods(render(values)) if "initContainers" in spec]
