"""The same tiny training in the hands of five libraries, each as its manual writes it, with all logging off.

Every function trains `model` on a list of (inputs, labels) with `torch.nn.utils.clip_grad_norm_`-like clipping at 1 and
the optimizer that `by_hand` uses. A library that is not installed raises ImportError, which the table names.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batches = list[tuple[Tensor, Tensor]]
LOG_EVERY = 20


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of every contender, the engine's too: fused Adam with the engine's defaults."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)


def by_hand(model: nn.Module, batches: Batches) -> None:
    """The loop that everything is compared with; it clips, has a scaler (off), and reads the loss now and then."""
    optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cpu", enabled=False)
    for number, (inputs, labels) in enumerate(batches):
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if number % LOG_EVERY == 0:
            loss.item()


def ignite(model: nn.Module, batches: Batches) -> None:
    """PyTorch-Ignite: an engine around an update function."""
    from ignite.engine import Engine

    optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cpu", enabled=False)

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    Engine(update).run(batches, max_epochs=1)


def fabric(model: nn.Module, batches: Batches) -> None:
    """Lightning Fabric."""
    from lightning.fabric import Fabric

    door = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = door.setup(model, optimizer_of(model))
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(wrapped(inputs), labels)
        door.backward(loss)
        door.clip_gradients(wrapped, optimizer, max_norm=1.0)
        optimizer.step()


def accelerate(model: nn.Module, batches: Batches) -> None:
    """Hugging Face Accelerate with its accumulation block."""
    from accelerate import Accelerator

    door = Accelerator(cpu=True)
    wrapped, optimizer = door.prepare(model, optimizer_of(model))
    for inputs, labels in batches:
        with door.accumulate(wrapped):
            loss = cross_entropy(wrapped(inputs), labels)
            door.backward(loss)
            door.clip_grad_norm_(wrapped.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    door.free_memory()


def lightning(model: nn.Module, batches: Batches) -> None:
    """Lightning's Trainer without logger, bar and checkpoints."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self.model)

    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), torch.utils.data.DataLoader(batches, batch_size=None))  # a bare list would be many loaders


def hf_trainer(model: nn.Module, batches: Batches) -> None:
    """The Trainer of transformers without logging and saving; batches come ready, as for the others."""
    import transformers

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.model(inputs), labels)}

    ready = [{"inputs": inputs, "labels": labels} for inputs, labels in batches]

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(ready, batch_size=None)

    wrapped = WithLoss()
    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            max_grad_norm=1.0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        rest = torch.optim.lr_scheduler.ConstantLR(optimizer := optimizer_of(model), factor=1.0)
        Trainer(wrapped, options, train_dataset=ready, optimizers=(optimizer, rest)).train()


PEERS: dict[str, Callable[[nn.Module, Batches], None]] = {
    "Ignite": ignite,
    "Fabric": fabric,
    "Accelerate": accelerate,
    "Lightning": lightning,
    "HF Trainer": hf_trainer,
}


def quietly(train: Callable[[nn.Module, Batches], None], model: nn.Module, batches: Batches) -> None:
    """Run a peer without what it prints and logs."""
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "ignite", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(model, batches)
