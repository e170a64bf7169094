"""The upper directory of an overlay, after a process ran, to a changeset (rootless-runtime.md 2b)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from assembler.layer.changeset import Entry, Kind
from assembler.layer.overlay import Attributes, HardLinks, attributes, describe, is_whiteout


def changes(upper: str, lowers: Sequence[str]) -> Iterator[Entry]:
    """What `upper` changes over `lowers` (layer directories, TOPMOST FIRST), in walk order.

    A deletion is named only if the path exists below. A directory that is as it was below is named
    only when something in it changed; the root only when its mode, owner or attributes changed.
    Sockets are passed over. Run it in the user namespace that the owners are of. Raises OSError.
    """
    return _Comparison(upper, lowers).entries()


@dataclass(slots=True)
class _Frame:
    """A directory of the upper being walked. `held` is its entry while nothing calls for it."""

    items: Iterator[tuple[str, os.DirEntry[str]]]
    lowers: list[str]
    held: Entry | None


class _Comparison:
    def __init__(self, upper: str, lowers: Sequence[str]) -> None:
        self._upper = upper
        self._lowers = list(lowers)
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
            path, item = found
            status = item.stat(follow_symlinks=False)
            if is_whiteout(status):
                if _find(frame.lowers, item.name)[0] is not None:
                    yield from self._released()
                    yield Entry(path, Kind.WHITEOUT)
            elif stat.S_ISDIR(status.st_mode):
                yield from self._directory(path, item, status, frame)
            elif (entry := describe(path, item.path, status)) is not None:
                yield from self._released()
                yield self._links.link(entry, status)

    def _root(self) -> Iterator[Entry]:
        status, marks = os.stat(self._upper), attributes(self._upper)
        below = _root_below(self._lowers)
        if below != (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, marks.kept):
            entry = describe("", self._upper, status, marks.kept)
            if entry is not None:
                yield entry
        if marks.opaque and self._lowers:
            yield Entry("", Kind.OPAQUE)
        lowers = [] if marks.opaque else self._lowers
        self._frames.append(_Frame(_listing("", self._upper), lowers, None))

    def _directory(
        self, path: str, item: os.DirEntry[str], status: os.stat_result, frame: _Frame
    ) -> Iterator[Entry]:
        marks = attributes(item.path)
        entry = describe(path, item.path, status, marks.kept)
        below, directories = _find(frame.lowers, item.name)
        same = below is not None and bool(directories) and not marks.opaque
        if same and below is not None:
            same = _same(status, marks, below, directories[0])
        if not same and entry is not None:
            yield from self._released()
            yield entry
            if marks.opaque and directories:
                yield Entry(path, Kind.OPAQUE)
        lowers = [] if marks.opaque else directories
        self._frames.append(_Frame(_listing(path, item.path), lowers, entry if same else None))

    def _released(self) -> Iterator[Entry]:
        """The directories above the current one that are now called for."""
        for frame in self._frames:
            if frame.held is not None:
                yield frame.held
                frame.held = None


def _find(lowers: list[str], name: str) -> tuple[os.stat_result | None, list[str]]:
    """What `name` is in the merged directories `lowers`, and, if that is a directory, those that
    make it up, topmost first."""
    visible: os.stat_result | None = None
    merged: list[str] = []
    for directory in lowers:
        location = f"{directory}/{name}"
        try:
            status = os.lstat(location)
        except FileNotFoundError:
            continue
        if is_whiteout(status):
            break
        if not stat.S_ISDIR(status.st_mode):
            visible = visible or status
            break
        visible = visible or status
        merged.append(location)
        if attributes(location).opaque:
            break
    return visible, merged


def _same(status: os.stat_result, marks: Attributes, below: os.stat_result, location: str) -> bool:
    return (
        status.st_mode == below.st_mode
        and status.st_uid == below.st_uid
        and status.st_gid == below.st_gid
        and status.st_mtime_ns == below.st_mtime_ns
        and marks.kept == attributes(location).kept
    )


def _root_below(lowers: list[str]) -> tuple[int, int, int, object]:
    if not lowers:
        return 0o755, 0, 0, ()
    status = os.stat(lowers[0])
    kept = attributes(lowers[0]).kept
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, kept


def _listing(path: str, location: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(location) as found:
        items = sorted(found, key=lambda item: item.name)
    prefix = f"{path}/" if path else ""
    return ((prefix + item.name, item) for item in items)
