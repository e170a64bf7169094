"""Changes to directories, trees and packed layers: each made once, and only when asked for."""

from __future__ import annotations

import threading
from collections import defaultdict

from assembler.engine.change import BaseChange, Change, Snapshot, StepChange
from assembler.engine.services import Services
from assembler.errors import AssemblerError, BlobCorrupt, StoreError
from assembler.layer.apply import unpack
from assembler.layer.changeset import Changeset
from assembler.layer.diff import changes
from assembler.layer.realise import realise
from assembler.layer.tree import ChangesetTree, DirectoryTree, LayerTree, MergedTree, Tree
from assembler.layer.walk import entries
from assembler.layer.write import pack
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Layer
from assembler.snapshot.base import Snapshotter
from assembler.store.disk import shortage


class Realisation:
    """Realises changes with the store's blobs and a snapshotter (None: only packing is possible)."""

    def __init__(
        self, services: Services, snapshotter: Snapshotter | None, epoch: int | None
    ) -> None:
        self._services = services
        self._snapshotter = snapshotter
        self._epoch = epoch
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._directories: dict[str, str] = {}  # a step's lowers are those of the step before it

    @property
    def variant(self) -> str:
        """What besides its identity decides a packed layer's bytes."""
        return f"{self._services.compression.identity} epoch={self._epoch}"

    def available(self, change: StepChange) -> bool:
        """Whether the bytes of a recorded step are still here, in one form or another."""
        if change.changeset is not None:
            return True
        if self._snapshotter is not None and self._snapshotter.find(change.id):
            return True
        return self._blob(change) is not None

    def directories(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The layer directories of `snapshot`, topmost first, all of them existing now."""
        paths = [self.directory(change, snapshot[:n]) for n, change in enumerate(snapshot)]
        return tuple(reversed(paths))

    def directory(self, change: Change, below: Snapshot) -> str:
        """The layer directory of `change`, made from its changeset or blob if need be."""
        found = self._directories.get(change.id)
        if found is None:
            found = self._directories[change.id] = self._found_or_made(change, below)
        return found

    def _found_or_made(self, change: Change, below: Snapshot) -> str:
        snapshotter = self._snapshotter
        if snapshotter is None:
            raise StoreError("a layer must be unpacked, and this build entered no namespace")
        found = snapshotter.find(change.id)
        if found is not None:
            return found
        lower = self.tree(below)  # before the lock: a thread never holds two of them
        with self._lock(change.id):
            found = snapshotter.find(change.id)
            if found is not None:
                return found
            try:
                self._create(snapshotter, change, lower)
            except BlobCorrupt:
                if not isinstance(change, BaseChange):
                    raise
                self._create(snapshotter, change, lower)  # it is gone, and is fetched again
            found = snapshotter.find(change.id)
        if found is None:
            raise StoreError(f"layer directory {change.id} vanished", change.id)
        return found

    def _create(self, snapshotter: Snapshotter, change: Change, lower: Tree) -> None:
        try:
            self._fill(snapshotter, change, lower)
        except (AssemblerError, OSError) as error:
            lacking = shortage(error, self._services.store.path)  # while everything is still there
            if lacking is None:
                raise
            raise lacking from error

    def _fill(self, snapshotter: Snapshotter, change: Change, lower: Tree) -> None:
        with snapshotter.create(change.id) as path:
            if isinstance(change, StepChange) and change.changeset is not None:
                realise(
                    change.changeset,
                    path,
                    lower=lower.lookup,
                    check=self._services.cancellation.check,
                )
            else:
                self._unpack(change, lower, path)

    def tree(self, snapshot: Snapshot) -> Tree:
        """A merged view of `snapshot`. Changesets in memory are used as they are."""
        layers: list[LayerTree] = []
        for number, change in enumerate(snapshot):
            if isinstance(change, StepChange) and change.changeset is not None:
                layers.append(ChangesetTree(change.changeset))
            else:
                layers.append(DirectoryTree(self.directory(change, snapshot[:number])))
        return MergedTree(tuple(reversed(layers)))

    def packed(self, change: Change) -> Layer | None:
        """The packed form of `change` if its blob is here (or, for a base layer, fetchable)."""
        if isinstance(change, BaseChange):
            return Layer(change.descriptor, change.diff_id)
        return self._blob(change)

    def pack(self, change: Change, below: Snapshot) -> Layer:
        """The packed form of `change`, its blob in the store afterwards."""
        if isinstance(change, BaseChange):
            self.fetch(change)
            return Layer(change.descriptor, change.diff_id)
        with self._lock(f"pack {change.id}"):
            layer = self._blob(change)
            if layer is not None:
                return layer
            services = self._services
            with services.store.blobs.ingest(hashed=False) as ingest:
                packed = pack(
                    self._changeset(change, below),
                    ingest,
                    services.compression,
                    epoch=self._epoch,
                    check=services.cancellation.check,
                )
                ingest.commit_as(packed.digest, packed.size)
            media_type = services.compression.media_type
            layer = Layer(Descriptor(media_type, packed.digest, packed.size), packed.diff_id)
            services.packed.record_packed(change.identity, self.variant, layer)
            return layer

    def fetch(self, change: BaseChange) -> None:
        """Bring a base layer's blob into the store unless it is there."""
        with self._lock(str(change.descriptor.digest)):
            if not self._services.store.blobs.has(change.descriptor.digest):
                self._services.fetch(change.image, change.descriptor)

    def _blob(self, change: StepChange) -> Layer | None:
        layer = self._services.packed.packed(change.identity, self.variant)
        if layer is None or not self._services.store.blobs.has(layer.descriptor.digest):
            return None
        return layer

    def _changeset(self, change: StepChange, below: Snapshot) -> Changeset:
        if change.changeset is not None:
            return change.changeset
        path = self.directory(change, below)
        if change.from_run:
            return tuple(changes(path, self.directories(below)))
        return tuple(entries(path))

    def _unpack(self, change: Change, lower: Tree, into: str) -> None:
        if isinstance(change, BaseChange):
            self.fetch(change)
            layer = Layer(change.descriptor, change.diff_id)
        else:
            found = self._blob(change)
            if found is None:
                raise StoreError(f"the result {change.id} of an earlier step is gone", change.id)
            layer = found
        with self._services.store.blobs.reading(layer.descriptor.digest) as blob:
            unpack(
                blob,
                into,
                diff_id=layer.diff_id,
                check=self._services.cancellation.check,
                lower=lower.lookup,
            )

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks[name]
