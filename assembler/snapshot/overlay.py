"""Layer directories for kernel overlays: published by rename, swept by lock, deleted last.

    <directory>/<id>/        a published layer, immutable
    <directory>/<id>/tree, owners   the same where owners are recorded (see `linux.ownership`)
    <directory>/.<uuid>/     work of a live build, claimed for its life
    <directory>/.<uuid>/trash/   trees to remove when the build ends

The kernel stacks 500 layers at most: where there are more, the lowest of them are put together into
one directory, found again by the ids of those that are in it.

Trees are removed only at the end: on ext4, creating files right after removing as many stalls for
seconds (rootless-runtime.md 2).
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from assembler.errors import StoreError
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree, everything
from assembler.linux import ownership
from assembler.linux.claims import claim, sweep
from assembler.linux.mounts import try_overlay
from assembler.runtime.base import Root

_MOST = 490  # OVL_MAX_STACK is 500, and a root has layers of its own besides
_TOGETHER = 256


class OverlaySnapshotter:
    """Layer directories below one directory. Use it with `with`, inside the user namespace.

    `recorded` says that the id map cannot express owners: every layer directory of `directory` has
    a table for those that no attribute can tell. `hold` is given the id of each layer directory that
    is used, before it is looked for: nobody collects it then. `published` is given the id of each that
    was made here, when it has its name.
    """

    name = "overlay"

    def __init__(self, directory: str, *, recorded: bool = False) -> None:
        self._directory = directory
        self._recorded = recorded
        self.hold: Callable[[str], None] = _unheeded
        self.published: Callable[[str], None] = _unheeded
        os.makedirs(directory, mode=0o700, exist_ok=True)
        sweep(directory, ".")
        self._claim = claim(directory, ".")
        self._work = self._claim.path
        os.mkdir(os.path.join(self._work, "trash"), 0o700)

    @staticmethod
    def refused(directory: str) -> str:
        """Why no overlay can be mounted over layers in `directory`, empty when it can."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with claim(directory, ".") as claimed:
            try:
                try_overlay(os.path.join(claimed.path, "trial"))
            except OSError as error:
                return error.strerror or str(error)
        return ""

    def __enter__(self) -> OverlaySnapshotter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything this object left in progress or threw away."""
        self._claim.close()

    def find(self, id: str) -> str | None:
        """See `snapshot.base.Snapshotter.find`."""
        self.hold(id)
        path = os.path.join(self._directory, id, ownership.TREE if self._recorded else "")
        path = path.rstrip("/")
        return path if os.path.isdir(path) else None

    @contextmanager
    def create(self, id: str) -> Iterator[str]:
        """See `snapshot.base.Snapshotter.create`."""
        fresh = self._fresh(self._place())
        yield fresh
        self._publish(fresh, id)

    @contextmanager
    def prepare(self, id: str, lowers: Sequence[str]) -> Iterator[Root]:
        """See `snapshot.base.Snapshotter.prepare`."""
        scratch = self._place()
        upper = self._fresh(f"{scratch}.layer")
        os.mkdir(scratch, 0o700)
        _like_below(upper, lowers)
        yield Root(self._stacked(lowers), upper, scratch, scratch)
        if self._recorded:
            ownership.carry(upper, lowers)
        self._publish(upper, id)

    def _stacked(self, lowers: Sequence[str]) -> tuple[str, ...]:
        """`lowers`, or as few directories with the same files as an overlay can have. How many are
        put together changes once in `_TOGETHER` steps: a step seldom has to do it anew."""
        if len(lowers) <= _MOST:
            return tuple(lowers)
        count = -(-(len(lowers) - _MOST) // _TOGETHER) * _TOGETHER
        upper, lowest = lowers[:-count], lowers[-count:]
        id = hashlib.sha256("\n".join(map(self._id, lowest)).encode()).hexdigest()
        if self.find(id) is None:
            with self.create(id) as directory:
                tree = MergedTree([DirectoryTree(path) for path in lowest])
                realise(everything(tree), directory)
        return (*upper, self._found(id))

    def _id(self, path: str) -> str:
        """The id of a published layer directory."""
        return os.path.basename(os.path.dirname(path) if self._recorded else path)

    def _found(self, id: str) -> str:
        path = self.find(id)
        if path is None:
            raise StoreError(f"layer directory {id} vanished", id)
        return path

    def writable(self, id: str) -> AbstractContextManager[str | None]:
        """See `snapshot.base.Snapshotter.writable`."""
        return nullcontext()

    def remove(self, id: str) -> None:
        """See `snapshot.base.Snapshotter.remove`."""
        try:
            self._discard(os.path.join(self._directory, id))
        except FileNotFoundError:
            return

    def _tree(self, layer: str) -> str:
        """Where the files of the layer directory are that `_fresh` makes at `layer`."""
        return os.path.join(layer, ownership.TREE) if self._recorded else layer

    def _fresh(self, layer: str) -> str:
        """Make a layer directory at `layer`, of the form that this snapshotter publishes; where its
        files go."""
        tree = self._tree(layer)
        for path in dict.fromkeys((layer, tree)):
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)
        if self._recorded:
            ownership.write_table(tree, {})
        return tree

    def _place(self) -> str:
        """A path for something new in this object's own directory, with any suffix too."""
        return os.path.join(self._work, uuid.uuid4().hex[:12])

    def _publish(self, tree: str, id: str) -> None:
        if self._recorded:
            tree = os.path.dirname(tree)
        self.hold(id)
        try:
            os.rename(tree, os.path.join(self._directory, id))
        except OSError:
            if self.find(id) is None:  # another build published the same id first: keep that one
                raise
        else:
            self.published(id)

    def _discard(self, path: str) -> None:
        os.rename(path, os.path.join(self._work, "trash", uuid.uuid4().hex))


def _unheeded(id: str) -> None:
    """For snapshotters of whose directories nothing is collected, and no power cut matters."""


def _like_below(upper: str, lowers: Sequence[str]) -> None:
    """Give the upper root the owner, mode and times of the root below it: an overlay shows the
    upper directory's own."""
    if not lowers:
        os.chmod(upper, 0o755)
        return
    below = os.stat(lowers[0])
    recorded = ownership.recorded(lowers[0])
    if recorded is not None:
        ownership.record(upper, recorded)
    os.chown(upper, below.st_uid, below.st_gid)
    os.chmod(upper, below.st_mode & 0o7777)
    os.utime(upper, ns=(below.st_atime_ns, below.st_mtime_ns))
