"""Check 14: a profile that is off costs nothing, one that is on adds up; on the toy task, as it serves every task."""

import ast
import inspect
import json
import statistics
import time
import timeit
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.toy import CLASSES, FEATURES, ToyTask, toy_settings, train_toy
from trainer.checkpoint.stores import open_store
from trainer.config.settings import ProfileSettings
from trainer.engine import phases
from trainer.engine import step as step_module
from trainer.engine.clock import Clock
from trainer.engine.phases import PHASES, Profiler
from trainer.engine.setup import assemble, build_parts
from trainer.engine.step import Mailbox
from trainer.engine.stop import StopRequests
from trainer.engine.world import World
from trainer.report.build import write_report
from trainer.telemetry.bus import Bus
from trainer.telemetry.reading import read_run, select

WIDTH = 256
CALM = {"passes": {"val": "never"}, "checkpoint__every": "at 100%", "num_samples": 400, "batch_size": 16}


class Wide(ToyTask):
    """Steps of some milliseconds, so that what is measured is no noise."""

    def build_model(self):
        layers = [nn.Linear(FEATURES, WIDTH), nn.ReLU()]
        layers += [part for _ in range(6) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def profiled(folder, **values):
    """A run with a profile; its settings and records."""
    settings = toy_settings(folder, profile__enabled=True, **(CALM | values))
    train_toy(settings, Wide)
    return settings, read_run(open_store(f"file://{folder}"), "toy")


def test_14_the_parts_sum_to_the_wall_time(tmp_path):
    _, records = profiled(tmp_path, num_epochs=2)
    (found,) = select(records, "Profiled")
    assert (found["num_steps"], found["step"]) == (10, 17)
    assert list(found["phases"]) == list(PHASES)
    assert sum(found["phases"].values()) == pytest.approx(found["seconds"], rel=1e-6)
    # The time account is another clock: log points of the same steps.
    wall = sum(one["seconds"] for one in select(records, "StepDone") if 7 < one["step"] <= 17)
    assert found["seconds"] == pytest.approx(wall, rel=0.05)
    assert found["phases"]["forward"] > 0
    assert found["phases"]["backward"] > found["phases"]["copy"]
    assert found["peak_memory_bytes"] > 1 << 20


@pytest.mark.filterwarnings("ignore:Profiler won't be using warmup")
def test_what_is_in_no_phase_is_other(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 4.0, 9.0, 10.0])
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    profiler = Profiler(ProfileSettings(enabled=True, wait=0, warmup=0, active=1), torch.device("cpu"))
    for name in ("forward", "optimizer"):
        with profiler.phase(name):
            pass
    profiler.step_done()
    found = profiler.result()
    assert profiler.is_done
    assert (found.num_steps, found.seconds) == (1, 10.0)
    spent = {name: seconds for name, seconds in found.phases.items() if seconds}
    assert spent == {"forward": 2.0, "optimizer": 5.0, "other": 3.0}


def test_the_operators_and_the_trace_are_those_of_the_measured_steps(tmp_path):
    _, records = profiled(tmp_path, profile__active=3, profile__operators=4)
    (found,) = select(records, "Profiled")
    (trace,) = [one["path"] for one in select(records, "ArtifactWritten") if one["kind"] == "trace"]
    assert len(found["operators"]) == 4
    own = [seconds for _, _, seconds, _ in found["operators"]]
    assert own == sorted(own, reverse=True)
    happened = json.loads(Path(trace).read_text())["traceEvents"]
    names = [one.get("name") for one in happened]
    for phase, number in (("copy", 3), ("forward", 3), ("backward", 3), ("clip", 3), ("optimizer", 3)):
        assert names.count(f"phase: {phase}") == number
    assert Path(trace).parent == tmp_path / "toy" / "profile"


def test_a_run_that_ends_first_shows_what_there_is(tmp_path):
    _, records = profiled(tmp_path / "some", max_steps=9)
    assert select(records, "Profiled")[0]["num_steps"] == 2
    _, records = profiled(tmp_path / "none", max_steps=7)
    assert not select(records, "Profiled")
    assert "nothing was profiled" in " ".join(one["text"] for one in select(records, "Noted"))


