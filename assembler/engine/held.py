"""Files of a build context that an output is about to write over: their bytes are put aside first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from assembler.engine.change import Snapshot, StepChange
from assembler.layer.changeset import ByteSource, Entry, RangeBytes
from assembler.layer.realise import fill_from_source
from assembler.layer.tree import Tree
from assembler.linux.beneath import Openings
from assembler.store.disk import translated


class HeldTree:
    """`tree`, with the bytes of some sources elsewhere."""

    def __init__(self, tree: Tree, held: Mapping[ByteSource, ByteSource]) -> None:
        self._tree = tree
        self._held = held

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        found = self._tree.lookup(path)
        return None if found is None else self._entry(found)

    def children(self, path: str) -> Iterator[Entry]:
        """See `Tree.children`."""
        return map(self._entry, self._tree.children(path))

    def _entry(self, entry: Entry) -> Entry:
        held = None if entry.source is None else self._held.get(entry.source)
        return entry if held is None else entry._replace(source=held)


def held(
    tree: Tree,
    snapshot: Snapshot,
    directories: Sequence[str],
    spool: str,
    check: Callable[[], None],
) -> Tree:
    """`tree`, the files of `snapshot`, with those bytes in the directory `spool` that would be read in
    files below `directories`. Raises StoreError, and what reading a file raises."""
    endangered = list(
        _below(snapshot, [os.path.join(os.path.realpath(d), "") for d in directories])
    )
    if not endangered:
        return tree
    found: dict[ByteSource, ByteSource] = {}
    descriptor, path = tempfile.mkstemp(prefix="held-", dir=spool)
    try:
        with Openings() as near:
            for entry in endangered:
                check()
                if entry.source is not None and entry.source not in found:
                    at = os.lseek(descriptor, 0, os.SEEK_CUR)
                    fill_from_source(descriptor, entry, check, near)
                    found[entry.source] = RangeBytes(path, at, entry.size)
    except OSError as error:  # of the spool: what is wrong with a file is told as such
        raise translated(error, spool) from error
    finally:
        os.close(descriptor)
    return HeldTree(tree, found)


def _below(snapshot: Snapshot, directories: Iterable[str]) -> Iterator[Entry]:
    """What steps took of files on this host that are in `directories`, which end in a slash."""
    roots: dict[str, str] = {}
    for change in snapshot:
        entries = change.changeset if isinstance(change, StepChange) else None
        for entry in entries or ():
            root = getattr(entry.source, "root", "")  # as a file of a context has it
            if not root:
                continue
            real = roots.get(root)
            if real is None:
                real = roots[root] = os.path.join(os.path.realpath(root), "")
            path = f"{real}{getattr(entry.source, 'path', '')}"
            if any(path.startswith(directory) for directory in directories):
                yield entry
