"""A terminal that shows what was written to it, and knows no more than our displays may use."""

from __future__ import annotations

import re
import unicodedata

_TOKENS = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x00-\x1f\x7f-\x9f])|(.)", re.S)


class Terminal:
    """One of `columns` and `rows`, with `before` on its lines and the cursor below them. Whatever
    else than text, line ends, SGR and the cursor movements below comes fails the test.

    `scrollback` are the lines that left it at the top, `cursor` is row and column, `top` the highest
    row that the cursor was on since, counted from the first line that was scrolled away.
    """

    def __init__(self, columns: int, rows: int, before: str = "") -> None:
        self.columns, self.rows = columns, rows
        self.scrollback: list[str] = []
        self.cursor = (0, 0)
        self.hidden = False
        self.wraps = True
        self.top = 0
        self._grid: list[list[str]] = [[]]
        self._joined: list[bool] = [False]
        """Which rows go on with the text of the row above."""
        self._pending = False
        self.write(before.replace("\n", "\r\n"))
        self.top = len(self.scrollback) + self.cursor[0]

    @property
    def screen(self) -> str:
        """The lines, without blank ones at the end."""
        return "\n".join(map(_text, self._grid)).rstrip("\n")

    @property
    def everything(self) -> str:
        """What can be scrolled back to, and the screen."""
        return "\n".join([*self.scrollback, self.screen])

    def write(self, text: str) -> None:
        """Get `text`, in which `\\n` is a line feed alone."""
        for question, given, final, back, feed, char, other in _TOKENS.findall(text):
            if char:
                self._put(char)
            elif back:
                self._move(self.cursor[0], 0)
            elif feed:
                self._feed()
            elif final:
                self._control(question, given, final)
            else:
                raise AssertionError(f"{other!r} was written to the terminal")

    def resize(self, columns: int, rows: int) -> None:
        """Have another size. Lines that were wrapped, or have to be, are wrapped anew; the cursor
        stays where it is in the text, and in sight."""
        row, column = self.cursor
        lines: list[list[str]] = []
        at = (0, 0)
        for number, (cells, joined) in enumerate(zip(self._grid, self._joined, strict=True)):
            if joined:
                lines[-1] += [" "] * (-len(lines[-1]) % self.columns) + cells
            else:
                lines.append(list(cells))
            if number == row:
                at = (len(lines) - 1, len(lines[-1]) - len(cells) + column)
        self._grid, self._joined = [], []
        for number, cells in enumerate(lines):
            pieces = [cells[one : one + columns] for one in range(0, len(cells), columns)] or [[]]
            if number == at[0]:
                self.cursor = (len(self._grid) + at[1] // columns, at[1] % columns)
            self._grid += pieces
            self._joined += [False] + [True] * (len(pieces) - 1)
        self.columns, self.rows, self._pending = columns, rows, False
        self._fill(self.cursor[0])
        while len(self._grid) > rows:
            if self.cursor[0] > 0 and any(map(_text, self._grid[rows:])):
                self._scroll()
                self.cursor = (self.cursor[0] - 1, self.cursor[1])
            else:
                del self._grid[rows:], self._joined[rows:]
        self.top = len(self.scrollback) + self.cursor[0]

    def _put(self, char: str) -> None:
        if unicodedata.category(char) in ("Mn", "Me"):
            row, column = self.cursor
            if column:
                self._grid[row][column - 1] += char
            return
        width = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        row, column = self.cursor
        if self._pending or column + width > self.columns:
            if self.wraps:
                self._feed()
                row = self.cursor[0]
                column = 0
                self._joined[row] = True
            else:
                column = self.columns - width
        cells = self._grid[row]
        cells += [" "] * (column + width - len(cells))
        cells[column : column + width] = [char] + [""] * (width - 1)
        self._pending = column + width == self.columns
        self.cursor = (row, min(column + width, self.columns - 1))

    def _feed(self) -> None:
        row, column = self.cursor
        self._pending = False
        if row + 1 == self.rows:
            self._scroll()
            row -= 1
        self._move(row + 1, column)

    def _scroll(self) -> None:
        self.scrollback.append(_text(self._grid.pop(0)))
        self._joined.pop(0)

    def _move(self, row: int, column: int) -> None:
        self._pending = False
        self.cursor = (max(0, min(row, self.rows - 1)), max(0, min(column, self.columns - 1)))
        self.top = min(self.top, len(self.scrollback) + self.cursor[0])
        self._fill(self.cursor[0])

    def _fill(self, row: int) -> None:
        while len(self._grid) <= row:
            self._grid.append([])
            self._joined.append(False)

    def _control(self, question: str, given: str, final: str) -> None:
        row, column = self.cursor
        match question, given, final:
            case "", _, "m":
                return
            case "?", "25", "h" | "l":
                self.hidden = final == "l"
            case "?", "7", "h" | "l":
                self.wraps = final == "h"
            case "", _, "A":
                self._move(row - int(given), column)
            case "", _, "B":
                self._move(row + int(given), column)
            case "", _, "G":
                self._move(row, int(given) - 1)
            case "", "", "K":
                del self._grid[row][column:]
            case "", "", "J":
                del self._grid[row][column:], self._grid[row + 1 :], self._joined[row + 1 :]
            case _:
                raise AssertionError(f"CSI {question}{given}{final} was written to the terminal")


def _text(cells: list[str]) -> str:
    return "".join(cells).rstrip()
