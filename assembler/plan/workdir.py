"""WORKDIR, and paths that are relative to it (rules K1, C9)."""

from __future__ import annotations

import posixpath

from assembler.dockerfile.instructions import Workdir
from assembler.plan.state import StageScope, StageState
from assembler.plan.steps import MakeDirectory
from assembler.values import replace


def workdir(state: StageState, instruction: Workdir, scope: StageScope) -> StageState:
    """The directory is made unless it is the root."""
    asked = scope.expand(state, instruction.span)(instruction.path)
    path = absolute(asked, state.cwd)
    state = replace(state, execution=replace(state.execution, working_dir=path))
    if path == "/":
        return state.told(f"WORKDIR {path}")
    step = MakeDirectory(
        path=path,
        user=state.execution.user,
        span=instruction.span,
        name=scope.title(instruction, len(state.steps)),
    )
    return state.stepped(step, f"WORKDIR {path}")


def absolute(path: str, cwd: str) -> str:
    """`path` joined to `cwd` and cleaned; an empty one keeps `cwd` (rule K1)."""
    return posixpath.normpath("/" + posixpath.join(cwd, path).lstrip("/"))


def destination_path(path: str, cwd: str) -> str:
    """`path` joined to `cwd`; a trailing `/` or `/.` is kept, it means a directory (rule C9)."""
    joined = absolute(path, cwd)
    if not path or path in (".", "./") or path.endswith(("/", "/.", "/..")):
        return joined if joined == "/" else f"{joined}/"
    return joined
