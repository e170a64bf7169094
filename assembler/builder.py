"""The composition root: the one place that names concrete runtimes, stores, caches, contexts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.context.base import Context
from assembler.dockerfile.instructions import Dockerfile
from assembler.dockerfile.suggest import did_you_mean
from assembler.engine.ledger import Ledger
from assembler.engine.services import (
    Destination,
    NoMounts,
    Nowhere,
    Sandbox,
    Services,
    Take,
    nothing_more,
)
from assembler.environment import Environment
from assembler.errors import (
    AssemblerError,
    BlobCorrupt,
    Cancelled,
    DockerfileError,
    HostError,
    LayerError,
    NamespacesForbidden,
    RegistryError,
    UsageError,
)
from assembler.events import Event, Finished, Sink, VertexProgress, Warned, discard
from assembler.images import Images, Pull
from assembler.images import host_platform as host_platform
from assembler.layer.compression import Compression, by_name
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.linux.resources import Resources
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Annotations, Image, Layer
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.contexts import Contexts
from assembler.plan.entitlements import device_allowance
from assembler.plan.graph import COMMON_IMAGES
from assembler.plan.make import PlanRequest, examine, make, needs, time_source
from assembler.plan.plan import Plan, PlanWarning, ResolvedImage
from assembler.plan.resolution import Need
from assembler.plan.steps import SHARED_MEMORY, Limit
from assembler.remotes import Remotes
from assembler.store.disk import Disk, Fsync, shortage
from assembler.store.store import Store
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.cache.base import Record
    from assembler.cache.bounds import Bounds, Policy
    from assembler.cache.document import CachedMount
    from assembler.cache.exporting import CacheTarget
    from assembler.cache.local import LocalCache
    from assembler.cache.places import CacheSource
    from assembler.cache.usage import Usage
    from assembler.cdi.registry import Registry
    from assembler.delivery import Delivery
    from assembler.imports import SharedCaches
    from assembler.linux.cgroups import Groups
    from assembler.linux.userns import IdMap
    from assembler.net.agent import Agents
    from assembler.output.base import Output
    from assembler.plan.forecast import Forecast
    from assembler.runtime.native import Forked
    from assembler.snapshot.overlay import OverlaySnapshotter
    from assembler.store.working import Tell, Turn

_OWNERS_IGNORED = (
    "only one id is mapped here, and system calls cannot be supervised: what RUN creates or gives "
    "away belongs to 0:0 in the image (see assemble doctor)"
)
_BAD_REQUEST = 400  # what a registry says to a blob that has another digest
RUNTIMES = ("auto", "native", "podman", "crun", "runc", "chroot")
SNAPSHOTTERS = ("auto", "overlay", "fuse-overlayfs", "copy")


@value(kw_only=True)
class BuildRequest:
    """One build as asked for. `files` are the named contexts that are trees of files, by the names
    `contexts` gives them. `no_cache` names stages that take nothing from the cache; `*` is all.
    Nor is anything taken that ran before `since`, in seconds since the epoch; with `require_cached`,
    no step may have to be done.
    Without `whole`, layers of base images that nothing needs are left where they are: for an image
    that is pushed, to a registry that may have them. `wanted` says of a layer that passes through
    whether it will be asked for; `destination` is told of the image's layers. With `recompress`,
    base layers too are in `compression`; with `docker_types`, the image has Docker's media types
    instead of OCI's."""

    dockerfile: Dockerfile
    context: Context | None = None
    files: Mapping[str, Context] = field(default_factory=dict)
    contexts: Contexts = field(default_factory=Contexts)
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Annotations = field(default_factory=Annotations)
    network: str = "default"
    allow: frozenset[str] = frozenset()
    epoch: int | None = None
    pull: Pull = Pull.MISSING
    whole: bool = True
    wanted: Callable[[Descriptor], bool] = lambda layer: False
    destination: Destination = field(default_factory=Nowhere)
    no_cache: frozenset[str] = frozenset()
    since: float | None = None
    require_cached: bool = False
    cache_from: tuple[CacheSource, ...] = ()
    cache_to: tuple[CacheTarget, ...] = ()
    compression: Compression = field(default_factory=lambda: by_name("gzip", None))
    recompress: bool = False
    docker_types: bool = False
    add_hosts: tuple[tuple[str, str], ...] = ()
    shared_memory: int = SHARED_MEMORY
    limits: tuple[Limit, ...] = ()
    resources: Resources = field(default_factory=Resources)
    cgroup_parent: str = ""


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
        self._id_map: IdMap | None = None
        self._cache: LocalCache | None = None
        self._ledger = Ledger()
        self._shared: dict[tuple[tuple[CacheSource, ...], Platform], SharedCaches] = {}
        self._stack = ExitStack()
        path = store or environment.store
        if environment.notice and path == environment.store:
            self.warn(environment.notice)
        self.store = self._stack.enter_context(
            Store.open(path, cancellation, Disk(Fsync.named(environment.fsync), self.warn))
        )
        self.images = self._stack.enter_context(
            Images(
                self.store,
                environment,
                access=access or Access(),
                sink=sink,
                cancellation=cancellation,
                clock=clock,
            )
        )
        self.images.cached = _Cached(self._caches)  # what earlier builds took from caches
        self._cdi_directories = tuple(cdi_directories)
        self._registry: Registry | None = None
        self._given_agents = agents or {}
        self._started_agents: Agents | None = None
        self.remotes = self._stack.enter_context(
            Remotes(
                self.store,
                environment,
                known=lambda: self.cache,
                secrets=self._secrets,
                sink=sink,
                cancellation=cancellation,
                agent=self._usual_agent,
                limits=archive_limits,
                clock=clock,
            )
        )

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raises NoSpace in place of what comes of not being able to write, wherever that was."""
        try:
            self._stack.close()
        finally:
            self._sink(Finished(self._clock()))
        lacking = shortage(error, self.store.path)
        if lacking is not None:
            raise lacking from error

    def warn(self, message: str) -> None:
        """Tell the user `message`."""
        self._sink(Warned(message, self._clock()))

    @property
    def cache(self) -> LocalCache:
        """The store's cache, opened on first use."""
        if self._cache is None:
            from assembler.cache.local import LocalCache

            path = os.path.join(self.store.path, "cache.db")
            cache = LocalCache(path, self._cancellation.check, self.warn)
            self._cache = self._stack.enter_context(cache)
        return self._cache

    def shared(self, request: BuildRequest) -> SharedCaches:
        """The shared caches of `request`; each is read once, however often it is built."""
        return self._caches(request.cache_from, request.platform or host_platform())

    def _caches(
        self, sources: tuple[CacheSource, ...] = (), platform: Platform | None = None
    ) -> SharedCaches:
        key = sources, platform or host_platform()
        if key not in self._shared:
            from assembler.imports import SharedCaches

            self._shared[key] = SharedCaches(
                *key,
                local=self.cache,
                store=self.store,
                images=self.images,
                sink=self._sink,
                cancellation=self._cancellation,
                clock=self._clock,
                limits=self.archive_limits,
            )
        return self._shared[key]

    def plan(self, request: BuildRequest, *, offline: bool = False) -> Plan:
        """The plan, every image it needs resolved by the store or a registry.

        With `offline` no registry is asked, and what the store lacks is the plan's `missing`; no
        time is asked for then either (rule T1). Raises DockerfileError, RegistryError.
        """
        self._warn_of_stages(request)
        asked = plan_request(request)
        if not offline:
            asked = self.timed(asked)
        return make(asked, self.resolved(request, asked, offline=offline))

    def _warn_of_stages(self, request: BuildRequest) -> None:
        """Tell of names in `no_cache` that no stage has (rule S12)."""
        stages = request.dockerfile.stages
        names = [stage.name or str(stage.index) for stage in stages]
        for name in sorted(request.no_cache - {"*", *names}):
            meant = did_you_mean(name, names)
            self.warn(f"--no-cache-filter {name}: the Dockerfile has no such stage{meant}")

    def examine(
        self, request: BuildRequest, error: DockerfileError | None, *, offline: bool = False
    ) -> tuple[tuple[PlanWarning, ...], DockerfileError | None]:
        """What lint says about the Dockerfile, of every stage where no target is named, and what
        keeps it from being built. `error` is the parser's, where there was one."""
        asked = plan_request(request, every_stage=not request.target)
        resolved: dict[str, ResolvedImage] = {}
        if error is None:
            with suppress(DockerfileError):  # `examine` meets it too, with what was before it
                resolved = self.resolved(request, asked, offline=offline, lenient=True)
        return examine(asked, resolved, error)

    def timed(self, asked: PlanRequest) -> PlanRequest:
        """`asked` with the time of the stage that SOURCE_DATE_EPOCH names, if it names one; what
        that stage fetches is fetched (rule T1)."""
        wanted = time_source(asked)
        if wanted is None:
            return asked
        # the only name that is looked up then: asking for the others would fetch them
        return replace(asked, epochs={wanted.name: self.remotes.epoch(wanted.source)})

    def resolved(
        self,
        request: BuildRequest,
        asked: PlanRequest,
        *,
        offline: bool = False,
        lenient: bool = False,
    ) -> dict[str, ResolvedImage]:
        """The images that `asked`, made from `request`, needs, by their needs' keys; see `plan`.

        With `lenient`, what a registry does not give is left out with a warning.
        """
        resolved: dict[str, ResolvedImage] = {}
        unknown: set[str] = set()
        while missing := [need for need in needs(asked, resolved) if need.key not in unknown]:
            for need in missing:
                found = self._found(need, request, offline, lenient)
                if found is None:
                    unknown.add(need.key)
                else:
                    resolved[need.key] = found
        return resolved

    def checked(self, plan: Plan) -> Plan:
        """`plan`, its warnings told. Raises DockerfileError where lint is an error (rule D7)."""
        for warning in plan.warnings:
            self._sink(Warned(warning.message, self._clock(), warning.rule, warning.span))
        if plan.violations:
            raise DockerfileError(
                f"lint violation found for rules: {', '.join(plan.violations)}",
                hint="mend them, or leave error=true out of the check directive",
            )
        return plan

    def _found(
        self, need: Need, request: BuildRequest, offline: bool, lenient: bool
    ) -> ResolvedImage | None:
        if offline:
            return self.images.known(need.image, need.platform, exact=need.exact, short=need.short)
        try:
            return self._resolve(need, request)
        except DockerfileError as error:
            if not lenient:
                raise
            self._sink(Warned(error.message, self._clock(), span=error.span))
            return None

    def _resolve(self, need: Need, request: BuildRequest) -> ResolvedImage:
        try:
            return self.images.resolve(
                need.image,
                need.platform,
                pull=request.pull,
                span=need.span,
                exact=need.exact,
                short=need.short,
            )
        except DockerfileError as error:
            # A misspelt stage is taken for an image (rules S7, S15): say what was meant.
            stages = [stage.name for stage in request.dockerfile.stages if stage.name]
            suggestion = did_you_mean(need.span.word, (*stages, *COMMON_IMAGES))
            message = f"{error.message}{suggestion}"
            raise DockerfileError(message, error.span, hint=error.hint) from error

    def build(self, request: BuildRequest, plan: Plan) -> Image:
        """Execute `plan`; the image is in the store, complete where `request.whole` asks for it.
        Raises NotCached where `request.require_cached` says so, and what steps raise."""
        from assembler.engine.execution import execute

        for image in plan.images.values():
            self.images.know(image)
        services = self.services(request)
        if request.require_cached:
            self._require_cached(plan, services)
        built = execute(plan, services)
        self._ledger.image = self._ledger.image or str(built.digest)
        return built

    @contextmanager
    def recorded(
        self, request: BuildRequest, names: Sequence[Reference], place: str = ""
    ) -> Iterator[None]:
        """A build of `request` under `names`, of which a record is kept when the block ends, however
        that is. Builds of the same `place`, if it is known, are of the same Dockerfile and context."""
        from assembler.store import builds

        started, status = self._clock(), builds.ERROR
        id, tags = builds.new_id(), tuple(name.familiar for name in names)
        self._ledger = ledger = Ledger(
            self.store.builds,
            self.store.listings,
            self.inputs,
            lambda build: build.is_of(place, tags),
            self.warn,
            partial(self._told_elsewhere, request),
        )
        try:
            yield
            status = builds.COMPLETED
        except (Cancelled, KeyboardInterrupt):
            status = builds.CANCELED
            raise
        finally:
            record = builds.BuildRecord(
                id=id,
                started=started,
                seconds=round(max(0.0, self._clock() - started), 3),
                status=status,
                dockerfile=request.dockerfile.source.name,
                target=request.target,
                platform=ledger.platform,
                tags=tags,
                image=ledger.image if status == builds.COMPLETED else "",
                place=place,
                steps=ledger.steps(),
            )
            try:
                self.store.builds.write(record, ledger.inputs())
            except OSError as error:
                self.warn(f"no record of this build can be kept: {error.strerror}")

    def _told_elsewhere(self, request: BuildRequest) -> list[tuple[str, Mapping[Digest, Record]]]:
        """Where the shared caches are that were read, and what they tell of steps."""
        imports = self.shared(request).imports if request.cache_from else ()
        return [(one.place, one.document.records) for _, one in imports if one.known]

    def inputs(self, key: Digest) -> str:
        """The document of what went into `key`, empty where the cache has none."""
        record = self.cache.lookup(key)
        return "" if record is None else record.inputs

    def _require_cached(self, plan: Plan, services: Services) -> None:
        from assembler.engine.requirement import require_cached
        from assembler.remotes import Unfetched
        from assembler.snapshot.published import PublishedLayers

        published = PublishedLayers(self.store.layers_directory)
        require_cached(plan, services, published, Unfetched())

    def recompressed(self, image: Image, compression: Compression) -> Image:
        """`image` with all of its layers in `compression`, in the store."""
        from assembler.engine.recompression import Recompression

        for layer in image.manifest.layers:
            self.store.blobs.has(layer.digest)  # all are held from now on, not one after the other
        return Recompression(
            compression,
            self.store,
            self.cache,
            self._cancellation.check,
            self._sink,
            self._clock,
            self.archive_limits,
            self.store.working.claim,
        ).image(image, lambda layer: self.images.open(layer).close())

    def forecast(self, request: BuildRequest, plan: Plan) -> Forecast:
        """What building `plan` would do, by what the cache and the store hold now."""
        from assembler.engine.forecast import forecast
        from assembler.remotes import Unfetched
        from assembler.snapshot.published import PublishedLayers

        self.store.look_only()
        services = replace(self.services(request), remote=Unfetched())
        return forecast(plan, services, PublishedLayers(self.store.layers_directory))

    def services(self, request: BuildRequest) -> Services:
        """What the engine is given for `request`."""
        main = {} if request.context is None else {"": request.context}
        shared = self.shared(request) if request.cache_from else None
        cache = shared.cache(request.since) if shared else self.cache
        inline = any(target.inline for target in request.cache_to)
        described = partial(self._inline, request) if inline else nothing_more
        self.images.cached = cached = _Cached(lambda: self.shared(request))
        return Services(
            store=self.store,
            cache=cache,
            packed=cache,
            cached=cached,
            contexts={**main, **request.files},
            remote=self.remotes,
            sandbox=lambda: self._sandbox(request),
            fetch=self.images.fetch,
            stream=self.images.stream,
            part=self.images.part,
            claims=self._claim,
            whole=request.whole,
            wanted=request.wanted,
            described=described,
            destination=request.destination,
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
        return self.store.working.claim(name, tell, check)

    def write(self, image: Image, outputs: Sequence[Output]) -> None:
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

    def deliver(self, image: Image, delivery: Delivery) -> None:
        """See `write`."""
        for layer in image.manifest.layers:
            self.store.blobs.has(layer.digest)  # all are held from now on, not one after the other
        try:
            delivery.write(image)
        except (BlobCorrupt, RegistryError) as error:
            if not isinstance(error, RegistryError) or error.status == _BAD_REQUEST:
                for layer in image.manifest.layers:
                    self.store.blobs.condemn(layer.digest, error)
            raise

    def export(
        self, request: BuildRequest, plan: Plan, image: Image, names: Sequence[Reference]
    ) -> None:
        """Write the caches that `request` asks for, once `image` was built of `plan` and pushed to
        `names`. Raises AssemblerError, unless that is to be ignored."""
        targets = [target for target in request.cache_to if not target.inline]
        if targets:
            from assembler.cache.origins import Origins
            from assembler.exports import Exports

            services = self.services(request)
            Exports(
                plan,
                image,
                request.compression,
                names,
                services=services,
                origins=Origins(self.cache),
                images=self.images,
                mounts=partial(self._mounts, services, plan),
            ).write(targets)

    def _mounts(
        self, services: Services, plan: Plan, target: CacheTarget
    ) -> tuple[CachedMount, ...]:
        """The cache mounts of `plan` that go to `target`; enters the user namespace for them."""
        if not target.mounts:
            return ()
        from assembler.engine.caches import exported

        return exported(plan, services, lambda: self._entered()[0], target.largest_mount)

    def _entered(self) -> tuple[str, IdMap]:
        """The kind of layer directories and cache mounts, and the id map, of the user namespace that
        this process is in from now on."""
        from assembler.snapshot.published import RECORDED

        if self._id_map is None:
            self._id_map = self._enter()
        return RECORDED if self._id_map.single else self._id_map.kind, self._id_map

    def _inline(
        self, request: BuildRequest, plan: Plan, layers: Mapping[Digest, Layer], variant: str
    ) -> Mapping[str, object]:
        """The cache that leads to the image of `plan`, as a field of its configuration."""
        from assembler.cache.origins import Origins
        from assembler.exports import inline

        return inline(plan, self.services(request), Origins(self.cache), layers, variant)

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

    def tag(self, image: Image, names: Sequence[Reference]) -> None:
        """Keep `image` in the store under `names`. What the store lacks of its layers must be, or be
        about to be, where these names are in a registry."""
        remote = not all(self.store.blobs.has(layer.digest) for layer in image.manifest.layers)
        for name in names:
            self.store.refs.set(str(name), image.manifest.descriptor, remote=remote)

    def usages(self) -> list[Usage]:
        """What the store holds, the longest unused first; enters the user namespace."""
        from assembler.cache.usage import usages

        self._enter_for_files()
        return usages(self.store.path, self.cache.titles(), self._clock(), self._cancellation.check)

    def prune(self, policy: Policy, moved: Callable[[Sequence[Usage]], None]) -> None:
        """Remove from the store what `policy` gives up, see `cache.pruning.prune`; enters the user
        namespace."""
        from assembler.cache.pruning import prune

        self._enter_for_files()
        prune(self.store, self.cache, policy, self._clock(), self._cancellation, moved)

    def collect(self, bounds: Bounds, *, before: bool = False) -> None:
        """Remove what `bounds` do not allow of the store, if there is any; `before` a build only for
        space that is to be free. What keeps it from that is told. Raises Cancelled."""
        from assembler.cache import collection

        path, now = self.store.path, self._clock()
        try:
            wanted = collection.lacks_space(path, bounds) if before else True
            if wanted and collection.due(path, bounds, now):
                self._enter_for_files()
                collection.collect(self.store, self.cache, bounds, now, self._cancellation)
        except Cancelled:
            raise
        except (AssemblerError, OSError) as error:
            reason = error.message if isinstance(error, AssemblerError) else error.strerror
            self.warn(f"the store could not be brought within its limits: {reason}")

    def _enter_for_files(self) -> None:
        """Layers and cache mounts have files of other ids, which are ours inside only."""
        if self._id_map is None:
            with suppress(HostError):  # then what cannot be read does not count
                self._id_map = self._enter()

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
    def _agents(self) -> Agents:
        if self._started_agents is None:
            from assembler.net.agent import Agents

            agents = Agents(self._given_agents, self._environment.get("PATH"))
            self._started_agents = self._stack.enter_context(agents)
        return self._started_agents

    @contextmanager
    def _sandbox(self, request: BuildRequest) -> Iterator[Sandbox]:
        from assembler.layer.apart import Apart
        from assembler.linux.cgroups import default_processes

        processes = default_processes()
        with ExitStack() as stack:
            groups = stack.enter_context(self._groups(request, processes))
            ids, id_map = self._entered()
            runtime = self._start_runtime(id_map)
            stack.callback(runtime.close)
            directory = os.path.join(self.store.layers_directory, ids)
            opened = self._open_snapshotter(directory, id_map)
            opened.hold = lambda id: self.store.hold(f"layers/{ids}/{id}")
            opened.published = lambda id: self.store.published(f"layers/{ids}/{id}")
            snapshotter = stack.enter_context(opened)
            limits, apart = _limits(request, processes), Apart(runtime.forks)
            yield Sandbox(snapshotter, runtime, groups, limits, ids, apart)

    @contextmanager
    def _groups(self, request: BuildRequest, processes: int) -> Iterator[Groups]:
        """The cgroups of a build. What is asked for must be had (rule R5), the bound on processes
        is only set where it can be."""
        from assembler.linux.cgroups import prepared

        records = self.store.groups_directory
        asked, parent = request.resources, request.cgroup_parent
        if any(limit.name == "nproc" for limit in request.limits):
            processes = 0
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


class _Cached:
    """The shared caches of a build, looked for when a blob is not here: see `imports`."""

    def __init__(self, find: Callable[[], SharedCaches]) -> None:
        self._find = find
        self._lock = threading.Lock()

    def _shared(self) -> SharedCaches:
        with self._lock:
            return self._find()

    def holds(self, blob: Descriptor) -> bool:
        return self._shared().holds(blob)

    def fetch(self, blob: Descriptor, take: Take, *, judged: bool = False) -> None:
        self._shared().fetch(blob, take, judged=judged)

    def refuse(self, blob: Descriptor, cause: LayerError) -> None:
        self._shared().refuse(blob, cause)

    def references(self, blob: Descriptor) -> tuple[Reference, ...]:
        return self._shared().references(blob)

    def find(self, name: str) -> Layer | None:
        return self._shared().find(name)


def _limits(request: BuildRequest, processes: int) -> tuple[Limit, ...]:
    """A limit of at most `processes`, unless another one is asked for."""
    if any(limit.name == "nproc" for limit in request.limits):
        return ()
    from assembler.linux.restraint import process_limit

    return (Limit("nproc", *process_limit(processes)),)


def plan_request(request: BuildRequest, *, every_stage: bool = False) -> PlanRequest:
    """What the planner is asked for `request`."""
    context = request.context
    named = dict(request.files)
    if context is not None:
        named["context"] = context
    return PlanRequest(
        dockerfile=request.dockerfile,
        build_args=request.build_args,
        target=request.target,
        platform=request.platform,
        build_platform=host_platform(),
        labels=request.labels,
        contexts=request.contexts,
        network=request.network,
        epoch=request.epoch,
        epochs=_Epochs(named),
        ignore=None if context is None else context.rules,
        every_stage=every_stage,
        allow=request.allow,
        hosts=tuple(sorted({name for name, _ in request.add_hosts})),
        limits=tuple(sorted(request.limits, key=lambda limit: limit.name)),
        shared_memory=request.shared_memory,
        no_cache=request.no_cache,
    )


class _Epochs(Mapping[str, "int | None"]):
    """When contexts were made; one is asked for, and so fetched, when it is meant (rule T1)."""

    def __init__(self, contexts: Mapping[str, Context]) -> None:
        self._contexts = contexts

    def __getitem__(self, name: str) -> int | None:
        return self._contexts[name].epoch

    def __contains__(self, name: object) -> bool:
        return name in self._contexts

    def __iter__(self) -> Iterator[str]:
        return iter(self._contexts)

    def __len__(self) -> int:
        return len(self._contexts)
