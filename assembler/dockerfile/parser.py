"""Text to tree: the phases of `lexer`, `statement` and `arguments`, and stages out of
instructions (rules P4, I7)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from assembler.dockerfile.arguments import instruction, refuse_trigger
from assembler.dockerfile.instructions import (
    Arg,
    Dockerfile,
    From,
    Instruction,
    Stage,
    Warning,
)
from assembler.dockerfile.lexer import Lexer, LogicalLine
from assembler.dockerfile.statement import JSON_FORMS, Statement, json_form, split_statement
from assembler.dockerfile.words import WHITESPACE
from assembler.errors import DockerfileError, SyntaxProblem
from assembler.expressions import expression
from assembler.source import Source, Span

_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")
_LIKE_JSON = expression(r"""(CMD\s+)?\[["'“‘]""", re.IGNORECASE)
_SLASH_SYNTAX = expression(r"(?:#!.*\n)?//\s*syntax\s*=\s*(\S+)", re.IGNORECASE)
_OUR_SYNTAX = expression(r"(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?:[:@].*)?")


def parse(source: Source) -> Dockerfile:
    """The tree of a Dockerfile.

    Raises `SyntaxProblem`, `UnknownInstruction` and `BadFlag`, with the lines and, where one is
    to blame, the word.
    """
    dockerfile, error = parse_prefix(source)
    if error is not None:
        raise error
    return dockerfile


def parse_prefix(source: Source) -> tuple[Dockerfile, DockerfileError | None]:
    """The tree of a Dockerfile up to its first error, and that error."""
    nothing = Dockerfile(source, (), ())
    if not source.text:
        return nothing, DockerfileError("the Dockerfile cannot be empty", Span(source, 1, 1))
    if source.text[:2] in _UTF_16:
        message = "the Dockerfile is UTF-16 text, where UTF-8 is needed"
        place = Span(source, 1, 1)
        return nothing, DockerfileError(message, place, hint="save it as UTF-8")
    try:
        _refuse_foreign(source)
        lexer = Lexer(source)
    except DockerfileError as error:
        return nothing, error
    warnings = list(_syntax_warnings(source, lexer.directives.syntax))
    instructions: list[Instruction] = []
    failed: DockerfileError | None = None
    try:
        while line := lexer.next():
            statement = _statement(lexer, line)
            instructions.append(instruction(statement))
            warnings += _warnings(statement, line)
    except DockerfileError as error:
        failed = error
    arguments, stages, shapeless = _stages(source, instructions)
    dockerfile = Dockerfile(
        source,
        arguments,
        stages,
        escape=lexer.directives.escape,
        syntax=lexer.directives.syntax,
        check=lexer.directives.check,
        warnings=tuple(warnings),
    )
    return dockerfile, failed or shapeless


def parse_trigger(text: str, span: Span, escape: str) -> Instruction:
    """The instruction of an ONBUILD trigger, here-document bodies after its first line.

    Everything in it, and every error, is placed at `span`: the FROM that fires it (rule K14).
    """
    lexer = Lexer(Source("ONBUILD", text), escape=escape, at=span)
    line = lexer.next()
    if line is None:
        raise SyntaxProblem("onbuild trigger should be a single expression", span)
    statement = _statement(lexer, line)
    if lexer.next() is not None:
        raise SyntaxProblem("onbuild trigger should be a single expression", span)
    refuse_trigger(statement, statement.word)
    return instruction(statement)


def _statement(lexer: Lexer, line: LogicalLine) -> Statement:
    statement = split_statement(line.text, line.span, lexer.directives.escape, line.comment)
    if not statement.openings:
        return statement
    return statement.with_heredocs(*lexer.bodies(line, statement.openings))


def _stages(
    source: Source, instructions: Sequence[Instruction]
) -> tuple[tuple[Arg, ...], tuple[Stage, ...], DockerfileError | None]:
    """Global arguments and stages, as far as the order of instructions allows."""
    arguments: list[Arg] = []
    groups: list[tuple[From, list[Instruction]]] = []
    error: DockerfileError | None = None
    for item in instructions:
        if isinstance(item, From):
            groups.append((item, []))
        elif groups:
            groups[-1][1].append(item)
        elif isinstance(item, Arg):
            arguments.append(item)
        else:
            message = "no build stage in current context"
            hint = "only ARG may stand before the first FROM"
            error = SyntaxProblem(message, item.span, hint=hint)
            break
    if not instructions:
        last = max(1, len(source.lines()) - 1)
        error = DockerfileError("file with no instructions", Span(source, last, last))
    elif not groups and error is None:
        message = "dockerfile contains no stages to build"
        error = DockerfileError(message, arguments[-1].span, hint="add a FROM")
    stages = (Stage(base, tuple(body), index) for index, (base, body) in enumerate(groups))
    return tuple(arguments), tuple(stages), error


def _warnings(statement: Statement, line: LogicalLine) -> list[Warning]:
    found = []
    if line.blanks:  # said of the line that ends the continuation, as BuildKit does
        end = Span(line.span.source, line.span.end, line.span.end)
        found.append(Warning("Empty continuation line", end, "NoEmptyContinuation"))
    if statement.name in (*JSON_FORMS, "HEALTHCHECK") and _is_broken_json(statement):
        message = f"{statement.name} looks like a JSON array but is none, so it is plain text"
        found.append(Warning(message, statement.span))
    return found


def _is_broken_json(statement: Statement) -> bool:
    """Whether the text seems meant as JSON form: a bracket and at once a quote (rule I5)."""
    match = _LIKE_JSON.match(statement.rest)
    if match is None or (match[1] and statement.name != "HEALTHCHECK"):
        return False
    return (
        json_form(statement.rest[match.end(1) :] if match[1] else statement.rest, statement.span)
        is None
    )


def _refuse_foreign(source: Source) -> None:
    """Rule D6: a file that is no Dockerfile may name its frontend in a `//` line or in JSON."""
    head = source.text[:4096].lstrip("\ufeff" + WHITESPACE)
    match = _SLASH_SYNTAX.match(head) if head.startswith(("//", "#!")) else None
    reference = match[1] if match else ""
    if head.startswith("{"):
        try:
            document = json.loads(source.text.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            return
        found = document.get("syntax")
        reference = found.split()[0] if isinstance(found, str) and found.split() else ""
    if reference:
        message = f"this file is for the frontend {reference}, and other frontends are not run"
        raise SyntaxProblem(message, Span(source, 1, 1, reference), hint="give a Dockerfile")


def _syntax_warnings(source: Source, syntax: str) -> tuple[Warning, ...]:
    """Rule D6: another frontend is not run."""
    reference = syntax.split()[0] if syntax else ""
    if not reference or _OUR_SYNTAX.fullmatch(reference):
        return ()
    number = next(n for n, line in enumerate(source.lines(), start=1) if reference in line)
    message = f"syntax={reference} is ignored: other frontends are not run"
    return (Warning(message, Span(source, number, number, reference)),)
