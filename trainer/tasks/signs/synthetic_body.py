"""The body of the generator: arms by two-bone inverse kinematics, hands by forward kinematics.

Lengths are in shoulder widths. Own-side coordinates: x outward to the hand's own side, y down, z away from the
camera; so both arms are computed at once and mirrored by sign. Legend: s side (2), n frames, j finger (5: thumb first).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHOULDER = np.array([0.5, 0.0, 0.0])
UPPER_ARM, FOREARM = 0.82, 0.72
HAND_LENGTH = 0.5
"""Wrist to tip of the middle finger."""
_ELBOW_POLE = np.array([0.8, 1.0, 0.4])
"""Where elbows point to: outward, down and back."""

# Hand at scale 1 in its own axes (thumb side, finger direction, palm direction); joints in MediaPipe's order.
_BASES = np.array([[0.11, 0.12, 0.03], [0.10, 0.48, 0.0], [0.02, 0.50, 0.0], [-0.06, 0.46, 0.0], [-0.13, 0.41, 0.0]])
_SEGMENTS = np.array(
    [[0.22, 0.16, 0.13], [0.23, 0.14, 0.1], [0.25, 0.16, 0.11], [0.24, 0.15, 0.11], [0.18, 0.11, 0.09]]
)
_CLOSED = np.radians([[20.0, 55.0, 60.0]] + [[80.0, 100.0, 65.0]] * 4)
"""Angle of each joint when the finger is closed."""
_FAN = np.radians([0.0, 14.0, 2.0, -9.0, -20.0])
"""Sideways angle of the fingers at full spread; at none they keep a fifth of it."""
_CURL = np.array([[-0.75, 0.2, 0.63]] + [[0.0, 0.0, 1.0]] * 4)
"""Where a finger bends to: into the palm, the thumb across it."""


def unit(vectors: Array) -> Array:
    """Vectors of length 1 along the last axis; zero stays zero."""
    length: Array = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    return vectors / np.maximum(length, 1e-9)[..., None]


def solve_arms(wrists_sn: Array, reach: float) -> tuple[Array, Array]:
    """Elbows and reachable wrists, each `[2, n, 3]`, for wished wrists; `reach` scales both bones."""
    upper, fore = UPPER_ARM * reach, FOREARM * reach
    offset = wrists_sn - SHOULDER
    wished = np.sqrt(np.einsum("...i,...i->...", offset, offset))[..., None]
    direction = offset / np.maximum(wished, 1e-9)
    distance = np.clip(wished, 0.35, 0.985 * (upper + fore))
    along = (upper**2 - fore**2 + distance**2) / (2 * distance)
    height = np.sqrt(np.maximum(upper**2 - along**2, 0.0))
    pole = _ELBOW_POLE - direction * (direction @ _ELBOW_POLE)[..., None]
    elbows = SHOULDER + along * direction + height * unit(pole)
    return elbows, SHOULDER + distance * direction


def hand_axes(fingers: Array, palm: Array, twist: Array, nod: Array) -> Array:
    """Orthonormal axes `[2, n, 3, 3]` (rows: thumb side, fingers, palm) after a twist about the fingers and a nod.

    `fingers` and `palm` are `[2, n, 3]` and need not be orthogonal; angles `[2, n]` are in radians.
    """
    along = unit(fingers)
    facing = unit(palm - along * np.einsum("sni,sni->sn", along, palm)[..., None])
    side = np.cross(facing, along)
    facing = facing * np.cos(twist)[..., None] + side * np.sin(twist)[..., None]
    cos, sin = np.cos(nod)[..., None], np.sin(nod)[..., None]
    along, facing = along * cos + facing * sin, facing * cos - along * sin
    return np.stack([np.cross(facing, along), along, facing], axis=2)


def hand_joints(shape: Array, axes: Array, size: float) -> Array:
    """The 21 joints `[2, n, 21, 3]` relative to the wrist, for handshapes `[2, n, 7]` (see `HANDSHAPES`)."""
    flexion, spread, thumb_out = shape[..., :5], shape[..., 5], shape[..., 6]
    bend = np.cumsum(flexion[..., None] * _CLOSED, axis=-1)
    fan = (0.2 + 0.8 * spread)[..., None] * _FAN
    fan[..., 0] = np.radians(18.0) + np.radians(42.0) * thumb_out
    straight = np.zeros((*fan.shape, 3))
    straight[..., 0], straight[..., 1] = np.sin(fan), np.cos(fan)
    bones = np.cos(bend)[..., None] * straight[..., None, :] + np.sin(bend)[..., None] * _CURL[:, None, :]
    joints = np.empty((*fan.shape, 4, 3))
    joints[..., 0, :] = _BASES
    joints[..., 1:, :] = _BASES[:, None, :] + np.cumsum(bones * _SEGMENTS[..., None], axis=-2)
    local = np.zeros((*shape.shape[:2], 21, 3))
    local[:, :, 1:] = joints.reshape(*shape.shape[:2], 20, 3)
    joints_3d: Array = np.matmul(local, axes)
    return joints_3d * (HAND_LENGTH * size)
