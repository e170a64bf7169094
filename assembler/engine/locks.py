"""Locks by name."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable


class Locks:
    """A lock for each name, made when it is first asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = defaultdict(threading.Lock)

    def __getitem__(self, name: Hashable) -> threading.Lock:
        with self._guard:
            return self._locks[name]
