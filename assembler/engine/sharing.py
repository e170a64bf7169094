"""Work that is done once among builds on one store: a turn at it, and what is shown of waiting.

Nobody waits for something that waits for him: a step waits for steps below it, which it names in its
key; what is unpacked, for shorter stacks; whoever packs, for what is unpacked; and all of them for
blobs, which wait for nobody. While a thread has a turn it waits for no stage of its own build.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from assembler.engine.recorder import Vertex, vertex
from assembler.events import Sink
from assembler.oci.digest import Digest

if TYPE_CHECKING:  # a build that knows everything needs none
    from assembler.store.working import Tell, Turn

    Check = Callable[[], None] | None

    class Claims(Protocol):
        """See `store.working.Working.claim`."""

        def __call__(
            self, name: str, tell: Tell, check: Check = None
        ) -> AbstractContextManager[Turn]: ...


class Made:
    """What RUNs gave, of stages that take nothing from the cache, while one plan is executed: who is
    asked for the same in it takes that, as it would be one step under BuildKit. Threads may share it.
    """

    def __init__(self) -> None:
        self._keys: set[Digest] = set()
        self._guard = threading.Lock()
        self.name = os.urandom(16).hex()
        """Of the execution, for claims that no other build has a part in."""

    def add(self, *keys: Digest) -> None:
        """Results are recorded under `keys`."""
        with self._guard:
            self._keys.update(keys)

    def __contains__(self, key: Digest) -> bool:
        with self._guard:
            return key in self._keys


@contextmanager
def unclaimed(name: str, tell: Tell, check: Check = None) -> Iterator[Turn]:
    """For who neither waits for others nor lets them wait."""
    from assembler.store.working import Turn

    yield Turn()


@contextmanager
def shared(
    claims: Claims,
    name: str,
    title: str,
    sink: Sink,
    clock: Callable[[], float],
    check: Check = None,
) -> Iterator[Turn]:
    """A turn at `name`; look only then whether it is done. If that takes some time, a vertex `title`
    shows who is waited for; `check` is called meanwhile. Raises Cancelled, and what `check` raises.
    """
    with ExitStack() as stack:
        with ExitStack() as shown:
            waiting: list[Vertex] = []

            def tell(said: bytes | str) -> None:
                if not waiting:
                    waiting.append(shown.enter_context(vertex(f"wait {name}", title, sink, clock)))
                waiting[0].output(said)

            turn = stack.enter_context(claims(name, tell, check))
        yield turn
