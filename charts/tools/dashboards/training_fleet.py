"""Dashboard "Training fleet": all runs, from "what needs me?" to "what did it cost?"."""

from charts.tools.dashboards.codes import PHASES, STATES, TIMES
from charts.tools.dashboards.grafana import (
    GREEN,
    ORANGE,
    RED,
    Dashboard,
    Json,
    Panel,
    Query,
    Row,
    annotation,
    bars,
    choice,
    dial,
    first_choices,
    fixed,
    lines,
    mapping,
    number,
    override,
    stacked,
    table,
    thresholds,
    tile,
)
from charts.tools.dashboards.promql import MINUTE, POD, RUNS_OF_JOB, Scope

RUNS = Scope('run=~"$run"')
ONE = "namespace, run"
FIRING = 'ALERTS{alertstate="firing", run=~"$run"}'
PODS = 'namespace=~"$namespace", pod=~".+-(master|worker)-[0-9]+"'
"""Pods of PyTorchJobs, as the operator names them."""


def dashboard() -> Dashboard:
    """The whole."""
    return Dashboard(
        uid="trainer-fleet",
        title="Training fleet",
        text="All training runs: which one needs somebody, how far they are, what failed, where GPU hours and money "
        "went.",
        variables=variables(),
        annotations=[
            annotation("Alert", f"count by (alertname) ({FIRING})", "red", "{{alertname}}"),
        ],
        rows=[
            Row("Does anything need me?", needs()),
            Row("How far are the runs?", runs()),
            Row("What failed?", failures()),
            Row("What does it cost, and what for?", cost()),
        ],
        period="now-24h",
    )


def variables() -> list[Json]:
    """From the widest choice to the narrowest, and the price."""
    return [
        *first_choices("Of the pods. All: also series without a namespace, from outside of a cluster."),
        choice("run", "Run", f"label_values({RUNS_OF_JOB}, run)", all_value=".+", text="Names of runs (run.name)."),
        number("gpu_price", "Price of a GPU hour", "2.50", text="In whatever currency you count; a number."),
    ]  # fmt: skip


def needs() -> list[Panel]:
    """Counts over all runs; 0 is good for all that are coloured."""
    state, idle = RUNS.state(), "time() - " + RUNS.now("last_step_timestamp_seconds", ONE)
    working = f"max by ({ONE}) ({RUNS.of('phase', phase='~train|validate')}) == 1"
    return [
        tile("Running", "Runs whose pods answer and have not ended.", _count(f"({state}) == -1")),
        tile("No step for 10 minutes", "Runs that are training or validating and have not moved. See the pod's log: "
             "the watchdog writes all stacks there.",
             _count(f"({idle}) > 600 and on ({ONE}) ({working})"), steps=[(None, GREEN), (1, RED)]),
        tile("Lost or failed", "Runs whose newest attempt in this time range ended without a word, or in a way that a "
             "restart does not mend.",
             _count(f"({state}) < 6 != -1 != 0"), steps=[(None, GREEN), (1, RED)]),
        tile("Will come back", "Runs whose newest attempt was told to stop or met trouble in the infrastructure (143, "
             "170): the operator starts them again.",
             _count(f"({state}) > 5 < 171")),
        tile("Complete", "Runs that reached their full length in this time range.", _count(f"({state}) == 0"),
             steps=[(None, GREEN)]),
        tile("Pods that wait", "Pods of PyTorchJobs in the phase Pending. Needs kube-state-metrics.",
             Query(f'sum(max by (namespace, pod) (kube_pod_status_phase{{{PODS}, phase="Pending"}}))'),
             steps=[(None, GREEN), (1, ORANGE)], no_value="no kube-state-metrics"),
        tile("GPUs", "That runs hold now.", Query(f"sum({RUNS.now('gpus', ONE)})"), no_value="0"),
        dial("Goodput of all", "Productive part of the wall clock of all runs in this time range, each since its first "
             "start.",
             Query(_goodput_of_all()), steps=[(None, RED), (0.5, ORANGE), (0.8, GREEN)]),
        table("Firing alerts", "Of the chart's rules (`monitoring.prometheusRule`); each links to its section of the "
              "chart's README.",
              {"_alert": Query(f"max by (alertname, severity, namespace, run) ({FIRING})")},
              height=6, unit="none", no_value="none"),
    ]  # fmt: skip


