"""The built-in generator: people who sign, in the KArSL landmark layout.

    word_of(seed, n) ──┐
    signer_of(seed, k)─┴─► articulation ─► hands over time ─► body ─► camera ─► missed detections ─► [n, 184, 4]

`record` is a pure function of (seed, word, signer, repetition, difficulty): no draw depends on how many words, signers
or repetitions there are, so a corpus can grow without changing what it had.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.packed import ClassInfo
from trainer.tasks.signs.readers.source import Recording, Source, karsl_session
from trainer.tasks.signs.schema import Schema
from trainer.tasks.signs.synthetic_body import hand_axes, hand_joints, solve_arms, unit
from trainer.tasks.signs.synthetic_camera import film
from trainer.tasks.signs.synthetic_face import EYES, face_points
from trainer.tasks.signs.synthetic_motion import displacement, envelope, mouth_course, smooth, wiggle, wrist_angles
from trainer.tasks.signs.synthetic_signer import Articulation, Signer, articulation_of, generator, signer_of
from trainer.tasks.signs.synthetic_words import HANDSHAPES, RELAXED, word_of

Array = NDArray[np.float64]

MEDIAN_FRAMES = 23
MIN_FRAMES, MAX_FRAMES = 13, 48
"""Lengths of the public KArSL samples (signs.md 1)."""

_REST = np.array([0.28, 1.2, -0.28])
_REST_FINGERS, _REST_PALM = np.array([-0.35, 1.0, -0.25]), np.array([-0.8, -0.1, 0.6])
_BASE_PLACE = np.array([0.05, 0.5, -0.6])
_BASE_FINGERS, _BASE_PALM = np.array([-0.8, -0.1, -0.6]), np.array([0.0, -1.0, 0.1])
_WRIST_TO_MIDDLE = 0.22


@dataclass(frozen=True)
class Corpus:
    """What is generated: everything that the recordings depend on."""

    words: int = 10
    signers: int = 4
    repetitions: int = 12
    difficulty: float = 0.5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Hands:
    """Both hands over time in own-side coordinates, the signer's stronger hand first."""

    wrists: Array
    fingers: Array
    palm: Array
    shape: Array
    twist: Array
    nod: Array


def source(corpus: Corpus) -> Source:
    """The corpus as a source for the packer; signers are named 01, 02, ... and classes by their parts."""
    return Source(
        layout="synthetic",
        path="the generator",
        schema=Schema.preset("karsl"),
        classes=[ClassInfo(n, word_of(corpus.seed, n).gloss) for n in range(1, corpus.words + 1)],
        signers=[f"{k:02d}" for k in range(1, corpus.signers + 1)],
        stream=lambda: _stream(corpus),
        key=hashlib.sha256(repr((GENERATOR, corpus)).encode()).hexdigest()[:16],
        num_recordings=corpus.words * corpus.signers * corpus.repetitions,
        options={"generator": GENERATOR, **asdict(corpus)},
    )


GENERATOR = 1
"""Version of the generator; a change of any number that it makes raises it, so that caches are made anew."""


def clip_name(word: int, signer: int, repetition: int) -> str:
    """A name as KArSL has them; each signer comes on two days, every other repetition on the second."""
    minutes, seconds = divmod(repetition, 60)
    day = 1 + repetition % 2
    hour = 10 + minutes // 60
    stamp = f"{day:02d}_{signer:02d}_26_{hour:02d}_{minutes % 60:02d}_{seconds:02d}"
    return f"01_{signer:02d}_{word:04d}_({stamp})_c"


def record(seed: int, word: int, signer: int, repetition: int, difficulty: float = 0.5) -> NDArray[np.float32]:
    """One recording `[n, 184, 4]` (x, y, z, v; raw picture coordinates); word and signer count from 1."""
    how, who = articulation_of(seed, word, signer, difficulty), signer_of(seed, signer, difficulty)
    draw = generator(seed, "recording", word, signer, repetition)
    up, s = _timing(draw, how, who)
    hands = _hands(draw, how, who, up, s)
    elbows, wrists = solve_arms(hands.wrists, who.reach)
    fingers = unit(hands.fingers) + 0.35 * unit(wrists - elbows)
    joints = hand_joints(hands.shape, hand_axes(fingers, hands.palm, hands.twist, hands.nod), who.hand_size)
    face = _face(draw, how, who, s)
    shown = np.array([True, how.hands != "one" or draw.uniform() < 0.25])
    camera = generator(seed, "camera", signer, repetition % 2)
    return film(draw, camera, who, elbows, wrists, joints, face, shown)


def _stream(corpus: Corpus) -> Iterator[Recording]:
    for word in range(1, corpus.words + 1):
        for signer in range(1, corpus.signers + 1):
            for repetition in range(corpus.repetitions):
                frames = record(corpus.seed, word, signer, repetition, corpus.difficulty)
                name, by = clip_name(word, signer, repetition), f"{signer:02d}"
                yield Recording(frames, word, by, karsl_session(by, name), name, where=f"generated {name}")


