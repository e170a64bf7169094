"""Go's notation for durations (`1h2m3.5s`), as HEALTHCHECK's flags use it (rule K12)."""

from __future__ import annotations

import re

from assembler.expressions import expression

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000}
_UNITS |= {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TERM = expression(r"(0*)([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_LARGEST = (1 << 63) - 1


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises `ValueError` with Go's words for it."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = position = 0
    while position < len(rest):
        match = _TERM.match(rest, position)
        if match is None or not (match[1] or match[2] or match[3]) or len(match[2]) > 19:
            raise ValueError(f'time: invalid duration "{text}"')
        position = match.end()
        total += _term(match, text)
        if total > _LARGEST:
            raise ValueError(f'time: invalid duration "{text}"')
    return -total if text[0] == "-" else total


def _term(match: re.Match[str], text: str) -> int:
    whole, fraction, unit = match[2] or "0", (match[3] or "0")[:18], match[4]
    if not unit:
        raise ValueError(f'time: missing unit in duration "{text}"')
    if unit not in _UNITS:
        raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
    scale = _UNITS[unit]
    shift: int = 10 ** len(fraction)
    return int(whole) * scale + int(fraction) * scale // shift
