"""The numbers of the KArSL landmark layout: MediaPipe face mesh subset, mirror pairs, lines to draw (signs.md 2.1).

The subset is the contours (oval, lips, eyes, eyebrows) and the eight iris rim points; iris centres and nose are not
in it. Row order within the face group is ascending mesh index.
"""

from itertools import pairwise

_FACE_MESH = """
    0 7 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103 105 107 109
    127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 172 173 176 178 181 185 191
    234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308 310 311 312 314 317 318 321
    323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384 385 386 387 388 389 390 397 398
    400 402 405 409 415 454 466 469 470 471 472 474 475 476 477
"""
FACE_MESH: tuple[int, ...] = tuple(int(number) for number in _FACE_MESH.split())
"""Mesh index of each face row."""

_FACE_PAIRS = """
    7-249 21-251 33-263 37-267 39-269 40-270 46-276 52-282 53-283 54-284 55-285 58-288 61-291 63-293 65-295 66-296
    67-297 70-300 78-308 80-310 81-311 82-312 84-314 87-317 88-318 91-321 93-323 95-324 103-332 105-334 107-336
    109-338 127-356 132-361 133-362 136-365 144-373 145-374 146-375 148-377 149-378 150-379 153-380 154-381 155-382
    157-384 158-385 159-386 160-387 161-388 162-389 163-390 172-397 173-398 176-400 178-402 181-405 185-409 191-415
    234-454 246-466 469-476 470-475 471-474 472-477
"""
FACE_MIRROR: dict[int, int] = {int(a): int(b) for a, b in (pair.split("-") for pair in _FACE_PAIRS.split())}
"""Right to left mesh index of each mirrored pair; the mid-line (0 10 13 14 17 152) maps to itself."""

# Mesh indices along each contour, in MediaPipe's order of connection; a leading `o` closes the line.
_FACE_LINES = """
    o 10 338 297 332 284 251 389 356 454 323 361 288 397 365 379 378 400 377 152 148 176 149 150 136 172 58 132 93 234
    127 162 21 54 103 67 109
    o 61 146 91 181 84 17 314 405 321 375 291 409 270 269 267 0 37 39 40 185
    o 78 95 88 178 87 14 317 402 318 324 308 415 310 311 312 13 82 81 80 191
    o 33 7 163 144 145 153 154 155 133 173 157 158 159 160 161 246
    o 263 249 390 373 374 380 381 382 362 398 384 385 386 387 388 466
    . 46 53 52 65 55
    . 70 63 105 66 107
    . 276 283 282 295 285
    . 300 293 334 296 336
    o 469 470 471 472
    o 474 475 476 477
"""

POSE_EDGES: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (2, 4), (1, 3), (3, 5))
"""Pose rows are shoulders, elbows, wrists, left before right (MediaPipe pose 11 to 16)."""

_FINGERS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (0, 17, 18, 19, 20), (5, 9, 13, 17))
HAND_EDGES: tuple[tuple[int, int], ...] = tuple(pair for line in _FINGERS for pair in pairwise(line))
"""The 21 standard connections of a MediaPipe hand."""


def face_mirror() -> tuple[int, ...]:
    """Row permutation of the face group under a flip."""
    partner = FACE_MIRROR | {left: right for right, left in FACE_MIRROR.items()}
    row_of = {mesh: row for row, mesh in enumerate(FACE_MESH)}
    return tuple(row_of[partner.get(mesh, mesh)] for mesh in FACE_MESH)


def face_edges() -> tuple[tuple[int, int], ...]:
    """Contour lines of the face as pairs of face rows."""
    row_of = {mesh: row for row, mesh in enumerate(FACE_MESH)}
    edges: list[tuple[int, int]] = []
    for kind, *points in _lines():
        rows = [row_of[int(point)] for point in points]
        edges += pairwise(rows)
        if kind == "o":
            edges.append((rows[-1], rows[0]))
    return tuple(edges)


def _lines() -> list[list[str]]:
    """The contours as token lists, the kind first."""
    lines: list[list[str]] = []
    for token in _FACE_LINES.split():
        if token in "o.":
            lines.append([])
        lines[-1].append(token)
    return lines
