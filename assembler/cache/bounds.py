"""How much a store may hold: the limits of buildkitd's garbage collection, by its names, and what
they mean for what is there. Every build with limits reads this: it imports little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.cache.usage import Usage

Filter = Callable[["Usage"], bool]


@value
class Space:
    """An amount of disk: `bytes`, and `percent` of the whole file system."""

    bytes: int = 0
    percent: int = 0

    def of(self, total: int) -> int:
        """The bytes of it on a file system of `total` bytes; 0 is no bound."""
        return self.bytes + total * self.percent // 100


@value(kw_only=True)
class Bounds:
    """What is kept of a store after a build. At most `max_used` may stay, and `min_free` is to be
    free, but `reserved` always may stay, and what was used less than `keep` seconds ago."""

    reserved: Space = field(default_factory=Space)
    max_used: Space = field(default_factory=Space)
    min_free: Space = field(default_factory=Space)
    keep: float = 0.0

    def __bool__(self) -> bool:
        return self != Bounds()


@value(kw_only=True)
class Policy:
    """What `prune` was asked for. Spaces are bytes, 0 for no bound; `unused_for` is seconds."""

    all: bool = False
    filters: Sequence[Filter] = ()
    unused_for: float = 0
    max_used: int = 0
    reserved: int = 0
    min_free: int = 0

    @property
    def internal(self) -> Policy:
        """The same for internal records too."""
        return replace(self, all=True)


def kept(total: int, policy: Policy, free: int) -> int | None:
    """How many of `total` bytes may stay where `free` ones are free; None where nothing bounds what
    goes."""
    if not (policy.max_used or policy.reserved or policy.min_free):
        return None
    keep = policy.max_used
    lacking = policy.min_free - free
    if lacking > 0:
        keep = min(keep, total - lacking) if keep else total - lacking
    elif policy.min_free and not keep:
        keep = total
    return max(keep, policy.reserved)
