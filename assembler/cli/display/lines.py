"""What is said of a vertex, in lines of a terminal."""

from __future__ import annotations

from assembler.cli.display.board import CACHED, CANCELED, DONE, ERROR, Board, Work
from assembler.cli.display.cells import cut, row

HEADER, OUTPUT, WARNING = "HEADER", "OUTPUT", "WARNING"
LINES = 6  # of output below each step that runs, as buildx has

Line = tuple[str, str]
"""One line, and what it is: HEADER, OUTPUT, WARNING or the state of a vertex, empty for none."""


def whole(
    board: Board, columns: int, now: float, title: str, *, failed: bool = False
) -> list[Line]:
    """All of it, when it is over: a line of each vertex and what is to be said of it."""
    ends = {work.state for work in board.works.values()}
    badly = "CANCELED" if CANCELED in ends and ERROR not in ends else "FAILED"
    lines = [header(board, columns, now, title, badly if failed else "FINISHED")]
    for work in board.works.values():
        lines += [head(work, columns, now), *details(work, columns)]
    return lines


def header(board: Board, columns: int, now: float, title: str, end: str = "") -> Line:
    """How far all is, and after how long."""
    done = sum(work.state in (DONE, CACHED) for work in board.works.values())
    count = len(board.works) if end == "FINISHED" else board.expected
    text = f"[+] {title} {elapsed(now - board.started)} ({done}/{count}) {end}"
    return cut(text.rstrip(), columns), HEADER


def head(work: Work, columns: int, now: float) -> Line:
    """What it is, how it ended, and how long it took or takes so far."""
    marked = work.state in (CACHED, ERROR, CANCELED)
    left = f" => {work.state} {work.name}" if marked else f" => {work.name}"
    right = elapsed((work.ended if work.over else now) - work.started)
    if work.origin and columns >= 60:
        right = f"{work.origin}  {right}"
    return row(left, right, columns), work.state


def details(work: Work, columns: int) -> list[Line]:
    """Why it is done, what it fetched or sent, and what came of it."""
    style = work.state
    lines = [below(f"why: {work.reason}", columns, style)] if work.reason else []
    lines += [below(text, columns, style, elapsed(taken)) for text, taken in work.arrived]
    return [*lines, below(work.detail, columns, style)] if work.detail else lines


def below(text: str, columns: int, style: str, right: str = "") -> Line:
    """A line below that of a vertex."""
    return row(f" => => {text}", right, columns), style


def elapsed(seconds: float) -> str:
    """`seconds` as buildx shows them."""
    return f"{max(0.0, seconds):.1f}s"
