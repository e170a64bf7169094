"""`--timeout`: how long a command may take."""

from __future__ import annotations

from assembler.errors import UsageError


def timeout_of(text: str) -> float | None:
    """The seconds of a Go duration such as `90s` or `1h30m`; None for nothing. Raises UsageError."""
    if not text:
        return None
    from assembler.dockerfile.durations import parse_duration

    try:
        seconds = parse_duration(text) / 1_000_000_000
    except ValueError as error:
        raise UsageError(f"--timeout {text}: {error}", hint="--timeout 30m") from error
    if seconds <= 0:
        raise UsageError(f"--timeout {text}: more than nothing is needed", hint="--timeout 30m")
    return seconds
