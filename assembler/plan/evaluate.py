"""A stage is a fold: (StageState, Instruction) → StageState."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from assembler.dockerfile import instructions as syntax
from assembler.dockerfile.instructions import Instruction, Stage
from assembler.dockerfile.words import expand_heredoc
from assembler.errors import DockerfileError, ExpansionFailed, SyntaxProblem, Unsupported
from assembler.oci.config import Execution, History
from assembler.plan import metadata
from assembler.plan.metadata import command_arguments
from assembler.plan.mounts import MountScope, parse_mount
from assembler.plan.plan import HistoryLine
from assembler.plan.scope import Scope, argument_value, expanded, proxies
from assembler.plan.steps import (
    ContextOrigin,
    Copy,
    InlineFile,
    MakeDirectory,
    Mount,
    Origin,
    Run,
    SshMount,
    Step,
)
from assembler.source import Span

_REMOTE = ("http://", "https://", "git://", "git@", "ssh://")


@dataclass(frozen=True, slots=True)
class StageState:
    """What the instructions so far amount to.

    `environment` is the build's: ENV and ARG, the later one winning (rule A7). `arguments` are the
    ARGs in scope with their values, in the order of first declaration.
    """

    execution: Execution
    environment: Mapping[str, str]
    arguments: Mapping[str, str | None]
    steps: tuple[Step, ...] = ()
    history: tuple[HistoryLine, ...] = ()
    author: str = ""
    own_cmd: bool = False


@dataclass(frozen=True, slots=True)
class StageScope:
    """What does not change within a stage."""

    stage: Stage
    escape: str
    outer: Scope
    build_args: Mapping[str, str]
    network: str
    origin: Callable[[str, Span, str], Origin]
    title: Callable[[Instruction, int], str]
    """Names a step for progress, given how many steps precede it."""


def evaluate(state: StageState, instruction: Instruction, scope: StageScope) -> StageState:
    """The state after `instruction`. Raises DockerfileError at the instruction's span."""
    match instruction:
        case syntax.From():
            raise SyntaxProblem("FROM inside a stage", instruction.span)
        case syntax.Arg():
            return _arg(state, instruction, scope)
        case syntax.Env():
            return _env(state, instruction, scope)
        case syntax.Workdir():
            return _workdir(state, instruction, scope)
        case syntax.Run():
            return _run(state, instruction, scope)
        case syntax.Copy():
            return _copy(state, instruction, scope)
        case _:
            return _metadata(state, instruction, scope)


def _scope(state: StageState) -> Scope:
    return Scope(state.environment, frozenset(state.arguments))


def _expand(state: StageState, scope: StageScope, span: Span) -> Callable[[str], str]:
    local = _scope(state)
    return lambda word: expanded(word, local, scope.escape, span)


def _told(state: StageState, text: str) -> StageState:
    line = HistoryLine(History(text, empty_layer=True))
    return replace(state, history=(*state.history, line))


def _stepped(state: StageState, step: Step, text: str) -> StageState:
    line = HistoryLine(History(text), step=len(state.steps))
    return replace(state, steps=(*state.steps, step), history=(*state.history, line))


def _arg(state: StageState, instruction: syntax.Arg, scope: StageScope) -> StageState:
    words = []
    for pair in instruction.pairs:
        value = argument_value(
            pair,
            _scope(state),
            scope.outer,
            scope.build_args,
            escape=scope.escape,
            span=instruction.span,
        )
        environment = dict(state.environment)
        if value is not None:
            environment[pair.key] = value
        arguments = {**state.arguments, pair.key: value}
        state = replace(state, environment=environment, arguments=arguments)
        words.append(pair.key if value is None else f"{pair.key}={value}")
    return _told(state, f"ARG {' '.join(words)}")


def _env(state: StageState, instruction: syntax.Env, scope: StageScope) -> StageState:
    expand = _expand(state, scope, instruction.span)  # all with the values before (rule V10)
    pairs = {expand(pair.key): expand(pair.value or "") for pair in instruction.pairs}
    kept = dict(item.partition("=")[::2] for item in state.execution.env)
    env = tuple(f"{key}={value}" for key, value in {**kept, **pairs}.items())
    state = replace(
        state,
        execution=replace(state.execution, env=env),
        environment={**state.environment, **pairs},
    )
    return _told(state, f"ENV {' '.join(f'{key}={value}' for key, value in pairs.items())}")


