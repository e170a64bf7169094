"""What is told of a RUN that failed because a program could not be executed: which one it was, and why
the kernel would not have it.

The kernel's own words mislead: a program that lacks its loader is "not found", one for another
architecture has an "exec format error". Shells end with 126 or 127 then, and so do runtimes that see it
early enough; the containers of crun and runc end with 1. The program is the step's own, or the last one
that a shell complained of.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress

from assembler.engine.program import Programs, Refused
from assembler.errors import StepError
from assembler.layer.tree import DirectoryTree, MergedTree
from assembler.linux.emulators import Host
from assembler.plan.steps import Run
from assembler.runtime.base import Root

_DENIED, _MISSING, _OF_CONTAINERS = 126, 127, 1  # exit statuses
_WORDS = 32  # of a complaint that are looked at
_COMPLAINT = re.compile(
    "not found|no such file or directory|exec format error|permission denied|cannot execute"
    "|bad interpreter",
    re.IGNORECASE,
)


def refusal(status: int, step: Run, root: Root, said: str, host: Host) -> str:
    """Why what `step` executed in `root` could not be executed, and what would mend that, when it ended
    with `status` and this was `said` last; empty where nothing is known to be wrong with it."""
    complaints = [line for line in said.split("\n") if _COMPLAINT.search(line)]
    if status not in (_DENIED, _MISSING) and not (status == _OF_CONTAINERS and complaints):
        return ""
    layers = [DirectoryTree(one) for one in (root.upper, *root.lowers)]
    before = MergedTree(layers[1:] if root.work else layers)
    found = _refused(Programs(before, step, host), step.argv[0])
    if found is None and status != _OF_CONTAINERS and complaints:
        programs = Programs(MergedTree(layers), step, host)
        named = (_refused(programs, name) for name in _named(complaints[-1], step))
        found = next((one for one in named if one and _is_told(one, status)), None)
    return "" if found is None else f"{found.reason}; {found.remedy}"


def _is_told(found: Refused, status: int) -> bool:
    """Whether a shell that ended with `status` may have been refused so."""
    return found.by_shells and (found.permitted or status == _DENIED)


def _refused(programs: Programs, name: str) -> Refused | None:
    for path in programs.paths(name):
        with suppress(StepError, OSError):  # what cannot be read is not explained
            found = programs.refused(path)
            if found is not None:
                return found
    return None


def _named(complaint: str, step: Run) -> Iterator[str]:
    """What may be the name of a program in what the shell of `step` said, but its own."""
    shell = posixpath.basename(step.argv[0])
    for word in complaint.split(": ", _WORDS):
        word = word.strip(" \t\r'\"`‘’")
        if not word or _COMPLAINT.search(word):
            continue
        if posixpath.basename(word) != shell:
            yield word
