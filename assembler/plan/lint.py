"""Lint rules that need variables, base images or the ignore file (dockerfile-language.md 9).

They look at a stage's evaluation from outside: at the state before each instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from assembler.dockerfile import instructions as syntax
from assembler.dockerfile.flags import parse_csv_fields
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.instructions import Instruction, Warning
from assembler.dockerfile.remote import remote_kind
from assembler.dockerfile.suggest import did_you_mean
from assembler.dockerfile.words import Expansion, expand, expand_heredoc, expand_list, quoted
from assembler.errors import BadFlag, ExpansionFailed
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.graph import Names, StageNode
from assembler.plan.plan import ImageBase, ResolvedImage, StageBase
from assembler.plan.scope import UNSET_IN_RUN, Scope, global_scope
from assembler.plan.state import StageScope, StageState

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.I
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.I)
_ONCE = (syntax.Cmd, syntax.Entrypoint, syntax.HealthCheck)
_WHOLE = frozenset({"*", "**", "**/*"})


@dataclass(frozen=True, slots=True)
class Trace:
    """A stage's evaluation: the state before each of its instructions, and at the end."""

    node: StageNode
    before: tuple[StageState, ...]
    end: StageState
    scope: StageScope

    def steps(self) -> Iterator[tuple[StageState, Instruction]]:
        """Every instruction with the state before it."""
        return zip(self.before, self.node.instructions, strict=True)


def from_warnings(names: Names) -> Iterator[Warning]:
    """What is to be said about FROM lines, of needed stages or not."""
    dockerfile = names.dockerfile
    escape = dockerfile.escape
    defaults = _defaults(names)
    for stage in dockerfile.stages:
        line = stage.base
        for word in (line.image, line.platform):
            yield from _undeclared(word, line, names.outer, escape)
        if line.platform:
            yield from _platform(line, names.outer, escape)
        if defaults is not None and not _is_name(line.image, defaults, escape):
            message = (
                f"Default value for ARG {line.image} results in empty or invalid base image name"
            )
            yield Warning(message, line.span, "InvalidDefaultArgInFrom")


def _defaults(names: Names) -> Scope | None:
    """The global scope as if no build argument were given; None when that cannot be."""
    automatic = {
        name: value
        for name, value in names.outer.values.items()
        if name.startswith(("TARGET", "BUILD"))
    }
    arguments, escape = names.dockerfile.arguments, names.dockerfile.escape
    try:
        return global_scope(arguments, {}, automatic, escape)
    except ExpansionFailed:
        return None


def _is_name(word: str, scope: Scope, escape: str) -> bool:
    try:
        Reference.parse(expand(word, scope.lookup, escape).text)
    except ExpansionFailed:
        return True  # `${V:?}` says that it wants a build argument
    except ValueError:
        return False
    return True


def _undeclared(word: str, line: syntax.From, outer: Scope, escape: str) -> Iterator[Warning]:
    for name in sorted(expand(word, outer.lookup, escape).unset - outer.declared):
        suggestion = did_you_mean(name, sorted(outer.declared))
        message = f"FROM argument '{name}' is not declared{suggestion}"
        yield Warning(message, line.span, "UndefinedArgInFrom")


def _platform(line: syntax.From, outer: Scope, escape: str) -> Iterator[Warning]:
    if line.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        message = (
            f"Setting platform to predefined {line.platform} in FROM is redundant as this is the"
            " default behavior"
        )
        yield Warning(message, line.span, "RedundantTargetPlatform")
    value = expand(line.platform, outer.lookup, escape).text
    if "$" in line.platform:
        return
    try:
        platform = Platform.parse(value)
    except ValueError:
        return
    if platform.os not in line.name and platform.architecture not in line.name:
        message = f"FROM --platform flag should not use constant value {quoted(value)}"
        yield Warning(message, line.span, "FromPlatformFlagConstDisallowed")


