"""A context that is fetched when it is first looked at: a build may never need it (rule X2)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from assembler.context.base import Context
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.tree import Tree


class DeferredContext:
    """The context that `fetch` gives, asked for once. Its errors come from every use."""

    def __init__(self, name: str, fetch: Callable[[], Context]) -> None:
        self.name = name
        self._fetch = fetch
        self._lock = threading.Lock()
        self._context: Context | None = None

    @property
    def rules(self) -> IgnoreRules | None:
        """See `context.base.Context.rules`."""
        return self._fetched().rules

    @property
    def epoch(self) -> int | None:
        """See `context.base.Context.epoch`."""
        return self._fetched().epoch

    def tree(self) -> Tree:
        """See `context.base.Context.tree`."""
        return self._fetched().tree()

    def ignored(self, path: str) -> str | None:
        """See `context.base.Context.ignored`."""
        return self._fetched().ignored(path)

    def _fetched(self) -> Context:
        with self._lock:
            if self._context is None:
                self._context = self._fetch()
            return self._context
