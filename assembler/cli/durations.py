"""Options that are durations in Go's notation, such as `90s` or `1h30m`."""

from __future__ import annotations

from assembler.errors import UsageError


def timeout_of(text: str) -> float | None:
    """The seconds of `--timeout`, how long a command may take; None for nothing. Raises UsageError."""
    if not text:
        return None
    seconds = seconds_of("--timeout ", text, "30m")
    if not seconds:
        raise UsageError(f"--timeout {text}: more than nothing is needed", hint="--timeout 30m")
    return seconds


def ttl_of(text: str) -> float | None:
    """The seconds of `--cache-ttl`, None where it is not given; buildah's and kaniko's form. Raises
    UsageError."""
    return seconds_of("--cache-ttl ", text, "168h") if text else None


def seconds_of(option: str, text: str, example: str) -> float:
    """The seconds of the duration `text`, which is not negative; `option` and what joins them is said
    before it and before `example` where it is none. Raises UsageError."""
    from assembler.dockerfile.durations import parse_duration

    try:
        seconds = parse_duration(text) / 1e9
    except ValueError as error:
        raise UsageError(f"{option}{text}: {error}", hint=f"{option}{example}") from error
    if seconds < 0:
        raise UsageError(f"{option}{text}: it is negative", hint=f"{option}{example}")
    return seconds
