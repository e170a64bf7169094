"""Which files of a tree a step opened for writing, whether or not it wrote, and which directories it
moved, though they may be back (inotify(7)).

An overlay copies such a file up, so a layer has it: lock files, mostly. It lets nobody move a
directory of a layer below, so that mv(1) makes another one. Change times do not tell either. Where the kernel gives no watch or loses events, the rest is simply not known.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable

from assembler.linux import syscalls

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_BUFFER = 1 << 16


class WatchedTree:
    """Watches the directories given by (path, location) until `close`."""

    def __init__(self, directories: Iterable[tuple[str, str]]) -> None:
        self._paths: dict[int, str] = {}
        self._found: set[str] = set()
        self.moved: set[str] = set()
        """Directories that were moved, as they were named at the start; complete after `close`."""
        self._thread: threading.Thread | None = None
        try:
            self._queue = syscalls.inotify_init()
        except OSError:
            return
        self._reader, self._end = os.pipe2(os.O_CLOEXEC)
        try:
            for path, location in directories:
                mask = syscalls.IN_CLOSE_WRITE | syscalls.IN_MOVE_SELF
                watch = syscalls.inotify_add_watch(self._queue, location, mask)
                self._paths[watch] = path
        except OSError:  # the user's limit is reached
            pass
        self._thread = threading.Thread(target=self._read, name="inotify", daemon=True)
        self._thread.start()

    def close(self) -> set[str]:
        """Stop; the paths that were opened for writing, as they were named at the start."""
        if self._thread is not None:
            os.close(self._end)
            self._thread.join()
            self._thread = None
            os.close(self._reader)
            os.close(self._queue)
        return self._found

    def _read(self) -> None:
        import select

        poller = select.poll()
        poller.register(self._queue, select.POLLIN)
        poller.register(self._reader, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if self._queue in ready:
                self._note(os.read(self._queue, _BUFFER))
            elif ready:
                return

    def _note(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            name = os.fsdecode(events[at : at + length].rstrip(b"\0"))
            at += length
            path = self._paths.get(watch)
            if path is not None and mask & syscalls.IN_MOVE_SELF:
                self.moved.add(path)
            elif path is not None and name:
                self._found.add(f"{path}/{name}".lstrip("/"))
