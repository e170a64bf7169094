"""Output of steps: all of it in a file each, and what a display is given cut as BuildKit cuts it
(dockerfile-language.md 18.5).

    <directory>/<build>/<n>.log    the bytes of step n as they came

A display that cannot keep up, or a terminal, is spared a step that writes gigabytes; where the cut
step then fails, its last lines are shown after all.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

from assembler.events import (
    Event,
    Finished,
    Sink,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexStarted,
    discard,
)
from assembler.values import mutable

MAX_SIZE, MAX_SPEED = 2 << 20, 200 << 10  # bytes, bytes a second
_KEPT_BUILDS = 20
_TAIL = 4 << 10


@mutable
class _Step:
    started: float
    number: int = 0
    file: BinaryIO | None = None
    size: int = 0
    shown: int = 0
    cut: bool = False
    tail: bytes = b""
    lost: str = ""
    """Why the file does not hold everything; a full disk ends no build for the sake of a log."""


class StepLogs:
    """A sink in front of `sink`. `max_size` bytes of a step are passed on, and no more than
    `max_speed` bytes for each second it has taken; -1 is no limit. `watch` is given all of them,
    when they come."""

    def __init__(
        self,
        sink: Sink,
        directory: str,
        max_size: int = MAX_SIZE,
        max_speed: int = MAX_SPEED,
        watch: Callable[[VertexOutput], None] = discard,
    ) -> None:
        self._sink = sink
        self._watch = watch
        self._directory = directory
        self._max_size = max_size
        self._max_speed = max_speed
        self._build = ""
        self._steps: dict[str, _Step] = {}
        self._opened = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Keep `event`'s output, and pass on what the limits let through."""
        match event:
            case VertexStarted():
                self._steps[event.vertex] = _Step(event.time)
                self._sink(event)
            case VertexOutput():
                self._output(event)
            case VertexDone() | VertexFailed():
                self._end(event)
                self._sink(event)
            case Finished():
                self._close()
                self._sink(event)
            case _:
                self._sink(event)

    def path(self, vertex: str) -> str:
        """Where the output of a vertex is, empty when it has written nothing."""
        step = self._steps.get(vertex)
        return f"{self._build}/{step.number}.log" if step is not None and step.number else ""

    def _output(self, event: VertexOutput) -> None:
        step = self._steps.setdefault(event.vertex, _Step(event.time))
        self._watch(event)
        self._keep(step, event.output)
        step.size += len(event.output)
        if step.cut:
            step.tail = (step.tail + event.output)[-_TAIL:]
            return
        allowed, reason = self._allowed(step, event.time)
        passed = event.output[: max(0, allowed - step.shown)] if allowed >= 0 else event.output
        if passed:
            step.shown += len(passed)
            self._sink(VertexOutput(event.vertex, passed, event.time, event.stream))
        if len(passed) < len(event.output):
            step.cut, step.tail = True, event.output[len(passed) :][-_TAIL:]
            self._say(event.vertex, f"[output clipped, log limit {reason} reached]", event.time)

    def _keep(self, step: _Step, output: bytes) -> None:
        if step.lost:
            return
        try:
            if step.file is None:
                step.file = self._open(step)
            step.file.write(output)
        except OSError as error:
            step.lost = error.strerror or str(error)

    def _allowed(self, step: _Step, now: float) -> tuple[int, str]:
        """How many bytes of a step may have been shown by now (-1: any), and why not more."""
        speed = -1
        if self._max_speed >= 0:
            speed = max(1, math.ceil(now - step.started)) * self._max_speed
        if speed < 0 or 0 <= self._max_size <= speed:
            return self._max_size, _size(self._max_size)
        return speed, f"{_size(self._max_speed)}/s"

    def _end(self, event: VertexDone | VertexFailed) -> None:
        step = self._steps.get(event.vertex)
        if step is None:
            return
        if step.cut:
            if isinstance(event, VertexFailed) and step.tail:
                self._say(event.vertex, "[the last lines:]", event.time)
                whole = len(step.tail) < _TAIL
                lines = step.tail if whole else step.tail.partition(b"\n")[2] or step.tail
                output = lines.rstrip(b"\n") + b"\n"
                self._sink(VertexOutput(event.vertex, output, event.time))
            self._say(event.vertex, f"[all of the output: {self.path(event.vertex)}]", event.time)
        _close(step)
        if step.lost:
            self._say(event.vertex, f"[the log file is not whole: {step.lost}]", event.time)

    def _say(self, vertex: str, text: str, now: float) -> None:
        self._sink(VertexOutput(vertex, f"\n{text}\n".encode(), now))

    def _open(self, step: _Step) -> BinaryIO:
        with self._lock:
            if not self._build:
                self._build = self._begin()
            self._opened += 1
            step.number = self._opened
        return open(f"{self._build}/{step.number}.log", "xb", buffering=1 << 16)

    def _begin(self) -> str:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        import shutil

        names = sorted(os.listdir(self._directory))
        for name in names[: max(0, len(names) - _KEPT_BUILDS + 1)]:
            shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = os.path.join(self._directory, f"{stamp}-{os.getpid()}")
        os.makedirs(path, mode=0o700)
        return path

    def _close(self) -> None:
        for step in self._steps.values():
            _close(step)


def _close(step: _Step) -> None:
    if step.file is None:
        return
    try:
        step.file.close()
    except OSError as error:  # what was buffered; the descriptor is closed all the same
        step.lost = step.lost or error.strerror or str(error)


def limits(variables: Mapping[str, str]) -> tuple[int, int]:
    """BUILDKIT_STEP_LOG_MAX_SIZE and BUILDKIT_STEP_LOG_MAX_SPEED in bytes, -1 for no limit; what
    is no number is passed over, as BuildKit does."""

    def read(name: str, otherwise: int) -> int:
        text = variables.get(name, "").strip()
        return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else otherwise

    size = read("BUILDKIT_STEP_LOG_MAX_SIZE", MAX_SIZE)
    return size, read("BUILDKIT_STEP_LOG_MAX_SPEED", MAX_SPEED)


def _size(count: int) -> str:
    return f"{count >> 20}MiB" if count >= 1 << 20 else f"{count / 1024:g}KiB"
