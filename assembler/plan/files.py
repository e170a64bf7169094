"""COPY and ADD: what is taken from where to where (rules C3, C9, C22 to C29, H7, H8)."""

from __future__ import annotations

from assembler.dockerfile.globs import components
from assembler.dockerfile.instructions import Copy, Heredoc
from assembler.dockerfile.remote import GitReference, is_url, parse_git, without_credentials
from assembler.dockerfile.words import expand_heredoc
from assembler.errors import BadFlag, DockerfileError, ExpansionFailed
from assembler.expressions import expression
from assembler.plan import modes
from assembler.plan.resolution import Use
from assembler.plan.run import untabbed
from assembler.plan.scope import blamed
from assembler.plan.state import StageScope, StageState
from assembler.plan.steps import (
    ContextOrigin,
    CopySource,
    GitSource,
    InlineFile,
    Origin,
    UrlSource,
)
from assembler.plan.steps import Copy as CopyStep
from assembler.plan.workdir import destination_path
from assembler.source import Span, redacted
from assembler.values import replace

_SHA256 = expression(r"sha256:[0-9a-f]{64}")
_COMMIT = expression(r"[0-9a-f]{7,64}")


def copy(state: StageState, instruction: Copy, scope: StageScope) -> StageState:
    """A step, told without --from, --link and --exclude (rule Y6)."""
    expand = scope.expand(state, instruction.span)
    chown, chmod, checksum = map(
        expand, (instruction.chown, instruction.chmod, instruction.checksum)
    )
    if chmod:
        _check_modes(chmod, instruction)
    texts = tuple(map(expand, instruction.sources))
    destination = expand(instruction.destination)
    pairs = zip(texts, instruction.sources, strict=True)
    sources = tuple(_source(text, written, checksum, instruction) for text, written in pairs)
    _check_checksum(checksum, sources, instruction)
    step = CopyStep(
        origin=_origin(instruction, scope),
        sources=sources,
        destination=destination_path(destination, state.cwd),
        inline=tuple(_inline(doc, state, instruction.span) for doc in instruction.heredocs),
        chown=chown,
        chmod=chmod,
        link=instruction.link and not chmod,  # BuildKit drops it (rule C25)
        parents=instruction.parents,
        exclude=instruction.exclude,
        unpack=instruction.add and instruction.unpack is not False,
        written=tuple(map(redacted, instruction.sources)),
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    words = ["ADD" if instruction.add else "COPY"]
    words += ["--parents"] * instruction.parents
    words += [f"--chown={chown}"] * bool(chown) + [f"--chmod={chmod}"] * bool(chmod)
    words += [*texts, *(f"<<{doc.name}" for doc in instruction.heredocs), destination]
    return state.stepped(step, f"{redacted(' '.join(words))} # buildkit")


def _check_modes(chmod: str, instruction: Copy) -> None:
    """Rule C18: what is wrong is told before anything runs."""
    try:
        modes.parse(chmod)
    except BadFlag as error:
        place = blamed(instruction.span, chmod, instruction.chmod)
        raise BadFlag(error.message, place, hint=error.hint) from error


def _origin(instruction: Copy, scope: StageScope) -> Origin:
    if not instruction.from_:
        return ContextOrigin()
    return scope.origin(Use(instruction.from_, instruction.span))


def _inline(heredoc: Heredoc, state: StageState, span: Span) -> InlineFile:
    """The file that a here-document is; like every source it is below the root of where it is from."""
    name = "/".join(components(f"/{heredoc.name}"))
    if not name:
        raise DockerfileError(f"<<{heredoc.name} names no file", span.blame(heredoc.name))
    body = untabbed(heredoc)
    if heredoc.expand:
        try:
            body = expand_heredoc(body, state.environment.get).text
        except ExpansionFailed as error:
            raise ExpansionFailed(error.message, span, hint=error.hint) from error
    return InlineFile(name, body)


def _source(text: str, written: str, checksum: str, instruction: Copy) -> CopySource:
    """A path as it is, or what is to be fetched (rules C3, C27 to C29)."""
    span = blamed(instruction.span, text, written)
    try:
        repository = parse_git(text)
        url, credentials = without_credentials(text) if is_url(text) else (text, "")
    except ValueError as error:
        raise DockerfileError(f"{text}: {error}", span) from error
    if repository is None and not is_url(text):
        return text
    if not instruction.add:
        kind = "URL" if repository is None else "git ref"
        raise DockerfileError(f"source can't be a {kind} for COPY", span, hint="ADD can fetch it")
    place = blamed(instruction.span, checksum, instruction.checksum)
    if repository is not None:
        return _repository(repository, text, checksum, instruction, place)
    if checksum and not _SHA256.fullmatch(checksum):
        raise DockerfileError(
            f'invalid checksum "{checksum}" for {text}',
            place,
            hint="--checksum=sha256:<64 hexadecimal digits>",
        )
    return UrlSource(url, checksum, instruction.unpack is True, credentials)


def _repository(
    repository: GitReference, text: str, checksum: str, instruction: Copy, place: Span
) -> GitSource:
    if checksum and not _COMMIT.fullmatch(checksum):
        raise DockerfileError(
            f'invalid checksum "{checksum}" for {text}',
            place,
            hint="of a git source it is the commit, or the first digits of it",
        )
    if checksum and repository.checksum and repository.checksum != checksum:
        message = f'checksum mismatch "{checksum}" != "{repository.checksum}"'
        raise DockerfileError(message, place, hint="one of the two is enough")
    if checksum:
        repository = replace(repository, checksum=checksum)
    asked = {repository.keep_git_dir, instruction.keep_git_dir} - {None}
    if len(asked) > 1:
        raise DockerfileError(
            "inconsistent keep-git-dir configuration", instruction.span.blame(text)
        )
    return GitSource(repository, asked == {True})


def _check_checksum(checksum: str, sources: tuple[CopySource, ...], instruction: Copy) -> None:
    """Rule C28."""
    if not checksum:
        return
    span = instruction.span.blame("--checksum")
    if len(sources) + len(instruction.heredocs) != 1:
        raise DockerfileError("checksum can't be specified for multiple sources", span)
    if not sources or isinstance(sources[0], str):
        raise DockerfileError("checksum requires HTTP(S) or Git sources", span)
