"""What RUN --mount shows a process, as values for the runtime (rules M6-M9).

A bind mount shows exactly what a COPY of the same source would take, so ignore rules, ownership
and symlinks mean the same; the selection becomes a layer directory under its content digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from assembler.engine import copy
from assembler.engine.caches import cache_directory
from assembler.engine.services import Sandbox, Services
from assembler.engine.sharing import shared
from assembler.engine.sources import Bound, Sources, mount_copy
from assembler.errors import StepError
from assembler.layer.changeset import Changeset, Kind
from assembler.layer.realise import realise
from assembler.layer.tree import EmptyTree, Tree
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    Origin,
    Run,
    SecretMount,
    SshMount,
    Step,
)
from assembler.runtime.base import BindSource, FileContent, Hook, RunMount, TemporaryFiles

OpenTree = Callable[[Origin, Step], Tree]


@dataclass(frozen=True, slots=True)
class Mounted:
    """What a step's mounts and devices amount to: variables for its environment, mounts for its
    root, groups of its process, hooks before it. `secrets` are the values that are in them."""

    env: tuple[tuple[str, str], ...]
    mounts: tuple[RunMount, ...]
    groups: tuple[int, ...] = ()
    host_groups: str = ""
    hooks: tuple[Hook, ...] = ()
    secrets: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class MountSources:
    """Where mounts take their content from."""

    services: Services
    sandbox: Sandbox
    sources: Sources
    open_tree: OpenTree
    binds: Mapping[BindMount, Bound]


@contextmanager
def mounted(step: Run, given: MountSources) -> Iterator[Mounted]:
    """The mounts of `step`, with locks of cache mounts held until the block ends.

    Raises StepError for a secret, agent or device that is missing, DockerfileError for a device
    that is not allowed.
    """
    mounts: list[RunMount] = [
        FileContent(f"/dev/pipes/{name}", text.encode("utf-8", "surrogateescape"), 0o755)
        for name, text in step.scripts
    ]
    env: list[tuple[str, str]] = []
    secrets: list[bytes] = []
    with ExitStack() as stack:
        caches = _caches(step, given, stack)
        for mount in step.mounts:
            if isinstance(mount, SecretMount):
                secret = _secret(mount, step, given.services)
                if secret is None:
                    continue
                secrets.append(secret)
                if mount.env:
                    env.append((mount.env, secret.decode("utf-8", "surrogateescape")))
                if mount.target:
                    owner = mount.mode, mount.uid, mount.gid
                    mounts.append(FileContent(mount.target, secret, *owner))
            elif isinstance(mount, SshMount):
                socket = _agent(mount, step, given.services, stack)
                if socket is not None:
                    env.append(("SSH_AUTH_SOCK", mount.target))
                    mounts.append(socket)
            elif isinstance(mount, CacheMount):
                source = caches[mount]
                mounts.append(BindSource(mount.target, source, read_only=mount.read_only))
            elif isinstance(mount, BindMount):
                mounts.append(_bind(mount, step, given, stack))
            else:
                mounts.append(TemporaryFiles(mount.target, mount.size))
        if not step.devices:
            yield Mounted(tuple(env), tuple(mounts), secrets=tuple(secrets))
            return
        from assembler.engine.devices import provide

        added = provide(step, given.services)
        # As CDI has it: the devices' own come last, and a mount comes before those below it.
        mounts = sorted((*mounts, *added.mounts), key=lambda mount: mount.target.count("/"))
        yield Mounted(
            (*env, *added.env),
            tuple(mounts),
            added.groups,
            added.host_groups,
            added.hooks,
            tuple(secrets),
        )


def _caches(step: Run, given: MountSources, stack: ExitStack) -> dict[CacheMount, str]:
    """The directories of the cache mounts of `step`; of one that it has twice, one: it would wait for
    itself. They are locked in one order for all steps: none waits for a lock of who waits for his.
    """
    caches = [mount for mount in step.mounts if isinstance(mount, CacheMount)]
    if not caches:
        return {}
    from assembler.cache.mounts import directory_name

    names = {mount: directory_name(mount) for mount in caches}
    found: dict[str, str] = {}
    for mount in sorted(caches, key=names.__getitem__):
        name = names[mount]
        if name not in found:
            seed = _seed(mount, step, given)
            made = cache_directory(mount, name, given.services, given.sandbox, seed)
            found[name] = stack.enter_context(made)
    return {mount: found[name] for mount, name in names.items()}


def _agent(mount: SshMount, step: Run, services: Services, stack: ExitStack) -> BindSource | None:
    """A socket that the step's user may use, in front of the agent; None when the build was given
    none and the mount does not need one (rule M10)."""
    from assembler.net.agent import proxy

    agent = services.agents(mount.id)
    if agent is None:
        if mount.required:
            raise StepError(
                f"ssh agent {mount.id}: not found",
                step.span,
                hint=f"give it with --ssh {mount.id}",
            )
        return None
    path = os.path.join(stack.enter_context(services.store.scratch()), "agent")
    stack.enter_context(proxy(path, agent, uid=mount.uid, gid=mount.gid, mode=mount.mode))
    return BindSource(mount.target, path, read_only=True)


def _seed(mount: CacheMount, step: Run, given: MountSources) -> Changeset:
    """What a new cache starts with (rule M7)."""
    if mount.origin is None:
        return ()
    asked = mount_copy(mount.origin, mount.source, step)
    selection = given.sources.select(asked, given.open_tree(mount.origin, asked))
    return copy.changeset(asked, selection, EmptyTree(), now=0, spool="")


def _bind(mount: BindMount, step: Run, given: MountSources, stack: ExitStack) -> BindSource:
    bound = given.binds[mount]
    id = hashlib.sha256(f"bind/1:{bound.digest}".encode()).hexdigest()
    snapshotter = given.sandbox.snapshotter
    changes = copy.changeset(bound.copy, bound.selection, EmptyTree(), now=0, spool="")
    if snapshotter.find(id) is None:
        services, title = given.services, f"[internal] files of {mount.target}"
        with shared(services.claims, f"bind {id}", title, services.sink, services.clock):
            if snapshotter.find(id) is None:
                with snapshotter.create(id) as path:
                    realise(changes, path)
    thrown_away = None if mount.read_only else stack.enter_context(snapshotter.writable(id))
    source = thrown_away or snapshotter.find(id)
    if source is None:
        raise StepError(f"the files of {mount.target} vanished", step.span)
    if bound.selection.is_file:
        files = [entry for entry in changes if entry.kind is not Kind.DIRECTORY]
        source = os.path.join(source, files[0].path)
    discard = not mount.read_only and thrown_away is None
    return BindSource(mount.target, source, read_only=mount.read_only, discard=discard)


def _secret(mount: SecretMount, step: Run, services: Services) -> bytes | None:
    """The value; None when the build was given none and the mount does not need one."""
    value = services.secrets.get(mount.id)
    if value is None and mount.required:
        raise StepError(
            f"secret {mount.id}: not found",
            step.span,
            hint=f"give it with --secret id={mount.id},src=FILE",
        )
    return None if value is None else value()