def _workdir(state: StageState, instruction: syntax.Workdir, scope: StageScope) -> StageState:
    asked = _expand(state, scope, instruction.span)(instruction.path)
    path = absolute(asked, state.execution.working_dir)
    state = replace(state, execution=replace(state.execution, working_dir=path))
    if path == "/":
        return _told(state, f"WORKDIR {path}")
    step = MakeDirectory(
        path=path,
        user=state.execution.user,
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    return _stepped(state, step, f"WORKDIR {path}")


def absolute(path: str, cwd: str) -> str:
    """`path` joined to `cwd` and cleaned; an empty one keeps `cwd` (rule K1)."""
    return posixpath.normpath("/" + posixpath.join(cwd or "/", path).lstrip("/"))


def _metadata(state: StageState, instruction: metadata.Metadata, scope: StageScope) -> StageState:
    execution, text = metadata.apply(
        instruction,
        state.execution,
        own_cmd=state.own_cmd,
        expand=_expand(state, scope, instruction.span),
        lookup=_scope(state).lookup,
    )
    state = replace(state, execution=execution)
    if isinstance(instruction, syntax.Cmd):
        state = replace(state, own_cmd=True)
    if isinstance(instruction, syntax.Maintainer):
        state = replace(state, author=instruction.name)
    return _told(state, text) if text else state


def _run(state: StageState, instruction: syntax.Run, scope: StageScope) -> StageState:
    if instruction.devices:
        raise Unsupported("RUN --device is not supported yet", instruction.span)
    _choose("network mode", instruction.network, ("default", "none", "host"), instruction.span)
    _choose("security", instruction.security, ("sandbox", "insecure"), instruction.span)
    argv, scripts = _command(instruction, state.execution.shell)
    if not argv:
        raise SyntaxProblem("RUN needs a command", instruction.span)
    step = Run(
        argv=argv,
        env=tuple(state.environment.items()),
        cwd=state.execution.working_dir or "/",
        user=state.execution.user,
        mounts=_mounts(state, instruction, scope),
        network=_network(instruction.network, scope.network),
        security=instruction.security or "sandbox",
        scripts=scripts,
        proxies=proxies(scope.build_args, frozenset(state.arguments)),
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    told = [f"{key}={value or ''}" for key, value in state.arguments.items()]
    prefix = f"|{len(told)} {' '.join(told)} " if told else ""
    return _stepped(state, step, f"RUN {prefix}{' '.join(argv)} # buildkit")


def _network(asked: str, default: str) -> str:
    return default if asked in ("", "default") else asked


def _choose(what: str, value: str, known: tuple[str, ...], span: Span) -> None:
    if value and value not in known:
        text = (
            f'invalid {what} "{value}"'
            if what != "security"
            else f'security "{value}" is not valid'
        )
        raise DockerfileError(text, span.blame(value), hint=f"one of {', '.join(known)}")


def _command(
    instruction: syntax.Run, shell: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The argument vector and script files of a RUN (rules H9, H10)."""
    command = instruction.command
    if not command.heredocs:
        return command_arguments(command, shell), ()
    first = command.heredocs[0]
    alone = len(command.heredocs) == 1 and len(command.text.split()) == 1
    if alone or (
        len(command.heredocs) == 1 and command.text.lstrip("<-\t ").strip("'\"") == first.name
    ):
        body = _untabbed(first)
        if body.startswith("#!"):
            return (f"/dev/pipes/{first.name}",), ((first.name, body),)
        return (*(shell or metadata.DEFAULT_SHELL), body), ()
    text = command.text + "".join(f"\n{doc.body}{doc.name}" for doc in command.heredocs)
    return (*(shell or metadata.DEFAULT_SHELL), text), ()


def _untabbed(heredoc: syntax.Heredoc) -> str:
    if not heredoc.strip_tabs:
        return heredoc.body
    return "".join(line.lstrip("\t") for line in heredoc.body.splitlines(keepends=True))


def _mounts(state: StageState, instruction: syntax.Run, scope: StageScope) -> tuple[Mount, ...]:
    mount_scope = MountScope(
        cwd=state.execution.working_dir or "/",
        expand=_expand(state, scope, instruction.span),
        origin=lambda name: scope.origin(name, instruction.span, "mount from"),
        cache_namespace=scope.build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
    )
    found: list[Mount] = []
    for text in instruction.mounts:
        agents = sum(isinstance(mount, SshMount) for mount in found)
        found.append(parse_mount(text, mount_scope, instruction.span, agents))
    return tuple(found)


def _copy(state: StageState, instruction: syntax.Copy, scope: StageScope) -> StageState:
    expand = _expand(state, scope, instruction.span)
    sources = tuple(map(expand, instruction.sources))
    verb = "ADD" if instruction.add else "COPY"
    for source in sources:
        _refuse_remote(source, verb, instruction)
    if instruction.checksum or instruction.keep_git_dir:
        raise Unsupported(
            "ADD --checksum and --keep-git-dir are not supported yet", instruction.span
        )
    destination = expand(instruction.destination)
    chown, chmod = expand(instruction.chown), expand(instruction.chmod)
    origin: Origin = ContextOrigin()
    if instruction.from_:
        origin = scope.origin(instruction.from_, instruction.span, "copy from")
    step = Copy(
        origin=origin,
        sources=sources,
        destination=destination_path(destination, state.execution.working_dir),
        inline=tuple(_inline(doc, state, instruction.span) for doc in instruction.heredocs),
        chown=chown,
        chmod=chmod,
        link=instruction.link,
        parents=instruction.parents,
        exclude=instruction.exclude,
        unpack=instruction.add and instruction.unpack is not False,
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    words = [verb]
    words += ["--parents"] * instruction.parents
    words += [f"--chown={chown}"] * bool(chown) + [f"--chmod={chmod}"] * bool(chmod)
    words += [*sources, *(f"<<{doc.name}" for doc in instruction.heredocs), destination]
    return _stepped(state, step, f"{' '.join(words)} # buildkit")


def destination_path(path: str, cwd: str) -> str:
    """`path` joined to `cwd`; a trailing `/` or `/.` is kept, it means a directory (rule C9)."""
    joined = absolute(path, cwd)
    if not path or path in (".", "./") or path.endswith(("/", "/.", "/..")):
        return joined if joined == "/" else f"{joined}/"
    return joined


def _inline(heredoc: syntax.Heredoc, state: StageState, span: Span) -> InlineFile:
    body = _untabbed(heredoc)
    if heredoc.expand:
        try:
            body = expand_heredoc(body, _scope(state).lookup).text
        except ExpansionFailed as error:
            raise ExpansionFailed(error.message, span, hint=error.hint) from error
    return InlineFile(heredoc.name, body)


def _refuse_remote(source: str, verb: str, instruction: syntax.Copy) -> None:
    if not source.startswith(_REMOTE):
        return
    span = instruction.span.blame(source)
    if instruction.add:
        raise Unsupported("ADD of a URL or git repository is not supported yet", span)
    kind = "URL" if source.startswith("http") else "git ref"
    raise DockerfileError(f"source can't be a {kind} for {verb}", span)
