"""Runs that are made in milliseconds: right in every record and digest, with a few bytes where tensors would be."""

import time

from trainer.checkpoint import attempts as lives
from trainer.checkpoint.attempts import AttemptId, put_json
from trainer.checkpoint.commit import Content, commit
from trainer.checkpoint.manifest import FolderName, utc_now
from trainer.checkpoint.restore import BEST_HINT, LATEST_HINT

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def make_run(store, name="first", steps=(10, 20, 30), digest="d" * 16, is_ended=True):
    """A run of one attempt whose checkpoints hold some bytes each; their folder names. The second is the best."""
    attempt = AttemptId(1, "abcdef")
    record = {
        "format": 1,
        "task": "signs",
        "digest": digest,
        "created": utc_now(),
        "created_seconds": 1.0,
        "name": name,
        "config": {},
        "matters": {},
    }
    put_json(store, f"{name}/run.json", record)
    lives.begin(store, name, attempt, digest)
    folders = [FolderName(step, attempt.number, attempt.suffix) for step in steps]
    for folder in folders:
        content = Content(
            name=folder, epoch=folder.step // 10, sequence=folder.step, cursor={}, world_size=1, created=utc_now(),
            begun=time.perf_counter(), is_best=folder == folders[1], milestone=False,
            files=lambda folder=folder: [(file, [f"{file} of {folder}".encode() * 200]) for file in FILES],
        )  # fmt: skip
        commit(store, name, content)
    for hint, folder in ((LATEST_HINT, folders[-1]), (BEST_HINT, folders[1])):
        put_json(store, f"{name}/{hint}", {"run": name, "checkpoint": str(folder), "step": folder.step})
    if is_ended:
        lives.end(store, name, attempt, 0, "complete")
    return [str(folder) for folder in folders]
