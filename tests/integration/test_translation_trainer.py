"""`TranslationTrainer` as people know it: dict batches, their criterion, a scheduler stepped every step, `.pt`."""

import os
import pathlib
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trainer.checkpoint.pt import read_pt
from trainer.errors import DataError, SettingsError, Stopped
from trainer.translation import TranslationTrainer

VOCAB, WIDTH = 11, 16
METRICS = {"loss", "perplexity", "accuracy"}


class Copier(nn.Module):
    """Small enough for milliseconds: the mean of the source beside each token of the target."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH, padding_idx=0)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(2 * WIDTH, VOCAB)

    def forward(self, source, target):
        context = self.embedding(source).mean(1, keepdim=True).expand(-1, target.shape[1], -1)
        return self.out(self.drop(torch.cat([self.embedding(target), context], -1)))


class Criterion(nn.Module):
    """Mean over the labels, accuracy, and how many there are."""

    def __init__(self, answer=tuple, smoothing=0.1) -> None:
        super().__init__()
        self.answer, self.smoothing, self.calls, self.stop_at = answer, smoothing, 0, None

    def forward(self, logits, labels):
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        flat, wanted = logits.reshape(-1, VOCAB), labels.reshape(-1)
        loss = cross_entropy(flat, wanted, ignore_index=0, label_smoothing=self.smoothing)
        real = wanted != 0
        tokens = int(real.sum())
        accuracy = ((flat.argmax(-1) == wanted) & real).sum().item() / tokens
        if self.answer is dict:
            return {"loss": loss, "num_tokens": tokens, "accuracy": accuracy}
        return loss, tokens, accuracy


class Shifting(Criterion):
    """As in the programs people know: gets whole targets and cuts them itself."""

    def forward(self, logits, target):
        return super().forward(logits, target[:, 1:])


def batches(number, seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for one in range(number):
        target = torch.randint(3, VOCAB, (size, 4 + one % 3), generator=generator)
        target[:, 0], target[:, -1] = 1, 2
        target[0, -2:] = torch.tensor([2, 0])
        found.append({"source_ids": torch.flip(target, [1]), "target_ids": target})
    return found


def make(folder="run", criterion=None, **config):
    torch.manual_seed(5)
    model = Copier()
    optimizer = torch.optim.Adam(model.parameters(), 0.05, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    config = {"save_dir": folder, "max_grad_norm": 1.0, "log_interval": 1, "d_model": WIDTH, **config}
    loaders = batches(6), batches(2, seed=1)
    return TranslationTrainer(model, *loaders, optimizer, scheduler, criterion or Criterion(), config, "cpu")


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER__TELEMETRY__PROGRESS", "off")
    monkeypatch.setenv("TRAINER__OUTPUT__REPORT", "false")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def by_hand(num_epochs, decay_unlike=False):
    """The loop that the programs people know have, without dropout; weights and rates of every step."""
    trainer = make("unused")
    model, rates = trainer.model.eval(), []
    for _ in range(num_epochs):
        for batch in trainer.train_loader:
            target = batch["target_ids"]
            trainer.optimizer.zero_grad()
            loss, *_ = trainer.criterion(model(batch["source_ids"], target[:, :-1]), target[:, 1:])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            trainer.optimizer.step()
            trainer.scheduler.step()
    return model.state_dict(), rates


def test_one_epoch_is_what_a_hand_written_loop_does():
    trainer = make()
    trainer.model.drop.p = 0.0
    found = trainer.train_epoch()
    weights, rates = by_hand(1)
    assert all(torch.allclose(value, weights[name], atol=1e-6) for name, value in trainer.model.state_dict().items())
    assert trainer.optimizer.param_groups[0]["lr"] == rates[-1]
    assert set(found) == METRICS | {"time", "tokens_per_sec"}
    assert trainer.current_epoch == 1
    assert trainer.global_step == 6


def test_epoch_by_epoch_is_the_same_as_all_at_once():
    whole, parts = make("whole"), make("parts")
    history = whole.train(3)
    each = [parts.train_epoch() for _ in range(3)]
    assert [one["loss"] for one in history["train"]] == [one["loss"] for one in each]
    assert len(history["val"]) == 3
    assert history["val"][-1] == pytest.approx(parts.validate())
    assert (whole.current_epoch, whole.global_step) == (parts.current_epoch, parts.global_step) == (3, 18)
    assert whole.best_val_loss == parts.best_val_loss == min(one["loss"] for one in history["val"])


def test_validate_weighs_by_tokens_and_leaves_the_model_as_it_was():
    trainer = make()
    trainer.model.train()
    found = trainer.validate()
    with torch.no_grad():
        model = trainer.model.eval()
        said = [trainer.criterion(model(b["source_ids"], b["target_ids"][:, :-1]), b["target_ids"][:, 1:])
                for b in trainer.val_loader]  # fmt: skip
    tokens = sum(count for _, count, _ in said)
    assert set(found) == METRICS
    assert found["loss"] == pytest.approx(sum(loss.item() * count for loss, count, _ in said) / tokens)
    assert found["accuracy"] == pytest.approx(sum(share * count for _, count, share in said) / tokens)
    assert found["perplexity"] == pytest.approx(torch.tensor(found["loss"]).exp().item())


def test_an_interrupted_call_goes_on_to_the_same_weights():
    calm = make("calm")
    calm.train(3)
    stopped = make("stopped", Criterion())
    stopped.criterion.stop_at = 12
    with pytest.raises(Stopped):
        stopped.train(3)
    again = make("stopped")
    again.train(3)
    assert same(again.model.state_dict(), calm.model.state_dict())
    (run,) = (path.parent for path in pathlib.Path("stopped").glob("*/run.json"))
    assert len(list((run / "attempts").glob("*.end.json"))) == 2
    further = make("elsewhere")
    further.train(4, resume_from=run)
    assert further.current_epoch == 4


@pytest.mark.parametrize("criterion", [Shifting(), Criterion(dict)], ids=["whole targets", "a dict"])
def test_criteria_of_other_forms_say_the_same(criterion):
    trainer, plain = make("other", criterion), make("plain")
    assert trainer.train(1) != {}
    plain.train(1)
    assert same(trainer.model.state_dict(), plain.model.state_dict())
    assert trainer.shifts is isinstance(criterion, Shifting)


class OffByOne(Criterion):
    """Counts padding, as a mask that was forgotten would."""

    def forward(self, logits, labels):
        loss, _, accuracy = super().forward(logits, labels)
        return loss, labels.numel(), accuracy


@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        (OffByOne(), "counted 12 tokens in a batch with 11 labels"),
        (lambda logits, labels: logits.sum(), "returned Tensor without loss, tokens, accuracy"),
    ],
)
def test_a_criterion_that_breaks_its_contract_is_one_line(criterion, says):
    with pytest.raises(SettingsError) as error:
        make(criterion=criterion).train(1)
    assert says in str(error.value)


def test_batches_of_another_form_are_refused():
    trainer = make()
    trainer.train_loader = [{"source_ids": torch.ones(2, 3, dtype=torch.long), "goal": 1}]
    with pytest.raises(SettingsError, match="no target_ids; it holds: source_ids, goal"):
        trainer.train(1)
    trainer.val_loader = []
    with pytest.raises(SettingsError, match="is empty"):
        trainer.train(1)


# -- .pt files ---------------------------------------------------------------------------------------------------------


@dataclass
class TheirConfig:
    d_model: int = WIDTH
    save_dir: pathlib.Path = pathlib.Path("x")


def test_a_file_of_the_known_keys_starts_where_it_ends():
    first = make("first")
    first.train_epoch()
    path = first.save_checkpoint(is_best=True)
    assert path == pathlib.Path("first/checkpoint_epoch_0.pt")
    assert set(torch.load(path, weights_only=True)) == {
        "epoch", "global_step", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "best_val_loss",
        "config",
    }  # fmt: skip
    assert pathlib.Path("first/best_model.pt").is_file()
    second = make("second")
    history = second.train(2, resume_from=path)
    assert (second.current_epoch, second.global_step) == (2, 12)
    # the scheduler went on where it was
    assert second.optimizer.param_groups[0]["lr"] == 0.05
    assert second.train(2) == history
    assert second.train(1) == {"train": [], "val": []}


def test_reading_a_file_runs_nothing_of_it():
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    trainer = make()
    content = {"model_state_dict": trainer.model.state_dict(), "epoch": 3, "config": TheirConfig(), "evil": Evil()}
    torch.save(content, "theirs.pt")
    trainer.load_checkpoint("theirs.pt")
    assert trainer.current_epoch == 4
    assert "config" not in read_pt("theirs.pt")
    torch.save({**content, "evil": _Command()}, "worse.pt")
    with pytest.raises(DataError, match=r"worse\.pt cannot be read"):
        trainer.load_checkpoint("worse.pt")
    assert not pathlib.Path("touched").exists()


class _Command:
    def __reduce__(self):
        return (os.system, ("touch touched",))


@pytest.mark.parametrize("content", [b"", b"no pickle", None])
def test_a_file_that_is_none_is_one_line(content):
    if content is not None:
        pathlib.Path("bad.pt").write_bytes(content)
    with pytest.raises(DataError) as error:
        make().load_checkpoint("bad.pt")
    assert "bad.pt" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused():
    torch.save({"model_state_dict": {"out.weight": torch.ones(2)}}, "other.pt")
    with pytest.raises(DataError, match=r"other.pt does not fit this model"):
        make().load_checkpoint("other.pt")
