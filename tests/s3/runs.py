"""What tests of whole runs ask of a store of any kind."""

import json

from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.stores import open_store


def end_state(url: str, run: str = "toy") -> dict[str, bytes]:
    """Every tensor of the newest checkpoint by `part/name`, as bytes; verified on the way."""
    found = load_checkpoint(open_store(url), run)
    assert found is not None
    return {
        f"{part}/{name}": value.numpy().tobytes()
        for part, named in found.tensors.items()
        for name, value in named.items()
    }


def events(url: str, kind: str, run: str = "toy") -> list[dict]:
    """The records of one kind in the ledger, oldest first."""
    store = open_store(url)
    lines = [line for entry in store.entries(f"{run}/ledger/") for line in store.get(entry.key).decode().splitlines()]
    return [record for record in map(json.loads, lines) if record["event"] == kind]


def everything(url: str) -> str:
    """All text that a run left in a store, for tests that look for what must not be there."""
    store = open_store(url)
    keys = [entry.key for entry in store.entries("") if not entry.key.endswith(".safetensors")]
    return "\n".join(store.get(key).decode(errors="replace") for key in keys)
