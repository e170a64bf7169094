"""Files opened one after another below a root, each by its name in a directory that is open already."""

from __future__ import annotations

import errno
import os

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = _PATH | os.O_NOFOLLOW
_KEPT = 64


class Openings:
    """Keeps the directories between a root and the file opened last, 64 at most.

    A walk opens each directory once so; no file costs a lookup from the root. Used by `with`, in
    one thread.
    """

    def __init__(self) -> None:
        self._root: str | None = None
        self._above = ""
        self._directory = -1
        self._open: list[tuple[str, int]] = []

    def open(self, root: str, path: str, flags: int) -> int:
        """A descriptor of `path` below the directory `root`, reached through directories only: a
        link on the way or at the end is an error (ELOOP, ENOTDIR). Raises OSError."""
        name = self._near(root, path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)

    def stat(self, root: str, path: str) -> os.stat_result:
        """What is at `path` below the directory `root`, a link at the end not followed; reached as by
        `open`. Raises OSError."""
        name = self._near(root, path)
        return os.stat(name, dir_fd=self._directory, follow_symlinks=False)

    def _near(self, root: str, path: str) -> str:
        """The name of `path` in the directory that is open then."""
        above, _, name = path.rpartition("/")
        if above != self._above or root != self._root:
            self._enter(root, above)
        return name

    def _enter(self, root: str, path: str) -> None:
        if root != self._root:
            self.close()
            self._open.append(("", os.open(root, _PATH)))
            self._root = root
        self._above = "//"  # no path: whatever fails below, nothing is taken for open
        while self._open and not within(path, self._open[-1][0]):
            os.close(self._open.pop()[1])
        if not self._open:  # the root was given up for deeper ones
            self._open.append(("", os.open(root, _PATH)))
        nearest, directory = self._open[-1]
        rest = (path[len(nearest) + 1 :] if nearest else path).split("/") if nearest != path else []
        for name in rest:
            if name in ("", ".", ".."):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            nearest = f"{nearest}/{name}" if nearest else name
            directory = os.open(name, _DIRECTORY, dir_fd=directory)
            self._open.append((nearest, directory))
            if len(self._open) > _KEPT:
                os.close(self._open.pop(0)[1])
        self._above, self._directory = path, directory

    def close(self) -> None:
        """Close every directory."""
        self._root = None
        while self._open:
            os.close(self._open.pop()[1])

    def __enter__(self) -> Openings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or in it, both relative to one root and without links."""
    return not directory or path == directory or path.startswith(f"{directory}/")
