"""TOML of the kind that registries.conf mostly is: comments, tables, and texts on one line.

Debian's two files are read in 0.5 ms: `tomllib`, its import included, takes 3 ms more of a cached build.
"""

from __future__ import annotations

import re

from assembler.expressions import expression

_LINE = expression(
    r"""
    [ \t]*(?:
        (?P<key>[A-Za-z0-9_-]+|"[^"\\\x00-\x1f\x7f]*")[ \t]*=[ \t]*"(?P<text>[^"\\\x00-\x1f\x7f]*)"
        |\[[ \t]*(?P<table>[A-Za-z0-9_-]+)[ \t]*\]
    )?[ \t]*(?:\#[^\x00-\x08\x0a-\x1f\x7f]*)?
    """,
    re.VERBOSE,
)


def plain(content: str) -> dict[str, str | dict[str, str]] | None:
    """What `tomllib.loads` makes of `content`; None where there is more in it, or a mistake."""
    document: dict[str, str | dict[str, str]] = {}
    entries: dict[str, str] = {}
    top: dict[str, str] | None = entries
    for text in content.replace("\r\n", "\n").split("\n"):
        match = _LINE.fullmatch(text)
        if match is None:
            return None
        key, value, table = match.groups()
        if table is not None:
            if top is not None:
                document |= top
                top = None
            if table in document:
                return None
            document[table] = entries = {}
        elif key is not None:
            key = key.strip('"')
            if key in entries:
                return None
            entries[key] = value
    return document if top is None else {**top}
