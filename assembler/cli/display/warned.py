"""Warnings as text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from assembler.events import Warned
from assembler.source import excerpt, printable


def warning(event: Warned) -> str:
    """A warning in one line, as buildx shows it: rule, message, line."""
    rule = f"{event.rule}: " if event.rule else ""
    line = f" (line {event.span.start})" if event.span else ""
    return f"{rule}{event.message}{line}"


def summary(warnings: Collection[Warned], *, expand: bool) -> str:
    """The lines that list them as buildx does at the end of a build, at length if `expand`; empty
    where there are none."""
    return "".join(_summary(warnings, expand)) if warnings else ""


def _summary(warnings: Collection[Warned], expand: bool) -> Iterator[str]:
    count = len(warnings)
    found = "1 warning found" if count == 1 else f"{count} warnings found"
    hint = "" if expand else " (use assemble --debug to expand)"
    yield f"\n {found}{hint}:\n"
    for event in warnings:
        yield f" - {printable(warning(event))}\n"
        if expand:
            yield "".join(f"{line}\n" for line in _details(event)) + "\n"


def _details(event: Warned) -> Iterator[str]:
    from assembler.dockerfile.lint import RULES

    if rule := RULES.get(event.rule):
        yield rule.description
        if rule.url:
            yield f"More info: {rule.url}"
    if event.span is not None:
        yield excerpt(event.span)
