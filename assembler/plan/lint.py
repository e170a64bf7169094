"""Lint rules that need variables, base images or the ignore file (dockerfile-language.md 9).

They look at a stage's evaluation from outside: at the state before each instruction.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from assembler.dockerfile import instructions as syntax
from assembler.dockerfile.flags import parse_csv_fields
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.instructions import Instruction, Warning
from assembler.dockerfile.lint import comment_options, keyword
from assembler.dockerfile.remote import remote_kind
from assembler.dockerfile.suggest import did_you_mean
from assembler.dockerfile.words import (
    Expansion,
    Lookup,
    expand,
    expand_heredoc,
    expand_list,
    quoted,
)
from assembler.errors import BadFlag, ExpansionFailed
from assembler.expressions import expression
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.plan.graph import Names, StageNode
from assembler.plan.plan import ImageBase, ResolvedImage, StageBase
from assembler.plan.scope import UNSET_IN_RUN, Scope, automatic, global_scope
from assembler.plan.state import StageScope, StageState
from assembler.values import value

_CANDIDATES = 200
"""Among more variables than these nobody's misspelling is looked for: files are made by programs then,
and every use would be compared with all of them."""
_SECRET = expression(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.I
)
_NO_SECRET = expression(r"(?:_|^)(?:public|file|version)(?:_|$)", re.I)
_ONCE = (syntax.Cmd, syntax.Entrypoint, syntax.HealthCheck)
_WHOLE = frozenset({"*", "**", "**/*"})


@value
class Trace:
    """A stage's evaluation: the state before each of its instructions, and at the end."""

    node: StageNode
    before: tuple[StageState, ...]
    end: StageState
    scope: StageScope

    def steps(self) -> Iterator[tuple[StageState, Instruction]]:
        """Every instruction with the state before it."""
        return zip(self.before, self.node.instructions, strict=True)


class _Lookups:
    """Looks names up, and remembers which of them are set and which are not."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self.found: set[str] = set()
        self.unset: set[str] = set()

    def __call__(self, name: str) -> str | None:
        value = self._lookup(name)
        (self.unset if value is None else self.found).add(name)
        return value

    def expand(self, word: str, escape: str) -> str:
        """`word` expanded. Nothing where that fails: then the failure is what is to be said."""
        return self._kept(lambda: expand(word, self, escape))

    def expand_body(self, body: str) -> str:
        """A here-document's body expanded."""
        return self._kept(lambda: expand_heredoc(body, self))

    def expand_words(self, word: str, escape: str) -> list[str]:
        """The words that `word` expands to (rule V11)."""
        try:
            words, unset = expand_list(word, self, escape)
        except ExpansionFailed:
            return []
        self.unset |= unset
        return words

    def _kept(self, expansion: Callable[[], Expansion]) -> str:
        try:
            done = expansion()
        except ExpansionFailed:  # or the default of an ARG that a build argument overrides (A2)
            return ""
        self.unset |= done.unset  # `$1` and its like are never even looked up
        return done.text


def from_warnings(names: Names) -> Iterator[Warning]:
    """What is to be said about FROM lines, of needed stages or not."""
    dockerfile = names.dockerfile
    escape = dockerfile.escape
    defaults = _defaults(names)
    for stage in dockerfile.stages:
        line = stage.base
        yield from _undeclared(line.image, line, names.outer, escape)
        if line.platform:
            yield from _undeclared(line.platform, line, names.outer, escape)
            yield from _platform(line, names.outer, escape)
        if defaults is not None and not _is_name(line.image, defaults, escape):
            message = (
                f"Default value for ARG {line.image} results in empty or invalid base image name"
            )
            yield Warning(message, line.span.blame(line.image), "InvalidDefaultArgInFrom")


def _defaults(names: Names) -> Scope | None:
    """The global scope as if no build argument were given; None when that cannot be."""
    given = automatic(names.platform, names.platform, "default")
    known = {name: value for name, value in names.outer.values.items() if name in given}
    try:
        return global_scope(names.dockerfile.arguments, {}, known, names.dockerfile.escape)
    except ExpansionFailed:
        return None


def _is_name(word: str, scope: Scope, escape: str) -> bool:
    if "$" not in word:
        return True  # what is wrong with it is no ARG's fault
    try:
        Reference.parse(expand(word, scope.lookup, escape).text)
    except ExpansionFailed:
        return True  # `${V:?}` says that it wants a build argument
    except ValueError:
        return False
    return True


def _undeclared(word: str, line: syntax.From, outer: Scope, escape: str) -> Iterator[Warning]:
    lookups = _Lookups(outer.lookup)
    lookups.expand(word, escape)
    for name in sorted(lookups.unset - outer.declared):
        suggestion = did_you_mean(name, sorted(outer.declared))
        message = f"FROM argument '{name}' is not declared{suggestion}"
        yield Warning(message, line.span.blame(name), "UndefinedArgInFrom")


