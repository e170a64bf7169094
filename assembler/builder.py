"""The composition root: stores, images, plans, caches, sandboxes and outputs put together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from assembler.access import Access
from assembler.caches import Caches
from assembler.cancellation import Cancellation
from assembler.engine.ledger import Ledger
from assembler.environment import Environment
from assembler.errors import (
    AssemblerError,
    BlobCorrupt,
    Cancelled,
    DockerfileError,
    RegistryError,
    UsageError,
)
from assembler.events import Event, Sink, VertexProgress, Warned, discard
from assembler.images import host_platform
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, ImageIndex, Result
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.steps import Run
from assembler.pulling import pulling
from assembler.remotes import Remotes
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.cache.bounds import Bounds, Policy
    from assembler.cache.usage import Usage
    from assembler.cdi.registry import Registry
    from assembler.delivery import Delivery, FilesDelivery
    from assembler.engine.earlier import Earlier
    from assembler.engine.services import Services
    from assembler.layer.compression import Compression
    from assembler.net.agent import Agents
    from assembler.output.base import FilesOutput, Output
    from assembler.plan.forecast import Forecast
    from assembler.plan.make import PlanRequest
    from assembler.plan.plan import Plan, PlanWarning, ResolvedImage
    from assembler.planning import Planner
    from assembler.request import BuildRequest
    from assembler.sandboxes import Sandboxes
    from assembler.store.working import Tell, Turn

_BAD_REQUEST = 400  # what a registry says to a blob that has another digest
RUNTIMES = ("auto", "native", "podman", "crun", "runc", "chroot")
SNAPSHOTTERS = ("auto", "overlay", "fuse-overlayfs", "copy")


class Builder:
    """Plans and builds on one store. Use it with `with`; one build at a time per object.

    `secrets` maps an id to a function that reads the value, `agents` an id to the socket of an ssh
    agent or to private keys. `cdi_directories` are where CDI specifications are, instead of the
    usual places. `archive_limits` is what layers and archives may hold.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        store: str = "",
        runtime: str = "auto",
        snapshotter: str = "auto",
        access: Access | None = None,
        jobs: int = 0,
        secrets: Mapping[str, Callable[[], bytes]] | None = None,
        agents: Mapping[str, tuple[str, ...]] | None = None,
        cdi_directories: Sequence[str] = (),
        archive_limits: Limits = DEFAULT_LIMITS,
        sink: Sink = discard,
        cancellation: Cancellation,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if runtime not in RUNTIMES:
            raise UsageError(f"unknown runtime {runtime!r}", hint=f"one of {', '.join(RUNTIMES)}")
        if snapshotter not in SNAPSHOTTERS:
            hint = f"one of {', '.join(SNAPSHOTTERS)}"
            raise UsageError(f"unknown snapshotter {snapshotter!r}", hint=hint)
        self._environment = environment
        self._runtime = runtime
        self._snapshotter = snapshotter
        self._jobs = jobs or max(4, 2 * (os.cpu_count() or 1))
        self._secrets = secrets or {}
        self.archive_limits = archive_limits
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._started_sandboxes: Sandboxes | None = None
        self._ledger = Ledger()
        self._stack = ExitStack()
        self.store, self.images = self._stack.enter_context(
            pulling(
                environment,
                store=store,
                access=access,
                sink=sink,
                cancellation=cancellation,
                clock=clock,
            )
        )
        self._cdi_directories = tuple(cdi_directories)
        self._registry: Registry | None = None
        self._given_agents = agents or {}
        self._started_agents: Agents | None = None
        self.remotes = self._stack.enter_context(
            Remotes(
                self.store,
                environment,
                known=lambda: self._caches.local,
                secrets=self._secrets,
                sink=sink,
                cancellation=cancellation,
                agent=self._usual_agent,
                limits=archive_limits,
                clock=clock,
            )
        )
        self._caches = self._stack.enter_context(
            Caches(
                self.store,
                self.images,
                ids=lambda: self._sandboxes.entered()[0],
                sink=sink,
                cancellation=cancellation,
                clock=clock,
                limits=archive_limits,
            )
        )
        self.images.cached = self._caches.layers()  # what earlier builds took from caches

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raises as `pulling` does."""
        self._stack.__exit__(kind, error, traceback)

    def warn(self, message: str) -> None:
        """Tell the user `message`."""
        self._sink(Warned(message, self._clock()))

    def plan(self, request: BuildRequest, *, offline: bool = False) -> Plan:
        """See `planning.Planner.plan`."""
        return self._planner.plan(request, offline=offline)

    def examine(
        self, request: BuildRequest, error: DockerfileError | None, *, offline: bool = False
    ) -> tuple[tuple[PlanWarning, ...], DockerfileError | None]:
        """See `planning.Planner.examine`."""
        return self._planner.examine(request, error, offline=offline)

    def resolved(self, request: BuildRequest, asked: PlanRequest) -> dict[str, ResolvedImage]:
        """See `planning.Planner.resolved`."""
        return self._planner.resolved(request, asked)

    def checked(self, plan: Plan) -> Plan:
        """See `planning.Planner.checked`."""
        return self._planner.checked(plan)

    def build(self, request: BuildRequest, plan: Plan) -> Result:
        """Execute `plan`; the image, or the index with its images where `request.indexed` asks for
        one, is in the store, complete where `request.whole` does. Raises NotCached where
        `request.require_cached` says so, and what steps and `request.files_to` raise."""
        from assembler.engine.execution import execute

        images = execute(plan, self._ready(request, plan))
        built = self._index(request, plan, images) if request.indexed else images[0]
        self._ledger.image = self._ledger.image or str(built.digest)
        return built

    def build_files(self, request: BuildRequest, plan: Plan) -> None:
        """Execute `plan` for the files of its target, which `request.files_to` is handed; no image is
        made. Raises as `build`."""
        from assembler.engine.execution import export

        export(plan, self._ready(request, plan))

    def _ready(self, request: BuildRequest, plan: Plan) -> Services:
        """What the engine is given, once it is known that `plan` may be executed."""
        for image in plan.images.values():
            self.images.know(image)
        services = self.services(request)
        if request.require_cached:
            self._require_cached(plan, services)
        self._check_programs(plan, services)
        return services

    def _index(self, request: BuildRequest, plan: Plan, images: Sequence[Image]) -> ImageIndex:
        """The index of `images`, which `plan` gave, in the store."""
        platforms = [target.platform for target in plan.targets]
        if request.platform is None:  # then it may be that of the base (rule S14)
            platforms = [image.config.platform for image in images]
        of = dict(zip(platforms, images, strict=True))
        made = ImageIndex.create(of, request.annotations, docker=request.docker_types)
        self.store.blobs.put(made.index.content)
        return made

    @contextmanager
    def recorded(
        self, request: BuildRequest, names: Sequence[Reference], place: str = ""
    ) -> Iterator[str]:
        """The id of a build of `request` under `names`, of which a record is kept when the block ends,
        however that is. Builds of the same `place`, if it is known, are of the same Dockerfile and
        context."""
        from assembler.recording import recording
        from assembler.store.builds import new_id

        id = new_id()
        with recording(
            request,
            names,
            place,
            id=id,
            store=self.store,
            compared_with=lambda: self._earlier(request, names, place),
            warn=self.warn,
            clock=self._clock,
        ) as self._ledger:
            yield id

    def _earlier(self, request: BuildRequest, names: Sequence[Reference], place: str) -> Earlier:
        from assembler.recording import earlier

        return earlier(self.store, names, place, self.inputs, self._caches.elsewhere(request))

    def inputs(self, key: Digest) -> str:
        """The document of what went into `key`, empty where the cache has none."""
        return self._caches.inputs(key)

    def _require_cached(self, plan: Plan, services: Services) -> None:
        from assembler.engine.requirement import require_cached
        from assembler.remotes import Unfetched
        from assembler.snapshot.published import PublishedLayers

        published = PublishedLayers(self.store.layers_directory)
        require_cached(plan, services, published, Unfetched())

    def _check_programs(self, plan: Plan, services: Services) -> None:
        """See `engine.emulation.check`, which is imported where this host does not execute all."""
        if not _foreign(plan, services):
            return
        from assembler.engine.emulation import check
        from assembler.remotes import Unfetched
        from assembler.snapshot.published import PublishedLayers

        published = PublishedLayers(self.store.layers_directory)
        check(plan, services, published, Unfetched(), lambda: self._sandboxes.enter_for_files())

    def recompressed(self, image: Image, compression: Compression) -> Image:
        """`image` with all of its layers in `compression`, in the store."""
        from assembler.engine.recompression import Recompression

        self.store.blobs.missing(image.manifest.layers)  # all are held now, not one after the other
        return Recompression(
            compression,
            self.store,
            self._caches.local,
            self._cancellation.check,
            self._sink,
            self._clock,
            self.archive_limits,
            self._claim,
        ).image(image, lambda layer: self.images.open(layer).close())

    def forecast(self, request: BuildRequest, plan: Plan, place: str = "") -> Forecast:
        """What building `plan` in `place` would do, and why, by what the cache and the store hold now;
        see `recorded`."""
        from assembler.engine.forecast import forecast
        from assembler.remotes import Unfetched
        from assembler.snapshot.published import PublishedLayers

        self.store.look_only()
        ledger = Ledger(lambda: self._earlier(request, (), place))
        services = replace(self.services(request), remote=Unfetched(), ledger=ledger)
        found = forecast(plan, services, PublishedLayers(self.store.layers_directory))
        if _foreign(plan, services):
            from assembler.engine.emulation import foreseen

            for warned in foreseen(plan, found, services):
                self._sink(warned)
        return found

    def services(self, request: BuildRequest) -> Services:
        """What the engine is given for `request`."""
        from assembler.engine.services import NoMounts, Services
        from assembler.plan.entitlements import device_allowance

        main = {} if request.context is None else {"": request.context}
        cache = self._caches.records(request)
        self.images.cached = cached = self._caches.layers(request)
        return Services(
            store=self.store,
            cache=cache,
            packed=cache,
            cached=cached,
            contexts={**main, **request.files},
            remote=self.remotes,
            sandbox=lambda: self._sandboxes.sandbox(request),
            fetch=self.images.fetch,
            stream=self.images.stream,
            part=self.images.part,
            claims=self._claim,
            whole=request.whole,
            wanted=request.wanted,
            described=self._caches.inline(request, lambda: self.services(request)),
            destination=request.destination,
            files_to=request.files_to,
            files_into=request.files_into,
            compression=request.compression,
            recompress=request.recompress,
            docker_types=request.docker_types,
            annotations=request.annotations,
            sink=self._noted,
            cancellation=self._cancellation,
            clock=self._clock,
            secrets=self._secrets,
            ledger=self._ledger,
            agents=self._agent,
            jobs=self._jobs,
            add_hosts=request.add_hosts,
            devices=self._devices,
            devices_allowed=device_allowance(request.allow),
            archive_limits=self.archive_limits,
            since=request.since,
            carried=cached if request.cache_from else NoMounts(),
        )

    def _noted(self, event: Event) -> None:
        self._ledger(event)
        self._sink(event)

    def _claim(
        self, name: str, tell: Tell, check: Callable[[], None] | None = None
    ) -> AbstractContextManager[Turn]:
        """See `store.working.Working.claim`, which a build that knows everything does not import."""
        return self.store.working.claim(name, tell, check)

    def write(self, image: Result, outputs: Sequence[Output]) -> None:
        """Write `image` to every output. Layers that the store lacks are fetched if an output
        asks for their bytes. Raises RegistryError, StoreError; where that is because a blob is
        damaged, BlobCorrupt, and the blob is removed: what is built again then has it anew."""
        with self.delivery(outputs) as delivery:
            self.deliver(image, delivery)

    def delivery(self, outputs: Sequence[Output]) -> Delivery:
        """What brings an image to `outputs`; layers can go there while the image is built with it as
        `BuildRequest.destination`."""
        from assembler.delivery import Delivery

        return Delivery(
            outputs,
            self.images.open,
            sink=self._sink,
            clock=self._clock,
            cancellation=self._cancellation,
        )

    def files_delivery(self, outputs: Sequence[FilesOutput]) -> FilesDelivery:
        """What brings files to `outputs`, with its `write` as `BuildRequest.files_to`."""
        from assembler.delivery import FilesDelivery

        return FilesDelivery(
            outputs, sink=self._sink, clock=self._clock, cancellation=self._cancellation
        )

    def deliver(self, image: Result, delivery: Delivery) -> None:
        """See `write`."""
        self.store.blobs.missing(image.blobs)  # all are held now, not one after the other
        try:
            delivery.write(image)
        except (BlobCorrupt, RegistryError) as error:
            if not isinstance(error, RegistryError) or error.status == _BAD_REQUEST:
                for layer in image.blobs:
                    self.store.blobs.condemn(layer.digest, error)
            raise

    def export(
        self, request: BuildRequest, plan: Plan, image: Result | None, names: Sequence[Reference]
    ) -> None:
        """Write the caches that `request` asks for, once `image`, if one is made, was built of `plan`
        and pushed to `names`. Raises AssemblerError, unless that is to be ignored."""
        self._caches.export(request, plan, image, names, lambda: self.services(request))

    def registry_output(self, names: Sequence[Reference]) -> Output:
        """The output that pushes to `names`."""
        from assembler.output.registry import RegistryOutput

        def progress(vertex: str, item: str, current: int, total: int) -> None:
            self._sink(VertexProgress(vertex, item, current, total, self._clock()))

        return RegistryOutput(
            self.images.client,
            names,
            mount_from=self.images.mountable,
            uploads=self.store.uploads,
            progress=progress,
        )

    def copy(
        self, source: str | Descriptor, platforms: Sequence[Platform], targets: Sequence[str]
    ) -> Digest:
        """Copy `source` to every one of `targets`, see `copies`; the digest of what was copied."""
        from assembler.copies import Copies

        with ExitStack() as stack:
            copies = Copies(
                self.store, self.images, self._sink, self._clock, stack, self.archive_limits
            )
            return copies.copy(copies.origin(source, len(targets)), platforms, targets)

    def tag(self, image: Result, names: Sequence[Reference]) -> None:
        """Keep `image` in the store under `names`. What the store lacks of its layers must be, or be
        about to be, where these names are in a registry."""
        remote = bool(self.store.blobs.missing(image.blobs))
        for name in names:
            self.store.refs.set(str(name), image.document.descriptor, remote=remote)

    def tag_index(self, entry: Descriptor, names: Sequence[Reference]) -> None:
        """Keep the index `entry` of the store under `names` too, with the layers of its images that
        are here: under another name they could not be fetched. Raises RegistryError, StoreError."""
        for image in self.store.images(entry):
            self.images.complete(image)
        lacking = bool(self.store.blobs.missing(self.store.index(entry).manifests))
        for name in names:
            self.store.refs.set(str(name), replace(entry, annotations={}), remote=lacking)

    def usages(self) -> list[Usage]:
        """What the store holds, the longest unused first; enters the user namespace."""
        from assembler.cache.usage import usages

        self._sandboxes.enter_for_files()
        return usages(
            self.store.path, self._caches.local.titles(), self._clock(), self._cancellation.check
        )

    def prune(self, policy: Policy, moved: Callable[[Sequence[Usage]], None]) -> None:
        """Remove from the store what `policy` gives up, see `cache.pruning.prune`; enters the user
        namespace."""
        from assembler.cache.pruning import prune

        self._sandboxes.enter_for_files()
        prune(self.store, self._caches.local, policy, self._clock(), self._cancellation, moved)

    def collect(self, bounds: Bounds, *, before: bool = False) -> None:
        """Remove what `bounds` do not allow of the store, if there is any; `before` a build only for
        space that is to be free. What keeps it from that is told. Raises Cancelled."""
        from assembler.cache import collection

        path, now = self.store.path, self._clock()
        try:
            wanted = collection.lacks_space(path, bounds) if before else True
            if wanted and collection.due(path, bounds, now):
                self._sandboxes.enter_for_files()
                collection.collect(self.store, self._caches.local, bounds, now, self._cancellation)
        except Cancelled:
            raise
        except (AssemblerError, OSError) as error:
            reason = error.message if isinstance(error, AssemblerError) else error.strerror
            self.warn(f"the store could not be brought within its limits: {reason}")

    def _devices(self) -> Registry:
        """The host's devices, read on first use."""
        if self._registry is None:
            from assembler.cdi.directories import DIRECTORIES, read

            self._registry = read(self._cdi_directories or DIRECTORIES)
        return self._registry

    def _agent(self, id: str) -> str | None:
        """The socket of the ssh agent `id`, None where the build was given none."""
        return self._agents.socket(id) if self._given_agents else None

    def _usual_agent(self) -> str:
        """The socket of the agent that git uses, empty for none."""
        return self._agents.usual() if self._given_agents else ""

    @property
    def _planner(self) -> Planner:
        from assembler.planning import Planner

        return Planner(self.images, self.remotes, self._sink, self._clock)

    @property
    def _sandboxes(self) -> Sandboxes:
        if self._started_sandboxes is None:
            from assembler.sandboxes import Sandboxes

            self._started_sandboxes = Sandboxes(
                self.store,
                runtime=self._runtime,
                snapshotter=self._snapshotter,
                sink=self._sink,
                cancellation=self._cancellation,
                clock=self._clock,
            )
        return self._started_sandboxes

    @property
    def _agents(self) -> Agents:
        if self._started_agents is None:
            from assembler.net.agent import Agents

            agents = Agents(self._given_agents, self._environment.get("PATH"))
            self._started_agents = self._stack.enter_context(agents)
        return self._started_agents


def _foreign(plan: Plan, services: Services) -> bool:
    """Whether `plan` runs something, and anything of it is said to be for an architecture that this
    host does not execute."""
    if not any(isinstance(step, Run) for stage in plan.stages for step in stage.steps):
        return False
    platforms = {stage.platform for stage in plan.stages}
    platforms |= {image.config.platform for image in plan.images.values()}
    others = {one.architecture for one in platforms} - {host_platform().architecture}
    return bool(others) and not all(map(services.host().executes, others))
