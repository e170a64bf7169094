"""`assemble`: commands, loaded when they are called; errors to excerpts and exit statuses."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import AssemblerError, Cancelled

COMMANDS = {
    "build": "Build an image from a Dockerfile",
    "check": "Lint a Dockerfile without building it",
    "plan": "Show what a build would do, without doing it",
    "context": "List the files of a context, and what reads or hides them",
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
    "completion": "Print what makes a shell complete command lines",
}
WITHOUT_CLICK = ("build", "push", "pull", "copy")
"""The commands that are a `declared.Command`."""


def run() -> int:
    """Run the command line of this process; the exit status is returned."""
    # Nearly all that a start makes lives as long as the process: it need not be looked through.
    gc.set_threshold(200_000)
    _have_streams()
    try:
        return _run("--debug" in sys.argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _have_streams() -> None:
    """Make the standard streams ones that can be written. A descriptor that whoever started us closed
    would become that of the next file, a blob perhaps; and a locale without our arrows is no error."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (null := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < 3:
            os.set_inheritable(null, True)
        os.close(null)
        sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as that of stderr is


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
        return _command()
    except BrokenPipeError:
        return 141  # 128 + SIGPIPE: whoever read our output has gone
    except (AssemblerError, OSError, MemoryError, KeyboardInterrupt) as error:
        return _fail(error, debug)
    except Exception as error:
        return _fail(error, True)


def _command() -> int:
    """The exit status of what the command line asks for. Most of `WITHOUT_CLICK` is read without."""
    if len(sys.argv) > 1 and sys.argv[1] in WITHOUT_CLICK:
        from importlib import import_module

        command = import_module(f"assembler.cli.{sys.argv[1]}").command
        options = command.read(sys.argv[2:], Environment.read().variables)
        if options is not None:
            return command.run(**options) or 0
    from assembler.cli.commands import by_click

    return by_click()


def _fail(error: BaseException, debug: bool) -> int:
    from assembler.cli.display.failure import exit_status, failure

    if isinstance(error, KeyboardInterrupt):
        error = Cancelled(signal=signal.SIGINT)
    with suppress(OSError):  # a terminal that hung up
        if debug:
            import traceback

            traceback.print_exception(error, file=sys.stderr)
        sys.stderr.write(f"{failure(error, _columns())}\n")
        sys.stderr.flush()
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
def cancellable(timeout: float | None = None, what: str = "build") -> Iterator[Cancellation]:
    """A cancellation that SIGINT, SIGTERM and SIGHUP set, and the end of the `timeout` seconds that
    `what` may take; after a second signal processes get no more time to end by themselves, a third
    one ends this process at once, also while a cancelled build is being left; another process removes
    its files then. A signal that whoever started us ignores, as nohup(1) does, stays ignored."""
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
            alarm = signal.signal(signal.SIGALRM, lambda *_: cancellation.expire(timeout, what))
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
