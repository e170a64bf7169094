"""When and how often things of the store were used: the order in which they are collected.

    uses/<uuid>    what one command used, as its lease listed it; the file's time is when it ended
    uses/summary   the same of many commands, a line each: last, count, first, item

It is derived data: what is lost of it only makes a wrong order. A time in the future counts as now.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from assembler.linux.claims import held
from assembler.linux.replacing import replacing
from assembler.values import value

_MANY = 100  # files, before they are put together
_SUMMARY = "summary"


@value
class Use:
    """`last` and `first` in seconds since the epoch; `count` is of commands."""

    last: float
    first: float
    count: int = 1

    def __add__(self, other: Use) -> Use:
        return Use(
            max(self.last, other.last), min(self.first, other.first), self.count + other.count
        )


def read(directory: str, now: float) -> dict[str, Use]:
    """Every item's use by its path in the store. Raises OSError."""
    if not os.path.isdir(directory):
        return {}
    with held(directory):
        return _read(directory, now)[0]


def compact(
    directory: str, now: float, keep: Callable[[str], bool] = lambda item: True, least: int = _MANY
) -> None:
    """Put the files together where there are `least` of them, of the items that `keep` names. Raises
    OSError."""
    if not os.path.isdir(directory) or len(os.listdir(directory)) < least:
        return
    with held(directory):
        found, files = _read(directory, now)
        with replacing(os.path.join(directory, _SUMMARY), 0o600) as stream:
            for item, use in found.items():
                if keep(item):
                    line = f"{use.last!r} {use.count} {use.first!r} {item}\n"
                    stream.write(line.encode("utf-8", "surrogateescape"))
        for name in files:
            if name != _SUMMARY:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))


def _read(directory: str, now: float) -> tuple[dict[str, Use], list[str]]:
    found: dict[str, Use] = {}
    files = os.listdir(directory)
    for name in files:
        path = os.path.join(directory, name)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as stream:
                ended = min(os.fstat(stream.fileno()).st_mtime, now)
                lines = stream.read().splitlines()
        except FileNotFoundError:
            continue
        _note(found, _summary(lines, now) if name == _SUMMARY else _list(lines, ended))
    return found, files


def _note(found: dict[str, Use], more: Mapping[str, Use]) -> None:
    for item, use in more.items():
        found[item] = found[item] + use if item in found else use


def _list(lines: list[str], ended: float) -> dict[str, Use]:
    return {item: Use(ended, ended) for item in lines}


def _summary(lines: list[str], now: float) -> dict[str, Use]:
    found = {}
    for line in lines:
        last, _, rest = line.partition(" ")
        count, _, rest = rest.partition(" ")
        first, _, item = rest.partition(" ")
        with suppress(ValueError):  # half a line: a file that a power cut spoilt
            found[item] = Use(min(float(last), now), min(float(first), now), int(count))
    return found
