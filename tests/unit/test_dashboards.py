"""The dashboards: clean by every rule of Grafana's linter, in step with what the trainer exports, and valid PromQL."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from charts.tools import dashboards
from charts.tools.dashboards import training_run
from charts.tools.dashboards.pictures import draw, only
from charts.tools.dashboards.promql import fill
from tests.dashboard_lint import (
    LABEL_VALUES,
    RULES,
    excluded,
    grouped_by,
    lint,
    panels,
    samples,
    selectors,
    targets,
    variable_queries,
)
from trainer.telemetry.prometheus.catalogue import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "charts/trainer/files/dashboards"
RULE_FILE = ROOT / "charts/trainer/files/alerts/trainer.rules.yaml"
RECORDED = ROOT / "tests/integration/recorded"

ALL = {path.name: json.loads(text) for path, text in dashboards.files().items()}
EXCLUSIONS = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]

OF_TARGET = {"namespace", "pod", "job", "instance", "job_name"}
"""Labels that Prometheus puts on every series of a pod (the chart's monitors)."""
OF_ALERTS = {"alertname", "alertstate", "severity", "namespace", "run"}
NOT_SHOWN = {
    "step": "epochs and progress_ratio say it",
    "steps_target": "epochs and progress_ratio say it",
    "steps_total": "the counts of the histograms of a step say it",
    "passes_total": "for alerts: the loss of a pass counts only with so many passes",
    "resumed": "attempts says it",
    "resume_epoch": "the curve of the progress shows it",
    "cuda_memory_allocated_bytes": "the peak is what counts for a batch size",
}


def theirs() -> dict[str, set[str]]:
    """Names and labels of other exporters, as recorded."""
    found: dict[str, set[str]] = {"ALERTS": OF_ALERTS}
    for file in RECORDED.glob("*.prom"):
        for name, labels in re.findall(r"^(\w+)\{(.*)\} ", file.read_text(), re.MULTILINE):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


OURS = {name: family for family in FAMILIES for name in family.series}
THEIRS = theirs()


def labels_of(name: str) -> set[str]:
    """Every label that a series of this name can have; none for an unknown one."""
    if name in OURS:
        return {*OURS[name].label_names, *OF_TARGET, *({"le"} if name.endswith("_bucket") else ())}
    return THEIRS[name] | {"exported_pod", "exported_namespace"} if name in THEIRS else set()


def every_query():
    """Dashboard, place in words, expression with values: of panels, variables and annotations."""
    for dashboard in ALL.values():
        values = samples(dashboard)
        for panel, number, expr in targets(dashboard):
            yield dashboard, f"{panel['title']}/{number}", fill(expr, values)
        for one in dashboard["annotations"]["list"]:
            yield dashboard, one["name"], fill(one["expr"], values)
        for name, text in variable_queries(dashboard):
            yield dashboard, name, fill(LABEL_VALUES.fullmatch(text)[1], values)


def test_the_files_are_what_the_generator_writes():
    for path, text in dashboards.files().items():
        assert path.read_text("utf-8") == text, f"{path.name} differs: python -m charts.tools chart"
    assert {path.name for path in FOLDER.glob("*.json")} == set(ALL)
    # a ConfigMap that `kubectl apply` keeps a copy of in an annotation
    assert all(len(text) < 200_000 for text in dashboards.files().values())


@pytest.mark.parametrize("name", ALL)
def test_no_rule_is_broken_without_a_reason(name):
    left, _ = excluded(lint(ALL[name]), EXCLUSIONS)
    assert not left


def test_every_exclusion_has_a_reason_and_is_needed():
    assert all(rule["reason"] for rule in EXCLUSIONS.values())
    findings = [found for dashboard in ALL.values() for found in lint(dashboard)]
    assert not excluded(findings, EXCLUSIONS)[1]


def panel_of(dashboard, title):
    return next(panel for panel in panels(dashboard) if panel["title"] == title)


def variable(dashboard, name):
    return next(one for one in dashboard["templating"]["list"] if one["name"] == name)


def asks(expr):
    return lambda run: panel_of(run, "Loss")["targets"][0].update(expr=expr)


MATCHERS = 'namespace=~"$namespace", job=~"$job", run=~"$run"'
BREAK = {
    "template-datasource-rule": [lambda run: variable(run, "datasource").update(label="Prometheus")],
    "template-job-rule": [
        lambda run: variable(run, "job").update(multi=False),
        lambda run: run["templating"]["list"].remove(variable(run, "job")),
    ],
    "template-label-promql-rule": [lambda run: variable(run, "run")["query"].update(query="values(run)")],
    "template-on-time-change-reload-rule": [lambda run: variable(run, "run").update(refresh=1)],
    "panel-datasource-rule": [
        lambda run: panel_of(run, "Loss").update(datasource={"uid": "prometheus"}),
        lambda run: run["annotations"]["list"][0].update(datasource={"uid": "prometheus"}),
    ],
    "panel-title-description-rule": [lambda run: panel_of(run, "Loss").update(description="")],
    "panel-units-rule": [
        lambda run: panel_of(run, "Loss")["fieldConfig"]["defaults"].update(unit="seconds"),
        lambda run: panel_of(run, "Loss")["fieldConfig"]["defaults"].pop("unit"),
    ],
    "panel-no-targets-rule": [
        lambda run: panel_of(run, "Loss").update(targets=[]),
        lambda run: panel_of(run, "Loss").update(type="graph"),
    ],
    "target-rate-interval-rule": [
        asks(f"rate(trainer_samples_total{{{MATCHERS}}}[5m])"),
        asks(f"trainer_loss{{{MATCHERS}}}[$__rate_interval]"),
    ],
    "target-job-rule": [asks('max(trainer_loss{namespace=~"$namespace", run=~"$run"})')],
    "target-counter-agg-rule": [asks(f"sum(trainer_samples_total{{{MATCHERS}}})")],
    "uneditable-dashboard": [lambda run: run.update(editable=True), lambda run: run.pop("editable")],
    "our-identity-rule": [
        lambda run: run.update(id=27),
        lambda run: run.update(uid="x" * 41),
        lambda run: run.update(__inputs=[]),
        lambda run: panel_of(run, "Loss").update(id=1),
        lambda run: panel_of(run, "Loss").update(title="Learning rate"),
        lambda run: [target.update(refId="A") for target in panel_of(run, "Loss")["targets"]],
    ],
    "our-grid-rule": [
        lambda run: panel_of(run, "Loss")["gridPos"].update(y=0),
        lambda run: panel_of(run, "Loss")["gridPos"].update(x=13),
    ],
    "our-scope-rule": [asks('max(trainer_loss{job=~"$job", run=~"$run"})')],
    "our-variables-rule": [asks(f"trainer_loss{{{MATCHERS}}} > $limit")],
    "our-legend-rule": [lambda run: panel_of(run, "Loss")["targets"][0].update(legendFormat="{{name}}")],
}
"""One way at least to break each rule."""


@pytest.mark.parametrize(("rule", "spoil"), [(rule, spoil) for rule, ways in BREAK.items() for spoil in ways])
def test_the_linter_finds_what_is_broken(rule, spoil):
    run = copy.deepcopy(ALL["training-run.json"])
    spoil(run)
    left, _ = excluded(lint(run), EXCLUSIONS)
    assert rule in {found.rule for found in left}


def test_every_rule_has_its_counterexample():
    # two are excluded as a whole, and found in the dashboards as they are
    assert set(RULES) - set(BREAK) == {"template-instance-rule", "target-instance-rule"}
    found = {one.rule for one in lint(ALL["training-run.json"])}
    assert {"template-instance-rule", "target-instance-rule"} <= found


def test_selectors_are_read_as_prometheus_reads_them():
    expr = 'sum by (a, b) (rate(x_total{c="d)", e=~"f|g"}[5m])) / on (h) group_left () max_over_time((y)[1h:1m])'
    found = selectors(expr)
    assert [(one.name, one.matchers, one.range, one.function) for one in found] == [
        ("x_total", [("c", "=", "d)"), ("e", "=~", "f|g")], "5m", "rate"),
        ("y", [], "", ""),
    ]


def test_names_and_labels_are_those_that_are_exported():
    for dashboard, place, expr in every_query():
        place, known = f"{dashboard['title']}: {place}", set()
        for selector in selectors(expr):
            labels = labels_of(selector.name)
            assert labels, f"{place}: {selector.name} is exported by nobody"
            assert {label for label, _, _ in selector.matchers} <= labels, f"{place}: {selector}"
            known |= labels
        # labels that the query makes itself
        known |= {"code"} if "count_values" in expr else set()
        assert grouped_by(expr) <= known, f"{place}: no series has {grouped_by(expr) - known}"


def test_values_of_labels_are_those_that_are_exported():
    for dashboard, place, expr in every_query():
        for selector in selectors(expr):
            closed = OURS[selector.name].labels if selector.name in OURS else {}
            for label, operator, value in selector.matchers:
                values = closed.get(label)
                assert not values or set(value.split("|")) <= set(values), f"{dashboard['title']}: {place}: {value}"
                assert "|" not in value or operator == "=~"


def test_every_metric_is_shown_or_left_out_for_a_reason():
    used = {selector.name for _, _, expr in every_query() for selector in selectors(expr)}
    shown = {family.name for family in FAMILIES if used & set(family.series)}
    assert {family.name for family in FAMILIES} - shown == set(NOT_SHOWN)


def test_every_query_is_promql(promtool, tmp_path):
    rules = [
        {"record": "query:parses", "expr": expr, "labels": {"number": str(number)}}
        for number, (_, _, expr) in enumerate(every_query())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = promtool("check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
    rules[5]["expr"] += ")"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert promtool("check", "rules", file).returncode != 0


def test_links_lead_to_dashboards_that_exist():
    uids = {dashboard["uid"] for dashboard in ALL.values()}
    text = json.dumps(list(ALL.values()))
    assert set(re.findall(r"/d/([\w-]+)/", text)) <= uids
    for dashboard in ALL.values():
        assert {tag for link in dashboard["links"] for tag in link["tags"]} <= set(dashboard["tags"])


class MadeUp:
    """A source of pictures with two points for every query, and nothing for some."""

    run, start, end, step = "calm", 0.0, 60.0, 1.0

    def ask(self, panel, index):
        return [] if panel["title"] in ("Loss scale", "Warning signs") else [("train", [(10.0, 0.5), (50.0, math.nan)])]

    def table(self, panel):
        return [{"run": "calm", "task": "toy", "value": "1"}]

    def moments(self, annotation):
        return [20.0]


def test_every_kind_of_panel_can_be_drawn(tmp_path):
    rows = only(training_run.dashboard(), ["Is it alive?", "Does it learn?"], ["Best so far"])
    kinds = {panel.kind for row in rows.rows for panel in row.panels}
    assert kinds == {"stat", "gauge", "timeseries", "bargauge", "table", "state-timeline"}
    draw(rows, MadeUp(), tmp_path / "picture.png")
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert 10_000 < len(picture) < 150_000
