"""The steps a build is made of. Eighteen instructions become three kinds of step; the rest only
change configuration and history while the plan is made.

What depends on file contents (wildcards, owners by name, digests) is data in a step, resolved by
the engine. Spans and names are display data: `compare=False`, and never in a key.
"""

from __future__ import annotations

from assembler.dockerfile.remote import GitReference
from assembler.source import Span
from assembler.values import field, value


@value
class ContextOrigin:
    """Files of the build context (`name` empty) or of a named context."""

    name: str = ""


@value
class StageOrigin:
    """Files of the finished stage with this index."""

    index: int


@value
class ImageOrigin:
    """Files of an image; `image` is a key of `Plan.images`."""

    image: str


@value
class ScratchOrigin:
    """`from=scratch`: an empty directory."""


Origin = ContextOrigin | StageOrigin | ImageOrigin | ScratchOrigin


@value
class UrlSource:
    """A file to be fetched over http (rule C27). `checksum` is a digest's text, empty when not
    given; `unpack` says that an archive is extracted. `credentials`, `user:password` of the URL, are
    in no key, history or document."""

    url: str
    checksum: str = ""
    unpack: bool = False
    credentials: str = field(default="", compare=False, repr=False)


@value
class GitSource:
    """A directory of a git repository (rule C29). `keep_git_dir` keeps `.git` in it."""

    repository: GitReference
    keep_git_dir: bool = False


CopySource = str | UrlSource | GitSource
"""A path in a step's origin, or something that is fetched."""


@value
class InlineFile:
    """A here-document source of COPY/ADD, already expanded: name and content (rule H7)."""

    name: str
    content: str


@value
class BindMount:
    """--mount=type=bind. `target` is absolute; `read_only` false means writes are thrown away."""

    target: str
    source: str
    origin: Origin
    read_only: bool = True


@value
class CacheMount:
    """--mount=type=cache. `id` includes the namespace; `sharing` is shared, private or locked."""

    target: str
    id: str
    sharing: str = "shared"
    read_only: bool = False
    origin: Origin | None = None
    source: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = 0o755


@value
class TmpfsMount:
    """--mount=type=tmpfs; `size` in bytes, 0 for the kernel's default."""

    target: str
    size: int = 0


@value
class SecretMount:
    """--mount=type=secret. `target` empty: only in the environment as `env`."""

    id: str
    target: str
    env: str = ""
    required: bool = False
    uid: int = 0
    gid: int = 0
    mode: int = 0o400


@value
class SshMount:
    """--mount=type=ssh: an agent socket."""

    id: str
    target: str
    required: bool = False
    uid: int = 0
    gid: int = 0
    mode: int = 0o600


@value
class Device:
    """--device: a CDI name, kind or class (rule M12)."""

    name: str
    required: bool = False


@value
class Limit:
    """A resource limit of setrlimit(2): `name` as in `nofile`, -1 for no limit."""

    name: str
    soft: int
    hard: int


SHARED_MEMORY = 64 << 20
"""How many bytes fit into /dev/shm where nothing else is asked for (rule R5)."""

Mount = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


@value(kw_only=True)
class Run:
    """Execute `argv` in the stage. `env` is the whole environment (config, ARGs), in order.

    `hostname` empty: the runtime's own. `hosts` are the names that `--add-host` gives an address,
    `limits` what `--ulimit` asks for, `shared_memory` the bytes of `--shm-size` (rule R5).
    `proxies` are exported too but are in no key, history or configuration (rule A11).
    `scripts` are files under /dev/pipes (rule H9): name, content. `arguments` says which names of
    `env` have their value from an ARG, for people.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    mounts: tuple[Mount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    hostname: str = ""
    hosts: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    shared_memory: int = SHARED_MEMORY
    devices: tuple[Device, ...] = ()
    scripts: tuple[tuple[str, str], ...] = ()
    proxies: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    arguments: tuple[str, ...] = field(default=(), compare=False)
    span: Span = field(compare=False, repr=False)
    name: str = field(compare=False)

    @property
    def binds(self) -> tuple[BindMount, ...]:
        """The mounts whose files are part of what the step is. What seeds a cache is not (R7)."""
        return tuple(mount for mount in self.mounts if isinstance(mount, BindMount))


@value(kw_only=True)
class Copy:
    """Take `sources` out of `origin` to `destination`; ADD is the same with `unpack`.

    `destination` is absolute, and keeps its trailing `/` or `/.` (rule C9). `chown` and `chmod`
    are expanded text, empty when not given. `unpack` true: local archives are extracted (C26).
    Only ADD has sources that are fetched. `written` are the sources before expansion, for errors.
    """

    origin: Origin
    sources: tuple[CopySource, ...]
    destination: str
    inline: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    unpack: bool = False
    written: tuple[str, ...] = field(default=(), compare=False, repr=False)
    span: Span = field(compare=False, repr=False)
    name: str = field(compare=False)

    def place_of(self, source: str) -> Span:
        """Where in the Dockerfile the path `source` stands, expanded or not."""
        number = self.sources.index(source)
        return self.span.blame(self.written[number] if self.written else source)

    @property
    def paths(self) -> tuple[str, ...]:
        """The sources that are paths in `origin`."""
        return tuple(source for source in self.sources if isinstance(source, str))

    @property
    def fetched(self) -> tuple[UrlSource | GitSource, ...]:
        """The sources that are elsewhere."""
        return tuple(source for source in self.sources if not isinstance(source, str))


@value(kw_only=True)
class MakeDirectory:
    """WORKDIR: make `path` with its parents, mode 0755, owned by `user` (rule K1)."""

    path: str
    user: str
    span: Span = field(compare=False, repr=False)
    name: str = field(compare=False)


Step = Run | Copy | MakeDirectory


def origins_of(step: Step) -> tuple[Origin, ...]:
    """Everything `step` reads from, in order."""
    if isinstance(step, Copy):
        return (step.origin,)
    if isinstance(step, Run):
        mounts = [mount for mount in step.mounts if isinstance(mount, BindMount | CacheMount)]
        return tuple(mount.origin for mount in mounts if mount.origin is not None)
    return ()
