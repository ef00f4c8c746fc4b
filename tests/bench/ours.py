"""The product in the benches: a whole attempt through its own door, and its publisher alone."""

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from tests.bench.tiny import BATCH, TinyTask
from tests.bench.turns import Stamped
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.opening import open_run
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.run import Run
from trainer.checkpoint.state import State
from trainer.config.settings import CommonSettings
from trainer.engine.task import Task
from trainer.engine.world import World
from trainer.run import train_task
from trainer.telemetry.events import Event

if TYPE_CHECKING:
    from tests.bench.checkpoint import Training


class TinySettings(CommonSettings):
    """Settings of the tiny task: everything as it comes."""

    task: Literal["tiny"] = "tiny"


def train_whole(task: Task, settings: CommonSettings, store: Path) -> None:
    """A whole attempt as `trainer train` makes it, all default listeners on; nothing but report and export is off."""
    settings = settings.model_copy(deep=True)
    settings.run.store = f"file://{store.absolute()}"
    settings.run.resume = "never"
    settings.output.report, settings.output.export = False, []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train_task(task, settings, World())


def train_tiny(batches: list[tuple[Tensor, Tensor]], store: Path) -> Stamped:
    """One epoch over the batches; the model has the stamps."""
    settings = TinySettings(batch_size=BATCH, num_epochs=1, device="cpu", threads=1)
    task = TinyTask(batches, settings.seed)
    train_whole(task, settings, store)
    return task.model


class OwnWay:
    """Our publisher as a way of saving."""

    def __init__(self, run: Run, publisher: Publisher) -> None:
        self.run, self.publisher, self.step = run, publisher, 0

    def take(self, training: "Training") -> None:
        """The one copy."""
        self.step += 1
        self.publisher.submit(State(training.tensors(), {"cursor": {}}), step=self.step, epoch=0)

    def is_done(self) -> bool:
        """Whether it is published."""
        done = self.publisher.flush(timeout=0.0)
        if self.publisher.error:
            raise self.publisher.error
        return done

    def wait(self) -> None:
        """Return when it is published."""
        self.publisher.flush()
        assert self.is_done()


@contextmanager
def own_way(folder: Path) -> Iterator[OwnWay]:
    """A run in a file store, and its publisher."""

    def ignore(event: Event) -> None:
        """Nobody listens here."""

    run = open_run(
        FileStore(folder),
        name="bench",
        default_name="bench",
        task="bench",
        config={},
        matters={},
        digest="0" * 16,
        resume="auto",
        resume_with_changes=False,
        max_dead_attempts=5,
        length={"num_epochs": None, "max_steps": None},
        events=ignore,
    )
    publisher = Publisher(run, keep_last=2, keep_best=False, emit=ignore)
    try:
        yield OwnWay(run, publisher)
    finally:
        publisher.close()
