"""Changes to directories, trees and packed layers: each made once, and only when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial

from assembler.engine.blobs import ChangeBlobs, named
from assembler.engine.change import BaseChange, Change, Snapshot, StepChange
from assembler.engine.recompression import recompression
from assembler.engine.services import Services, Unpacker
from assembler.engine.sharing import shared
from assembler.engine.take import unseen
from assembler.engine.unpacking import LayerDirectories
from assembler.errors import BadArchive
from assembler.layer import overlay
from assembler.layer.changeset import Changeset, Entry, RangeBytes
from assembler.layer.diff import changes
from assembler.layer.digest_map import DigestMap
from assembler.layer.entry_map import changeset_tree
from assembler.layer.index import IndexTree, LayerIndex, index
from assembler.layer.indexer import Indexer
from assembler.layer.members import SpooledMembers
from assembler.layer.table import MembersByPath, Table
from assembler.layer.tar_writer import Seen
from assembler.layer.tree import DirectoryTree, LayerTree, MergedTree, Tree
from assembler.layer.walk import entries
from assembler.layer.write import pack
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.snapshot.base import Snapshotter


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
        apart: Unpacker | None = None,
    ) -> None:
        self._services = services
        self._epoch = epoch
        self.spool = spool
        self.blobs = ChangeBlobs(services, epoch)
        self._locks = self.blobs.locks
        self._layers = LayerDirectories(
            services, self.blobs, snapshotter, apart, lambda below: self.tree(below, unpack=True)
        )
        self._indexed: dict[tuple[tuple[str, Table | None], ...], LayerTree] = {}

    def _turn(self, name: str, title: str) -> AbstractContextManager[object]:
        services = self._services
        return shared(services.claims, name, f"[internal] {title}", services.sink, services.clock)

    @property
    def variant(self) -> str:
        """See `engine.blobs.ChangeBlobs.variant`."""
        return self.blobs.variant

    def available(self, change: StepChange) -> bool:
        """Whether the bytes of a recorded step are still here, in one form or another."""
        if change.changeset is not None or self._layers.find(change):
            return True
        return self.packed(change) is not None

    def hold(self, change: Change) -> None:
        """Have nobody collect the layer directory of `change`, even if it is only made later."""
        self._layers.find(change)

    def directories(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The layer directories of `snapshot`, topmost first, all of them existing now."""
        return overlay.showing(self._layers.all(snapshot)[::-1])

    def directory(self, change: Change, below: Snapshot) -> str:
        """The layer directory of `change`, made from its changeset or blob if need be."""
        return self._layers.one(change, below)

    def tree(self, snapshot: Snapshot, *, unpack: bool = False, keep: bool = False) -> Tree:
        """A merged view of `snapshot`. Changesets in memory are used as they are.

        Layers that are in no directory are read from their file indexes, or unpacked first where
        `unpack` says that directories will be needed anyway. `keep` says that files of the tree
        will be read, so that blobs which must be fetched go into the store.
        """
        if unpack:
            self._layers.make(snapshot)
        layers: list[LayerTree] = []
        unread: list[_Indexed] = []
        for number, change in enumerate(snapshot):
            below = snapshot[:number]
            if isinstance(change, StepChange) and change.changeset is not None:
                layers.append(changeset_tree(change.changeset))
            elif unpack or self._layers.find(change):
                layers.append(DirectoryTree(self.directory(change, below)))
            else:
                load = partial(self._index_tree, change, below, keep)
                unread.append(_Indexed(load, lambda: self._all_at_once(unread)))
                layers.append(unread[-1])
        return MergedTree(tuple(reversed(layers)), packed=bool(unread))

    def _index_tree(self, change: Change, below: Snapshot, keep: bool) -> LayerTree:
        key = tuple(map(_named, (*below, change)))
        with self._locks[f"tree {key}"]:  # held while those of lower layers are taken
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
            partial(self.blobs.intact, change),
            self.spool,
            services.cancellation.check,
            services.archive_limits,
        )
        return IndexTree(self.index(change, keep=keep), members, lower, self.spool)

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
                    return self._told_tree(change, known, lower)
            part = self._services.part(change.image, change.descriptor, table.offset, table.size)
            if part is None:
                return None
            made = table.index(part, self.spool)
            tree = self._told_tree(change, made, lower)
        except (ValueError, BadArchive):
            return None  # the layer itself tells what is wrong
        store.indexes.save(table.digest, made.serialise())
        return tree

    def _told_tree(self, change: Change, index: LayerIndex, lower: Tree) -> IndexTree:
        members = MembersByPath(index, lambda: self._own_index_tree(change, lower, True))
        return IndexTree(index, members, lower, self.spool)

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
        layer = self.blobs.layer(change)
        diff_id = layer.diff_id
        with self._locks[f"index {diff_id}"]:
            found = self._known_index(diff_id)
            if found is not None:
                return found
            with self._turn(f"index {diff_id}", f"read layer {layer.descriptor.digest.hex[:12]}"):
                found = self._known_index(diff_id)
                return self._made_index(change, layer, keep) if found is None else found

    def _known_index(self, diff_id: Digest) -> LayerIndex | None:
        content = self._services.store.indexes.load(diff_id)
        if content is not None:
            with suppress(ValueError):  # derived data: what is damaged is made anew
                return LayerIndex.parse(content, diff_id)
        return None

    def _made_index(self, change: Change, layer: Layer, keep: bool) -> LayerIndex:
        if isinstance(change, BaseChange) and self.blobs.lacks(change):
            made = self._index_of_passing(change, layer, keep)
        else:
            made = self.blobs.with_intact(change, partial(self._index_of_blob, change))
        self._services.store.indexes.save(layer.diff_id, made.serialise())
        return made

    def _index_of_blob(self, change: Change) -> LayerIndex:
        services, layer = self._services, self.blobs.layer(change)
        check, limits = services.cancellation.check, services.archive_limits
        with self.blobs.reading(change) as blob:
            return index(blob, layer.diff_id, check=check, limits=limits, spool=self.spool)

    def _index_of_passing(self, change: BaseChange, layer: Layer, keep: bool) -> LayerIndex:
        services = self._services
        check, limits = services.cancellation.check, services.archive_limits
        try:
            with Indexer(layer.diff_id, check, limits, self.spool) as indexer:
                if keep or services.whole or services.wanted(change.descriptor):
                    self.blobs.fetch(change, indexer.write)
                else:
                    services.stream(change.image, change.descriptor, indexer.write)
                return indexer.result()
        except BadArchive as error:
            raise named(error, layer) from error

    def packed(self, change: Change) -> Layer | None:
        """A packed form of `change` if its blob is here, or can be fetched."""
        return self.blobs.packed(change)

    def exact(self, change: StepChange) -> Layer | None:
        """The same, in the compression asked for only."""
        return self.blobs.exact(change.identity)

    def pack(self, change: StepChange, below: Snapshot) -> Layer:
        """The packed form of `change`, its blob in the store afterwards."""
        with self._locks[f"pack {change.id}"]:
            layer = self.exact(change)
            if layer is not None:
                return layer
            name, title = (
                f"pack {change.identity} {self.blobs.variant}",
                f"pack layer {change.id[:12]}",
            )
            with self._turn(name, title):
                return self.exact(change) or self._packed_anew(change, below)

    def _packed_anew(self, change: StepChange, below: Snapshot) -> Layer:
        if change.changeset is None and not self._layers.find(change):
            other = self.packed(change)
            if other is not None:
                return self.recompressed(change.identity, other)
        layer = self._pack(self._changeset(change, below))
        self.name(change.identity, layer)
        return layer

    def pack_first(self, changeset: Changeset) -> tuple[Layer, DigestMap]:
        """The packed form of a changeset that has no identity yet, and the SHA-256 digests of the
        bytes that were packed, but for those of archives, which are known as such. `name` makes it
        that of an identity."""
        contents = DigestMap(self.spool)

        def seen(entry: Entry, digest: bytes) -> None:
            source = entry.source
            if isinstance(source, RangeBytes) and os.path.dirname(source.path) == self.spool:
                return  # there may be millions
            if source is not None:
                contents.put(source, digest)

        return self._pack(changeset, seen), contents

    def name(self, identity: Digest, layer: Layer) -> None:
        """Remember that `layer` is what `identity` is packed to."""
        self._services.packed.record_packed(identity, self.blobs.variant, layer)

    def _pack(self, changeset: Changeset, seen: Seen | None = None) -> Layer:
        services = self._services
        follow = services.destination.growing
        with services.store.blobs.ingest(hashed=False, follow=follow) as ingest:
            packed = pack(
                changeset,
                ingest,
                services.compression,
                epoch=self._epoch,
                check=services.cancellation.check,
                seen=seen,
            )
            ingest.commit_as(packed.digest, packed.size)
        return recompression(services).described(packed)

    def recompressed(self, identity: Digest, layer: Layer) -> Layer:
        """`layer`, which the step `identity` is packed in, in the compression asked for."""
        services, blob = self._services, layer.descriptor

        def fetch() -> None:
            if not services.store.blobs.has(blob.digest):
                services.cached.fetch(blob, unseen)

        made = recompression(services).layer(layer, fetch, ended=True)
        if made != layer:
            self.name(identity, made)
        return made

    def _changeset(self, change: StepChange, below: Snapshot) -> Changeset:
        if change.changeset is not None:
            return change.changeset
        path = self.directory(change, below)
        if change.from_run:
            return tuple(changes(path, self.directories(below)))
        return tuple(entries(path))


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
