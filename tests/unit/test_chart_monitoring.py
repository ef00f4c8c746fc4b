"""What the chart makes for Prometheus and Grafana: one switch for each kind, the shipped bytes, one way to scrape."""

import json

import pytest
import yaml

from charts.tools import helm, manifests
from charts.tools.values_docs import CHART
from tests.chart_values import OF_GRAFANA, RULED, SCRAPED, SHOWN, at, merged, render

pytestmark = pytest.mark.skipif(helm.missing() is not None, reason=str(helm.missing()))

OPERATOR, GRAFANA = "monitoring.coreos.com/v1", "grafana.integreatly.org/v1beta1"
RULES = CHART / "files/alerts/trainer.rules.yaml"
DASHBOARDS = sorted((CHART / "files/dashboards").glob("*.json"))
SERVED = merged(SCRAPED, {"monitoring": {"podMonitor": {"enabled": False}, "serviceMonitor": {"enabled": True}}})
SWITCHES = {
    "monitoring.podMonitor.enabled": ["PodMonitor"],
    "monitoring.serviceMonitor.enabled": ["Service", "ServiceMonitor"],
    "monitoring.prometheusRule.enabled": ["PrometheusRule"],
    "monitoring.dashboards.configMaps.enabled": ["ConfigMap"] * len(DASHBOARDS),
    "monitoring.dashboards.grafanaDashboards.enabled": ["GrafanaDashboard"] * len(DASHBOARDS),
    "monitoring.annotations.enabled": [],
}


def find(values, kind, **options):
    return [found for found in render(values, **options) if found["kind"] == kind]


def template(values):
    (job,) = find(values, "PyTorchJob")
    return job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]


def container(values):
    return template(values)["spec"]["containers"][0]


def environment(values):
    return {one["name"]: one.get("value") for one in container(values)["env"]}


def refusal(values, **options):
    with pytest.raises(helm.ChartError) as caught:
        render(values, **options)
    return str(caught.value)


@pytest.mark.parametrize("path", SWITCHES)
def test_each_switch_makes_its_objects_and_nothing_else(path):
    plain = [found["kind"] for found in render({})]
    more = [found["kind"] for found in render(at(path, True), apis=[OPERATOR, GRAFANA])]
    assert sorted(more) == sorted(plain + SWITCHES[path])
    assert SWITCHES[path] or path == "monitoring.annotations.enabled"


@pytest.mark.parametrize("path", [path for path in SWITCHES if "configMaps" not in path and "annotations" not in path])
def test_objects_of_an_operator_that_is_not_there_are_refused_unless_insisted_on(path):
    wanted = GRAFANA if "grafana" in path else OPERATOR
    said = refusal(at(path, True), apis=[GRAFANA if wanted == OPERATOR else OPERATOR])
    assert f"{path}: the cluster has no {wanted}" in said
    assert "monitoring.requireApi: false" in said
    insisted = merged(at(path, True), at("monitoring.requireApi", False))
    assert render(insisted) == render(merged(insisted, at("monitoring.requireApi", True)), apis=[wanted])


@pytest.mark.parametrize(
    "ways",
    [("podMonitor", "serviceMonitor"), ("podMonitor", "annotations"), ("serviceMonitor", "annotations")],
)
def test_two_ways_to_the_same_metrics_are_refused(ways):
    both = merged(*(at(f"monitoring.{way}.enabled", True) for way in ways))
    said = refusal(both, apis=[OPERATOR])
    assert f"monitoring.{ways[0]}.enabled and monitoring.{ways[1]}.enabled" in said
    assert "keep one" in said


@pytest.mark.parametrize("way", ["podMonitor", "serviceMonitor", "annotations"])
def test_to_scrape_what_is_not_served_is_refused(way):
    off = merged(at(f"monitoring.{way}.enabled", True), at("monitoring.enabled", False))
    assert f"monitoring.{way}.enabled has nothing to scrape" in refusal(off, apis=[OPERATOR])


@pytest.mark.parametrize("name", ["port", "enabled"])
def test_settings_that_the_chart_has_values_for_are_refused(name):
    value = {"port": 9191, "enabled": "off"}[name]
    said = refusal(at(f"config.telemetry.prometheus.{name}", value))
    assert f"config.telemetry.prometheus.{name} is monitoring.{name} in a pod" in said


