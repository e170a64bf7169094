"""The composition root: the one place that names concrete runtimes, stores, caches, contexts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from assembler.cancellation import Cancellation
from assembler.context.base import Context
from assembler.dockerfile.instructions import Dockerfile
from assembler.dockerfile.suggest import did_you_mean
from assembler.engine.services import Sandbox, Services
from assembler.environment import Environment
from assembler.errors import DockerfileError, UsageError
from assembler.events import Sink, Warned, discard
from assembler.images import Images
from assembler.layer.compression import Compression, by_name
from assembler.linux.userns import IdMap
from assembler.oci.image import Image
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.output.base import Output
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, ResolvedImage
from assembler.plan.resolution import Need
from assembler.runtime.base import Runtime
from assembler.store.store import Store

RUNTIMES = ("auto", "native", "podman")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build as asked for. `secrets` maps an id to a function that reads the value."""

    dockerfile: Dockerfile
    context: Context | None = None
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = "default"
    epoch: int | None = None
    pull: bool = False
    no_cache: bool = False
    compression: Compression = field(default_factory=lambda: by_name("gzip", None))
    secrets: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    add_hosts: tuple[tuple[str, str], ...] = ()


class Builder:
    """Plans and builds on one store. Use it with `with`; one build at a time per object."""

    def __init__(
        self,
        environment: Environment,
        *,
        store: str = "",
        runtime: str = "auto",
        insecure: frozenset[str] = frozenset(),
        jobs: int = 0,
        sink: Sink = discard,
        cancellation: Cancellation,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if runtime not in RUNTIMES:
            raise UsageError(f"unknown runtime {runtime!r}", hint=f"one of {', '.join(RUNTIMES)}")
        self._environment = environment
        self._runtime = runtime
        self._jobs = jobs or max(4, 2 * (os.cpu_count() or 1))
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._id_map: IdMap | None = None
        self._stack = ExitStack()
        self.store = self._stack.enter_context(Store.open(store or environment.store))
        self.images = self._stack.enter_context(
            Images(
                self.store,
                environment,
                insecure=insecure,
                sink=sink,
                cancellation=cancellation,
                clock=clock,
            )
        )

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plan(self, request: BuildRequest) -> Plan:
        """The complete plan, every image it needs resolved. Asks registries for missing ones."""
        asked = PlanRequest(
            dockerfile=request.dockerfile,
            build_args=request.build_args,
            target=request.target,
            platform=request.platform,
            build_platform=host_platform(),
            labels=request.labels,
            contexts=frozenset(),
            network=request.network,
            epoch=request.epoch,
        )
        resolved: dict[str, ResolvedImage] = {}
        while missing := needs(asked, resolved):
            for need in missing:
                resolved[need.key] = self._resolve(need, request)
        return make(asked, resolved)

    def _resolve(self, need: Need, request: BuildRequest) -> ResolvedImage:
        try:
            return self.images.resolve(need.image, need.platform, pull=request.pull, span=need.span)
        except DockerfileError as error:
            # A misspelt stage is taken for an image (rule S7): say which stage was meant.
            stages = [stage.name for stage in request.dockerfile.stages if stage.name]
            suggestion = did_you_mean(need.span.word, stages)
            message = f"{error.message}{suggestion}"
            raise DockerfileError(message, error.span, hint=error.hint) from error

    def build(self, request: BuildRequest, plan: Plan) -> Image:
        """Execute `plan`; the image is complete in the store."""
        from assembler.cache.local import LocalCache
        from assembler.engine.execution import execute

        with LocalCache(os.path.join(self.store.path, "cache.db")) as cache:
            if cache.notice:
                self._sink(Warned(cache.notice, self._clock()))
            services = Services(
                store=self.store,
                cache=cache,
                packed=cache,
                contexts={} if request.context is None else {"": request.context},
                sandbox=self._sandbox,
                fetch=self.images.fetch,
                compression=request.compression,
                sink=self._sink,
                cancellation=self._cancellation,
                clock=self._clock,
                secrets=request.secrets,
                jobs=self._jobs,
                no_cache=request.no_cache,
                add_hosts=request.add_hosts,
            )
            return execute(plan, services)

    def write(self, image: Image, outputs: Sequence[Output]) -> None:
        """Write `image`, whose blobs are in the store, to every output."""
        from assembler.engine.recorder import vertex

        for output in outputs:
            with vertex(output.name, output.name, self._sink, self._clock) as work:
                written = output.write(image, lambda layer: self.store.blobs.open(layer.digest))
                work.detail = str(written.digest)

    def tag(self, image: Image, names: Sequence[Reference]) -> None:
        """Keep `image` in the store under `names`."""
        for name in names:
            self.store.refs.set(str(name), image.manifest.descriptor)

    @contextmanager
    def _sandbox(self) -> Iterator[Sandbox]:
        from assembler.linux import userns
        from assembler.snapshot.overlay import OverlaySnapshotter

        if self._id_map is None:
            self._id_map = userns.enter()
        with ExitStack() as stack:
            runtime = self._start_runtime(self._id_map)
            stack.callback(runtime.close)
            directory = os.path.join(self.store.layers_directory, self._id_map.kind)
            snapshotter = stack.enter_context(OverlaySnapshotter(directory))
            yield Sandbox(snapshotter, runtime)

    def _start_runtime(self, id_map: IdMap) -> Runtime:
        if self._runtime == "podman":
            from assembler.runtime.podman import Podman

            return Podman.start(id_map)
        from assembler.runtime.native import Native

        return Native.start(id_map)


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname()
    return Platform.parse(f"{machine.sysname.lower()}/{machine.machine}")
