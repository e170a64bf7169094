"""The store: one directory, an OCI layout with private parts beside it (reliability.md 1.1).

oci-layout index.json blobs/   what skopeo and others read
ingest/ scratch/               work of live processes, each part locked by its owner
layers/ mounts/                layer directories, cache mounts; `.…` is work of live processes
indexes/                       file indexes of layers, which may be deleted at any time
groups/                        what live builds have made of cgroups
contexts/                      what was found in the files of contexts; may be deleted at any time
uploads/                       uploads to registries that are not finished (`store.uploads`)
working/                       what live builds are at (`store.working`)
builds/                        records of builds (`store.builds`)
listings/                      what COPYs selected (`store.listings`); may be deleted at any time
leases/ uses/ gc.lock          what live commands use, what was used when (`store.leases`, `.uses`)
settled                        which layer directories are surely on disk (`store.settled`)
version                        the layout's version; a newer one is refused
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from assembler.cancellation import Cancellation, nothing
from assembler.errors import BlobCorrupt, BlobMissing, StoreUnusable
from assembler.linux.claims import claim, dead, discard
from assembler.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from assembler.oci.image import Image
from assembler.oci.manifest import Index, parse
from assembler.oci.platform import Platform
from assembler.store import leases, settled
from assembler.store.blobs import Blobs
from assembler.store.builds import Builds
from assembler.store.disk import Disk, Fsync, is_private, translated, unusable
from assembler.store.leases import Lease
from assembler.store.refs import Refs, replace_file

if TYPE_CHECKING:
    from assembler.store.indexes import Indexes
    from assembler.store.listings import Listings
    from assembler.store.uploads import Uploads
    from assembler.store.working import Working

VERSION = 1
_WORKING = "working"
_DEPTH = 4  # of indexes in indexes
_AT_ONCE = 100  # directories of dead processes that are open while they are removed


class Store:
    """An open store. Use it with `with`; several processes may have it open at once. What takes
    long, and what waits for another process, ends with `cancellation`."""

    def __init__(
        self, path: str, cancellation: Cancellation | None = None, disk: Disk | None = None
    ) -> None:
        self.path = path
        self._check = check = nothing if cancellation is None else cancellation.check
        self._cancellation = cancellation
        self._disk = disk or Disk()
        self._published: dict[str, int] = {}
        self._lease = Lease(path, check)
        self.blobs = Blobs(path, check, self._lease.hold, self._disk)
        self.refs = Refs(path, check, self.blobs.sync)
        self.builds = Builds(os.path.join(path, "builds"))
        self.layers_directory = os.path.join(path, "layers")
        self.contexts_directory = os.path.join(path, "contexts")
        self.groups_directory = os.path.join(path, "groups")
        self.cache_mounts_directory = os.path.join(path, "mounts")

    @cached_property
    def indexes(self) -> Indexes:
        """The file indexes of layers."""
        from assembler.store.indexes import Indexes

        hold = self._lease.hold
        return Indexes(os.path.join(self.path, "indexes"), lambda name: hold(f"indexes/{name}"))

    @cached_property
    def uploads(self) -> Uploads:
        """The uploads that are not finished."""
        from assembler.store.uploads import Uploads

        hold = self._lease.hold
        return Uploads(os.path.join(self.path, "uploads"), lambda name: hold(f"uploads/{name}"))

    @cached_property
    def listings(self) -> Listings:
        """What selections were made of."""
        from assembler.store.listings import Listings

        return Listings(os.path.join(self.path, "listings"))

    @classmethod
    def open(
        cls, path: str, cancellation: Cancellation | None = None, disk: Disk | None = None
    ) -> Store:
        """The store at `path`, made if it is not there; what dead processes left in it is removed,
        and layer directories that a power cut may have spoilt. Raises StoreUnusable, NoSpace,
        Cancelled."""
        path = os.path.abspath(path)
        try:
            _check_version(path)
            _make(path)
            if disk is None or disk.policy is not Fsync.OFF:
                settled.opened(path, nothing if cancellation is None else cancellation.check)
            _sweep(path, cancellation)
            leases.sweep(path)
            _sweep_working(os.path.join(path, _WORKING))
            _sweep_groups(os.path.join(path, "groups"))
        except OSError as error:
            raise unusable(error, path) from error
        if cancellation is not None:
            cancellation.before_death(lambda: _sweep_after_death(path))
        return cls(path, cancellation, disk)

    @property
    def working(self) -> Working:
        """What builds on this store are at."""
        from assembler.store.working import Working

        return Working(os.path.join(self.path, _WORKING), self._cancellation)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sync what was written, and give back what was held. Raises StoreError."""
        try:
            if self._cancellation is None or not self._cancellation.cancelled:  # it shall end now
                self.blobs.sync()
                self._settle()
        finally:
            self._lease.close()

    def _settle(self) -> None:
        if not self._published or self._disk.policy is Fsync.OFF:
            return
        try:
            if self._disk.policy is Fsync.FULL:
                self._disk.sync_file_system(self.path)
                self._published = dict.fromkeys(self._published, 0)
            settled.settle(self.path, self._check, self._published)
        except OSError as error:
            raise translated(error, self.path) from error

    def published(self, path: str) -> None:
        """Take note that the layer directory `path`, in the store, was made just now."""
        with suppress(FileNotFoundError):  # another command has just removed it
            self._published[settled.identity(self.path, path)] = settled.moment()

    def look_only(self) -> None:
        """See `Lease.look_only`."""
        self._lease.look_only()

    def hold(self, *items: str) -> None:
        """Keep `items`, paths in the store, from being collected while this is open. Look only
        then whether they are there. Raises OSError."""
        self._lease.hold(*items)

    def image(self, descriptor: Descriptor, platform: Platform | None = None) -> Image:
        """The image whose manifest is `descriptor`; of an index the one for `platform`, or without
        that the first that is here. Raises BlobMissing, BlobCorrupt."""
        with self._garbled(descriptor):
            document = parse(self.blobs.read(descriptor), descriptor.media_type)
            if isinstance(document, Index):
                return self._within(document, platform, _DEPTH)
            return Image.read(document, self.blobs.read(document.config))

    @contextmanager
    def _garbled(self, descriptor: Descriptor) -> Iterator[None]:
        """What cannot be read of `descriptor` is BlobCorrupt."""
        try:
            yield
        except ValueError as error:
            raise BlobCorrupt(
                f"image {descriptor.digest} in the store: {error}",
                self.blobs.path(descriptor.digest),
            ) from error

    def index(self, descriptor: Descriptor) -> Index:
        """The index that is `descriptor`. Raises BlobMissing, BlobCorrupt."""
        with self._garbled(descriptor):
            document = parse(self.blobs.read(descriptor), descriptor.media_type)
        assert isinstance(document, Index)  # by the media type, which `parse` compares
        return document

    def images(self, descriptor: Descriptor) -> Iterator[Image]:
        """All images that `descriptor` leads to and that are here: of an index those of its platforms,
        without attestations. Raises BlobMissing, BlobCorrupt."""
        if descriptor.media_type not in INDEXES:
            yield self.image(descriptor)
        else:
            yield from self._all_within(descriptor, _DEPTH)

    def _all_within(self, descriptor: Descriptor, depth: int) -> Iterator[Image]:
        for entry in self.index(descriptor).manifests if depth else ():
            none = entry.platform is not None and entry.platform.os == "unknown"
            if none or not self.blobs.has(entry.digest):
                continue
            if entry.media_type in INDEXES:
                yield from self._all_within(entry, depth - 1)
            elif entry.media_type in MANIFESTS:
                yield self.image(entry)

    def _within(self, index: Index, platform: Platform | None, depth: int) -> Image:
        entries = index.manifests
        if platform is not None:
            chosen = index.select(platform)
            entries = tuple(one for one in entries if one.platform is None)
            entries = entries if chosen is None else (chosen,)
        for entry in entries if depth else ():
            none = entry.platform is not None and entry.platform.os == "unknown"
            if none or not self.blobs.has(entry.digest):
                continue
            document = parse(self.blobs.read(entry), entry.media_type)
            if isinstance(document, Index):
                with suppress(BlobMissing):
                    return self._within(document, platform, depth - 1)
                continue
            image = Image.read(document, self.blobs.read(document.config))
            if platform is None or entry.platform or platform.matches(image.config.platform):
                return image
        digest = index.descriptor.digest
        raise BlobMissing(
            f"the store has no image of the index {digest}"
            + (f" for {platform}" if platform else ""),
            self.blobs.path(digest),
        )

    def put_image(self, image: Image) -> Descriptor:
        """Store configuration, then manifest; the manifest's descriptor."""
        self.blobs.put(image.config_content, image.manifest.config.digest.algorithm)
        self.blobs.put(image.manifest.content)
        return image.manifest.descriptor

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A private directory that is removed when the block ends, or by a later process when
        this one dies."""
        with claim(os.path.join(self.path, "scratch")) as claimed:
            yield claimed.path


def _sweep(path: str, cancellation: Cancellation | None) -> None:
    places = [(os.path.join(path, name), "") for name in ("ingest", "scratch")]
    for kept in (os.path.join(path, name) for name in ("layers", "mounts")):
        with suppress(FileNotFoundError):  # no step had a cache mount yet
            places += [(os.path.join(kept, kind), ".") for kind in os.listdir(kept)]
    for place, prefix in places:
        seen: set[str] = set()
        while found := dead(place, prefix, seen, _AT_ONCE):
            with Cancellation() if cancellation is None else nullcontext(cancellation) as wish:
                discard(found, wish)


_SWEEPER = """\
import os, sys
sys.path.insert(0, sys.argv[1])
os.read(0, 1)
from assembler.store.disk import Disk, Fsync
from assembler.store.store import Store
Store.open(sys.argv[2], disk=Disk(Fsync.OFF)).close()
"""


def _sweep_after_death(path: str) -> None:
    """Have a process wait until this one is gone, and remove what it left in the store `path`.
    Raises OSError."""
    import assembler

    alive, _ = os.pipe()  # the other end is open for as long as this process is
    package = os.path.dirname(os.path.dirname(os.path.abspath(assembler.__file__)))
    actions = [
        (os.POSIX_SPAWN_DUP2, alive, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    argv = [sys.executable, "-P", "-c", _SWEEPER, package, path]
    os.posix_spawn(argv[0], argv, {"PATH": os.defpath}, file_actions=actions, setsid=True)


def _sweep_working(directory: str) -> None:
    if os.path.isdir(directory) and os.listdir(directory):
        from assembler.store.working import sweep

        sweep(directory)


def _sweep_groups(records: str) -> None:
    if os.path.isdir(records) and os.listdir(records):
        from assembler.linux import cgroups

        cgroups.sweep(records)


def _make(path: str) -> None:
    _refuse_foreign(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    for name in ("blobs/sha256", "ingest", "scratch", "layers"):
        os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
    marker = os.path.join(path, "version")
    if not os.path.exists(marker):
        replace_file(os.path.join(path, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
        replace_file(marker, f"{VERSION}\n".encode())


def _refuse_foreign(path: str) -> None:
    """Where anybody may make files, as in /tmp, anybody may have made the store."""
    try:
        above = os.stat(os.path.dirname(path))
    except FileNotFoundError:
        return
    if above.st_mode & 0o002 and os.path.lexists(path) and not is_private(path):
        raise StoreUnusable(
            f"the store {path} is not a directory that only this user writes, and anybody may have"
            " made it",
            path,
            hint="set ASSEMBLE_STORE to a directory of your own",
        )


def _check_version(path: str) -> None:
    try:
        with open(os.path.join(path, "version"), encoding="ascii", errors="replace") as stream:
            text = stream.read(100).strip()
    except FileNotFoundError:
        return
    if not text.isdigit() or int(text) > VERSION:
        raise StoreUnusable(
            f"the store {path} has version {text[:20]!r}, this assemble knows {VERSION}",
            path,
            hint="use a newer assemble, or set ASSEMBLE_STORE to another directory",
        )
