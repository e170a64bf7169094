"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from assembler.access import Access
from assembler.cli import declared as click
from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.events import Sink, discard
from assembler.oci.platform import Platform

if TYPE_CHECKING:
    from assembler.cancellation import Cancellation
    from assembler.cli.display.live import Live

Command = TypeVar("Command", bound=Callable[..., Any])
_KEPT = 8 << 20  # bytes of a step's output that a terminal's display has in memory at most
RESOURCES = (
    "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems",
)  # fmt: skip
"""The keys of `--resource`, which are also options of their own, as `docker build` had them."""


STORE = click.option("--store", metavar="DIR", default="", help="The store directory.")
TIMEOUT = click.option(
    "--timeout", metavar="DURATION", default="", help="Give up after this long, as in 30m."
)
CDI = click.option(
    "--cdi-spec-dir",
    "cdi_spec_dirs",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    multiple=True,
    help="Read what RUN --device means from here, not from /etc/cdi, /var/run/cdi and"
    " /etc/buildkit/cdi.",
)
PROGRESS = click.option(
    "--progress",
    type=click.Choice(["auto", "tty", "plain", "rawjson", "quiet"]),
    default="auto",
    help="How progress is shown on stderr.",
)


def store_option(command: Command) -> Command:
    """`--store DIR`."""
    return STORE.by_click(command)


def network_options(command: Command) -> Command:
    """How registries are reached, buildah's names for it and dockerd's: the command is given one
    `access`. Raises UsageError for values that cannot be."""

    @functools.wraps(command)
    def with_access(**options: Any) -> Any:
        return command(access=access_of(options), **options)

    wrapped: Any = with_access
    for one in reversed(NETWORK):
        wrapped = one.by_click(wrapped)
    return cast(Command, wrapped)


def timeout_option(command: Command) -> Command:
    """`--timeout DURATION`: when the whole command is given up."""
    return TIMEOUT.by_click(command)


NETWORK = (
    click.option(
        "--insecure-registry",
        "insecure",
        metavar="HOST[:PORT]|CIDR",
        multiple=True,
        help="Allow plain http or an unverified certificate for this registry.",
    ),
    click.option(
        "--tls-verify",
        "tls_verify",
        default=None,
        is_flag=False,
        flag_value="true",
        metavar="BOOL",
        help="With false every registry of the command may be plain http or have any certificate; with"
        " true only what --insecure-registry names.",
    ),
    click.option(
        "--authfile",
        metavar="FILE",
        default="",
        help="Take logins from this file only, of podman's or docker's form.",
    ),
    click.option(
        "--creds",
        metavar="USER[:PASSWORD]",
        default="",
        help="The login for the registries named on the command line; other users can see it.",
    ),
    click.option(
        "--cert-dir",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        default=None,
        help="Read *.crt, *.cert and *.key from here, not from certs.d.",
    ),
    click.option(
        "--retry",
        "retries",
        metavar="N",
        type=click.IntRange(min=0, max=1000),
        default=None,
        help="Try a request that failed up to N times more; without it 5, of a registry that answers"
        " now and then 11.",
    ),
)


def access_of(options: dict[str, Any]) -> Access:
    """What `NETWORK` amounts to, whose values are taken out of `options`. A password that `--creds`
    lacks is asked for on a terminal. Raises UsageError."""
    given = {one.name: options.pop(one.name) for one in NETWORK}
    creds = given["creds"]
    user, colon, _ = creds.partition(":")
    if creds and not user:
        raise UsageError("--creds: the user name is empty", hint="--creds USER[:PASSWORD]")
    if creds and not colon:
        if not sys.stdin.isatty():
            raise UsageError(
                "--creds: a password is needed where there is no terminal to ask for it",
                hint="put USER:PASSWORD into ASSEMBLE_PUSH_CREDS (or …_BUILD_, …_PULL_), which"
                " no other user sees, or use `assemble login --password-stdin`",
            )
        from click import Abort, prompt

        try:
            creds = f"{user}:{prompt('Password', hide_input=True, err=True)}"
        except Abort as error:  # Ctrl-C; of a build's, click may not have been asked before
            raise KeyboardInterrupt from error
    return Access(
        insecure=tuple(map(_insecure, given["insecure"])),
        tls_verify=_tls_verify(given["tls_verify"]),
        authfile=given["authfile"],
        cert_dir=given["cert_dir"] or "",
        creds=creds,
        retries=given["retries"],
        debug=_debugs(),
    )


def _tls_verify(text: str | None) -> bool | None:
    if text is None:
        return None
    if text.lower() in ("true", "1", "t", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "f", "no", "off"):
        return False
    raise UsageError(f"--tls-verify {text}: neither true nor false", hint="--tls-verify=false")


def _insecure(text: str) -> str:
    """`text`, a HOST[:PORT] or a network; a scheme before it, which people write, is dropped."""
    text = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if "/" in text:
        import ipaddress

        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise UsageError(
                f"--insecure-registry {text}: neither HOST[:PORT] nor a network such as 10.0.0.0/8"
            ) from None
    return text


