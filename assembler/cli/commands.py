"""The commands as click knows them, each imported when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from assembler.cli.declared import Command
from assembler.cli.main import COMMANDS
from assembler.version import __version__


class Commands(click.Group):
    """The commands of `COMMANDS`, each in the module of its name, imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = "import_" if cmd_name == "import" else cmd_name
        command = importlib.import_module(f"assembler.cli.{module}").command
        found: click.Command = command.by_click() if isinstance(command, Command) else command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from assembler.dockerfile.suggest import did_you_mean

        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}")
        found, command, rest = super().resolve_command(ctx, args)
        bare = {} if command is None else bare_values(command)
        end = rest.index("--") if "--" in rest else len(rest)
        return found, command, [bare.get(word, word) for word in rest[:end]] + rest[end:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def bare_values(command: click.Command) -> dict[str, str]:
    """Options that may stand without a value, as words that have one: click takes the next word for
    it, and `--pull .` is a flag and a context."""
    return {
        name: f"{name}={option.flag_value}"
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
        if isinstance(option.flag_value, str) and name.startswith("--")
    }


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="assemble %(version)s")
@click.option(
    "--debug", is_flag=True, help="Show tracebacks of errors, and every request to a registry."
)
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Build images from Dockerfiles without a daemon and without root."""
    ctx.ensure_object(dict)["debug"] = debug


def by_click() -> int:
    """Run the command line of this process, or answer the shell that completes one; the exit status
    is returned, also of a misuse that click finds. Raises what commands raise."""
    from assembler.environment import Environment

    instruction = Environment.read().get("_ASSEMBLE_COMPLETE")
    if instruction:
        from assembler.cli.completion import complete

        return complete(instruction)
    try:
        status = cli(standalone_mode=False, auto_envvar_prefix="ASSEMBLE")
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        return 2
    except click.ClickException as error:
        return _misused(error)
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except SystemExit as error:  # what click makes of a pipe without a reader, and of nothing else
        raise BrokenPipeError from error
    return status if isinstance(status, int) else 0  # of a command that chose its own


def _misused(error: click.ClickException) -> int:
    """Say in one line what click found wrong with the arguments, and where the right ones are."""
    from assembler.source import printable

    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(f"hint: {context.command_path} --help", err=True)
    click.echo(f"ERROR: {printable(error.format_message())}", err=True)
    return 2
