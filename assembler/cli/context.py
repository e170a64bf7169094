"""`assemble context`: what a build has for its context, what reads it, and what is hidden by which rule."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import network_options, sink_for, store_option
from assembler.cli.request import builder_for, read_inputs, request_of, request_options
from assembler.cli.serial import dumps
from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.source import printable
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.context.base import Context
    from assembler.engine.readers import Readers
    from assembler.layer.changeset import Entry
    from assembler.plan.steps import Step


@click.command("context")
@request_options
@click.option(
    "--why",
    "paths",
    metavar="PATH",
    multiple=True,
    help="Only this: what reads it, or which ignore rule hides it.",
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@network_options
@store_option
@click.argument("context", metavar="[CONTEXT]", default=".")
def command(**options: Any) -> None:
    """List the files that a build has for its context: bytes, path, and the lines that read it.

    JSON is one object a line. With --why the exit status is 1 when a path is not in the context.
    """
    environment = Environment.read()
    with cancellable() as cancellation:
        sink = sink_for("plain", environment)
        with builder_for(options, environment, cancellation, sink) as builder:
            builder.store.look_only()
            inputs = read_inputs(builder, options, environment)
            context = inputs.context
            if context is None:
                raise UsageError("there is no context, only a Dockerfile")
            request = replace(request_of(inputs, options, environment), cache_from=())
            plan = builder.plan(request, offline=True)
            from assembler.engine.readers import readers

            found = readers(plan, context, cancellation.check)
            shown = _Shown(context, found, options["style"] == "json")
            if options["paths"]:
                there = [shown.why(path) for path in options["paths"]]
                raise click.exceptions.Exit(0 if all(there) else 1)
            shown.all()
            for problem in found.problems:
                hint = f" ({problem.hint})" if problem.hint else ""
                told = f"{problem.span}: {problem.message}{hint}"
                click.echo(f"WARNING: {printable(told)}", err=True)


class _Shown:
    """Writes what there is to say of `context`."""

    def __init__(self, context: Context, found: Readers, as_json: bool) -> None:
        self._context = context
        self._tree = context.tree()
        self._steps = found.steps
        self._as_json = as_json

    def all(self) -> None:
        """Everything but directories, in the order of paths, and how much that is."""
        from assembler.layer.changeset import Kind
        from assembler.layer.tree import everything

        files = size = unread = unread_size = 0
        for entry in everything(self._tree, linked=False):
            if entry.kind is Kind.DIRECTORY:
                continue
            steps = self._steps.get(entry.path, [])
            files, size = files + 1, size + entry.size
            if not steps:
                unread, unread_size = unread + 1, unread_size + entry.size
            if self._as_json:
                click.echo(dumps(_document(entry, steps)))
            else:
                line = f"{entry.size:>12}  {printable(entry.path)}  {_lines(steps)}"
                click.echo(line.rstrip())
        if not self._as_json:
            click.echo(
                f"{files} files, {size} bytes; {unread}, {unread_size} bytes, are read by no step"
            )

    def why(self, written: str) -> bool:
        """One path; whether it is in the context."""
        path = posixpath.normpath("/" + written).strip("/")
        entry = self._tree.lookup(path)
        rule = None if entry is not None else self._context.ignored(path)
        steps = self._steps.get(path, [])
        if self._as_json:
            missing = {"path": path, "kind": "", "hidden_by": rule or ""}
            click.echo(dumps(missing if entry is None else _document(entry, steps)))
        elif entry is not None:
            size = f" of {entry.size} bytes" if entry.source is not None else ""
            click.echo(f"{printable(path or '.')}: a {entry.kind.name.lower()}{size}")
            for step in steps:
                click.echo(f"  read by {_place(step)} {printable(step.name)}")
            if not steps:
                click.echo("  no step reads it")
        elif rule is not None:
            click.echo(f"{printable(path)}: hidden by {printable(rule)}")
        else:
            click.echo(f"{printable(path)}: there is no such file in the context")
        return entry is not None


def _place(step: Step) -> str:
    return str(step.span)


def _lines(steps: list[Step]) -> str:
    return ", ".join(dict.fromkeys(map(_place, steps)))


def _document(entry: Entry, steps: list[Step]) -> dict[str, object]:
    return {
        "path": entry.path,
        "kind": entry.kind.name.lower(),
        "size": entry.size,
        "read_by": [{"line": step.span.start, "step": step.name} for step in steps],
    }
