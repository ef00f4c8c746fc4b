"""A trained model out of a run: its settings, its task with the data, and the weights of one checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer.checkpoint.restore import Restored, load_checkpoint
from trainer.cli.options import SettingsArguments
from trainer.cli.runs import FoundRun
from trainer.config.files import ConfigFile
from trainer.config.settings import CommonSettings
from trainer.engine.checkpoints import load_weights
from trainer.engine.clock import Clock
from trainer.engine.job import Job
from trainer.engine.passes import final_passes
from trainer.engine.setup import assemble, build_parts
from trainer.engine.stop import StopRequests
from trainer.engine.task import Task
from trainer.engine.world import World, join_world
from trainer.errors import RunError, SettingsError
from trainer.tasks import registry
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import Metrics
from trainer.telemetry.reading import read_run, select


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a run, ready to be used; `weights` are the average where there is one."""

    settings: CommonSettings
    task: Task
    checkpoint: Restored
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class SavedWeights:
    """A checkpoint with the settings of its run; the data are not opened."""

    settings: CommonSettings
    checkpoint: Restored
    weights: dict[str, Tensor]


def open_weights(found: FoundRun, which: str, given: SettingsArguments) -> SavedWeights:
    """A checkpoint with the settings of its run, changed by what the command line says (other data, device).

    Raises RunError when there is no such checkpoint or it is damaged.
    """
    base = ConfigFile(json.dumps(found.record["config"]), f"run {found.name}", found.record["task"])
    if found.record["task"] not in registry.TASKS:
        raise SettingsError(f"run {found.name} was made by `train(...)`: its model is known to its own program only")
    checkpoint = load_checkpoint(found.store, found.name, which, parts=("model", "ema"))
    if checkpoint is None:
        raise RunError(
            f"run {found.name} in {found.store.url} has no checkpoint {which!r}; see `trainer checkpoints list`"
        )
    settings = given.load(base).settings
    settings.run.init_from = None
    return SavedWeights(settings, checkpoint, checkpoint.tensors.get("ema", checkpoint.tensors["model"]))


def open_saved(found: FoundRun, which: str, given: SettingsArguments) -> Saved:
    """The same with its task. Raises DataError when the data are not there, RunError when they mean something else."""
    saved = open_weights(found, which, given)
    _lift_digests(saved.settings, found.record["config"])
    task: Task = registry.load(saved.settings.task).create(saved.settings)
    _refuse_other_meaning(found, task)
    return Saved(saved.settings, task, saved.checkpoint, saved.weights)


def _lift_digests(settings: CommonSettings, before: dict[str, Any]) -> None:
    """The run's digests are those of its own data, and say nothing of others that were asked for."""
    data: Any = getattr(settings, "data", None)
    if data is not None and str(data.path) != str(before["data"]["path"]):
        for name in {"digest", "tree_digest"} & set(type(data).model_fields):
            setattr(data, name, None)


def _refuse_other_meaning(found: FoundRun, task: Task) -> None:
    """Numbers would be worked out all the same for other classes, or for blocks in another order, and be wrong."""
    started = select(read_run(found.store, found.name), "RunStarted")
    if not started:
        return
    before, now = (_meaning(info) for info in (started[-1]["info"], json.loads(json.dumps(task.info()))))
    for what, value in now.items():
        if before[what] is not None and value != before[what]:
            raise RunError(
                f"run {found.name} was trained with other {what} than these data and settings give, and would be "
                "misread: use data with the same ones"
            )


def _meaning(info: Mapping[str, Any]) -> dict[str, Any]:
    """What inputs and outputs of a model stand for, in their order; None for what it has not."""
    blocks = info.get("blocks")
    return {
        "classes": info.get("classes"),
        "classes (data.tree may name them)": info.get("tree", {}).get("classes"),
        "blocks": blocks and list(blocks.items()),
        "tokenizers (tokenizer.path takes those of a checkpoint)": info.get("tokenizer_digest"),
    }


def evaluate(saved: Saved) -> dict[str, Metrics]:
    """Metrics of every pass of the task with these weights. Raises RunError if they do not fit the data's classes."""
    world = join_world(saved.settings)
    try:
        job = _job(saved, world)
        load_weights(job, saved.checkpoint)
        return final_passes(job)
    finally:
        world.leave()


def _job(saved: Saved, world: World) -> Job:
    """A job that never trains: no run, no publisher, nobody listens."""
    parts = build_parts(saved.task, saved.settings, world)
    for name, tensor in parts.model.state_dict().items():
        if name not in saved.weights or saved.weights[name].shape != tensor.shape:
            raise RunError(
                f"checkpoint {saved.checkpoint.key} does not fit: {name} is {list(tensor.shape)} for these data and "
                f"settings, {list(saved.weights[name].shape) if name in saved.weights else 'missing'} in the checkpoint"
            )
    return assemble(saved.task, saved.settings, world, parts, Bus(), None, None, Clock(), StopRequests())