def _count(series: str) -> Query:
    return Query(f"count({series}) or vector(0)")


def _goodput_of_all() -> str:
    productive = RUNS.last("goodput_seconds_total", ONE, kind="productive")
    return f"sum({productive}) / sum({RUNS.last('goodput_seconds_total', f'{ONE}, kind')})"


def runs() -> list[Panel]:
    """One line for each run."""
    link = {
        "title": "Open this run",
        "url": "/d/trainer-run/training-run?var-datasource=${datasource}&var-run=${__data.fields.run:percentencode}"
        "&var-namespace=${__data.fields.namespace:percentencode}&${__url_time_range}",
    }
    bar = {"type": "gauge", "mode": "basic"}
    good = thresholds((None, RED), (0.5, ORANGE), (0.8, GREEN))
    columns = {
        "_task": Query(RUNS.last("run_info", f"{ONE}, task, model, device")),
        "state": Query(RUNS.state()),
        "progress": Query(RUNS.last("progress_ratio", ONE)),
        "time left": Query(RUNS.now("eta_seconds", ONE)),
        "last step": Query(f"time() - {RUNS.now('last_step_timestamp_seconds', ONE)}"),
        "best": Query(f"max by ({ONE}) ({RUNS.last('best_metric', f'{ONE}, name')})"),
        "goodput": Query(RUNS.goodput(ONE)),
        "attempts": Query(RUNS.last("attempts", ONE)),
        "GPU hours": Query(RUNS.gpu_hours(ONE)),
        "cost": Query(f"{RUNS.gpu_hours(ONE)} * $gpu_price"),
    }
    colored = {"type": "color-background", "mode": "basic"}
    return [
        table("Runs", "Every run with a pod in this time range; click a name to open it. Cost: GPU hours in the time "
              "range by the price above.", columns, height=10, overrides=[
                  override("run", links=[link], custom__width=260),
                  override("state", mappings=mapping(STATES), custom__cellOptions=colored, custom__width=170),
                  override("progress", unit="percentunit", min=0, max=1, custom__cellOptions=bar),
                  override("time left", unit="s"),
                  override("last step", unit="s",
                           thresholds=thresholds((None, GREEN), (120, ORANGE), (600, RED)),
                           custom__cellOptions={"type": "color-text"}),
                  override("goodput", unit="percentunit", thresholds=good, custom__cellOptions={"type": "color-text"}),
                  override("GPU hours", decimals=1),
                  override("cost", decimals=2),
              ]),
        lines("Progress", "A line that falls went back to a checkpoint or got more length; a flat one stands still.",
              Query(RUNS.now("progress_ratio", ONE), "{{run}}"), width=12, unit="percentunit",
              defaults={"min": 0, "max": 1}),
        stacked(lines("What the runs do", "First processes by phase.",
                      Query(f"sum by (phase) ({RUNS.lead('phase', f'{ONE}, phase')})", "{{phase}}"), width=12,
                      unit="none", overrides=[override(name, color=fixed(color)) for name, color in PHASES.items()])),
    ]  # fmt: skip


