"""The context seam: a named, read-only tree of files that arrive as 0:0 (rule C16)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.changeset import ByteSource, Entry
from assembler.layer.summary import Summary
from assembler.layer.tree import Tree

ContentOf = Callable[[Entry], bytes]
"""The SHA-256 digest, as bytes, of an entry's bytes; empty where it has no source."""

Digests = Mapping[ByteSource, bytes]
"""The SHA-256 digests, as bytes, of what somebody has read."""
NOTHING: Digests = MappingProxyType({})

MAX_TEXT = 16 << 20
"""Bytes of a text that a context has: a Dockerfile, ignore rules."""


class Context(Protocol):
    """A build context."""

    name: str

    @property
    def rules(self) -> IgnoreRules | None:
        """The ignore rules that are applied, None when there are none."""
        ...

    @property
    def epoch(self) -> int | None:
        """When the whole was made, in seconds since the epoch; None when that means nothing."""
        ...

    def tree(self) -> Tree:
        """The files, ignore rules applied; entries' sources open the bytes."""
        ...

    def ignored(self, path: str) -> str | None:
        """The ignore rule (`.dockerignore:3 *.sh`) that hides `path`; None when none does, or
        when there is nothing at `path`."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """A tree that remembers what it holds. Its methods raise StepError for a file that cannot be
    read, ContextChanged for one that is changing; `check` is called on the way and may raise."""

    def unread(self, path: str, check: Callable[[], None]) -> bool:
        """Whether files must be read for the summary of the directory at `path`. All that is below
        it is listed by then: the tree shows it as it was, and its files' sources hold no more than
        what was seen."""
        ...

    def summary(self, path: str, check: Callable[[], None], known: Digests = NOTHING) -> Summary:
        """The summary of all that is below the directory at `path`. Files that are `known` are not
        read."""
        ...

    def listed(self, path: str, check: Callable[[], None]) -> Iterator[tuple[Entry, bytes]]:
        """All that is below the directory at `path`, of which there is a summary, with the SHA-256
        digests of files as bytes; empty where they are not known."""
        ...

    def contents(
        self, selection: str, check: Callable[[], None], given: Digests = NOTHING
    ) -> AbstractContextManager[ContentOf]:
        """The digests of files, one by one, remembered until the next time of that `selection`.
        Files that are `given` are not read."""
        ...
