"""Recordings in memory for tests of the signs task: random landmarks, hands lost in a tenth of the frames."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.packed import ClassInfo, Recordings
from trainer.tasks.signs.schema import Schema


def fake_recordings(
    lengths: list[int],
    preset: str = "karsl",
    *,
    num_classes: int = 3,
    num_signers: int = 2,
    seed: int = 0,
    frames: NDArray[np.float32] | None = None,
    normalisation: str = "raw",
) -> Recordings:
    schema = Schema.preset(preset)
    random = np.random.default_rng(seed)
    total, num = sum(lengths), len(lengths)
    if frames is None:
        frames = random.uniform(0.1, 0.9, (total, schema.num_keypoints, schema.num_features)).astype(np.float32)
        if schema.visibility is not None:
            frames[..., schema.visibility] = 1.0
            for group in schema.hands:
                frames[random.random(total) < 0.1, schema.rows[group]] = 0.0
    return Recordings(
        path=Path("fake"),
        schema=schema,
        layout="packed",
        normalisation=normalisation,
        digest="0" * 32,
        classes=[ClassInfo(number + 1, f"word{number + 1}", "كلمة") for number in range(num_classes)],
        signers=[f"{number + 1:02d}" for number in range(num_signers)],
        sessions=[""],
        names=[f"clip{number}" for number in range(num)],
        given_split=[""] * num,
        frames=frames,
        starts=np.cumsum(lengths) - np.array(lengths),
        lengths=np.array(lengths, np.int64),
        label=np.arange(num, dtype=np.int64) % num_classes,
        signer=np.arange(num, dtype=np.int64) % num_signers,
        session=np.zeros(num, np.int64),
    )