def failures() -> list[Panel]:
    """What went wrong, and how often."""
    theirs = '{job_namespace=~"$namespace"}'
    killed = f'kube_pod_container_status_last_terminated_reason{{{PODS}, reason!="Completed"}}'
    return [
        lines("Attempts", "Lives of each run; every step up is a restart.", Query(RUNS.now("attempts", ONE), "{{run}}"),
              unit="none"),
        bars("Attempts by how they ended", "In this time range, by exit code; an attempt without one runs or was lost.",
             Query(f'count_values("code", last_over_time({RUNS.of("exit_code")}[$__range]) >= 0)',
                   "exit code {{code}}"), no_value="none ended"),
        bars("Warning signs", "That runs noticed about themselves, in this time range.",
             Query(f"{RUNS.counted('warnings_total', f'{ONE}, name')} > 0", "{{run}}: {{name}}"), no_value="none",
             steps=[(None, ORANGE)]),
        bars("Training trouble", "Values that were not finite, GPU out of memory, bad samples.",
             Query(f"{RUNS.counted('nonfinite_total', ONE)} > 0", "{{run}}: not finite"),
             Query(f"{RUNS.counted('oom_total', ONE)} > 0", "{{run}}: GPU out of memory"),
             Query(f"{RUNS.last('data_errors_total', ONE)} > 0", "{{run}}: bad samples"), no_value="none",
             steps=[(None, ORANGE)]),
        bars("Checkpoint trouble", "Tries to publish that failed, checkpoints that did not verify.",
             Query(f"{RUNS.counted('checkpoint_uploads_total', ONE, result='error')} > 0", "{{run}}: not published"),
             Query(f"{RUNS.counted('checkpoint_rejected_total', ONE)} > 0", "{{run}}: stepped over"), no_value="none",
             steps=[(None, ORANGE)]),
        bars("Restarts and preemptions", "Attempts beyond the first, and how many of the ends were a request to stop.",
             Query(f"({RUNS.last('attempts', ONE)} - 1) > 0", "{{run}}: restarts"),
             Query(f"{RUNS.last('preemptions_total', ONE)} > 0", "{{run}}: told to stop"), no_value="none"),
        lines("Jobs of the operator", "What the training operator counts in all namespaces. Its *failed* leaves out "
              "most ways to fail (only restartPolicy Never counts): go by the table above.",
              *(Query(f"sum(increase(training_operator_jobs_{end}_total{theirs}[$__rate_interval]))", end)
                for end in ("created", "successful", "failed", "restarted")), width=12, no_value="no operator metrics"),
        table("Containers that were killed", "Last ends of containers of training pods, *OOMKilled* and *Error* first "
              "of all. Needs kube-state-metrics.",
              {"_end": Query(f"max by (namespace, pod, reason) (last_over_time({killed}[$__range])) == 1")}, width=12,
              unit="none", no_value="none"),
    ]  # fmt: skip


def cost() -> list[Panel]:
    """GPU hours, what they were used for, and what they cost."""
    hours = f"sum({RUNS.gpu_hours(ONE)})"
    used = f"increase({RUNS.of('goodput_seconds_total', kind='!productive')}[$__range])"
    gpus = f"last_over_time({RUNS.of('gpus')}[$__range])"
    lost = f"sum by (kind) ({used} * on ({POD}) group_left () {gpus}) / 3600"
    kinds = [override(kind, color=fixed(color)) for kind, color in TIMES.items()]
    return [
        tile("GPU hours", f"GPUs that runs held, added up over the time range in steps of {MINUTE}.",
             Query(hours), width=4, height=8, defaults={"decimals": 1}, no_value="0"),
        tile("Cost", "GPU hours by the price above.", Query(f"{hours} * $gpu_price"), width=4, height=8,
             defaults={"decimals": 2}, no_value="0"),
        bars("GPU hours by run", "Held in this time range, productive or not.",
             Query(f"{RUNS.gpu_hours(ONE)} > 0", "{{run}}"), no_value="no GPUs", defaults={"decimals": 1}),
        bars("GPU hours that trained nothing", "Held in this time range while the run did something else, by kind of "
             "time.",
             Query(f"{lost} > 0", "{{kind}}"), no_value="no GPUs", overrides=kinds, defaults={"decimals": 1}),
        lines("GPUs in use", "By run.", Query(f"{RUNS.now('gpus', ONE)} > 0", "{{run}}"), width=12, no_value="no GPUs"),
        lines("Goodput", "Productive part of the last interval by run; the table has the whole run.",
              Query(f"{RUNS.rate('goodput_seconds_total', ONE, kind='productive')} / "
                    f"{RUNS.rate('goodput_seconds_total', ONE)}",
                    "{{run}}"), width=12, unit="percentunit", defaults={"min": 0, "max": 1},
              steps=[(None, RED), (0.5, ORANGE), (0.8, GREEN)]),
    ]  # fmt: skip
