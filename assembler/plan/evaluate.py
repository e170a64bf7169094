"""A stage is a fold: (StageState, Instruction) → StageState, by a table of what each one means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from assembler.dockerfile import instructions as syntax
from assembler.dockerfile.instructions import Instruction
from assembler.errors import SyntaxProblem
from assembler.plan import commands, files, health, metadata, ports, run, variables, workdir
from assembler.plan.state import StageScope, StageState
from assembler.values import value

Kind = TypeVar("Kind", bound=Instruction)


class _Meaning(Protocol):
    def __call__(
        self, state: StageState, instruction: Instruction, scope: StageScope
    ) -> StageState: ...


@value
class _Row(Generic[Kind]):
    """What one kind of instruction means."""

    kind: type[Kind]
    meaning: Callable[[StageState, Kind, StageScope], StageState]

    def __call__(
        self, state: StageState, instruction: Instruction, scope: StageScope
    ) -> StageState:
        assert isinstance(instruction, self.kind)
        return self.meaning(state, instruction, scope)


def _from(state: StageState, instruction: syntax.From, scope: StageScope) -> StageState:
    raise SyntaxProblem("FROM inside a stage", instruction.span)


MEANINGS: Mapping[type[Instruction], _Meaning] = MappingProxyType(
    {
        syntax.From: _Row(syntax.From, _from),
        syntax.Arg: _Row(syntax.Arg, variables.arg),
        syntax.Env: _Row(syntax.Env, variables.env),
        syntax.Run: _Row(syntax.Run, run.run),
        syntax.Copy: _Row(syntax.Copy, files.copy),
        syntax.Workdir: _Row(syntax.Workdir, workdir.workdir),
        syntax.Cmd: _Row(syntax.Cmd, commands.cmd),
        syntax.Entrypoint: _Row(syntax.Entrypoint, commands.entrypoint),
        syntax.Shell: _Row(syntax.Shell, commands.shell),
        syntax.HealthCheck: _Row(syntax.HealthCheck, health.healthcheck),
        syntax.Expose: _Row(syntax.Expose, ports.expose),
        syntax.Label: _Row(syntax.Label, metadata.label),
        syntax.Maintainer: _Row(syntax.Maintainer, metadata.maintainer),
        syntax.OnBuild: _Row(syntax.OnBuild, metadata.onbuild),
        syntax.StopSignal: _Row(syntax.StopSignal, metadata.stopsignal),
        syntax.User: _Row(syntax.User, metadata.user),
        syntax.Volume: _Row(syntax.Volume, metadata.volume),
    }
)
"""Every instruction with what it does to a stage."""


def evaluate(state: StageState, instruction: Instruction, scope: StageScope) -> StageState:
    """The state after `instruction`. Raises DockerfileError at the instruction's span."""
    return MEANINGS[type(instruction)](state, instruction, scope)
