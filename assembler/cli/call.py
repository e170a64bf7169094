"""`--call METHOD`: what is said about a build without building (buildx' subrequests)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import sink_for
from assembler.cli.request import builder_for, read_inputs, request_of
from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.source import Source, Span, printable

if TYPE_CHECKING:
    from assembler.plan.outline import Outline, Target

METHODS = ("build", "check", "lint", "outline", "targets")


def call(method: str, options: Mapping[str, Any], environment: Environment) -> int:
    """Do what `METHOD[,format=text|json][,ignorestatus=BOOL]` asks for; the exit status."""
    asked = _asked(method)
    if asked.name in ("check", "lint"):
        from assembler.cli.check import check

        return check(options, environment, asked.style, allowed=asked.ignore_status)
    if asked.style not in ("text", "json"):
        raise UsageError(
            f"--call {method}: unknown format {asked.style!r}", hint="format=text or format=json"
        )
    click.echo(_said(asked.name, asked.style, options, environment), nl=False)
    return 0


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    style: str
    ignore_status: bool


def _asked(method: str) -> _Call:
    name, *rest = method.split(",")
    fields = dict(word.partition("=")[::2] for word in rest)
    ignore = fields.get("ignorestatus", "false").lower()
    if name not in METHODS or fields.keys() - {"format", "ignorestatus"}:
        from assembler.dockerfile.suggest import did_you_mean

        suggestion = did_you_mean(name, METHODS)
        problem = "unknown option" if name in METHODS else f"unknown method{suggestion}"
        raise UsageError(
            f"--call {method}: {problem}",
            hint="build, check, outline or targets, with ,format=json",
        )
    if ignore not in ("1", "t", "true", "0", "f", "false"):
        raise UsageError(f"--call {method}: invalid ignorestatus value {ignore!r}")
    return _Call(name, fields.get("format", "text"), ignore in ("1", "t", "true"))


def _said(name: str, style: str, options: Mapping[str, Any], environment: Environment) -> str:
    from assembler.plan.make import outline
    from assembler.plan.outline import targets
    from assembler.request import plan_request

    with cancellable() as cancellation:
        sink = sink_for("quiet", environment)
        with builder_for(options, environment, cancellation, sink) as builder:
            inputs = read_inputs(builder, options, environment)
            request = request_of(inputs, options, environment)
            source = request.dockerfile.source
            if name == "targets":
                found = targets(request.dockerfile)
                return _json(_targets(found, source)) if style == "json" else targets_text(found)
            asked = plan_request(request)
            told = outline(asked, builder.resolved(request, asked))
            return _json(_outline(told, source)) if style == "json" else outline_text(told)


def targets_text(found: Iterable[Target]) -> str:
    """The targets as buildx prints them."""
    rows = [("TARGET", "DESCRIPTION")]
    for target in found:
        name = f"{target.name} (default)".lstrip() if target.default else target.name
        rows.append((name, printable(target.description)))
    return _columns(rows, gap=1)


def outline_text(outline: Outline) -> str:
    """An outline as buildx prints it."""
    parts = []
    if outline.name or outline.description:
        head = [("TARGET:", outline.name or "(default)")]
        if outline.description:
            head.append(("DESCRIPTION:", printable(outline.description)))
        parts.append(_columns(head, gap=1))
    if outline.arguments:
        rows = [
            (printable(one.name), printable(one.value), printable(one.description))
            for one in outline.arguments
        ]
        parts.append(_columns([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows], gap=3))
    for title, wanted in (("SECRET", outline.secrets), ("SSH", outline.agents)):
        if wanted:
            listed = [(printable(one.name), "true" if one.required else "") for one in wanted]
            parts.append(_columns([(title, "REQUIRED"), *listed], gap=3))
    return "".join(f"{part}\n" for part in parts)


def _columns(rows: Sequence[tuple[str, ...]], gap: int) -> str:
    """Rows as Go's tabwriter lines them up: the last column is not padded."""
    widths = [max(map(len, column)) + gap for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join((*padded, row[-1])))
    return "".join(f"{line}\n" for line in lines)


def _targets(found: Iterable[Target], source: Source) -> dict[str, Any]:
    items = []
    for target in found:
        item: dict[str, Any] = {
            "name": target.name,
            "default": target.default,
            "description": target.description,
            "base": target.base,
            "platform": target.platform,
        }
        items.append(_filled(item) | {"location": location(target.span)})
    return {"targets": items, "sources": [encoded(source)]}


def _outline(outline: Outline, source: Source) -> dict[str, Any]:
    arguments = [
        {"name": one.name}
        | _filled({"description": one.description, "value": one.value})
        | {"location": location(one.span)}
        for one in outline.arguments
    ]
    document: dict[str, Any] = {"name": outline.name, "description": outline.description}
    document["args"] = arguments
    for key, name, wanted in (
        ("secrets", "name", outline.secrets),
        ("ssh", "name", outline.agents),
        ("cache", "ID", outline.caches),
    ):
        document[key] = [
            {name: one.name}
            | _filled({"required": one.required})
            | {"location": location(one.span)}
            for one in wanted
        ]
    return _filled(document) | {"sources": [encoded(source)]}


def location(span: Span) -> dict[str, Any]:
    """A place as BuildKit's JSON has it."""
    return {"ranges": [{"start": {"line": span.start}, "end": {"line": span.end}}]}


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value}


def encoded(source: Source) -> str:
    """The bytes of a source in base64."""
    return base64.b64encode(source.text.encode("utf-8", "surrogateescape")).decode()


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"
