"""What happened, as small frozen values. Displays are folds over them; nothing else prints.

Times are seconds since the epoch. A `vertex` is the string id of a piece of work: a step of a
stage (`build/3`), the pull of a base image, the export. It is display data, never part of a key.
"""

from __future__ import annotations

from collections.abc import Callable

from assembler.source import Span
from assembler.values import value


@value
class Planned:
    """Work that is going to be done, the ids of its vertexes; there may be more."""

    vertexes: tuple[str, ...]
    time: float


@value
class VertexStarted:
    """Work began; `name` is what buildx would print (`[build 2/5] RUN make`)."""

    vertex: str
    name: str
    time: float


@value
class VertexOutput:
    """Bytes a process wrote, as they came: any encoding, any line length."""

    vertex: str
    output: bytes
    time: float
    stream: int = 1


@value
class VertexWaiting:
    """Work waits for what another build is at; `message` says for whom, or how that ended."""

    vertex: str
    message: str
    time: float


@value
class VertexProgress:
    """`current` of `total` bytes of the thing named `item` (total 0: not known)."""

    vertex: str
    item: str
    current: int
    total: int
    time: float


@value
class VertexDone:
    """Work ended well. `cached` says that nothing was done; `detail` is one short remark. Of a step's
    result that was known, `source` says where (`local`, `from ghcr.io/o/app:cache`), and `ran` when it
    was made, 0.0 where nobody knows."""

    vertex: str
    name: str
    time: float
    cached: bool = False
    detail: str = ""
    source: str = ""
    ran: float = 0.0


@value
class VertexMissed:
    """A step's result is not known, so that it is done; `reason` is the first thing that differs from
    the nearest earlier one, in the user's terms."""

    vertex: str
    reason: str
    time: float


@value
class VertexFailed:
    """Work ended badly; the error itself is raised as well."""

    vertex: str
    name: str
    message: str
    time: float
    cancelled: bool = False


@value
class Warned:
    """Something the user should know that stops nothing; `rule` is the lint rule it comes from."""

    message: str
    time: float
    rule: str = ""
    span: Span | None = None


@value
class Requested:
    """A request to a registry is over: one line about it, for --debug."""

    message: str
    time: float


@value
class Forking:
    """This process is about to fork or to enter a namespace, which it has to be alone for: a sink
    with a thread has ended it when it returns, and has none until some work begins."""

    time: float


@value
class Finished:
    """Nothing more will come, whether it went well or not."""

    time: float
    failed: bool = False


Event = (
    Planned
    | VertexStarted
    | VertexOutput
    | VertexWaiting
    | VertexProgress
    | VertexMissed
    | VertexDone
    | VertexFailed
    | Warned
    | Requested
    | Forking
    | Finished
)
Sink = Callable[[Event], None]
"""A function of one event. It may be called from several threads at once, and must not block long."""


def discard(event: Event) -> None:
    """A sink for callers that want to hear nothing."""
