"""How much a store may hold: the limits of buildkitd's garbage collection, by its names."""

from __future__ import annotations

from assembler.values import field, value


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
