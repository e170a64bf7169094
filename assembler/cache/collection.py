"""Collecting after builds, by themselves: what `prune` would remove to keep a store in its bounds.

As BuildKit does it by default, internal records go only where all others were not enough. That a
store is within its bounds is known without looking through it (`cache.measured`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from assembler.cache import measured
from assembler.cache.bounds import Bounds, Policy, kept
from assembler.cancellation import Cancellation
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.cache.local import LocalCache


def lacks_space(store: str, bounds: Bounds) -> bool:
    """Whether less is free on the file system of the store at `store` than there is to be. Raises
    OSError."""
    policy, free = _policy(store, bounds)
    return free < policy.min_free


def due(store: str, bounds: Bounds, now: float) -> bool:
    """Whether the store at `store` may hold what `bounds` do not allow. Raises OSError."""
    policy, free = _policy(store, bounds)
    if free >= policy.min_free > 0 == policy.max_used == policy.reserved:
        return False
    known = measured.read(store)
    if known is None:
        return True
    if policy.unused_for and known.oldest + policy.unused_for > now:
        return False
    most = kept(known.counted, policy, free)
    if most is None or known.counted > most:
        return True
    return known.fingerprint != measured.fingerprint(store)


def collect(
    store: Store, cache: LocalCache, bounds: Bounds, now: float, cancellation: Cancellation
) -> None:
    """Remove what `bounds` do not allow of `store`. See `cache.usage.usages` for where to run it.
    Raises OSError, StoreError, Cancelled."""
    from assembler.cache.pruning import chosen, counted, remove_all, settle
    from assembler.cache.usage import usages

    policy, free = _policy(store.path, bounds)
    seen = measured.fingerprint(store.path)
    found = usages(store.path, {}, now, cancellation.check)
    going = chosen(found, [policy, policy.internal], now, free)
    if going:
        gone = remove_all(store, going, cancellation)
        settle(store, cache, seen, found, gone, now, steps=False)
    else:
        measured.write(store.path, seen, found, counted(found), now)


def _policy(store: str, bounds: Bounds) -> tuple[Policy, int]:
    """What `bounds` mean on the file system of `store`, and how many bytes are free there."""
    disk = os.statvfs(store)
    total = disk.f_blocks * disk.f_frsize
    policy = Policy(
        unused_for=bounds.keep,
        max_used=bounds.max_used.of(total),
        reserved=bounds.reserved.of(total),
        min_free=bounds.min_free.of(total),
    )
    return policy, disk.f_bavail * disk.f_frsize
