"""From a statement to its instruction: arity, forms, and what each one's arguments look like
(rules I6, A13, A14, C1 to C3, K1 to K13, S1, S2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from assembler.dockerfile.durations import parse_duration
from assembler.dockerfile.flags import Allowed, Flags
from assembler.dockerfile.instructions import (
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Flag,
    From,
    HealthCheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Pair,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from assembler.dockerfile.remote import remote_kind
from assembler.dockerfile.statement import JSON_FORMS, NAMES, Statement, json_form, refuse_nul
from assembler.dockerfile.words import WHITESPACE, quoted, split_words
from assembler.errors import SyntaxProblem
from assembler.expressions import expression

if TYPE_CHECKING:
    from typing import TypedDict

    from assembler.source import Span

    class _Common(TypedDict):
        span: Span
        text: str
        comment: tuple[str, ...]


_RUN = Allowed(("network", "security"), (), ("mount", "device"))
_NOT_EMPTY = {"network": 'invalid network mode ""', "security": 'security "" is not valid'}
_FROM = Allowed(("platform",))
_COPY = Allowed(("from", "chown", "chmod"), ("link", "parents"), ("exclude",))
_ADD = Allowed(("chown", "chmod", "checksum"), ("link", "keep-git-dir", "unpack"), ("exclude",))
_INTERVALS = ("interval", "timeout", "start-period", "start-interval")
_HEALTHCHECK = Allowed((*_INTERVALS, "retries"))
_STAGE_NAME = expression(r"[a-z][a-z0-9\-_.]*")
_BLANKS = expression(r"[\t\v\f\r ]+")
_MILLISECOND = 1_000_000
_FROM_IS_FIXED = (
    "variable expansion is not supported for --from, define a new stage with FROM using ARG from"
    " global scope as a workaround"
)


def instruction(statement: Statement) -> Instruction:
    """The instruction that `statement` is. Raises `SyntaxProblem` and `BadFlag`."""
    return _BUILDERS[statement.name](statement)


def _common(statement: Statement) -> _Common:
    return {"span": statement.span, "text": statement.line, "comment": statement.comment}


def _one_or_more(statement: Statement) -> SyntaxProblem:
    return statement.error(f"{statement.name} requires at least one argument")


def _only_text(statement: Statement) -> str:
    """Rule I6: the rest of the line is the one argument."""
    if not statement.rest:
        raise statement.error(f"{statement.name} requires exactly one argument")
    statement.checked()
    return statement.rest


def _from(statement: Statement) -> From:
    words = statement.words()
    flags = statement.checked(_FROM)
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise statement.error(
                f"invalid name for build stage: {quoted(words[2])},"
                " name can't start with a number or contain symbols",
                words[2],
            )
    elif len(words) != 1:
        message = "FROM requires either one or three arguments"
        if any(word.startswith("#") for word in words):
            raise statement.error(message, "#", "a comment needs a line of its own")
        raise statement.error(message)
    return From(image=words[0], name=name, platform=flags.text("platform"), **_common(statement))


def _arg(statement: Statement) -> Arg:
    words = split_words(statement.rest, statement.escape)
    if not words:
        raise _one_or_more(statement)
    statement.checked()
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key:
            raise statement.error("ARG names can not be blank", word)
        pairs.append(Pair(key, value if equals else None))
    return Arg(pairs=tuple(pairs), **_common(statement))


def _pairs(statement: Statement) -> tuple[tuple[Pair, ...], bool]:
    """The pairs of ENV and LABEL, and whether they are in the legacy form (rules A13, A14)."""
    statement.checked()
    words = split_words(statement.rest, statement.escape)
    if not words:
        raise _one_or_more(statement)
    if "=" not in words[0]:
        key, *values = re.split(r"[\t\v\f\r ]+", statement.rest, maxsplit=1)
        if not values:
            raise statement.error(f"{statement.name} must have two arguments", key)
        return (Pair(key, values[0]),), True
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            message = f"Syntax error - can't find = in {quoted(word)}."
            raise statement.error(f"{message} Must be of the form: name=value", word)
        if not key:
            raise statement.error(f"{statement.name} names can not be blank", word)
        pairs.append(Pair(key, value))
    return tuple(pairs), False


def _env(statement: Statement) -> Env:
    pairs, legacy = _pairs(statement)
    return Env(pairs=pairs, legacy=legacy, **_common(statement))


def _label(statement: Statement) -> Label:
    pairs, legacy = _pairs(statement)
    return Label(pairs=pairs, legacy=legacy, **_common(statement))


def _command(statement: Statement, text: str) -> CommandLine:
    arguments = json_form(text, statement.span)
    if arguments is not None:
        return CommandLine(arguments=arguments)
    return CommandLine(text=text, heredocs=statement.heredocs)


def _run(statement: Statement) -> Run:
    flags = statement.checked(_RUN)
    for name, message in _NOT_EMPTY.items():
        if Flag(name, "") in flags.given:
            raise statement.error(message, f"--{name}=")
    common = _common(statement)
    for heredoc in statement.heredocs:
        refuse_nul(heredoc.body, statement.span)
    summary = _summary(statement.heredocs[0].body) if statement.heredocs else ""
    if summary:
        common["text"] = f"{statement.line} ({summary})"
    return Run(
        command=_command(statement, statement.rest),
        mounts=flags.all("mount"),
        network=flags.text("network"),
        security=flags.text("security"),
        devices=flags.all("device"),
        **common,
    )


def _summary(body: str) -> str:
    """Rule H12: the first line of a script, and `...` for the rest."""
    lines = body.strip(WHITESPACE).splitlines() or [""]
    return lines[0] + ("..." if len(lines) > 1 else "")


def _cmd(statement: Statement) -> Cmd:
    statement.checked()
    return Cmd(command=_command(statement, statement.rest), **_common(statement))


def _entrypoint(statement: Statement) -> Entrypoint:
    statement.checked()
    return Entrypoint(command=_command(statement, statement.rest), **_common(statement))


def _copy(statement: Statement) -> Copy:
    add = statement.name == "ADD"
    flags = statement.checked(_ADD if add else _COPY)
    *sources, destination = _paths(statement)
    if not add:
        _refuse_remote(statement, sources)
    if "$" in flags.text("from"):
        raise statement.error(_FROM_IS_FIXED, flags.text("from"))
    return Copy(
        sources=tuple(sources),
        destination=destination,
        heredocs=statement.heredocs,
        add=add,
        from_=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.truth("link") is True,
        parents=flags.truth("parents") is True,
        exclude=flags.all("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.truth("keep-git-dir"),
        unpack=flags.truth("unpack"),
        **_common(statement),
    )


def _paths(statement: Statement) -> tuple[str, ...]:
    """The sources that are no here-documents, and the destination (rules C1, H7)."""
    words = statement.json()
    if words is None:
        words = tuple(filter(None, _BLANKS.split(_without_openings(statement))))
    if len(words) + len(statement.openings) < 2:
        raise statement.error(
            f"{statement.name} requires at least two arguments, but only one was provided."
            " Destination could not be determined"
        )
    last = statement.openings[-1] if statement.openings else None
    if last and last.end == len(statement.rest):
        raise statement.error(
            f"{statement.name} cannot accept a heredoc as a destination",
            statement.rest[last.start : last.end],
        )
    return words


def _without_openings(statement: Statement) -> str:
    kept: list[str] = []
    position = 0
    for opening in statement.openings:
        kept.append(statement.rest[position : opening.start])
        position = opening.end
    return "".join(kept) + statement.rest[position:]


def _refuse_remote(statement: Statement, sources: list[str]) -> None:
    for source in sources:
        if kind := remote_kind(source):
            raise statement.error(f"source can't be a {kind} for COPY", source, "ADD can fetch it")


def _workdir(statement: Statement) -> Workdir:
    return Workdir(path=_only_text(statement), **_common(statement))


def _user(statement: Statement) -> User:
    return User(user=_only_text(statement), **_common(statement))


def _stopsignal(statement: Statement) -> StopSignal:
    return StopSignal(signal=_only_text(statement), **_common(statement))


def _maintainer(statement: Statement) -> Maintainer:
    return Maintainer(name=_only_text(statement), **_common(statement))


def _shell(statement: Statement) -> Shell:
    statement.checked()
    arguments = statement.json()
    if not statement.rest or arguments == ():
        raise _one_or_more(statement)
    if arguments is None:
        raise statement.error(
            "SHELL requires the arguments to be in JSON form",
            statement.rest,
            'write it as SHELL ["/bin/sh", "-c"]',
        )
    return Shell(arguments=arguments, **_common(statement))


def _expose(statement: Statement) -> Expose:
    statement.checked()
    if not statement.rest:
        raise _one_or_more(statement)
    return Expose(ports=statement.words(), **_common(statement))


def _volume(statement: Statement) -> Volume:
    statement.checked()
    words = statement.json()
    words = statement.words() if words is None else words
    if not words:
        raise _one_or_more(statement)
    paths = tuple(word.strip(WHITESPACE) for word in words)
    if "" in paths:
        raise statement.error("VOLUME specified can not be an empty string")
    return Volume(paths=paths, **_common(statement))


def _healthcheck(statement: Statement) -> HealthCheck:
    kind, *rest = re.split(rf"[{WHITESPACE}]+", statement.rest, maxsplit=1)
    if not kind:
        raise _one_or_more(statement)
    flags = statement.checked(_HEALTHCHECK)
    if kind.upper() == "NONE":
        if rest:
            raise statement.error("HEALTHCHECK NONE takes no arguments", rest[0])
        return HealthCheck(command=None, **_common(statement))
    if kind.upper() != "CMD":
        message = f"Unknown type {quoted(kind.upper())} in HEALTHCHECK (try CMD)"
        raise statement.error(message, kind)
    command = _command(statement, rest[0] if rest else "")
    if not command.text and not command.arguments:
        raise statement.error("Missing command after HEALTHCHECK CMD", kind)
    interval, timeout, start_period, start_interval = (
        _interval(statement, flags, name) for name in _INTERVALS
    )
    return HealthCheck(
        command=command,
        interval=interval,
        timeout=timeout,
        start_period=start_period,
        start_interval=start_interval,
        retries=_retries(statement, flags.text("retries")),
        **_common(statement),
    )


def _interval(statement: Statement, flags: Flags, name: str) -> int:
    """Nanoseconds, 0 when not given."""
    text = flags.text(name)
    if not text:
        return 0
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise statement.error(str(error), text) from None
    if duration and duration < _MILLISECOND:
        raise statement.error(f'Interval "{name}" cannot be less than 1ms', text)
    return duration


def _retries(statement: Statement, text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise statement.error(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax", text)
    sign, digits = text[0], text.lstrip("+-").lstrip("0") or "0"
    number = int(digits[:11]) * (-1 if sign == "-" else 1)
    if len(digits) > 10 or not -(1 << 31) <= number < 1 << 31:
        raise statement.error(f"strconv.ParseInt: parsing {quoted(text)}: value out of range", text)
    if number < 0:
        raise statement.error(f"--retries cannot be negative ({number})", text)
    return number


def _onbuild(statement: Statement) -> OnBuild:
    """Rules K13, H11. As in BuildKit, a trigger's words and its JSON are looked at here, whether
    they make sense when it fires."""
    statement.checked()
    if not statement.rest:
        raise _one_or_more(statement)
    trigger = statement.trigger()
    refuse_trigger(statement, trigger.word)
    if trigger.name in ("ENV", "LABEL") and trigger.rest:
        _pairs(trigger)
    elif trigger.name in JSON_FORMS:
        trigger.json()
    bodies = (f"\n{heredoc.body}{heredoc.name}" for heredoc in statement.heredocs)
    return OnBuild(trigger=statement.rest + "".join(bodies), **_common(statement))


def refuse_trigger(statement: Statement, word: str) -> None:
    """Raise `SyntaxProblem` when `word` is an instruction that cannot be a trigger."""
    if word.upper() == "ONBUILD":
        raise statement.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", word)
    if word.upper() in ("FROM", "MAINTAINER"):
        raise statement.error(f"{word.upper()} isn't allowed as an ONBUILD trigger", word)


_BUILDERS: Mapping[str, Callable[[Statement], Instruction]] = MappingProxyType(
    dict(
        zip(
            NAMES,
            (
                _copy, _arg, _cmd, _copy, _entrypoint, _env, _expose, _from, _healthcheck, _label,
                _maintainer, _onbuild, _run, _shell, _stopsignal, _user, _volume, _workdir,
            ),
            strict=True,
        )
    )
)  # fmt: skip
