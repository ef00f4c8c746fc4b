"""The rules of Grafana's dashboard-linter (its docs/index.md) and some of ours, for dashboards of Prometheus.

    findings = lint(dashboard)                       # a dashboard as JSON
    left, unused = excluded(findings, exclusions)    # by the linter's own file `.lint`

The linter's two rules on Loki have nothing to look at here, and whether an expression is PromQL at all is promtool's to
say. In one place this is stricter: a counter counts as one with matchers behind its name, too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from charts.tools.dashboards.promql import fill

Json = dict[str, Any]

SEEN = {"stat", "gauge", "bargauge", "table", "timeseries", "state-timeline"}
"""Kinds of panels that are looked at; another one must be added here first."""
UNITS = {
    "none", "short", "percent", "percentunit", "sci", "bytes", "Bps", "celsius", "hertz", "s", "joule", "watt",
    "ops", "reqps",
}  # fmt: skip
"""Of Grafana's units those that are used here and that the linter knows."""
SAMPLES = {"__rate_interval": "8869990787ms", "__interval": "4867856611ms", "__range": "6069770749ms"}
"""Values that nobody writes by hand, as the linter uses them to tell variables from fixed times."""
LABEL_VALUES = re.compile(r"label_values\((.+), ([a-z_]+)\)")
COUNTING = {"rate", "irate", "increase"}


class Finding(NamedTuple):
    """What is wrong where; `target` counts the queries of a panel from 0."""

    rule: str
    text: str
    dashboard: str
    panel: str = ""
    target: int | None = None


@dataclass
class Selector:
    """One selector of an expression, with its range and the function around it."""

    name: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    range: str = ""
    function: str = ""


TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|\$\{?\w+\}?|[A-Za-z_:][\w:]*|[0-9.]+\w*|=~|!~|!=|==|>=|<=|[-+*/%^(){}\[\],<>=:@]|\s+'
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = GROUPING | {"and", "or", "unless", "bool", "offset"}


def tokens(expr: str) -> list[str]:
    """The words of an expression. Raises ValueError at what is none."""
    found, at = [], 0
    while at < len(expr):
        match = TOKEN.match(expr, at)
        if not match:
            raise ValueError(f"no token at {expr[at:]!r}")
        at = match.end()
        found += [] if match[0].isspace() else [match[0]]
    return found


def selectors(expr: str) -> list[Selector]:
    """All selectors of a valid expression, in order."""
    words, found, calls, at = tokens(expr), [], [], 0
    while at < len(words):
        word, after = words[at], words[at + 1] if at + 1 < len(words) else ""
        if word in GROUPING and after == "(":
            at = words.index(")", at)
        elif word == "(":
            calls.append(words[at - 1] if at and re.fullmatch(r"[a-z_]\w*", words[at - 1]) else "")
        elif word == ")":
            calls.pop()
        elif word == "[":
            end = words.index("]", at)
            if words[at - 1] != ")":  # else a subquery
                found[-1].range = "".join(words[at + 1 : end])
            at = end
        elif re.match(r"[A-Za-z_:]", word) and word not in WORDS and after not in ("(", "by"):
            found.append(Selector(word, function=calls[-1] if calls else ""))
            if after == "{":
                end = words.index("}", at)
                found[-1].matchers = list(_matchers(words[at + 2 : end]))
                at = end
        at += 1
    return found


def _matchers(words: list[str]) -> Iterator[tuple[str, str, str]]:
    for at in range(0, len(words), 4):
        label, operator, value = words[at : at + 3]
        yield label, operator, value.strip('"')


def grouped_by(expr: str) -> set[str]:
    """Every label in `by`, `on` and the like."""
    lists = re.findall(rf"\b(?:{'|'.join(GROUPING)})\s*\(([^)]*)\)", expr)
    return {label.strip() for text in lists for label in text.split(",") if label.strip()}


def panels(dashboard: Json) -> Iterator[Json]:
    """All panels that show data, those in closed rows, too."""
    for panel in dashboard["panels"]:
        yield from panels(panel) if panel["type"] == "row" else [panel]


def targets(dashboard: Json) -> Iterator[tuple[Json, int, str]]:
    """Panel, number of the query within it, expression."""
    for panel in panels(dashboard):
        for number, target in enumerate(panel["targets"]):
            yield panel, number, target["expr"]


