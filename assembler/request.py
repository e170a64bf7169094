"""What a build is asked for, and what the planner is asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from assembler.context.base import Context
from assembler.dockerfile.instructions import Dockerfile
from assembler.engine.services import Destination, Nowhere
from assembler.images import Pull, host_platform
from assembler.layer.compression import Compression, by_name
from assembler.linux.resources import Resources
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Annotations
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts
from assembler.plan.make import PlanRequest
from assembler.plan.steps import SHARED_MEMORY, Limit
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.cache.exporting import CacheTarget
    from assembler.cache.places import CacheSource
    from assembler.layer.tree import Tree
    from assembler.plan.unset import Unset


@value(kw_only=True)
class BuildRequest:
    """One build as asked for. `files` are the named contexts that are trees of files, by the names
    `contexts` gives them. `require` names stages that must succeed though the target does not need
    them; `*` is all. `no_cache` names stages that take nothing from the cache; `*` is all.
    Nor is anything taken that ran before `since`, in seconds since the epoch; with `require_cached`,
    no step may have to be done.
    Without `whole`, layers of base images that nothing needs are left where they are: for an image
    that is pushed, to a registry that may have them. `wanted` says of a layer that passes through
    whether it will be asked for; `destination` is told of the image's layers, `files_to` is handed the
    files of each target, and may write to the directories `files_into`. With `recompress`,
    base layers too are in `compression`; with `docker_types`, the image has Docker's media types
    instead of OCI's.
    `indexed` says that an index is made, of the images for `platform` and `others`; without it there
    are no others."""

    dockerfile: Dockerfile
    context: Context | None = None
    files: Mapping[str, Context] = field(default_factory=dict)
    contexts: Contexts = field(default_factory=Contexts)
    target: str = ""
    require: tuple[str, ...] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    others: tuple[Platform, ...] = ()
    indexed: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[Unset, ...] = ()
    annotations: Annotations = field(default_factory=Annotations)
    network: str = "default"
    allow: frozenset[str] = frozenset()
    epoch: int | None = None
    pull: Pull = Pull.MISSING
    whole: bool = True
    wanted: Callable[[Descriptor], bool] = lambda layer: False
    destination: Destination = field(default_factory=Nowhere)
    files_to: Callable[[Mapping[Platform, Tree]], object] | None = None
    files_into: tuple[str, ...] = ()
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


def each_platform(request: BuildRequest) -> tuple[BuildRequest, ...]:
    """`request` for one image after the other, in the order of the index."""
    platforms = (request.platform, *request.others)
    return tuple(replace(request, platform=one, others=()) for one in platforms)


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
        require=request.require,
        platform=request.platform,
        build_platform=host_platform(),
        labels=request.labels,
        unset=request.unset,
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
