"""What metrics say: every event, what an attempt inherits, values that are no numbers, names that are no names."""

import math
import time
from collections import Counter

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.metrics_alone import PER_STEP_MICROS, SCRAPE_MILLIS, micros_per_step, page_millis
from tests.unit.telemetry_samples import pass_done, records_of, run_started, step_done
from trainer.config.prometheus import IN_POD, PrometheusSettings, is_on
from trainer.engine.clock import Clock
from trainer.telemetry import events
from trainer.telemetry.prometheus.catalogue import FAMILIES
from trainer.telemetry.prometheus.exporter import Exporter, linger_seconds
from trainer.telemetry.prometheus.listener import MAX_METRICS, MAX_TERMS
from trainer.telemetry.prometheus.live import Sources, WallClock
from trainer.telemetry.prometheus.values import MAX_LABEL
from trainer.telemetry.warnings import general_rules

ACCOUNT = dict.fromkeys(events.TIME_KINDS, 1.0)


class Told:
    """An exporter on a free port with a listener; `page` is what a scrape would read."""

    def __init__(self, *happened, run="r", history=(), port=0, linger_seconds=0.0, **sources):
        self.warnings = []
        settings = PrometheusSettings(enabled="on", host="127.0.0.1", port=port, linger_seconds=linger_seconds)
        sources = {"account": lambda: ("productive", ACCOUNT)} | sources
        self.exporter = Exporter(settings, run, Sources(**sources), self.warnings.append)
        self.listener = self.exporter.listener(
            rules=general_rules(), history=history, num_gpus=0, grace_seconds=30.0, warn=self.warnings.append
        )
        for event in happened:
            self.tell(event)

    def tell(self, event):
        self.listener.on_event(event)
        if isinstance(event, events.RunStarted):
            self.exporter.describe(event)

    @property
    def text(self):
        return generate_latest(self.exporter.registry).decode()

    @property
    def page(self):
        """Values by `name` or `name{label=value,...}`, without the prefix and the label `run`."""
        return {name.removeprefix("trainer_"): value for name, value in samples(self.text).items()}

    def series(self, *prefixes):
        return sorted(name for name in self.page if name.startswith(prefixes))


def samples(text):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "run")
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
def tell():
    """Makes exporters that are closed at the end."""
    made = []

    def make(*happened, **options):
        made.append(Told(*happened, **options))
        return made[-1]

    yield make
    for one in made:
        one.exporter.close()


def test_a_log_point_shows_progress_and_learning(tell):
    page = tell(
        run_started(),
        step_done(40, epoch=4, loss=0.25, learning_rate=2e-3, loss_scale=1024.0, skipped_steps=1, seconds_left=60.0),
    ).page
    expected = {
        "step": 40, "epoch": 4, "steps_target": 100, "epochs_target": 10, "progress_ratio": 0.4, "eta_seconds": 60,
        "loss{pass=train}": 0.25, "metric{name=top1,pass=train}": 0.5, "learning_rate": 2e-3, "grad_norm": 0.5,
        "loss_scale": 1024, "steps_total": 20, "skipped_steps_total": 1, "samples_total{pass=train}": 1280,
        "exit_code": -1, "attempts": 1, "grace_available_seconds": 30,
    }  # fmt: skip
    assert {name: page.get(name) for name in expected} == expected


def test_the_terms_of_a_loss_have_series_of_their_own(tell):
    told = tell(run_started(), step_done(20))
    assert not told.series("term")
    weights, norms = {"fine": 0.5, "coarse": 1.5}, {"fine": 3.0}
    told.tell(step_done(40, terms={"fine": 2.0, "coarse": None}, weights=weights, norms=norms))
    page = told.page
    assert {name: page[name] for name in told.series("term") if name != "term_loss{term=coarse}"} == {
        "term_loss{term=fine}": 2.0, "term_weight{term=fine}": 0.5, "term_weight{term=coarse}": 1.5,
        "term_grad_norm{term=fine}": 3.0,
    }  # fmt: skip
    assert math.isnan(page["term_loss{term=coarse}"])


def test_a_loss_of_very_many_terms_has_a_bounded_number_of_series(tell):
    names = [f"level {number} " + "x" * 200 for number in range(50)]
    numbers = dict.fromkeys(names, 1.0)
    told = tell(run_started(), step_done(20, terms=numbers, weights=numbers, norms=numbers))
    assert len(told.series("term")) == 3 * MAX_TERMS
    assert max(map(len, told.series("term_weight"))) < 2 * MAX_LABEL


