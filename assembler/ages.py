"""How old things are, and where results came from, in a few letters."""

from __future__ import annotations

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def age(seconds: float) -> str:
    """`seconds` in the largest unit of which there is one: `3 d`, `15 min`, `0 s`."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"


def duration(seconds: float) -> str:
    """How long something took: `0.4s`, `12.0s`, `3m 5s`, `1h 2m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m {int(seconds % 60)}s"
    return f"{minutes // 60}h {minutes % 60}m"


def origin(source: str, seconds: float | None) -> str:
    """Where a result is from and how old it is: `local, 3 d old`; the age only where that is known."""
    return source if seconds is None or not source else f"{source}, {age(seconds)} old"


def since(ran: float, now: float) -> float | None:
    """The seconds since a step `ran`, None where that is not known."""
    return max(0.0, now - ran) if ran else None