def _platform(line: syntax.From, outer: Scope, escape: str) -> Iterator[Warning]:
    lookups = _Lookups(outer.lookup)
    value = lookups.expand(line.platform, escape)
    if lookups.found == {"TARGETPLATFORM"} and value == outer.lookup("TARGETPLATFORM"):
        message = (
            f"Setting platform to predefined {line.platform} in FROM is redundant as this is the"
            " default behavior"
        )
        yield Warning(message, line.span.blame(line.platform), "RedundantTargetPlatform")
    if lookups.found or lookups.unset:
        return
    try:
        platform = Platform.parse(value)
    except ValueError:
        return
    if platform.os not in line.name and platform.architecture not in line.name:
        message = f"FROM --platform flag should not use constant value {quoted(value)}"
        yield Warning(message, line.span.blame(line.platform), "FromPlatformFlagConstDisallowed")


@value
class _Standing:
    """What a stage starts with: whether all its variables are known, whether a WORKDIR of this
    file was before it."""

    known: bool
    workdir: bool = False


def stage_warnings(
    traces: Iterable[Trace],
    resolved: Mapping[str, ResolvedImage],
    ignore: IgnoreRules | None,
) -> Iterator[Warning]:
    """What is to be said about the instructions of stages, each after those it is built from."""
    ends: dict[int, _Standing] = {}
    for trace in traces:
        base = trace.node.base
        if isinstance(base, StageBase):
            start = ends[base.index]
        else:
            start = _Standing(not isinstance(base, ImageBase) or base.image in resolved)
        yield from _base_platform(trace, resolved)
        yield from _instructions(trace, start, ignore)
        moved = any(isinstance(one, syntax.Workdir) for one in trace.node.instructions)
        ends[trace.node.stage.index] = _Standing(start.known, start.workdir or moved)


def _instructions(trace: Trace, start: _Standing, ignore: IgnoreRules | None) -> Iterator[Warning]:
    workdir = start.workdir
    last: dict[type, Instruction] = {}
    for state, instruction in trace.steps():
        expanded = _Expanding(state, trace.scope.escape)
        if start.known:
            yield from _undefined(instruction, expanded, trace.scope.build_args)
        yield from _secrets(instruction, expanded)
        yield from _form(instruction, state)
        if isinstance(instruction, _ONCE):
            yield from _again(instruction, last.get(type(instruction)))
            last[type(instruction)] = instruction
        elif isinstance(instruction, syntax.Workdir):
            path = expanded.text(instruction.path)
            if not workdir and not path.startswith("/"):
                message = (
                    f"Relative workdir {quoted(path)} can have unexpected results if the base"
                    " image changes"
                )
                span = instruction.span.blame(instruction.path)
                yield Warning(message, span, "WorkdirRelativePath")
            workdir = True
        elif isinstance(instruction, syntax.Expose):
            yield from _ports(instruction, expanded)
        elif isinstance(instruction, syntax.Copy) and ignore is not None:
            yield from _ignored(instruction, expanded, ignore)


def _again(instruction: Instruction, before: Instruction | None) -> Iterator[Warning]:
    """Said of the earlier one, since that is in vain; a comment above either keeps it quiet."""
    rule = "MultipleInstructionsDisallowed"
    if before is not None and comment_options(instruction.comment).wants(rule):
        message = (
            f"Multiple {keyword(instruction)} instructions should not be used in the same stage"
            " because only the last one will be used"
        )
        yield Warning(message, before.span.blame(keyword(before)), rule)


def _base_platform(trace: Trace, resolved: Mapping[str, ResolvedImage]) -> Iterator[Warning]:
    node = trace.node
    if node.adopts or not isinstance(node.base, ImageBase) or node.base.image not in resolved:
        return
    actual, expected = resolved[node.base.image].config.platform, node.platform
    if (actual.os, actual.architecture) != (expected.os, expected.architecture):
        line = node.stage.base
        name = _Lookups(trace.scope.outer.lookup).expand(line.image, trace.scope.escape)
        message = (
            f'Base image {name} was pulled with platform "{actual}", expected "{expected}" for'
            " current build"
        )
        yield Warning(message, line.span.blame(line.image), "InvalidBaseImagePlatform")


