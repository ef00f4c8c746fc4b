"""The language of the generator: a word is what sign linguistics takes it to be, a combination of a few parts.

Handshape (and what it changes into), orientation of palm and fingers, location on the body, movement with its
direction, the part of the second hand, and a shape of the mouth. `word_of(seed, n)` is a pure function; any two words
differ, the first thousands in at least two parts.

Directions are in own-side coordinates: x outward from the body's middle to the hand's own side, y down, z away from
the camera. So left hands are mirrored by sign alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.data.keys import derive

Vector = tuple[float, float, float]

HANDSHAPES: dict[str, tuple[float, ...]] = {
    "fist": (0.7, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0),
    "thumb": (0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0),
    "flat": (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1),
    "five": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0),
    "point": (0.7, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0),
    "victory": (0.8, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0),
    "two": (0.8, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0),
    "three": (0.0, 0.0, 0.0, 1.0, 1.0, 0.7, 1.0),
    "four": (0.9, 0.0, 0.0, 0.0, 0.0, 0.8, 0.0),
    "trident": (0.8, 0.0, 0.0, 0.0, 1.0, 0.8, 0.0),
    "angle": (0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0),
    "phone": (0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0),
    "little": (0.7, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0),
    "horns": (0.8, 0.0, 1.0, 1.0, 0.0, 0.6, 0.0),
    "claw": (0.3, 0.5, 0.5, 0.5, 0.5, 1.0, 0.8),
    "cup": (0.3, 0.4, 0.4, 0.4, 0.4, 0.0, 0.7),
    "ring": (0.5, 0.62, 0.62, 0.62, 0.62, 0.0, 0.5),
    "pinch": (0.5, 0.62, 0.05, 0.05, 0.05, 0.7, 0.5),
    "hook": (0.7, 0.55, 1.0, 1.0, 1.0, 0.0, 0.0),
}
"""Flexion of thumb, index, middle, ring, little finger (0 straight, 1 closed), spread, thumb held out."""

RELAXED = (0.3, 0.3, 0.35, 0.4, 0.4, 0.2, 0.4)
"""The hand at rest, in the same seven numbers."""

LOCATIONS: dict[str, Vector] = {
    "forehead": (0.12, -1.0, -0.4),
    "temple": (0.32, -0.85, -0.2),
    "eye": (0.14, -0.74, -0.45),
    "cheek": (0.26, -0.55, -0.32),
    "mouth": (0.04, -0.5, -0.45),
    "chin": (0.03, -0.34, -0.42),
    "neck": (0.1, -0.12, -0.35),
    "far shoulder": (-0.42, 0.06, -0.35),
    "chest": (0.0, 0.32, -0.4),
    "belly": (0.15, 0.85, -0.45),
    "space": (0.2, 0.45, -0.75),
    "side": (0.75, 0.3, -0.6),
    "high": (0.75, -0.55, -0.5),
}
"""Where the middle of the hand is, in shoulder widths from the point between the shoulders."""

ORIENTATIONS: dict[str, tuple[Vector, Vector]] = {
    "up, out": ((0, -1, 0), (0, 0, -1)),
    "up, in": ((0, -1, 0), (0, 0, 1)),
    "up, across": ((0, -1, 0), (-1, 0, 0)),
    "ahead, down": ((0, -0.3, -1), (0, 1, 0)),
    "ahead, up": ((0, -0.3, -1), (0, -1, 0)),
    "ahead, across": ((0, -0.3, -1), (-1, 0, 0)),
    "across, down": ((-1, -0.2, -0.2), (0, 1, 0)),
    "across, in": ((-1, -0.2, -0.2), (0, 0, 1)),
    "down, in": ((0, 1, -0.2), (0, 0, 1)),
}
"""Direction of the fingers, direction that the palm faces."""

PATHS = ("line", "there and back", "repeat", "arc", "circle", "circles", "zigzag", "shake", "spiral")
"""Movements of the hand through space; each has a direction."""
LOCAL = ("hold", "twist", "twists", "nod", "wiggle")
"""Movements of wrist or fingers only."""

DIRECTIONS: dict[str, tuple[Vector, Vector]] = {
    "up": ((0, -1, 0), (1, 0, 0)),
    "down": ((0, 1, 0), (0, 0, -1)),
    "out": ((1, 0, 0), (0, -1, 0)),
    "in": ((-1, 0, 0), (0, 1, 0)),
    "ahead": ((0, 0, -1), (0, -1, 0)),
    "slant": ((0.7, -0.7, 0), (0.5, 0.5, -0.7)),
}
"""Main direction and the second one that arcs and circles need."""

MOVEMENTS = tuple((path, direction) for path in PATHS for direction in DIRECTIONS) + tuple((name, "") for name in LOCAL)
CHANGES = ("", "", "", "", "fist", "five", "flat", "hook")
"""What the handshape turns into in the course of the word; half of the words keep it."""
HANDS = ("one", "one", "one", "both", "both", "alternating", "base")
"""`base`: the second hand is still and the first acts on it."""
MOUTHS = ("closed", "open", "round", "smile", "chew")

_SIZES = (len(HANDSHAPES), len(CHANGES), len(ORIENTATIONS), len(LOCATIONS), len(MOVEMENTS), len(HANDS), len(MOUTHS))
_MAX_TRIES = 64


@dataclass(frozen=True)
class Word:
    """One word's parts, as positions in the tables above, and its habitual size and length."""

    amplitude: float
    length: float
    shape: int
    change: int
    orientation: int
    location: int
    movement: int
    hands: int
    mouth: int

    @property
    def gloss(self) -> str:
        """The parts in words, as a name for reports: `fist>five | up, in | chin | arc out | both | open`."""
        path, direction = MOVEMENTS[self.movement]
        shape = list(HANDSHAPES)[self.shape]
        parts = (
            f"{shape}>{CHANGES[self.change]}" if CHANGES[self.change] else shape,
            list(ORIENTATIONS)[self.orientation],
            list(LOCATIONS)[self.location],
            f"{path} {direction}".strip(),
            HANDS[self.hands],
            MOUTHS[self.mouth],
        )
        return " | ".join(parts)


