"""Blobs of a layout that nothing leads to any more: of caches that others took the place of.

They are removed from a layout only that an export of a cache began, whose index says so, and of
which everything is understood: what another tool has put there leads to blobs too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from assembler.cancellation import nothing
from assembler.errors import BadArchive, StoreError
from assembler.linux.claims import held, taken
from assembler.oci.descriptor import CONFIGS, INDEXES, MANIFESTS, Descriptor, is_blob
from assembler.oci.digest import Digest
from assembler.oci.manifest import Index
from assembler.output.base import Check
from assembler.store.importing import LayoutFiles

CACHES = "assembler.caches"
"""The annotation of the index of a layout that began as one of caches."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE = 0o222  # no blob that we wrote is


def holds_only(path: str, entry: Descriptor) -> bool:
    """Whether the layout at `path` has no other blobs than those that `entry` leads to, as far as that
    is known. Raises OSError."""
    try:
        needed = _reached(LayoutFiles(path), [entry], nothing)
    except (BadArchive, StoreError, ValueError):
        return False
    blobs = os.open(os.path.join(path, "blobs"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return all(digest in needed for digest, _ in _named(blobs, nothing))
    finally:
        os.close(blobs)


def remove_superseded(path: str, check: Check = nothing) -> None:
    """Remove the blobs of the layout at `path` that no entry of its index leads to, unless it is not
    one of caches, has something that is not understood, or a build reads it. Other exports to it
    are waited for. What is killed on the way has removed some. Raises OSError."""
    with held(path, check):
        try:
            blobs = os.open(os.path.join(path, "blobs"), _DIRECTORY)
        except OSError:
            return  # a link: others may have it too
        try:
            if taken(blobs):
                _remove(path, blobs, check)
        finally:
            os.close(blobs)


def _remove(path: str, blobs: int, check: Check) -> None:
    layout = LayoutFiles(path)
    try:
        index = layout.index()
        if CACHES not in index.annotations:
            return
        needed = _reached(layout, index.manifests, check)
    except (BadArchive, StoreError, ValueError):
        return  # nobody knows what leads where
    for digest, directory in _named(blobs, check):
        if digest not in needed:
            found = os.stat(digest.hex, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and not found.st_mode & _WRITABLE:
                os.unlink(digest.hex, dir_fd=directory)


def _named(blobs: int, check: Check) -> Iterator[tuple[Digest, int]]:
    """The digests that names below the directory `blobs` spell, each with the directory it is in."""
    for algorithm in os.listdir(blobs):
        try:
            directory = os.open(algorithm, _DIRECTORY, dir_fd=blobs)
        except OSError:
            continue  # no directory, or a link
        try:
            for name in os.listdir(directory):
                check()
                try:
                    digest = Digest.parse(f"{algorithm}:{name}")
                except ValueError:
                    continue
                yield digest, directory
        finally:
            os.close(directory)


def _reached(layout: LayoutFiles, entries: Iterable[Descriptor], check: Check) -> set[Digest]:
    """The digests of everything that `entries` lead to. Raises BadArchive, StoreError, and
    ValueError for what may lead anywhere."""
    found: set[Digest] = set()
    read: set[tuple[Digest, str]] = set()
    pending = list(entries)
    while pending:
        check()
        one = pending.pop()
        found.add(one.digest)
        if one.media_type not in MANIFESTS | INDEXES:
            if not (is_blob(one) or one.media_type in CONFIGS):
                raise ValueError(f"what {one.media_type[:100]!r} leads to is not known")
        elif (one.digest, one.media_type) not in read:
            read.add((one.digest, one.media_type))
            document = layout.document(one)
            if isinstance(document, Index):
                pending += document.manifests
                continue
            found.update(blob.digest for blob in document.blobs)
            if document.subject is not None:
                pending.append(document.subject)
    return found
