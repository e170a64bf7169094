"""One entry's bytes, read into given memory, with the errors of its author's own doing."""

from __future__ import annotations

import io
import os
from typing import Any

from assembler.errors import ContextChanged, StepError
from assembler.layer.changeset import Entry, PathBytes, RangeBytes


class Reading:
    """An open source. Files of ours are read by descriptor, without a Python stream.

    `descriptor` and `offset` say where the bytes are when they are in a file, else it is -1.
    Everything raises StepError naming the entry where its source cannot be read, ContextChanged
    where it is gone.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._stream: Any = None
        self.descriptor = -1
        self.offset = 0
        self._left = 1 << 63
        source = entry.source
        try:
            if isinstance(source, PathBytes | RangeBytes):
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                self.descriptor = os.open(source.path, flags)
                if isinstance(source, RangeBytes):
                    self.offset, self._left = source.offset, source.size
            elif source is not None:
                self._stream = source.open()
            else:
                self._stream = io.BytesIO()
        except OSError as error:
            raise self._unreadable(error) from error

    def readinto(self, view: memoryview) -> int:
        """Fill `view` as far as one read goes; 0 at the end."""
        try:
            if self._stream is None:
                view = view[: self._left]
                count = os.preadv(self.descriptor, (view,), self.offset) if view else 0
                self.offset += count
                self._left -= count
                return count
            readinto = getattr(self._stream, "readinto", None)
            if readinto is not None:
                return readinto(view) or 0
            data = self._stream.read(len(view))
        except OSError as error:
            raise self._unreadable(error) from error
        view[: len(data)] = data
        return len(data)

    def skip(self, count: int) -> None:
        """Take note that `count` bytes at `offset` were read by other means."""
        self.offset += count
        self._left -= count

    def changed(self, how: str) -> ContextChanged:
        """The error for a source that became `how` ("shorter", "longer")."""
        return ContextChanged(
            f"{self._entry.path!r} changed while it was read: it became {how} than "
            f"{self._entry.size} bytes",
            hint="build again when nothing writes to it",
        )

    def _unreadable(self, error: OSError) -> StepError:
        if isinstance(error, FileNotFoundError):
            return ContextChanged(
                f"{self._entry.path!r} was removed before it was read",
                hint="build again when nothing writes to it",
            )
        return StepError(f"cannot read {self._entry.path!r}: {error.strerror}")

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        else:
            os.close(self.descriptor)
