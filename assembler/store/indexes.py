"""Indexes of layers, by diff_id: derived data, which may be deleted at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from assembler.linux.replacing import replacing
from assembler.oci.digest import Digest
from assembler.store.disk import translated

_LARGEST = 256 << 20  # bytes of an index


class Indexes:
    """The indexes below `directory`, `<algorithm>/<hex>` each. `hold` is given the name of each that
    is used, before it is looked for."""

    def __init__(self, directory: str, hold: Callable[[str], None] = lambda name: None) -> None:
        self._directory = directory
        self._hold = hold

    def has(self, diff_id: Digest) -> bool:
        """Whether there is an index of the layer `diff_id`, sound or not."""
        return os.path.lexists(self._path(diff_id))

    def load(self, diff_id: Digest) -> bytes | None:
        """The index of the layer `diff_id`, None where there is none that can be read."""
        path = self._path(diff_id)
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as stream:
                return stream.read(_LARGEST)
        return None

    def save(self, diff_id: Digest, content: Iterable[bytes | memoryview]) -> None:
        """Keep `content`, in pieces, as the index of `diff_id`; a reader never sees a part of it.
        Raises StoreError."""
        path = self._path(diff_id)
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with replacing(path, 0o600) as stream:
                stream.writelines(content)
        except OSError as error:
            raise translated(error, self._directory) from error

    def _path(self, diff_id: Digest) -> str:
        self._hold(f"{diff_id.algorithm}/{diff_id.hex}")
        return os.path.join(self._directory, diff_id.algorithm, diff_id.hex)
