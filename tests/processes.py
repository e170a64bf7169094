"""Processes of this machine, by what they were started with."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def naming(text: object) -> list[str]:
    """The command lines, a blank between words, that hold `text`. Of what has ended and was not
    waited for there is none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            line = os.fsdecode(path.read_bytes().replace(b"\0", b" "))
            if str(text) in line:
                found.append(line)
    return found
