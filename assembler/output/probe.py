"""Repositories asked whether they will take a push while the image for them is built: who may not push
learns it before the steps are done, and who may waits for nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from assembler.cancellation import NOTICING, Cancellation
from assembler.errors import AssemblerError, RegistryError
from assembler.oci.reference import Reference
from assembler.registry import client as connections
from assembler.registry.client import RegistryClient
from assembler.registry.permission import forget, refusal

Refusal = Callable[[Reference, RegistryError], None]


class Probe:
    """Asks the repositories of `references`: registries at once, those of one in turn. `refused` is told
    of each that will not take a push. What fails in passing is left to whoever pushes."""

    def __init__(
        self, client: RegistryClient, references: Sequence[Reference], refused: Refusal
    ) -> None:
        self._client = client
        self._references = references
        self._refused = refused
        self._limit: _Limit | None = None
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Begin to ask, once. Returns at once."""
        if self._limit is not None:
            return
        self._limit = _Limit()
        registries: dict[str, list[Reference]] = {}
        for reference in self._references:
            registries.setdefault(reference.registry, []).append(reference)
        for references in registries.values():
            thread = threading.Thread(
                target=self._ask, args=(self._limit, references), name="probe"
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ask no more, and tell nobody what is still answered."""
        if self._limit is not None:
            self._limit.stop()

    def close(self) -> None:
        """Wait until no thread is left, and give up the uploads that nobody went on with. An answer that
        is on its way may name one, so it is waited for, but not for long."""
        if self._limit is None:
            return
        with self._limit as limit:
            end = time.monotonic() + connections.FAREWELL
            while any(thread.is_alive() for thread in self._threads):
                if time.monotonic() > end:
                    limit.cancel()
                self._threads[0].join(NOTICING)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
        forget(self._client)

    def _ask(self, limit: _Limit, references: Sequence[Reference]) -> None:
        with suppress(AssemblerError, OSError), self._client.until(limit) as client:
            for reference in references:
                error = refusal(client, reference)
                if limit.stopped:
                    return
                if error is not None:
                    self._refused(reference, error)


class _Limit(Cancellation):
    """What is stopped begins no attempt any more; what is cancelled does not wait for answers either."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let what is under way be answered, and begin nothing after it."""
        self._stopped.set()

    def wait(self, seconds: float) -> bool:
        """See `Cancellation.wait`: between attempts, where nothing is under way."""
        if self._stopped.wait(seconds):
            self.cancel()
        return self.cancelled
