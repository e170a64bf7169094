"""Progress as buildx prints it without a terminal: `#N [stage n/m] …`, output lines, `DONE`."""

from __future__ import annotations

import threading
from typing import TextIO

from assembler.ages import origin, since
from assembler.cli.display.output import logged
from assembler.cli.display.transfers import Transfer
from assembler.cli.display.warned import summary, warning
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
from assembler.source import printable
from assembler.values import mutable

LINE_LIMIT = 1 << 16  # bytes of a line that are held back waiting for its end


@mutable
class _Vertex:
    number: int
    name: str
    started: float
    pending: bytes = b""


def _cached(event: VertexDone) -> str:
    """That it was, from where, and how old."""
    said = origin(event.source, since(event.ran, event.time))
    return f"CACHED ({printable(said)})" if said else "CACHED"


class Plain:
    """A sink that writes to `stream`. A stream that is closed under it is written to no more.

    What is to be said about the Dockerfile is said at the end; with `expand` at length. Blobs on
    their way have a line at times.
    """

    def __init__(self, stream: TextIO, *, expand: bool = False) -> None:
        self._stream = stream
        self._expand = expand
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
                    self._write(summary(self._warnings.values(), expand=self._expand))
                    self._warnings.clear()
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
        if transfer.due():
            self._line(self._vertexes[event.vertex], printable(transfer.line()))

    def _flush(self, id: str, time: float) -> _Vertex:
        vertex = self._vertexes[id]
        for key in [key for key in self._transfers if key[0] == id]:
            del self._transfers[key]
        return self._end_line(vertex, time)

    def _end_line(self, vertex: _Vertex, time: float) -> _Vertex:
        """Show what was held back of a line."""
        if vertex.pending:
            self._text(vertex, vertex.pending, time)
            vertex.pending = b""
        return vertex

    def _text(self, vertex: _Vertex, line: bytes, time: float) -> None:
        self._line(vertex, f"{time - vertex.started:.3f} {logged(line)}")

    def _line(self, vertex: _Vertex, text: str) -> None:
        if self._shown and self._shown != vertex.number:
            self._write("\n")
            if text != printable(vertex.name):
                self._write(f"#{vertex.number} {printable(vertex.name)}\n")
        self._shown = vertex.number
        self._write(f"#{vertex.number} {text}\n")

    def _write(self, text: str) -> None:
        if self._closed or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a pipe without a reader, a terminal that hung up
            self._closed = True  # nobody reads any more; the build goes on
