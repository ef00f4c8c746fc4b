"""Grafana's dashboard JSON out of a few words: panels say what they show, rows place them from left to right.

Only what differs from Grafana's own defaults is written: the files stay readable, and Grafana from 9 on reads them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 37
"""Of Grafana 9: later ones bring older files up to date when they load them."""
COLUMNS = 24
"""Width of a page in Grafana's grid."""
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#8e8e8e"


@dataclass(frozen=True)
class Query:
    """One expression of a panel; `legend` names its series with `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel without its place. `queries` of tiles and tables are asked once, at the end of the time range."""

    kind: str
    title: str
    text: str
    queries: Sequence[Query]
    width: int
    height: int
    unit: str = "short"
    no_value: str = "no data"
    steps: Sequence[tuple[float | None, str]] = ()
    """Thresholds: from which value on, which colour; the first one from None."""
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        """The panel at its place."""
        once = self.kind in ("stat", "gauge", "bargauge", "table")
        targets = []
        for index, query in enumerate(self.queries):
            target: Json = {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query.expr}
            target |= {"legendFormat": query.legend} if query.legend else {}
            target |= {"instant": True, "range": False} if once else {"range": True}
            targets.append(target | ({"format": "table"} if self.kind == "table" else {}))
        defaults: Json = {"unit": self.unit, "noValue": self.no_value} | self.defaults
        if self.steps:
            defaults["thresholds"] = {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in self.steps]}
        made: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": targets,
            "fieldConfig": {
                "defaults": defaults | ({"custom": self.custom} if self.custom else {}),
                "overrides": list(self.overrides),
            },
            "options": self.options,
        }
        return made | ({"transformations": list(self.transformations)} if self.transformations else {})


