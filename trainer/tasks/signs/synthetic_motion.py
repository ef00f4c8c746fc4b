"""Time courses of the generator: when the hands rise, what path they draw, how wrist and fingers turn.

All are functions of the word's own time s (0 begins, 1 ends), an array `[n]`.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.synthetic_signer import Articulation

Array = NDArray[np.float64]

PATH_SIZE = 0.42
"""Extent of an average movement, in shoulder widths."""
_TURN = np.radians(55.0)


def smooth(x: Array) -> Array:
    """Minimum-jerk course from 0 to 1 (Flash and Hogan 1985), constant outside."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10 - 15 * x + 6 * x * x)


def envelope(u: Array, rise_end: float, fall_start: float) -> Array:
    """How far the hands are up: 0 at rest, 1 in the word, over the recording's time u in 0..1."""
    return smooth((u + 0.06) / (rise_end + 0.06)) * smooth((1.06 - u) / (1.06 - fall_start))


def displacement(how: Articulation, s: Array) -> Array:
    """The path `[n, 3]` of the first hand about its location."""
    pair = _path(how.path, s)
    return (pair[0][:, None] * how.along + pair[1][:, None] * how.across) * (PATH_SIZE * how.amplitude)


def _path(path: str, s: Array) -> tuple[Array, Array]:
    """Offsets along the main and the second direction, about 1 in extent."""
    still = np.zeros_like(s)
    go = smooth(s) - 0.5
    match path:
        case "line":
            return 1.3 * go, still
        case "there and back":
            return 1.2 * np.sin(np.pi * s) - 0.5, still
        case "repeat":
            return 0.45 * (1 - np.cos(6 * np.pi * s)) - 0.4, still
        case "arc":
            return 1.3 * go, 0.75 * np.sin(np.pi * smooth(s))
        case "circle":
            return 0.55 * np.sin(2 * np.pi * s), 0.55 * np.cos(2 * np.pi * s)
        case "circles":
            return 0.4 * np.sin(4 * np.pi * s), 0.4 * np.cos(4 * np.pi * s)
        case "zigzag":
            return 1.4 * (s - 0.5), 0.35 * np.arcsin(np.sin(5 * np.pi * s))
        case "shake":
            return 0.35 * np.sin(7 * np.pi * s), still
        case "spiral":
            return 0.7 * s * np.sin(4 * np.pi * s), 0.7 * s * np.cos(4 * np.pi * s)
        case _:
            return still, still


def wrist_angles(how: Articulation, s: Array) -> tuple[Array, Array]:
    """Twist about the fingers and nod of the hand, in radians."""
    still = np.zeros_like(s)
    size = _TURN * min(how.amplitude, 1.5)
    match how.path:
        case "twist":
            return 2.4 * size * (smooth(s) - 0.5), still
        case "twists":
            return size * np.sin(6 * np.pi * s), still
        case "nod":
            return still, size * np.sin(5 * np.pi * s)
        case _:
            return still, still


def wiggle(how: Articulation, s: Array) -> Array:
    """Extra flexion `[n, 5]` of the fingers, one after the other."""
    if how.path != "wiggle":
        return np.zeros((len(s), 5))
    phase = 6 * np.pi * s[:, None] - 1.1 * np.arange(5)
    return 0.3 * how.amplitude * (1 + np.sin(phase)) * (np.arange(5) > 0)


def mouth_course(mouth: str, s: Array) -> tuple[Array, Array]:
    """How open and how wide the mouth is over the word."""
    up = np.sin(np.pi * np.clip(s, 0, 1)) ** 0.7
    match mouth:
        case "open":
            return 0.9 * up, 0.0 * up
        case "round":
            return 0.45 * up, -0.8 * up
        case "smile":
            return 0.1 * up, 0.8 * up
        case "chew":
            return 0.35 * up * (1 - np.cos(6 * np.pi * s)), 0.1 * up
        case _:
            return 0.0 * up, 0.0 * up
