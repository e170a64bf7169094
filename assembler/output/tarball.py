"""The files of a build's target as one tar (`-o type=tar`, rules O1, T2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from assembler.cancellation import nothing
from assembler.layer.changeset import Entry
from assembler.layer.tar_writer import TarWriter
from assembler.layer.tree import Tree, everything
from assembler.linux.beneath import Openings
from assembler.output.base import Check
from assembler.output.stream import sink, written


class Tarball:
    """Writes a tar to the file `path`, which appears whole or not at all, or to stdout for `-`: sorted,
    without the root, with owners, attributes and hard links. With an `epoch` (seconds) that is when
    everything was changed."""

    def __init__(self, path: str, epoch: int | None = None, *, split: bool = False) -> None:
        self.split = split
        self._path = path
        self._epoch = epoch
        self.name = f"exporting to tar {'stdout' if path == '-' else path}"

    def write(self, tree: Tree, check: Check = nothing) -> None:
        """See `output.base.FilesOutput.write`."""
        written(self._path, lambda stream: self._pack(tree, stream, check), check)

    def _pack(self, tree: Tree, stream: BinaryIO, check: Check) -> None:
        with Openings() as near:
            writer = TarWriter(sink(stream, check), near=near, whiteouts=False)
            writer.add_all(self._entries(tree, check))
            writer.close()

    def _entries(self, tree: Tree, check: Check) -> Iterator[Entry]:
        for entry in everything(tree):
            check()
            if entry.path:
                yield timed(entry, self._epoch)


def timed(entry: Entry, epoch: int | None) -> Entry:
    """`entry`, changed when `epoch` says, in seconds, if it says anything (rule T2)."""
    return entry if epoch is None else entry._replace(mtime=epoch * 1_000_000_000)
