"""Instructions that change only configuration and history (rules K1-K13, Y6)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from assembler.dockerfile.instructions import (
    Cmd,
    CommandLine,
    Entrypoint,
    Expose,
    HealthCheck,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
)
from assembler.dockerfile.words import expand_list, quoted
from assembler.errors import DockerfileError, ExpansionFailed, SyntaxProblem
from assembler.oci.config import Execution, Healthcheck
from assembler.source import Span

Metadata = (
    Cmd | Entrypoint | Expose | HealthCheck | Label | Maintainer | OnBuild | Shell | StopSignal
    | User | Volume
)  # fmt: skip
Expand = Callable[[str], str]
Lookup = Callable[[str], str | None]

DEFAULT_SHELL = ("/bin/sh", "-c")
_PORTS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_SIGNALS = frozenset(
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT "
    "STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX".split()
) | {f"RTMIN+{n}" for n in range(1, 16)} | {f"RTMAX-{n}" for n in range(1, 15)}  # fmt: skip


def command_arguments(command: CommandLine, shell: tuple[str, ...]) -> tuple[str, ...]:
    """The argument vector of a command: exec form as it is, else the shell and the text (R1, K6)."""
    if command.arguments is not None:
        return command.arguments
    return (*(shell or DEFAULT_SHELL), command.text)


def apply(
    instruction: Metadata, execution: Execution, *, own_cmd: bool, expand: Expand, lookup: Lookup
) -> tuple[Execution, str]:
    """The execution parameters after `instruction`, and its history line (empty for none).

    `own_cmd` says that this stage has set CMD itself, so ENTRYPOINT keeps it (rule K5).
    """
    match instruction:
        case Cmd():
            argv = command_arguments(instruction.command, execution.shell)
            unknown = {**execution.unknown, "ArgsEscaped": True}  # K4, as BuildKit writes it
            return replace(execution, cmd=argv, unknown=unknown), f"CMD {_quoted_list(argv)}"
        case Entrypoint():
            argv = command_arguments(instruction.command, execution.shell)
            cmd = execution.cmd if own_cmd else None
            changed = replace(execution, entrypoint=argv, cmd=cmd)
            return changed, f"ENTRYPOINT {_quoted_list(argv)}"
        case Expose():
            ports = _ports(instruction, lookup)
            merged = tuple(sorted({*execution.exposed_ports, *ports}))
            return replace(execution, exposed_ports=merged), f"EXPOSE [{' '.join(ports)}]"
        case HealthCheck():
            health, shown = _healthcheck(instruction)
            return replace(execution, healthcheck=health), f"HEALTHCHECK {shown}"
        case Label():
            labels = {expand(pair.key): expand(pair.value or "") for pair in instruction.pairs}
            shown = " ".join(f"{key}={value}" for key, value in labels.items())
            return replace(execution, labels={**execution.labels, **labels}), f"LABEL {shown}"
        case Maintainer():
            return execution, f"MAINTAINER {instruction.name}"
        case OnBuild():
            triggers = (*execution.on_build, instruction.trigger)
            return replace(execution, on_build=triggers), ""
        case Shell():
            shown = f"SHELL [{' '.join(instruction.arguments)}]"
            return replace(execution, shell=instruction.arguments), shown
        case StopSignal():
            signal = _signal(expand(instruction.signal), instruction.span)
            return replace(execution, stop_signal=signal), f"STOPSIGNAL {signal}"
        case User():
            user = expand(instruction.user)
            return replace(execution, user=user), f"USER {user}"
        case Volume():
            return _volume(instruction, execution, expand)
        case _:
            assert_never(instruction)


def _volume(instruction: Volume, execution: Execution, expand: Expand) -> tuple[Execution, str]:
    paths = tuple(map(expand, instruction.paths))
    if not all(paths):
        raise SyntaxProblem("VOLUME specified can not be an empty string", instruction.span)
    merged = tuple(sorted({*execution.volumes, *paths}))
    return replace(execution, volumes=merged), f"VOLUME [{' '.join(paths)}]"


def _ports(instruction: Expose, lookup: Lookup) -> tuple[str, ...]:
    words: list[str] = []
    for word in instruction.ports:
        try:
            words += expand_list(word, lookup)[0]
        except ExpansionFailed as error:
            raise ExpansionFailed(error.message, instruction.span.blame(word)) from error
    found: dict[str, None] = {}
    for word in sorted(words):
        found |= dict.fromkeys(_port_range(word, instruction.span))
    return tuple(found)


def _port_range(word: str, span: Span) -> list[str]:
    text, _, protocol = word.partition("/")
    protocol = protocol.lower() or "tcp"
    above, _, port = text.rpartition(":")  # an address or host port is dropped (rule K7)
    if not port:
        raise DockerfileError(f'invalid port: "{word}": no port specified', span.blame(word))
    if protocol not in ("tcp", "udp", "sctp"):
        raise DockerfileError(
            f'invalid port: "{word}": invalid proto: {protocol}', span.blame(word)
        )
    address, _, host = above.rpartition(":")
    if address and not _is_address(address):
        raise DockerfileError(f"invalid IP address: {address}", span.blame(word))
    if host and _range(host) is None:
        raise DockerfileError(f"invalid hostPort: {host}", span.blame(word))
    found = _range(port)
    if found is None:
        raise DockerfileError(f"invalid containerPort: {port}", span.blame(word))
    return [f"{number}/{protocol}" for number in found]


def _range(text: str) -> range | None:
    """The ports of `80` or `80-90`, None for anything else."""
    match = _PORTS.fullmatch(text)
    if match is None:
        return None
    low, high = int(match[1]), int(match[2] or match[1])
    return range(low, high + 1) if low <= high <= 65535 else None


def _is_address(text: str) -> bool:
    from ipaddress import ip_address  # few files have one

    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _healthcheck(instruction: HealthCheck) -> tuple[Healthcheck, str]:
    command = instruction.command
    if command is None:
        test: tuple[str, ...] = ("NONE",)
    elif command.arguments is not None:
        test = ("CMD", *command.arguments)
    else:
        test = ("CMD-SHELL", command.text)
    health = Healthcheck(
        test,
        instruction.interval,
        instruction.timeout,
        instruction.start_period,
        instruction.start_interval,
        instruction.retries,
    )
    shown = (
        f"{{Test:[{' '.join(test)}] Interval:{go_duration(health.interval)} "
        f"Timeout:{go_duration(health.timeout)} StartPeriod:{go_duration(health.start_period)} "
        f"StartInterval:{go_duration(health.start_interval)} Retries:{health.retries}}}"
    )
    return health, shown


def go_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: `5m0s`, `1.5s`, `20ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}"


def _signal(text: str, span: Span) -> str:
    name = text.upper().removeprefix("SIG")
    if name in _SIGNALS or (text.isdigit() and 1 <= int(text) <= 64):
        return text
    raise DockerfileError(f"invalid signal: {text}", span.blame(text))


def _quoted_list(words: tuple[str, ...]) -> str:
    return f"[{' '.join(map(quoted, words))}]"
