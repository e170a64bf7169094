"""What a Dockerfile says: one frozen class per instruction, nothing evaluated.

Words are as written (flags split off, JSON forms decoded); `plan` expands and gives meaning.
"""

from __future__ import annotations

from assembler.source import Source, Span
from assembler.values import field, value


@value
class Flag:
    """`--name=value`; a bare boolean flag has the value `true`."""

    name: str
    value: str


@value
class Heredoc:
    """A here-document: `expand` is false when any part of the delimiter was quoted (rule H5)."""

    name: str
    body: str
    expand: bool
    strip_tabs: bool
    descriptor: int = 0


@value
class CommandLine:
    """A command as written: `arguments` in exec (JSON) form, else `text` for the shell.

    `heredocs` are only ever found in shell form (rule H1).
    """

    text: str = ""
    arguments: tuple[str, ...] | None = None
    heredocs: tuple[Heredoc, ...] = ()


@value
class Pair:
    """`key=value` as written, quotes and variables still in it. `value` None: only the key."""

    key: str
    value: str | None


@value(kw_only=True)
class _Instruction:
    span: Span
    text: str = field(compare=False)
    """The logical line as written, instruction name included, for display."""
    comment: tuple[str, ...] = field(default=(), compare=False)


@value(kw_only=True)
class From(_Instruction):
    """FROM [--platform=P] image [AS name]."""

    image: str
    name: str = ""
    platform: str = ""


@value(kw_only=True)
class Arg(_Instruction):
    """ARG name[=default] …"""

    pairs: tuple[Pair, ...]


@value(kw_only=True)
class Env(_Instruction):
    """ENV k=v … or the legacy `ENV k v`."""

    pairs: tuple[Pair, ...]
    legacy: bool = False


@value(kw_only=True)
class Label(_Instruction):
    """LABEL k=v … or the legacy `LABEL k v`."""

    pairs: tuple[Pair, ...]
    legacy: bool = False


@value(kw_only=True)
class Run(_Instruction):
    """RUN. `mounts` are the raw values of --mount, in order; the others raw or empty."""

    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


@value(kw_only=True)
class Copy(_Instruction):
    """COPY and ADD (`add` true). Sources and destination as written.

    `heredocs` are further sources, after the paths (rule H7).
    """

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    add: bool = False
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@value(kw_only=True)
class Workdir(_Instruction):
    """WORKDIR path."""

    path: str


@value(kw_only=True)
class User(_Instruction):
    """USER name[:group]."""

    user: str


@value(kw_only=True)
class Shell(_Instruction):
    """SHELL ["…", …]."""

    arguments: tuple[str, ...]


@value(kw_only=True)
class Cmd(_Instruction):
    """CMD."""

    command: CommandLine


@value(kw_only=True)
class Entrypoint(_Instruction):
    """ENTRYPOINT."""

    command: CommandLine


@value(kw_only=True)
class Expose(_Instruction):
    """EXPOSE port[/proto] …, words as written."""

    ports: tuple[str, ...]


@value(kw_only=True)
class Volume(_Instruction):
    """VOLUME path …"""

    paths: tuple[str, ...]


@value(kw_only=True)
class StopSignal(_Instruction):
    """STOPSIGNAL."""

    signal: str


@value(kw_only=True)
class Maintainer(_Instruction):
    """MAINTAINER, deprecated."""

    name: str


@value(kw_only=True)
class HealthCheck(_Instruction):
    """HEALTHCHECK. `command` None is NONE. Durations are nanoseconds, 0 inherits."""

    command: CommandLine | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@value(kw_only=True)
class OnBuild(_Instruction):
    """ONBUILD; `trigger` is the text stored in the configuration (rules K13, H11)."""

    trigger: str


Instruction = (
    From | Arg | Env | Label | Run | Copy | Workdir | User | Shell | Cmd | Entrypoint
    | Expose | Volume | StopSignal | Maintainer | HealthCheck | OnBuild
)  # fmt: skip


@value
class Stage:
    """A FROM and what follows it, up to the next FROM."""

    base: From
    instructions: tuple[Instruction, ...]
    index: int

    @property
    def name(self) -> str:
        """The name after AS, in lower case; empty when there is none."""
        return self.base.name


@value
class Warning:
    """Something legal that is likely wrong. `rule` is BuildKit's name for it, empty for ours."""

    message: str
    span: Span
    rule: str = ""


@value
class Dockerfile:
    """A parsed file: global ARGs, stages in order, and the directives at its top."""

    source: Source
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    warnings: tuple[Warning, ...] = ()
