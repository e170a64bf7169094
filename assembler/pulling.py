"""A store, and the images of it and of registries, opened for one command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.events import Finished, Sink, Warned, discard
from assembler.images import Images
from assembler.store.disk import Disk, Fsync, refusal, shortage
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
) -> Iterator[tuple[Store, Images]]:
    """The store at `store`, its images, and those of the registries that `access` leads to: a
    `Builder` begins with that, who only pulls imports no more. Raises StoreUnusable, UsageError, and
    NoSpace or StoreUnusable in place of what comes of not being able to write, wherever that was."""

    def warn(message: str) -> None:
        sink(Warned(message, clock()))

    path = store or environment.store
    if environment.notice and path == environment.store:
        warn(environment.notice)
    disk = Disk(Fsync.named(environment.fsync), warn)
    opened = Store.open(path, cancellation, disk)
    images = Images(
        opened,
        environment,
        access=access or Access(),
        sink=sink,
        cancellation=cancellation,
        clock=clock,
    )
    failed = True
    try:
        with opened, images:
            yield opened, images
        failed = False
    except Exception as error:
        reason = shortage(error, opened.path) or refusal(error, opened.path)
        if reason is None:
            raise
        raise reason from error
    finally:
        sink(Finished(clock(), failed))
