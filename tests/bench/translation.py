"""The translation task: tokens a second next to a loop by hand with the same batches, and beam search with its cache.

The loop by hand has its batches ready in memory, the least that any loop can cost; the engine makes them while it
trains. Tokens of a window are equal, so tokens a second compare as the inverse of the time.
"""

import contextlib
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.bench import size
from tests.bench.ours import train_whole
from tests.bench.turns import in_turns, paired, print_table
from trainer.config.translation import TranslationModelSettings, TranslationSettings
from trainer.tasks.translation.decode import DecodeOptions, decode
from trainer.tasks.translation.loss import token_sums
from trainer.tasks.translation.model import TranslationModel
from trainer.tasks.translation.steppers import Cached, Uncached, for_decoding
from trainer.tasks.translation.task import TranslationTask, create

WARM_UP, LOG_EVERY, ROUNDS = 5, 20, 5
LENGTH, SENTENCES, BEAM, VOCAB = 64, 16, 4, 64
Result = list[tuple[float, ...]]
Stamps = list[tuple[float, float]]


def bench_settings(num_steps: int) -> TranslationSettings:
    """The tiny model on generated number words."""
    return TranslationSettings.model_validate(
        {
            "num_epochs": 100,
            "max_steps": num_steps + WARM_UP,
            "device": "cpu",
            "threads": 1,
            "data": {"layout": "embedded", "corpus": "en_de_numbers", "pairs": 20000, "max_tokens": 2048},
            "model": {"d_model": 64, "num_heads": 4, "num_layers": 2, "d_ff": 256},
            "schedule": {"warmup": "20 steps"},
            "passes": {"val": "never", "val_translate": "never"},
            "decode": {"translate_samples": 1},
        }
    )


def stamped(model: nn.Module, stamps: Stamps) -> nn.Module:
    """Note wall and CPU time of the main thread at every training forward."""

    def note(module: nn.Module, inputs: object) -> None:
        if module.training:
            stamps.append((time.perf_counter(), time.thread_time()))

    model.register_forward_pre_hook(note)
    return model


def by_hand(task: TranslationTask, model: nn.Module, batches: list[dict[str, Tensor]]) -> None:
    """A loop as people write it: Noam, label smoothing, clipping, and the loss read now and then."""
    optim, schedule = task.settings.optim, task.settings.schedule
    optimizer = torch.optim.Adam(model.parameters(), optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
    warmup = int(schedule.warmup.split()[0])
    model.train()
    for number, batch in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = model.width**-0.5 * min(number**-0.5, number * warmup**-1.5)
        optimizer.zero_grad()
        sums = token_sums(model(batch["source_ids"], batch["decoder_ids"]), batch["labels"], smoothing=0.1)
        (sums.smoothed / sums.tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if number % LOG_EVERY == 0:
            sums.nll.item()


def measured(run: Callable[[nn.Module], None], task: TranslationTask) -> Callable[[], Result]:
    """Wall and CPU seconds of every step after the warm-up but the last."""

    def measure() -> Result:
        stamps: Stamps = []
        torch.manual_seed(0)
        run(stamped(task.build_model(), stamps))
        pairs = list(pairwise(stamps[WARM_UP : task.settings.max_steps]))
        return [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in pairs]

    return measure


def undisturbed(rounds: list[Result], kind: int) -> float:
    """Seconds of all steps, each in its best round: every round has the same batches, and others only add time."""
    return sum(min(one[step][kind] for one in rounds) for step in range(len(rounds[0])))


def by_engine(task: TranslationTask, folder: Path, model: nn.Module) -> None:
    """The same model and batches through the product's own door."""
    own = copy.copy(task)
    own.build_model = lambda: model  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(dir=folder) as store:
        train_whole(own, task.settings, Path(store))


def step_table(folder: Path) -> None:
    """Tokens a second, in turns."""
    torch.set_num_threads(1)
    num_steps = size("STEPS", 40)
    task = create(bench_settings(num_steps))
    plan, data = task.plan(), task.train_data()
    places = [(0, step) for step in range(plan.num_steps(0))] + [(1, step) for step in range(plan.num_steps(1))]
    indices = [plan.batch(*place) for place in places[: num_steps + WARM_UP]]
    batches = [data.take(one, 0) for one in indices]
    tokens = sum(data.target_tokens(one) for one in indices[WARM_UP:-1])
    hand = measured(lambda model: by_hand(task, model, batches), task)
    contenders = {
        "by hand, batches ready in memory": hand,
        "trainer, all default listeners": measured(lambda model: by_engine(task, folder, model), task),
        "by hand, once more (noise)": hand,
    }
    runs = in_turns(contenders, size("ROUNDS", ROUNDS))
    hand_seconds = [undisturbed(runs[next(iter(runs))], kind) for kind in (0, 1)]
    rows = []
    for name, results in runs.items():
        seconds = [undisturbed(results, kind) for kind in (0, 1)]
        ratios = (f"{ours / other:.3f}" for ours, other in zip(hand_seconds, seconds, strict=True))
        rows.append((name, f"{tokens / seconds[0]:,.0f}", *ratios))
    columns = ("loop", "target tokens/s", "x by hand, wall", "... CPU of the main thread")
    print_table(
        "Training the tiny translation model", columns, rows, ["each step in its best round; target: at least 0.98"]
    )


def long_winded() -> TranslationModel:
    """The tiny model with fresh weights; with a least length every output is as long as is asked for."""
    torch.manual_seed(0)
    sizes = TranslationModelSettings(d_model=64, num_heads=4, num_layers=2, d_ff=256)
    return for_decoding(TranslationModel(sizes, VOCAB, VOCAB))


def decode_table() -> None:
    """Beam search with and without the cache, in turns."""
    torch.set_num_threads(1)
    model = long_winded()
    source = torch.randint(4, VOCAB, (SENTENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    options = DecodeOptions(beam_size=BEAM, min_len=LENGTH - 1, max_len=LENGTH)

    def timed(kind: type[Cached] | type[Uncached]) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            with torch.no_grad():
                found = decode(kind(model, source), source, options)
            assert all(len(one.tokens) >= LENGTH - 1 for [one] in found)
            return time.perf_counter() - started

        return run

    runs = in_turns({"whole prefix again": timed(Uncached), "keys and values cached": timed(Cached)}, size("ROUNDS", 3))
    slow = runs["whole prefix again"]
    rows = [
        (name, f"{statistics.median(values):.2f}", f"{paired(values, slow, lambda a, b: b / a):.1f}")
        for name, values in runs.items()
    ]
    note = f"tiny model, {SENTENCES} sentences of {LENGTH} tokens each way, beam {BEAM}; target: at least 5 times"
    print_table("Beam search of the translation model", ("decoder", "s", "times as fast"), rows, [note])


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        decode_table()
        step_table(Path(name))
