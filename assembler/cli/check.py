"""`assemble check`: what lint says about a Dockerfile, as text, JSON, SARIF or annotations."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.call import location
from assembler.cli.main import cancellable
from assembler.cli.options import network_options, sink_for, store_option
from assembler.cli.request import builder_for, read_inputs, request_of, request_options
from assembler.dockerfile.lint import RULES
from assembler.environment import Environment
from assembler.errors import DockerfileError, UsageError
from assembler.source import Source, excerpt, printable

if TYPE_CHECKING:
    from assembler.plan.plan import PlanWarning

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


def check(options: Mapping[str, Any], environment: Environment, style: str) -> int:
    """Print the findings to stdout; the exit status, 1 when there is one."""
    if style not in STYLES:
        raise UsageError(f"unknown format {style!r}", hint=f"one of {', '.join(STYLES)}")
    found = _found(options, environment)
    writers = {"text": text, "json": as_json, "sarif": as_sarif, "github": as_github}
    click.echo(writers[style](found), nl=False)
    if found.error is not None and style == "text":
        raise found.error
    return 1 if found.warnings or found.error else 0


def _found(options: Mapping[str, Any], environment: Environment) -> Findings:
    offline = bool(options.get("offline"))
    with cancellable() as cancellation:
        sink = sink_for("quiet", environment)
        with builder_for(options, environment, cancellation, sink) as builder:
            inputs = read_inputs(builder, options, environment)
            path = os.path.relpath(inputs.path) if inputs.path else inputs.dockerfile.name
            try:
                request = request_of(inputs, options, environment)
                plan = builder.plan(
                    request, offline=offline, lenient=True, every_stage=not request.target
                )
            except DockerfileError as error:
                return Findings(inputs.dockerfile, path, (), error)
            return Findings(inputs.dockerfile, path, plan.warnings)


def text(found: Findings) -> str:
    """The findings as buildx prints them: a count, then each with its lines."""
    count = len(found.warnings)
    if found.error is not None and not count:
        return ""
    if not count:
        return "Check complete, no warnings found.\n"
    heading = "1 warning has" if count == 1 else f"{count} warnings have"
    parts = [f"Check complete, {heading} been found!\n"]
    for warning in found.warnings:
        rule = RULES.get(warning.rule)
        title = f"WARNING: {warning.rule}" if warning.rule else "WARNING"
        if rule is not None and rule.url:
            title += f" - {rule.url}"
        parts.append(f"\n{title}\n{printable(warning.message)}\n")
        if warning.span is not None:
            parts.append(f"{excerpt(warning.span)}\n")
    return "".join(parts)


def as_json(found: Findings) -> str:
    """The findings as `buildx build --call check,format=json` prints them."""
    encoded = base64.b64encode(found.source.text.encode("utf-8", "surrogateescape")).decode()
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
    result: dict[str, Any] = {
        "warnings": warnings,
        "sources": [{"filename": found.source.name, "data": encoded}],
    }
    if found.error is not None:
        place = location(found.error.span) if found.error.span else {}
        result["buildError"] = {"message": found.error.message, "location": place}
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"


def as_sarif(found: Findings) -> str:
    """The findings as SARIF 2.1.0, which code hosts show beside the lines."""
    from assembler.version import __version__

    used = sorted({warning.rule for warning in found.warnings if warning.rule})
    rules = []
    for name in used:
        rule = RULES[name]
        document = {"id": name, "shortDescription": {"text": rule.description}}
        rules.append(document | ({"helpUri": rule.url} if rule.url else {}))
    results = [_result(found, warning.message, warning.rule, warning) for warning in found.warnings]
    if found.error is not None:
        results.append(_result(found, found.error.message, "", found.error, level="error"))
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "assemble", "version": __version__, "rules": rules}},
                "results": results,
            }
        ],
    }
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


def _result(
    found: Findings,
    message: str,
    rule: str,
    place: PlanWarning | DockerfileError,
    level: str = "warning",
) -> dict[str, Any]:
    result: dict[str, Any] = {"level": level, "message": {"text": message}}
    if rule:
        result["ruleId"] = rule
    if place.span is not None:
        region = {"startLine": place.span.start, "endLine": place.span.end}
        physical = {"artifactLocation": {"uri": found.path}, "region": region}
        result["locations"] = [{"physicalLocation": physical}]
    return result


def as_github(found: Findings) -> str:
    """The findings as workflow commands, which GitHub Actions turns into annotations."""
    lines = [_command("warning", found.path, one.rule, one.message, one) for one in found.warnings]
    if found.error is not None:
        lines.append(_command("error", found.path, "", found.error.message, found.error))
    return "".join(f"{line}\n" for line in lines)


def _command(
    level: str, path: str, title: str, message: str, place: PlanWarning | DockerfileError
) -> str:
    properties = {"file": path}
    if place.span is not None:
        properties |= {"line": str(place.span.start), "endLine": str(place.span.end)}
    if title:
        properties["title"] = title
    shown = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{level} {shown}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    """Percent signs, line ends and the characters in `more` as the workflow commands want them."""
    return "".join(f"%{ord(char):02X}" if char in "%\r\n" + more else char for char in text)
