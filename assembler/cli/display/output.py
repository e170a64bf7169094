"""What processes wrote, made fit to be shown: nothing of it may steer a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from assembler.expressions import expression
from assembler.source import printable

_ESCAPES = expression(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_TOKENS = expression(
    r"\x1b\[([0-?]*)[ -/]*([@-~])"  # CSI (ECMA-48 5.4)
    r"|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, SOS, PM and APC with what they hold
    r"|\x1b[ -/]*[0-~]?"
    r"|[\r\b\t]"
    r"|[^\x1b\r\b\t]+"
)
_TAIL, _LINE = 8 << 10, 2 << 10  # bytes that are kept of all output, and looked at of one line
_FAR = 1000  # columns: no terminal is wider


def logged(line: bytes) -> str:
    """A line without its end as a log has it: what stood there last, without escape sequences."""
    clean = _ESCAPES.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2])
    return printable(clean.decode("utf-8", "replace"))


class Kept:
    """Output with the times it came at, for when its step fails."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._times: list[tuple[int, float]] = []

    def add(self, output: bytes, time: float) -> None:
        """Keep `output`, which came at `time`."""
        if not self._times or time - self._times[-1][1] >= 0.001:  # what will be shown of times
            self._times.append((len(self._bytes), time))
        self._bytes += output

    def lines(self, started: float) -> Iterator[str]:
        """Each line behind the seconds from `started` on, as a log has it."""
        if not self._bytes:
            return
        times = iter([*self._times[1:], (len(self._bytes) + 1, 0.0)])
        time, (until, following) = self._times[0][1], next(times)
        end = -1
        for line in bytes(self._bytes).removesuffix(b"\n").split(b"\n"):
            end += len(line) + 1
            while end >= until:
                time = following
                until, following = next(times)
            yield f"{time - started:.3f} {logged(line)}"


class Tail:
    """The end of the output of a process, as a terminal would show it: carriage returns,
    backspaces and erased lines of progress bars are heeded. Adding is cheap, looking is not."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._seen: tuple[int, list[str]] | None = None

    def add(self, output: bytes) -> None:
        """Take note of `output`."""
        self._seen = None
        self._bytes += output[-2 * _TAIL :]
        if len(self._bytes) > 2 * _TAIL:
            del self._bytes[:-_TAIL]
            _, end, rest = self._bytes.partition(b"\n")
            if end and rest:
                self._bytes = rest

    def lines(self, count: int) -> list[str]:
        """The last `count` lines or fewer, without any control character."""
        if self._seen is None or self._seen[0] != count:
            last = bytes(self._bytes.removesuffix(b"\n"))
            found = last.rsplit(b"\n", count)[-count:] if last and count else []
            self._seen = count, [_drawn(line) for line in found]
        return self._seen[1]


def _drawn(line: bytes) -> str:
    """What a terminal of one long line shows when it got `line`."""
    if len(line) > _LINE:
        line = line[-_LINE:]
        line = line.partition(b"\r")[2].strip(b"\r") or line
    text = line.decode("utf-8", "replace")
    if text.isprintable():
        return text
    cells: list[str] = []
    at = 0
    for token in _TOKENS.finditer(text):
        piece, final = token[0], token[2]
        if final is not None:
            at = _steered(cells, at, final, token[1])
        elif piece == "\r":
            at = 0
        elif piece == "\b":
            at = max(0, at - 1)
        elif piece[0] != "\x1b":
            piece = " " * (8 - at % 8) if piece == "\t" else piece
            cells += " " * (at - len(cells))
            cells[at : at + len(piece)] = piece
            at += len(piece)
    return printable("".join(cells).rstrip())


def _steered(cells: list[str], at: int, final: str, given: str) -> int:
    """Where the cursor is after a control sequence that concerns its line; others do nothing."""
    number = min(int(given), _FAR) if given.isdecimal() and given.isascii() else 0
    match final:
        case "K" if number == 0:
            del cells[at:]
        case "K" if number == 1:
            cells[:at] = " " * min(at, len(cells))
        case "K":
            cells.clear()
        case "C":
            return min(_FAR, at + max(1, number))
        case "D":
            return max(0, at - max(1, number))
        case "G":
            return max(1, number) - 1
    return at
