"""The access matrix as an SVG picture, in light and dark colours. Each cell has a sign and words besides its colour."""

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from gateway.analysis.describe import callers_in_words, label_of
from gateway.analysis.matrix import AlignedRow, Cell, Matrix, aligned, cell_words
from gateway.observability.escaping import printable

_ROW: Final = 40
_CHANGED_ROW: Final = 54
_HEAD: Final = 44
_MARGIN: Final = 16
_LETTER: Final = 7.3  # the widest average that a sans-serif font has at 12 px
_MONOSPACE: Final = 7.4
_LONGEST: Final = 60
_STYLES: Final = {"yes": "yes", "no": "no", "owner": "part", "together": "part"}
_STYLE: Final = """\
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:#16191d}
.path{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}.soft{fill:#565e69}.mid{text-anchor:middle}
.page{fill:#fff}rect{stroke:#e2e5ea}.yes{fill:#e3f3e8}.no{fill:#fff}.part{fill:#fbf0d9}
.t-yes{fill:#17693a}.t-no{fill:#565e69}.t-part{fill:#8a5300}.old{text-decoration:line-through}
.mark{fill:none;stroke:#16191d;stroke-width:2}.bold{font-weight:650}
@media(prefers-color-scheme:dark){text{fill:#e8ebef}.soft{fill:#a4adb9}.page,.no{fill:#191d23}rect{stroke:#2c323a}
.yes{fill:#15301f}.part{fill:#352710}.t-yes{fill:#6fcf97}.t-no{fill:#a4adb9}.t-part{fill:#e8b455}.mark{stroke:#e8ebef}}"""


def as_svg(table: Matrix) -> Iterator[str]:
    """The picture of one matrix."""
    return _picture([AlignedRow(row, row) for row in table.rows], table.roles)


def compared_as_svg(old: Matrix, new: Matrix) -> Iterator[str]:
    """The picture of a change. Changed cells have a border and show both values."""
    return _picture(aligned(old, new), new.roles)


def _picture(rows: Sequence[AlignedRow], roles: Sequence[str]) -> Iterator[str]:
    titles = ["anonymous", "signed in", *roles]
    cells = [list(row.cells) for row in rows]
    first = max([_MONOSPACE * len(_label(row)) for row in rows] + [_LETTER * len(_note(row)) for row in rows] + [80])
    widths = [_width(title, [row[number] for row in cells]) for number, title in enumerate(titles)]
    heights = [_CHANGED_ROW if any(map(_is_changed, row)) else _ROW for row in cells]
    lefts = [_MARGIN + first + 20 + sum(widths[:number]) for number in range(len(widths) + 1)]
    width, height = lefts[-1] + _MARGIN, _HEAD + sum(heights) + 2 * _MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" role="img"><title>Access matrix: routes by roles</title><style>{_STYLE}</style>'
    )
    yield f'<rect class="page" width="{width:.0f}" height="{height}"/>'
    for left, size, title in zip(lefts, widths, titles, strict=False):
        yield _text(left + size / 2, _MARGIN + 26, title, "mid soft")
    top = _MARGIN + _HEAD
    for row, pairs, tall in zip(rows, cells, heights, strict=True):
        yield _text(_MARGIN, top + 17, _label(row), "path")
        yield _text(_MARGIN, top + 33, _note(row), "soft")
        for left, size, (before, after) in zip(lefts, widths, pairs, strict=False):
            yield from _cell(left, top, (size, tall), before, after)
        top += tall
    yield "</svg>"


def _cell(left: float, top: float, size: tuple[float, int], before: Cell | None, after: Cell | None) -> Iterator[str]:
    width, height = size
    shown = after or before
    assert shown is not None
    style, middle = _STYLES[shown.access], left + width / 2
    box = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}"'
    yield f'<rect class="{style}" {box}/>'
    if not _is_changed((before, after)):
        yield _text(middle, top + height / 2 + 4, cell_words(shown), f"mid t-{style}")
        return
    assert before is not None
    yield f'<rect class="mark" x="{left + 1:.1f}" y="{top + 1}" width="{width - 2:.1f}" height="{height - 2}"/>'
    yield _text(middle, top + 22, cell_words(before), f"mid old t-{_STYLES[before.access]}")
    yield _text(middle, top + 40, cell_words(shown), f"mid bold t-{style}")


def _is_changed(pair: tuple[Cell | None, Cell | None]) -> bool:
    return None not in pair and pair[0] != pair[1]


def _width(title: str, cells: Sequence[tuple[Cell | None, Cell | None]]) -> float:
    words = [cell_words(cell) for pair in cells for cell in pair if cell is not None]
    return _LETTER * max(map(len, (title, *words))) + 20


def _label(row: AlignedRow) -> str:
    label = printable(label_of(row.route))
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST // 2]}…{label[1 - _LONGEST // 2 :]}"


def _note(row: AlignedRow) -> str:
    """The callers that pass, and whether the route is added or removed."""
    mark = "+ added: " if row.old is None else "− removed: " if row.new is None else ""
    note = printable(mark + callers_in_words(row.route))
    return note if len(note) <= _LONGEST else f"{note[: _LONGEST - 1]}…"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(printable(text))}</text>'
