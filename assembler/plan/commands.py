"""CMD, ENTRYPOINT and SHELL, and what is executed for a command (rules R1, K3 to K6)."""

from __future__ import annotations

from assembler.dockerfile.instructions import Cmd, CommandLine, Entrypoint, Shell
from assembler.dockerfile.words import quoted
from assembler.plan.state import StageScope, StageState
from assembler.values import replace


def arguments(command: CommandLine, shell: tuple[str, ...]) -> tuple[str, ...]:
    """The argument vector of a command: exec form as it is, else the shell and the text (R1, K6)."""
    if command.arguments is not None:
        return command.arguments
    return (*shell, command.text)


def cmd(state: StageState, instruction: Cmd, scope: StageScope) -> StageState:
    """The stage has a CMD of its own from now on (rule K5)."""
    argv = arguments(instruction.command, scope.shell(state))
    unknown = {**state.execution.unknown, "ArgsEscaped": True}  # K4, as BuildKit writes it
    execution = replace(state.execution, cmd=argv, unknown=unknown)
    return replace(state, execution=execution, own_cmd=True).told(f"CMD {_listed(argv)}")


def entrypoint(state: StageState, instruction: Entrypoint, scope: StageScope) -> StageState:
    """An inherited CMD was meant for another entrypoint (rule K5)."""
    argv = arguments(instruction.command, scope.shell(state))
    kept = state.execution.cmd if state.own_cmd else None
    execution = replace(state.execution, entrypoint=argv, cmd=kept)
    return replace(state, execution=execution).told(f"ENTRYPOINT {_listed(argv)}")


def shell(state: StageState, instruction: Shell, scope: StageScope) -> StageState:
    """For commands in shell form that follow."""
    execution = replace(state.execution, shell=instruction.arguments)
    return replace(state, execution=execution).told(f"SHELL [{' '.join(instruction.arguments)}]")


def _listed(words: tuple[str, ...]) -> str:
    return f"[{' '.join(map(quoted, words))}]"