def test_a_profile_changes_no_weight_and_stands_in_report_and_console(tmp_path, capsys):
    plain = toy_settings(tmp_path / "plain", **CALM)
    train_toy(plain, Wide)
    profiled(tmp_path / "profiled", telemetry__progress="lines")
    out = capsys.readouterr().out
    assert "Profile of 10 steps" in out
    assert out.index("| data wait") < out.index("trace  ")
    files = [tmp_path / kind / "toy" / "checkpoints" for kind in ("plain", "profiled")]
    weights = [next(folder.glob("*/model.safetensors")).read_bytes() for folder in files]
    assert weights[0] == weights[1]
    page = Path(write_report(open_store(f"file://{tmp_path}/profiled"), "toy", tmp_path / "page")[0]).read_text()
    assert "Profile</h2>" in page
    assert all(text in page for text in ("data wait", "optimizer", "aten::", "perfetto"))


# -- off ---------------------------------------------------------------------------------------------------------------


def job_of(folder, steps):
    """A job without a profile, and `steps` batches for it."""
    settings = toy_settings(folder, **(CALM | {"num_samples": 16 * steps}))
    task, world = Wide(settings), World()
    parts = build_parts(task, settings, world)
    job = assemble(task, settings, world, parts, Bus(), None, None, Clock(), StopRequests())
    batches = [batch for chunk in job.source.walk(job.cursor, 1) for batch in chunk]
    return job, batches


class _Unprofiled(ast.NodeTransformer):
    """Takes `with job.phase(...)` out of a module, as if nobody had thought of profiles."""

    def visit_With(self, node):
        self.generic_visit(node)
        kept = [item for item in node.items if "job.phase(" not in ast.unparse(item)]
        if len(kept) == len(node.items):
            return node
        node.items = kept
        return node if kept else node.body


def step_without_profiles():
    """`train_step` of a build that has no profile."""
    tree = _Unprofiled().visit(ast.parse(inspect.getsource(step_module)))
    assert "phase" not in ast.unparse(tree)
    names: dict[str, object] = {"__name__": step_module.__name__}
    exec(compile(ast.fix_missing_locations(tree), "step", "exec"), names)
    return names["train_step"]


def ratio(folder, steps, rounds):
    """Time of a step over that of a build without profiles, and the same of that build against itself; in turns."""
    job, batches = job_of(folder, steps)
    mailbox, plain = Mailbox(is_late=False), step_without_profiles()
    builds = {"ours": step_module.train_step, "plain": plain, "again": plain}
    times: dict[str, list[float]] = {name: [] for name in builds}
    for turn in range(rounds):
        for name in list(builds)[turn % 3 :] + list(builds)[: turn % 3]:
            begun = time.perf_counter()
            for batch in batches:
                builds[name](job, mailbox, batch)
            times[name].append(time.perf_counter() - begun)
            job.meter.drop_interval()
    best = {name: statistics.median(sorted(values)[: max(1, rounds // 2)]) for name, values in times.items()}
    return best["ours"] / best["plain"], best["again"] / best["plain"]


def test_14_a_profile_that_is_off_costs_next_to_nothing(tmp_path):
    job, _ = job_of(tmp_path, 1)
    assert job.profiler is None
    assert isinstance(job.phase("forward"), nullcontext)

    def phase():
        with job.phase("forward"):
            pass

    assert min(timeit.repeat(phase, number=1000, repeat=20)) / 1000 < 5e-6


@pytest.mark.proof
def test_14_a_step_takes_as_long_as_without_profiles(tmp_path):
    torch.set_num_threads(1)
    ours, noise = ratio(tmp_path, 40, 60)
    print(f"step time over a build without profiles {ours:.4f}, that build against itself {noise:.4f}")
    assert abs(ours - 1.0) <= max(0.01, 2 * abs(noise - 1.0))