def test_steps_and_waits_are_counted_once_each_with_the_mean_of_the_interval(tell):
    page = tell(run_started(), step_done(20, seconds=2.0, data_wait_seconds=0.4)).page
    assert page["step_duration_seconds_count"] == 20
    assert page["step_duration_seconds_sum"] == pytest.approx(1.6)
    assert page["step_duration_seconds_bucket{le=0.1}"] == 20
    assert page["step_duration_seconds_bucket{le=0.05}"] == 0
    assert page["data_wait_seconds_sum"] == pytest.approx(0.4)


def test_a_pass_shows_its_metrics_and_the_best_one_stays(tell):
    told = tell(run_started(), pass_done(10, 0.5, is_best=True), pass_done(20, 0.7))
    page = told.page
    assert page["loss{pass=val}"] == page["metric{name=loss,pass=val}"] == 0.7
    assert page["best_metric{name=loss,pass=val}"] == 0.5
    assert page["passes_total{pass=val}"] == 2
    assert page["samples_total{pass=val}"] == 192
    assert page["pass_duration_seconds_count{pass=val}"] == 2


def test_final_passes_are_results_and_leave_the_curves_alone(tell):
    page = tell(run_started(), pass_done(20, 0.7), pass_done(20, 0.5, is_final=True)).page
    assert page["loss{pass=val}"] == 0.7
    assert page["result{name=loss,pass=val}"] == 0.5


def test_an_epoch_has_means_of_its_own(tell):
    epoch = events.EpochDone(epoch=1, step=10, loss=0.9, metrics={"top1": 0.4}, seconds=3.0, samples_per_second=200.0)
    page = tell(run_started(), epoch, step_done(20)).page
    assert (page["epoch_loss"], page["epoch_metric{name=top1}"], page["loss{pass=train}"]) == (0.9, 0.4, 1.0)
    assert page["epochs_completed_total"] == page["epoch_duration_seconds_count"] == 1


def taken(step, stall_seconds=0.5, **changes):
    return events.CheckpointTaken(step=step, stall_seconds=stall_seconds, size_bytes=1000, **changes)


def published(step, seconds=2.0):
    return events.CheckpointPublished(step=step, checkpoint=str(step), size_bytes=1000, seconds=seconds)


def failed(outage_seconds):
    return events.CheckpointFailed(checkpoint="5", reason="no", will_retry=True, outage_seconds=outage_seconds)


def test_checkpoints_show_age_stall_bytes_and_the_grace_they_need(tell):
    begun = time.time()
    page = tell(run_started(), step_done(20), taken(20), published(20), taken(30, replaced=True)).page
    assert page["checkpoint_size_bytes"] == page["checkpoint_upload_bytes_total"] == 1000
    assert page["checkpoint_uploads_total{result=ok}"] == page["checkpoints_replaced_total"] == 1
    assert page["grace_needed_seconds"] == pytest.approx(0.1 + 0.5 + 2.0)
    assert page["checkpoint_stall_seconds_count"] == 2
    assert begun <= page["last_checkpoint_success_timestamp_seconds"] <= time.time()


def test_two_checkpoints_of_one_step_make_no_interval(tell):
    told = tell(run_started(), taken(10), taken(10))
    assert told.page["checkpoint_interval_seconds"] == 0
    told.tell(taken(20))
    assert told.page["checkpoint_interval_seconds"] > 0


def test_an_outage_grows_until_a_checkpoint_is_durable(tell):
    told = tell(run_started(), failed(100.0))
    first = told.page["store_outage_seconds"]
    assert 100 <= first < told.page["store_outage_seconds"]
    assert told.page["checkpoint_uploads_total{result=error}"] == 1
    told.tell(published(20))
    assert told.page["store_outage_seconds"] == 0


def test_what_goes_wrong_is_counted(tell):
    nonfinite = events.NonFinite(what="loss", policy="skip", used=1, budget=10, sample_ids=[1])
    warned = events.Warned(name="overfit", severity="warn", text="so it is")
    rejected = events.CheckpointRejected(checkpoint="5", reason="does not match", kind="digest")
    memory = events.OutOfMemory(batch_size=64, accumulation=1)
    left_out = events.SamplesLeftOut(num_skipped=3, num_tolerated=2)
    page = tell(run_started(), nonfinite, warned, rejected, memory, left_out).page
    names = ("nonfinite_total", "warnings_total{name=overfit,severity=warn}", "oom_total",
             "checkpoint_rejected_total{reason=digest}")  # fmt: skip
    assert [page[name] for name in names] == [1, 1, 1, 1]
    assert page["data_errors_total{kind=skipped}"] == 3
    assert page["data_errors_total{kind=tolerated}"] == 2
    assert page["checkpoint_rejected_total{reason=size}"] == 0


