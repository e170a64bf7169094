"""Changes to layer directories: each made once, several at once, and only when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from assembler.engine.blobs import ChangeBlobs
from assembler.engine.change import Change, Snapshot, StepChange
from assembler.engine.services import Services, Unpacker
from assembler.engine.sharing import shared
from assembler.errors import AssemblerError, Cancelled, StoreError
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry
from assembler.layer.compression import processors
from assembler.layer.directory import Lower
from assembler.layer.realise import realise
from assembler.layer.tree import Tree
from assembler.snapshot.base import Snapshotter
from assembler.store.disk import shortage

if TYPE_CHECKING:
    from concurrent.futures import Future


class LayerDirectories:
    """The layer directories of a build, made with `snapshotter` (None: none can be made). `tree` gives
    the merged view of a snapshot whose directories exist; `apart`, if any, unpacks beside us.
    """

    def __init__(
        self,
        services: Services,
        blobs: ChangeBlobs,
        snapshotter: Snapshotter | None,
        apart: Unpacker | None,
        tree: Callable[[Snapshot], Tree],
    ) -> None:
        self._services = services
        self._blobs = blobs
        self._snapshotter = snapshotter
        self._apart = apart
        self._tree = tree
        self._known: dict[str, str] = {}  # a step's lowers are those of the step before it

    def find(self, change: Change) -> str | None:
        """The directory of `change` if it was made."""
        found = self._known.get(change.id)
        if found is None and self._snapshotter is not None:
            found = self._snapshotter.find(change.id)
            if found is not None:
                self._known[change.id] = found
        return found

    def all(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The directories of `snapshot`, lowest first, all of them existing now."""
        self.make(snapshot)
        return tuple(self.one(change, snapshot[:n]) for n, change in enumerate(snapshot))

    def one(self, change: Change, below: Snapshot) -> str:
        """The directory of `change`, made from its changeset or blob if need be."""
        found = self._known.get(change.id)
        if found is None:
            self.make(below)
            found = self._made(change, below, lambda: self._tree(below).lookup)
        return found

    def make(self, snapshot: Snapshot) -> None:
        """Make those directories of `snapshot` that are made from blobs, all at once: blobs that must
        be fetched come together, and layers are taken apart as they are here."""
        lacking: dict[str, int] = {}  # a layer may be there twice
        for number, change in enumerate(snapshot):
            if not self.find(change):
                lacking.setdefault(change.id, number)
        # What a process beside us is told of the layers below are files.
        packed = [n for n in lacking.values() if not any(map(_in_memory, snapshot[: n + 1]))]
        if self._snapshotter is not None and len(packed) > 1:
            self._make_at_once(snapshot, packed)

    def _make_at_once(self, snapshot: Snapshot, numbers: list[int]) -> None:
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

        given_up = threading.Event()

        def check() -> None:
            self._services.cancellation.check()
            if given_up.is_set():
                raise Cancelled("another layer failed")

        making: list[Future[str]] = []
        threads = 1 if self._apart is None else processors()
        with (
            ThreadPoolExecutor(max_workers=max(1, self._services.jobs)) as fetches,
            ThreadPoolExecutor(threads) as makers,
        ):
            fetching = {
                number: fetches.submit(self._blobs.fetch, snapshot[number])
                for number in numbers
                if self._blobs.lacks(snapshot[number])
            }

            def made(number: int, before: tuple[Future[str], ...]) -> str:
                """The directory; the layers below are waited for if something is looked up there."""
                if number in fetching:
                    fetching[number].result()

                def lower() -> Lower:
                    for one in before:
                        one.result()
                    return self._tree(snapshot[:number]).lookup

                return self._made(snapshot[number], snapshot[:number], lower, check, self._apart)

            try:
                for number in numbers:  # the lowest first: so none waits for one that waits
                    making.append(makers.submit(made, number, tuple(making)))
                for one in wait(making, return_when=FIRST_EXCEPTION).done:
                    one.result()
            except BaseException:
                given_up.set()
                for executor in (fetches, makers):
                    executor.shutdown(wait=False, cancel_futures=True)
                raise

    def _made(
        self,
        change: Change,
        below: Snapshot,
        lower: Callable[[], Lower],
        check: Callable[[], None] | None = None,
        apart: Unpacker | None = None,
    ) -> str:
        snapshotter = self._snapshotter
        if snapshotter is None:
            raise StoreError("a layer must be unpacked, and this build entered no namespace")
        found = snapshotter.find(change.id)
        if found is None:
            # By what is below, too: who holds one of these locks waits for shorter stacks only.
            stack = (*(one.id for one in below), change.id)
            with self._blobs.locks[stack], self._turn(stack):
                if snapshotter.find(change.id) is None:
                    looked = _Looked(lower)
                    check = check or self._services.cancellation.check
                    create = partial(self._create, snapshotter, change, looked, check, apart)
                    self._blobs.with_intact(change, create)
                found = snapshotter.find(change.id)
        if found is None:
            raise StoreError(f"layer directory {change.id} vanished", change.id)
        self._known[change.id] = found
        return found

    def _turn(self, stack: tuple[str, ...]) -> AbstractContextManager[object]:
        services, title = self._services, f"[internal] unpack layer {stack[-1][:12]}"
        return shared(
            services.claims, f"layer {' '.join(stack)}", title, services.sink, services.clock
        )

    def _create(
        self,
        snapshotter: Snapshotter,
        change: Change,
        lower: Lower,
        check: Callable[[], None],
        apart: Unpacker | None,
    ) -> None:
        try:
            with snapshotter.create(change.id) as path:
                if isinstance(change, StepChange) and change.changeset is not None:
                    realise(change.changeset, path, lower=lower, check=check)
                else:
                    self._unpack(change, path, lower, check, apart)
        except (AssemblerError, OSError) as error:
            lacking = shortage(error, self._services.store.path)  # while everything is still there
            if lacking is None:
                raise
            raise lacking from error

    def _unpack(
        self,
        change: Change,
        into: str,
        lower: Lower,
        check: Callable[[], None],
        apart: Unpacker | None,
    ) -> None:
        layer, limits = self._blobs.layer(change), self._services.archive_limits
        diff_id = layer.diff_id
        with self._blobs.reading(change) as blob:
            if apart is None or layer.descriptor.size < apart.least:
                unpack(blob, into, diff_id=diff_id, check=check, lower=lower, limits=limits)
            else:
                path = self._services.store.blobs.path(layer.descriptor.digest)
                apart.unpack(path, into, diff_id=diff_id, check=check, lower=lower, limits=limits)


class _Looked:
    """What is below, found when it is first asked for."""

    def __init__(self, find: Callable[[], Lower]) -> None:
        self._find = find
        self._lower: Lower | None = None

    def __call__(self, path: str) -> Entry | None:
        if self._lower is None:
            self._lower = self._find()
        return self._lower(path)


def _in_memory(change: Change) -> bool:
    return isinstance(change, StepChange) and change.changeset is not None
