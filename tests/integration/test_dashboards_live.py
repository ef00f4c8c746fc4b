"""Every query of every dashboard, and the alerts, with a real Prometheus that scrapes real runs.

The runs are told apart by what happens to them:

    calm      nothing                              refused  its store takes no checkpoint any more: exit code 170
    killed    SIGKILL, then a second attempt       stuck    stands still for a while
    diverged  a loss that is NaN: exit code 4      paper    no run: every metric of the catalogue with some value, for
    slow      its data come slowly                          what a CPU and a folder as store cannot show (GPU, fp16, S3)

Pods of them are made believe by the labels that a PodMonitor would set. DCGM, kube-state-metrics, cAdvisor and the
operator are texts in the exporters' formats (`recorded/`), DCGM's in both spellings of `pod`. Time runs 300 times as
fast for the alert rules: a copy has all its durations and seconds divided.
"""

import contextlib
import http.server
import itertools
import json
import math
import os
import re
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import prometheus_client
import pytest

import trainer.run
from charts.tools import dashboards
from charts.tools.dashboards.promql import fill
from tests.dashboard_lint import LABEL_VALUES, targets, variable_queries
from tests.toy import Pace, ToyTask, fork_ranks, free_port, toy_settings, train_toy, wait_for
from trainer.checkpoint.outage import Retry
from trainer.engine.world import join_world
from trainer.telemetry.prometheus.catalogue import FAMILIES
from trainer.telemetry.prometheus.values import Collector, Values

ALL = {path.name: json.loads(text) for path, text in dashboards.files().items()}
RUN, FLEET, GPU = (ALL[name] for name in ("training-run.json", "training-fleet.json", "gpu.json"))
RULE_FILE = Path(__file__).resolve().parents[2] / "charts/trainer/files/alerts/trainer.rules.yaml"
RECORDED = Path(__file__).with_name("recorded")
INTERVAL = "500ms"
FASTER = 300
ONCE = ("stat", "gauge", "bargauge", "table")
REAL = ("calm", "killed", "diverged", "slow", "refused", "stuck")

ENDS = {"calm": 0, "killed": 0, "diverged": 4, "slow": 0, "refused": 170, "stuck": 0}
ALERTS = [
    ("TrainingNonFiniteLoss", "diverged"),
    ("TrainingJobFailed", "diverged"),
    ("CheckpointUploadFailing", "refused"),
    ("TrainingStalled", "stuck"),
    ("DataLoaderBound", "slow"),
]

NEEDS_PAPER = {
    "Loss scale": "fp16 needs a GPU",
    "GPU memory": "there is no GPU",
    "Requests to S3": "the store is a folder",
    "Bad samples": "the toy has none",
    "Stepped over and replaced": "no checkpoint is damaged here",
    "Warning signs": "runs of milliseconds have none",
}
"""Panels of "Training run" that no real run of this file can fill; those of its pods come from `recorded/` for all."""
LIVE = {"Last step", "Time left", "Pods", "Newest durable checkpoint", "Store away"}
"""Tiles that speak of the present: empty when a run is over."""


