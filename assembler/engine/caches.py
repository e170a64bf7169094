"""The directories of cache mounts (rule M7): made, taken over from another machine, exported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from assembler.cancellation import Cancellation
from assembler.engine.services import Sandbox, Services
from assembler.engine.take import unseen
from assembler.errors import AssemblerError, BlobCorrupt, Cancelled, HostError
from assembler.events import Warned
from assembler.layer.changeset import Changeset
from assembler.layer.realise import realise
from assembler.linux.claims import claim, taken
from assembler.linux.ownership import TREE, give, write_table
from assembler.oci.image import Layer
from assembler.plan.plan import Plan
from assembler.plan.steps import CacheMount
from assembler.snapshot.published import RECORDED

if TYPE_CHECKING:
    from assembler.cache.document import CachedMount


@contextmanager
def cache_directory(
    mount: CacheMount, name: str, services: Services, sandbox: Sandbox, seed: Changeset
) -> Iterator[str]:
    """The directory `name` of a cache mount. A new one has what another machine's had, if the build
    was told where that is, or its owner, mode and the files of `seed` (rule M7). There is one for
    each kind of id map, as of layers.

    `locked` waits for other builds that use it; `private` takes another directory when it is
    busy; `shared` does not lock.
    """
    sharing = mount.sharing
    parent = os.path.join(services.store.cache_mounts_directory, sandbox.ids)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    services.store.hold(f"mounts/{sandbox.ids}/{name}")
    cancellation = services.cancellation
    with ExitStack() as stack:
        number = 0
        while sharing != "shared":
            path = os.path.join(parent, f"{name}.{number}.lock")
            if _locked(path, lambda: sharing == "locked", cancellation, stack):
                break
            number += 1
        directory = os.path.join(parent, f"{name}.{number}")
        with ExitStack() as making:
            lacks = partial(_lacks, directory)
            if sharing == "shared" and lacks():  # one makes it, and the others wait for that
                _locked(f"{directory}.lock", lacks, cancellation, making)
            if lacks():
                _make(directory, name, mount, services, sandbox, seed)
        yield directory


def _lacks(directory: str) -> bool:
    return not os.path.isdir(directory)


def _locked(
    path: str, wait: Callable[[], bool], cancellation: Cancellation, stack: ExitStack
) -> bool:
    """Whether the lock at `path` was taken, which somebody else may have for as long as it is worth
    to `wait`; `stack` gives it back."""
    with ExitStack() as opened:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        opened.callback(os.close, descriptor)
        while not taken(descriptor):
            if not wait():
                return False
            cancellation.wait(0.1)
            cancellation.check()
        stack.push(opened.pop_all())
        return True


def _make(
    directory: str,
    name: str,
    mount: CacheMount,
    services: Services,
    sandbox: Sandbox,
    seed: Changeset,
) -> None:
    """Make it whole in a claimed place first: a build that dies on the way leaves no half of it."""
    from assembler.cache.mounts import remember

    parent = os.path.dirname(directory)
    carried = _carried(name, mount, services)
    if carried is not None:
        with claim(parent, ".") as claimed:
            tree = _tree(claimed.path, sandbox)
            if _restored(carried, tree, mount, services):
                _publish(tree, directory)
                remember(services.packed, name, carried)
                return
    with claim(parent, ".") as claimed:
        tree = _tree(claimed.path, sandbox)
        realise(seed, tree)
        give(tree, (mount.uid, mount.gid))
        os.chmod(tree, mount.mode)
        _publish(tree, directory)


def _tree(parent: str, sandbox: Sandbox) -> str:
    """A directory to fill, in which owners are records where the id map does not have them."""
    path = os.path.join(parent, TREE)
    os.mkdir(path, 0o700)
    if sandbox.ids == RECORDED:
        write_table(path, {})
    return path


def _publish(tree: str, directory: str) -> None:
    try:
        os.rename(tree, directory)
    except OSError:
        if not os.path.isdir(directory):
            raise  # else another build was first


def _carried(name: str, mount: CacheMount, services: Services) -> Layer | None:
    """The mount as another machine had it, its blob in the store."""
    layer = services.carried.find(name)
    if layer is None:
        return None
    try:
        if not services.store.blobs.has(layer.descriptor.digest):
            services.cached.fetch(layer.descriptor, unseen, judged=True)
    except Cancelled:
        raise
    except (AssemblerError, OSError) as error:
        if not (isinstance(error, BlobCorrupt) and error.removed):  # of a cache that is told itself
            _warn(mount, services, error)
        return None
    return layer


def _restored(carried: Layer, into: str, mount: CacheMount, services: Services) -> bool:
    """Whether `into` now has what `carried` has; if not, it is to be thrown away."""
    from assembler.cache.mounts import restore

    check, limits = services.cancellation.check, services.archive_limits
    try:
        with services.store.blobs.reading(carried.descriptor.digest) as blob:
            restore(carried, blob, into, mount, limits=limits, check=check)
    except Cancelled:
        raise
    except (AssemblerError, OSError) as error:
        _warn(mount, services, error)
        return False
    return True


def _warn(mount: CacheMount, services: Services, error: AssemblerError | OSError) -> None:
    if isinstance(error, BlobCorrupt) and error.told:
        return
    reason = error.strerror if isinstance(error, OSError) else error.message
    message = f"cache mount {mount.id} is not taken over, and starts anew: {reason}"
    services.sink(Warned(message, services.clock()))


def exported(
    plan: Plan, services: Services, enter: Callable[[], str], largest: int
) -> tuple[CachedMount, ...]:
    """The cache mounts that RUNs of `plan` name, packed: as they are here, or as they were
    elsewhere where this store has them not. What has more than `largest` bytes, 0 for the usual
    number, and what cannot be had is left out and told.

    `enter` enters the user namespace, and says which kind of id map it has. Raises Cancelled.
    """
    from assembler.cache.document import CachedMount
    from assembler.cache.mounts import named, shown_id

    mounts = named(plan)
    here, found = _exported_from_here(mounts, services, enter, largest)
    for name in mounts.keys() - here:
        layer = services.carried.find(name)
        if layer is not None:
            found.append(CachedMount(name, shown_id(mounts[name][0]), layer))
    return tuple(sorted(found, key=lambda one: one.name))


def _exported_from_here(
    mounts: Mapping[str, tuple[CacheMount, ...]],
    services: Services,
    enter: Callable[[], str],
    largest: int,
) -> tuple[set[str], list[CachedMount]]:
    """The names of those that this store has, and those of them that can be exported."""
    from assembler.cache.mounts import MountExport

    def tell(text: str) -> None:
        services.sink(Warned(text, services.clock()))

    directory = services.store.cache_mounts_directory
    if not os.path.isdir(directory) or not mounts:
        return set(), []
    kinds = os.listdir(directory)
    if all(_lacks(os.path.join(directory, kind, f"{name}.0")) for kind in kinds for name in mounts):
        return set(), []
    try:
        ids = enter()
    except HostError as error:
        tell(f"cache mounts are not exported: {error.message}")
        return set(mounts), []
    export = MountExport(
        services.store,
        services.packed,
        ids,
        largest=largest,
        tell=tell,
        check=services.cancellation.check,
    )
    found = [export.export(name, uses) for name, uses in mounts.items()]
    parent = os.path.join(directory, ids)
    here = {name for name in mounts if not _lacks(os.path.join(parent, f"{name}.0"))}
    return here, [one for one in found if one is not None]
