"""Names of images, in the `index.json` of an OCI layout that other tools can read.

Read-modify-write is under a lock; the file is replaced whole, so a reader never sees half of it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from assembler.errors import StoreError
from assembler.linux.claims import locked
from assembler.linux.replacing import replacing
from assembler.oci.descriptor import INDEX, REF_NAME, Descriptor, annotations_of
from assembler.store.disk import translated
from assembler.values import replace

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LARGEST = 16 << 20  # bytes of an index: some 40,000 names

REMOTE = "assembler.remote"
"""The annotation of an index entry whose layers a registry has; some may not be here."""


class Refs:
    """The names in the layout at `directory`. `check` is called while another process changes
    them, and may raise; `before` is called before a name is given, and makes durable what it
    names."""

    def __init__(
        self,
        directory: str,
        check: Callable[[], None] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._check = check
        self._before = before
        self._lock = os.path.join(directory, "index.lock")
        self._path = os.path.join(directory, "index.json")

    def get(self, name: str) -> Descriptor | None:
        """The manifest that `name` means, None when it means nothing."""
        return dict(self.items()).get(name)

    def items(self) -> tuple[tuple[str, Descriptor], ...]:
        """Every name with its manifest."""
        return tuple((entry.annotations.get(REF_NAME, ""), entry) for entry in self._read())

    def set(self, name: str, descriptor: Descriptor, *, remote: bool = False) -> None:
        """Let `name` mean the manifest `descriptor`, whose layers `name` has in a registry if it is
        `remote`: they are fetched when they are needed. Raises StoreError."""
        self._before()
        annotations = {**descriptor.annotations, REF_NAME: name}
        annotations |= {REMOTE: "true"} if remote else {}
        entry = replace(descriptor, annotations=annotations)
        if entry in self._read():
            return  # as it mostly is where all of a build is cached
        self._change(lambda entries: [*_without(entries, name), entry])

    def remove(self, name: str) -> None:
        """Forget `name`; nothing happens when it means nothing."""
        self._change(lambda entries: _without(entries, name))

    def _change(self, change: Callable[[list[Descriptor]], list[Descriptor]]) -> None:
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with locked(lock, self._check):
                entries = change(self._read())
                write_index(self._path, entries)
        except OSError as error:
            raise translated(error, os.path.dirname(self._path)) from error

    def _read(self) -> list[Descriptor]:
        return read_index(self._path)


def read_index(path: str) -> list[Descriptor]:
    """The entries of the `index.json` at `path`; none when there is no such file."""
    return read_annotated(path)[0]


def read_annotated(path: str) -> tuple[list[Descriptor], dict[str, str]]:
    """The same, and the annotations of the index."""
    try:
        with os.fdopen(os.open(path, _READ), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ValueError("it is no regular file")
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        entries = [Descriptor.from_document(entry) for entry in document.get("manifests") or ()]
        return entries, annotations_of(document)
    except FileNotFoundError:
        return [], {}
    except (ValueError, TypeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(
            f"{path} is not an image index: {why}", path, hint="move the file away"
        ) from error


def write_index(
    path: str, entries: list[Descriptor], annotations: Mapping[str, str] | None = None
) -> None:
    """Replace the `index.json` at `path` whole: write, fsync, rename, fsync of the directory. Raises
    OSError, and StoreError for one that would be too large to be read again."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry.to_document() for entry in entries],
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    content = json.dumps(document, indent=2).encode() + b"\n"
    if len(content) > _LARGEST:
        raise StoreError(
            f"{path} has {len(entries)} names: with more it would have over {_LARGEST} bytes",
            path,
            hint="remove names that nobody needs; in the store `assemble rmi` does",
        )
    replace_file(path, content)


def replace_file(path: str, content: bytes) -> None:
    """Give the file at `path` new content so that every reader sees the old or the new."""
    with replacing(path, 0o644) as stream:
        stream.write(content)


def _without(entries: list[Descriptor], name: str) -> list[Descriptor]:
    return [entry for entry in entries if entry.annotations.get(REF_NAME) != name]