@dataclass
class Scene:
    """What happened, when, and the Prometheus that saw it."""

    server: object
    start: float = field(default_factory=time.time)
    live: float = 0.0
    """A moment when the killed run was alive in its first attempt."""
    lost: float = 0.0
    """A moment when the killed run was dead."""
    resumed: float = 0.0
    """A moment when its second attempt stood at the checkpoint, before its first step."""
    end: float = 0.0
    """All are over, and their series with them."""
    closed: float = 0.0
    """The moment when the targets of the cluster went."""
    folder: Path | None = None

    def ask(self, expr, kind, run=".+", at=None):
        """Series of a query as Grafana would ask it for a panel of this kind, with the dashboard's variables filled."""
        at = at or self.end
        values = {
            "namespace": ".*", "job": ".+", "run": run, "pod": ".*", "job_name": "toy-1", "gpu_price": "2.5",
            "__rate_interval": "4s", "__interval": "1s", "__range": f"{math.ceil(at - self.start)}s",
        }  # fmt: skip
        expr = fill(expr, values).replace(":1m]", ":1s]")
        return self.server.query(expr, at) if kind in ONCE else self.server.query_range(expr, self.start, at, 0.5)

    def panel(self, dashboard, title, run=".+", at=None, number=0):
        """Labels and values of a panel's query; of curves the last values."""
        for panel, index, expr in targets(dashboard):
            if (panel["title"], index) == (title, number):
                found = self.ask(expr, panel["type"], run, at)
                return [(one.labels, one.value if panel["type"] in ONCE else one.points[-1][1]) for one in found]
        raise LookupError(title)

    def tile(self, title, run, at=None, number=0):
        """The only value of a tile of the dashboard of one run."""
        ((_, value),) = self.panel(RUN, title, run, at, number)
        return value


class SlowTask(ToyTask):
    """The batches take their time, and the loss has two terms that are balanced."""

    def counts(self, indices, epoch):
        return dict.fromkeys(("loss", "norm"), float(len(indices)))

    def loss(self, model, batch):
        found = super().loss(model, batch)
        return replace(found, terms={**found.terms, "norm": model(batch["x"]).square().sum()})

    def shared(self, model):
        return list(model[0].parameters())

    def train_data(self):
        data, take, wait = self.data, self.data.take, threading.Event().wait
        data.take = lambda indices, epoch: wait(0.02 * len(indices)) or take(indices, epoch)
        return data


def train_slowly(settings):
    """As `train_toy`."""
    world = join_world(settings)
    try:
        trainer.run.train_task(SlowTask(settings), settings, world)
    finally:
        world.leave()


def train_patiently(settings):
    """As `train_toy`, with a store that is tried for a while, as one in S3; a disk is given up at the third failure."""
    trainer.run.Retry = partial(Retry, tries=None, outage_seconds=8.0)  # in a process of its own
    train_toy(settings)


class Actor:
    """A run under its name; every attempt has another address, as pods have."""

    def __init__(self, folder, name, train=train_toy, **values):
        self.name, self.folder, self.train, self.values = name, folder / name, train, values
        self.ports, self.pace, self.pids = [free_port(), free_port()], Pace(), []

    def targets(self):
        """For Prometheus, with the labels of the pod that each would be."""
        labels = {"namespace": "training", "pod": f"{self.name}-1-master-0", "job_name": f"{self.name}-1"}
        return [{"targets": [f"127.0.0.1:{port}"], "labels": labels} for port in self.ports]

    def begin(self, number=0):
        """The process of an attempt."""
        exporter = {"enabled": "on", "host": "127.0.0.1", "port": self.ports[number], "linger_seconds": 20}
        settings = toy_settings(self.folder, run__name=self.name, telemetry__prometheus=exporter, **self.pace.settings,
                                **self.values)  # fmt: skip
        self.pids += fork_ranks(lambda _: self.train(settings), 1)

    def ended(self):
        """Exit code of the newest attempt."""
        return wait_for([self.pids.pop()])[0]

    def kill(self):
        """What still runs."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        self.pids.clear()


def faster(rules: str) -> str:
    """The rule file with all its times divided."""
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def divide(match):
        return f"{int(match[2]) * seconds[match[3]] * 1000 // FASTER}ms"

    shorter = re.sub(r"(?<=([\[ ]))(\d+)([smhd])(?=\]|\n|\))", divide, rules)
    return re.sub(r"(?<![\w.])(300|600|900|3600)(?![\w.])", lambda match: f"{int(match[1]) / FASTER:g}", shorter)


def paper() -> prometheus_client.CollectorRegistry:
    """A registry with every metric of the catalogue; counters grow with each scrape."""
    values, some = Values(), {"pass": ("train", "val"), "name": ("top1",)}

    def grow():
        for family in FAMILIES:
            sets = (closed or some.get(label, ("x",)) for label, closed in family.labels.items())
            for labels in itertools.product(*sets):
                if family.kind == "histogram":
                    values.start(family.name, [labels])
                    values.observe(family.name, 0.1, *labels)
                elif family.kind == "counter":
                    values.add(family.name, 1, *labels)
                else:
                    values.set(family.name, time.time() if family.name.endswith("timestamp_seconds") else 1, *labels)
        values.numbers["phase"].update({(phase,): float(phase == "train") for (phase,) in values.numbers["phase"]})
        values.set("exit_code", -1)
        values.set("gpus", 2)
        return {}

    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector("paper", values, grow))
    return registry


@contextlib.contextmanager
def served(text: str):
    """Port of a target that always says this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a busy machine: the scraper has given up
                self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def cluster():
    """Jobs of Prometheus for everything that is not a run; the paper run among them ends with the block."""
    gpus = (RECORDED / "dcgm.prom").read_text()
    with (
        served(gpus) as dcgm,
        served(gpus.replace("toy-1-master-0", "killed-1-master-0")) as honored,
        served((RECORDED / "cluster.prom").read_text()) as state,
    ):
        server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry=paper())
        pod = {"namespace": "training", "pod": "toy-1-master-0", "job_name": "toy-1"}
        exporter = {"namespace": "gpu-operator", "pod": "dcgm-exporter-x"}
        yield {
            "paper": [{"targets": [f"127.0.0.1:{server.server_port}"], "labels": pod}],
            # with labels of its own a target's series have exported_pod; without, pod, as under honorLabels
            "dcgm": [{"targets": [f"127.0.0.1:{dcgm}"], "labels": exporter}, {"targets": [f"127.0.0.1:{honored}"]}],
            "kube-state-metrics": [{"targets": [f"127.0.0.1:{state}"]}],
        }
        server.shutdown()
        thread.join()


