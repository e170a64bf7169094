"""`assemble completion`: what shells complete command lines with, which is click's own protocol."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete
from click.types import StringParamType

from assembler.cli.commands import Commands, cli
from assembler.environment import Environment
from assembler.errors import AssemblerError

VARIABLE = "_ASSEMBLE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "assemble"
_LARGEST = 1 << 20  # bytes of a Dockerfile


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print what makes SHELL (bash, zsh or fish) complete commands, options, files, the images of the
    store and the stages of the Dockerfile. In ~/.bashrc:

    source <(assemble completion bash)
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, _PROGRAM, VARIABLE).source())


def complete(instruction: str) -> int:
    """Answer a shell, which said in `instruction` what it wants; the exit status is returned."""
    group = _Completing(_PROGRAM, params=cli.params)
    return shell_complete(group, {}, _PROGRAM, VARIABLE, instruction)


def _files(context: click.Context, incomplete: str) -> Iterable[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _directories(context: click.Context, incomplete: str) -> Iterable[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


def _images(context: click.Context, incomplete: str) -> Iterable[CompletionItem]:
    from assembler.oci.reference import Reference
    from assembler.store.refs import Refs

    store = context.params.get("store") or Environment.read().store
    for name, _ in sorted(Refs(store).items()):
        yield CompletionItem(Reference.parse(name).familiar)


def _images_and_files(context: click.Context, incomplete: str) -> Iterable[CompletionItem]:
    found = [one for one in _images(context, incomplete) if one.value.startswith(incomplete)]
    return found or _files(context, incomplete)


def _stages(context: click.Context, incomplete: str) -> Iterable[CompletionItem]:
    from assembler.dockerfile.parser import parse_prefix
    from assembler.source import Source

    directory = context.params.get("context") or "."
    path = context.params.get("file") or os.path.join(directory, "Dockerfile")
    with open(path, "rb") as stream:
        dockerfile, _ = parse_prefix(Source(path, stream.read(_LARGEST).decode()))
    return [CompletionItem(stage.name) for stage in dockerfile.stages if stage.name]


_Words = Callable[[click.Context, str], Iterable[CompletionItem]]
_MEANT: dict[str, _Words] = {
    "FILE": _files,
    "PATH": _files,
    "LAYOUT|ARCHIVE": _files,
    "DIR": _directories,
    "CONTEXT": _directories,
    "[CONTEXT]": _directories,
    "IMAGE": _images,
    "NAME...": _images,
    "REF...": _images,
    "[BUILD|IMAGE]": _images,
    "IMAGE|LAYOUT|ARCHIVE": _images_and_files,
    "[IMAGE|LAYOUT|ARCHIVE] REF...": _images_and_files,
    "STAGE": _stages,
    "STAGE,…": _stages,
}
"""By what the help calls a value."""


class _Completed(StringParamType):
    """A text that is one of `words`, as far as they begin with what is there. Who completes is not
    bothered with errors."""

    def __init__(self, words: _Words) -> None:
        self._words = words

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            found = list(self._words(ctx, incomplete))
        except (AssemblerError, OSError, ValueError):
            return []
        return [one for one in found if one.value.startswith(incomplete)]


class _Completing(Commands):
    """The commands, whose values are completed."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        several = found.commands.values() if isinstance(found, click.Group) else [found]
        for one in several:
            for parameter in one.params if one is not None else ():
                words = _MEANT.get(parameter.metavar or "")
                if words is not None:
                    parameter.type = _Completed(words)
        return found