def variable_queries(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Name and query of each variable that has one; see LABEL_VALUES."""
    for one in dashboard["templating"]["list"]:
        if one["type"] == "query":
            yield one["name"], one["query"]["query"]


def samples(dashboard: Json) -> dict[str, str]:
    """A value for each variable that may stand outside of quotes."""
    typed = {one["name"]: one["query"] for one in dashboard["templating"]["list"] if one["type"] == "textbox"}
    return SAMPLES | typed


def lint(dashboard: Json) -> list[Finding]:
    """Everything that is wrong."""
    found = []
    for rule, check in RULES.items():
        for text, *where in check(dashboard):
            found.append(Finding(rule, text, dashboard["title"], *where))
    return found


Wrong = Iterator[tuple[Any, ...]]


def _datasource_variable(dashboard: Json) -> Wrong:
    sources = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    if [(one["name"], one["label"], one["query"]) for one in sources] != [("datasource", "Data source", "prometheus")]:
        yield ("there must be one data source variable, `datasource`, labelled `Data source`, of Prometheus",)


def _variable(name: str) -> Callable[[Json], Wrong]:
    def check(dashboard: Json) -> Wrong:
        found = [one for one in dashboard["templating"]["list"] if one["name"] == name]
        wanted = {"type": "query", "label": name.title(), "multi": True, "allValue": ".+"}
        if not found:
            yield (f"no variable {name}",)
        for one in found:
            if {key: one.get(key) for key in wanted} != wanted or one["datasource"]["uid"] != "${datasource}":
                yield (f"variable {name} must have {wanted} and the data source variable",)

    return check


def _variable_queries(dashboard: Json) -> Wrong:
    for name, text in variable_queries(dashboard):
        match = LABEL_VALUES.fullmatch(text)
        if not match or len(selectors(match[1])) != 1:
            yield (f"variable {name}: {text}",)


def _variables_reload(dashboard: Json) -> Wrong:
    for one in dashboard["templating"]["list"]:
        if one["type"] == "query" and one["refresh"] != 2:
            yield (f"variable {one['name']} does not follow the time range",)


def _datasources(dashboard: Json) -> Wrong:
    parts = [(panel["title"], panel) for panel in panels(dashboard)]
    parts += [(panel["title"], target) for panel in panels(dashboard) for target in panel["targets"]]
    # the linter does not look at annotations
    parts += [(one["name"], one) for one in dashboard["annotations"]["list"]]
    for title, part in parts:
        if part.get("datasource", {}).get("uid") != "${datasource}":
            yield "does not use the data source variable", title


def _titles(dashboard: Json) -> Wrong:
    for panel in panels(dashboard):
        if not panel.get("title") or not panel.get("description"):
            yield "has no title or no description", panel.get("title", "")


def _units(dashboard: Json) -> Wrong:
    for panel in panels(dashboard):
        rules = [one for override in panel["fieldConfig"]["overrides"] for one in override["properties"]]
        given = [one["value"] for one in rules if one["id"] == "unit"]
        wrong = {panel["fieldConfig"]["defaults"].get("unit"), *given} - UNITS
        if wrong:
            yield f"has the unit {wrong}", panel["title"]


def _has_targets(dashboard: Json) -> Wrong:
    for panel in panels(dashboard):
        if panel["type"] not in SEEN:
            yield f"is of the unknown kind {panel['type']}", panel["title"]
        if not panel.get("targets"):
            yield "has no query", panel["title"]


def _of_selectors(check: Callable[[Selector], str]) -> Callable[[Json], Wrong]:
    """A rule on every selector of every query; `check` gives what is wrong, or nothing."""

    def rule(dashboard: Json) -> Wrong:
        for panel, number, expr in targets(dashboard):
            for text in dict.fromkeys(check(selector) for selector in selectors(fill(expr, samples(dashboard)))):
                if text:
                    yield text, panel["title"], number

    return rule


def _rate_interval(selector: Selector) -> str:
    if selector.range == SAMPLES["__rate_interval"]:
        return "" if selector.function else f"{selector.name}: $__rate_interval outside of a function"
    return f"{selector.name}: a rate over {selector.range}" if selector.function in ("rate", "irate") else ""


def _matches(label: str) -> Callable[[Selector], str]:
    # `fill` leaves the name of a variable without a value
    wanted = (label, "=~", label)
    return lambda selector: "" if wanted in selector.matchers else f"{selector.name} has no matcher of {label}"


def _counters(selector: Selector) -> str:
    is_wrong = selector.name.endswith("_total") and not (selector.range and selector.function in COUNTING)
    return f"{selector.name} is a counter outside of rate, irate and increase" if is_wrong else ""


def _uneditable(dashboard: Json) -> Wrong:
    if dashboard.get("editable", True):
        yield ("can be edited",)


def _identity(dashboard: Json) -> Wrong:
    if dashboard["id"] is not None or not re.fullmatch(r"[a-z][a-z0-9-]{2,39}", dashboard["uid"]):
        yield ("needs id null and a readable uid of at most 40 characters",)
    if "__inputs" in dashboard or not dashboard["schemaVersion"] or not dashboard["tags"]:
        yield ("needs schemaVersion and tags, and no __inputs",)
    for key in ("id", "title"):
        found = [panel[key] for panel in dashboard["panels"]]
        if len(set(found)) < len(found):
            yield (f"two panels have the same {key}",)
    for panel in panels(dashboard):
        letters = [target["refId"] for target in panel["targets"]]
        if len(set(letters)) < len(letters):
            yield "refIds are not unique", panel["title"]


def _grid(dashboard: Json) -> Wrong:
    places = [(panel["title"], *(panel["gridPos"][key] for key in "xywh")) for panel in dashboard["panels"]]
    for title, x, _, w, _ in places:
        if x + w > 24:
            yield "leaves the page", title
    for (title, x, y, w, h), (other, x2, y2, w2, h2) in combinations(places, 2):
        if x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h:
            yield f"lies over {other}", title


def _scope(selector: Selector) -> str:
    """What is ours belongs to the chosen runs."""
    wanted = {"namespace", "job", "run"} if selector.name.startswith("trainer_") else set()
    missing = wanted - {label for label, operator, value in selector.matchers if value == label and operator != "!="}
    return f"{selector.name} has no matcher of {', '.join(sorted(missing))}" if missing else ""


def _variables_defined(dashboard: Json) -> Wrong:
    known = {one["name"] for one in dashboard["templating"]["list"]} | set(SAMPLES)
    for panel, number, expr in targets(dashboard):
        for name in set(re.findall(r"\$\{?([A-Za-z_]\w*)", expr)) - known:
            yield f"uses the unknown variable {name}", panel["title"], number


def _legends(dashboard: Json) -> Wrong:
    for panel in panels(dashboard):
        for number, target in enumerate(panel["targets"]):
            names = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            missing = {name for name in names if not re.search(rf"\bby \([^)]*\b{name}\b|\(\"{name}\"", target["expr"])}
            if missing:
                yield f"the legend asks for {missing}, which the query does not keep", panel["title"], number


RULES: dict[str, Callable[[Json], Wrong]] = {
    "template-datasource-rule": _datasource_variable,
    "template-job-rule": _variable("job"),
    "template-instance-rule": _variable("instance"),
    "template-label-promql-rule": _variable_queries,
    "template-on-time-change-reload-rule": _variables_reload,
    "panel-datasource-rule": _datasources,
    "panel-title-description-rule": _titles,
    "panel-units-rule": _units,
    "panel-no-targets-rule": _has_targets,
    "target-rate-interval-rule": _of_selectors(_rate_interval),
    "target-job-rule": _of_selectors(_matches("job")),
    "target-instance-rule": _of_selectors(_matches("instance")),
    "target-counter-agg-rule": _of_selectors(_counters),
    "uneditable-dashboard": _uneditable,
    "our-identity-rule": _identity,
    "our-grid-rule": _grid,
    "our-scope-rule": _of_selectors(_scope),
    "our-variables-rule": _variables_defined,
    "our-legend-rule": _legends,
}


def excluded(findings: list[Finding], exclusions: Json) -> tuple[list[Finding], list[str]]:
    """Findings that no exclusion covers, and exclusions (`rule: entry`) that cover none."""
    left, used = [], set()
    for found in findings:
        rule = exclusions.get(found.rule, {"entries": []})
        # without entries a rule is excluded as a whole
        entries = rule.get("entries", [{}])
        covering = [number for number, entry in enumerate(entries) if _covers(entry, found)]
        used |= {(found.rule, number) for number in covering}
        left += [] if covering else [found]
    wanted = {(name, number) for name, rule in exclusions.items() for number in range(len(rule.get("entries", [{}])))}
    return left, [f"{name}: entry {number}" for name, number in sorted(wanted - used)]


def _covers(entry: Json, found: Finding) -> bool:
    of_finding = {"dashboard": found.dashboard, "panel": found.panel, "targetIdx": found.target}
    return all(of_finding[key] == value for key, value in entry.items())