def play(scene, actors):
    """Let everything happen that the tests look at."""
    server = scene.server
    calm, killed, diverged, slow, refused, stuck = (actors[name] for name in REAL)
    for actor in actors.values():
        actor.begin()
    for actor in (calm, diverged, slow):
        actor.pace.free()
    for actor in (killed, refused, stuck):
        actor.pace.let(10)
        server.wait_until(f'trainer_step{{run="{actor.name}"}} == 10')
    server.wait_until('trainer_checkpoint_uploads_total{run="killed", result="ok"} >= 1')
    server.wait_until('trainer_data_wait_seconds_count{run="slow"} > 2')
    others = 'count(up{job=~"paper|dcgm|kube-state-metrics"} == 1) == 4'
    scene.live = moment(server, f'trainer_step{{run="killed"}} == 10 and on () ({others})')
    os.kill(killed.pids[0], signal.SIGKILL)
    assert killed.ended() == 137
    scene.lost = moment(server, f'up{{instance="127.0.0.1:{killed.ports[0]}"}} == 0')
    killed.begin(1)
    scene.resumed = moment(server, 'trainer_resumed{run="killed"} == 1 and trainer_progress_ratio > 0')
    killed.pace.free()
    refuse_checkpoints(server, refused)
    for alert, actor in ALERTS:
        # it may have stopped again
        server.wait_until(f'max_over_time(ALERTS{{alertname="{alert}", alertstate="firing", run="{actor}"}}[5m])')
    for actor in (stuck, refused):
        actor.pace.free()
    assert {name: actor.ended() for name, actor in actors.items()} == ENDS


def moment(server, expr):
    """A time at which this was so, and stays so for every later question.

    A scrape that failed writes its marks at the time when it began, so all that were under way have to end first.
    """
    at = 0.0

    def is_settled():
        nonlocal at
        at = at or server.wait_until(expr)[0].seconds
        if not server.query(f"min(timestamp(up)) > {at}"):
            return False
        if not server.query(expr, at):
            at = 0.0
        return at

    return server.wait_for(is_settled, f"a moment of {expr}")


