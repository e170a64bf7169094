"""EXPOSE: `[ip:][host:]port[-port][/protocol]` to ports (rule K7)."""

from __future__ import annotations

from assembler.dockerfile.instructions import Expose
from assembler.dockerfile.words import expand_list
from assembler.errors import DockerfileError, ExpansionFailed
from assembler.expressions import expression
from assembler.plan.scope import blamed
from assembler.plan.state import StageScope, StageState
from assembler.source import Span
from assembler.values import replace

_RANGE = expression(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_PROTOCOLS = ("tcp", "udp", "sctp")


def expose(state: StageState, instruction: Expose, scope: StageScope) -> StageState:
    """Words are sorted as written, before they are expanded; one may become several (rule V11)."""
    found: list[str] = []
    for word in sorted(instruction.ports):
        for port in _words(word, state, scope, instruction.span):
            found += _ports(port, blamed(instruction.span, port, word))
    ports = state.added.ports
    for port in dict.fromkeys(found):
        ports = ports.with_item(port, None)
    added = replace(state.added, ports=ports)
    return replace(state, added=added).told(f"EXPOSE [{' '.join(found)}]")


def _words(word: str, state: StageState, scope: StageScope, span: Span) -> list[str]:
    try:
        return expand_list(word, state.environment.get, scope.escape)[0]
    except ExpansionFailed as error:
        raise ExpansionFailed(error.message, span.blame(word), hint=error.hint) from error


def _ports(word: str, span: Span) -> list[str]:
    """The ports of one word. An address and a host's ports mean nothing, but must be sound."""
    above, _, published = word.rpartition(":")
    address, _, host = above.rpartition(":")
    port, _, protocol = published.partition("/")
    if not port:
        raise DockerfileError(f'invalid port: "{word}": no port specified', span)
    if protocol and protocol.lower() not in _PROTOCOLS:
        hint = f"one of {', '.join(_PROTOCOLS)}"
        raise DockerfileError(f'invalid port: "{word}": invalid proto: {protocol}', span, hint=hint)
    if address and not _is_address(address):
        raise DockerfileError(f"invalid IP address: {address}", span)
    numbers = _range(port)
    if numbers is None:
        raise DockerfileError(f"invalid containerPort: {port}", span, hint="0 to 65535")
    if host:
        published_on = _range(host)
        if published_on is None:
            raise DockerfileError(f"invalid hostPort: {host}", span, hint="0 to 65535")
        if len(numbers) not in (1, len(published_on)):
            raise DockerfileError(
                f"invalid ranges specified for container and host Ports: {port} and {host}", span
            )
    return [f"{number}/{protocol.lower() or 'tcp'}" for number in numbers]


def _range(text: str) -> range | None:
    """The ports of `80` or `80-90`, None for anything else."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    low, high = int(match[1]), int(match[2] or match[1])
    return range(low, high + 1) if low <= high <= 65535 else None


def _is_address(text: str) -> bool:
    from ipaddress import ip_address  # few files have one

    try:
        ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return False
    return True
