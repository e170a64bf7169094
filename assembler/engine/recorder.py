"""Times and events of one vertex of a build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from assembler.errors import Cancelled
from assembler.events import (
    Sink,
    VertexDone,
    VertexFailed,
    VertexMissed,
    VertexOutput,
    VertexStarted,
    VertexWaiting,
)
from assembler.values import mutable


@mutable
class Vertex:
    """A piece of work being reported. `output` is what the display shows of a process."""

    id: str
    name: str
    sink: Sink
    clock: Callable[[], float]
    cached: bool = False
    detail: str = ""
    source: str = ""
    ran: float = 0.0

    def known(self, source: str, ran: float) -> None:
        """Nothing is done: the result came from `source`, empty for the store, and ran at `ran`."""
        self.cached, self.source, self.ran = True, where(source), ran

    def missed(self, reason: str) -> None:
        """Report why it is done, if there is something to say."""
        if reason:
            self.sink(VertexMissed(self.id, reason, self.clock()))

    def output(self, said: bytes | str) -> None:
        """Report output of a process; text is a line about who is waited for (`store.working`)."""
        if isinstance(said, str):
            self.sink(VertexWaiting(self.id, said, self.clock()))
        else:
            self.sink(VertexOutput(self.id, said, self.clock()))


@contextmanager
def vertex(id: str, name: str, sink: Sink, clock: Callable[[], float]) -> Iterator[Vertex]:
    """Report the start of a piece of work, then how it ended; the error goes on."""
    work = Vertex(id, name, sink, clock)
    sink(VertexStarted(id, name, clock()))
    try:
        yield work
    except BaseException as error:
        cancelled = isinstance(error, Cancelled | KeyboardInterrupt)
        sink(VertexFailed(id, name, str(error), clock(), cancelled))
        raise
    sink(VertexDone(id, name, clock(), work.cached, work.detail, work.source, work.ran))


def where(source: str) -> str:
    """What people are told of a result from `source`, which is empty for the store."""
    return f"from {place_of(source)}" if source else "local"


def place_of(source: str) -> str:
    """`source`; of a path its last name: where directories of this host are is in no record."""
    if source.startswith(("/", "./", "../")):
        return f"directory {source.rstrip('/').rpartition('/')[2]}"
    return source


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC: whole seconds as `2026-01-02T03:04:05Z`, else with nanoseconds."""
    import time

    whole = int(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    nanoseconds = int((seconds - whole) * 1_000_000_000)
    return f"{text}.{nanoseconds:09d}Z" if nanoseconds else f"{text}Z"
