"""Changes to directories, trees and packed layers: each made once, and only when asked for."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from assembler.engine.change import BaseChange, Change, Snapshot, StepChange
from assembler.engine.recompression import Recompression
from assembler.engine.services import Services, unseen
from assembler.errors import AssemblerError, BadArchive, BlobCorrupt, StoreError
from assembler.events import Warned
from assembler.layer import overlay
from assembler.layer.apply import unpack
from assembler.layer.changeset import ByteSource, Changeset, Entry
from assembler.layer.diff import changes
from assembler.layer.index import Indexer, IndexTree, LayerIndex, index
from assembler.layer.members import Members, SpooledMembers
from assembler.layer.realise import realise
from assembler.layer.table import MembersByPath, Table
from assembler.layer.tar_writer import Seen
from assembler.layer.tree import ChangesetTree, DirectoryTree, LayerTree, MergedTree, Tree
from assembler.layer.walk import entries
from assembler.layer.write import pack
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.snapshot.base import Snapshotter
from assembler.store.disk import shortage

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")


class Realisation:
    """Realises changes with the store's blobs and a snapshotter (None: no directory can be made).

    `spool` is a directory for bytes that the build needs to its end.
    """

    def __init__(
        self,
        services: Services,
        snapshotter: Snapshotter | None,
        epoch: int | None,
        spool: str = "",
    ) -> None:
        self._services = services
        self._snapshotter = snapshotter
        self._epoch = epoch
        self.spool = spool
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._directories: dict[str, str] = {}  # a step's lowers are those of the step before it
        self._indexed: dict[tuple[tuple[str, Table | None], ...], LayerTree] = {}

    @property
    def _recompression(self) -> Recompression:
        services = self._services
        return Recompression(
            services.compression,
            services.store,
            services.packed,
            services.cancellation.check,
            services.sink,
            services.clock,
            services.archive_limits,
        )

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
        """The layer directories of `snapshot`, topmost first, all of them existing now. Blobs that
        must be fetched for it come together, while those that are here are unpacked."""
        paths: list[str] = []
        with self._fetching(snapshot) as fetched:
            for number, change in enumerate(snapshot):
                if change.id in fetched:
                    fetched[change.id].result()
                paths.append(self.directory(change, snapshot[:number]))
        return overlay.showing(tuple(reversed(paths)))

    @contextmanager
    def _fetching(self, snapshot: Snapshot) -> Iterator[Mapping[str, Future[None]]]:
        """What brings the blobs that directories of `snapshot` lack, by the ids of their changes;
        nothing where there are not several."""
        lacking = [one for one in snapshot if isinstance(one, BaseChange) and self._lacks(one)]
        if len(lacking) < 2:
            yield {}
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=max(1, self._services.jobs)) as pool:
            try:
                yield {one.id: pool.submit(self.fetch, one) for one in lacking}
            finally:
                pool.shutdown(cancel_futures=True)

    def _lacks(self, change: BaseChange) -> bool:
        """Whether a blob must be fetched to make the directory of `change`."""
        if change.id in self._directories or self._snapshotter is None:
            return False
        has = self._services.store.blobs.has
        return self._snapshotter.find(change.id) is None and not has(change.descriptor.digest)

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
        lower = self.tree(below, unpack=True)  # before the lock: a thread never holds two of them
        with self._lock(change.id):
            found = snapshotter.find(change.id)
            if found is not None:
                return found
            self._with_intact(change, partial(self._create, snapshotter, change, lower))
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

    def tree(self, snapshot: Snapshot, *, unpack: bool = False, keep: bool = False) -> Tree:
        """A merged view of `snapshot`. Changesets in memory are used as they are.

        Layers that are in no directory are read from their file indexes, or unpacked first where
        `unpack` says that directories will be needed anyway. `keep` says that files of the tree
        will be read, so that blobs which must be fetched go into the store.
        """
        layers: list[LayerTree] = []
        unread: list[_Indexed] = []
        for number, change in enumerate(snapshot):
            below = snapshot[:number]
            if isinstance(change, StepChange) and change.changeset is not None:
                layers.append(ChangesetTree(change.changeset))
            elif self._snapshotter is not None and (unpack or self._snapshotter.find(change.id)):
                layers.append(DirectoryTree(self.directory(change, below)))
            else:
                load = partial(self._index_tree, change, below, keep)
                unread.append(_Indexed(load, lambda: self._all_at_once(unread)))
                layers.append(unread[-1])
        return MergedTree(tuple(reversed(layers)), packed=bool(unread))

    def _index_tree(self, change: Change, below: Snapshot, keep: bool) -> LayerTree:
        key = tuple(map(_named, (*below, change)))
        with self._lock(f"tree {key}"):  # held while those of lower layers are taken
            found = self._indexed.get(key)
            if found is None:
                lower = self.tree(below, keep=keep)
                found = self._table_tree(change, lower, keep)
                found = found or self._own_index_tree(change, lower, keep)
                self._indexed[key] = found
            return found

    def _own_index_tree(self, change: Change, lower: Tree, keep: bool) -> IndexTree:
        services = self._services
        members = SpooledMembers(
            partial(self._intact, change),
            self.spool,
            services.cancellation.check,
            services.archive_limits,
        )
        return IndexTree(self.index(change, keep=keep), members, lower)

    def _table_tree(self, change: Change, lower: Tree, keep: bool) -> LayerTree | None:
        """The tree of a layer by the table in its blob, where only names are asked for and nothing
        better is here."""
        if not isinstance(change, BaseChange) or keep or self._services.whole:
            return None
        table, store = Table.of(change.descriptor), self._services.store
        if table is None or store.indexes.has(change.diff_id):
            return None
        if store.blobs.has(change.descriptor.digest):
            return None
        content = store.indexes.load(table.digest)
        try:
            if content is not None:
                with suppress(ValueError):  # derived data: what is damaged is made anew
                    known = LayerIndex.parse(content, table.digest)
                    return IndexTree(known, self._by_path(change, known, lower), lower)
            part = self._services.part(change.image, change.descriptor, table.offset, table.size)
            if part is None:
                return None
            made = table.index(part)
            tree = IndexTree(made, self._by_path(change, made, lower), lower)
        except (ValueError, BadArchive):
            return None  # the layer itself tells what is wrong
        store.indexes.save(table.digest, made.serialise())
        return tree

    def _by_path(self, change: Change, index: LayerIndex, lower: Tree) -> Members:
        return MembersByPath(index, lambda: self._own_index_tree(change, lower, True))

    def _all_at_once(self, trees: list[_Indexed]) -> None:
        """Load what is not loaded of `trees`: blobs that must be fetched for it, together."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=max(1, self._services.jobs)) as pool:
            for loaded in [pool.submit(tree.load) for tree in trees]:
                loaded.result()

    def index(self, change: Change, *, keep: bool = False) -> LayerIndex:
        """The file index of a base layer or of a packed one: what the store has, else made from
        its blob. A blob that is not here is not stored when it passes through, unless `keep`.

        Raises BadArchive for a layer that cannot be trusted, and what `Services.fetch` raises.
        """
        layer = self._layer(change)
        diff_id = layer.diff_id
        store, check = self._services.store, self._services.cancellation.check
        limits = self._services.archive_limits
        with self._lock(f"index {diff_id}"):
            content = store.indexes.load(diff_id)
            if content is not None:
                with suppress(ValueError):  # derived data: what is damaged is made anew
                    return LayerIndex.parse(content, diff_id)
            with _naming(layer):
                if isinstance(change, BaseChange) and not store.blobs.has(layer.descriptor.digest):
                    with Indexer(diff_id, check, limits) as indexer:
                        self._pass_through(change, indexer, keep)
                        made = indexer.result()
                else:
                    made = self._with_intact(change, partial(self._indexed_blob, change))
            store.indexes.save(diff_id, made.serialise())
            return made

    def _indexed_blob(self, change: Change) -> LayerIndex:
        services, layer = self._services, self._layer(change)
        check, limits = services.cancellation.check, services.archive_limits
        with self._reading(change) as blob:
            return index(blob, layer.diff_id, check=check, limits=limits)

    def _pass_through(self, change: BaseChange, indexer: Indexer, keep: bool) -> None:
        services = self._services
        if keep or services.whole or services.wanted(change.descriptor):
            with self._lock(str(change.descriptor.digest)):
                self._services.fetch(change.image, change.descriptor, indexer.write)
        else:
            self._services.stream(change.image, change.descriptor, indexer.write)

    def _reading(self, change: Change) -> AbstractContextManager[BinaryIO]:
        """The blob of `change`, fetched if it is not here, for who reads it to its end."""
        if isinstance(change, BaseChange):
            self.fetch(change)
        return self._services.store.blobs.reading(self._layer(change).descriptor.digest)

    def _intact(self, change: Change) -> BinaryIO:
        """The blob of `change`, fetched if it is not here, for who reads a part of it."""
        blobs, digest = self._services.store.blobs, self._layer(change).descriptor.digest
        if isinstance(change, BaseChange):
            self.fetch(change)
        try:
            blobs.verify(digest)
        except BlobCorrupt as error:
            self._refetch(change, error)
        return blobs.open(digest)

    def _with_intact(self, change: Change, work: Callable[[], Result]) -> Result:
        """What `work`, which reads the blob of `change`, gives: done again where the blob was damaged
        and is a base layer's. One of a step raises BlobCorrupt: the step is to run again."""
        try:
            return work()
        except BlobCorrupt as error:
            self._refetch(change, error)
            return work()

    def _refetch(self, change: Change, damage: BlobCorrupt) -> None:
        if not isinstance(change, BaseChange):
            raise damage
        services = self._services
        services.sink(Warned(f"{damage.message}: it is fetched again", services.clock()))
        self.fetch(change)

    def _layer(self, change: Change) -> Layer:
        layer = self.packed(change)
        if layer is None:
            raise StoreError(f"the result {change.id} of an earlier step is gone", change.id)
        return layer

    def packed(self, change: Change) -> Layer | None:
        """The packed form of `change` if its blob is here (or, for a base layer, fetchable)."""
        if isinstance(change, BaseChange):
            return Layer(change.descriptor, change.diff_id)
        return self._blob(change)

    def pack(self, change: StepChange, below: Snapshot) -> Layer:
        """The packed form of `change`, its blob in the store afterwards."""
        with self._lock(f"pack {change.id}"):
            layer = self._blob(change)
            if layer is not None:
                return layer
            layer = self._pack(self._changeset(change, below))
            self.name(change.identity, layer)
            return layer

    def pack_first(self, changeset: Changeset) -> tuple[Layer, dict[ByteSource, bytes]]:
        """The packed form of a changeset that has no identity yet, and the SHA-256 digests of the
        bytes that were packed. `name` makes it that of an identity."""
        contents: dict[ByteSource, bytes] = {}

        def seen(entry: Entry, digest: bytes) -> None:
            if entry.source is not None:
                contents[entry.source] = digest

        return self._pack(changeset, seen), contents

    def name(self, identity: Digest, layer: Layer) -> None:
        """Remember that `layer` is what `identity` is packed to."""
        self._services.packed.record_packed(identity, self.variant, layer)

    def _pack(self, changeset: Changeset, seen: Seen | None = None) -> Layer:
        services = self._services
        with services.store.blobs.ingest(hashed=False) as ingest:
            packed = pack(
                changeset,
                ingest,
                services.compression,
                epoch=self._epoch,
                check=services.cancellation.check,
                seen=seen,
            )
            ingest.commit_as(packed.digest, packed.size)
        return self._recompression.described(packed)

    def base(self, change: BaseChange) -> Layer:
        """The layer of a base as the image has it: in the store afterwards, if it is another than
        its registry's or the build needs every layer."""
        layer = Layer(change.descriptor, change.diff_id)
        if self._services.recompress:
            again = partial(self._recompression.layer, layer, partial(self.fetch, change))
            made = self._with_intact(change, again)
            if made != layer:
                return made
        if self._services.whole:
            self.fetch(change)
        return layer

    def fetch(self, change: BaseChange) -> None:
        """Bring a base layer's blob into the store unless it is there."""
        with self._lock(str(change.descriptor.digest)):
            if not self._services.store.blobs.has(change.descriptor.digest):
                self._services.fetch(change.image, change.descriptor, unseen)

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
        layer = self._layer(change)
        with _naming(layer), self._reading(change) as blob:
            unpack(
                blob,
                into,
                diff_id=layer.diff_id,
                check=self._services.cancellation.check,
                lower=lower.lookup,
                limits=self._services.archive_limits,
            )

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks[name]


@contextmanager
def _naming(layer: Layer) -> Iterator[None]:
    """Have errors about what is in `layer` say which layer it is."""
    try:
        yield
    except BadArchive as error:
        message = f"layer {layer.descriptor.digest}: {error.message}"
        raise BadArchive(message, error.entry, hint=error.hint) from error


def _named(change: Change) -> tuple[str, Table | None]:
    """What the files of a layer are known by: of a base, its table of contents too."""
    return change.id, Table.of(change.descriptor) if isinstance(change, BaseChange) else None


class _Indexed:
    """A layer whose index is read when something is looked up in it, with those of the others."""

    def __init__(self, make: Callable[[], LayerTree], load_all: Callable[[], None]) -> None:
        self._make = make
        self._load_all = load_all
        self._tree: LayerTree | None = None

    def load(self) -> LayerTree:
        if self._tree is None:
            self._tree = self._make()
        return self._tree

    def lookup(self, path: str) -> Entry | None:
        return self._loaded().lookup(path)

    def children(self, path: str) -> Iterable[Entry]:
        return self._loaded().children(path)

    def opaque(self, path: str) -> bool:
        return self._loaded().opaque(path)

    def _loaded(self) -> LayerTree:
        if self._tree is None:
            self._load_all()
        return self.load()
