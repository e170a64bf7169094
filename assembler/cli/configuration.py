"""`config.toml`: what is set for every build on this machine.

    [cache]
    reservedSpace = "10GB"    # bytes, "512MB" (units of 1024) or "10%" of the file system,
    maxUsedSpace = "60%"      # by the names and rules of buildkitd.toml
    minFreeSpace = "20GB"
    keepDuration = "48h"      # seconds, or a duration

The user's file is read after /etc's, then the environment: the last one to say something wins. What
is wrong is named with its file, line and key; what is not known is only told.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from assembler.environment import Environment
from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.cache.bounds import Bounds, Space

_FIELDS = {
    "reservedSpace": "reserved", "maxUsedSpace": "max_used", "minFreeSpace": "min_free",
    "keepDuration": "keep",
}  # fmt: skip
_LARGEST = 1 << 20  # bytes of a file


def bounds_of(
    environment: Environment, tell: Callable[[str], None], system: str = "/etc"
) -> Bounds | None:
    """How much the store may hold after a build, by the files and the environment; None for any
    amount. `tell` is given a line for each key that nobody knows. Raises UsageError."""
    found: dict[str, Any] = {}
    for directory in (system, environment.config_home):
        path = os.path.join(directory, "assemble", "config.toml")
        content = _content(path)
        if content is not None:
            found |= _read(path, content, tell)
    for name, text in (
        ("reserved", environment.reserved_space),
        ("max_used", environment.max_used_space),
        ("min_free", environment.min_free_space),
    ):
        if text:
            space = _space(text)
            if space is None:
                variable = f"ASSEMBLE_{name.upper()}_SPACE"
                raise UsageError(f"{variable} {text}: not a size", hint=f"{variable}=20gb, or 10%")
            found[name] = space
    if not found:  # as in most builds, which import nothing more for it
        return None
    from assembler.cache.bounds import Bounds

    return Bounds(**found) or None


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as stream:
            content = stream.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{path} cannot be read: it is larger than 1 MiB")
    return content


def _read(path: str, content: bytes, tell: Callable[[str], None]) -> dict[str, Any]:
    import tomllib

    try:
        text = content.decode()
        document = tomllib.loads(text)
    except ValueError as error:  # of TOML, with the line, and of UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from error
    table = document.pop("cache", {})
    for key in document:
        _unknown(path, text, key, "cache", tell)
    if not isinstance(table, dict):
        raise UsageError(f"{_place(path, text, 'cache')}: a table was expected", hint="[cache]")
    found: dict[str, Any] = {}
    for key, given in table.items():
        if key not in _FIELDS:
            _unknown(path, text, key, "", tell)
            continue
        lasts = key == "keepDuration"
        read = _seconds(given) if lasts else _space(given)
        if read is None:
            what, example = ("a duration", '"48h"') if lasts else ("a size", '"20GB", or "10%"')
            shown = json.dumps(given, default=str)
            raise UsageError(
                f"{_place(path, text, key)}: {shown} is not {what}", hint=f"{key} = {example}"
            )
        found[_FIELDS[key]] = read
    return found


def _unknown(path: str, text: str, key: str, only: str, tell: Callable[[str], None]) -> None:
    from assembler.dockerfile.suggest import did_you_mean
    from assembler.source import printable

    known = (only,) if only else tuple(_FIELDS)
    meant = did_you_mean(key, known)
    tell(f"{_place(path, text, printable(key))} is not known here{meant}: it is left out")


def _place(path: str, text: str, key: str) -> str:
    """Where `key` stands in the file, as far as it can be found without a parser that says it."""
    named = re.compile(rf"""(?:[^#]*[\s.,{{\["'])?{re.escape(key)}["']?\s*[=\].]""")
    for number, line in enumerate(text.splitlines(), 1):
        if named.match(line):
            return f"{path}:{number}: {key}"
    return f"{path}: {key}"


def _space(given: object) -> Space | None:
    """Bytes as a number, with a unit, or percents; None for anything else."""
    from assembler.cache.bounds import Space
    from assembler.cli.limits import size_of

    if isinstance(given, int) and not isinstance(given, bool):
        return Space(given) if given >= 0 else None
    if not isinstance(given, str):
        return None
    text = given.strip()
    if text.endswith("%"):
        digits = text[:-1].strip()
        whole = digits.isascii() and digits.isdecimal() and len(digits) <= 3
        return Space(percent=int(digits)) if whole and int(digits) <= 100 else None
    size = size_of(text)
    return None if size is None else Space(size)


def _seconds(given: object) -> float | None:
    """Seconds as a number, as text, or in Go's notation; None for anything else."""
    from assembler.dockerfile.durations import parse_duration

    if isinstance(given, int) and not isinstance(given, bool):
        return float(given) if given >= 0 else None
    if not isinstance(given, str):
        return None
    if given.isascii() and given.isdecimal() and len(given) <= 12:
        return float(given)
    try:
        seconds = parse_duration(given) / 1e9
    except ValueError:
        return None
    return seconds if seconds >= 0 else None