def word_of(seed: int, number: int) -> Word:
    """Word `number` (from 1) of the language `seed`."""
    lexicon = _lexicon(seed)
    while len(lexicon.words) < number:
        lexicon.add(_next_word(seed, lexicon))
    return lexicon.words[number - 1]


class _Lexicon:
    """The words made so far; a word depends only on those before it."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self._meanings = np.full((512, len(_SIZES)), -1)

    def add(self, word: Word) -> None:
        if len(self.words) == len(self._meanings):
            self._meanings = np.concatenate([self._meanings, np.full_like(self._meanings, -1)])
        self._meanings[len(self.words)] = _meaning(word)
        self.words.append(word)

    def least_difference(self, word: Word) -> int:
        """In how many parts the word differs from the one that is most like it."""
        return int((self._meanings != _meaning(word)).sum(axis=1).min())


@lru_cache(maxsize=8)
def _lexicon(seed: int) -> _Lexicon:
    del seed
    return _Lexicon()


def _next_word(seed: int, lexicon: _Lexicon) -> Word:
    """Draw until the word differs from all others in two parts, after many tries in one."""
    draw = np.random.Generator(np.random.Philox(derive(seed, "word", len(lexicon.words) + 1)))
    tries = 0
    while True:
        parts: list[int] = draw.integers(0, _SIZES).tolist()
        amplitude, length = float(draw.uniform(0.8, 1.2)), float(draw.uniform(0.8, 1.25))
        word = Word(amplitude, length, *parts)
        if lexicon.least_difference(word) >= (2 if tries < _MAX_TRIES else 1):
            return word
        tries += 1


def _meaning(word: Word) -> NDArray[np.int64]:
    """The parts with equal entries of a table made equal, so that distinct numbers mean distinct movements."""
    shape = list(HANDSHAPES)[word.shape]
    change = "" if CHANGES[word.change] == shape else CHANGES[word.change]
    hands = HANDS.index(HANDS[word.hands])
    return np.array([word.shape, CHANGES.index(change), word.orientation, word.location, word.movement, hands, 0])
