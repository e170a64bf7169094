"""Progress as BuildKit's `SolveStatus`, one JSON object a line."""

from __future__ import annotations

import base64
import hashlib
import threading
from typing import Any, TextIO

from assembler.cli.display.warned import warning
from assembler.cli.serial import dumps
from assembler.events import (
    Event,
    Finished,
    Forking,
    Planned,
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

OFTEN = 0.1  # seconds between two statuses of a blob

Told = (
    VertexStarted
    | VertexOutput
    | VertexWaiting
    | VertexProgress
    | VertexDone
    | VertexFailed
    | Warned
)


class RawJson:
    """A sink that writes to `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._started: dict[str, tuple[str, float]] = {}
        self._items: dict[tuple[str, str], tuple[float, float]] = {}

    def __call__(self, event: Event) -> None:
        """Write `event`."""
        if isinstance(event, Planned | VertexMissed | Requested | Forking | Finished):
            return  # BuildKit's status has no place for it
        with self._lock:
            if isinstance(event, VertexProgress) and not self._due(event):
                return
            document = self._document(event)
            try:
                self._stream.write(dumps(document) + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # a pipe without a reader, a terminal that hung up
                return  # nobody reads any more; the build goes on

    def _document(self, event: Told) -> dict[str, Any]:
        match event:
            case VertexStarted():
                self._started[event.vertex] = (event.name, event.time)
                return {"vertexes": [self._vertex(event.vertex)]}
            case VertexDone():
                ended = {"completed": _time(event.time), "cached": event.cached}
                return {"vertexes": [self._vertex(event.vertex) | ended]}
            case VertexFailed():
                # what readers of BuildKit's events take for cancelled work, by its last words
                error = "context canceled" if event.cancelled else event.message
                ended = {"completed": _time(event.time), "error": error}
                return {"vertexes": [self._vertex(event.vertex) | ended]}
            case VertexOutput():
                log = {
                    "vertex": _digest(event.vertex),
                    "stream": event.stream,
                    "data": base64.b64encode(event.output).decode(),
                    "timestamp": _time(event.time),
                }
                return {"logs": [log]}
            case VertexWaiting():
                waiting = {
                    "id": event.message,
                    "vertex": _digest(event.vertex),
                    "current": 0,
                    "total": 0,
                    "timestamp": _time(event.time),
                    "started": _time(event.time),
                }
                return {"statuses": [waiting]}
            case VertexProgress():
                status = {
                    "id": event.item,
                    "vertex": _digest(event.vertex),
                    "current": event.current,
                    "total": event.total,
                    "timestamp": _time(event.time),
                    "started": _time(self._items[event.vertex, event.item][0]),
                }
                if 0 < event.total <= event.current:
                    status["completed"] = _time(event.time)
                return {"statuses": [status]}
            case Warned():
                return {"warnings": [_warning(event)]}

    def _due(self, event: VertexProgress) -> bool:
        """Whether a blob's status is to be told: its first, its last, some between."""
        key = event.vertex, event.item
        started, told = self._items.get(key, (event.time, float("-inf")))
        due = not 0 <= event.time - told < OFTEN or 0 < event.total <= event.current
        self._items[key] = started, event.time if due else told
        return due

    def _vertex(self, id: str) -> dict[str, Any]:
        name, started = self._started[id]
        return {"digest": _digest(id), "name": name, "started": _time(started)}


def _warning(event: Warned) -> dict[str, Any]:
    """BuildKit's `VertexWarning`, without a vertex: it is about the whole build."""
    from assembler.dockerfile.lint import RULES

    document: dict[str, Any] = {"level": 1, "short": _encoded(warning(event))}
    if rule := RULES.get(event.rule):
        document["detail"] = [_encoded(rule.description)]
        document |= {"url": rule.url} if rule.url else {}
    if event.span is not None:
        place = {"start": {"line": event.span.start}, "end": {"line": event.span.end}}
        source = {
            "filename": event.span.source.name,
            "data": _encoded(event.span.source.text),
            "language": "Dockerfile",
        }
        document |= {"sourceInfo": source, "range": [place]}
    return document


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _digest(id: str) -> str:
    return f"sha256:{hashlib.sha256(id.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _time(seconds: float) -> str:
    import datetime

    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
