"""What the engine is given. Every member is a seam; `builder` chooses the concrete ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from assembler.engine.concealed import Concealed
from assembler.engine.ledger import Ledger
from assembler.engine.sharing import Made, unclaimed
from assembler.engine.take import Take as Take
from assembler.errors import BlobMissing, LayerError
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Annotations, Layer
from assembler.plan.entitlements import DeviceAllowance
from assembler.plan.plan import Plan, ResolvedImage
from assembler.plan.steps import GitSource, Limit, UrlSource
from assembler.values import field, value

if TYPE_CHECKING:
    from assembler.cache.base import Cache
    from assembler.cancellation import Cancellation
    from assembler.cdi.registry import Registry
    from assembler.context.base import Context
    from assembler.engine.sharing import Claims
    from assembler.events import Sink
    from assembler.layer.changeset import Entry
    from assembler.layer.compression import Compression
    from assembler.layer.directory import Lower
    from assembler.layer.tree import Tree
    from assembler.linux.cgroups import Groups
    from assembler.linux.emulators import Host
    from assembler.oci.platform import Platform
    from assembler.runtime.base import Runtime
    from assembler.snapshot.base import Snapshotter
    from assembler.store.growing import Growing
    from assembler.store.store import Store


class Unpacker(Protocol):
    """Takes layers apart beside this process, which is worth it for blobs of `least` bytes."""

    least: int

    def unpack(
        self,
        blob: str,
        into: str,
        *,
        diff_id: Digest,
        check: Callable[[], None],
        lower: Lower,
        limits: Limits,
    ) -> None:
        """See `layer.apart.Apart.unpack`."""
        ...


Described = Callable[[Plan, Mapping[Digest, Layer], str], Mapping[str, Any]]
"""Fields of an image's configuration, by its plan and the packed layers of its results, which are of
a variant."""


def nothing_more(plan: Plan, layers: Mapping[Digest, Layer], variant: str) -> Mapping[str, Any]:
    """For images whose configuration says only what the specification knows."""
    return {}


@value
class Sandbox:
    """Where directories can be made and processes run: inside the user namespace, if any. `apart`
    takes layers apart several at once. `limits` hold for steps that ask for no others."""

    snapshotter: Snapshotter
    runtime: Runtime
    groups: Groups
    limits: tuple[Limit, ...]
    ids: str
    """The kind of id map, and so whose the files are that are kept: others cannot use them."""
    apart: Unpacker | None = None


class PackedLayers(Protocol):
    """Remembers in which blob a changeset was packed, and which manifest a configuration led to."""

    def packed(self, identity: Digest, variant: str) -> Layer | None:
        """The packed form of the change `identity` under the compressor `variant`."""
        ...

    def otherwise(self, identity: Digest, variant: str) -> tuple[Layer, str] | None:
        """The change `identity` packed as the tar that `variant` is of, but in another compression;
        with the variant that this is."""
        ...

    def record_packed(self, identity: Digest, variant: str, layer: Layer) -> None:
        """Remember a packed form."""
        ...

    def recall(self, key: Digest) -> Descriptor | None:
        """The manifest that was assembled for `key`."""
        ...

    def remember(self, key: Digest, descriptor: Descriptor) -> None:
        """Remember an assembled manifest."""
        ...


class CachedBlobs(Protocol):
    """Blobs of step results that shared caches have. All may be called from several threads."""

    def holds(self, blob: Descriptor) -> bool:
        """Whether one of them has `blob`, as far as is known: nobody is asked."""
        ...

    def fetch(self, blob: Descriptor, take: Take, *, judged: bool = False) -> None:
        """Bring `blob` into the store; `take` is handed its bytes on the way. Raises BlobCorrupt,
        `removed`, where it cannot be had, or is not the layer that it was said to be: it is held no
        more then, and its step is to run. Whoever unpacks it has `judged` that."""
        ...

    def refuse(self, blob: Descriptor, cause: LayerError) -> None:
        """Raise BlobCorrupt, `removed`, if what is in `blob`, which is not what it was said to be,
        is from one of them; it is held no more, and no record leads to it."""
        ...


class NoCaches:
    """For builds without shared caches."""

    def holds(self, blob: Descriptor) -> bool:
        """No."""
        return False

    def fetch(self, blob: Descriptor, take: Take, *, judged: bool = False) -> None:
        """Raises BlobMissing."""
        raise BlobMissing(f"blob {blob.digest} is gone", str(blob.digest))

    def refuse(self, blob: Descriptor, cause: LayerError) -> None:
        """Nothing."""


class Remote(Protocol):
    """Files that are elsewhere: over http, in a git repository."""

    def identity(self, source: UrlSource | GitSource) -> Digest | None:
        """What identifies `source` now, for keys; None when it may not be asked for."""
        ...

    def open(self, source: UrlSource | GitSource) -> tuple[Entry, Tree]:
        """The file or directory that `source` is, and the tree it is in."""
        ...


class CarriedMounts(Protocol):
    """Cache mounts as other machines had them, by the names of their directories."""

    def find(self, name: str) -> Layer | None:
        """The mount in its packed form, its blob one of `cached`; None where it is not known."""
        ...


class NoMounts:
    """For builds that take over none."""

    def find(self, name: str) -> Layer | None:
        """None."""
        return None


class Destination(Protocol):
    """Where the image goes, told of its layers while it is being built. All return at once."""

    def announce(self) -> None:
        """An image is to come, behind steps that are run first."""
        ...

    def layer(self, layer: Descriptor) -> None:
        """The image has `layer`, whose blob is in the store or where its base is."""
        ...

    def growing(self, blob: Growing) -> None:
        """A layer of the image is being packed."""
        ...


class Nowhere:
    """For images that only the store keeps."""

    def announce(self) -> None:
        """Nothing."""

    def layer(self, layer: Descriptor) -> None:
        """Nothing."""

    def growing(self, blob: Growing) -> None:
        """Nothing."""


def no_agent(id: str) -> str | None:
    """For builds that were given no ssh agent."""
    return None


def no_devices() -> Registry:
    """For hosts without CDI specifications."""
    from assembler.cdi.registry import Registry

    return Registry()


def this_host() -> Host:
    """What executes programs on this host."""
    from assembler.linux.emulators import Host

    return Host.here()


@value(kw_only=True)
class Services:
    """The engine's surroundings for one build.

    `sandbox` enters the user namespace; it is called once, before any thread, and only when
    something must be executed. `fetch` brings a base layer's blob into the store, `stream` does
    not; both hand its bytes, verified at the end, to a function. `part` gives some bytes of it, from
    an offset on, None where that cannot be. `whole` says that the blobs of
    base layers and of results from `cached` are to be in the store at the end, else those that
    nothing needed may be missing; `wanted` then says of one that is read whether it will be needed
    after the build. `claims` gives a turn at work that other builds on the store may be at.
    `described` gives what the image's configuration says besides. `destination` is told of the
    image's layers when they are there, and while they are packed.
    Where no `image` is made, nothing is packed. `files_to` is handed the files of each target, while they
    can be read, and may write to the directories `files_into`.
    `ledger` notes what becomes of steps, and tells why. Results of steps that ran before `since`, in
    seconds since the epoch, are not used.
    `secrets` maps an id to its value, `concealed` hides those that were read; `agents` gives the
    socket of an ssh agent, None for an id it does not know. `devices` reads the host's CDI
    specifications, of which steps may have what `devices_allowed` says. `archive_limits` is what
    layers and archives may hold. `carried` gives cache mounts that are new here the content that they
    had elsewhere. `made` knows what was made in spite of the cache. `clock` is seconds since the epoch,
    `host` tells what programs are executed here. With `recompress`, base layers too are in
    `compression`; with `docker_types`, the image has Docker's media types instead of OCI's.
    """

    store: Store
    cache: Cache
    packed: PackedLayers
    contexts: Mapping[str, Context]
    remote: Remote
    sandbox: Callable[[], AbstractContextManager[Sandbox]]
    fetch: Callable[[ResolvedImage, Descriptor, Take], None]
    stream: Callable[[ResolvedImage, Descriptor, Take], None]
    part: Callable[[ResolvedImage, Descriptor, int, int], bytes | None]
    compression: Compression
    recompress: bool = False
    docker_types: bool = False
    sink: Sink
    cancellation: Cancellation
    clock: Callable[[], float]
    secrets: Mapping[str, Callable[[], bytes]]
    claims: Claims = unclaimed
    whole: bool = True
    wanted: Callable[[Descriptor], bool] = lambda layer: False
    cached: CachedBlobs = field(default_factory=NoCaches)
    described: Described = nothing_more
    destination: Destination = field(default_factory=Nowhere)
    image: bool = True
    files_to: Callable[[Mapping[Platform, Tree]], object] | None = None
    files_into: tuple[str, ...] = ()
    annotations: Annotations = field(default_factory=Annotations)
    jobs: int = 4
    agents: Callable[[str], str | None] = no_agent
    add_hosts: tuple[tuple[str, str], ...] = ()
    devices: Callable[[], Registry] = no_devices
    devices_allowed: DeviceAllowance = field(default_factory=DeviceAllowance)
    archive_limits: Limits = DEFAULT_LIMITS
    ledger: Ledger = field(default_factory=Ledger)
    concealed: Concealed = field(default_factory=Concealed)
    since: float | None = None
    host: Callable[[], Host] = this_host
    carried: CarriedMounts = field(default_factory=NoMounts)
    made: Made = field(default_factory=Made)