def test_every_reason_for_a_rejection_is_one_of_the_label(tell):
    told = tell(run_started())
    names = told.series("checkpoint_rejected_total")
    for kind in events.REJECTIONS:
        told.tell(events.CheckpointRejected(checkpoint="5", reason="", kind=kind))
    assert told.series("checkpoint_rejected_total") == names
    assert all(told.page[name] == 1 for name in names)


def test_the_end_is_in_the_values_before_anybody_waits(tell):
    told = tell(run_started(), step_done(40), events.AttemptEnded(code=0, reason="complete", seconds=9.0))
    told.exporter.leave(0, lambda: False, None)
    page = told.page
    assert page["progress_ratio"] == page["phase{phase=done}"] == 1
    assert page["exit_code"] == page["eta_seconds"] == page["phase{phase=train}"] == 0


def test_an_attempt_that_was_stopped_is_not_done(tell):
    told = tell(run_started(), step_done(40), events.AttemptEnded(code=143, reason="SIGTERM", seconds=9.0))
    told.exporter.leave(143, lambda: False, 10.0)
    page = told.page
    assert (page["phase{phase=linger}"], page["phase{phase=done}"], page["exit_code"]) == (1, 0, 143)
    assert (page["progress_ratio"], page["preemptions_total"]) == (0.4, 1)


def test_time_stands_still_once_the_attempt_is_over(tell):
    clock = Clock("productive")
    told = tell(run_started(), account=clock.peek)
    told.exporter.leave(0, lambda: False, None)
    assert told.page["goodput_seconds_total{kind=productive}"] == told.page["goodput_seconds_total{kind=productive}"]


def before(*happened, **options):
    return records_of(run_started(attempt="0001-aa"), *happened, attempt="0001-aa", **options)


def test_a_resumed_attempt_begins_with_what_the_run_knew(tell):
    history = before(
        step_done(20, epoch=2), pass_done(20, 0.5, is_best=True), published(20),
        step_done(40, epoch=4), pass_done(40, 0.3, is_best=True),
        events.TimeAccounted(step=40, seconds=ACCOUNT), events.AttemptEnded(code=143, reason="", seconds=7.0),
        start=time.time() - 1000,
    )  # fmt: skip
    resumed = events.Resumed(epoch=2, step=20, checkpoint="20", redone_steps=20)
    page = tell(run_started(attempt="0002-bb"), resumed, history=history).page
    expected = {
        "attempts": 2, "resumed": 1, "resume_epoch": 2, "epoch": 2, "step": 20, "redone_steps_total": 20,
        "best_metric{name=loss,pass=val}": 0.5, "loss{pass=val}": 0.5, "preemptions_total": 1,
        "passes_total{pass=val}": 0, "goodput_seconds_total{kind=evaluation}": 2,
    }  # fmt: skip
    assert {name: page.get(name) for name in expected} == expected
    assert page["goodput_seconds_total{kind=idle}"] > 900  # between the attempts
    assert page["last_checkpoint_success_timestamp_seconds"] == pytest.approx(history[3]["wall"], abs=0.1)


def test_a_resumed_attempt_shows_no_step_zero_before_it_knows_better(tell):
    assert "step" not in tell(run_started(attempt="0002-bb"), history=before(step_done(20))).page


def test_a_rollback_is_no_resume(tell):
    page = tell(run_started(), step_done(40), events.Resumed(epoch=2, step=20, checkpoint="20", redone_steps=20)).page
    assert (page["resumed"], page["step"], page["redone_steps_total"]) == (0, 20, 20)


def test_a_value_that_is_not_finite_is_nan_and_never_an_old_number(tell):
    told = tell(run_started(), step_done(20), pass_done(20))
    told.tell(step_done(40, loss=None, grad_norm=None, metrics={"top1": None}))
    told.tell(pass_done(40, None, metrics={"top5": math.inf}))
    names = ("loss{pass=train}", "grad_norm", "metric{name=top1,pass=train}", "loss{pass=val}")
    page = told.page
    assert [name for name in (*names, "metric{name=top5,pass=val}") if not math.isnan(page[name])] == []
    assert "Inf" not in told.text.replace('le="+Inf"', "")


def test_what_is_not_known_has_no_series(tell):
    told = tell(run_started())
    assert not told.series("loss", "metric", "best_metric", "result", "grad_norm", "eta", "cuda_memory", "last_", "s3_")


