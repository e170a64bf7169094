"""What a store holds, as records like BuildKit's: sizes, last use, what needs them (`assemble du`).

An item is a path in the store: a blob, a layer directory, a cache mount, a repository, and every
file of a directory that nothing here knows, which is derived data. Images with a name are shared
and in use: only `assemble rmi` gives them up. Sizes are the bytes of the disk blocks; of files with
several names, the first name that is met has them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from assembler.cache import measured
from assembler.errors import AssemblerError
from assembler.oci.descriptor import REF_NAME, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image
from assembler.oci.manifest import Index, parse
from assembler.store import leases, uses
from assembler.store.blobs import MAX_DOCUMENT, Blobs
from assembler.store.refs import read_index
from assembler.store.uses import Use

REGULAR, CACHE_MOUNT, GIT, INTERNAL = (
    "regular", "exec.cachemount", "source.git.checkout", "internal",
)  # fmt: skip
_KNOWN = frozenset(
    "oci-layout index.json index.lock version gc.lock blobs ingest scratch layers mounts git groups"
    " leases uses working settled measured logs builds cache.db cache.db-wal cache.db-shm".split()
)
_HEX = re.compile("[0-9a-f]{64}")
_MOUNT = re.compile(r"([0-9a-f]{64})\.[0-9]+")
_SHORTEST = 12
_DEPTH = 5  # of indexes in indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One thing that takes space. `path` is in the store; times are seconds since the epoch, `size`
    is bytes. What is `in_use` stays: an image needs it (then it is `shared`), or a live command."""

    path: str
    id: str
    type: str
    size: int
    created: float
    last_used: float
    count: int = 0
    mutable: bool = False
    shared: bool = False
    in_use: bool = False
    description: str = ""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """What the images of a store need: blobs by what they are for, and layers by their diff_id."""

    blobs: dict[str, str]
    layers: dict[str, str]


def needs(store: str) -> Needs:
    """What `index.json` of the store at `store` leads to; what of it cannot be read leads nowhere.
    Nothing is held by that. Raises StoreError."""
    found = Needs({}, {})
    for entry in read_index(os.path.join(store, "index.json")):
        _follow(Blobs(store), entry, entry.annotations.get(REF_NAME, ""), found, _DEPTH)
    return found


def _follow(blobs: Blobs, entry: Descriptor, name: str, found: Needs, depth: int) -> None:
    if not depth:
        return
    found.blobs.setdefault(_blob(entry.digest), f"manifest of {name}")
    try:
        document = parse(_content(blobs, entry.digest), entry.media_type)
    except (AssemblerError, ValueError):
        return
    if isinstance(document, Index):
        for below in document.manifests:
            _follow(blobs, below, name, found, depth - 1)
        return
    found.blobs.setdefault(_blob(document.config.digest), f"configuration of {name}")
    for layer in document.layers:
        found.blobs.setdefault(_blob(layer.digest), f"layer of {name}")
    with suppress(AssemblerError, ValueError):
        image = Image.read(document, _content(blobs, document.config.digest))
        for packed in image.layers:
            found.layers.setdefault(packed.diff_id.hex, packed.descriptor.digest.hex)


def _content(blobs: Blobs, digest: Digest) -> bytes:
    with blobs.open(digest) as stream:
        content = stream.read(MAX_DOCUMENT)
    if not digest.matches(content):
        raise ValueError(f"blob {digest} does not have its digest")
    return content


