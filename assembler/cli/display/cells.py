"""Text in the columns of a terminal."""

from __future__ import annotations

from assembler.source import columns_of


def cut(text: str, columns: int) -> str:
    """As much of `text` as fits into `columns`; where something is missing it ends with `…`."""
    if len(text) <= columns and (text.isascii() or columns_of(text) <= columns):
        return text
    if columns < 1:
        return ""
    if text.isascii():
        return f"{text[: columns - 1]}…"
    taken, room = 0, columns - 1
    for char in text:
        room -= columns_of(char)
        if room < 0:
            break
        taken += 1
    return f"{text[:taken]}…"


def row(left: str, right: str, columns: int) -> str:
    """`left`, cut if need be, and `right` at the end of `columns`; without `right` where it would
    take more than half of them."""
    if not right or 2 * columns_of(right) > columns:
        return cut(left, columns)
    room = columns - columns_of(right) - 1
    left = cut(left, room)
    return f"{left}{' ' * (room - columns_of(left))} {right}"
