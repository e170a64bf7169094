"""One entry's bytes, read into given memory, with the errors of its author's own doing."""

from __future__ import annotations

import io
import os
from typing import Any

from assembler.errors import ContextChanged, StepError
from assembler.layer.changeset import ByteSource, Entry, FileSource, PathBytes, RangeBytes
from assembler.linux.beneath import Openings

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Reading:
    """An open source. A file is read by descriptor, without a Python stream; with `near` it is opened
    by way of what that has open. Who reads to the end learns whether it is what was seen.

    `descriptor` and `offset` say where the bytes are when they are in a file, else it is -1.
    Everything raises StepError naming the entry where its source cannot be read, ContextChanged
    where it is gone.
    """

    def __init__(self, entry: Entry, near: Openings | None = None) -> None:
        self._entry = entry
        self._stream: Any = None
        self.descriptor = -1
        self.offset = 0
        self._left = 1 << 63
        self._file: FileSource | None = None
        source = entry.source
        try:
            if near is not None and (file := as_file(source)) is not None:
                self.descriptor = _opened(file, near)
                self._file = file
            elif isinstance(source, PathBytes | RangeBytes):
                self.descriptor = os.open(source.path, _FLAGS)
                if isinstance(source, RangeBytes):
                    self.offset, self._left = source.offset, source.size
            elif source is not None:
                self._stream = source.open()
            else:
                self._stream = io.BytesIO()
        except OSError as error:
            raise unreadable(entry, error) from error

    def readinto(self, view: memoryview) -> int:
        """Fill `view` as far as one read goes; 0 at the end."""
        try:
            if self._stream is None:
                view = view[: self._left]
                count = os.preadv(self.descriptor, (view,), self.offset) if view else 0
                if not count and self._file is not None:
                    self._file.check(self.descriptor)
                self.offset += count
                self._left -= count
                return count
            readinto = getattr(self._stream, "readinto", None)
            if readinto is not None:
                return readinto(view) or 0
            data = self._stream.read(len(view))
        except OSError as error:
            raise unreadable(self._entry, error) from error
        view[: len(data)] = data
        return len(data)

    def skip(self, count: int) -> None:
        """Take note that `count` bytes at `offset` were read by other means."""
        self.offset += count
        self._left -= count

    def changed(self, how: str) -> ContextChanged:
        """See `changed`."""
        return changed(self._entry, how)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        else:
            os.close(self.descriptor)


def as_file(source: ByteSource | None) -> FileSource | None:
    """`source` where it is a `FileSource`."""
    found: Any = source if hasattr(source, "descriptor") else None
    file: FileSource | None = found
    return file


def _opened(file: FileSource, near: Openings) -> int:
    descriptor = file.descriptor(near)
    try:
        file.check(descriptor)
    except ContextChanged:
        os.close(descriptor)
        raise
    return descriptor


def changed(entry: Entry, how: str) -> ContextChanged:
    """The error for a source that became `how` ("shorter", "longer")."""
    return ContextChanged(
        f"{entry.path!r} changed while it was read: it became {how} than {entry.size} bytes",
        hint="build again when nothing writes to it",
    )


def unreadable(entry: Entry, error: OSError) -> StepError:
    """The error for a source that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return ContextChanged(
            f"{entry.path!r} was removed before it was read",
            hint="build again when nothing writes to it",
        )
    return StepError(f"cannot read {entry.path!r}: {error.strerror}")
