"""Metrics of real runs, read over HTTP: the last values are there before anybody leaves, and nobody is held up."""

import json
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from tests.toy import Attempt, ToyTask, fork_rank, free_port, toy_settings, train_toy, wait_for
from trainer.checkpoint.store import StoreMissing
from trainer.checkpoint.stores import open_store
from trainer.config.s3 import S3Settings
from trainer.errors import RunError, TrainerError
from trainer.telemetry.events import TIME_KINDS

PAUSE = threading.Event()
"""Never set: `PAUSE.wait` waits."""


def scrape(port):
    """Values by name and labels other than `run`; None where nobody listens or is cut off."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (OSError, HTTPException):
        return None
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [value for name, value in sorted(sample.labels.items()) if name != "run"]
            found[":".join([sample.name.removeprefix("trainer_"), *labels])] = sample.value
    return found


def scrape_until(port, is_good, seconds=30.0):
    """The first page that is good, of a scraper that asks twenty times a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        page = scrape(port)
        if page and is_good(page):
            return page
        PAUSE.wait(0.05)
    raise AssertionError(f"no such page in {seconds} s")


def is_over(page):
    return page["phase:done"] or page["phase:linger"]


def last_page(port):
    """What a scraper has read last when the port is closed."""
    page = scrape_until(port, is_over)
    while newer := scrape(port):
        page = newer
        PAUSE.wait(0.05)
    return page


def metrics(port, **options):
    values = {"enabled": "on", "host": "127.0.0.1", "port": port, "linger_seconds": 20.0} | options
    return {f"telemetry__prometheus__{name}": value for name, value in values.items()}


def ledger(folder, event):
    segments = sorted((folder / "toy" / "ledger").glob("*/*.jsonl"))
    records = [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]
    return [record for record in records if record["event"] == event]


def test_the_final_values_are_scraped_after_the_run_is_complete_and_end_the_wait(tmp_path):
    port = free_port()
    folder = tmp_path / "toy"

    def watch():
        scrape_until(port, is_over)
        written = (folder / "COMPLETE.json").exists() and any(folder.glob("attempts/*.end.json"))
        return written, last_page(port)

    with ThreadPoolExecutor(1) as scraper:
        last = scraper.submit(watch)
        begun = time.monotonic()
        finished = train_toy(toy_settings(tmp_path, **metrics(port, linger_seconds=60.0, linger_scrapes=3)))
        assert time.monotonic() - begun < 30
        was_written, page = last.result()
    assert was_written
    expected = {"phase:done": 1, "exit_code": 0, "progress_ratio": 1, "epoch": 3, "step": 21, "steps_total": 21,
                "samples_total:train": 159, "passes_total:val": 4, "eta_seconds": 0, "resumed": 0}  # fmt: skip
    assert {name: page.get(name) for name in expected} == expected
    assert page["result:loss:val"] == pytest.approx(finished.results["val"]["loss"])
    (account,) = (record["seconds"] for record in ledger(tmp_path, "TimeAccounted")[-1:])
    for kind in TIME_KINDS:
        assert page[f"goodput_seconds_total:{kind}"] == pytest.approx(account[kind], abs=0.5)
    assert scrape(port) is None


def test_a_failed_run_says_so_in_its_last_scrape(tmp_path):
    port = free_port()
    with ThreadPoolExecutor(1) as scraper:
        last = scraper.submit(last_page, port)
        with pytest.raises(RunError):
            train_toy(toy_settings(tmp_path, poison_sample=5, **metrics(port)))
        page = last.result()
    assert (page["exit_code"], page["phase:linger"], page["phase:done"], page["nonfinite_total"]) == (4, 1, 0, 1)


def test_a_signal_ends_the_wait_and_not_the_run(tmp_path):
    port = free_port()
    attempt = Attempt(toy_settings(tmp_path, **metrics(port, linger_seconds=300.0, linger_scrapes=100_000)))
    scrape_until(port, is_over)
    PAUSE.wait(0.3)
    assert scrape(port)["phase:done"] == 1  # it still waits
    attempt.send(signal.SIGTERM)
    assert attempt.wait() == [0]


def test_a_stopped_run_waits_within_its_grace_period_only(tmp_path):
    port = free_port()
    begun = time.monotonic()
    values = metrics(port, linger_seconds=300.0, linger_scrapes=100_000)
    attempt = Attempt(toy_settings(tmp_path, term_at=5, run__grace_seconds=2.0, **values))
    page = scrape_until(port, is_over)
    assert attempt.wait() == [143]
    assert time.monotonic() - begun < 15
    assert (page["exit_code"], page["preemptions_total"], page["phase:linger"]) == (143, 1, 1)


def test_a_port_that_is_taken_is_a_note_and_training_goes_on(tmp_path):
    first = free_port()
    with ThreadPoolExecutor(1) as scraper:
        waiting = threading.Event()

        def inner(page):
            waiting.set()
            return is_over(page)

        last = scraper.submit(scrape_until, first, inner)
        held = Attempt(toy_settings(tmp_path / "first", num_epochs=30, **metrics(first)))
        assert waiting.wait(30)
        train_toy(toy_settings(tmp_path / "second", **metrics(first)))
        assert held.wait() == [0]
        last.result()
    assert "not served" in " ".join(record["text"] for record in ledger(tmp_path / "second", "Noted"))


