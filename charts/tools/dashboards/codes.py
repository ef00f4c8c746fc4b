"""How numbers are told in words: exit codes of an attempt (and what stands before one), phases, kinds of time."""

from charts.tools.dashboards.grafana import BLUE, GREEN, GREY, ORANGE, RED

STATES = {
    -2: ("lost without a word", RED),
    -1: ("running", BLUE),
    0: ("complete", GREEN),
    1: ("uncaught error (1)", RED),
    2: ("bad settings (2)", RED),
    3: ("bad data (3)", RED),
    4: ("cannot go on (4)", RED),
    5: ("preflight failed (5)", RED),
    143: ("told to stop (143)", ORANGE),
    170: ("infrastructure (170)", ORANGE),
    171: ("superseded (171)", GREY),
}
"""By the values of `Scope.state`."""

PHASES = {
    "start": "#8e8e8e",
    "train": "#56a64b",
    "validate": "#3274d9",
    "checkpoint": "#e0b400",
    "stop": "#8f3bb8",
    "linger": "#c4a3d8",
    "done": "#96d98d",
}

TIMES = {
    "productive": "#56a64b",
    "evaluation": "#3274d9",
    "data_wait": "#ff780a",
    "checkpoint_stall": "#e0b400",
    "startup": "#8e8e8e",
    "redone": "#c4162a",
    "idle": "#d8d9da",
}
