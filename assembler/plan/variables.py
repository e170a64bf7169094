"""ARG and ENV in a stage (rules A3 to A7, A15, V10)."""

from __future__ import annotations

from assembler.dockerfile.instructions import Arg, Env
from assembler.errors import SyntaxProblem
from assembler.plan.scope import UNSET_IN_RUN, Scope, argument_value
from assembler.plan.state import StageScope, StageState
from assembler.values import replace


def arg(state: StageState, instruction: Arg, scope: StageScope) -> StageState:
    """Each name sees those before it."""
    words = []
    for pair in instruction.pairs:
        value = argument_value(
            pair,
            Scope(state.environment),
            scope.outer,
            scope.build_args,
            escape=scope.escape,
            span=instruction.span,
        )
        environment = state.environment
        if value is not None and pair.key not in UNSET_IN_RUN:
            environment = environment.with_item(pair.key, value)
        arguments = state.arguments.with_item(pair.key, value)
        state = replace(state, environment=environment, arguments=arguments)
        words.append(pair.key if value is None else f"{pair.key}={value}")
    return state.told(f"ARG {' '.join(words)}")


def env(state: StageState, instruction: Env, scope: StageScope) -> StageState:
    """All values are expanded with what was set before (rule V10)."""
    expand = scope.expand(state, instruction.span)
    pairs = [(expand(pair.key), expand(pair.value or "")) for pair in instruction.pairs]
    environment, variables = state.environment, state.added.variables
    for pair, (key, value) in zip(instruction.pairs, pairs, strict=True):
        if not key:  # rule A14; runtimes refuse to start a process with such an environment
            raise SyntaxProblem("ENV names can not be blank", instruction.span.blame(pair.key))
        environment = environment.with_item(key, value)
        variables = variables.with_item(key, value)
    added = replace(state.added, variables=variables)
    state = replace(state, environment=environment, added=added)
    return state.told(f"ENV {' '.join(f'{key}={value}' for key, value in pairs)}")
