"""Colours of a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.cli.display.board import CACHED, CANCELED, DONE, ERROR
from assembler.cli.display.lines import HEADER, OUTPUT, WARNING

USUAL = {HEADER: "1", DONE: "36", CACHED: "36", ERROR: "31", CANCELED: "33", WARNING: "33",
         OUTPUT: "2"}  # fmt: skip
"""SGR parameters (ECMA-48 8.3.117) of what is shown."""

_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_KEYS = {"run": (DONE, CACHED), "cancel": (CANCELED,), "error": (ERROR,), "warning": (WARNING,)}


def colors(variables: Mapping[str, str]) -> Mapping[str, str]:
    """The colours that BUILDKIT_COLORS leaves or gives (`run=green:error=255,0,0`), none where
    NO_COLOR is set (no-color.org). What cannot be read there counts for nothing, as with buildx."""
    if variables.get("NO_COLOR"):
        return {}
    found = dict(USUAL)
    for word in variables.get("BUILDKIT_COLORS", "").split(":"):
        key, _, color = word.partition("=")
        if parameters := _parameters(color.lower()):
            found.update((style, parameters) for style in _KEYS.get(key.lower(), ()))
    return found


def _parameters(color: str) -> str:
    name = color.removeprefix("light-")
    if name in _NAMES:
        return str((30 if name == color else 90) + _NAMES.index(name))
    parts = color.split(",")
    levels = [int(one) for one in parts if one.isascii() and one.isdigit() and len(one) < 4]
    if len(levels) == len(parts) == 3 and max(levels) < 256:
        return f"38;2;{levels[0]};{levels[1]};{levels[2]}"
    return ""