def stage_warnings(
    trace: Trace,
    traces: Mapping[int, Trace],
    resolved: Mapping[str, ResolvedImage],
    ignore: IgnoreRules | None,
) -> Iterator[Warning]:
    """What is to be said about the instructions of one stage."""
    yield from _base_platform(trace.node, resolved)
    chain = _chain(trace, traces)
    known = _base_known(chain[0].node, resolved)
    last: dict[type, Instruction] = {}
    workdir_set = any(
        isinstance(instruction, syntax.Workdir)
        for below in chain[:-1]
        for instruction in below.node.instructions
    )
    for state, instruction in trace.steps():
        expanded = _Expanding(state, trace.scope.escape)
        if known:
            yield from _undefined(instruction, expanded)
        yield from _secrets(instruction, expanded)
        yield from _form(instruction, state)
        if isinstance(instruction, _ONCE):
            before = last.get(type(instruction))
            if before is not None:
                name = type(instruction).__name__.upper()
                message = (
                    f"Multiple {name} instructions should not be used in the same stage because"
                    " only the last one will be used"
                )
                yield Warning(message, before.span, "MultipleInstructionsDisallowed")
            last[type(instruction)] = instruction
        elif isinstance(instruction, syntax.Workdir):
            path = expanded.text(instruction.path)
            if not workdir_set and not path.startswith("/"):
                message = (
                    f"Relative workdir {quoted(path)} can have unexpected results if the base"
                    " image changes"
                )
                yield Warning(message, instruction.span, "WorkdirRelativePath")
            workdir_set = True
        elif isinstance(instruction, syntax.Expose):
            yield from _ports(instruction, expanded)
        elif isinstance(instruction, syntax.Copy) and ignore is not None:
            yield from _ignored(instruction, expanded, ignore)


def _chain(trace: Trace, traces: Mapping[int, Trace]) -> list[Trace]:
    """The stages that `trace` is built from, lowest first, and itself."""
    chain = [trace]
    while isinstance(base := chain[-1].node.base, StageBase):
        chain.append(traces[base.index])
    return chain[::-1]


def _base_known(node: StageNode, resolved: Mapping[str, ResolvedImage]) -> bool:
    """Whether the variables a stage starts with are known."""
    return not isinstance(node.base, ImageBase) or node.base.image in resolved


def _base_platform(node: StageNode, resolved: Mapping[str, ResolvedImage]) -> Iterator[Warning]:
    if node.adopts or not isinstance(node.base, ImageBase) or node.base.image not in resolved:
        return
    image = resolved[node.base.image]
    actual, expected = image.config.platform, node.platform
    if (actual.os, actual.architecture) != (expected.os, expected.architecture):
        message = (
            f'Base image {node.stage.base.image} was pulled with platform "{actual}",'
            f' expected "{expected}" for current build'
        )
        yield Warning(message, node.stage.base.span, "InvalidBaseImagePlatform")


class _Expanding:
    """Expands words as the stage did before an instruction."""

    def __init__(self, state: StageState, escape: str) -> None:
        self.state = state
        self._escape = escape

    def __call__(self, word: str) -> Expansion:
        return self._safely(lambda: expand(word, self.state.environment.get, self._escape))

    def text(self, word: str) -> str:
        return self(word).text

    def body(self, heredoc: syntax.Heredoc) -> Expansion:
        return self._safely(lambda: expand_heredoc(heredoc.body, self.state.environment.get))

    def words(self, word: str) -> tuple[list[str], frozenset[str]]:
        return expand_list(word, self.state.environment.get)

    @staticmethod
    def _safely(expansion: Callable[[], Expansion]) -> Expansion:
        try:
            return expansion()
        except ExpansionFailed:  # the default of an ARG that a build argument overrides (A2)
            return Expansion("", frozenset())


def _undefined(instruction: Instruction, expanded: _Expanding) -> Iterator[Warning]:
    unset = {name for expansion in _expansions(instruction, expanded) for name in expansion.unset}
    if isinstance(instruction, syntax.Expose):
        unset |= {name for word in instruction.ports for name in expanded.words(word)[1]}
    declared = expanded.state.arguments.keys()
    for name in sorted(unset - declared - UNSET_IN_RUN):
        suggestion = did_you_mean(name, expanded.state.environment)
        suggestion = suggestion.replace("mean ", "mean $")
        message = f"Usage of undefined variable '${name}'{suggestion}"
        yield Warning(message, instruction.span, "UndefinedVar")


