"""How a command ends badly: the excerpt, the sentence, the hint, the exit status."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from assembler.errors import (
    AssemblerError,
    Cancelled,
    DockerfileError,
    NoSpace,
    StepError,
    TimedOut,
    UsageError,
)
from assembler.source import excerpt, printable, redacted

_NAMES, _NAME = 3, 60  # how many names of work are shown, and how much of each
FAILED, USAGE, BUG, EXHAUSTED, TIMED_OUT = 1, 2, 100, 102, 124


def failure(error: BaseException, columns: int = 160) -> str:
    """The text for stderr, for a terminal of `columns` columns: the Dockerfile excerpt, the hint,
    and last `ERROR: …` (design.md)."""
    lines = []
    span = error.span if isinstance(error, DockerfileError | StepError) else None
    if span is not None and span.source.text:
        lines.append(excerpt(span, columns=columns))
    hint = error.hint if isinstance(error, AssemblerError) else ""
    if hint:
        lines.append(f"hint: {printable(redacted(hint))}")
    lines.append(f"ERROR: {printable(redacted(message(error)))}")
    return "\n".join(lines)


def message(error: BaseException) -> str:
    """One sentence that says what went wrong."""
    if isinstance(error, Cancelled):
        by = f"cancelled by {signal.Signals(error.signal).name}" if error.signal else error.message
        return f"{by}{_running(error.running)}"
    if isinstance(error, AssemblerError):
        return error.message
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"internal error: {type(error).__name__}: {error}"


def _running(names: Sequence[str]) -> str:
    shown = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names[:_NAMES]]
    if len(names) > _NAMES:
        shown.append(f"{len(names) - _NAMES} more")
    return f" while running {', '.join(shown)}" if shown else ""


def exit_status(error: BaseException) -> int:
    """The exit status (ecosystem: exit codes of buildx)."""
    if isinstance(error, Cancelled) and error.signal:
        return 128 + error.signal
    if isinstance(error, TimedOut):
        return TIMED_OUT
    if isinstance(error, NoSpace | MemoryError):
        return EXHAUSTED
    if isinstance(error, UsageError):
        return USAGE
    return FAILED if isinstance(error, AssemblerError | OSError) else BUG
