"""What a display of the present knows of a build: a fold over its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assembler.ages import origin, since
from assembler.events import (
    Event,
    Planned,
    VertexDone,
    VertexFailed,
    VertexMissed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    VertexWaiting,
)
from assembler.expressions import expression
from assembler.source import printable
from assembler.values import field, mutable

if TYPE_CHECKING:
    from assembler.cli.display.lines import Line
    from assembler.cli.display.output import Kept, Tail
    from assembler.cli.display.transfers import Transfer

RUNNING, DONE, CACHED, ERROR, CANCELED = "RUNNING", "DONE", "CACHED", "ERROR", "CANCELED"
_STAGE = expression(r"\[(.*?) *[0-9]+/[0-9]+\] ")


@mutable
class Work:
    """One vertex. All texts are printable."""

    name: str
    stage: str
    """The name of the stage that it is a step of (rule S18), else empty."""
    started: float
    state: str = RUNNING
    ended: float = 0.0
    waiting: str = ""
    reason: str = ""
    detail: str = ""
    origin: str = ""
    ran: tuple[float, float] | None = None
    """When it was done in an attempt before this one."""
    moving: dict[str, Transfer] = field(default_factory=dict)
    arrived: list[tuple[str, float]] = field(default_factory=list)
    """Blobs that have come or gone, and in how many seconds."""
    lines: tuple[int, list[Line]] | None = None
    """What is shown of it on so many columns, once it has ended."""
    tail: Tail | None = None
    kept: Kept | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state != RUNNING

    def end(self, state: str, time: float, detail: str) -> None:
        """Note that it has."""
        self.state, self.ended, self.detail = state, time, printable(detail)
        self.waiting, self.tail, self.lines = "", None, None
        self.moving.clear()
        if state in (DONE, CACHED):
            self.kept = None


class Board:
    """All vertexes, in the order they began."""

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self.planned: set[str] = set()
        self.started = 0.0

    @property
    def expected(self) -> int:
        """How many there will be, as far as that is known."""
        return len(self.planned | self.works.keys())

    def take(self, event: Event) -> None:
        """Note `event`. Output is kept for when its step fails; what moves is given to `watch`."""
        match event:
            case Planned():
                self.planned.update(event.vertexes)
            case VertexStarted():
                self._start(event.vertex, event.name, event.time)
            case VertexOutput():
                work = self.works[event.vertex]
                if work.kept is None:
                    from assembler.cli.display.output import Kept

                    work.kept = Kept()
                work.kept.add(event.output, event.time)
            case VertexWaiting():
                self.works[event.vertex].waiting = printable(event.message)
            case VertexMissed():
                self.works[event.vertex].reason = printable(event.reason)
            case VertexProgress():
                self._progress(event)
            case VertexDone():
                self._done(self.works[event.vertex], event)
            case VertexFailed():
                work = self.works[event.vertex]
                state = CANCELED if event.cancelled else ERROR
                told = event.cancelled or work.kept is not None  # by what it wrote
                work.end(state, event.time, "" if told else event.message)

    def watch(self, event: VertexOutput) -> None:
        """Note what a process wrote just now."""
        work = self.works[event.vertex]
        work.waiting = ""
        if work.tail is None:
            from assembler.cli.display.output import Tail

            work.tail = Tail()
        work.tail.add(event.output)

    def _start(self, id: str, name: str, time: float) -> None:
        self.started = self.started or time
        work = self.works.get(id)
        if work is None:
            name = printable(name)
            found = _STAGE.match(name)
            self.works[id] = Work(name, found[1] if found else "", time)
        elif work.over:  # a build that begins again, be it for a second output
            work.ran = (work.started, work.ended) if work.state == DONE else None
            work.state, work.started, work.kept = RUNNING, time, None
        else:  # a blob of it went ahead
            work.name = printable(name)

    def _done(self, work: Work, event: VertexDone) -> None:
        if event.cached and work.ran is not None:
            work.end(DONE, event.time, event.detail)
            work.started, work.ended = work.ran
            return
        work.end(CACHED if event.cached else DONE, event.time, event.detail)
        work.origin = printable(origin(event.source, since(event.ran, event.time)))

    def _progress(self, event: VertexProgress) -> None:
        if event.vertex not in self.works:
            self._start(event.vertex, event.vertex, event.time)
        work = self.works[event.vertex]
        transfer = work.moving.get(event.item)
        if transfer is None:
            from assembler.cli.display.transfers import Transfer

            transfer = work.moving[event.item] = Transfer.of(event)
        else:
            transfer.take(event)
        if transfer.over or work.over:
            del work.moving[event.item]
            if transfer.over and transfer.under_way:
                taken = transfer.time - transfer.started
                work.arrived.append((printable(transfer.arrival()), taken))
