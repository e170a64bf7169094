"""Runtimes that are Python functions: what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from assembler.cancellation import Cancellation
from assembler.runtime.base import Process, Root, RunMount


class FakeRuntime:
    """A runtime whose processes are calls of `execute`. `ran` has the last word of each argv."""

    name = "fake"

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
        cancellation: Cancellation,
    ) -> int:
        """See `Runtime.run`."""
        self.ran.append(process.argv[-1])
        return self.execute(process, root, mounts, output)

    def execute(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
    ) -> int:
        """What the process does, and its exit status."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Runtime.close`."""
