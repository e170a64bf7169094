"""RUN: the process to start, and what it is given (rules R1, R2, R5, H9, H10, N1, N2, A11)."""

from __future__ import annotations

from assembler.dockerfile.heredocs import openings
from assembler.dockerfile.instructions import Heredoc, Run
from assembler.errors import BadFlag, DockerfileError, SyntaxProblem
from assembler.plan import commands
from assembler.plan.mounts import MountScope, parse_device, parse_mount
from assembler.plan.resolution import Use
from assembler.plan.state import StageScope, StageState
from assembler.plan.steps import Mount, SshMount
from assembler.plan.steps import Run as RunStep

_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")


def run(state: StageState, instruction: Run, scope: StageScope) -> StageState:
    """A step, told with the ARGs in scope and their values (rule Y6)."""
    # BuildKit's order: devices, network, security; what is not allowed after what is malformed
    devices = tuple(parse_device(text, instruction.span) for text in instruction.devices)
    _refuse_unknown(instruction)
    _refuse_unallowed(instruction, scope.allow)  # devices are the executing host's to allow
    argv, scripts = _command(instruction, scope.shell(state))
    if not argv:
        raise SyntaxProblem("RUN needs a command", instruction.span)
    told = [
        f"{key}={state.environment.get(key, value or '')}" for key, value in state.arguments.pairs
    ]
    # of a declared one the step may see what was given in the other case: in the key too (rule A11)
    declared = [pair for pair in scope.proxies if pair[0] in state.arguments]
    proxies = tuple(pair for pair in declared if state.environment.get(pair[0]) != pair[1])
    step = RunStep(
        argv=argv,
        env=state.environment.pairs + proxies,
        cwd=state.cwd,
        user=state.execution.user,
        mounts=_mounts(state, instruction, scope),
        network=scope.network if instruction.network in ("", "default") else instruction.network,
        security=instruction.security or "sandbox",
        hostname=scope.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        hosts=scope.hosts,
        limits=scope.limits,
        shared_memory=scope.shared_memory,
        devices=devices,
        scripts=scripts,
        proxies=scope.proxies,
        arguments=tuple(
            key for key, value in state.arguments.pairs if state.environment.get(key) == value
        ),
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    prefix = f"|{len(told)} {' '.join(told)} " if told else ""
    return state.stepped(step, f"RUN {prefix}{' '.join(argv)} # buildkit")


def _refuse_unknown(instruction: Run) -> None:
    network, security = instruction.network, instruction.security
    if network and network not in _NETWORKS:
        hint = f"one of {', '.join(_NETWORKS)}"
        message = f'invalid network mode "{network}"'
        raise BadFlag(message, instruction.span.blame(network), hint=hint)
    if security and security not in _SECURITIES:
        hint = f"one of {', '.join(_SECURITIES)}"
        message = f'security "{security}" is not valid'
        raise BadFlag(message, instruction.span.blame(security), hint=hint)


def _refuse_unallowed(instruction: Run, allow: frozenset[str]) -> None:
    asked = {
        "network.host": instruction.network == "host",
        "security.insecure": instruction.security == "insecure",
    }
    for name, wanted in asked.items():
        if wanted and name not in allow:
            raise DockerfileError(
                f"RUN asks for the entitlement {name}, which is not allowed",
                instruction.span,
                hint=f"allow it with --allow {name}",
            )


def _command(
    instruction: Run, shell: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The argument vector, and the files under /dev/pipes."""
    command = instruction.command
    if not command.heredocs:
        return commands.arguments(command, shell), ()
    if not _is_one_heredoc(command.text):
        text = command.text + "".join(f"\n{doc.body}{doc.name}" for doc in command.heredocs)
        return (*shell, text), ()
    body = untabbed(command.heredocs[0])
    if body.startswith("#!"):
        name = command.heredocs[0].name
        return (f"/dev/pipes/{name}",), ((name, body),)
    return (*shell, body), ()


def _is_one_heredoc(text: str) -> bool:
    """Whether `text` is a here-document's word and no more (rule H9)."""
    found = openings(text)
    return len(found) == 1 and (found[0].start, found[0].end) == (0, len(text))


def untabbed(heredoc: Heredoc) -> str:
    """The body; after `<<-` without the tabs its lines begin with (rule H6)."""
    if not heredoc.strip_tabs:
        return heredoc.body
    return "\n".join(line.lstrip("\t") for line in heredoc.body.split("\n"))


def _mounts(state: StageState, instruction: Run, scope: StageScope) -> tuple[Mount, ...]:
    mount_scope = MountScope(
        cwd=state.cwd,
        expand=scope.expand(state, instruction.span),
        origin=lambda name, target: scope.origin(Use(name, instruction.span, target)),
        cache_namespace=scope.build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
    )
    found: list[Mount] = []
    for text in instruction.mounts:
        agents = sum(isinstance(mount, SshMount) for mount in found)
        found.append(parse_mount(text, mount_scope, instruction.span, agents))
    return tuple(found)
