"""`assemble check`: what lint says about a Dockerfile, as text, JSON, SARIF or annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from assembler.cli.call import encoded, location
from assembler.cli.main import cancellable
from assembler.cli.options import network_options, store_option
from assembler.cli.request import builder_for, read_inputs, request_for, request_options
from assembler.cli.serial import dumps
from assembler.dockerfile.lint import RULES
from assembler.environment import Environment
from assembler.errors import DockerfileError, UsageError
from assembler.events import Event, Warned
from assembler.plan.plan import PlanWarning
from assembler.source import Source, Span, excerpt, printable

STYLES = ("text", "json", "sarif", "github")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in one Dockerfile; `path` is where tools find the file. `error` is what kept
    it from being understood."""

    source: Source
    path: str
    warnings: Sequence[PlanWarning]
    error: DockerfileError | None = None


@click.command("check")
@request_options
@click.option("--format", "style", type=click.Choice(STYLES), default="text")
@click.option("--offline", is_flag=True, help="Ask no registry; unknown bases are not looked at.")
@network_options
@store_option
@click.argument("context", metavar="[CONTEXT]", default=".")
def command(**options: Any) -> None:
    """Lint a Dockerfile without building it. The exit status is 1 when there is a finding.

    Without --target every stage is looked at.
    """
    raise click.exceptions.Exit(check(options, Environment.read(), options["style"]))


def check(
    options: Mapping[str, Any], environment: Environment, style: str, *, allowed: bool = False
) -> int:
    """Print the findings to stdout; the exit status, 1 when there is one.

    Warnings that are `allowed` do not count. As text, an error is raised after the findings
    before it; the other formats hold it.
    """
    if style not in STYLES:
        raise UsageError(f"unknown format {style!r}", hint=f"one of {', '.join(STYLES)}")
    found = _found(options, environment)
    writers = {"text": text, "json": as_json, "sarif": as_sarif, "github": as_github}
    click.echo(writers[style](found), nl=False)
    if found.error is not None and style == "text":
        raise found.error
    return 1 if found.error or (found.warnings and not allowed) else 0


def _found(options: Mapping[str, Any], environment: Environment) -> Findings:
    from assembler.dockerfile.parser import parse_prefix

    with (
        cancellable() as cancellation,
        builder_for(options, environment, cancellation, _remarks) as builder,
    ):
        inputs = read_inputs(builder, options, environment)
        dockerfile, error = parse_prefix(inputs.dockerfile)
        request = request_for(dockerfile, inputs, options, environment)
        offline = bool(options.get("offline"))
        warnings, error = builder.examine(request, error, offline=offline)
    path = os.path.relpath(inputs.path) if inputs.path else inputs.dockerfile.name
    return Findings(inputs.dockerfile, path, warnings, error)


def _remarks(event: Event) -> None:
    """A sink that shows what could not be looked at, such as a base image nobody has."""
    if isinstance(event, Warned):
        click.echo(f"WARNING: {printable(event.message)}", err=True)


def text(found: Findings) -> str:
    """The findings as buildx prints them: a count, then each with its lines."""
    count = len(found.warnings)
    if not count:
        return "" if found.error is not None else "Check complete, no warnings found.\n"
    heading = "1 warning has" if count == 1 else f"{count} warnings have"
    parts = [f"Check complete, {heading} been found!\n"]
    for warning in found.warnings:
        rule = RULES.get(warning.rule)
        title = f"WARNING: {warning.rule}" if warning.rule else "WARNING"
        if rule is not None and rule.url:
            title += f" - {rule.url}"
        parts.append(f"\n{title}\n{printable(warning.message)}\n")
        if warning.span is not None:
            around = 2 if warning.span.start == warning.span.end else 1
            parts.append(f"{excerpt(warning.span.blame(''), around)}\n")
    return "".join(parts)


def as_json(found: Findings) -> str:
    """The findings as `buildx build --call check,format=json` prints them."""
    warnings = []
    for warning in found.warnings:
        rule = RULES.get(warning.rule)
        document: dict[str, Any] = {"ruleName": warning.rule}
        if rule is not None:
            document |= {"description": rule.description} | ({"url": rule.url} if rule.url else {})
        document["detail"] = warning.message
        if warning.span is not None:
            document["location"] = location(warning.span)
        warnings.append(document)
    source = {
        "filename": os.path.basename(found.source.name),
        "data": encoded(found.source),
        "language": "Dockerfile",
    }
    result: dict[str, Any] = {"warnings": warnings, "sources": [source]}
    if found.error is not None:
        place = location(found.error.span) if found.error.span else {}
        result["buildError"] = {"message": found.error.message, "location": place}
    return dumps(result, indent=2) + "\n"


def as_sarif(found: Findings) -> str:
    """The findings as SARIF 2.1.0, which code hosts show beside the lines."""
    from assembler.version import __version__

    used = sorted({warning.rule for warning in found.warnings if warning.rule})
    results = [
        _result(found, warning.message, warning, used.index(warning.rule) if warning.rule else -1)
        for warning in found.warnings
    ]
    if found.error is not None:
        results.append({**_result(found, found.error.message, found.error), "level": "error"})
    driver = {"name": "assemble", "version": __version__, "rules": list(map(_sarif_rule, used))}
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": found.error is None}],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return dumps(log, indent=2) + "\n"


def _sarif_rule(name: str) -> dict[str, Any]:
    rule = RULES[name]
    document: dict[str, Any] = {
        "id": name,
        "name": name,
        "shortDescription": {"text": rule.description},
        "defaultConfiguration": {"level": "warning"},
    }
    return document | ({"helpUri": rule.url} if rule.url else {})


def _result(
    found: Findings, message: str, about: PlanWarning | DockerfileError, rule: int = -1
) -> dict[str, Any]:
    """`rule` is the number of the rule in the run's list, -1 for none."""
    from urllib.parse import quote

    result: dict[str, Any] = {"level": "warning", "message": {"text": message}}
    if isinstance(about, PlanWarning) and rule >= 0:
        result |= {"ruleId": about.rule, "ruleIndex": rule}
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(found.path)}}
    if about.span is not None:
        region = {"startLine": about.span.start, "endLine": about.span.end}
        if place := about.span.place():
            region = {"startLine": place.line, "startColumn": place.start + 1}
            region |= {"endLine": place.line, "endColumn": place.end + 1}
        physical["region"] = region
    return result | {"locations": [{"physicalLocation": physical}]}


def as_github(found: Findings) -> str:
    """The findings as workflow commands, which GitHub Actions turns into annotations."""
    lines = [
        _command("warning", found.path, one.rule, one.message, one.span) for one in found.warnings
    ]
    if found.error is not None:
        lines.append(_command("error", found.path, "", found.error.message, found.error.span))
    return "".join(f"{line}\n" for line in lines)


def _command(level: str, path: str, title: str, message: str, span: Span | None) -> str:
    properties = {"file": path}
    if span is not None:
        properties |= {"line": str(span.start), "endLine": str(span.end)}
        if place := span.place():
            properties |= {"line": str(place.line), "endLine": str(place.line)}
            properties |= {"col": str(place.start + 1), "endColumn": str(place.end + 1)}
    if title:
        properties["title"] = title
    shown = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{level} {shown}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    """Percent signs, line ends and the characters in `more` as the workflow commands want them."""
    return "".join(f"%{ord(char):02X}" if char in "%\r\n" + more else char for char in text)
