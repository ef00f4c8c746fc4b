"""The face of the generator: the 136 mesh points of the KArSL layout on plausible contours, with a few movements.

Lengths are in shoulder widths, x to the right of the picture, y down, z away from the camera.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.karsl_layout import FACE_MESH, face_edges

Array = NDArray[np.float64]

EYES = np.array([0.0, -0.72, -0.22])
"""The point between the eyes, from the point between the shoulders."""
_EYE_X = 0.0875
_MOUTH_Y = 0.2
_OVAL_Y = 0.08
_PIVOT = np.array([0.0, 0.2, 0.25])
"""The head turns about its middle, below and behind the eyes."""


def face_points(moves: Array, turn: Array, size: float) -> Array:
    """The face points `[n, 136, 3]` relative to the point between the eyes.

    `moves` `[n, 4]`: mouth open, mouth wide (negative: round), brows up, eyes closed. `turn` `[n, 3]`: small angles
    of yaw, pitch, roll in radians. `size` scales the head.
    """
    base, shapes = _template()
    points = base - _PIVOT + (moves @ shapes).reshape(-1, *base.shape)
    yaw, pitch, roll = turn.T
    still = np.zeros_like(yaw)
    skew = np.array([[still, -roll, yaw], [roll, still, pitch], [-yaw, -pitch, still]])
    turned: Array = points + points @ skew.transpose(2, 1, 0) + _PIVOT
    return turned * size


@lru_cache(maxsize=1)
def _template() -> tuple[Array, Array]:
    """Resting points `[136, 3]` and the change `[4, 136 * 3]` that each full movement makes."""
    oval, lips_outer, lips_inner, right_eye, left_eye, *brows, right_iris, left_iris = _contours()
    points = np.zeros((len(FACE_MESH), 3))
    _ellipse(points, oval, (0.0, _OVAL_Y), (0.2, 0.28), -90.0, 1.0)
    _ellipse(points, lips_outer, (0.0, _MOUTH_Y), (0.075, 0.03), 180.0, -1.0)
    _ellipse(points, lips_inner, (0.0, _MOUTH_Y), (0.055, 0.006), 180.0, -1.0)
    for eye, iris, side in ((right_eye, right_iris, -1.0), (left_eye, left_iris, 1.0)):
        first = 180.0 if side < 0 else 0.0
        _ellipse(points, eye, (side * _EYE_X, 0.0), (0.042, 0.017), first, side)
        _ellipse(points, iris, (side * _EYE_X, 0.0), (0.013, 0.013), 0.0, -1.0)
    for brow, side, y in zip(brows, (-1, -1, 1, 1), (-0.055, -0.072, -0.055, -0.072), strict=True):
        x = np.linspace(0.15, 0.035, len(brow))
        points[brow, 0], points[brow, 1] = side * x, y - 0.02 * np.sin(np.pi * (0.15 - x) / 0.14)
    points[:, 2] = 0.12 * (points[:, 0] / 0.2) ** 2 + 0.05 * ((points[:, 1] - _OVAL_Y) / 0.28) ** 2
    return points, _movements(
        points, [lips_outer, lips_inner], right_eye + left_eye, [row for brow in brows for row in brow], oval
    )


def _movements(points: Array, lips: list[list[int]], eyes: list[int], brows: list[int], oval: list[int]) -> Array:
    shapes = np.zeros((4, *points.shape))
    x, y = points[:, 0], points[:, 1]
    for rows, drop in zip(lips, (0.07, 0.075), strict=True):
        below = y[rows] >= _MOUTH_Y
        middle = np.sqrt(np.maximum(0.0, 1.0 - (x[rows] / np.abs(x[rows]).max()) ** 2))
        shapes[0, rows, 1] = np.where(below, drop, -0.012) * middle
        shapes[1, rows, 0] = 0.4 * x[rows]
        shapes[1, rows, 1] = -0.25 * np.abs(x[rows])
    shapes[0, oval, 1] = 0.05 * np.clip((y[oval] - 0.1) / 0.26, 0.0, 1.0)
    shapes[2, brows, 1] = -0.03
    shapes[3, eyes, 1] = -0.9 * y[eyes]
    return shapes.reshape(4, -1)


def _contours() -> list[list[int]]:
    """The face rows along each line to draw, in the order of `karsl_layout`: oval, lips, eyes, eyebrows, iris rims."""
    lines: list[list[int]] = []
    for first, second in face_edges():
        if not lines or lines[-1][-1] != first:
            lines.append([first])
        if second != lines[-1][0]:
            lines[-1].append(second)
    return lines


def _ellipse(
    points: Array, rows: list[int], centre: tuple[float, float], radii: tuple[float, float], first: float, turn: float
) -> None:
    """Put rows on an ellipse from angle `first` (degrees; 0 right, -90 up), clockwise in the picture if `turn` is 1."""
    angle = np.radians(first) + turn * np.linspace(0, 2 * np.pi, len(rows), endpoint=False)
    points[rows, 0] = centre[0] + radii[0] * np.cos(angle)
    points[rows, 1] = centre[1] + radii[1] * np.sin(angle)
