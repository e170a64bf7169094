"""Images of registries and the store, opened for one command that builds nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.events import Finished, Sink, Warned, discard
from assembler.images import Images
from assembler.store.disk import Disk, Fsync, shortage
from assembler.store.store import Store


@contextmanager
def pulling(
    environment: Environment,
    *,
    store: str = "",
    access: Access | None = None,
    sink: Sink = discard,
    cancellation: Cancellation,
    clock: Callable[[], float] = time.time,
) -> Iterator[Images]:
    """The images of the store at `store`, and of the registries that `access` leads to; what a
    `Builder` has, without importing what that builds with. Raises StoreUnusable, UsageError, and
    NoSpace in place of what comes of not being able to write."""

    def warn(message: str) -> None:
        sink(Warned(message, clock()))

    path = store or environment.store
    if environment.notice and path == environment.store:
        warn(environment.notice)
    disk = Disk(Fsync.named(environment.fsync), warn)
    with Store.open(path, cancellation, disk) as opened:
        try:
            with Images(
                opened,
                environment,
                access=access or Access(),
                sink=sink,
                cancellation=cancellation,
                clock=clock,
            ) as images:
                yield images
        except Exception as error:
            lacking = shortage(error, opened.path)
            if lacking is None:
                raise
            raise lacking from error
        finally:
            sink(Finished(clock()))
