"""A stage is a fold: (StageState, Instruction) → StageState."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from assembler.dockerfile import instructions as syntax
from assembler.dockerfile.instructions import Instruction, Stage
from assembler.dockerfile.remote import is_url, parse_git
from assembler.dockerfile.words import expand_heredoc
from assembler.errors import DockerfileError, ExpansionFailed, SyntaxProblem
from assembler.oci.config import Execution, History
from assembler.plan import metadata
from assembler.plan.chain import Chain
from assembler.plan.metadata import command_arguments
from assembler.plan.mounts import MountScope, parse_device, parse_mount
from assembler.plan.plan import HistoryLine
from assembler.plan.resolution import Use
from assembler.plan.scope import UNSET_IN_RUN, Scope, argument_value, expanded, proxies
from assembler.plan.steps import (
    ContextOrigin,
    Copy,
    CopySource,
    GitSource,
    InlineFile,
    MakeDirectory,
    Mount,
    Origin,
    Run,
    SshMount,
    Step,
    UrlSource,
)
from assembler.source import Span

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True)
class StageState:
    """What the instructions so far amount to.

    `environment` is the build's: ENV and ARG, the later one winning (rule A7). `arguments` are the
    ARGs in scope with their values, in the order of first declaration.
    """

    execution: Execution
    environment: Mapping[str, str]
    arguments: Mapping[str, str | None]
    steps: Chain[Step] = field(default_factory=Chain)
    history: Chain[HistoryLine] = field(default_factory=Chain)
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
    origin: Callable[[Use], Origin]
    title: Callable[[Instruction, int], str]
    """Names a step for progress, given how many steps precede it."""
    allow: frozenset[str] = frozenset()
    """Entitlements: `network.host`, `security.insecure`, `device` (rules N1, N2, M12)."""


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
    return replace(state, history=state.history.append(line))


def _stepped(state: StageState, step: Step, text: str) -> StageState:
    line = HistoryLine(History(text), step=len(state.steps))
    return replace(state, steps=state.steps.append(step), history=state.history.append(line))


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
        if value is not None and pair.key not in UNSET_IN_RUN:
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
    _choose("network mode", instruction.network, ("default", "none", "host"), instruction.span)
    _choose("security", instruction.security, ("sandbox", "insecure"), instruction.span)
    _entitled(instruction, scope)
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
        hostname=scope.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        devices=tuple(parse_device(text, instruction.span) for text in instruction.devices),
        scripts=scripts,
        proxies=proxies(scope.build_args, frozenset(state.arguments)),
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    told = [
        f"{key}={state.environment.get(key, value or '')}" for key, value in state.arguments.items()
    ]
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


def _entitled(instruction: syntax.Run, scope: StageScope) -> None:
    asked = {
        "network.host": instruction.network == "host",
        "security.insecure": instruction.security == "insecure",
        "device": bool(instruction.devices),
    }
    for name, wanted in asked.items():
        if wanted and name not in scope.allow:
            raise DockerfileError(
                f"RUN asks for the entitlement {name}, which is not allowed",
                instruction.span,
                hint=f"allow it with --allow {name}",
            )


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
        origin=lambda name, target: scope.origin(Use(name, instruction.span, target)),
        cache_namespace=scope.build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
    )
    found: list[Mount] = []
    for text in instruction.mounts:
        agents = sum(isinstance(mount, SshMount) for mount in found)
        found.append(parse_mount(text, mount_scope, instruction.span, agents))
    return tuple(found)


def _copy(state: StageState, instruction: syntax.Copy, scope: StageScope) -> StageState:
    expand = _expand(state, scope, instruction.span)
    texts = tuple(map(expand, instruction.sources))
    verb = "ADD" if instruction.add else "COPY"
    checksum = expand(instruction.checksum)
    sources = tuple(_source(text, checksum, instruction) for text in texts)
    _check_checksum(checksum, sources, instruction)
    destination = expand(instruction.destination)
    chown, chmod = expand(instruction.chown), expand(instruction.chmod)
    origin: Origin = ContextOrigin()
    if instruction.from_:
        origin = scope.origin(Use(instruction.from_, instruction.span))
    step = Copy(
        origin=origin,
        sources=sources,
        destination=destination_path(destination, state.execution.working_dir),
        inline=tuple(_inline(doc, state, instruction.span) for doc in instruction.heredocs),
        chown=chown,
        chmod=chmod,
        link=instruction.link and not chmod,  # BuildKit drops it (rule C25)
        parents=instruction.parents,
        exclude=instruction.exclude,
        unpack=instruction.add and instruction.unpack is not False,
        written=instruction.sources,
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    words = [verb]
    words += ["--parents"] * instruction.parents
    words += [f"--chown={chown}"] * bool(chown) + [f"--chmod={chmod}"] * bool(chmod)
    words += [*texts, *(f"<<{doc.name}" for doc in instruction.heredocs), destination]
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


def _source(text: str, checksum: str, instruction: syntax.Copy) -> CopySource:
    """A source as written, or what is to be fetched for it (rules C3, C27-C29)."""
    span = instruction.span.blame(text)
    try:
        repository = parse_git(text)
    except ValueError as error:
        raise DockerfileError(f"{text}: {error}", span) from error
    if repository is None and not is_url(text):
        return text
    if not instruction.add:
        kind = "git ref" if repository else "URL"
        raise DockerfileError(f"source can't be a {kind} for COPY", span, hint="ADD can fetch it")
    if repository is None:
        if checksum and not _SHA256.fullmatch(checksum):
            raise DockerfileError(
                f'invalid checksum "{checksum}" for {text}',
                instruction.span.blame(checksum),
                hint="--checksum=sha256:<64 hexadecimal digits>",
            )
        return UrlSource(text, checksum, unpack=instruction.unpack is True)
    if checksum:
        if not _COMMIT.fullmatch(checksum):
            raise DockerfileError(
                f'invalid checksum "{checksum}" for {text}',
                instruction.span.blame(checksum),
                hint="of a git source it is the commit, or the first digits of it",
            )
        if repository.checksum and repository.checksum != checksum:
            raise DockerfileError(
                f'checksum conflicts: "{repository.checksum}" vs "{checksum}"', span
            )
        repository = replace(repository, checksum=checksum)
    keep = repository.keep_git_dir
    return GitSource(repository, instruction.keep_git_dir if keep is None else keep)


def _check_checksum(
    checksum: str, sources: tuple[CopySource, ...], instruction: syntax.Copy
) -> None:
    if not checksum:
        return
    span = instruction.span.blame("--checksum")
    if len(sources) + len(instruction.heredocs) != 1:
        raise DockerfileError("checksum can't be specified for multiple sources", span)
    if not sources or isinstance(sources[0], str):
        raise DockerfileError("checksum requires HTTP(S) or Git sources", span)
