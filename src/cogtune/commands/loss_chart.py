"""A curve in the terminal, of braille characters: 2 x 4 dots each."""

from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column of its dots."""
_NARROWEST = 8
"""Characters of a curve in a narrow terminal."""


def chart(points: Sequence[tuple[int, float]], width: int, height: int) -> list[str]:
    """Lines of text with the curve through (step, value), sorted by step; values of one column are averaged. ``width`` and
    ``height``: in characters, with the scale on the left and the steps below."""
    if len(points) < 2:
        return []
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = 2 + max(len(f"{value:.4g}") for value in (low, high))
    columns = _columns(points, 2 * max(_NARROWEST, width - margin))
    low, high = min(columns.values()), max(columns.values())
    lines = _drawn(columns, max(_NARROWEST, width - margin), height, (low, high))
    marks = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    body = [f"{marks.get(i, ''):>{margin - 2}} ┤{line}" for i, line in enumerate(lines)]
    first, last = str(points[0][0]), str(points[-1][0])
    return [*body, " " * margin + first + last.rjust(max(_NARROWEST, width - margin) - len(first))]


def _drawn(columns: dict[int, float], width: int, height: int, scale: tuple[float, float]) -> list[str]:
    """The characters of the curve, with straight lines between columns that have a value."""
    low, high = scale
    cells = [[0] * width for _ in range(height)]
    rows = {x: round((high - value) / ((high - low) or 1.0) * (4 * height - 1)) for x, value in columns.items()}
    known = sorted(rows)
    above = rows[known[0]]
    for left, right in zip(known, [*known[1:], known[-1]], strict=True):
        for x in range(left, max(right, left + 1)):
            row = round(rows[left] + (rows[right] - rows[left]) * (x - left) / max(1, right - left))
            for dot in range(min(row, above), max(row, above) + 1):
                cells[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
            above = row
    return ["".join(chr(0x2800 + cell) for cell in line).rstrip("\u2800") for line in cells]


def _columns(points: Sequence[tuple[int, float]], count: int) -> dict[int, float]:
    """Column -> mean value."""
    first, last = points[0][0], points[-1][0]
    sums: dict[int, list[float]] = {}
    for step, value in points:
        sums.setdefault(round((step - first) / max(1, last - first) * (count - 1)), []).append(value)
    return {column: sum(values) / len(values) for column, values in sums.items()}
