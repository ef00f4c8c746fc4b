"""The camera and the landmark finder of the generator: from a body in space to rows x, y, z, v with gaps.

A hand is lost in bursts, more likely when it moves fast, and always outside of the picture; z is relative as MediaPipe
gives it: to the wrist in a hand, to the eyes in the face, to the shoulders in the pose.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.synthetic_signer import Signer

Array = NDArray[np.float64]

SCALE = 0.235
"""Picture widths in a shoulder width."""
SHOULDER_LINE = 0.47
_JITTER_HAND, _JITTER_FACE, _JITTER_POSE = 0.0018, 0.0008, 0.002
"""Standard deviation of a landmark between frames, in picture widths."""
_LOSS, _LOSS_FAST = 0.012, 0.06
"""Chance per frame that a hand gets lost, at rest and in fast movement (a tenth of a picture per frame)."""
_FIND = 0.45
"""Chance per frame that a lost hand is found again."""
_LOSS_FACE = 0.002

_POSE, _FACE = slice(0, 6), slice(6, 142)
_HAND_ROWS = {"right": slice(142, 163), "left": slice(163, 184)}


def film(
    draw: np.random.Generator,
    camera: np.random.Generator,
    who: Signer,
    elbows: Array,
    wrists: Array,
    joints: Array,
    face: Array,
    shown: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Rows `[n, 184, 4]` of a body in own-side coordinates; side 0 of the arms is the stronger hand.

    `camera` is keyed by the session, `draw` by the recording. `shown` `[2]` says which hands can be found at all.
    """
    num_frames = len(face)
    space = np.empty((num_frames, 184, 3))
    sides = ("left", "right") if who.left_handed else ("right", "left")
    for i, side in enumerate(sides):
        out = np.array([-1.0 if side == "right" else 1.0, 1.0, 1.0])  # a camera sees the right hand on the left
        wider = np.array([0.5 * (who.shoulders - 1), 0.0, 0.0])
        row = 0 if side == "left" else 1
        space[:, row] = np.array([0.5 * who.shoulders, 0.0, 0.0]) * out
        space[:, 2 + row] = (elbows[i] + wider) * out
        space[:, 4 + row] = (wrists[i] + wider) * out
        space[:, _HAND_ROWS[side]] = (joints[i] + (wrists[i] + wider)[:, None]) * out
    space[:, _FACE] = face
    result = np.empty((num_frames, 184, 4), np.float32)
    result[..., :2] = _project(draw, camera, space)
    result[..., 2] = SCALE * space[..., 2]
    result[:, _FACE, 2] -= SCALE * face[:, :, 2].mean(axis=1, keepdims=True)
    for i, side in enumerate(sides):
        result[:, _HAND_ROWS[side], 2] -= (SCALE * wrists[i, :, None, 2]).astype(np.float32)
    _jitter(draw, result)
    result[..., 3] = 1.0
    _visibility(draw, result)
    for i, side in enumerate(sides):
        _lose_hand(draw, result[:, _HAND_ROWS[side]], bool(shown[i]))
    result[draw.uniform(size=num_frames) < _LOSS_FACE, _FACE] = 0.0
    return result


def _project(draw: np.random.Generator, camera: np.random.Generator, space: Array) -> Array:
    """Picture coordinates `[n, 184, 2]`: the session's framing, a little shift and roll of the recording, depth."""
    framing, sway = camera.normal(size=4), draw.normal(size=4)
    scale = SCALE * np.exp(0.06 * framing[0] + 0.02 * sway[0]) / (1 + 0.06 * space[..., 2])
    roll = 0.02 * framing[1] + 0.01 * sway[1]
    x, y = space[..., 0], space[..., 1]
    across = 0.5 + 0.02 * framing[2] + 0.01 * sway[2] + scale * (x - roll * y)
    down = SHOULDER_LINE + 0.02 * framing[3] + 0.01 * sway[3] + scale * (y + roll * x)
    return np.stack([across, down], axis=-1)


def _jitter(draw: np.random.Generator, result: NDArray[np.float32]) -> None:
    """Frame-to-frame noise of the finder: half common to a group, half of each point."""
    noise = draw.standard_normal((*result.shape[:2], 3), np.float32)
    common = draw.standard_normal((len(result), 4, 3), np.float32)
    groups = zip(
        (_POSE, _FACE, *_HAND_ROWS.values()), (_JITTER_POSE, _JITTER_FACE, _JITTER_HAND, _JITTER_HAND), strict=True
    )
    for i, (rows, size) in enumerate(groups):
        result[:, rows, :3] += np.float32(0.7 * size) * (noise[:, rows] + common[:, i, None])


def _visibility(draw: np.random.Generator, result: NDArray[np.float32]) -> None:
    """The pose's visibilities: high, lower for elbows and wrists, low outside of the picture."""
    doubt = np.abs(draw.normal(size=(len(result), 6))) * np.array([0.001, 0.001, 0.02, 0.02, 0.04, 0.04])
    inside = _inside(result[:, _POSE])
    result[:, _POSE, 3] = np.where(inside, 1 - np.minimum(doubt, 0.5), 0.15)


def _inside(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    xy = rows[..., :2]
    return np.asarray(((xy >= 0) & (xy <= 1)).all(axis=-1))


def _lose_hand(draw: np.random.Generator, hand: NDArray[np.float32], shown: bool) -> None:
    """Zero the frames in which the hand is missed, in place (`hand` is `[n, 21, 4]`)."""
    chances = draw.uniform(size=len(hand))
    if not shown:
        hand[:] = 0.0
        return
    speed = np.zeros(len(hand))
    speed[1:] = np.abs(np.diff(hand[:, 0, :2], axis=0)).sum(axis=1)
    to_lose = _LOSS + (_LOSS_FAST - _LOSS) * np.minimum(10 * speed, 1.0)
    lost, gone = np.zeros(len(hand), bool), False
    for frame, (chance, limit) in enumerate(zip(chances.tolist(), to_lose.tolist(), strict=True)):
        gone = chance >= _FIND if gone else chance < limit
        lost[frame] = gone
    hand[lost | ~_inside(hand[:, 0])] = 0.0
