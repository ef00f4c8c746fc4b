"""Page parts in, one self-contained HTML page out.

Everything that comes from outside (names, texts, file names) passes through `html.escape` here and nowhere else.
The page asks for nothing from the network: styles are inline, pictures are embedded, there are no scripts.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from functools import singledispatch
from itertools import groupby

from trainer.report.style import CSS
from trainer.tasks.page import Beside, Cell, Code, Details, Notice, Part, Picture, Section, Share, Table, Text, Tiles

_MIME = {"svg": "image/svg+xml", "png": "image/png"}
_BADGES = {"good": "ok", "note": "note", "warn": "warn", "stop": "stop"}
_BAR_PIXELS = 64


def page(title: str, header: Sequence[Part], sections: Sequence[Section], footer: str) -> str:
    """The whole document: title and header, links to the sections, the sections."""
    anchors = [f"s{number}" for number in range(len(sections))]
    links = "".join(f'<a href="#{a}">{_text(s.title)}</a>' for a, s in zip(anchors, sections, strict=True))
    body = "".join(_section(a, s) for a, s in zip(anchors, sections, strict=True))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{_text(title)} - training report</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n<header><h1>{_text(title)}</h1>{_parts(header)}</header>\n"
        f"<nav>{links}</nav>\n<main>\n{body}</main>\n<footer>{_text(footer)}</footer>\n</body>\n</html>\n"
    )


def _section(anchor: str, section: Section) -> str:
    return f'<section id="{anchor}">\n<h2>{_text(section.title)}</h2>\n{_parts(section.parts)}</section>\n'


def _parts(parts: Iterable[Part]) -> str:
    """Parts in order; neighbouring pictures share one grid."""
    chunks = []
    for is_picture, group in groupby(parts, key=lambda part: isinstance(part, Picture)):
        inner = "".join(_part(part) for part in group)
        chunks.append(f'<div class="pictures">\n{inner}</div>\n' if is_picture else inner)
    return "".join(chunks)


@singledispatch
def _part(part: object) -> str:
    raise AssertionError(f"no such part of a page: {type(part).__name__}")


@_part.register
def _(part: Text) -> str:
    return f'<p class="{"muted" if part.muted else "text"}" dir="auto">{_text(part.text)}</p>\n'


@_part.register
def _(part: Notice) -> str:
    title = f"<strong>{_text(part.title)}</strong> " if part.title else ""
    badge = f'<span class="badge">{_BADGES[part.severity]}</span>'
    return f'<div class="notice {part.severity}">{badge}<div dir="auto">{title}{_text(part.text)}</div></div>\n'


@_part.register
def _(part: Tiles) -> str:
    tiles = "".join(
        f'<div class="tile"><div class="label">{_text(tile.label)}</div><div class="value" dir="auto">'
        f'{_text(tile.value)}</div><div class="remark">{_text(tile.remark)}</div></div>'
        for tile in part.tiles
    )
    return f'<div class="tiles">{tiles}</div>\n'


@_part.register
def _(part: Picture) -> str:
    data = base64.b64encode(part.data).decode("ascii")
    caption = f"<figcaption>{_text(part.caption)}</figcaption>" if part.caption else ""
    return (
        f'<figure class="{"wide" if part.wide else "half"}">{caption}<img alt="{_text(part.alt)}" '
        f'style="max-width:{part.width}px" src="data:{_MIME[part.kind]};base64,{data}"></figure>\n'
    )


@_part.register
def _(part: Beside) -> str:
    return f'<div class="beside"><div>{_part(part.left)}</div><div>{_part(part.right)}</div></div>\n'


@_part.register
def _(part: Details) -> str:
    return f"<details><summary>{_text(part.summary)}</summary>\n{_parts(part.parts)}</details>\n"


@_part.register
def _(part: Table) -> str:
    numeric = [_is_numeric(part, column) for column in range(len(part.columns))]
    head = "".join(
        f"<th{_class('number', right)}>{_text(name)}</th>" for name, right in zip(part.columns, numeric, strict=True)
    )
    rows = "".join(_row(row, numeric, position in part.marked) for position, row in enumerate(part.rows))
    caption = f"<caption>{_text(part.caption)}</caption>" if part.caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>\n'


def _row(row: Sequence[Cell], numeric: Sequence[bool], is_marked: bool) -> str:
    cells = "".join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))
    return f"<tr{_class('marked', is_marked)}>{cells}</tr>\n"


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers only (and so stands at the right)."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, (int, float)) for cell in cells)


def _class(name: str, given: bool) -> str:
    return f' class="{name}"' if given else ""


def _cell(cell: Cell, right: bool) -> str:
    if isinstance(cell, Share):
        return _share(cell)
    if isinstance(cell, Code):
        return f"<td><code>{_text(cell.text)}</code></td>"
    if isinstance(cell, str):
        # Only other scripts need the browser to find the direction; leaving it out keeps long tables light.
        direction = "" if cell.isascii() else ' dir="auto"'
        return f"<td{direction}>{_text(cell)}</td>"
    return f"<td{_class('number', right)}>{number(cell)}</td>"


def _share(cell: Share) -> str:
    if cell.value is None:
        return '<td class="number">&ndash;</td>'
    width = _BAR_PIXELS * min(1.0, max(0.0, cell.value))
    return f'<td class="share"><span>{cell.value:.3f}</span><i style="width:{width:.0f}px"></i></td>'


def number(value: float | int | None) -> str:
    """A number as people read it: whole ones with separators, others with four significant digits."""
    if value is None or value != value:
        return "&ndash;"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size and not 1e-3 <= size < 1e9:
        return f"{value:.3e}"
    digits = 4 if size < 10 else 2 if size < 1000 else 0
    return f"{value:,.{digits}f}"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
