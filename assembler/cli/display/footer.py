"""Lines at the foot of a terminal that are drawn anew, below text that stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

OFTEN = 0.1  # seconds between two drawings
MOST = 8  # lines
_UP_AND_CLEAR = "\x1b[{}A\x1b[J"


class Footer:
    """What to write for it; it writes nothing itself. `columns` tells the terminal's width."""

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._lines: Sequence[str] = ()
        self._drawn = 0
        self._time = float("-inf")

    def above(self, text: str) -> str:
        """What writes `text` above the lines."""
        return self._cleared() + text + self._redrawn()

    def show(self, lines: Sequence[str], now: float) -> str:
        """What makes these the lines; nothing when they were drawn a moment ago."""
        self._lines = lines
        if lines and 0 <= now - self._time < OFTEN:
            return ""
        self._time = now
        return self._cleared() + self._redrawn()

    def _cleared(self) -> str:
        cleared = _UP_AND_CLEAR.format(self._drawn) if self._drawn else ""
        self._drawn = 0
        return cleared

    def _redrawn(self) -> str:
        shown = list(self._lines[:MOST])
        if len(self._lines) > MOST:
            shown[-1] = f"… and {len(self._lines) - MOST + 1} more"
        width = max(20, self._columns() - 1)
        self._drawn = len(shown)
        return "".join(f"{line[:width]}\n" for line in shown)
