"""`--shm-size`, `--ulimit`, `--timeout`: amounts as docker's command line spells them (rule R5)."""

from __future__ import annotations

import re

from assembler.errors import UsageError
from assembler.runtime.base import SHARED_MEMORY, Limit

NAMES = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def shared_memory_of(text: str) -> int:
    """The bytes of `64m` and its kin; docker's 64 MiB for nothing. Raises UsageError."""
    if not text:
        return SHARED_MEMORY
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--shm-size {text}: not a size", hint="--shm-size 128m")
    unit = _UNITS[match[3].lower()]
    size = int(match[1]) * unit
    if match[2]:
        size += int(match[2]) * unit // 10 ** len(match[2])
    if not size:
        raise UsageError(f"--shm-size {text}: more than nothing is needed", hint="--shm-size 128m")
    return size


def limits_of(words: tuple[str, ...]) -> tuple[Limit, ...]:
    """`--ulimit NAME=SOFT[:HARD]`, -1 for no limit; the last of one name wins. Raises UsageError."""
    from assembler.dockerfile.suggest import did_you_mean

    found: dict[str, Limit] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if name not in NAMES:
            known = ", ".join(NAMES)
            message = f"--ulimit {word}: invalid ulimit type: {name}{did_you_mean(name, NAMES)}"
            raise UsageError(message, hint=f"one of {known}")
        soft, _, hard = values.partition(":")
        hard = hard or soft
        if not equals or not _is_amount(soft) or not _is_amount(hard):
            raise UsageError(f"--ulimit {word}: not an amount", hint="--ulimit nofile=1024:2048")
        limit = Limit(name, int(soft), int(hard))
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            message = f"--ulimit {word}: the soft limit must be at most the hard one"
            raise UsageError(f"{message}: {limit.soft} > {limit.hard}")
        found[name] = limit
    return tuple(found.values())


def _is_amount(text: str) -> bool:
    return text == "-1" or (text.isascii() and text.isdecimal() and len(text) < 19)


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
