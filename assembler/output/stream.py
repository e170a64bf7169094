"""Where an output that is one stream of bytes goes: a file, which appears whole or not at all, or
stdout, a pipe, a device, which nobody can take back."""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from assembler.linux.replacing import replacing
from assembler.output.base import Check
from assembler.store.disk import translated

_TURN = 0.05  # seconds between two looks at a wish to stop

Write = Callable[[BinaryIO], None]
"""Writes to a stream; a write may take less than it is given."""


def written(path: str, write: Write, check: Check) -> None:
    """Have `write` write to what is at `path`, or to stdout for `-`. Directories that are missing
    above it are made. Raises StoreError, BrokenPipeError, and what `write` and `check` raise."""
    if path == "-":
        sys.stdout.flush()
        with os.fdopen(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
            _left_alone(lambda: write(stream), check)
        return
    directory = os.path.dirname(os.path.abspath(path))
    try:
        if _is_special(path):
            _left_alone(lambda: _write_into(path, write), check)
            return
        os.makedirs(directory, exist_ok=True)
        with replacing(path) as stream:
            write(stream)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise translated(error, directory) from error


def sink(stream: BinaryIO, check: Check) -> Callable[[memoryview], None]:
    """Hands pieces to `stream`; `check` is called for each."""

    def put(piece: memoryview) -> None:
        check()
        while piece:
            taken = stream.write(piece)
            if taken is None:  # whoever started us made it one that does not block
                select.select((), (stream,), (), _TURN)
                check()
            piece = piece[taken or 0 :]

    return put


def _is_special(path: str) -> bool:
    """Whether something is at `path` that is to be written to, not replaced."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _write_into(path: str, write: Write) -> None:
    with open(path, "wb", buffering=0) as stream:
        write(stream)


def _left_alone(work: Callable[[], None], check: Check) -> None:
    """Do `work` in a thread that is left alone when `check` raises: nothing ends an open(2) or
    write(2) of a pipe that nobody reads."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # for whoever waits
            raised.append(error)

    thread = threading.Thread(target=run, name="stream", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_TURN)
        check()
    for error in raised:
        raise error
