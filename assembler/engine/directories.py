"""WORKDIR: the directory and its parents, where they are missing (rule K1)."""

from __future__ import annotations

from assembler.engine.owners import owner
from assembler.errors import StepError
from assembler.layer.changeset import Changeset, Entry, Kind
from assembler.layer.tree import Tree, resolve
from assembler.plan.steps import MakeDirectory


def make_directory(step: MakeDirectory, tree: Tree, now: int) -> Changeset:
    """The changeset that makes `step.path`; empty when it is there. `now` is in nanoseconds.

    Directories above it that exist are in it as they are, so that the layer holds its parents.
    """
    path = resolve(tree, step.path)
    if not path:
        return ()
    try:
        found = tree.lookup(path)
        if found is not None and found.kind is Kind.DIRECTORY:
            return ()
        uid, gid = owner(tree, step.user)
        parts = path.split("/")
        entries = []
        for depth in range(1, len(parts) + 1):
            here = "/".join(parts[:depth])
            existing = tree.lookup(here)
            if existing is not None and existing.kind is not Kind.DIRECTORY:
                raise StepError(f"/{here} is not a directory")
            made = Entry(here, Kind.DIRECTORY, mode=0o755, uid=uid, gid=gid, mtime=now)
            entries.append(existing or made)
        return tuple(entries)
    except StepError as error:
        raise StepError(error.message, step.span, hint=error.hint) from error
