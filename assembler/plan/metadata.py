"""LABEL, MAINTAINER, ONBUILD, STOPSIGNAL, USER, VOLUME: configuration and history only
(rules K2, K8 to K11, K13)."""

from __future__ import annotations

from assembler.dockerfile.instructions import Label, Maintainer, OnBuild, StopSignal, User, Volume
from assembler.errors import DockerfileError, SyntaxProblem
from assembler.expressions import expression
from assembler.plan.scope import blamed
from assembler.plan.state import StageScope, StageState
from assembler.values import replace

_SIGNALS = frozenset(
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT "
    "STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX".split()
) | {f"RTMIN+{n}" for n in range(1, 16)} | {f"RTMAX-{n}" for n in range(1, 15)}  # fmt: skip
_NUMBER = expression(r"[+-]?0*[1-9][0-9]{0,18}")


def label(state: StageState, instruction: Label, scope: StageScope) -> StageState:
    """A later label replaces an earlier one of the same name."""
    expand = scope.expand(state, instruction.span)
    pairs = [(expand(pair.key), expand(pair.value or "")) for pair in instruction.pairs]
    labels = state.added.labels
    for key, value in pairs:
        labels = labels.with_item(key, value)
    shown = " ".join(f"{key}={value}" for key, value in pairs)
    return replace(state, added=replace(state.added, labels=labels)).told(f"LABEL {shown}")


def maintainer(state: StageState, instruction: Maintainer, scope: StageScope) -> StageState:
    """The image's author."""
    return replace(state, author=instruction.name).told(f"MAINTAINER {instruction.name}")


def onbuild(state: StageState, instruction: OnBuild, scope: StageScope) -> StageState:
    """Kept for the stages and images that are built from this one; not told (rule K13)."""
    triggers = state.added.triggers.append(instruction.trigger)
    return replace(state, added=replace(state.added, triggers=triggers))


def stopsignal(state: StageState, instruction: StopSignal, scope: StageScope) -> StageState:
    """Kept as written (rule K11)."""
    signal = scope.expand(state, instruction.span)(instruction.signal)
    if not _is_signal(signal):
        raise DockerfileError(
            f"invalid signal: {signal}",
            blamed(instruction.span, signal, instruction.signal),
            hint="a name such as SIGTERM or a number",
        )
    execution = replace(state.execution, stop_signal=signal)
    return replace(state, execution=execution).told(f"STOPSIGNAL {signal}")


def user(state: StageState, instruction: User, scope: StageScope) -> StageState:
    """Kept as written; empty is root (rule K2)."""
    name = scope.expand(state, instruction.span)(instruction.user)
    return replace(state, execution=replace(state.execution, user=name)).told(f"USER {name}")


def volume(state: StageState, instruction: Volume, scope: StageScope) -> StageState:
    """Named in the configuration; files below it are layers as elsewhere (rule K8)."""
    paths = tuple(map(scope.expand(state, instruction.span), instruction.paths))
    if not all(paths):
        raise SyntaxProblem("VOLUME specified can not be an empty string", instruction.span)
    volumes = state.added.volumes
    for path in paths:
        volumes = volumes.with_item(path, None)
    added = replace(state.added, volumes=volumes)
    return replace(state, added=added).told(f"VOLUME [{' '.join(paths)}]")


def _is_signal(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) or text.upper().removeprefix("SIG") in _SIGNALS
