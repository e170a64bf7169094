"""Uploads that are not finished, so that the next command goes on with them.

    uploads/<sha256 of registry, repository and digest>

A file of mode 0600, locked by whoever sends that blob: a line for each answer of the registry, the
last whole one counts. A location may open the upload to whoever has it, so it is nobody else's to
read; a credential is never in it. What it says is a hint: the registry is asked where it stands.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from assembler.oci.digest import Digest

STALE = 7 * 86400.0  # seconds, after which registries have thrown an upload away
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MOST = 8 << 20  # bytes of an entry that are read


class OpenUpload:
    """One upload of this process; `location` is where it was open when the entry was read, if it
    was."""

    def __init__(self, path: str, file: int, about: dict[str, str]) -> None:
        self._path = path
        self._file = file
        self._about = about
        self.location, self.offset = _read(file)
        self._done = False

    def note(self, location: str, offset: int) -> None:
        """Take note of where the upload is open and how far it is. A disk that cannot is no reason
        not to push: then there is nothing to go on with."""
        line = json.dumps(self._about | {"location": location, "offset": offset}) + "\n"
        with suppress(OSError):
            os.write(self._file, line.encode())

    def finished(self) -> None:
        """There is nothing to go on with."""
        self._done = True

    def close(self) -> None:
        """Give the entry free for others; it stays unless it is finished or empty."""
        with suppress(OSError):
            if self._done or not os.fstat(self._file).st_size:
                os.unlink(self._path)
        os.close(self._file)


class Uploads:
    """The open uploads that are remembered in `directory`. `hold` is given the name of each that is
    used, so that nobody collects it meanwhile."""

    def __init__(
        self,
        directory: str,
        hold: Callable[[str], None] = lambda name: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._hold = hold
        self._clock = clock
        self._swept = False

    @contextmanager
    def entry(self, registry: str, repository: str, digest: Digest) -> Iterator[OpenUpload | None]:
        """The entry of this upload, for this process alone; None while another one has it, or
        where nothing can be written."""
        about = {"registry": registry, "repository": repository, "digest": str(digest)}
        key = hashlib.sha256("\0".join(about.values()).encode()).hexdigest()
        path = os.path.join(self._directory, key)
        if not self._swept:
            self._swept = True
            self.sweep()
        self._hold(key)
        file = self._taken(path)
        if file is None:
            yield None
            return
        found = OpenUpload(path, file, about)
        try:
            yield found
        finally:
            found.close()

    def _taken(self, path: str) -> int | None:
        """The file `path`, locked; None where another process has it, or there can be none."""
        with suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            while True:
                file = os.open(path, _OPEN | os.O_APPEND, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(file), os.lstat(path)):
                        return file
                except FileNotFoundError:  # its owner has just finished it
                    pass
                except OSError:
                    os.close(file)
                    return None
                os.close(file)
        return None

    def sweep(self) -> None:
        """Remove what no process has and no registry will know any more."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(self._directory):
                path = os.path.join(self._directory, name)
                with suppress(OSError):
                    if self._clock() - os.lstat(path).st_mtime < STALE:
                        continue
                    file = self._taken(path)
                    if file is not None:
                        os.unlink(path)
                        os.close(file)


def _read(file: int) -> tuple[str, int]:
    """The last whole line's location and offset, ("", 0) where there is none. What its writer did
    not finish is cut off."""
    whole, end, _ = os.pread(file, _MOST, 0).rpartition(b"\n")
    os.ftruncate(file, len(whole + end))
    for line in reversed(whole.split(b"\n")):
        with suppress(ValueError, KeyError, TypeError):
            document = json.loads(line)
            return str(document["location"]), int(document["offset"])
    return "", 0