def test_the_trainer_serves_where_the_port_is_named():
    values = at("monitoring.port", 9191)
    assert {"name": "metrics", "containerPort": 9191, "protocol": "TCP"} in container(values)["ports"]
    assert environment(values)["TRAINER__TELEMETRY__PROMETHEUS__PORT"] == "9191"
    off = at("monitoring.enabled", False)
    assert [port["name"] for port in container(off)["ports"]] == ["pytorchjob-port"]
    assert environment(off)["TRAINER__TELEMETRY__PROMETHEUS__ENABLED"] == "off"


def test_the_trainer_takes_what_the_chart_tells_it():
    from trainer.config.sources import load_settings

    told = {name: value for name, value in environment(at("monitoring.port", 9191)).items() if "PROMETHEUS" in name}
    assert load_settings(environ=told).settings.telemetry.prometheus.port == 9191
    told = {name: value for name, value in environment(at("monitoring.enabled", False)).items() if "PROMETHEUS" in name}
    assert load_settings(environ=told).settings.telemetry.prometheus.enabled == "off"


def test_the_pod_monitor_finds_the_pods_of_the_release_and_no_others():
    (monitor,) = find(SCRAPED, "PodMonitor", namespace="ml")
    labels = template({})["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "signs-train"
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["ml"]}
    (test,) = find(SCRAPED, "Pod")
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= test["metadata"]["labels"].items()


