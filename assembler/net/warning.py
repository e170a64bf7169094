"""What registries warn of (distribution-spec "Warnings", RFC 7234 5.5)."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable

from assembler.source import printable

_FORM = re.compile(r'299 - "((?:[^"\\]|\\.)*)"')
_LONGEST = 200
_MOST = 20


class Warnings:
    """Hands warnings on, each once, escaped and short; no more than `_MOST` of them. Threads share
    it."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def note(self, registry: str, headers: Iterable[str]) -> None:
        """The Warning headers of an answer. Those of another form than the specification's are
        passed over."""
        for header in headers:
            for match in _FORM.finditer(header[: 1 << 14]):
                said = re.sub(r"\\(.)", r"\1", match[1])
                text = f"{registry}: {printable(' '.join(said.split()))[:_LONGEST]}"
                with self._lock:
                    if text in self._told or len(self._told) >= _MOST:
                        continue
                    self._told.add(text)
                self._warn(text)