def _expansions(instruction: Instruction, expanded: _Expanding) -> Iterator[Expansion]:
    """Every expansion that evaluating `instruction` makes (rule E1)."""
    words: list[str] = []
    match instruction:
        case syntax.Copy():
            words = [*instruction.sources, instruction.destination]
            words += [instruction.chown, instruction.chmod, instruction.checksum]
            yield from (expanded.body(doc) for doc in instruction.heredocs if doc.expand)
        case syntax.Env() | syntax.Label():
            words = [word for pair in instruction.pairs for word in (pair.key, pair.value or "")]
        case syntax.Arg():
            words = [pair.value for pair in instruction.pairs if pair.value]
        case syntax.StopSignal():
            words = [instruction.signal]
        case syntax.User():
            words = [instruction.user]
        case syntax.Volume():
            words = list(instruction.paths)
        case syntax.Workdir():
            words = [instruction.path]
        case syntax.Run():
            words = [value for text in instruction.mounts for value in _mount_values(text)]
        case _:
            pass
    yield from map(expanded, words)


def _mount_values(text: str) -> list[str]:
    try:
        return [value for key, value in parse_csv_fields(text) if value and key != "from"]
    except BadFlag:
        return []


def _secrets(instruction: Instruction, expanded: _Expanding) -> Iterator[Warning]:
    if isinstance(instruction, syntax.Arg):
        name, keys = "ARG", [pair.key for pair in instruction.pairs]
    elif isinstance(instruction, syntax.Env):
        name, keys = "ENV", [expanded.text(pair.key) for pair in instruction.pairs]
    else:
        return
    for key in keys:
        if _SECRET.search(key) and not _NO_SECRET.search(key):
            message = (
                f"Do not use ARG or ENV instructions for sensitive data ({name} {quoted(key)})"
            )
            yield Warning(message, instruction.span, "SecretsUsedInArgOrEnv")


def _form(instruction: Instruction, state: StageState) -> Iterator[Warning]:
    """Forms that are legal but better written otherwise."""
    name = type(instruction).__name__.upper()
    if isinstance(instruction, syntax.Cmd | syntax.Entrypoint):
        if instruction.command.arguments is None and not state.execution.shell:
            message = (
                f"JSON arguments recommended for {name} to prevent unintended behavior related to"
                " OS signals"
            )
            yield Warning(message, instruction.span, "JSONArgsRecommended")
    elif isinstance(instruction, syntax.Env | syntax.Label) and instruction.legacy:
        message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
        yield Warning(message, instruction.span, "LegacyKeyValueFormat")


def _ports(instruction: syntax.Expose, expanded: _Expanding) -> Iterator[Warning]:
    for word in (port for words in instruction.ports for port in expanded.words(words)[0]):
        port, _, protocol = word.partition("/")
        if protocol != protocol.lower():
            message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
            yield Warning(message, instruction.span, "ExposeProtoCasing")
        if ":" in port:
            message = (
                "EXPOSE instruction should not define an IP address or host-port mapping, found"
                f" '{word}'"
            )
            yield Warning(message, instruction.span, "ExposeInvalidFormat")


def _ignored(
    instruction: syntax.Copy, expanded: _Expanding, ignore: IgnoreRules
) -> Iterator[Warning]:
    """Rule G8: only where no `!` can bring something back."""
    if instruction.from_ or any(rule.negated for rule in ignore.rules):
        return
    for source in map(expanded.text, instruction.sources):
        if remote_kind(source):
            continue
        path = "/".join(part for part in source.split("/") if part not in ("", "."))
        if path:
            hidden = ignore.match(path) is not None
        else:
            hidden = any(rule.pattern in _WHOLE for rule in ignore.rules)
        if hidden:
            verb = "Add" if instruction.add else "Copy"
            message = (
                f"Attempting to {verb} file {quoted(path or '.')} that is excluded by .dockerignore"
            )
            yield Warning(message, instruction.span, "CopyIgnoredFile")
