"""What was running when a build was cancelled, for the line that says so."""

from __future__ import annotations

from assembler.events import Event, Sink, VertexFailed


class Stopped:
    """A sink in front of `sink`. `names` are of the work that was cancelled, in the order it ended."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._names: list[str] = []

    def __call__(self, event: Event) -> None:
        """Note `event`, and pass it on."""
        if isinstance(event, VertexFailed) and event.cancelled:
            self._names.append(event.name)
        self._sink(event)

    @property
    def names(self) -> tuple[str, ...]:
        """See above."""
        return tuple(self._names)