def test_a_run_without_any_validation_shows_its_training(tell):
    told = tell(run_started(passes={}), step_done(20), events.AttemptEnded(code=0, reason="", seconds=1.0))
    assert told.series("loss") == ["loss{pass=train}"]
    assert not told.series("passes", "pass_duration", "best", "result")
    assert told.page["progress_ratio"] == 1


def test_counters_are_there_from_the_first_scrape(tell):
    page = tell(run_started()).page
    counters = [family for family in FAMILIES if family.kind == "counter" and family.name != "s3_requests_total"]
    for family in counters:
        assert any(name.partition("{")[0] == family.name for name in page), family.name
    assert page["samples_total{pass=val}"] == page["warnings_total{name=slow_data,severity=warn}"] == 0


def test_the_number_of_series_is_bounded_whatever_a_task_reports(tell):
    told = tell(run_started(), step_done(1), pass_done(1, is_best=True), pass_done(1, is_final=True))
    before = set(told.page)
    for number in range(2, 200):
        told.tell(step_done(number, metrics={f"made_up_{number}": 1.0}))
        told.tell(pass_done(number, name=f"pass {number}"))
        told.tell(pass_done(number, metrics={f"class_{number}": 1.0}))
        told.tell(events.Warned(name=f"sign {number}", severity="note", text=""))
        told.tell(events.Noted(text=f"note {number}"))
        told.tell(events.CheckpointPublished(step=number, checkpoint=str(number), size_bytes=1, seconds=1.0))
    grown = set(told.page) - before
    assert all("timestamp" in name or "grace" in name for name in grown), grown
    assert len(told.page) < 250


def test_a_task_with_a_metric_for_each_of_many_things_is_cut_and_this_is_said(tell):
    names = {f"top1_signer_{number}": "max" for number in range(MAX_METRICS + 50)}
    told = tell(run_started(metrics=names), pass_done(1, metrics=dict.fromkeys(names, 0.5)))
    assert len(told.series("metric{")) == MAX_METRICS
    assert f"{MAX_METRICS + 50} metrics" in told.warnings[-1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('a "quoted" run', 'a "quoted" run'),
        ("two\nlines\r\n of it", "two lines of it"),
        ("back\\slash", "back\\slash"),
        ("r" * 300, "r" * (MAX_LABEL - 3) + "..."),
        ("Wörter 手", "Wörter 手"),
    ],
)
def test_whatever_a_run_is_called_its_page_can_be_read(tell, name, shown):
    told = tell(run_started(), step_done(20), run=name)
    families = list(text_string_to_metric_families(told.text))
    assert {sample.labels["run"] for family in families for sample in family.samples} == {shown}


def test_other_pods_export_what_every_process_has_and_nothing_of_the_run(tell):
    exporter = Exporter(PrometheusSettings(host="127.0.0.1", port=0), "r", Sources(Clock().peek, time.monotonic), print)
    try:
        exporter.describe(run_started())
        found = {name.partition("{")[0] for name in samples(generate_latest(exporter.registry).decode())}
    finally:
        exporter.close()
    everywhere = {family.full_name for family in FAMILIES if family.everywhere}
    assert found == {name for name in everywhere if "cuda" not in name}


def test_two_runs_in_one_process_do_not_meet(tell):
    first = tell(run_started(), step_done(20), run="first")
    second = tell(run_started(), run="second", port=first.exporter.port)
    assert "not served" in second.warnings[0]
    assert second.exporter.port is None
    second.exporter.leave(0, lambda: False, None)
    port = first.exporter.port
    first.exporter.leave(0, lambda: False, None)
    third = tell(run_started(), run="third", port=port)
    assert (third.exporter.port, third.warnings) == (port, [])
    assert third.page["steps_total"] == 0


def test_requests_are_counted_by_kind_and_result(tell):
    sent, lost = Counter(PutObject=5, UploadPart=3, HeadObject=2, GetBucketLocation=1), Counter(PutObject=2)
    page = tell(run_started(), requests=lambda: (sent, lost)).page
    found = {name: value for name, value in page.items() if name.startswith("s3_") and value}
    assert found == {
        "s3_requests_total{op=put,result=ok}": 3,
        "s3_requests_total{op=put,result=error}": 2,
        "s3_requests_total{op=multipart,result=ok}": 3,
        "s3_requests_total{op=head,result=ok}": 2,
        "s3_requests_total{op=other,result=ok}": 1,
    }