def _timing(draw: np.random.Generator, how: Articulation, who: Signer) -> tuple[Array, Array]:
    """How far the hands are up and where in the word they are, both `[n]`."""
    noise = draw.normal(size=5)
    wished = MEDIAN_FRAMES * how.length / who.tempo * np.exp(0.1 * noise[0])
    num_frames = int(np.clip(np.rint(wished), MIN_FRAMES, MAX_FRAMES))
    u = (np.arange(num_frames) + 0.5) / num_frames
    u = np.clip(u + 0.03 * noise[1] * np.sin(np.pi * u) + 0.02 * noise[2] * np.sin(2 * np.pi * u), 0.0, 1.0)
    rise_end = float(np.clip(0.24 * who.haste * np.exp(0.15 * noise[3]), 0.1, 0.4))
    fall_start = 1 - float(np.clip(0.2 * who.haste * np.exp(0.15 * noise[4]), 0.08, 0.35))
    return envelope(u, rise_end, fall_start), np.clip((u - rise_end) / (fall_start - rise_end), 0.0, 1.0)


def _hands(draw: np.random.Generator, how: Articulation, who: Signer, up: Array, s: Array) -> _Hands:
    """Wished wrists, directions and shapes of both hands, from rest through the word and back."""
    noise = draw.normal(size=(4, 7))
    path = displacement(how, s) * np.exp(0.07 * noise[0, 0])
    place = how.location + 0.03 * noise[1, :3]
    shape = how.start_shape + smooth((s - 0.3) / 0.4)[:, None] * (how.end_shape - how.start_shape)
    shape = shape + 0.04 * noise[2]
    shape[:, :5] += wiggle(how, s)
    fingers, palm = how.fingers + 0.06 * noise[3, :3], how.palm + 0.06 * noise[3, 3:6]
    target = place + path - _WRIST_TO_MIDDLE * fingers
    raised = np.stack([up, np.zeros_like(up) if how.hands == "one" else up])
    second = _second_hand(how, place, path, fingers, palm, shape)
    if how.hands == "base":
        target = 0.45 * target + 0.55 * (_BASE_PLACE + path + np.array([0.0, -0.18, 0.0]) - _WRIST_TO_MIDDLE * fingers)
    blend = raised[..., None]
    swing = blend * (1 - blend) * np.array([0.0, 0.0, -1.2])  # hands turn over forward, not through the arm
    twist, nod = wrist_angles(how, s)
    both = np.array([[1.0], [0.0 if how.hands in ("one", "base") else 1.0]])
    return _Hands(
        wrists=_between(_REST, np.stack([target, second[0]]), blend) + _tremor(draw, who, len(s)),
        fingers=_between(_REST_FINGERS, np.stack([np.broadcast_to(fingers, target.shape), second[1]]), blend) + swing,
        palm=_between(_REST_PALM, np.stack([np.broadcast_to(palm, target.shape), second[2]]), blend),
        shape=_between(np.array(RELAXED), np.stack([shape, second[3]]), blend),
        twist=both * twist * raised,
        nod=both * nod * raised,
    )


def _second_hand(
    how: Articulation, place: Array, path: Array, fingers: Array, palm: Array, shape: Array
) -> tuple[Array, Array, Array, Array]:
    """Wrist `[n, 3]`, finger and palm directions `[n, 3]` and shape `[n, 7]` of the weaker hand in the word."""
    like = path.shape
    if how.hands == "base":
        flat = np.broadcast_to(np.array(HANDSHAPES["flat"]), shape.shape)
        directions = (np.broadcast_to(_BASE_FINGERS, like), np.broadcast_to(_BASE_PALM, like))
        return np.broadcast_to(_BASE_PLACE - _WRIST_TO_MIDDLE * unit(_BASE_FINGERS), like), *directions, flat
    sign = -1.0 if how.hands == "alternating" else 1.0
    wrist = place + sign * path - _WRIST_TO_MIDDLE * fingers
    wrist[:, 0] = np.maximum(wrist[:, 0], 0.12)  # it stays on its own side, or the hands would go through each other
    return wrist, np.broadcast_to(fingers, like), np.broadcast_to(palm, like), shape


def _between(rest: Array, target: Array, blend: Array) -> Array:
    mixed: Array = rest + blend * (target - rest)
    return mixed


def _tremor(draw: np.random.Generator, who: Signer, num_frames: int) -> Array:
    """Slow wandering of both hands, `[2, n, 3]`."""
    phase, rate = draw.uniform(0, 2 * np.pi, (2, 1, 3)), draw.uniform(0.4, 0.9, (2, 1, 3))
    return who.tremor * np.sin(phase + rate * np.arange(num_frames)[:, None])


def _face(draw: np.random.Generator, how: Articulation, who: Signer, s: Array) -> Array:
    """The face `[n, 136, 3]`: mouth of the word, a chance blink, a slowly moving head."""
    opened, wide = mouth_course(how.mouth, s)
    blink_at, brows = draw.uniform(-0.5, 1.5), 0.3 * draw.uniform()
    closed = np.exp(-(((s - blink_at) / 0.06) ** 2))
    moves = np.stack([opened, wide, np.full_like(s, brows), closed], axis=1)
    sway = 0.04 * np.sin(draw.uniform(0, 6.3, 3) + s[:, None] * draw.uniform(1, 4, 3))
    middle = EYES * np.array([1.0, who.neck, 1.0])
    points: Array = middle + face_points(moves, who.head_turn + sway, who.head_size)
    return points
