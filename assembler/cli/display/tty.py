"""Progress on a terminal: a line of each step, changing in place, with the end of its output."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from assembler.cli.display.board import ERROR, Board, Work
from assembler.cli.display.lines import LINES, WARNING, Line, whole
from assembler.cli.display.screen import RESTORE, Screen
from assembler.cli.display.warned import summary, warning
from assembler.events import Event, Finished, Requested, VertexOutput, Warned
from assembler.source import printable

OFTEN = 0.1  # seconds between two drawings


class Tty:
    """A sink that draws on `stream` when `draw` is called; at the end what became of each step stays
    there, and the output of those that failed. A stream that is closed under it is written to no more.

    `size` tells the columns and rows. Once the process has been in the foreground, which `foreground`
    tells, nothing is drawn while it is not. `title` is what is done: `Building`. The `output` last
    lines of a step that runs are shown, if `watch` is given them.
    """

    def __init__(
        self,
        stream: TextIO,
        size: Callable[[], tuple[int, int]],
        *,
        title: str = "Building",
        colors: Mapping[str, str] | None = None,
        expand: bool = False,
        output: int = LINES,
        foreground: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._size = size
        self._title = title
        self._expand = expand
        self._output = output
        self._foreground = foreground
        self._clock = clock
        self._lock = threading.Lock()
        self._drawing = threading.Lock()
        self._board = Board()
        self._screen = Screen(colors or {})
        self._above: list[Line] = []
        self._warnings: dict[str, Warned] = {}
        self._closed = False
        self._ours = False

    def __call__(self, event: Event) -> None:
        """Take note of `event`; what was drawn makes room for what stays when it is the last."""
        with self._lock:
            match event:
                case Warned() if event.span is None:
                    self._above.append((f"WARNING: {printable(warning(event))}", WARNING))
                case Warned():
                    self._warnings.setdefault(warning(event), event)
                case Requested():
                    self._above.append((f"DEBUG: {printable(event.message)}", ""))
                case Finished():
                    text = self._end(event)
                case _:
                    self._board.take(event)
        if isinstance(event, Finished):
            self._emit(text)

    def watch(self, event: VertexOutput) -> None:
        """Take note of what a process writes, all of it: to the display itself comes what is kept."""
        with self._lock:
            self._board.watch(event)

    def draw(self) -> None:
        """Show what is now. Events are taken meanwhile, however slow the terminal is."""
        from assembler.cli.display.layout import (
            present,
        )  # which a build that is cached does not need

        foreground = self._foreground()
        self._ours = self._ours or foreground
        if self._closed or (self._ours and not foreground):
            return
        with self._drawing:
            size = columns, rows = self._size()
            with self._lock:
                above = self._screen.paint(self._above)
                self._above.clear()
                if self._board.works:
                    now, room = self._clock(), max(1, rows - 1)
                    lines = present(self._board, columns - 1, room, now, self._title, self._output)
                    text = self._screen.draw(list(map(self._encodable, lines)), size, above)
                else:
                    text = self._screen.leave(size, above)
            self._emit(text)

    def pause(self) -> None:
        """Leave the terminal to others for now; the next drawing is made below of what they wrote."""
        with self._drawing:
            with self._lock:
                text = self._screen.below()
            self._emit(text)

    @property
    def restoring(self) -> str:
        """What gives the terminal back where there is no time for more; empty where there is no need."""
        rows = self._screen.rows
        return "\r\n" * rows + RESTORE if rows else ""

    def _end(self, event: Finished) -> str:
        """What stays, see the class; the display begins anew with what comes after."""
        size = columns, _ = self._size()
        board, self._board = self._board, Board()
        lines = [*self._above]
        if board.works:
            lines += whole(board, columns - 1, event.time, self._title, failed=event.failed)
        text = self._screen.paint(list(map(self._encodable, lines)))
        for work in board.works.values():
            text += "".join(f"{line}\n" for line in _failure(work))
        text += summary(self._warnings.values(), expand=self._expand)
        self._above.clear()
        self._warnings.clear()
        return self._screen.leave(size, text)

    def _encodable(self, line: Line) -> Line:
        """`line` as the terminal gets it: what its characters are written as has a width, too."""
        encoding = self._stream.encoding
        if line[0].isascii() or encoding is None or encoding.lower().startswith("utf"):
            return line
        return line[0].encode(encoding, "replace").decode(encoding), line[1]

    def _emit(self, text: str) -> None:
        if self._closed or not text:
            return
        try:
            _write(self._stream, text)
        except (OSError, ValueError):  # a terminal that hung up
            self._closed = True  # nobody looks any more; the build goes on


def _write(stream: TextIO, text: str) -> None:
    """Write all of `text`, also where somebody made the terminal, which he shares, non-blocking:
    streams lose what they could not write then. Raises OSError, ValueError."""
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # in memory
        stream.write(text)
        return
    stream.flush()
    rest = memoryview(text.encode(stream.encoding, stream.errors or "backslashreplace"))
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()


def _failure(work: Work) -> Iterator[str]:
    """The output of a step that failed, as buildx shows it."""
    if work.state != ERROR or work.kept is None:
        return
    yield "------"
    yield f" > {work.name}:"
    yield from work.kept.lines(work.started)
    yield "------"