def usages(
    store: str, titles: Mapping[str, str], now: float, check: Callable[[], None]
) -> list[Usage]:
    """Everything that is in the store at `store`, the longest unused first. `titles` says by hex digest what
    records of steps and layers are for. Run it inside the user namespace: directories of other
    owners cannot be read elsewhere. Raises OSError, and what `check` raises."""
    needed, held = needs(store), leases.used(store)
    known = uses.read(os.path.join(store, "uses"), now)
    sizes, known_sizes = _Sizes(check), measured.sizes(store)
    found = []
    for path, type in items(store):
        name = os.path.basename(path)
        size, made = sizes.of(os.path.join(store, path), *known_sizes.get(path, ()))
        use = known.get(holding(path)) or Use(min(made, now), min(made, now), 0)
        id = _short(path, name)
        image = needed.blobs.get(path, "")
        parent = needed.layers.get(name, "") if path.startswith("layers/") else ""
        found.append(
            Usage(
                path=path,
                id=id,
                type=type,
                size=size,
                created=min(made, use.first),
                last_used=use.last,
                count=use.count,
                mutable=type in (CACHE_MOUNT, GIT),
                shared=bool(image),
                in_use=bool(image) or holding(path) in held,
                description=image or titles.get(name, "") or _kind(path, parent),
                parents=(parent,) if parent else (),
            )
        )
    return sorted(found, key=lambda one: (one.last_used, one.path))


def items(store: str) -> Iterator[tuple[str, str]]:
    """The path and the type of everything in the store at `store` that can be collected."""
    for algorithm in _names(store, "blobs"):
        for name in _names(store, f"blobs/{algorithm}"):
            yield f"blobs/{algorithm}/{name}", REGULAR
    for kind in _names(store, "layers"):
        for name in _names(store, f"layers/{kind}"):
            if _HEX.fullmatch(name):
                yield f"layers/{kind}/{name}", REGULAR
    for kind in _names(store, "mounts"):
        for name in _names(store, f"mounts/{kind}"):
            if _MOUNT.fullmatch(name):
                yield f"mounts/{kind}/{name}", CACHE_MOUNT
    for name in _names(store, "git"):
        if _HEX.fullmatch(name):
            yield f"git/{name}", GIT
    for name in _names(store, ""):
        if name not in _KNOWN:
            for path in _files(store, name):
                yield path, INTERNAL


def holding(path: str) -> str:
    """What a lease holds to keep `path`: all directories of one cache mount are held at once."""
    return path.rpartition(".")[0] if path.startswith("mounts/") else path


def human(size: int) -> str:
    """`size` as docker shows it: four digits, units of a thousand."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.4g}{units[0]}"


def _files(store: str, path: str) -> Iterator[str]:
    """`path`, or every file below it; names with a dot are of files that are being written."""
    if os.path.basename(path).startswith("."):
        return
    try:
        status = os.lstat(os.path.join(store, path))
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield path
        return
    for name in _names(store, path):
        yield from _files(store, f"{path}/{name}")


def _names(store: str, path: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(store, path)))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _blob(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _short(path: str, name: str) -> str:
    """What names a record: its digest or name, which is unique in the store."""
    return name if _HEX.fullmatch(name) or _MOUNT.fullmatch(name) else path


def _kind(path: str, parent: str) -> str:
    top = path.partition("/")[0]
    if top == "layers":
        return f"unpacked layer sha256:{parent[:_SHORTEST]}" if parent else "layer directory"
    known = {"mounts": "cache mount", "git": "git repository", "blobs": "blob", "uploads": "upload"}
    return known.get(top, "derived data")


class _Sizes:
    """Bytes of blocks of files and trees; a file with several names counts once."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._seen: set[tuple[int, int]] = set()

    def of(self, path: str, changed: int = -1, known: int = 0) -> tuple[int, float]:
        """Bytes, which are `known` if the change time is `changed`, and when its directory entry was
        last changed."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return 0, 0.0
        if status.st_ctime_ns == changed:
            return known, status.st_ctime
        total = self._own(status)
        pending = [path] if stat.S_ISDIR(status.st_mode) else []
        while pending:
            self._check()
            for entry in _scanned(pending.pop()):
                with suppress(FileNotFoundError):
                    inner = entry.stat(follow_symlinks=False)
                    total += self._own(inner)
                    if stat.S_ISDIR(inner.st_mode):
                        pending.append(entry.path)
        return total, status.st_ctime

    def _own(self, status: os.stat_result) -> int:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            if inode in self._seen:
                return 0
            self._seen.add(inode)
        return status.st_blocks * 512


def _scanned(path: str) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except (FileNotFoundError, PermissionError):  # going, or of another owner: what is known counts
        return ()
