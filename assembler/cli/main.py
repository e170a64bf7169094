"""`assemble`: commands, loaded when they are called; errors to excerpts and exit statuses."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

import click

from assembler.cancellation import Cancellation
from assembler.errors import AssemblerError, Cancelled
from assembler.version import __version__

COMMANDS = {
    "build": "Build an image from a Dockerfile",
    "check": "Lint a Dockerfile without building it",
    "plan": "Show what a build would do, without doing it",
    "explain": "Say why each step of a build ran, or where its result was from",
    "history": "List builds, how they ended, and how many steps were cached",
    "push": "Push an image from the store, an OCI layout or an archive",
    "pull": "Pull images into the store",
    "copy": "Copy images between registries, layouts, archives and the store",
    "login": "Log in to a registry",
    "logout": "Log out of a registry",
    "import": "Put an OCI layout or archive into the store under a name",
    "images": "List the images in the store",
    "tag": "Give an image of the store another name",
    "rmi": "Remove names from the store",
    "du": "Show what the store holds, and what could be removed",
    "prune": "Remove what no image needs from the store",
    "store": "Check the store",
    "doctor": "Say what builds can do on this host, and what would improve it",
    "inspect": "Show an image of the store, an OCI layout or an archive",
}


class Commands(click.Group):
    """The commands of `COMMANDS`, each in the module of its name, imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = "import_" if cmd_name == "import" else cmd_name
        command: click.Command = importlib.import_module(f"assembler.cli.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from assembler.dockerfile.suggest import did_you_mean

        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}")
        found, command, rest = super().resolve_command(ctx, args)
        bare = {} if command is None else _bare_values(command)
        end = rest.index("--") if "--" in rest else len(rest)
        return found, command, [bare.get(word, word) for word in rest[:end]] + rest[end:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _bare_values(command: click.Command) -> dict[str, str]:
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


def run() -> int:
    """Run the command line of this process; the exit status is returned."""
    # Nearly all that a start makes lives as long as the process: it need not be looked through.
    gc.set_threshold(200_000)
    try:
        return _run("--debug" in sys.argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _flush(stream: TextIO | None) -> None:
    """Write what `stream` holds, or throw it away: where nobody can read it, the interpreter would
    end with a status of its own."""
    if stream is not None:
        try:
            stream.flush()
        except (OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, 1 if stream is sys.stdout else 2)
            os.close(null)


def _run(debug: bool) -> int:
    try:
        status = cli(standalone_mode=False, auto_envvar_prefix="ASSEMBLE")
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        return 2
    except click.ClickException as error:
        return _misused(error)
    except BrokenPipeError:
        return 141  # 128 + SIGPIPE: whoever read our output has gone
    except (AssemblerError, OSError, MemoryError, KeyboardInterrupt, click.Abort) as error:
        return _fail(error, debug)
    except Exception as error:
        return _fail(error, True)
    return status if isinstance(status, int) else 0  # of a command that chose its own


def _misused(error: click.ClickException) -> int:
    """Say in one line what click found wrong with the arguments, and where the right ones are."""
    from assembler.source import printable

    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(f"hint: {context.command_path} --help", err=True)
    click.echo(f"ERROR: {printable(error.format_message())}", err=True)
    return 2


def _fail(error: BaseException, debug: bool) -> int:
    from assembler.cli.display.failure import exit_status, failure

    if isinstance(error, KeyboardInterrupt | click.Abort):
        error = Cancelled(signal=signal.SIGINT)
    with suppress(OSError):  # a terminal that hung up
        if debug:
            import traceback

            traceback.print_exception(error, file=sys.stderr)
        click.echo(failure(error, _columns()), err=True)
    if isinstance(error, Cancelled) and error.signal:
        # All is done: one more signal would find the interpreter without handlers, and change the
        # status.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    return exit_status(error)


def _columns() -> int:
    """The width of the terminal that errors go to."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 160
    except (OSError, ValueError):
        return 160


@contextmanager
def cancellable(timeout: float | None = None) -> Iterator[Cancellation]:
    """A cancellation that SIGINT, SIGTERM and SIGHUP set, and the end of `timeout` seconds; after a
    second signal processes get no more time to end by themselves, a third one ends this process at
    once, also while a cancelled build is being left; another process removes its files then. A
    signal that whoever started us ignores, as nohup(1) does, stays ignored."""
    received = 0
    inside = True

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > 2:
            cancellation.die()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            os._exit(128 + number)  # the first process of a container is not ended by that
        if inside:
            cancellation.cancel(number)
            if received > 1:
                cancellation.hurry()

    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]
    with Cancellation() as cancellation:
        before = [(number, signal.signal(number, on_signal)) for number in numbers]
        if timeout is not None:  # no thread: the user namespace must be entered before any
            alarm = signal.signal(signal.SIGALRM, lambda *_: cancellation.expire(timeout))
            before.append((signal.SIGALRM, alarm))
            signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            yield cancellation
        finally:
            if timeout is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
            inside = False
            for number, handler in [] if received else before:
                signal.signal(number, handler)
