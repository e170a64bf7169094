"""The runtime seam: a process, a root, some mounts; out comes output and an exit status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from assembler.cancellation import Cancellation
from assembler.plan.steps import SHARED_MEMORY, Limit
from assembler.values import field, value

if TYPE_CHECKING:
    from assembler.linux.cgroups import Group

HOSTNAME = "buildkitsandbox"


@value
class Hook:
    """A host program to be run before the process, on its mounted root (runtime-spec, config.md,
    "POSIX-platform Hooks"). `device` is what asks for it, `timeout` seconds or 0."""

    stage: str
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout: int
    device: str


@value
class Process:
    """What to execute. `user` is `name|uid[:group|gid]`, looked up in the root's own files.

    `argv[0]` is searched in the PATH of `env` inside the root. `network` is default, none or host.
    Nothing of the host's environment is added except what the runtime documents.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = HOSTNAME
    network: str = "default"
    insecure: bool = False
    add_hosts: tuple[tuple[str, str], ...] = ()
    shared_memory: int = SHARED_MEMORY
    """Bytes that fit into /dev/shm."""
    limits: tuple[Limit, ...] = ()
    groups: tuple[int, ...] = ()
    """Groups besides those that the root's own files give the user; every one is mapped."""
    host_groups: str = ""
    """A device node that only a group of the caller may use: the process keeps the caller's groups,
    and has no others. Empty where there is none."""
    hooks: tuple[Hook, ...] = ()
    """What they change in the root is seen by the process and is no change of the step."""
    cgroups: tuple[Group, ...] = ()
    """Those that everything of it runs in."""
    more: bool = False
    """Another process of the build follows this one: a runtime may make ready for it."""


@value
class Root:
    """An overlay to be mounted for one process: layer directories, TOPMOST FIRST, and where
    writes go. `scratch` is a private directory beside `upper` on the same file system, for the
    runtime's own needs; it is removed by whoever made it, and so is the directory it is in, where a
    runtime may keep what all steps of a build share, and layers: `scratch` may be `work`, in which
    no layer can be.

    Without `lowers` and `work`, `upper` is no upper directory but the whole tree. A runtime then
    adds to `moved` the paths that it moves away and back: their change times tell nothing."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    scratch: str
    program: str = ""
    """The program that serves the overlay (see `linux.fuse`); empty for the kernel's."""
    moved: set[str] = field(default_factory=set, compare=False)


@value
class BindSource:
    """A host directory or file to show at `target` (absolute, inside the root).

    With `read_only` false and `discard` true, writes go to a throw-away overlay. `options` are
    nosuid, nodev, noexec.
    """

    target: str
    source: str
    read_only: bool = True
    discard: bool = False
    options: tuple[str, ...] = ()


@value
class DeviceNode:
    """The device node at `target`: the host's at `source`, which `kind` (c, b, p) and `numbers`
    describe. A runtime that makes nodes gives it `mode` and the owner; one that can only show the
    host's leaves them as they are there."""

    target: str
    source: str
    kind: str
    numbers: tuple[int, int]
    mode: int
    uid: int = 0
    gid: int = 0


@value
class TemporaryFiles:
    """A tmpfs at `target`, `size` in bytes (0: the kernel's default)."""

    target: str
    size: int = 0


@value
class FileContent:
    """A file at `target` that exists only in memory: secrets, here-document scripts."""

    target: str
    content: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


RunMount = BindSource | DeviceNode | TemporaryFiles | FileContent


class Runtime(Protocol):
    """Executes one process at a time per call; calls come from several threads at once."""

    name: str

    def run(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
        cancellation: Cancellation,
    ) -> int:
        """The exit status: 0-255, or 128 + N after signal N.

        `output` receives stdout and stderr as they come. When this returns or raises, no process
        and no mount of the call is left. Raises Cancelled, HostError, StepError.
        """
        ...

    def close(self) -> None:
        """Release everything; the runtime is not used afterwards."""
        ...
