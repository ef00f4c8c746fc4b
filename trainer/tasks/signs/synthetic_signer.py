"""The people of the generator: a body, a speed, a style, a handedness, and an own way with every word.

`difficulty` 0..1 scales what differs between signers and not between one signer's repetitions, so it moves the
accuracy on an unseen signer and leaves that on seen ones nearly alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.data.keys import derive
from trainer.tasks.signs import synthetic_words as words

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Signer:
    """One person; lengths are relative to an average body of shoulder width 1."""

    number: int
    left_handed: bool
    shoulders: float
    reach: float
    hand_size: float
    head_size: float
    neck: float
    tempo: float
    amplitude: float
    haste: float
    """How early the word proper begins: share of the recording spent on raising and lowering the hands."""
    place_bias: Array
    place_scale: Array
    turn: Array
    """Rotation vector of the hands' usual orientation."""
    laxness: float
    """How far fingers stay on the way to the relaxed hand."""
    tremor: float
    head_turn: Array


@dataclass(frozen=True, eq=False)
class Articulation:
    """One signer's way of one word: the word's parts as numbers."""

    start_shape: Array
    end_shape: Array
    fingers: Array
    palm: Array
    location: Array
    along: Array
    across: Array
    path: str
    hands: str
    mouth: str
    amplitude: float
    length: float


def generator(seed: int, *parts: int | str) -> np.random.Generator:
    """A generator keyed by a seed and names, so that every draw is a function of what it is for."""
    return np.random.Generator(np.random.Philox(derive(seed, *parts)))


@lru_cache(maxsize=1024)
def signer_of(seed: int, number: int, difficulty: float) -> Signer:
    """Signer `number` (from 1)."""
    draw = generator(seed, "signer", number)
    strength = STRENGTH * difficulty
    spread = strength * draw.normal(size=16)
    body = 1 + (0.04 + 0.04 * strength) * draw.uniform(-1, 1, 5)
    return Signer(
        number=number,
        left_handed=bool(draw.uniform() < LEFT_HANDED * min(1.0, 2 * difficulty)),
        shoulders=float(body[0]),
        reach=float(body[1]),
        hand_size=float(body[2]),
        head_size=float(body[3]),
        neck=float(body[4]),
        tempo=float(np.exp(0.05 * draw.normal() + 0.25 * spread[0])),
        amplitude=float(np.exp(0.3 * spread[1])),
        haste=float(np.clip(1 + 0.3 * spread[2], 0.5, 1.5)),
        place_bias=0.12 * spread[3:6],
        place_scale=np.exp(0.15 * spread[6:9]),
        turn=0.25 * spread[9:12],
        laxness=float(min(0.5, 0.25 * abs(spread[12]))),
        tremor=float(0.008 * np.exp(0.5 * spread[13])),
        head_turn=0.08 * draw.normal(size=3) * (0.3 + strength),
    )


LEFT_HANDED = 0.1
"""Share of left-handed people, reached from difficulty 0.5 on."""
STRENGTH = 1.7
"""How much difficulty 1 is, in units of the spreads below; chosen so that at 0.5 trees miss a fifth to a quarter of
an unseen signer's recordings of ten words, while those of seen signers stay above 0.95."""
ACCENT = 0.22
"""Probability at strength 1 that a signer has another variant of one given part of a word."""


@lru_cache(maxsize=4096)
def articulation_of(seed: int, number: int, signer_number: int, difficulty: float) -> Articulation:
    """How signer `signer_number` makes word `number`; the same in every repetition."""
    word, signer = words.word_of(seed, number), signer_of(seed, signer_number, difficulty)
    draw = generator(seed, "accent", signer_number, number)
    strength = STRENGTH * difficulty
    shapes, places = list(words.HANDSHAPES.values()), list(words.LOCATIONS.values())
    shape, orientation = _variant(draw, word.shape, len(shapes), strength), word.orientation
    place = _variant(draw, word.location, len(places), strength)
    movement = _variant(draw, word.movement, len(words.MOVEMENTS), strength)
    orientation = _variant(draw, orientation, len(words.ORIENTATIONS), strength)
    change = words.CHANGES[word.change]
    bend = 0.15 * strength * draw.normal(size=7)
    path, direction = words.MOVEMENTS[movement]
    turn = rotation(signer.turn + 0.3 * strength * draw.normal(size=3))
    fingers, palm = np.array(list(words.ORIENTATIONS.values())[orientation], float) @ turn.T
    along, across = (
        np.array(words.DIRECTIONS.get(direction, words.DIRECTIONS["ahead"]), float)
        @ rotation(0.35 * strength * draw.normal(size=3)).T
    )
    return Articulation(
        start_shape=_lax(shapes[shape], bend, signer),
        end_shape=_lax(words.HANDSHAPES[change] if change else shapes[shape], bend, signer),
        fingers=fingers,
        palm=palm,
        location=np.array(places[place]) * signer.place_scale
        + signer.place_bias
        + 0.14 * strength * draw.normal(size=3),
        along=along,
        across=across,
        path=path,
        hands=words.HANDS[word.hands],
        mouth=words.MOUTHS[word.mouth],
        amplitude=word.amplitude * signer.amplitude * float(np.exp(0.2 * strength * draw.normal())),
        length=word.length,
    )


def rotation(vector: Array) -> Array:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = float(np.sqrt(vector @ vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    matrix: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return matrix


def _variant(draw: np.random.Generator, part: int, num_parts: int, strength: float) -> int:
    """The part itself, or now and then a regional one; always two draws, so that later ones do not move."""
    chance, other = draw.uniform(), int(draw.integers(num_parts))
    return other if chance < ACCENT * strength else part


def _lax(shape: tuple[float, ...], bend: Array, signer: Signer) -> Array:
    relaxed = np.array(words.RELAXED)
    bent: Array = np.array(shape) + bend + signer.laxness * (relaxed - np.array(shape))
    return np.clip(bent, -0.05, 1.1)
