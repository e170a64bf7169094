"""Cache mounts that travel: each directory of a RUN --mount=type=cache as one layer (rule M7).

The layer is a tar by zstd with everything that tools ask a cache for: times to the nanosecond,
owners as the id map shows them, hard links, `user.*` attributes. It is made of the same bytes
whenever the directory is the same. Nothing of it is believed when it comes from elsewhere: it is
unpacked as layers are, confined and by its digest, and holds files, links and directories only.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import BinaryIO, Protocol

from assembler.cache.document import CachedMount
from assembler.cache.usage import human, needs
from assembler.errors import AssemblerError, Cancelled, ContextChanged, StoreError
from assembler.layer.apply import unpack
from assembler.layer.compression import Zstd
from assembler.layer.limits import Limits
from assembler.layer.live import KINDS, LiveTree
from assembler.layer.overlay import attributes
from assembler.layer.write import pack_ordered
from assembler.linux import ownership
from assembler.linux.claims import locked
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.plan.plan import Plan
from assembler.plan.steps import CacheMount, Run
from assembler.store.leases import collecting
from assembler.store.store import Store

LARGEST = 2 << 30
"""Bytes of the files of a mount that travels, where nothing else is said."""

_COMPRESSION = Zstd(1)  # caches hold archives, mostly: nothing is gained by trying hard
_VARIANT = f"mount/1 zstd={_COMPRESSION.level}"
_LONGEST = 1_000  # characters of an id that are shown
_ATTEMPTS = 3
_PATIENCE = 60.0  # seconds that another build may have a mount whose builds take turns
_TICK = 100_000_000  # nanoseconds within which two changes of a file may have one time


class PackedMounts(Protocol):
    """Remembers in which blob something was packed."""

    def packed(self, identity: Digest, variant: str) -> Layer | None:
        """The blob that `identity` was packed in."""
        ...

    def record_packed(self, identity: Digest, variant: str, layer: Layer) -> None:
        """Remember it."""
        ...


def directory_name(mount: CacheMount) -> str:
    """What names the directory of `mount` (rule M7): other owners and modes are other caches."""
    identity = f"{len(mount.id)}:{mount.id}:{mount.uid}:{mount.gid}:{mount.mode:o}"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()


def shown_id(mount: CacheMount) -> str:
    """The id of `mount` as text, whatever bytes the Dockerfile has there."""
    return os.fsencode(mount.id).decode("utf-8", "replace")[:_LONGEST]


def named(plan: Plan) -> dict[str, tuple[CacheMount, ...]]:
    """The cache mounts that RUNs of `plan` have, by the names of their directories."""
    found: dict[str, tuple[CacheMount, ...]] = {}
    for stage in plan.stages:
        for step in stage.steps:
            for mount in step.mounts if isinstance(step, Run) else ():
                if isinstance(mount, CacheMount):
                    name = directory_name(mount)
                    found[name] = (*found.get(name, ()), mount)
    return found


def remember(packed: PackedMounts, name: str, layer: Layer) -> None:
    """Take note that `layer` is the latest of the mount whose directory is `name`: its blob goes
    when there is a later one."""
    packed.record_packed(*_latest(name), layer)


def _latest(name: str) -> tuple[Digest, str]:
    return Digest("sha256", name), _VARIANT


class MountExport:
    """Packs cache mounts of `store`, those of the id map's kind `ids`, into its blobs. Run it where
    this id map is. What has more than `largest` bytes is left out; `tell` is given a line for what
    is not as it should be, which no build fails for. `check` may raise."""

    def __init__(
        self,
        store: Store,
        packed: PackedMounts,
        ids: str,
        *,
        largest: int,
        tell: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        self._store = store
        self._packed = packed
        self._ids = ids
        self._largest = largest or LARGEST
        self._tell = tell
        self._check = check

    def export(self, name: str, mounts: Iterable[CacheMount]) -> CachedMount | None:
        """The mount whose directory is `name`, its blob in the store; None where there is none, it
        is empty, or it cannot be had. Raises what `check` raises."""
        uses = tuple(mounts)
        id = shown_id(uses[0])
        try:
            layer = self._layer(name, id, any(one.sharing != "shared" for one in uses))
        except Cancelled:
            raise
        except (AssemblerError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._tell(f"cache mount {id} is not exported: {reason}")
            return None
        return None if layer is None else CachedMount(name, id, layer)

    def _layer(self, name: str, id: str, exclusive: bool) -> Layer | None:
        self._store.hold(f"mounts/{self._ids}/{name}")
        directory = os.path.join(self._store.cache_mounts_directory, self._ids, f"{name}.0")
        if not os.path.isdir(directory):
            return None
        with self._turn(f"{directory}.lock") if exclusive else nullcontext():
            now = time.time_ns()
            found = LiveTree(directory, self._check).survey()
            if found.entries < 2:
                return None
            if found.size > self._largest:
                self._tell(
                    f"cache mount {id} is not exported: it has {human(found.size)}, more than the "
                    f"{human(self._largest)} that mounts-max-size allows"
                )
                return None
            known = self._packed.packed(found.state, _VARIANT)
            if known is not None and self._store.blobs.has(known.descriptor.digest):
                return known
            layer = self._pack(directory, id)
            if found.changed < now - _TICK:
                self._packed.record_packed(found.state, _VARIANT, layer)
            before = self._packed.packed(*_latest(name))
            remember(self._packed, name, layer)
            if before is not None and before != layer:
                self._give_up(before.descriptor.digest)
            return layer

    def _give_up(self, blob: Digest) -> None:
        """Remove the blob of an earlier state, unless an image or a live command needs it."""
        path, directory = f"blobs/{blob.algorithm}/{blob.hex}", self._store.path
        with suppress(OSError), collecting(directory, self._check) as held:
            if path not in held and path not in needs(directory).blobs:
                os.unlink(os.path.join(directory, path))

    @contextmanager
    def _turn(self, path: str) -> Iterator[None]:
        """While no build has the mount whose lock is at `path`."""
        end = time.monotonic() + _PATIENCE

        def check() -> None:
            self._check()
            if time.monotonic() > end:
                raise StoreError(f"another build has had it for {_PATIENCE:.0f} seconds", path)

        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with locked(os.open(path, flags, 0o600), check):
            yield

    def _pack(self, directory: str, id: str) -> Layer:
        without: set[str] = set()
        for _ in range(_ATTEMPTS):
            tree = LiveTree(directory, self._check, without)
            try:
                layer = self._packed_once(tree)
            except ContextChanged:
                without.add(tree.reading)
                continue
            self._tell_of(id, tree)
            return layer
        raise StoreError("its files are being changed all the time", directory)

    def _packed_once(self, tree: LiveTree) -> Layer:
        with self._store.blobs.ingest(hashed=False) as ingest, closing(tree.entries()) as entries:
            packed = pack_ordered(
                entries, ingest, _COMPRESSION, fractions=True, whiteouts=False, check=self._check
            )
            ingest.commit_as(packed.digest, packed.size)
        blob = Descriptor(_COMPRESSION.media_type, packed.digest, packed.size)
        return Layer(blob, packed.diff_id)

    def _tell_of(self, id: str, tree: LiveTree) -> None:
        if tree.lacking:
            path, reason = next(iter(tree.left_out.items()))
            what = "a file is" if tree.lacking == 1 else f"{tree.lacking} files are"
            self._tell(f"cache mount {id}: {what} not exported, {path!r} for one: {reason}")


def restore(
    layer: Layer,
    blob: BinaryIO,
    into: str,
    mount: CacheMount,
    *,
    limits: Limits,
    check: Callable[[], None],
) -> None:
    """Fill the existing, empty directory `into` with the mount in `blob`. Raises what
    `apply.unpack` raises, for one where it holds anything but files, links and directories; and
    OSError."""
    unpack(
        blob, into, diff_id=layer.diff_id, limits=limits, kinds=KINDS, whiteouts=False, check=check
    )
    if attributes(into).implied:  # the layer does not say whose the directory is
        ownership.give(into, (mount.uid, mount.gid))
        os.chmod(into, mount.mode)