@dataclass(frozen=True)
class Row:
    """A question, and the panels that answer it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A whole dashboard."""

    uid: str
    title: str
    text: str
    variables: Sequence[Json]
    rows: Sequence[Row]
    annotations: Sequence[Json] = ()
    period: str = "now-6h"

    def text_of_file(self) -> str:
        """The JSON file."""
        return json.dumps(self.json(), indent=2, ensure_ascii=False) + "\n"

    def json(self) -> Json:
        """What Grafana imports."""
        return {
            "id": None,
            "uid": self.uid,
            "title": self.title,
            "description": self.text,
            "tags": ["training", "trainer"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": False,
            "timezone": "browser",
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": self.period, "to": "now"},
            "links": [_link()],
            "templating": {"list": list(self.variables)},
            "annotations": {"list": list(self.annotations)},
            "panels": list(_placed(self.rows)),
        }


def _link() -> Json:
    """The other dashboards of the trainer, with the same variables and time."""
    return {
        "type": "dashboards",
        "title": "Training",
        "tags": ["trainer"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    made: list[Json] = []
    top = 0
    for row in rows:
        made.append({
            "id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        })  # fmt: skip
        top += 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            made.append(panel.json(len(made) + 1, left, top))
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return made


def tile(title: str, text: str, *queries: Query, width: int = 3, height: int = 4, **more: Any) -> Panel:
    """A number that is read at a glance; its background tells whether it is good."""
    steps = more.get("steps")
    options = {
        "colorMode": "background" if steps or "defaults" in more else "value",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    more["options"] = options | more.get("options", {})
    more["steps"] = steps or [(None, BLUE)]
    return Panel(kind="stat", title=title, text=text, queries=queries, width=width, height=height, **more)


def dial(title: str, text: str, query: Query, *, width: int = 3, height: int = 4, **more: Any) -> Panel:
    """A ratio from 0 to 1."""
    more = {"unit": "percentunit", "defaults": {"min": 0, "max": 1}} | more
    return Panel(kind="gauge", title=title, text=text, queries=[query], width=width, height=height, **more)


def bars(title: str, text: str, *queries: Query, width: int = 8, height: int = 8, **more: Any) -> Panel:
    """Values side by side."""
    options = {"orientation": "horizontal", "displayMode": "basic", "valueMode": "color", "showUnfilled": False}
    options["reduceOptions"] = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    more = {"steps": [(None, BLUE)], "options": options} | more
    return Panel(kind="bargauge", title=title, text=text, queries=queries, width=width, height=height, **more)


def lines(title: str, text: str, *queries: Query, width: int = 8, height: int = 8, **more: Any) -> Panel:
    """Curves over time; thresholds, where given, are drawn as dashed lines."""
    custom: Json = {"lineWidth": 2, "fillOpacity": 0, "showPoints": "auto", "spanNulls": False}
    custom |= {"thresholdsStyle": {"mode": "dashed"}} if "steps" in more else {}
    legend = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "min", "max"]}
    more["custom"] = custom | more.get("custom", {})
    more["options"] = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}} | more.get("options", {})
    return Panel(kind="timeseries", title=title, text=text, queries=queries, width=width, height=height, **more)


def stacked(panel: Panel, mode: str = "normal") -> Panel:
    """The same curves as areas on top of each other; `percent` shows their shares."""
    area = {"fillOpacity": 60, "lineWidth": 0, "stacking": {"mode": mode, "group": "A"}}
    return replace(panel, custom={**panel.custom, **area})


def timeline(title: str, text: str, *queries: Query, width: int = 24, height: int = 7, **more: Any) -> Panel:
    """One line for each series, filled while it is 1."""
    options = {"showValue": "never", "mergeValues": True, "rowHeight": 0.8, "legend": {"showLegend": False}}
    more = {"options": options, "custom": {"fillOpacity": 80, "lineWidth": 0}} | more
    more.setdefault("steps", [(None, "transparent"), (1, BLUE)])
    return Panel(kind="state-timeline", title=title, text=text, queries=queries, width=width, height=height, **more)


def table(title: str, text: str, columns: dict[str, Query], *, hide: Sequence[str] = (), **more: Any) -> Panel:
    """Rows by what the labels of all queries have in common; `columns` names the value of each query.

    A column whose name begins with an underscore only brings labels, its value is not shown.
    """
    names = {f"Value #{chr(ord('A') + index)}": name for index, name in enumerate(columns)}
    names = names if len(columns) > 1 else {"Value": next(iter(columns))}
    hidden = ["Time", *hide, *(value for value, name in names.items() if name.startswith("_"))]
    organize = {
        "excludeByName": dict.fromkeys(hidden, True),
        "renameByName": {value: name for value, name in names.items() if not name.startswith("_")},
    }
    steps = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    more = {"width": 24, "height": 8, "unit": "short", "no_value": "-"} | more
    queries = list(columns.values())
    return Panel(kind="table", title=title, text=text, queries=queries, transformations=steps, **more)


def override(name: str, **properties: Any) -> Json:
    """Other properties for the field of this name; `custom__width` is `custom.width`."""
    found = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": found}


def thresholds(*steps: tuple[float | None, str]) -> Json:
    """For an override."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def filled(color: str) -> Json:
    """Thresholds of a timeline: nothing at 0, this colour at 1."""
    return thresholds((None, "transparent"), (1, color))


def fixed(color: str) -> Json:
    """A colour for an override."""
    return {"mode": "fixed", "fixedColor": color}


def mapping(texts: dict[float, tuple[str, str]]) -> list[Json]:
    """Texts and colours in place of numbers."""
    options = {f"{value:g}": {"text": text, "color": color} for value, (text, color) in texts.items()}
    return [{"type": "value", "options": options}]


def datasource() -> Json:
    """The variable that says which Prometheus."""
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def choice(name: str, label: str, query: str, *, text: str, all_value: str | None = None) -> Json:
    """A variable with the values of a label; with `all_value` several or all may be chosen ("": all that are found)."""
    made: Json = {
        "name": name, "label": label, "description": text, "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"}, "definition": query, "refresh": 2, "sort": 2,
        "multi": all_value is not None, "includeAll": all_value is not None,
    }  # fmt: skip
    if all_value is not None:
        made |= {"current": {"text": ["All"], "value": ["$__all"]}} | ({"allValue": all_value} if all_value else {})
    return made


def first_choices(namespaces: str = "Of the pods.") -> list[Json]:
    """Data source, namespace and job, by which every dashboard narrows down; `namespaces` describes the second."""
    return [
        datasource(),
        choice("namespace", "Namespace", "label_values(trainer_run_info, namespace)", all_value=".*", text=namespaces),
        choice("job", "Job", 'label_values(trainer_run_info{namespace=~"$namespace"}, job)', all_value=".+",
               text="Scrape job: the release of the chart."),
    ]  # fmt: skip


def number(name: str, label: str, value: str, *, text: str) -> Json:
    """A variable that is typed in."""
    current = {"text": value, "value": value, "selected": True}
    return {"name": name, "label": label, "description": text, "type": "textbox", "query": value, "current": current,
            "options": [current]}  # fmt: skip


def annotation(name: str, expr: str, color: str, text: str, *, value_is_time: bool = False) -> Json:
    """Marks on all curves where the expression is above 0, or at the times (in milliseconds) that it yields."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": expr,
        "iconColor": color,
        "step": "15s",
        "titleFormat": name,
        "textFormat": text,
        "useValueForTime": value_is_time,
    }