def refuse_checkpoints(server, actor):
    """A file where the folder of checkpoints was; not while a success still counts for the alert."""
    folder = actor.folder / actor.name / "checkpoints"
    server.wait_until(f'increase(trainer_checkpoint_uploads_total{{run="{actor.name}", result="ok"}}[3s]) == 0')
    folder.rename(folder.with_name("away"))
    folder.write_text("no folder")
    while not server.query(f'trainer_store_outage_seconds{{run="{actor.name}"}} > 0'):
        actor.pace.let(1)  # what the publishing thread met is told with the next step


@pytest.fixture(scope="module")
def scene(prometheus_for_module, tmp_path_factory):
    """The whole story, played once."""
    folder = tmp_path_factory.mktemp("scene")
    rules = folder / "rules.yaml"
    rules.write_text(faster(RULE_FILE.read_text()))
    actors = {
        "calm": Actor(folder, "calm", num_epochs=40),
        "killed": Actor(folder, "killed"),
        "diverged": Actor(folder, "diverged", poison_sample=5),
        "slow": Actor(folder, "slow", train_slowly, num_epochs=10, balance__kind="gradnorm"),
        "refused": Actor(folder, "refused", train_patiently, num_epochs=200),
        "stuck": Actor(folder, "stuck"),
    }
    with cluster() as jobs:
        jobs["training"] = [target for actor in actors.values() for target in actor.targets()]
        scene = Scene(prometheus_for_module(jobs, rules=[rules], interval=INTERVAL))
        scene.server.wait_until('trainer_epoch{run="paper"}')
        try:
            play(scene, actors)
        finally:
            for actor in actors.values():
                actor.kill()
        scene.folder, scene.closed = folder, time.time()
    scene.server.wait_until('count(up{job=~"training|paper"}) == count(up{job=~"training|paper"} == 0)')
    scene.end = time.time()
    return scene


def empty(scene, dashboard, runs, at=None):
    """Panels and queries that yield nothing for any of these runs."""
    return {
        f"{panel['title']}/{number}"
        for panel, number, expr in targets(dashboard)
        if not any(scene.ask(expr, panel["type"], run, at) for run in runs)
    }


def test_every_query_of_the_run_has_data(scene):
    alive = empty(scene, RUN, [*REAL, "paper"], scene.live)
    over = empty(scene, RUN, [*REAL, "paper"])
    assert not alive & over
    assert {place.split("/")[0] for place in over} == LIVE


def test_only_what_needs_gpu_s3_or_kubernetes_is_not_filled_by_real_runs(scene):
    lacking = empty(scene, RUN, REAL, scene.live) & empty(scene, RUN, REAL)
    assert {place.split("/")[0] for place in lacking} == set(NEEDS_PAPER)


@pytest.mark.parametrize("dashboard", [FLEET, GPU], ids=["fleet", "gpu"])
def test_every_query_of_all_runs_has_data(scene, dashboard):
    assert not empty(scene, dashboard, [".+"], scene.live) & empty(scene, dashboard, [".+"])


def test_variables_and_annotations_find_something(scene):
    for dashboard in ALL.values():
        for _, text in variable_queries(dashboard):
            selector, label = LABEL_VALUES.fullmatch(text).groups()
            assert scene.ask(f"group by ({label}) ({selector})", "stat", "paper", scene.live)
    for one in RUN["annotations"]["list"]:
        assert any(scene.ask(one["expr"], "timeseries", run) for run in REAL), one["name"]


def test_alerts_fire_on_sick_runs_and_on_no_other(scene):
    found = scene.server.query('max_over_time(ALERTS{alertstate="firing", run!="paper"}[10m])', scene.end)
    fired = {(one.labels["run"], one.labels["alertname"]) for one in found if "run" in one.labels}
    wanted = {(run, alert) for alert, run in ALERTS}
    assert wanted <= fired
    # a run that this test or a busy machine holds up for a second stands still, and is right to say so
    held_up = {(run, alert) for run in REAL for alert in ("TrainingStalled", "CheckpointStale")}
    assert fired - wanted <= held_up


