"""Progress as buildx prints it without a terminal: `#N [stage n/m] …`, output lines, `DONE`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from assembler.ages import origin, since
from assembler.cli.display.transfers import Transfer
from assembler.events import (
    Event,
    Finished,
    Requested,
    VertexDone,
    VertexFailed,
    VertexMissed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    VertexWaiting,
    Warned,
)
from assembler.expressions import expression
from assembler.source import excerpt, printable
from assembler.values import mutable

if TYPE_CHECKING:
    from assembler.cli.display.footer import Footer

LINE_LIMIT = 1 << 16  # bytes of a line that are held back waiting for its end
_ESCAPES = expression(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")


@mutable
class _Vertex:
    number: int
    name: str
    started: float
    pending: bytes = b""


def warning(event: Warned) -> str:
    """A warning in one line, as buildx shows it: rule, message, line."""
    rule = f"{event.rule}: " if event.rule else ""
    line = f" (line {event.span.start})" if event.span else ""
    return f"{rule}{event.message}{line}"


def _cached(event: VertexDone) -> str:
    """That it was, from where, and how old."""
    said = origin(event.source, since(event.ran, event.time))
    return f"CACHED ({printable(said)})" if said else "CACHED"


def _details(event: Warned) -> Iterator[str]:
    from assembler.dockerfile.lint import RULES

    if rule := RULES.get(event.rule):
        yield rule.description
        if rule.url:
            yield f"More info: {rule.url}"
    if event.span is not None:
        yield excerpt(event.span)


class Plain:
    """A sink that writes to `stream`. A stream that is closed under it is written to no more.

    What is to be said about the Dockerfile is said at the end; with `expand` at length. Blobs on
    their way have a line at times, or with `footer`, on a terminal, one each that moves.
    """

    def __init__(
        self, stream: TextIO, *, expand: bool = False, footer: Footer | None = None
    ) -> None:
        self._stream = stream
        self._expand = expand
        self._footer = footer
        self._transfers: dict[tuple[str, str], Transfer] = {}
        self._warnings: dict[str, Warned] = {}
        self._lock = threading.Lock()
        self._vertexes: dict[str, _Vertex] = {}
        self._shown = 0
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Show `event`."""
        with self._lock:
            match event:
                case VertexStarted():
                    self._start(event)
                case VertexOutput():
                    self._output(self._vertexes[event.vertex], event)
                case VertexDone():
                    vertex = self._flush(event.vertex, event.time)
                    if event.detail:
                        self._line(vertex, event.detail)
                    done = f"DONE {event.time - vertex.started:.1f}s"
                    self._line(vertex, _cached(event) if event.cached else done)
                case VertexWaiting():
                    vertex = self._end_line(self._vertexes[event.vertex], event.time)
                    self._line(vertex, printable(event.message))
                case VertexMissed():
                    self._line(self._vertexes[event.vertex], f"RUN: {printable(event.reason)}")
                case VertexFailed():
                    vertex = self._flush(event.vertex, event.time)
                    error = "CANCELED" if event.cancelled else f"ERROR: {printable(event.message)}"
                    self._line(vertex, error)
                case Warned():
                    if event.span is None:
                        self._write(f"WARNING: {printable(warning(event))}\n")
                    else:
                        self._warnings.setdefault(warning(event), event)
                case Requested():
                    self._write(f"DEBUG: {printable(event.message)}\n")
                case Finished():
                    self._transfers.clear()
                    self._draw(event.time)
                    self._sum_up()
                case VertexProgress():
                    self._progress(event)

    def _start(self, event: VertexStarted) -> None:
        if event.vertex in self._vertexes:
            return  # a blob of it went ahead
        number = len(self._vertexes) + 1
        vertex = self._vertexes[event.vertex] = _Vertex(number, event.name, event.time)
        self._line(vertex, printable(event.name))

    def _output(self, vertex: _Vertex, event: VertexOutput) -> None:
        *lines, vertex.pending = (vertex.pending + event.output).split(b"\n")
        if len(vertex.pending) > LINE_LIMIT:
            lines.append(vertex.pending)
            vertex.pending = b""
        for line in lines:
            self._text(vertex, line, event.time)

    def _progress(self, event: VertexProgress) -> None:
        if event.vertex not in self._vertexes:
            self._start(VertexStarted(event.vertex, event.vertex, event.time))
        key = event.vertex, event.item
        transfer = self._transfers.get(key)
        if transfer is None:
            transfer = self._transfers[key] = Transfer.of(event)
        else:
            transfer.take(event)
        if transfer.over:
            del self._transfers[key]
        self._draw(event.time)
        if transfer.due() and (self._footer is None or transfer.over):
            self._line(self._vertexes[event.vertex], printable(transfer.line()))

    def _draw(self, now: float) -> None:
        if self._footer is None:
            return
        lines = [
            f"#{self._vertexes[id].number} {printable(transfer.live())}"
            for (id, _), transfer in self._transfers.items()
        ]
        self._emit(self._footer.show(lines, now))

    def _flush(self, id: str, time: float) -> _Vertex:
        vertex = self._vertexes[id]
        if broken_off := [key for key in self._transfers if key[0] == id]:
            for key in broken_off:
                del self._transfers[key]
            self._draw(time)
        return self._end_line(vertex, time)

    def _end_line(self, vertex: _Vertex, time: float) -> _Vertex:
        """Show what was held back of a line."""
        if vertex.pending:
            self._text(vertex, vertex.pending, time)
            vertex.pending = b""
        return vertex

    def _text(self, vertex: _Vertex, line: bytes, time: float) -> None:
        clean = _ESCAPES.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2])
        text = printable(clean.decode("utf-8", "replace"))
        self._line(vertex, f"{time - vertex.started:.3f} {text}")

    def _sum_up(self) -> None:
        """The warnings as buildx lists them at the end."""
        if not self._warnings:
            return
        count = len(self._warnings)
        found = "1 warning found" if count == 1 else f"{count} warnings found"
        hint = "" if self._expand else " (use assemble --debug to expand)"
        self._write(f"\n {found}{hint}:\n")
        for text, event in self._warnings.items():
            self._write(f" - {printable(text)}\n")
            if self._expand:
                self._write("".join(f"{line}\n" for line in _details(event)) + "\n")
        self._warnings.clear()

    def _line(self, vertex: _Vertex, text: str) -> None:
        if self._shown and self._shown != vertex.number:
            self._write("\n")
            if text != printable(vertex.name):
                self._write(f"#{vertex.number} {printable(vertex.name)}\n")
        self._shown = vertex.number
        self._write(f"#{vertex.number} {text}\n")

    def _write(self, text: str) -> None:
        self._emit(text if self._footer is None else self._footer.above(text))

    def _emit(self, text: str) -> None:
        if self._closed or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a pipe without a reader, a terminal that hung up
            self._closed = True  # nobody reads any more; the build goes on
