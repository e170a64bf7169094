"""Where the steps of a build run: its user namespace, and in that its runtime, snapshotter and
cgroups, as they are asked for or as this machine allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from assembler.cancellation import Cancellation
from assembler.engine.services import Sandbox
from assembler.errors import HostError, NamespacesForbidden
from assembler.events import Forking, Sink, Warned
from assembler.plan.steps import Limit
from assembler.request import BuildRequest
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.linux.cgroups import Groups
    from assembler.linux.userns import IdMap
    from assembler.runtime.native import Forked
    from assembler.snapshot.overlay import OverlaySnapshotter

_OWNERS_IGNORED = (
    "only one id is mapped here, and system calls cannot be supervised: what RUN creates or gives "
    "away belongs to 0:0 in the image (see assemble doctor)"
)


class Sandboxes:
    """Sandboxes for the builds of one process, which enters the user namespace once. `runtime` and
    `snapshotter` are what was asked for, `auto` for what works here."""

    def __init__(
        self,
        store: Store,
        *,
        runtime: str,
        snapshotter: str,
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._snapshotter = snapshotter
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._id_map: IdMap | None = None

    def entered(self) -> tuple[str, IdMap]:
        """The kind of layer directories and cache mounts, and the id map, of the user namespace that
        this process is in from now on."""
        from assembler.snapshot.published import RECORDED

        if self._id_map is None:
            self._sink(Forking(self._clock()))
            self._id_map = self._enter()
        return RECORDED if self._id_map.single else self._id_map.kind, self._id_map

    def enter_for_files(self) -> None:
        """Enter it if that can be, for layers and cache mounts: they have files of other ids, which are
        ours inside only."""
        with suppress(HostError):  # then what cannot be read does not count
            self.entered()

    @contextmanager
    def sandbox(self, request: BuildRequest) -> Iterator[Sandbox]:
        """What the steps of `request` run in. Raises HostError where what is asked for cannot be had."""
        from assembler.layer.apart import Apart

        processes = _processes(request)
        with ExitStack() as stack:
            groups = stack.enter_context(self._groups(request, processes))
            ids, id_map = self.entered()
            runtime = self._start_runtime(id_map)
            stack.callback(runtime.close)
            directory = os.path.join(self._store.layers_directory, ids)
            opened = self._open_snapshotter(directory, id_map)
            opened.hold = lambda id: self._store.hold(f"layers/{ids}/{id}")
            opened.published = lambda id: self._store.published(f"layers/{ids}/{id}")
            snapshotter = stack.enter_context(opened)
            limits, apart = _limits(processes), Apart(runtime.forks)
            yield Sandbox(snapshotter, runtime, groups, limits, ids, apart)

    @contextmanager
    def _groups(self, request: BuildRequest, processes: int) -> Iterator[Groups]:
        """The cgroups of a build. What is asked for must be had (rule R5), the bound on processes
        is only set where it can be."""
        from assembler.linux.cgroups import prepared

        records = self._store.groups_directory
        asked, parent = request.resources, request.cgroup_parent
        with ExitStack() as stack:
            try:
                prepare = prepared(records, asked, parent, processes=processes)
                groups = stack.enter_context(prepare)
            except HostError as error:
                if asked.controllers or parent:
                    raise
                self._sink(Warned(f"processes of steps: {error.message}", self._clock()))
                groups = stack.enter_context(prepared(records))
            yield groups

    def _enter(self) -> IdMap:
        from assembler.linux import userns

        if self._runtime == "chroot":
            return userns.host_map()
        try:
            return userns.enter(self._cancellation)
        except NamespacesForbidden as error:
            if self._runtime != "auto" or os.geteuid() != 0:
                raise
            self._sink(Warned(f"{error.message}: steps run by chroot", self._clock()))
            return userns.host_map()

    def _open_snapshotter(self, directory: str, id_map: IdMap) -> OverlaySnapshotter:
        from assembler.snapshot.overlay import OverlaySnapshotter

        single, asked = id_map.single, self._snapshotter
        refused = ""
        if id_map.kind != "host" and asked in ("auto", "overlay"):
            refused = OverlaySnapshotter.refused(directory) if asked == "auto" else ""
            if not refused:
                return OverlaySnapshotter(directory, recorded=single)
        if id_map.kind != "host" and asked != "copy":
            from assembler.snapshot.fused import FuseSnapshotter

            reason, remedy = FuseSnapshotter.shortfall(directory)
            if reason and asked != "auto":
                message = f"{asked} cannot be used here: {reason}"
                raise HostError(message, asked, hint=remedy)
            if asked == "auto":
                how = f"in copies ({reason})" if reason else f"by {FuseSnapshotter.name}"
                message = f"no overlay can be mounted in {directory} ({refused}): steps run {how}"
                self._sink(Warned(message, self._clock()))
            if not reason:
                return FuseSnapshotter(directory, recorded=single)
        from assembler.snapshot.copied import CopySnapshotter

        return CopySnapshotter(directory, recorded=single)

    def _start_runtime(self, id_map: IdMap) -> Forked:
        self._sink(Forking(self._clock()))
        if id_map.kind == "host":
            from assembler.runtime.chroot import Chroot

            return Chroot.start()
        from assembler.linux.owner_filter import Ownership

        runtime = self._start_namespaced(id_map)
        if runtime.ownership is Ownership.IGNORED:
            self._sink(Warned(_OWNERS_IGNORED, self._clock()))
        return runtime

    def _start_namespaced(self, id_map: IdMap) -> Forked:
        if self._runtime == "podman":
            from assembler.runtime.podman import Podman

            return Podman.start(id_map)
        if self._runtime in ("crun", "runc"):
            from assembler.runtime.oci_runtime import OciRuntime

            return OciRuntime.start(id_map, self._runtime)
        from assembler.runtime.native import Native

        return Native.start(id_map)


def _processes(request: BuildRequest) -> int:
    """How many processes the steps of `request` may have; 0 where a limit of them is asked for."""
    if any(limit.name == "nproc" for limit in request.limits):
        return 0
    from assembler.linux.cgroups import default_processes

    return default_processes()


def _limits(processes: int) -> tuple[Limit, ...]:
    """A limit of at most `processes`, 0 for none."""
    if not processes:
        return ()
    from assembler.linux.restraint import process_limit

    return (Limit("nproc", *process_limit(processes)),)
