"""The metrics as dashboards, alerts and people's own queries know them: a change here needs a line in the changelog."""

import re

import pytest

from trainer.telemetry.events import REJECTIONS, TIME_KINDS
from trainer.telemetry.prometheus.catalogue import CATALOGUE, DECLARED, FACT, FAMILIES, PREFIX, RUN

METRICS = """
    info build_info version git_sha torch cuda
    info run_info attempt task model dataset world_size precision device
    gauge phase phase
    gauge start_timestamp_seconds
    gauge last_step_timestamp_seconds
    gauge host_memory_resident_bytes
    gauge cuda_memory_allocated_bytes
    gauge cuda_memory_reserved_bytes
    gauge cuda_memory_max_allocated_bytes
    gauge gpus
    gauge attempts
    gauge resumed
    gauge resume_epoch
    gauge exit_code
    counter preemptions_total
    counter oom_total
    gauge epoch
    gauge epochs_target
    gauge step
    gauge steps_target
    gauge progress_ratio
    gauge eta_seconds
    gauge loss pass
    gauge metric pass name
    gauge epoch_loss
    gauge epoch_metric name
    gauge best_metric pass name
    gauge result pass name
    gauge term_loss term
    gauge term_weight term
    gauge term_grad_norm term
    gauge learning_rate
    gauge grad_norm
    gauge clipped_ratio
    gauge loss_scale
    counter nonfinite_total
    counter skipped_steps_total
    counter warnings_total name severity
    counter samples_total pass
    counter steps_total
    counter epochs_completed_total
    counter passes_total pass
    counter redone_steps_total
    counter goodput_seconds_total kind
    histogram step_duration_seconds
    histogram data_wait_seconds
    histogram epoch_duration_seconds
    histogram pass_duration_seconds pass
    counter data_errors_total kind
    gauge last_checkpoint_success_timestamp_seconds
    gauge checkpoint_interval_seconds
    gauge checkpoint_size_bytes
    gauge store_outage_seconds
    gauge grace_needed_seconds
    gauge grace_available_seconds
    histogram checkpoint_stall_seconds
    histogram checkpoint_upload_duration_seconds
    counter checkpoint_uploads_total result
    counter checkpoint_upload_bytes_total
    counter checkpoint_rejected_total reason
    counter checkpoints_replaced_total
    counter s3_requests_total op result
"""
"""Type, name without `trainer_`, and labels beside `run`, in the order of `/metrics`."""

LABEL_VALUES = {
    ("phase", "phase"): "start train validate checkpoint stop linger done",
    ("warnings_total", "severity"): "note warn stop",
    ("goodput_seconds_total", "kind"): " ".join(TIME_KINDS),
    ("data_errors_total", "kind"): "skipped tolerated fatal",
    ("checkpoint_uploads_total", "result"): "ok error",
    ("checkpoint_rejected_total", "reason"): " ".join(REJECTIONS),
    ("s3_requests_total", "op"): "put get head list delete multipart other",
    ("s3_requests_total", "result"): "ok error",
}


def test_names_types_and_labels_are_those_that_dashboards_know():
    lines = [line.strip() for line in METRICS.strip().splitlines()]
    assert [" ".join((family.kind, family.name, *family.labels)) for family in FAMILIES] == lines


def test_values_of_closed_labels_are_those_that_queries_name():
    found = {
        (family.name, label): " ".join(values)
        for family in FAMILIES
        for label, values in family.labels.items()
        if values not in (DECLARED, FACT)
    }
    assert found == LABEL_VALUES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_name_says_type_and_base_unit(family):
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.name.endswith("_info") == (family.kind == "info")
    assert not re.search(
        r"percent|_gib|_mib|_ms$|milli|minutes|hours|per_sec|_created|_bucket|_count$|_sum$", family.name
    )
    assert (family.kind == "histogram") == bool(family.buckets)
    assert list(family.buckets) == sorted(set(family.buckets))
    assert family.help.endswith(".")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_label_takes_a_name_that_prometheus_or_a_histogram_needs(family):
    taken = {"job", "instance", "namespace", "pod", "container", "job_name", "le", "quantile"}
    assert not taken & set(family.label_names)
    assert family.label_names[0] == RUN
    assert not {"epoch", "step", "path"} & set(family.label_names)


def test_names_are_unique_and_series_are_what_queries_use():
    assert len(CATALOGUE) == len(FAMILIES)
    assert CATALOGUE["steps_total"].series == (f"{PREFIX}steps_total",)
    assert CATALOGUE["data_wait_seconds"].series == (
        "trainer_data_wait_seconds_bucket",
        "trainer_data_wait_seconds_sum",
        "trainer_data_wait_seconds_count",
    )
