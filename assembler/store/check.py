"""Everything in a store, looked at again (`assemble store check`).

Every blob is hashed; everything a name leads to is looked for; layer directories are looked at. What
other commands add or collect meanwhile is no problem.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass

from assembler.errors import AssemblerError
from assembler.linux.ownership import TABLE, TREE
from assembler.oci.descriptor import CONFIGS, REF_NAME, Descriptor, is_blob
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.manifest import Index, Manifest, parse
from assembler.store.blobs import MAX_DOCUMENT, Blobs
from assembler.store.refs import REMOTE, read_index

_PIECE = 1 << 20
_DEPTH = 5  # of indexes in indexes
_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Problem:
    """`path`, in the store, is not as it should be. What is `removable` is fetched or made anew
    once it is gone."""

    path: str
    message: str
    removable: bool = False


@dataclass(slots=True)
class Progress:
    """What was looked at so far; `size` is bytes. `remote` are layers of pulled images that only a
    registry has: they are fetched when they are needed."""

    blobs: int = 0
    total: int = 0
    size: int = 0
    names: int = 0
    layers: int = 0
    remote: int = 0


class Check:
    """A check of the store at `store`. `told` is called after each blob, `stop` for each MiB; both
    may raise. Memory does not grow with the size of blobs."""

    def __init__(
        self, store: str, told: Callable[[Progress], None], stop: Callable[[], None]
    ) -> None:
        self._store = store
        self._told = told
        self._stop = stop
        self._sizes: dict[Digest, int] = {}
        self._damaged: set[Digest] = set()
        self.progress = Progress()

    def problems(self) -> Iterator[Problem]:
        """What is wrong, as it is found. Raises OSError."""
        yield from self._blobs()
        yield from self._names()
        yield from self._layers()
        yield from self._uploads()

    def _blobs(self) -> Iterator[Problem]:
        for algorithm in sorted(os.listdir(os.path.join(self._store, "blobs"))):
            names = self._names_in(f"blobs/{algorithm}")
            if names is None:
                yield Problem(f"blobs/{algorithm}", "it is no directory")
                continue
            self.progress.total += len(names)
            for name in names:
                path = f"blobs/{algorithm}/{name}"
                try:
                    problem = self._hashed(path, Digest.parse(f"{algorithm}:{name}"))
                except ValueError:
                    problem = Problem(path, "its name is no digest")
                if problem is not None:
                    yield problem
                self.progress.blobs += 1
                self._told(self.progress)

    def _names_in(self, path: str) -> list[str] | None:
        """What is in the directory `path`, None where there is something else."""
        try:
            return sorted(os.listdir(os.path.join(self._store, path)))
        except NotADirectoryError:
            return None

    def _hashed(self, path: str, digest: Digest) -> Problem | None:
        """Note the size of the blob at `path`, or what is wrong with it."""
        size = 0
        hasher = hashlib.new(digest.algorithm)
        message = ""
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(os.path.join(self._store, path), flags)
            with os.fdopen(descriptor, "rb", buffering=0) as stream:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    message = "it is not a regular file"
                buffer = memoryview(bytearray(_PIECE))
                while not message and (count := stream.readinto(buffer)):
                    self._stop()
                    hasher.update(buffer[:count])
                    size += count
        except FileNotFoundError:
            return None  # collected meanwhile
        except OSError as error:
            message = f"it cannot be read: {error.strerror}"
        self.progress.size += size
        if not message and hasher.hexdigest() != digest.hex:
            message = f"its {size} bytes have another digest"
        if message:
            self._damaged.add(digest)
            return Problem(path, message, removable=True)
        self._sizes[digest] = size
        return None

    def _size(self, digest: Digest) -> int | None:
        """The size of a blob that is there and undamaged."""
        if digest not in self._sizes and digest not in self._damaged:  # it came meanwhile
            self._hashed(f"blobs/{digest.algorithm}/{digest.hex}", digest)
        return self._sizes.get(digest)

    def _names(self) -> Iterator[Problem]:
        try:
            entries = read_index(os.path.join(self._store, "index.json"))
        except AssemblerError as error:
            yield Problem("index.json", error.message)
            return
        remote: set[Digest] = set()
        for entry in entries:
            if REMOTE in entry.annotations:
                self._elsewhere(entry, remote, _DEPTH)
        for entry in entries:
            self.progress.names += 1
            yield from self._closure(entry, entry.annotations.get(REF_NAME, ""), remote, _DEPTH)

    def _elsewhere(self, entry: Descriptor, remote: set[Digest], depth: int) -> None:
        """Add to `remote` what of `entry` may be in its registry only: layers, and manifests of an
        index for other platforms."""
        with suppress(AssemblerError, ValueError):  # reported as a problem, or not here
            document = self._document(entry)
            if not isinstance(document, Index):
                remote.update(one.digest for one in document.layers)
                return
            remote.update(one.digest for one in document.manifests)
            for below in document.manifests if depth else ():
                self._elsewhere(below, remote, depth - 1)

    def _document(self, entry: Descriptor) -> Manifest | Index:
        if self._size(entry.digest) is None:
            raise ValueError("it is not there, or damaged")
        return parse(self._content(entry.digest), entry.media_type)

    def _content(self, digest: Digest) -> bytes:
        with Blobs(self._store).open(digest) as stream:
            return stream.read(MAX_DOCUMENT)

    def _closure(
        self, entry: Descriptor, name: str, remote: set[Digest], depth: int
    ) -> Iterator[Problem]:
        path = f"blobs/{entry.digest.algorithm}/{entry.digest.hex}"
        if entry.digest in remote and not os.path.lexists(os.path.join(self._store, path)):
            self.progress.remote += 1
            return
        try:
            document = self._document(entry)
        except (AssemblerError, ValueError) as error:
            yield Problem("index.json", f"{name}: its manifest {entry.digest}: {error}")
            return
        if isinstance(document, Index):
            for below in document.manifests if depth else ():
                if is_blob(below):
                    yield from self._blob("blob", below, name, remote)
                else:
                    yield from self._closure(below, name, remote, depth - 1)
            return
        yield from self._blob("configuration", document.config, name)
        for layer in document.layers:
            yield from self._blob("layer", layer, name, remote)
        config = document.config
        if config.media_type in CONFIGS and self._size(config.digest) is not None:
            try:
                Image.read(document, self._content(config.digest))
            except (AssemblerError, ValueError) as error:
                yield Problem("index.json", f"{name}: {error}")

    def _blob(
        self, what: str, blob: Descriptor, name: str, remote: Container[Digest] = ()
    ) -> Iterator[Problem]:
        size = self._size(blob.digest)
        if size is None and blob.digest in remote:
            self.progress.remote += 1
        elif size is None:
            message = f"{name}: its {what} {blob.digest} is not there, or damaged"
            yield Problem("index.json", message)
        elif size != blob.size:
            message = f"{name}: its {what} {blob.digest} has {size} bytes, not {blob.size}"
            yield Problem("index.json", message)

    def _layers(self) -> Iterator[Problem]:
        """Layer directories appear whole; of those whose owners are records, in two parts."""
        layers = os.path.join(self._store, "layers")
        for kind in sorted(os.listdir(layers)):
            names = self._names_in(f"layers/{kind}")
            if names is None:
                yield Problem(f"layers/{kind}", "it is no directory")
                continue
            for name in names:
                path = f"layers/{kind}/{name}"
                place = os.path.join(self._store, path)
                if name.startswith(".") or not os.path.lexists(place):
                    continue
                self.progress.layers += 1
                if not _HEX.fullmatch(name) or not os.path.isdir(place):
                    yield Problem(path, "it is no layer directory", removable=True)
                elif kind == "recorded" and not (
                    os.path.isdir(os.path.join(place, TREE))
                    and os.path.isfile(os.path.join(place, TABLE))
                ):
                    yield Problem(path, "its files or their owners are missing", removable=True)

    def _uploads(self) -> Iterator[Problem]:
        """Whoever has the location of an upload may write to it: it is this user's alone."""
        uploads = os.path.join(self._store, "uploads")
        for name in sorted(os.listdir(uploads)) if os.path.isdir(uploads) else ():
            with suppress(FileNotFoundError):  # it is finished
                mode = os.lstat(os.path.join(uploads, name)).st_mode
                if not _HEX.fullmatch(name) or not stat.S_ISREG(mode) or mode & 0o077:
                    message = "it is no upload that only its user can read"
                    yield Problem(f"uploads/{name}", message, removable=True)