def test_work_that_is_done_again_is_charged_as_such_while_it_happens(tmp_path):
    values = {"poison_sample": 5, "nonfinite__policy": "rollback", "checkpoint__every": "every 3 steps and end"}
    train_toy(toy_settings(tmp_path, **values))
    redone = sum(record["redone_steps"] for record in ledger(tmp_path, "Resumed"))
    account = ledger(tmp_path, "TimeAccounted")[-1]["seconds"]
    assert redone > 0
    assert 0 < account["redone"] < account["productive"]


def test_a_damaged_checkpoint_is_counted_by_what_is_wrong_with_it(tmp_path):
    port = free_port()
    train_toy(toy_settings(tmp_path))
    weights = sorted((tmp_path / "toy" / "checkpoints").glob("*/model.safetensors"))[-1]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with ThreadPoolExecutor(1) as scraper:
        last = scraper.submit(last_page, port)
        train_toy(toy_settings(tmp_path, num_epochs=4, **metrics(port)))
        page = last.result()
    assert (page["checkpoint_rejected_total:digest"], page["checkpoint_rejected_total:size"]) == (1, 0)
    assert (page["attempts"], page["resumed"], page["step"]) == (2, 1, 28)


def test_a_gpu_without_memory_is_counted(tmp_path, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    port = free_port()
    monkeypatch.setattr(ToyTask, "loss", no_memory)
    with ThreadPoolExecutor(1) as scraper:
        last = scraper.submit(last_page, port)
        with pytest.raises(RunError, match="no memory left"):
            train_toy(toy_settings(tmp_path, **metrics(port)))
        page = last.result()
    assert (page["oom_total"], page["exit_code"], page["steps_total"]) == (1, 4, 0)
    assert ledger(tmp_path, "OutOfMemory")[0]["batch_size"] == 8


def test_requests_to_s3_are_counted_by_kind_and_refusals_as_errors(bucket, s3_env, tmp_path):
    port = free_port()
    with ThreadPoolExecutor(1) as scraper:
        last = scraper.submit(last_page, port)
        train_toy(toy_settings(tmp_path, num_epochs=1, run__store=f"s3://{bucket}/runs", **metrics(port)))
        page = last.result()
    assert page["s3_requests_total:put:ok"] > 5
    assert page["s3_requests_total:list:ok"] > 0
    assert page["s3_requests_total:put:error"] == 0


def test_a_request_fails_when_nobody_answers_or_the_server_refuses_but_not_for_a_missing_object(bucket, s3_env):
    store = open_store(f"s3://{bucket}/runs")
    with pytest.raises(StoreMissing):
        store.get("nothing")
    assert (store.requests["GetObject"], store.failed_requests.total()) == (1, 0)
    refused = open_store(f"s3://{bucket}-nowhere/runs")
    with pytest.raises(TrainerError):
        refused.get("nothing")
    assert refused.failed_requests["GetObject"] == 1
    silent = open_store("s3://bucket", S3Settings(endpoint=f"http://127.0.0.1:{free_port()}", tries=2))
    with pytest.raises(TrainerError):
        silent.get("nothing")
    assert (silent.requests["GetObject"], silent.failed_requests["GetObject"]) == (2, 2)


def test_another_pod_shows_that_it_lives_and_nothing_of_the_run(tmp_path):
    """Two processes that are each the first of their node; a node's other processes show nothing at all."""
    ports, meeting = (free_port(), free_port()), free_port()

    def run(number):
        os.environ["LOCAL_RANK"] = "0"
        train_toy(toy_settings(tmp_path, num_epochs=15, **metrics(ports[number], linger_seconds=0.0)))

    pids = [fork_rank(run, number, 2, meeting) for number in range(2)]
    with ThreadPoolExecutor(2) as scrapers:
        first, other = scrapers.map(lambda port: scrape_until(port, lambda page: page["phase:train"]), ports)
    assert wait_for(pids) == [0, 0]
    assert first["gpus"] == 0
    families = {name.partition(":")[0] for name in other}
    assert families == {"build_info", "run_info", "phase", "start_timestamp_seconds", "last_step_timestamp_seconds",
                        "host_memory_resident_bytes"}  # fmt: skip
    assert abs(other["last_step_timestamp_seconds"] - time.time()) < 60


def test_the_second_process_of_a_node_opens_no_port(tmp_path):
    port = free_port()
    attempt = Attempt(toy_settings(tmp_path, **metrics(port, linger_seconds=0.0)), world_size=2)
    assert attempt.wait() == [0, 0]
    notes = " ".join(record["text"] for record in ledger(tmp_path, "Noted"))
    assert f"metrics are served on port {port}" in notes
    assert "not served" not in notes