def test_what_ended_is_told_from_what_was_lost(scene):
    assert {run: scene.tile("State", run) for run in REAL} == ENDS
    assert scene.tile("State", "killed", scene.lost) == -2
    assert scene.tile("State", "killed", scene.live) == -1
    states = {labels["run"]: value for labels, value in scene.panel(FLEET, "Runs", number=1)}
    assert states == ENDS | {"paper": -2}
    tiles = {
        title: scene.panel(FLEET, title)[0][1] for title in ("Running", "Lost or failed", "Will come back", "Complete")
    }
    assert tiles == {"Running": 0, "Lost or failed": 2, "Will come back": 1, "Complete": 4}


def test_tiles_of_the_newest_attempt(scene):
    assert (scene.tile("Attempts", "calm"), scene.tile("Attempts", "killed")) == (1, 2)
    assert scene.tile("Progress", "killed", scene.lost) == pytest.approx(10 / 21)
    assert 0 < scene.tile("Progress", "killed", scene.resumed) < 10 / 21
    assert [scene.tile("Progress", run) for run in ("calm", "killed", "slow", "stuck")] == [1, 1, 1, 1]
    assert scene.tile("Steps done again", "calm") == 0
    assert scene.tile("Steps done again", "killed") > 0
    assert (scene.tile("Not finite", "diverged"), scene.tile("Not finite", "calm")) == (1, 0)


def test_the_last_loss_is_that_of_the_ledger(scene):
    for run in ("calm", "killed", "slow"):
        segments = sorted((scene.folder / run / run / "ledger").glob("*/*.jsonl"))
        records = [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]
        losses = [record["loss"] for record in records if record["event"] == "StepDone"]
        shown = {labels["pass"]: value for labels, value in scene.panel(RUN, "Loss", run)}
        assert shown["train"] == pytest.approx(losses[-1])


def test_time_is_accounted_for(scene):
    for run in ("calm", "killed", "slow"):
        seconds = {labels["kind"]: value for labels, value in scene.panel(RUN, "Wall clock of the run", run)}
        assert scene.tile("Goodput", run) == pytest.approx(seconds["productive"] / sum(seconds.values()))
        assert (seconds["redone"] > 0) == (run == "killed")
    expr = next(expr for panel, _, expr in targets(RUN) if panel["title"] == "Waiting for data")
    waits = {}
    for run in ("calm", "slow"):
        (curve,) = scene.ask(expr, "timeseries", run)
        # before and after the steps nothing is divided by nothing
        waits[run] = statistics.median(value for _, value in curve.points if not math.isnan(value))
    assert waits["slow"] > 0.3 > waits["calm"]


def test_gpus_belong_to_their_run_under_both_spellings_of_pod(scene):
    # pod of "paper" comes as exported_pod, that of "killed" as pod
    shown = {
        (labels["run"], labels["gpu"]): value for labels, value in scene.panel(GPU, "GPU utilisation", at=scene.live)
    }
    assert shown == {("paper", "0"): 97, ("paper", "1"): 3, ("killed", "0"): 97, ("killed", "1"): 3}
    ((_, idle),) = scene.panel(GPU, "Idle while training", at=scene.live)
    assert idle == 2
    assert not scene.panel(GPU, "GPU utilisation", run="slow", at=scene.live)


def test_gpu_hours_are_added_up_and_priced(scene):
    hours = {labels["run"]: value for labels, value in scene.panel(FLEET, "Runs", number=8)}
    # two GPUs from the first scrape on; a minute of the dashboard is a second here
    most = 2 * (scene.closed - scene.start) / 60
    assert 0.5 * most < hours["paper"] <= 1.1 * most
    assert hours["calm"] == 0
    ((_, cost),) = scene.panel(FLEET, "Cost")
    assert cost == pytest.approx(2.5 * hours["paper"])
