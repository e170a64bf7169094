"""Git repositories as trees of files (rules C29, X1).

Objects are kept in one bare repository for each remote below the store. It holds derived data: what
is broken in it is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from assembler.context.checkout import CheckoutTree, Subtree
from assembler.context.directory import DirectoryContext
from assembler.context.git_command import GitCommand
from assembler.dockerfile.remote import GitReference
from assembler.errors import NotFound, RegistryError, UsageError
from assembler.layer.changeset import Kind
from assembler.layer.tree import Tree, resolve
from assembler.linux.claims import taken

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TIME = re.compile(r"[0-9]{1,12}")
_SHORT = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class Repositories:
    """Fetches into bare repositories below `directory`."""

    directory: str
    git: GitCommand

    def commit(self, wanted: GitReference) -> str:
        """The commit that `wanted` means now. Raises NotFound, Unreachable, and UsageError for a
        commit that is to be fetched by itself and is none."""
        checksum = wanted.checksum.lower()
        if _COMMIT.fullmatch(wanted.ref):
            found: tuple[str, ...] = (wanted.ref,)
        elif wanted.fetch_by_commit:
            if not _COMMIT.fullmatch(checksum):
                given = f', got "{wanted.checksum}"' if wanted.checksum else ""
                raise UsageError(
                    f"{wanted.remote}: fetch-by-commit requires a full commit as checksum{given}"
                )
            found = (checksum,)
        else:
            found = self._asked(wanted)
        # An annotated tag is an object of its own: either may be what was written down.
        if not any(one.startswith(checksum) for one in found):
            raise NotFound(
                f"expected checksum to match {wanted.checksum}, got {' or '.join(found)}",
                operation=wanted.remote,
                hint="the branch or tag has moved",
            )
        return found[0]

    def checkout(self, wanted: GitReference, commit: str, keep: bool, into: str) -> Tree:
        """The files of `commit`, checked out into the directory `into`, made for it: below the
        subdirectory that is asked for, submodules in place, without `.git` unless `keep`."""
        form = "sha256" if len(commit) == 64 else "sha1"
        with self._locked(wanted, form) as bare:
            self._fetch(bare, wanted, commit)
            try:
                self._copied(bare, commit, into)
            except RegistryError:  # objects are missing or broken, by a power cut say
                shutil.rmtree(bare)
                shutil.rmtree(into, ignore_errors=True)
                self._made(bare, form)
                self._fetch(bare, wanted, commit)
                self._copied(bare, commit, into)
        there = ("-C", into)
        self.git.here(*there, "remote", "add", "origin", "--", wanted.remote)
        if wanted.submodules is not False and os.path.isfile(os.path.join(into, ".gitmodules")):
            self.git.there(wanted, *there, "submodule", "update", "--progress", "--init",
                           "--recursive", "--depth=1")  # fmt: skip
        if keep:
            self._tidied(os.path.join(into, ".git"))
        times = self.commit_time(into) * 1_000_000_000 if wanted.commit_times else None
        tree: Tree = CheckoutTree(DirectoryContext(into, None).tree(), keep=keep, mtime=times)
        if wanted.subdirectory:
            root = resolve(tree, wanted.subdirectory)
            found = tree.lookup(root)
            if found is None or found.kind is not Kind.DIRECTORY:
                raise NotFound(
                    f"{wanted.remote} has no directory {wanted.subdirectory} at {commit}",
                    operation=wanted.remote,
                )
            tree = Subtree(tree, root)
        return tree

    def commit_time(self, checkout: str) -> int:
        """When the commit of a checkout was made, in seconds since the epoch; 0 for one that says no
        time: anybody can write anything there."""
        said = self.git.here("-C", checkout, "show", "-s", "--format=%ct", "HEAD").strip()
        return int(said) if _TIME.fullmatch(said) else 0

    def _asked(self, wanted: GitReference) -> tuple[str, ...]:
        """Ask the remote: a branch before a tag; of an annotated tag its commit, then itself."""
        ref = wanted.ref or "HEAD"
        asked = ("ls-remote", "--", wanted.remote, ref, f"{ref}^{{}}")
        output = self.git.there(wanted, _in(os.devnull), *asked)  # in no repository
        lines = (line.partition("\t") for line in output.splitlines() if "\t" in line)
        found = {name: commit for commit, _, name in lines if _COMMIT.fullmatch(commit)}
        short = ref.removeprefix("refs/")
        for name in (ref, f"refs/{short}", f"refs/heads/{short}", f"refs/tags/{short}"):
            if name in found:
                return tuple(dict.fromkeys((found.get(f"{name}^{{}}", found[name]), found[name])))
        if _SHORT.fullmatch(ref):
            with self._locked(wanted) as bare:
                self._fetch_all(bare, wanted)
                if (full := self._full(bare, ref)) is not None:
                    return (full,)
        raise NotFound(
            f"{wanted.remote} has no branch, tag or commit {ref}",
            operation=wanted.remote,
            hint="name one after #",
        )

    def _full(self, bare: str, short: str) -> str | None:
        try:
            return self.git.here(_in(bare), "rev-parse", f"{short}^{{commit}}").strip()
        except RegistryError:
            return None

    def _fetch(self, bare: str, wanted: GitReference, commit: str) -> None:
        """Have `commit` in the repository `bare`, under a name of ours."""
        name = f"refs/assemble/{commit}"
        if self._has(bare, commit):
            self.git.here(_in(bare), "update-ref", name, commit)
            return
        shallow = ("fetch", "--progress", "--depth=1", "--no-tags", "--", wanted.remote)
        try:
            self.git.there(wanted, _in(bare), *shallow, f"+{commit}:{name}")
        except RegistryError:  # servers may serve only what a name points at
            if wanted.fetch_by_commit:
                raise
            self._fetch_all(bare, wanted)
            if not self._has(bare, commit):
                raise
            self.git.here(_in(bare), "update-ref", name, commit)

    def _fetch_all(self, bare: str, wanted: GitReference) -> None:
        shallow = os.path.exists(os.path.join(bare, "shallow"))
        deep = ("--unshallow",) if shallow else ()
        self.git.there(wanted, _in(bare), "fetch", "--progress", *deep, "--", wanted.remote,
                       "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")  # fmt: skip

    def _has(self, bare: str, commit: str) -> bool:
        try:
            self.git.here(_in(bare), "cat-file", "-e", f"{commit}^{{tree}}")
        except RegistryError:
            return False
        return True

    def _copied(self, bare: str, commit: str, into: str) -> None:
        """Check `commit` of the repository `bare` out into `into`."""
        name = f"refs/assemble/{commit}"
        form = "sha256" if len(commit) == 64 else "sha1"
        self.git.here("init", "--quiet", "--template=", f"--object-format={form}", "--", into)
        self.git.here("-C", into, "fetch", "--quiet", "--depth=1", "--no-tags", "--", bare,
                      f"+{name}:{name}")  # fmt: skip
        self.git.here("-C", into, "checkout", "--quiet", "--detach", name)
        self.git.here("-C", into, "update-ref", "-d", name)

    def _tidied(self, repository: str) -> None:
        """Take out of a `.git` what is of this machine: a path, times and numbers of inodes."""
        found = os.path.join(repository, "FETCH_HEAD")
        if os.path.exists(found):
            os.unlink(found)
        self.git.here(_in(repository), "read-tree", "HEAD")
        for submodule in _submodules(os.path.join(repository, "modules")):
            self._tidied(submodule)

    @contextmanager
    def _locked(self, wanted: GitReference, form: str = "sha1") -> Iterator[str]:
        """The bare repository of a remote, while no other process changes it."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        name = wanted.remote if form == "sha1" else f"{wanted.remote} {form}"
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        bare = os.path.join(self.directory, digest)
        lock = os.open(f"{bare}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not taken(lock):
                self.git.cancellation.wait(0.1)
                self.git.cancellation.check()
            self._made(bare, form)
            yield bare
        finally:
            os.close(lock)

    def _made(self, bare: str, form: str) -> None:
        """Make the bare repository, or free one from what a git that was killed left in it."""
        if self._is_whole(bare):
            _swept(bare)
            return
        if os.path.lexists(bare):
            shutil.rmtree(bare)
        chosen = f"--object-format={form}"
        self.git.here("init", "--quiet", "--bare", "--template=", chosen, "--", bare)

    def _is_whole(self, bare: str) -> bool:
        """Whether git takes `bare` for a repository: one that was killed while it made it left less."""
        try:
            return os.path.isdir(bare) and bool(self.git.here(_in(bare), "rev-parse", "--git-dir"))
        except RegistryError:
            return False


def _in(bare: str) -> str:
    """git's option for the repository `bare`. Told only where to go it would look for one in the
    directories above too, and find the user's: that of the store, that of the context."""
    return f"--git-dir={bare}"


def _submodules(directory: str) -> Iterator[str]:
    """The repositories of the submodules in a `modules` directory; their names may have slashes."""
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        path = os.path.join(directory, name)
        if os.path.isfile(os.path.join(path, "HEAD")):
            yield path
        else:
            yield from _submodules(path)


def _swept(bare: str) -> None:
    """Remove lock files and half-received packs: who holds our lock is the only one here."""
    packs = os.path.join(bare, "objects", "pack")
    for directory in (bare, packs, *(one for one, *_ in os.walk(os.path.join(bare, "refs")))):
        for name in os.listdir(directory):
            # no reference has a name that ends so (git-check-ref-format(1))
            if name.endswith(".lock") or (directory == packs and name.startswith("tmp_")):
                os.unlink(os.path.join(directory, name))
