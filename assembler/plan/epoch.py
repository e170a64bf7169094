"""SOURCE_DATE_EPOCH: seconds, or the name of what has a time of its own (rule T1)."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.dockerfile.instructions import Arg, Copy, Dockerfile, Stage
from assembler.dockerfile.remote import is_url, parse_git, without_credentials
from assembler.errors import DockerfileError, UsageError
from assembler.expressions import expression
from assembler.plan.scope import Scope, expanded
from assembler.plan.steps import GitSource, UrlSource
from assembler.source import Span
from assembler.values import value

NAME = "SOURCE_DATE_EPOCH"
_SECONDS = expression(r"[0-9]{1,18}")


@value
class EpochSource:
    """The stage that the build takes its time from, and what that stage fetches."""

    name: str
    source: UrlSource | GitSource


def seconds(text: str, times: Mapping[str, int | None], source: EpochSource | None) -> int | None:
    """The time that `text` stands for: itself, or the one that `times` has for the name. None for
    none: nothing given, a directory, or a `source` nobody has asked yet. Raises UsageError."""
    if not text:
        return None
    if _SECONDS.fullmatch(text):
        return int(text)
    if text in times or text == "context" or source is not None:
        return times.get(text)
    raise UsageError(
        f"invalid SOURCE_DATE_EPOCH: {text}",
        hint="a number of seconds since 1970, `context`, or the name of a build context or of a"
        " stage that is FROM scratch and one ADD of a URL or a git repository",
    )


def epoch_source(
    text: str,
    dockerfile: Dockerfile,
    outer: Scope,
    build_args: Mapping[str, str],
    times: Mapping[str, int | None],
) -> EpochSource | None:
    """The stage that `text` names, where it names one. Raises DockerfileError at the stage where
    that is not FROM scratch with one remote ADD, and ARGs."""
    if not text or _SECONDS.fullmatch(text) or text == "context" or text in times:
        return None
    stage = next((one for one in dockerfile.stages if one.name == text.lower()), None)
    if stage is None:
        return None
    return EpochSource(text, _fetched(stage, dockerfile.escape, outer, build_args))


def _fetched(
    stage: Stage, escape: str, outer: Scope, build_args: Mapping[str, str]
) -> UrlSource | GitSource:
    if expanded(stage.base.image, outer, escape, stage.base.span) != "scratch":
        raise DockerfileError(f"{NAME} stage must use FROM scratch", stage.base.span)
    values = {name: value for name, value in outer.values.items() if name != NAME}
    found: list[UrlSource | GitSource] = []
    for instruction in stage.instructions:
        if isinstance(instruction, Arg):
            for pair in instruction.pairs:
                if pair.key in build_args:
                    values[pair.key] = build_args[pair.key]
                elif pair.value is not None:
                    scope = Scope(values)
                    values[pair.key] = expanded(pair.value, scope, escape, instruction.span)
        elif isinstance(instruction, Copy) and instruction.add:
            found.append(_source(instruction, Scope(values), escape))
        else:
            name = instruction.text.split(maxsplit=1)[0].upper()
            raise DockerfileError(
                f"{NAME} stage does not meet source-only requirements: unsupported {name}"
                " instruction",
                instruction.span,
            )
    if len(found) != 1:
        raise _not_one(stage.base.span)
    return found[0]


def _source(add: Copy, scope: Scope, escape: str) -> UrlSource | GitSource:
    if add.heredocs or len(add.sources) != 1:
        raise _not_one(add.span)
    text = expanded(add.sources[0], scope, escape, add.span)
    checksum = expanded(add.checksum, scope, escape, add.span)
    try:
        repository = parse_git(text)
        if repository is not None:
            return GitSource(repository)
        if is_url(text):
            url, credentials = without_credentials(text)
            return UrlSource(url, checksum, credentials=credentials)
    except ValueError as error:
        raise DockerfileError(f"{text}: {error}", add.span) from error
    raise DockerfileError(f"{NAME} stage source must be a single HTTP(S) or Git ADD", add.span)


def _not_one(span: Span) -> DockerfileError:
    return DockerfileError(f"{NAME} stage must contain exactly one remote ADD", span)
