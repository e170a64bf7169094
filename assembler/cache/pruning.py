"""What may go from a store, and its removal (`assemble prune`).

The choice is BuildKit's: records in use stay; without `all`, internal ones too; what is left goes
if it has not been used for `unused_for`, matches the filters, and, where there is a cap, for as long
as more than the cap is there, the longest unused first. What is shared with images counts for no cap.

The order keeps every live command safe. Sizes are looked up first, which takes long. Then, while
nobody can begin to use anything (`store.leases`), what is still unneeded is renamed into a scratch
directory, which is short. Then it is removed; whoever is interrupted leaves that to the next command.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from assembler.cache import measured
from assembler.cache.bounds import Filter, Policy, kept
from assembler.cache.local import LocalCache, set_aside
from assembler.cache.usage import GIT, INTERNAL, Usage, holding, needs, usages
from assembler.cancellation import Cancellation
from assembler.errors import UsageError
from assembler.linux.claims import claim, discard
from assembler.linux.paths import remove_tree
from assembler.store import uses
from assembler.store.disk import is_exhausted
from assembler.store.leases import collecting
from assembler.store.store import Store

_PRESENT: dict[str, Callable[[Usage], bool]] = {
    "inuse": lambda one: one.in_use,
    "mutable": lambda one: one.mutable,
    "immutable": lambda one: not one.mutable,
    "shared": lambda one: one.shared,
    "private": lambda one: not one.shared,
}
_TEXTS: dict[str, Callable[[Usage], str]] = {
    "id": lambda one: one.id,
    "parents": lambda one: ";".join(one.parents),
    "description": lambda one: one.description,
    "type": lambda one: one.type,
}


def parse_filter(key: str, value: str | None) -> Filter:
    """The filter `key`, or `key=value`; the key ends with `!` for anything else, with `~` for a
    pattern, as buildx has it. Raises UsageError."""
    bare = key.rstrip("!~")
    if bare in _PRESENT and key == bare:
        present = _PRESENT[bare]
        if value is None:
            return present
        if value in ("true", "1", "false", "0"):
            wanted = value in ("true", "1")
            return lambda one: present(one) is wanted
        raise UsageError(f"--filter {key}={value}: true or false was expected")
    if bare not in _TEXTS or value is None:
        known = ", ".join((*_TEXTS, *_PRESENT, "until"))
        word = key if value is None else f"{key}={value}"
        raise UsageError(f"--filter {word}: no such filter", hint=f"one of {known}")
    text = _TEXTS[bare]
    if key.endswith("~"):
        return _pattern(text, bare, value)
    if key.endswith("!"):
        return lambda one: text(one) != value
    if bare == "id":
        return lambda one: value in one.id
    return lambda one: text(one) == value


def _pattern(text: Callable[[Usage], str], name: str, pattern: str) -> Filter:
    import re

    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--filter {name}~={pattern}: {error}") from error
    return lambda one: compiled.search(text(one)) is not None


def chosen(
    found: Sequence[Usage], policies: Sequence[Policy], now: float, free: int
) -> list[Usage]:
    """What of `found`, the longest unused first, `policies` give up, each of what is left by those
    before it. `free` bytes are free now."""
    going: list[Usage] = []
    left = list(found)
    for policy in policies:
        gone = _chosen(left, policy, now, free)
        going += gone
        free += sum(one.size for one in gone)
        paths = {one.path for one in gone}
        left = [one for one in left if one.path not in paths]
    return going


def _chosen(found: Sequence[Usage], policy: Policy, now: float, free: int) -> list[Usage]:
    candidates = [
        one
        for one in found
        if not one.in_use
        and (policy.all or one.type != INTERNAL)
        and (not policy.unused_for or one.last_used <= now - policy.unused_for)
        and all(matches(one) for matches in policy.filters)
    ]
    total = counted(found)
    keep = kept(total, policy, free)
    if keep is None:
        return candidates
    going = []
    for one in candidates:
        if total <= keep:
            break
        going.append(one)
        total -= one.size
    return going


def counted(found: Iterable[Usage]) -> int:
    """The bytes of `found` that caps are for: all but what images share."""
    return sum(one.size for one in found if not one.shared)


def prune(
    store: Store,
    cache: LocalCache,
    policy: Policy,
    now: float,
    cancellation: Cancellation,
    moved: Callable[[Sequence[Usage]], None],
) -> None:
    """Remove what `policy` gives up; `moved` is told when it is settled what that is. Who is
    cancelled then has removed less. See `usages` for where to run it. Raises OSError, StoreError,
    Cancelled."""
    seen = measured.fingerprint(store.path)
    found = usages(store.path, cache.titles(), now, cancellation.check)
    going = chosen(found, [policy], now, free_space(store.path))
    gone = remove_all(store, going, cancellation, moved)
    settle(store, cache, seen, found, gone, now, steps=policy.all)


def remove_all(
    store: Store,
    going: Sequence[Usage],
    cancellation: Cancellation,
    moved: Callable[[Sequence[Usage]], None] = lambda gone: None,
) -> list[Usage]:
    """What could be removed of `going`, which `moved` is told before it is. Raises OSError,
    StoreError, Cancelled."""
    try:
        trash = claim(os.path.join(store.path, "scratch"))
    except OSError as error:
        if not is_exhausted(error):
            raise
        gone = collect(store.path, going, "", cancellation.check)
        moved(gone)
    else:
        try:
            gone = collect(store.path, going, trash.path, cancellation.check)
            moved(gone)
        finally:
            discard([trash], cancellation)
    return gone


def settle(
    store: Store,
    cache: LocalCache,
    seen: str,
    found: Sequence[Usage],
    gone: Sequence[Usage],
    now: float,
    *,
    steps: bool,
) -> None:
    """Forget what was known of things that are `gone` of `found`, and note what is left. `seen` is
    the fingerprint from before it was found; `steps` says to forget steps whose results are nowhere.
    """
    paths = {one.path for one in gone}
    left = [one for one in found if one.path not in paths]
    # to look is not to use; what has been made meanwhile is here, and not among what was found
    layers = store.layers_directory
    kinds = [os.path.join(layers, kind) for kind in os.listdir(layers)]
    cache.forget(
        lambda digest: not os.path.lexists(store.blobs.path(digest)),
        lambda identity: (
            steps and not any(os.path.lexists(f"{kind}/{identity.hex}") for kind in kinds)
        ),
        lazy=steps,
    )
    kept = {holding(one.path) for one in left}
    with suppress(OSError):  # only the order of a later prune is the worse for it
        uses.compact(os.path.join(store.path, "uses"), now, kept.__contains__, 1)
    measured.write(store.path, seen, left, counted(left), now)


def free_space(store: str) -> int:
    """The bytes that are free for the store at `store`. Raises OSError."""
    disk = os.statvfs(store)
    return disk.f_bavail * disk.f_frsize


def collect(
    store: str, going: Sequence[Usage], into: str, check: Callable[[], None]
) -> list[Usage]:
    """Move what of `going` is still unneeded into the directory `into` of the same file system,
    where it waits for its removal; what was moved. Without `into`, where the disk has no room for
    a directory, it is removed at once. Raises OSError."""
    moved = []
    with collecting(store, check) as held:
        needed = needs(store).blobs
        for number, one in enumerate(going):
            if one.path in needed or holding(one.path) in held:
                continue
            with _free(store, one) as free:
                place = os.path.join(store, one.path)
                if free and (_move(place, f"{into}/{number}") if into else _removed(place)):
                    moved.append(one)
    return moved


def remove(store: Store, path: str, cancellation: Cancellation) -> bool:
    """Remove the damaged `path` of `store`, whoever uses it; whether it could be. Raises Cancelled."""
    place = os.path.join(store.path, path)
    if path == "cache.db":
        set_aside(place)
        return True
    trash = claim(os.path.join(store.path, "scratch"))
    try:
        return _move(place, os.path.join(trash.path, "damaged"))
    finally:
        discard([trash], cancellation)


@contextmanager
def _free(store: str, one: Usage) -> Iterator[bool]:
    """Whether nobody else is at work in a repository, which has a lock of its own."""
    if one.type != GIT:
        yield True
        return
    path = os.path.join(store, f"{one.path}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _removed(path: str) -> bool:
    remove_tree(path)
    return True


def _move(path: str, into: str) -> bool:
    try:
        os.rename(path, into)
    except FileNotFoundError:
        return False
    except PermissionError:  # to move a directory is to write in it
        os.chmod(path, 0o700)
        os.rename(path, into)
    except OSError:  # a full disk, or another file system
        if os.path.isdir(path):
            raise
        remove_tree(path)
    return True
