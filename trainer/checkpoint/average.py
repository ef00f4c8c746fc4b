"""A checkpoint whose weights are the mean of several of a run's, as a run of its own.

    <run>/checkpoints/a, b, c  ->  <name>/checkpoints/<newest step>-0001-<suffix>

The mean is taken in float64 and rounded once; what is no floating-point tensor (counters) and everything that is not
weights (optimizer, cursor) is the newest one's. The new run is complete, has the record of the old one and the list of
what went into it, so that every command that takes a run and a checkpoint takes it, too.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint import attempts as lives
from trainer.checkpoint.attempts import AttemptId, get_json, put_json
from trainer.checkpoint.commit import Content, commit
from trainer.checkpoint.inspect import Listed, list_checkpoints
from trainer.checkpoint.manifest import FolderName, utc_now
from trainer.checkpoint.restore import BEST_HINT, LATEST_HINT, Restored, load_checkpoint
from trainer.checkpoint.run import COMPLETE_FILE, RUN_FILE, check_name
from trainer.checkpoint.state import HostBuffers, State
from trainer.checkpoint.store import Store
from trainer.errors import RunError, SettingsError

WEIGHTS = ("model", "ema")
"""The parts that are averaged."""
AVERAGED = "averaged"
"""In the new run's record: the run and the names of the checkpoints."""


def newest_of_steps(listed: Sequence[Listed]) -> list[Listed]:
    """The good checkpoints, one a step, oldest first; of several at one step (weights alike) the newest."""
    return list({one.step: one for one in listed if one.problem is None}.values())


def average(store: Store, run: str, names: Sequence[str], target: str) -> FolderName:
    """Average checkpoints (two or more, oldest first) of a run into the run `target`; the new checkpoint's name.

    Made once: if `target` is the mean of the same ones already, nothing is done. Raises RunError for a damaged
    checkpoint or one that does not fit the others, SettingsError when `target` is something else.
    """
    assert len(names) >= 2, "the caller says what is too few"
    check_name(target)
    source = {"run": run, "checkpoints": list(names)}
    there = _already(store, target, source)
    if there:
        return there
    newest, weights = _mean(store, run, names)
    attempt = AttemptId.following([])
    name = FolderName(newest.step, attempt.number, attempt.suffix)
    record = {**_record(store, run), "name": target, "created": utc_now(), "created_seconds": time.time()}
    put_json(store, f"{target}/{RUN_FILE}", {**record, AVERAGED: source})
    lives.begin(store, target, attempt, str(record["digest"]))
    length = {key: record.get("config", {}).get(key) for key in ("num_epochs", "max_steps")}
    done = {"length": length, "attempt": str(attempt), "completed": utc_now(), "step": newest.step, "paths": {}}
    # Before the checkpoint: a start without a name must never take the new run for an unfinished one and train it.
    put_json(store, f"{target}/{COMPLETE_FILE}", done)
    commit(store, target, _content(name, newest, weights))
    for hint in (LATEST_HINT, BEST_HINT):
        put_json(store, f"{target}/{hint}", {"run": target, "checkpoint": str(name), "step": name.step})
    lives.end(store, target, attempt, 0, "averaged")
    return name


def _already(store: Store, target: str, source: dict[str, Any]) -> FolderName | None:
    """The checkpoint of an average that was made before, None if that was cut short or never begun.

    Raises SettingsError for another thing of that name.
    """
    if next(store.entries(f"{target}/"), None) is None:
        return None
    record = get_json(store, f"{target}/{RUN_FILE}") or {}
    if record.get(AVERAGED) != source:
        raise SettingsError(f"{store.url}/{target} holds something else already; choose another --name")
    good = newest_of_steps(list_checkpoints(store, target))
    return FolderName.parse(good[-1].name) if good else None


def _record(store: Store, run: str) -> dict[str, Any]:
    record = get_json(store, f"{run}/{RUN_FILE}")
    if record is None:
        raise RunError(f"there is no run {run!r} in {store.url}; `trainer checkpoints list` shows the runs there are")
    return record


def _mean(store: Store, run: str, names: Sequence[str]) -> tuple[Restored, dict[str, dict[str, Tensor]]]:
    """The newest checkpoint, whole, and the mean weights by part; never more than two checkpoints in memory."""
    sums: dict[str, dict[str, Tensor]] = {}
    newest: Restored | None = None
    for name in names:
        parts = None if name == names[-1] else WEIGHTS
        newest = load_checkpoint(store, run, name, parts=parts)
        if newest is None:
            raise RunError(f"run {run} in {store.url} has no checkpoint {name!r} any more")
        for part in WEIGHTS:
            _add(sums, part, newest.tensors.get(part, {}), f"checkpoint {name} of run {run}")
    assert newest is not None
    mean = {
        part: {name: _rounded(total, newest.tensors[part][name], len(names)) for name, total in own.items()}
        for part, own in sums.items()
    }
    return newest, mean


def _add(sums: dict[str, dict[str, Tensor]], part: str, tensors: dict[str, Tensor], what: str) -> None:
    """Add the tensors of a part, in float64. Raises RunError when names or shapes differ from those before."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    known = sums.setdefault(part, {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()})
    if shapes != {name: total.shape for name, total in known.items()}:
        raise RunError(f"{what} has other weights than those before it, so there is no mean")
    for name, tensor in tensors.items():
        known[name] += tensor.double()


def _rounded(total: Tensor, newest: Tensor, count: int) -> Tensor:
    return (total / count).to(newest.dtype) if newest.is_floating_point() else newest


def _content(name: FolderName, newest: Restored, weights: dict[str, dict[str, Tensor]]) -> Content:
    """The new checkpoint: the mean weights, and the rest of the newest."""
    tensors = {part: weights.get(part) or own for part, own in newest.tensors.items()}
    snapshot = HostBuffers().copy(State(tensors, newest.meta, files=newest.files))
    return Content(
        name=name,
        epoch=newest.epoch,
        sequence=0,
        cursor=snapshot.cursor,
        world_size=newest.manifest.world_size,
        created=utc_now(),
        begun=time.perf_counter(),
        is_best=True,
        milestone=True,
        files=snapshot.files,
    )
