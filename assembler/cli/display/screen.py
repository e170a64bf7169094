"""Lines at the foot of a terminal that change in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assembler.cli.display.lines import Line

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_ERASE = "\x1b[K"
_BLANK: Line = ("", "")
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
RESTORE = _WRAP + _SHOW
"""What makes the terminal as it was."""


class Screen:
    """What to write for them; it writes nothing itself. `colors` has the SGR parameters of styles.

    Between two drawings the cursor stands before the first of them: a terminal that is resized
    wraps lines anew and takes the cursor along, so that it is where they begin in any case. No line
    wraps, whatever width the terminal gives to its characters.
    """

    def __init__(self, colors: Mapping[str, str]) -> None:
        self._colors = colors
        self._shown: Sequence[Line] = ()
        self._rows = 0
        self._size = (0, 0)

    @property
    def rows(self) -> int:
        """How many rows it has of the terminal, 0 when nothing is drawn."""
        return self._rows

    def draw(self, lines: Sequence[Line], size: tuple[int, int], above: str = "") -> str:
        """What makes these the lines, which fit into `size`, columns and rows, with the text `above`
        before them; empty where nothing changed."""
        before = "" if self._rows else _HIDE
        if above or size != self._size:
            before += self._cleared(size) + _lines(above)
        text = self._room(len(lines)) + self._changes(lines)
        self._shown = lines
        if text:
            text = _NO_WRAP + text + _WRAP
        return before + text

    def leave(self, size: tuple[int, int], text: str = "") -> str:
        """What puts `text` in the place of the lines, and the cursor below it."""
        drawn = self._rows > 0
        return self._cleared(size) + _lines(text) + (RESTORE if drawn else "")

    def below(self) -> str:
        """What leaves the lines where they are, and puts the cursor below them."""
        if not self._rows:
            return ""
        down = "\r\n" * max(1, len(self._shown))
        self._shown, self._rows = (), 0
        return down + RESTORE

    def paint(self, lines: Sequence[Line]) -> str:
        """Lines as text that stays."""
        return "".join(f"{self._painted(line, 0)}\n" for line in lines)

    def _cleared(self, size: tuple[int, int]) -> str:
        rows, self._shown, self._rows = self._rows, (), 0
        resized, self._size = size != self._size, size
        if not rows:
            return ""
        if resized:  # nobody knows what rows they take now; nothing is below them
            return "\r\x1b[J"
        return "\r" + (_ERASE + _down(1)) * (rows - 1) + _ERASE + _up(rows - 1)

    def _room(self, count: int) -> str:
        """What makes the terminal scroll where it has no row yet for a line."""
        if count <= self._rows:
            return ""
        last = max(1, self._rows) - 1
        self._rows = count
        return _down(last) + "\r\n" * (count - 1 - last) + "\r" + _up(count - 1)

    def _changes(self, lines: Sequence[Line]) -> str:
        parts: list[str] = []
        at = 0
        for number, line in enumerate(lines):
            old = self._shown[number] if number < len(self._shown) else _BLANK
            if line != old:
                parts.append(_down(number - at) + self._change(old, line))
                at = number
        for number in range(len(lines), len(self._shown)):
            parts.append(_down(number - at) + "\r" + _ERASE)
            at = number
        return "".join([*parts, "\r", _up(at)]) if parts else ""

    def _change(self, old: Line, line: Line) -> str:
        same = _same(old[0], line[0]) if old[1] == line[1] else 0
        start = f"\x1b[{same + 1}G" if same else "\r"
        covers = line[0].isascii() and old[0].isascii() and len(line[0]) >= len(old[0])
        return start + self._painted(line, same) + ("" if covers else _ERASE)

    def _painted(self, line: Line, start: int) -> str:
        color = self._colors.get(line[1])
        text = line[0][start:]
        return f"\x1b[{color}m{text}\x1b[0m" if color and text else text


def _same(old: str, new: str) -> int:
    """How many characters of both need not be written again. What is not ASCII has columns that are
    not known for sure, and may be drawn on the character before it."""
    both = zip(old, new, strict=False)
    differing = (n for n, (one, other) in enumerate(both) if one != other or not one.isascii())
    same = next(differing, min(len(old), len(new)))
    if old[same : same + 1].isascii() and new[same : same + 1].isascii():
        return same
    return max(0, same - 1)


def _lines(text: str) -> str:
    return text.replace("\n", "\r\n")


def _up(count: int) -> str:
    return f"\x1b[{count}A" if count > 0 else ""


def _down(count: int) -> str:
    return f"\x1b[{count}B" if count > 0 else ""