class _Expanding:
    """Expands words as the stage did before an instruction; `unset` are names without a value."""

    def __init__(self, state: StageState, escape: str) -> None:
        self.state = state
        self._escape = escape
        self._lookups = _Lookups(state.environment.get)

    @property
    def unset(self) -> frozenset[str]:
        return frozenset(self._lookups.unset)

    def text(self, word: str) -> str:
        return self._lookups.expand(word, self._escape)

    def body(self, heredoc: syntax.Heredoc) -> str:
        return self._lookups.expand_body(heredoc.body)

    def words(self, word: str) -> list[str]:
        return self._lookups.expand_words(word, self._escape)


def _undefined(
    instruction: Instruction, expanded: _Expanding, build_args: Mapping[str, str]
) -> Iterator[Warning]:
    declared = set(expanded.state.arguments) | UNSET_IN_RUN
    if isinstance(instruction, syntax.Arg):
        unset = _undefined_in_defaults(instruction, expanded, declared, build_args)
    else:
        _expand_all(instruction, expanded)
        unset = set(expanded.unset - declared)
    known = expanded.state.environment
    for name in sorted(unset):
        suggestion = did_you_mean(name, known) if len(known) <= _CANDIDATES else ""
        suggestion = suggestion.replace("mean ", "mean $")
        message = f"Usage of undefined variable '${name}'{suggestion}"
        yield Warning(message, instruction.span.blame(name), "UndefinedVar")


def _undefined_in_defaults(
    instruction: syntax.Arg,
    expanded: _Expanding,
    declared: set[str],
    build_args: Mapping[str, str],
) -> set[str]:
    """A default is expanded where it counts, and may use the ARGs before it on its line."""
    found: set[str] = set()
    for pair in instruction.pairs:
        if pair.value is not None and pair.key not in build_args:
            expanded.text(pair.value)
            found |= expanded.unset - declared - found
        declared.add(pair.key)
    return found


def _expand_all(instruction: Instruction, expanded: _Expanding) -> None:
    """Every expansion that evaluating `instruction` makes (rule E1)."""
    words: list[str] = []
    match instruction:
        case syntax.Copy():
            words = [*instruction.sources, instruction.destination]
            words += [instruction.chown, instruction.chmod, instruction.checksum]
            for heredoc in instruction.heredocs:
                if heredoc.expand:
                    expanded.body(heredoc)
        case syntax.Env() | syntax.Label():
            words = [word for pair in instruction.pairs for word in (pair.key, pair.value or "")]
        case syntax.Expose():
            for port in instruction.ports:
                expanded.words(port)
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
    for word in words:
        expanded.text(word)


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
            yield Warning(message, instruction.span.blame(key), "SecretsUsedInArgOrEnv")


def _form(instruction: Instruction, state: StageState) -> Iterator[Warning]:
    """Forms that are legal but better written otherwise."""
    name = keyword(instruction)
    if isinstance(instruction, syntax.Cmd | syntax.Entrypoint):
        if instruction.command.arguments is None and not state.execution.shell:
            message = (
                f"JSON arguments recommended for {name} to prevent unintended behavior related to"
                " OS signals"
            )
            yield Warning(message, instruction.span.blame(name), "JSONArgsRecommended")
    elif isinstance(instruction, syntax.Env | syntax.Label) and instruction.legacy:
        message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
        span = instruction.span.blame(instruction.pairs[0].key)
        yield Warning(message, span, "LegacyKeyValueFormat")


def _ports(instruction: syntax.Expose, expanded: _Expanding) -> Iterator[Warning]:
    for word in (port for words in sorted(instruction.ports) for port in expanded.words(words)):
        outer, _, inner = word.rpartition(":")
        protocol = inner.partition("/")[2]
        if protocol != protocol.lower():
            message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
            yield Warning(message, instruction.span.blame(word), "ExposeProtoCasing")
        if outer.strip(":"):
            message = (
                "EXPOSE instruction should not define an IP address or host-port mapping, found"
                f" '{word}'"
            )
            yield Warning(message, instruction.span.blame(word), "ExposeInvalidFormat")


def _ignored(
    instruction: syntax.Copy, expanded: _Expanding, ignore: IgnoreRules
) -> Iterator[Warning]:
    """Rule G8: only where no `!` can bring something back."""
    if instruction.from_ or any(rule.negated for rule in ignore.rules):
        return
    for word in instruction.sources:
        source = expanded.text(word)
        if remote_kind(source):
            continue
        shown = posixpath.normpath(source)
        path = posixpath.normpath(f"/{source}").lstrip("/")  # `..` does not climb out (rule C4)
        if not path:
            hidden = any(rule.pattern in _WHOLE for rule in ignore.rules)
        else:
            hidden = ignore.match(path) is not None
        if hidden:
            verb = "Add" if instruction.add else "Copy"
            message = f"Attempting to {verb} file {quoted(shown)} that is excluded by .dockerignore"
            yield Warning(message, instruction.span.blame(word), "CopyIgnoredFile")
