"""The upper directory of an overlay, after a process ran, to a changeset (rootless-runtime.md 2b)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from assembler.layer.changeset import Entry, Kind
from assembler.layer.overlay import (
    HardLinks,
    as_files,
    attributes,
    describe,
    hides,
    listing,
    whiteout_file,
)
from assembler.linux.ownership import Owner, read_table
from assembler.values import mutable


def changes(upper: str, lowers: Sequence[str]) -> Iterator[Entry]:
    """What `upper` changes over `lowers` (layer directories, TOPMOST FIRST), in walk order.

    A deletion is named only if the path exists below. A directory that is as it was below is named
    only when something in it changed; the root only when its mode, owner or attributes changed.
    A socket is passed over, what it took the place of is deleted. Run it in the user namespace that
    the owners are of. Raises OSError.
    """
    return _Comparison(upper, lowers).entries()


@mutable
class _Lower:
    """A directory of one layer. `owners` are those of the layer's links and FIFOs; `files` says
    whether its whiteouts may be files."""

    location: str
    owners: Mapping[str, Owner]
    files: bool

    def entry(self, path: str, name: str, status: os.stat_result) -> Entry | None:
        """What `name` is in it, which is `path` in the layer."""
        return describe(path, f"{self.location}/{name}", status, self.owners)


@mutable
class _Frame:
    """A directory of the upper being walked. `held` is its entry while nothing calls for it."""

    items: Iterator[tuple[str, os.DirEntry[str], bool]]
    lowers: list[_Lower]
    held: Entry | None


class _Comparison:
    def __init__(self, upper: str, lowers: Sequence[str]) -> None:
        self._upper = upper
        self._owners = read_table(upper)
        self._files = as_files(upper)
        self._lowers = [
            _Lower(directory, read_table(directory), as_files(directory)) for directory in lowers
        ]
        self._links = HardLinks()
        self._frames: list[_Frame] = []

    def entries(self) -> Iterator[Entry]:
        yield from self._root()
        while self._frames:
            frame = self._frames[-1]
            found = next(frame.items, None)
            if found is None:
                self._frames.pop()
                continue
            path, item, whiteout = found
            status = item.stat(follow_symlinks=False)
            if whiteout or hides(status):
                if _find(frame.lowers, path.rpartition("/")[2])[0] is not None:
                    yield from self._released()
                    yield Entry(path, Kind.WHITEOUT)
            elif stat.S_ISDIR(status.st_mode):
                yield from self._directory(path, item, status, frame)
            elif (entry := describe(path, item.path, status, self._owners)) is not None:
                yield from self._released()
                yield self._links.link(entry, status)

    def _root(self) -> Iterator[Entry]:
        status, marks = os.stat(self._upper), attributes(self._upper)
        entry = describe("", self._upper, status, self._owners, marks)
        if entry is not None and _root_below(self._lowers) != _attributes(entry):
            yield entry
        if marks.opaque and self._lowers:
            yield Entry("", Kind.OPAQUE)
        lowers = [] if marks.opaque else self._lowers
        self._frames.append(_Frame(listing("", self._upper, self._files), lowers, None))

    def _directory(
        self, path: str, item: os.DirEntry[str], status: os.stat_result, frame: _Frame
    ) -> Iterator[Entry]:
        marks = attributes(item.path)
        entry = describe(path, item.path, status, self._owners, marks)
        visible, directories = _find(frame.lowers, item.name)
        same = False
        if visible is not None and directories and not marks.opaque:
            below = visible[0].entry(path, item.name, visible[1])
            same = entry == below
        if not same and entry is not None:
            yield from self._released()
            yield entry
            if marks.opaque and directories:
                yield Entry(path, Kind.OPAQUE)
        lowers = [] if marks.opaque else directories
        items = listing(path, item.path, self._files)
        self._frames.append(_Frame(items, lowers, entry if same else None))

    def _released(self) -> Iterator[Entry]:
        """The directories above the current one that are now called for."""
        for frame in self._frames:
            if frame.held is not None:
                yield frame.held
                frame.held = None


def _find(
    lowers: list[_Lower], name: str
) -> tuple[tuple[_Lower, os.stat_result] | None, list[_Lower]]:
    """What `name` is in the merged directories `lowers`, and in which, and, if that is a directory,
    those that make it up, topmost first."""
    visible: tuple[_Lower, os.stat_result] | None = None
    merged: list[_Lower] = []
    for lower in lowers:
        location = f"{lower.location}/{name}"
        try:
            status = os.lstat(location)
        except FileNotFoundError:
            if lower.files and os.path.lexists(whiteout_file(location)):
                break
            continue
        if hides(status):
            break
        visible = visible or (lower, status)
        if not stat.S_ISDIR(status.st_mode):
            break
        merged.append(_Lower(location, lower.owners, lower.files))
        if attributes(location).opaque:
            break
    return visible, merged


def _root_below(lowers: list[_Lower]) -> tuple[object, ...]:
    if not lowers:
        return 0o755, 0, 0, ()
    location = lowers[0].location
    entry = describe("", location, os.stat(location), {})
    return () if entry is None else _attributes(entry)


def _attributes(entry: Entry) -> tuple[object, ...]:
    return entry.mode, entry.uid, entry.gid, entry.xattrs