def test_memory_of_the_gpu_is_that_of_this_process(tell, monkeypatch):
    sizes = {"allocated_bytes": {"all": {"current": 10, "peak": 30}}, "reserved_bytes": {"all": {"current": 40}}}
    monkeypatch.setattr("torch.cuda.memory_stats_as_nested_dict", lambda gpu: sizes if gpu == 1 else {})
    page = tell(run_started(), gpu=1).page
    names = ("allocated", "max_allocated", "reserved")
    assert [page[f"cuda_memory_{name}_bytes"] for name in names] == [10, 30, 40]
    assert not tell(run_started(), gpu=0).series("cuda_memory")  # before CUDA's first use


def test_phases_follow_the_clock(tell):
    clock = Clock()
    told = tell(run_started(), account=clock.peek)

    def phase():
        (now,) = (name for name, value in told.page.items() if name.startswith("phase{") and value == 1)
        return now.removeprefix("phase{phase=").removesuffix("}")

    seen = [phase()]
    for kind in ("productive", "data_wait", "redone", "evaluation", "checkpoint_stall", "idle"):
        clock.switch(kind)
        seen.append(phase())
    assert seen == ["start", "train", "train", "train", "validate", "checkpoint", "stop"]


class Clocks:
    """Time of day and monotonic time, set by hand."""

    def __init__(self):
        self.wall, self.mono = 1_000_000.0, 50.0

    def tick(self, seconds, wall_seconds=None):
        self.mono += seconds
        self.wall += seconds if wall_seconds is None else wall_seconds


def test_timestamps_follow_a_clock_that_is_set_back_and_do_not_tremble():
    clocks = Clocks()
    wall = WallClock(lambda: clocks.wall, lambda: clocks.mono)
    assert wall.at(50.0) == 1_000_000.0
    clocks.tick(10, wall_seconds=10.01)
    assert wall.at(50.0) == 1_000_000.0
    clocks.tick(10, wall_seconds=-3590)
    assert clocks.wall - wall.at(50.0) == pytest.approx(20.0)  # it was twenty seconds ago, whatever the clock says


def test_a_ledger_from_the_future_takes_no_time_away(tell):
    history = before(step_done(20), events.TimeAccounted(step=20, seconds=ACCOUNT), start=time.time() + 5000)
    page = tell(run_started(attempt="0002-bb"), history=history).page
    seconds = [page[f"goodput_seconds_total{{kind={kind}}}"] for kind in events.TIME_KINDS]
    assert min(seconds) >= 0
    assert sum(seconds) == pytest.approx(14.0)


class Interrupted(Clock):
    """The training thread switches in the middle of another thread's look."""

    is_armed = False

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name == "_since" and self.is_armed:
            self.is_armed = False
            self.switch("data_wait")
        return value


def test_another_thread_never_sees_time_twice():
    clock = Interrupted("productive")
    clock.started = clock._since = clock.started - 100.0
    clock.is_armed = True
    kind, seconds = clock.peek()
    assert kind == "data_wait"
    assert sum(seconds.values()) == pytest.approx(100.0, abs=1.0)


@pytest.mark.parametrize(
    ("asked", "in_pod", "left", "seconds"),
    [
        (None, True, None, 60.0),
        (None, False, None, 0.0),
        (7.0, False, None, 7.0),
        (0.0, True, None, 0.0),
        (None, True, 30.0, 5.0),
        (None, True, 4.0, 2.0),
        (3.0, True, 30.0, 3.0),
        (None, True, 0.0, 0.0),
    ],
)
def test_the_last_wait_is_bounded(asked, in_pod, left, seconds):
    environ = {IN_POD: "10.0.0.1"} if in_pod else {}
    assert linger_seconds(PrometheusSettings(linger_seconds=asked), left, environ) == seconds


def test_auto_exports_in_a_pod_only():
    assert is_on(PrometheusSettings(), {IN_POD: "10.0.0.1"})
    assert not is_on(PrometheusSettings(), {})
    assert is_on(PrometheusSettings(enabled="on"), {})
    assert not is_on(PrometheusSettings(enabled="off"), {IN_POD: "10.0.0.1"})


def test_a_step_pays_less_than_five_microseconds_for_its_metrics():
    assert micros_per_step() < PER_STEP_MICROS


def test_a_page_of_502_classes_is_made_in_less_than_ten_milliseconds():
    assert page_millis() < SCRAPE_MILLIS


def test_a_page_is_good_by_the_lights_of_prometheus(tell, promtool):
    history = before(step_done(20), start=time.time() - 100)
    told = tell(run_started(), step_done(20), pass_done(20, None, is_best=False), taken(20), published(20),
                history=history, requests=lambda: (Counter(PutObject=1), Counter()))  # fmt: skip
    result = promtool("check", "metrics", input=told.text)
    assert (result.returncode, result.stderr.strip()) == (0, "")
    assert "_created" not in told.text
