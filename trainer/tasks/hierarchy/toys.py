"""The generated sets T1 and T2: 600 + 150 rows, 2 coarse, 6 mid and 18 fine classes, three blocks, unknown labels.

The image tells the mid class; which of its three fine classes it is, stands in the block SITE (an angle) and, less
surely, in SEASON; ELEV is noise. T2's image knows a little of the fine class, too. Everything is drawn from keyed
words, so a set is the same on every machine; `tests/unit/test_hierarchy_rows.py` holds its counts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import TOY_BLOCKS, TOY_LEVELS
from trainer.data.keys import derive, normal, uniform
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.table import Source, Table
from trainer.tasks.hierarchy.tree import UNKNOWN, Labels

NUM_TRAIN, NUM_VAL = 600, 150
SHAPE = (3, 8, 8)
_NUM_FINE, _SIBLINGS = 18, 3
_CELLS = int(np.prod(SHAPE))
_UNKNOWN_FINE, _ALSO_MID, _ALL, _GAP = 0.2, 0.25, 0.01, 0.03


@dataclass(frozen=True)
class Toy:
    """What tells the two sets apart."""

    mid: float
    """Weight of the mid prototype in the image; `fine` of the fine one, `noise` the deviation on top."""
    fine: float
    noise: float
    site_noise: float
    season_right: float
    """Share of the rows whose SEASON tells the right sibling."""
    missing: tuple[float, float, float]
    """Share of the rows without SITE, SEASON, ELEV."""


TOYS = {
    "t1": Toy(1.0, 0.0, 1.2, 0.25, 0.65, (0.10, 0.15, 0.05)),
    "t2": Toy(0.8, 0.25, 1.0, 0.1, 0.95, (0.02, 0.02, 0.05)),
}


def toy(name: str, seed: int) -> Source:
    """The rows of `t1` or `t2`; their split is given."""
    rows = np.arange(NUM_TRAIN + NUM_VAL)
    spec = TOYS[name]
    true = _classes(rows, derive(seed, name, "classes"))
    blocks = BlockMap(TOY_BLOCKS)
    values, valid = _blocks(rows, true % _SIBLINGS, spec, blocks, seed, name)
    table = Table(
        features=_images(rows, true, spec, seed, name),
        labels=_hidden(rows, true, derive(seed, name, "unknown")),
        blocks=values,
        valid=valid,
        where=np.array([f"row {row}" for row in rows]),
        split=np.where(rows < NUM_TRAIN, "train", "val"),
    )
    sizes = (_NUM_FINE, _NUM_FINE // _SIBLINGS, _NUM_FINE // _SIBLINGS**2)
    names = [[f"{level}{cls:02d}" for cls in range(size)] for level, size in zip(TOY_LEVELS, sizes, strict=True)]
    return Source(name, table, names, blocks)


def _classes(rows: Labels, key: int) -> Labels:
    """Fine classes with frequencies like rank^-0.7; the ranks are dealt out at random."""
    ranks = np.argsort(uniform(derive(key, "ranks"), np.arange(_NUM_FINE), 1)[:, 0]) + 1
    shares = np.cumsum(ranks**-0.7)
    return np.searchsorted(shares / shares[-1], uniform(key, rows, 1)[:, 0], side="right").astype(np.int64)


def _images(rows: Labels, fine: Labels, spec: Toy, seed: int, name: str) -> NDArray[np.float32]:
    mids = normal(derive(seed, name, "mid"), np.arange(_NUM_FINE // _SIBLINGS), _CELLS)
    fines = normal(derive(seed, name, "fine"), np.arange(_NUM_FINE), _CELLS)
    noise = normal(derive(seed, name, "image"), rows, _CELLS)
    flat = spec.mid * mids[fine // _SIBLINGS] + spec.fine * fines[fine] + spec.noise * noise
    return flat.reshape(-1, *SHAPE).astype(np.float32)


def _blocks(
    rows: Labels, sibling: Labels, spec: Toy, blocks: BlockMap, seed: int, name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Angles of siblings as sine and cosine; that of the first one is exactly (0, 1)."""
    noise = normal(derive(seed, name, "site"), rows, 3) * spec.site_noise
    draws = uniform(derive(seed, name, "season"), rows, 2)
    shift = np.where(draws[:, 0] < spec.season_right, 0, 1 + (draws[:, 1] * (_SIBLINGS - 1)).astype(np.int64))
    site = _angle(sibling) + noise[:, :2]
    season = _angle((sibling + shift) % _SIBLINGS)
    elevation = normal(derive(seed, name, "elevation"), rows, 4)
    valid = uniform(derive(seed, name, "missing"), rows, 3) >= np.array(spec.missing)
    values = np.concatenate([site, noise[:, 2:], season, elevation], 1)
    return np.where(valid[:, blocks.owner], values, 0.0).astype(np.float32), valid


def _angle(sibling: Labels) -> NDArray[np.float64]:
    angle = 2 * np.pi * sibling / _SIBLINGS
    return np.stack([np.sin(angle), np.cos(angle)], 1)


def _hidden(rows: Labels, fine: Labels, key: int) -> Labels:
    """Labels `[N, 3]` with what nobody knows set to -1, gaps (mid unknown, fine known) among them."""
    labels = np.stack([fine, fine // _SIBLINGS, fine // _SIBLINGS**2], 1)
    draws = uniform(key, rows, 4)
    no_fine = draws[:, 0] < _UNKNOWN_FINE
    nothing = draws[:, 2] < _ALL
    gap = ~no_fine & (draws[:, 3] < _GAP)
    labels[no_fine | nothing, 0] = UNKNOWN
    labels[(no_fine & (draws[:, 1] < _ALSO_MID)) | gap | nothing, 1] = UNKNOWN
    labels[nothing, 2] = UNKNOWN
    return labels