def cdi_option(command: Command) -> Command:
    """`--cdi-spec-dir DIR`, repeatable; dockerd's and buildkitd's name for it."""
    return CDI.by_click(command)


def sink_for(
    progress: str,
    environment: Environment,
    title: str = "Building",
    cancellation: Cancellation | None = None,
) -> Sink:
    """The display `progress` names; `auto` is BUILDKIT_PROGRESS, else `tty` on a terminal and `plain`
    elsewhere. A terminal shows `title`, and is given back before `cancellation` has the process die."""
    progress = _shown_by(progress, environment)
    if progress == "quiet":
        return discard
    if progress == "rawjson":
        from assembler.cli.display.rawjson import RawJson

        return RawJson(sys.stderr)
    if progress == "tty":
        return _live(environment, title, cancellation)
    from assembler.cli.display.plain import Plain

    return Plain(sys.stderr, expand=_debugs())


def _shown_by(progress: str, environment: Environment) -> str:
    """The display, where lines can be moved or not."""
    asked = environment.get("BUILDKIT_PROGRESS")
    if progress != "auto":
        asked = progress
    elif asked not in ("tty", "plain", "rawjson", "quiet"):
        asked = "tty" if environment.get("TERM") else "plain"
    if asked == "tty" and (environment.get("TERM") == "dumb" or not sys.stderr.isatty()):
        return "plain"
    return asked


def _live(environment: Environment, title: str, cancellation: Cancellation | None) -> Live:
    from assembler.cli.display.colors import colors
    from assembler.cli.display.lines import LINES
    from assembler.cli.display.live import Live
    from assembler.cli.display.tty import Tty

    asked = environment.get("BUILDKIT_TTY_LOG_LINES")
    display = Tty(
        sys.stderr,
        _size,
        title=title,
        colors=colors(environment.variables),
        expand=_debugs(),
        output=int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 4 else LINES,
        foreground=_foreground,
    )
    live = Live(display)
    if cancellation is not None:
        cancellation.before_death(live.restore)
    return live


def _debugs() -> bool:
    """Whether `--debug` was given, of which click knows if anybody does."""
    if "click" not in sys.modules:
        return False
    from click import get_current_context

    context = get_current_context(silent=True)
    return context is not None and bool((context.find_root().obj or {}).get("debug"))


def _size() -> tuple[int, int]:
    """Columns and rows of the terminal on stderr; of one that does not know, a usual one's."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        columns = rows = 0
    return columns or 80, rows or 24


def _foreground() -> bool:
    """Whether the terminal is not somebody else's just now, as it is after `bg`."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # not the one that we are controlled by
        return True


def build_sink(
    progress: str, environment: Environment, store: str, cancellation: Cancellation | None = None
) -> Sink:
    """As `sink_for`; all output of steps is kept below the directory `store`, and what of it is
    shown is bounded."""
    sink = sink_for(progress, environment, cancellation=cancellation)
    if sink is discard:
        return sink
    from assembler.cli.display.step_logs import StepLogs, limits

    size, speed = limits(environment.variables)
    directory = os.path.join(store, "logs")
    if _shown_by(progress, environment) != "tty":
        return StepLogs(sink, directory, size, speed)
    live = cast("Live", sink)
    size = _KEPT if size < 0 else min(size, _KEPT)
    return StepLogs(live, directory, size, speed, watch=live.watch)


def pairs(
    values: tuple[str, ...], flag: str, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`K=V` words as a mapping, the last one winning. A bare `K` takes its value of `variables`,
    and is left out where they have none; without them it is empty."""
    found: dict[str, str] = {}
    for word in values:
        key, equals, value = word.partition("=")
        if not key:
            raise UsageError(f"{flag} {word!r}: the name is empty", hint=f"{flag} NAME=VALUE")
        if equals or variables is None:
            found[key] = value
        elif key in variables:
            found[key] = variables[key]
    return found


def platforms_of(words: Sequence[str], environment: Environment) -> tuple[Platform, ...]:
    """The platforms asked for by flags or DOCKER_DEFAULT_PLATFORM, each once and always in the same
    order; none when neither was given. Raises UsageError."""
    asked = ",".join(filter(None, words)) or environment.get("DOCKER_DEFAULT_PLATFORM")
    parts = [part.strip() for part in asked.split(",")] if asked else []
    if parts and not all(parts):
        raise UsageError(
            f"--platform {asked}: a platform is empty", hint="say linux/amd64,linux/arm64"
        )
    return tuple(sorted({_platform(part) for part in parts}))


def _platform(text: str) -> Platform:
    if text.lower() == "local":
        from assembler.images import host_platform

        return host_platform()
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise UsageError(
            f"--platform {text}: {error}", hint="say linux/amd64, linux/arm64 or linux/arm/v7"
        ) from error
