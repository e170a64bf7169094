"""Git repositories as trees of files, by the git command (rules C29, X1).

Objects are kept in one bare repository for each remote below the store. git reads no configuration
of the user or the machine and asks nothing; credentials reach it in its environment only.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from assembler.cancellation import Cancellation
from assembler.context.directory import DirectoryContext
from assembler.dockerfile.remote import GitReference
from assembler.errors import NotFound, RegistryError, RuntimeMissing, Unreachable
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import Tree, resolve
from assembler.source import printable

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = re.compile(r"[0-9a-f]{4,64}")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Repositories:
    """Fetches into bare repositories below `directory`. `secrets` authenticate:
    GIT_AUTH_TOKEN[.host] and GIT_AUTH_HEADER[.host]; `agent` is the socket of an ssh agent."""

    directory: str
    secrets: Mapping[str, Callable[[], bytes]]
    cancellation: Cancellation
    path: str
    home: str
    agent: str = ""

    def commit(self, wanted: GitReference) -> str:
        """The commit that `wanted` means now. Raises NotFound, Unreachable."""
        if _COMMIT.fullmatch(wanted.ref):
            commit = wanted.ref
        elif wanted.fetch_by_commit and _COMMIT.fullmatch(wanted.checksum):
            commit = wanted.checksum
        else:
            commit = self._asked(wanted)
        if wanted.checksum and not commit.startswith(wanted.checksum):
            raise NotFound(
                f"expected checksum to match {wanted.checksum}, got {commit}",
                operation=hidden(wanted.remote),
                hint="the branch or tag has moved",
            )
        return commit

    def checkout(self, wanted: GitReference, commit: str, keep: bool, into: str) -> Tree:
        """The files of `commit`, checked out into the empty directory `into`: below the
        subdirectory that is asked for, submodules in place, without `.git` unless `keep`."""
        with self._locked(wanted.remote) as bare:
            self._fetch(bare, wanted, commit)
            self._git(wanted, "init", "--quiet", into)
            there = ("-C", into)
            self._git(wanted, *there, "fetch", "--quiet", "--depth=1", "--no-tags", bare,
                      f"+refs/assemble/{commit}:refs/assemble/{commit}")  # fmt: skip
            self._git(wanted, *there, "checkout", "--quiet", "--detach", f"refs/assemble/{commit}")
        self._git(wanted, *there, "update-ref", "-d", f"refs/assemble/{commit}")
        self._git(wanted, *there, "remote", "add", "origin", wanted.remote)
        if wanted.submodules is not False and os.path.isfile(os.path.join(into, ".gitmodules")):
            self._git(wanted, *there, "submodule", "update", "--quiet", "--init", "--recursive",
                      "--depth=1")  # fmt: skip
        times = self.commit_time(wanted, into) * 1_000_000_000 if wanted.commit_times else None
        tree: Tree = CheckoutTree(DirectoryContext(into, None).tree(), keep=keep, mtime=times)
        if wanted.subdirectory:
            root = resolve(tree, wanted.subdirectory)
            found = tree.lookup(root)
            if found is None or found.kind is not Kind.DIRECTORY:
                raise NotFound(
                    f"{hidden(wanted.remote)} has no directory {wanted.subdirectory} at {commit}",
                    operation=hidden(wanted.remote),
                )
            tree = Subtree(tree, root)
        return tree

    def commit_time(self, wanted: GitReference, checkout: str) -> int:
        """When the commit of a checkout was made, in seconds since the epoch."""
        return int(self._git(wanted, "-C", checkout, "show", "-s", "--format=%ct", "HEAD"))

    def _asked(self, wanted: GitReference) -> str:
        """Ask the remote: a branch before a tag, a tag's commit rather than the tag itself."""
        ref = wanted.ref or "HEAD"
        output = self._git(wanted, "ls-remote", wanted.remote, ref, f"{ref}^{{}}")
        found = {name: commit for commit, _, name in _lines(output)}
        for name in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}"):
            if name in found:
                return found.get(f"{name}^{{}}", found[name])
        if _SHORT.fullmatch(ref):
            with self._locked(wanted.remote) as bare:
                self._fetch_all(bare, wanted)
                return self._git(wanted, "-C", bare, "rev-parse", f"{ref}^{{commit}}").strip()
        raise NotFound(
            f"{hidden(wanted.remote)} has no branch, tag or commit {ref}",
            operation=hidden(wanted.remote),
            hint="name one after #",
        )

    def _fetch(self, bare: str, wanted: GitReference, commit: str) -> None:
        """Have `commit` in the repository `bare`, under a name of ours."""
        name = f"refs/assemble/{commit}"
        if self._has(bare, wanted, commit):
            self._git(wanted, "-C", bare, "update-ref", name, commit)
            return
        shallow = ("fetch", "--quiet", "--depth=1", "--no-tags", wanted.remote)
        try:
            self._git(wanted, "-C", bare, *shallow, f"+{commit}:{name}")
        except RegistryError:  # servers may serve only what a name points at
            self._fetch_all(bare, wanted)
            if not self._has(bare, wanted, commit):
                raise
            self._git(wanted, "-C", bare, "update-ref", name, commit)

    def _fetch_all(self, bare: str, wanted: GitReference) -> None:
        shallow = os.path.exists(os.path.join(bare, "shallow"))
        deep = ("--unshallow",) if shallow else ()
        self._git(wanted, "-C", bare, "fetch", "--quiet", *deep, wanted.remote,
                  "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")  # fmt: skip

    def _has(self, bare: str, wanted: GitReference, commit: str) -> bool:
        try:
            self._git(wanted, "-C", bare, "cat-file", "-e", f"{commit}^{{tree}}")
        except RegistryError:
            return False
        return True

    @contextmanager
    def _locked(self, remote: str) -> Iterator[str]:
        """The bare repository of a remote, while no other process changes it."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        bare = os.path.join(self.directory, hashlib.sha256(remote.encode()).hexdigest())
        lock = os.open(f"{bare}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.cancellation.wait(0.1)
                    self.cancellation.check()
            if not os.path.isfile(os.path.join(bare, "HEAD")):
                self._git(GitReference(remote), "init", "--quiet", "--bare", bare)
            yield bare
        finally:
            os.close(lock)

    def _git(self, wanted: GitReference, *arguments: str) -> str:
        """Run git; its stdout. Raises Unreachable with what it said."""
        try:
            process = subprocess.Popen(
                ["git", *arguments],
                env=self._environment(wanted),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise RuntimeMissing(
                "git is not installed", "git", hint="apt-get install git"
            ) from error
        with process:
            try:
                while True:
                    self.cancellation.check()
                    try:
                        output, said = process.communicate(timeout=0.1)
                        break
                    except subprocess.TimeoutExpired:
                        continue
            except BaseException:
                os.killpg(process.pid, 15)
                raise
        if process.returncode != 0:
            raise self._failed(wanted, arguments, said.decode("utf-8", "replace"))
        return output.decode("utf-8", "surrogateescape")

    def _failed(self, wanted: GitReference, arguments: tuple[str, ...], said: str) -> RegistryError:
        lines = [line for line in said.splitlines() if line.strip()]
        reason = printable(hidden(lines[-1] if lines else "no message"))[:300]
        verb = arguments[2] if arguments[0] == "-C" else arguments[0]
        refused = "could not read Username" in said or "Authentication failed" in said
        return Unreachable(
            f"git {verb} of {hidden(wanted.remote)} failed: {reason}",
            operation=hidden(wanted.remote),
            hint="give --secret id=GIT_AUTH_TOKEN,src=FILE" if refused else "",
        )

    def _environment(self, wanted: GitReference) -> dict[str, str]:
        environment = {
            "PATH": self.path,
            "HOME": self.home,
            "LC_ALL": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
        }
        if self.agent:
            environment["SSH_AUTH_SOCK"] = self.agent
        # Our own fetches may read files; what a repository names as submodule may not (CVE-2022-39253).
        settings = [("protocol.allow", "never"), ("protocol.file.allow", "user")]
        settings += [
            (f"protocol.{name}.allow", "always") for name in ("http", "https", "git", "ssh")
        ]
        settings += _authorization(wanted.remote, self.secrets)
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            environment[f"GIT_CONFIG_KEY_{number}"] = key
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        return environment


def _authorization(
    remote: str, secrets: Mapping[str, Callable[[], bytes]]
) -> list[tuple[str, str]]:
    from urllib.parse import urlsplit

    if not remote.startswith(("http://", "https://")):
        return []
    parts = urlsplit(remote)
    host = parts.netloc.rpartition("@")[2]
    place = f"http.{parts.scheme}://{host}/.extraheader"
    for id in (f"GIT_AUTH_HEADER.{host}", f"GIT_AUTH_TOKEN.{host}", "GIT_AUTH_HEADER",
               "GIT_AUTH_TOKEN"):  # fmt: skip
        if id in secrets:
            value = secrets[id]().decode("utf-8", "surrogateescape").strip()
            if id.startswith("GIT_AUTH_TOKEN"):
                encoded = base64.b64encode(f"x-access-token:{value}".encode()).decode()
                value = f"basic {encoded}"
            return [(place, f"Authorization: {value}")]
    return []


def hidden(text: str) -> str:
    """`text` without user names and passwords in URLs."""
    return _PASSWORD.sub("", text)


def _lines(output: str) -> list[tuple[str, str, str]]:
    return [line.partition("\t") for line in output.splitlines() if "\t" in line]


@dataclass(frozen=True, slots=True)
class CheckoutTree:
    """A checkout with the modes git knows, 0755 and 0644, whatever umask it was made under."""

    files: Tree
    keep: bool
    mtime: int | None = None

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        if not self.keep and ".git" in path.split("/"):
            return None
        entry = self.files.lookup(path)
        return None if entry is None else self._normal(entry)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        found = self.files.children(path)
        return [self._normal(entry) for entry in found if self.keep or entry.name != ".git"]

    def _normal(self, entry: Entry) -> Entry:
        if entry.kind is Kind.SYMLINK:
            mode = 0o777
        else:
            executable = entry.kind is Kind.DIRECTORY or entry.mode & 0o100
            mode = 0o755 if executable else 0o644
        return replace(entry, mode=mode, mtime=entry.mtime if self.mtime is None else self.mtime)


@dataclass(frozen=True, slots=True)
class Subtree:
    """What is below one directory of a tree, as a tree of its own."""

    tree: Tree
    root: str

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        entry = self.tree.lookup(f"{self.root}/{path}" if path else self.root)
        return None if entry is None else replace(entry, path=path)

    def children(self, path: str) -> Iterable[Entry]:
        """See `Tree.children`."""
        found = self.tree.children(f"{self.root}/{path}" if path else self.root)
        return [replace(entry, path=f"{path}/{entry.name}".lstrip("/")) for entry in found]
