"""The alerts: known to promtool, tested both ways, in step with what is exported, each with a section of the runbook.

What fires when stands in tests/alerts/*.yaml, which tests/integration/test_alert_rules.py has promtool run.
"""

import re

import pytest
import yaml

from charts.tools.manifests import ROOT
from tests.dashboard_lint import grouped_by, selectors
from trainer.telemetry.prometheus.catalogue import DECLARED, FACT, FAMILIES

RULES = ROOT / "charts/trainer/files/alerts/trainer.rules.yaml"
README = ROOT / "charts/trainer/README.md"
KUBE_STATE = ROOT / "manifests/monitoring/kube-state-metrics-pytorchjob.yaml"
TESTS = sorted((ROOT / "tests/alerts").glob("*.yaml"))

WANTED = {
    "TrainingStalled", "TrainingNonFiniteLoss", "TrainingLossDiverging", "CheckpointUploadFailing", "CheckpointStale",
    "CheckpointRejected", "TrainingMetricsAbsent", "TrainingJobFailed", "TrainingRestartLoop", "TrainingPodPending",
    "GpuIdleWhileTraining", "DataLoaderBound", "DeadlineApproaching", "GraceTooShort",
}  # fmt: skip
OF_TARGET = {"namespace", "pod", "job_name"}
"""Labels that the chart's monitors put on every series."""
OF_POD = {"namespace", "pod", "uid"}
THEIRS = {
    "kube_pod_labels": OF_POD | {"label_app_kubernetes_io_name", "label_app_kubernetes_io_component"},
    "kube_pod_status_phase": OF_POD | {"phase"},
    "kube_pod_created": OF_POD,
    "kube_pod_container_status_restarts_total": OF_POD | {"container"},
    "kube_pod_container_status_last_terminated_exitcode": OF_POD | {"container"},
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": OF_POD | {"gpu", "exported_pod", "exported_namespace"},
    "DCGM_FI_DEV_GPU_UTIL": OF_POD | {"gpu", "exported_pod", "exported_namespace"},
}
"""Of other exporters, as their documentation has them; PyTorchJobs are read from our own manifest."""

GROUPS = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
ALL = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in ALL if "record" in rule}
OURS = {series: family for family in FAMILIES for series in family.series}


def of_jobs():
    """Name and labels of every metric that kube-state-metrics makes of a PyTorchJob."""
    (resource,) = yaml.safe_load(KUBE_STATE.read_text("utf-8"))["customResourceState"]["config"]["spec"]["resources"]
    for metric in resource["metrics"]:
        own = next(part for part in metric["each"].values() if isinstance(part, dict))
        labels = {*resource["labelsFromPath"], *own.get("labelsFromPath", ()), own.get("labelFromKey", "namespace")}
        yield f"{resource['metricNamePrefix']}_{metric['name']}", labels


THEIRS |= dict(of_jobs())


def labels_of(name):
    """Every label that a series of this name can have. KeyError for a name that nobody exports."""
    if name in RECORDED:
        return grouped_by(RECORDED[name])
    return {*OURS[name].label_names, *OF_TARGET} if name in OURS else THEIRS[name]


def values_of(name, label):
    """The closed set of a label's values, None where the catalogue leaves it to the task or the attempt."""
    values = OURS[name].labels.get(label) if name in OURS else None
    return None if values in (None, DECLARED, FACT) else values


def test_promtool_has_nothing_to_say_to_the_rules(promtool):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALL)} rules found" in done.stdout


def test_the_fourteen_are_there_and_say_what_a_person_needs():
    assert set(ALERTS) == WANTED
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert re.fullmatch(r"[0-9]+m", rule["for"]), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert "namespace }}" in rule["annotations"]["description"], f"{name} does not say where"


def test_every_alert_is_tested_to_fire_to_end_and_to_be_silent():
    proven = {"fires": set(), "ends": set(), "is silent": set()}
    for path in TESTS:
        whole = yaml.safe_load(path.read_text("utf-8"))
        assert (path.parent / whole["rule_files"][0]).resolve() == RULES
        # promtool takes a group that is not named here for the first
        assert whole["group_eval_order"] == [group["name"] for group in GROUPS]
        for one in whole["tests"]:
            for name in {check["alertname"] for check in one["alert_rule_test"]}:
                checks = [check for check in one["alert_rule_test"] if check["alertname"] == name]
                fired = [bool(check.get("exp_alerts")) for check in checks]
                proven["fires"] |= {name} if any(fired) else set()
                proven["ends"] |= {name} if any(fired) and not fired[-1] else set()
                proven["is silent"] |= set() if any(fired) else {name}
    assert proven == {"fires": WANTED, "ends": WANTED, "is silent": WANTED}


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_only_for_what_is_exported(rule):
    found = selectors(rule["expr"])
    assert found
    for one in found:
        labels = labels_of(one.name)
        for label, operator, value in one.matchers:
            assert label in labels, f"{one.name} has no label {label}"
            allowed = values_of(one.name, label)
            if allowed and operator in ("=", "=~"):
                assert set(value.split("|")) <= set(allowed), f"{one.name}: no {label} is {value}"
    # label_replace brings pod and namespace of DCGM's series into the usual spelling
    known = set().union(*(labels_of(one.name) for one in found))
    assert grouped_by(rule["expr"]) <= known


@pytest.mark.parametrize("name", sorted(WANTED))
def test_texts_use_labels_that_the_alert_has(name):
    used = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[name]["annotations"])))
    assert used <= grouped_by(ALERTS[name]["expr"]) | {"pass"}


@pytest.mark.parametrize("name", sorted(WANTED))
def test_the_runbook_has_a_section_that_helps(name):
    path, _, anchor = ALERTS[name]["annotations"]["runbook_url"].partition("#")
    assert (ROOT / path, anchor) == (README, name.lower())
    section = README.read_text("utf-8").partition(f"\n### {name}\n")[2].partition("\n#")[0]
    for part in ("**Means.**", "**Look.**", "**Do.**"):
        assert part in section, f"{name}: no {part}"
    # what it asks for can be typed: a command, or a query
    assert "`" in section
    for query in re.findall(r"`((?:trainer|kube|DCGM)_\w+[^`]*)`", section):
        for one in selectors(query):
            assert {label for label, *_ in one.matchers} <= labels_of(one.name), query


def test_the_runbook_knows_no_alert_that_is_gone():
    runbook = README.read_text("utf-8").partition("\n## Runbook\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"(?m)^### (\w+)$", runbook)) == WANTED