def test_series_carry_job_and_replica_as_the_alerts_and_dashboards_call_them():
    (monitor,) = find(SCRAPED, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert {one["targetLabel"]: one["sourceLabels"] for one in endpoint["relabelings"]} == {
        name: [f"__meta_kubernetes_pod_label_training_kubeflow_org_{name}"]
        for name in ("job_name", "replica_type", "replica_index")
    }
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/instance"


def test_the_service_monitor_finds_the_charts_own_service_only():
    (service,) = find(SERVED, "Service")
    (monitor,) = find(SERVED, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    # the operator gives its Services the labels of its own alone
    assert not [name for name in wanted if name.startswith("training.kubeflow.org")]
    assert wanted["app.kubernetes.io/component"] == "metrics"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= template({})["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["name"] == monitor["spec"]["endpoints"][0]["port"] == "metrics"
    (of_pods,) = find(SCRAPED, "PodMonitor")
    assert monitor["spec"]["endpoints"] == of_pods["spec"]["podMetricsEndpoints"]


def test_annotations_are_on_the_pods_that_train_alone():
    values = merged(at("monitoring.annotations.enabled", True), at("monitoring.port", 9191))
    found = template(values)["metadata"]["annotations"]
    assert {name: value for name, value in found.items() if name.startswith("prometheus.io/")} == {
        "prometheus.io/scrape": "true",
        "prometheus.io/scheme": "http",
        "prometheus.io/port": "9191",
        "prometheus.io/path": "/metrics",
    }
    assert "sidecar.istio.io/inject" in found, "those of podAnnotations stay"
    (test,) = find(values, "Pod")
    assert "prometheus.io" not in str(test["metadata"])


def test_metrics_over_tls_are_asked_for_by_https():
    tls = at("config.telemetry.prometheus", {"tls_cert": "/etc/tls/tls.crt", "tls_key": "/etc/tls/tls.key"})
    (monitor,) = find(merged(SCRAPED, tls), "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["scheme"] == "https"
    annotated = template(merged(at("monitoring.annotations.enabled", True), tls))
    assert annotated["metadata"]["annotations"]["prometheus.io/scheme"] == "https"


def test_the_endpoint_takes_further_properties():
    own = at("monitoring.endpoint", {"scrapeTimeout": "5s", "interval": "1m"})
    (monitor,) = find(merged(SCRAPED, own, at("monitoring.intervalSeconds", 20)), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["scrapeTimeout"], endpoint["interval"], endpoint["port"]) == ("5s", "1m", "metrics")


def test_the_rule_object_holds_the_very_bytes_that_promtool_tests():
    import helm_python

    files = helm_python.Chart.load(str(CHART)).render(RULED, name="signs-train")
    text = files["trainer/templates/monitoring-prometheusrule.yaml"].partition("\nspec:\n")[2]
    lines = [line.removeprefix("  ") for line in text.rstrip().splitlines()]
    assert "\n".join(lines) == RULES.read_text("utf-8").rstrip()
    (rule,) = find(RULED, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text("utf-8"))


def test_links_of_the_alerts_lead_where_people_read_the_runbook():
    url = "https://git.example.org/ml/trainer/src/main/charts/trainer/README.md"
    (rule,) = find(merged(RULED, at("monitoring.prometheusRule.runbookUrl", url)), "PrometheusRule")
    links = [
        one["annotations"]["runbook_url"]
        for group in rule["spec"]["groups"]
        for one in group["rules"]
        if "alert" in one
    ]
    assert len(links) == 14
    assert all(link.startswith(f"{url}#") and link.count("#") == 1 for link in links)


def test_dashboards_are_the_files_byte_for_byte():
    assert len(DASHBOARDS) == 3
    files = {path.name: path.read_text("utf-8") for path in DASHBOARDS}
    made = [found for found in find(SHOWN, "ConfigMap") if "grafana_dashboard" in found["metadata"]["labels"]]
    assert {name: text for found in made for name, text in found["data"].items()} == files
    assert {found["metadata"]["annotations"]["grafana_folder"] for found in made} == {"Training"}
    objects = find(OF_GRAFANA, "GrafanaDashboard")
    assert {found["spec"]["json"] for found in objects} == set(files.values())
    assert {found["metadata"]["name"] for found in objects} == {f"signs-train-{path.stem}" for path in DASHBOARDS}
    assert all(json.loads(found["spec"]["json"])["uid"] for found in objects)


def test_the_sidecars_label_and_folder_can_be_others():
    given = {"label": "dashboards", "labelValue": "yes", "folderAnnotation": "k8s-sidecar-target-directory"}
    values = merged(SHOWN, at("monitoring.dashboards.configMaps", given), at("monitoring.dashboards.folder", "Signs"))
    made = [found["metadata"] for found in find(values, "ConfigMap") if "dashboards" in found["metadata"]["labels"]]
    assert [metadata["labels"]["dashboards"] for metadata in made] == ["yes"] * len(DASHBOARDS)
    assert {metadata["annotations"]["k8s-sidecar-target-directory"] for metadata in made} == {"Signs"}


def test_a_grafana_is_chosen_by_its_labels():
    selected = merged(OF_GRAFANA, at("monitoring.dashboards.grafanaDashboards.instanceSelector", {"of": "ml"}))
    assert {str(found["spec"]["instanceSelector"]) for found in find(selected, "GrafanaDashboard")} == {
        "{'matchLabels': {'of': 'ml'}}"
    }


def test_in_a_namespace_of_others_objects_carry_the_releases_own():
    everything = merged(SCRAPED, RULED, SHOWN, OF_GRAFANA, at("monitoring.namespace", "monitoring"))
    theirs = [found for found in render(everything, namespace="ml") if found["metadata"]["namespace"] == "monitoring"]
    assert len(theirs) == 2 + 2 * len(DASHBOARDS)
    assert all(found["metadata"]["name"].startswith("ml-signs-train") for found in theirs)
    (monitor,) = (found for found in theirs if found["kind"] == "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["ml"]}
    # what the monitor leads to must stay with the pods
    (service,) = find(merged(SERVED, at("monitoring.namespace", "monitoring")), "Service", namespace="ml")
    assert (service["metadata"]["name"], service["metadata"]["namespace"]) == ("signs-train-metrics", "ml")


def test_monitors_and_rules_carry_the_labels_by_which_prometheus_picks():
    given = merged(SCRAPED, RULED, SHOWN, at("monitoring.labels", {"release": "prometheus"}))
    picked = [found["kind"] for found in render(given) if found["metadata"]["labels"].get("release")]
    assert sorted(picked) == ["PodMonitor", "PrometheusRule"]


def test_the_manifests_for_a_whole_cluster_find_every_pod_of_the_trainer():
    found = {one["kind"]: one for one in manifests.monitoring()}
    (job,) = (one for one in manifests.objects({}) if one["kind"] == "PyTorchJob")
    labels = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["metadata"]["labels"]
    selector = found["PodMonitor"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert "app.kubernetes.io/instance" not in selector
    assert found["PodMonitor"]["spec"]["namespaceSelector"] == {"any": True}
    assert found["PrometheusRule"]["spec"] == yaml.safe_load(RULES.read_text("utf-8"))
