"""What a step may use, and the cgroup files that say so (cgroups(7), rule R5)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from assembler.values import value

CONTROLLERS = ("memory", "pids", "cpu", "cpuset")
THREADED = frozenset({"pids", "cpu", "cpuset"})
"""Those that a group of version 2 can hand down while it has processes itself."""
_PERIOD = 100_000  # microseconds, the kernel's own
_RESERVE = 256


@value
class Resources:
    """Limits of one step, as `docker run` has them. Bytes, microseconds, lists such as `0-3,5`;
    0 or empty is no limit, -1 as `memory_swap` (memory and swap together) none for swap."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers that are needed for these limits."""
        needed = {
            "memory": self.memory or self.memory_swap,
            "cpu": self.cpu_shares or self.cpu_period or self.cpu_quota,
            "cpuset": self.cpuset_cpus or self.cpuset_mems,
        }
        return frozenset(name for name, wanted in needed.items() if wanted)

    def settings(self, controller: str, version: int) -> tuple[tuple[str, str], ...]:
        """The files of `controller` and what is written to them, in that order, in a hierarchy of
        cgroup version 1 or 2."""
        rows = {"memory": self._memory, "cpu": self._cpu, "cpuset": self._cpuset}
        return tuple(rows[controller](version)) if controller in rows else ()

    def _memory(self, version: int) -> Iterator[tuple[str, str]]:
        if self.memory:
            file = "memory.limit_in_bytes" if version == 1 else "memory.max"
            yield file, str(self.memory)
        if self.memory_swap:
            if version == 1:
                yield "memory.memsw.limit_in_bytes", str(self.memory_swap)
            elif self.memory_swap < 0:
                yield "memory.swap.max", "max"
            else:  # version 2 counts swap alone
                yield "memory.swap.max", str(self.memory_swap - self.memory)

    def _cpu(self, version: int) -> Iterator[tuple[str, str]]:
        if self.cpu_shares:
            if version == 1:
                yield "cpu.shares", str(self.cpu_shares)
            else:
                yield "cpu.weight", str(weight(self.cpu_shares))
        if version == 2 and (self.cpu_period or self.cpu_quota):
            yield "cpu.max", f"{self.cpu_quota or 'max'} {self.cpu_period or _PERIOD}"
        if version == 1 and self.cpu_period:
            yield "cpu.cfs_period_us", str(self.cpu_period)
        if version == 1 and self.cpu_quota:
            yield "cpu.cfs_quota_us", str(self.cpu_quota)

    def _cpuset(self, version: int) -> Iterator[tuple[str, str]]:
        if self.cpuset_cpus:
            yield "cpuset.cpus", self.cpuset_cpus
        if self.cpuset_mems:
            yield "cpuset.mems", self.cpuset_mems


def weight(shares: int) -> int:
    """cpu.weight (1 to 10000, 100 is the usual one) for shares (2 to 262144, 1024 is the usual
    one), by the curve that runc and crun use."""
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def less_reserve(amount: int) -> int:
    """What of `amount` processes a step may take, so that the builder can go on."""
    return amount - min(_RESERVE, amount // 4)
