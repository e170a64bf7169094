"""A layer directory back to the changeset it is the form of."""

from __future__ import annotations

import os
from collections.abc import Iterator

from assembler.layer.changeset import Entry, Kind
from assembler.layer.overlay import HardLinks, as_files, attributes, describe, listing
from assembler.linux.ownership import read_table


def entries(directory: str) -> Iterator[Entry]:
    """The changeset that the layer directory `directory` holds, in the order of a sorted walk.

    Directories that are only there because something is below them are left out, as the changeset
    did not name them; the root likewise. Sources are paths. Raises OSError.
    """
    links = HardLinks()
    owners, files = read_table(directory), as_files(directory)
    yield from _directory("", directory)
    pending = [listing("", directory, files)]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        path, item, whiteout = found
        status = item.stat(follow_symlinks=False)
        if whiteout:
            yield Entry(path, Kind.WHITEOUT)
        elif item.is_dir(follow_symlinks=False):
            yield from _directory(path, item.path)
            pending.append(listing(path, item.path, files))
        elif (entry := describe(path, item.path, status, owners)) is not None:
            yield links.link(entry, status)


def _directory(path: str, location: str) -> Iterator[Entry]:
    marks = attributes(location)
    if not marks.implied:
        entry = describe(path, location, os.lstat(location), {}, marks)
        if entry is not None:
            yield entry
    if marks.opaque:
        yield Entry(path, Kind.OPAQUE)
