"""Repositories by the real git: references, checkouts, hostile ones, servers that hang (rule C29).

Remotes are directories here, over git's file protocol; what only a server can do wrong is done by
servers on loopback, or by a `git` or `ssh` of our own.
"""

from __future__ import annotations

import base64
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from assembler.cancellation import Cancellation
from assembler.context.git import Repositories
from assembler.context.git_command import GitCommand
from assembler.dockerfile.remote import GitReference
from assembler.errors import (
    AssemblerError,
    Cancelled,
    NotFound,
    ProtocolViolation,
    Unreachable,
    UsageError,
)
from assembler.layer.changeset import Kind
from assembler.layer.tree import Tree
from tests.answering import answering
from tests.bounds import watchdog
from tests.processes import naming
from tests.served import git_serving

MADE = 1_700_000_000


@dataclass(frozen=True)
class Upstream:
    """A repository that others fetch from."""

    path: Path

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def __call__(self, *arguments: str) -> str:
        env = {
            "PATH": os.environ["PATH"],
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_DATE": f"{MADE} +0000", "GIT_COMMITTER_DATE": f"{MADE} +0000",
        }  # fmt: skip
        command = ["git", "-C", str(self.path), "-c", "protocol.file.allow=always", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        """Commit files; `__` in a name stands for a slash."""
        for name, text in files.items():
            path = self.path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self("add", "-A")
        self("commit", "-qm", "change", "--allow-empty")
        return self("rev-parse", "HEAD")


def upstream_at(path: Path, *options: str) -> Upstream:
    path.mkdir(parents=True)
    found = Upstream(path)
    found("init", "-q", "-b", "main", *options)
    return found


@pytest.fixture
def upstream(tmp_path: Path, require: Callable[..., None]) -> Upstream:
    require("git")
    return upstream_at(tmp_path / "upstream.git")


@dataclass
class Client:
    """Repositories with a directory of their own; `number` of checkouts so far."""

    directory: Path
    cancellation: Cancellation
    secrets: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": os.environ["PATH"]})
    patience: float = 300.0
    agent: str = ""
    number: int = 0

    @property
    def git(self) -> GitCommand:
        return GitCommand(
            self.cancellation, self.secrets, self.variables, str(self.directory / "home"),
            self.agent, self.patience, pause=0.01,
        )  # fmt: skip

    @property
    def repositories(self) -> Repositories:
        return Repositories(str(self.directory / "git"), self.git)

    def commit(self, url: str, ref: str = "", **more: Any) -> str:
        return self.repositories.commit(GitReference(url, ref, **more))

    def tree(self, url: str, ref: str = "", keep: bool = False, **more: Any) -> Tree:
        wanted = GitReference(url, ref, **more)
        commit = self.repositories.commit(wanted)
        self.number += 1
        return self.repositories.checkout(wanted, commit, keep, str(self.place))

    @property
    def place(self) -> Path:
        return self.directory / f"checkout{self.number}"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    directory = tmp_path / "client"
    directory.mkdir()
    with Cancellation() as cancellation:
        yield Client(directory, cancellation)


def files(tree: Tree, below: str = "") -> dict[str, str]:
    """The files of a tree and what is in them; a symlink's text after `-> `."""
    found: dict[str, str] = {}
    for entry in tree.children(below):
        if entry.kind is Kind.DIRECTORY:
            found |= files(tree, entry.path)
        elif entry.source is None:
            found[entry.path] = f"-> {entry.link}"
        else:
            with entry.source.open() as stream:
                found[entry.path] = stream.read().decode("latin-1")
    return found


def program(directory: Path, name: str, text: str) -> str:
    """A program `name` before all others on a PATH."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def left(word: str) -> list[str]:
    """The command lines that hold `word`, of processes that stay: one that was killed is there until
    it has its turn."""
    end = time.monotonic() + 60
    while (found := naming(word)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


# References --------------------------------------------------------------------------------------


def test_C29_every_kind_of_reference(client: Client, upstream: Upstream) -> None:
    first = upstream.commit(f="one")
    upstream("tag", "light")
    upstream("tag", "-am", "x", "annotated")
    upstream("update-ref", "refs/pull/1/head", first)
    upstream("branch", "old")
    last = upstream.commit(f="two")
    for ref in ("light", "annotated", "refs/tags/annotated", "tags/light", "old", "heads/old",
                "refs/heads/old", "refs/pull/1/head", "pull/1/head", first, first[:8]):  # fmt: skip
        assert client.commit(upstream.url, ref) == first, ref
    for ref in ("", "HEAD", "main"):
        assert client.commit(upstream.url, ref) == last, ref


def test_C29_a_branch_is_meant_before_a_tag(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    upstream("tag", "both")
    upstream("branch", "both")
    upstream("symbolic-ref", "HEAD", "refs/heads/both")
    of_branch = upstream.commit(f="two")
    assert client.commit(upstream.url, "both") == of_branch


def test_C29_a_name_is_no_other_names_end(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    upstream("branch", "feature/a")
    with pytest.raises(NotFound, match=r"has no branch, tag or commit a$"):
        client.commit(upstream.url, "a")


def test_C29_a_commit_that_no_name_points_at(client: Client, upstream: Upstream) -> None:
    first = upstream.commit(f="one")
    upstream.commit(f="two")
    assert files(client.tree(upstream.url, first)) == {"f": "one"}


def test_C29_a_moved_branch_is_followed(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    assert files(client.tree(upstream.url, "main")) == {"f": "one"}
    upstream.commit(f="two")
    assert files(client.tree(upstream.url, "main")) == {"f": "two"}
    upstream("reset", "-q", "--hard", "HEAD^")
    upstream.commit(f="three")
    assert files(client.tree(upstream.url, "main")) == {"f": "three"}


def test_C29_a_branch_may_become_a_directory_of_branches(
    client: Client, upstream: Upstream
) -> None:
    first = upstream.commit(f="one")
    upstream("branch", "a")
    client.commit(upstream.url, first[:8])
    upstream("branch", "-D", "a")
    upstream("branch", "a/b")
    assert files(client.tree(upstream.url, "a/b")) == {"f": "one"}


def test_C28_a_checksum_is_a_commit_or_an_annotated_tag(client: Client, upstream: Upstream) -> None:
    commit = upstream.commit(f="one")
    upstream("tag", "-am", "x", "v1")
    tag = upstream("rev-parse", "v1")
    for checksum in (commit, commit[:7], commit.upper(), tag, tag[:9]):
        assert client.commit(upstream.url, "v1", checksum=checksum) == commit
    assert client.commit(upstream.url, commit, checksum=commit[:7]) == commit
    with pytest.raises(NotFound, match=f"expected checksum to match 00, got {commit} or {tag}"):
        client.commit(upstream.url, "v1", checksum="00")


def test_C29_fetch_by_commit_asks_for_nothing_else(client: Client, upstream: Upstream) -> None:
    commit = upstream.commit(f="one")
    upstream.commit(f="two")
    upstream("config", "uploadpack.allowReachableSHA1InWant", "true")
    tree = client.tree(upstream.url, "main", checksum=commit, fetch_by_commit=True)
    assert files(tree) == {"f": "one"}
    for checksum in ("", commit[:12]):
        with pytest.raises(UsageError, match="fetch-by-commit requires a full commit"):
            client.commit(upstream.url, "main", checksum=checksum, fetch_by_commit=True)


def test_C29_repositories_of_sha256(client: Client, tmp_path: Path, upstream: Upstream) -> None:
    newer = upstream_at(tmp_path / "newer.git", "--object-format=sha256")
    commit = newer.commit(f="one")
    assert len(commit) == 64
    assert files(client.tree(newer.url)) == {"f": "one"}
    assert files(client.tree(newer.url, commit)) == {"f": "one"}


# Checkouts ---------------------------------------------------------------------------------------


def test_C29_modes_are_normalised(client: Client, upstream: Upstream) -> None:
    upstream.commit(d__plain="", d__run="")
    (upstream.path / "d/run").chmod(0o750)
    (upstream.path / "link").symlink_to("../outside")
    upstream.commit()
    before = os.umask(0o077)
    try:
        tree = client.tree(upstream.url)
    finally:
        os.umask(before)
    modes = {path: entry.mode for path in ("d", "d/plain", "d/run")
             if (entry := tree.lookup(path)) is not None}  # fmt: skip
    assert modes == {"d": 0o755, "d/plain": 0o644, "d/run": 0o755}
    assert files(tree)["link"] == "-> ../outside"


def test_C29_times_of_the_commit(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    entry = client.tree(upstream.url, commit_times=True).lookup("f")
    assert entry is not None and entry.mtime == MADE * 1_000_000_000
    now = client.tree(upstream.url).lookup("f")
    assert now is not None and now.mtime > (MADE + 1) * 1_000_000_000


@pytest.mark.parametrize("time", ["-5", "9" * 30])
def test_C29_a_commit_may_say_any_time(client: Client, upstream: Upstream, time: str) -> None:
    upstream.commit(f="one")
    text = upstream("cat-file", "commit", "HEAD").replace(f" {MADE} ", f" {time} ")
    (upstream.path / "written").write_text(f"{text}\n")
    commit = upstream("hash-object", "-t", "commit", "-w", "--literally", "written")
    upstream("update-ref", "refs/heads/main", commit)
    tree = client.tree(upstream.url, "main", commit_times=True)
    assert [entry.mtime for entry in tree.children("")] == [0]
    assert client.repositories.commit_time(str(client.place)) == 0


def test_C29_a_subdirectory_is_the_root(client: Client, upstream: Upstream) -> None:
    upstream.commit(a__b__f="f", other="o")
    assert files(client.tree(upstream.url, subdirectory="a/b")) == {"f": "f"}
    for wrong in ("nope", "other"):
        with pytest.raises(NotFound, match=f"has no directory {wrong} at"):
            client.tree(upstream.url, subdirectory=wrong)


def test_B7_a_subdirectory_that_is_a_link_stays_inside(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("s")
    upstream.commit(f="f")
    (upstream.path / "up").symlink_to("../outside")
    (upstream.path / "absolute").symlink_to(tmp_path / "outside")
    upstream.commit()
    for link in ("up", "absolute"):
        with pytest.raises(NotFound):
            client.tree(upstream.url, subdirectory=link)


def test_C29_without_its_git_directory(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one", **{".gitignore": "x", ".github__w": "y"})
    assert set(files(client.tree(upstream.url))) == {"f", ".gitignore", ".github/w"}
    kept = files(client.tree(upstream.url, keep=True))
    assert ".git/HEAD" in kept and upstream.url in kept[".git/config"]


def test_B13_a_kept_git_directory_says_nothing_of_this_machine(
    client: Client, upstream: Upstream
) -> None:
    upstream.commit(d__f="one")
    first = files(client.tree(upstream.url, "main", keep=True))
    assert not [
        name for name in first if "FETCH_HEAD" in name or "/logs/" in name or "hook" in name
    ]
    assert not [name for name, text in first.items() if str(client.directory) in text]
    time.sleep(1.1)  # an index holds times and numbers of inodes, unless it is told not to
    assert files(client.tree(upstream.url, "main", keep=True)) == first
    status = Upstream(client.place)("status", "--porcelain")
    assert status == ""


def test_B13_nor_do_those_of_submodules(client: Client, upstream: Upstream, tmp_path: Path) -> None:
    inner, middle = upstream_at(tmp_path / "inner.git"), upstream_at(tmp_path / "middle.git")
    inner.commit(i="i")
    middle("submodule", "--quiet", "add", "../inner.git", "in")
    middle("commit", "-qm", "x")
    upstream("submodule", "--quiet", "add", "--name", "a/b", "../middle.git", "dep")
    upstream("commit", "-qm", "x")
    inner.commit(i="more")  # so what is asked for is a commit that no branch is at
    with git_serving(tmp_path) as address:
        first = files(client.tree(f"{address}/upstream.git", "main", keep=True))
        time.sleep(1.1)
        again = files(client.tree(f"{address}/upstream.git", "main", keep=True))
        assert Upstream(client.place)("status", "--porcelain") == ""
    assert again == first and ".git/modules/a/b/modules/in/index" in first
    assert not [name for name in first if "FETCH_HEAD" in name or "/hooks/" in name]
    assert not [name for name, text in first.items() if str(client.directory) in text]


def test_C29_submodules_of_submodules_and_relative_ones(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    inner = upstream_at(tmp_path / "inner.git")
    inner.commit(i="i")
    middle = upstream_at(tmp_path / "middle.git")
    middle.commit(m="m")
    middle("submodule", "--quiet", "add", "../inner.git", "in")
    middle("commit", "-qm", "x")
    upstream.commit(f="f")
    upstream("submodule", "--quiet", "add", "../middle.git", "dep")
    upstream("commit", "-qm", "x")
    with git_serving(tmp_path) as address:
        found = files(client.tree(f"{address}/upstream.git"))
        assert (found["f"], found["dep/m"], found["dep/in/i"]) == ("f", "m", "i")
        assert "dep/m" not in files(client.tree(f"{address}/upstream.git", submodules=False))


@pytest.mark.parametrize(
    ("name", "path", "url"),
    [
        ("x", "dep", "file:///etc"),
        ("x", "dep", "/etc"),
        ("x", "dep", "ext::sh -c touch% {marker}"),
        ("x", "dep", "-u./payload"),
        ("x", "dep", "--upload-pack=touch {marker}"),
        ("x", "-u./payload", "git://127.0.0.1:1/x"),
        ("../../hooks", "dep", "git://127.0.0.1:1/x"),
        ("x", "../outside", "git://127.0.0.1:1/x"),
        ("x", "dep", "ssh://-oProxyCommand=touch%20{marker}/x"),
    ],
)
def test_B7_a_hostile_gitmodules_does_nothing_here(
    client: Client, upstream: Upstream, tmp_path: Path, name: str, path: str, url: str
) -> None:
    marker = tmp_path / "marker"
    commit = upstream.commit(payload=f"#!/bin/sh\ntouch {marker}\n")
    (upstream.path / "payload").chmod(0o755)
    text = f'[submodule "{name}"]\n\tpath = "{path}"\n\turl = "{url.format(marker=marker)}"\n'
    (upstream.path / ".gitmodules").write_text(text)
    link = "dep" if path.startswith(("-", "..")) else path
    upstream("update-index", "--add", "--cacheinfo", f"160000,{commit},{link}")
    upstream("add", "payload", ".gitmodules")
    upstream("commit", "-qm", "hostile")
    try:
        found = files(client.tree(upstream.url))
    except AssemblerError:
        found = {}
    assert not marker.exists() and not (client.directory / "outside").exists()
    assert not [one for one in found if one.startswith("dep/")]


def test_B7_no_hook_and_no_filter_of_a_repository_runs(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    upstream.commit(**{".gitattributes": "* filter=evil\n", "f": "text",
                       ".git_hooks__post-checkout": f"#!/bin/sh\ntouch {marker}\n"})  # fmt: skip
    home = client.directory / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = touch {marker}\n[core]\n\thooksPath = .git_hooks\n'
    )
    assert files(client.tree(upstream.url))["f"] == "text"
    assert not marker.exists()


def test_B13_no_attributes_of_this_user_change_a_file(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="$Id$\n")
    own = client.directory / "home" / ".config" / "git"
    own.mkdir(parents=True)
    (own / "attributes").write_text("f text eol=crlf ident\n")
    assert files(client.tree(upstream.url)) == {"f": "$Id$\n"}


def test_B7_a_reference_is_never_an_option(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.commit(f="f")
    marker = tmp_path / "marker"
    with pytest.raises(NotFound):
        client.commit(upstream.url, f"--upload-pack=touch {marker};git-upload-pack")
    with pytest.raises(Unreachable):
        client.commit(f"--upload-pack=touch {marker}", "main")
    assert not marker.exists()


# What is left behind -----------------------------------------------------------------------------


def bare(client: Client) -> Path:
    return next(path for path in (client.directory / "git").iterdir() if path.is_dir())


def test_locks_of_a_git_that_was_killed_are_no_obstacle(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    client.tree(upstream.url)
    upstream.commit(f="two")
    commit = upstream("rev-parse", "HEAD")
    for name in ("shallow.lock", "packed-refs.lock", f"refs/assemble/{commit}.lock",
                 "objects/pack/tmp_pack_abc"):  # fmt: skip
        (bare(client) / name).write_text("")
    assert files(client.tree(upstream.url)) == {"f": "two"}
    assert not list(bare(client).rglob("tmp_pack*"))


def test_locks_of_branches_and_tags_are_no_obstacle(client: Client, upstream: Upstream) -> None:
    """All of them are fetched for a commit that is named by its first digits."""
    commit = upstream.commit(f="one")
    upstream("tag", "v1")
    upstream("branch", "a/b")
    assert client.commit(upstream.url, commit[:8]) == commit
    second = upstream.commit(f="two")
    upstream("tag", "--force", "v1")
    upstream("branch", "--force", "a/b")
    for name in ("refs/tags/v1", "refs/remotes/origin/a/b", "refs/remotes/origin/main"):
        (bare(client) / f"{name}.lock").write_text("")
    assert client.commit(upstream.url, second[:8]) == second


def test_broken_objects_are_fetched_again(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    client.tree(upstream.url)
    for path in (bare(client) / "objects").rglob("*"):
        if path.is_file() and len(path.parent.name) == 2:
            path.chmod(0o644)
    blob = upstream("rev-parse", "HEAD:f")
    loose = bare(client) / "objects" / blob[:2] / blob[2:]
    loose.unlink()
    assert files(client.tree(upstream.url)) == {"f": "one"}


def test_a_repository_half_made_is_made_anew(client: Client, upstream: Upstream) -> None:
    upstream.commit(f="one")
    client.tree(upstream.url)
    place = bare(client)
    shutil.rmtree(place)
    place.mkdir()
    (place / "config").write_text("")
    assert files(client.tree(upstream.url)) == {"f": "one"}


@pytest.mark.parametrize("last", ["objects", "objects/pack"])
def test_a_repository_half_made_is_not_looked_for_above_the_store(
    client: Client, upstream: Upstream, last: str
) -> None:
    """The store may be in a checkout, and git makes the objects' directory last of all."""
    upstream.commit(f="one")
    client.tree(upstream.url)
    users = Upstream(client.directory)
    users("init", "-q", "-b", "main")
    place = bare(client)
    shutil.rmtree(place / last)
    assert files(client.tree(upstream.url)) == {"f": "one"}
    assert (place / "objects").is_dir() and users("for-each-ref") == ""


def test_B7_no_setting_of_the_repository_that_the_user_is_in_is_read(
    client: Client, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = upstream.commit(f="one")
    users, other = upstream_at(tmp_path / "users"), upstream_at(tmp_path / "other")
    other.commit(f="other")
    users("config", f"url.{other.url}.insteadOf", upstream.url)
    monkeypatch.chdir(users.path)
    assert client.commit(upstream.url, "main") == commit
    assert files(client.tree(upstream.url, "main")) == {"f": "one"}


def test_fetches_of_one_repository_take_turns(client: Client, upstream: Upstream) -> None:
    commits = [upstream.commit(f=str(number)) for number in range(4)]
    found: dict[int, dict[str, str]] = {}

    def fetch(number: int) -> None:
        wanted = GitReference(upstream.url, commits[number])
        into = str(client.directory / f"parallel{number}")
        found[number] = files(client.repositories.checkout(wanted, wanted.ref, False, into))

    threads = [threading.Thread(target=fetch, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {"f": str(number)} for number in range(4)}


# Servers that hang, and Ctrl-C -------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a git server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"git://127.0.0.1:{listener.getsockname()[1]}/silent.git"


def test_a_server_that_hangs_is_given_up(
    client: Client, silent: str, require: Callable[..., None]
) -> None:
    require("git")
    client.patience = 0.5
    with watchdog(), pytest.raises(Unreachable, match=r"the server of git://.* sent nothing for"):
        client.commit(silent)
    assert left(silent) == []


@pytest.mark.parametrize("deaf", [False, True], ids=["", "to SIGTERM"])
def test_a_cancelled_fetch_leaves_no_process(
    client: Client,
    silent: str,
    require: Callable[..., None],
    tmp_path: Path,
    deaf: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("git")
    client.patience = 3600.0
    monkeypatch.setattr("assembler.linux.programs.GRACE", 0.3 if deaf else 90.0)
    if deaf:
        ignoring = f"trap '' TERM; sh -c 'sleep 90; :' {silent} & wait; sleep 90"
        client.variables = {"PATH": program(tmp_path / "bin", "git", ignoring)}

    begun: list[str] = []

    def cancel() -> None:
        end = time.monotonic() + 60
        while not begun and time.monotonic() < end:
            time.sleep(0.02)
            begun.extend(naming(silent))
        client.cancellation.cancel(2)

    later = threading.Thread(target=cancel)
    later.start()
    with watchdog(), pytest.raises(Cancelled):
        client.commit(silent)
    later.join()
    assert begun and left(silent) == []


def test_a_connection_that_breaks_is_tried_again(client: Client, tmp_path: Path) -> None:
    count = tmp_path / "count"
    text = f"echo x >> {count}\necho 'fatal: early EOF' >&2\nexit 128"
    client.variables = {"PATH": program(tmp_path / "bin", "git", text)}
    with pytest.raises(Unreachable, match="early EOF"):
        client.commit("git://h/r.git")
    assert count.read_text() == "x\n" * 3


def test_a_refusal_is_not(client: Client, tmp_path: Path) -> None:
    count = tmp_path / "count"
    text = f"echo x >> {count}\necho 'fatal: remote error: access denied' >&2\nexit 128"
    client.variables = {"PATH": program(tmp_path / "bin", "git", text)}
    with pytest.raises(Unreachable, match=r"git ls-remote of git://h/r\.git failed: fatal: remote"):
        client.commit("git://h/r.git")
    assert count.read_text() == "x\n"


def test_an_endless_list_of_references_is_not_read_to_its_end(
    client: Client, tmp_path: Path
) -> None:
    client.variables = {"PATH": program(tmp_path / "bin", "git", "exec yes endless-references")}
    with pytest.raises(ProtocolViolation, match="more references than anyone has"):
        client.commit("git://h/r.git")
    assert left("endless-references") == []


def test_B12_what_a_server_says_is_made_harmless(client: Client, tmp_path: Path) -> None:
    text = r"printf 'fatal: \033]0;x\007 https://u:s3cret@h/ \n' >&2; exit 1"
    client.variables = {"PATH": program(tmp_path / "bin", "git", text)}
    with pytest.raises(Unreachable) as raised:
        client.commit("git://h/r.git")
    assert "\x1b" not in str(raised.value) and "s3cret" not in str(raised.value)


# Secrets -----------------------------------------------------------------------------------------


@dataclass
class Smart:
    """git's CGI program behind a web server; `asked` are (path, Authorization)."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    redirect: str = ""
    token: str = ""


@contextmanager
def smart(base: Path) -> Iterator[Smart]:
    """The smart http protocol for every repository below `base`."""
    found = Smart()
    where = subprocess.run(["git", "--exec-path"], capture_output=True, text=True).stdout.strip()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, body: bytes) -> None:
            authorization = self.headers.get("Authorization", "")
            found.asked.append((self.path, authorization))
            if found.redirect:
                return self._send(302, {"Location": found.redirect + self.path}, b"")
            if found.token and authorization.lower() != found.token.lower():
                return self._send(401, {"WWW-Authenticate": "Basic"}, b"")
            path, _, query = self.path.partition("?")
            env = {
                "GIT_PROJECT_ROOT": str(base), "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path.replace(".git", ".git/.git", 1), "QUERY_STRING": query,
                "REQUEST_METHOD": self.command, "PATH": os.environ["PATH"],
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }  # fmt: skip
            done = subprocess.run(
                [f"{where}/git-http-backend"], env=env, input=body, capture_output=True
            )
            head, _, rest = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self._send(int(fields.pop("Status", "200").split()[0]), fields, rest)

        def _send(self, status: int, fields: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**fields, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as found.url:
        yield found


def basic(text: str) -> str:
    return f"basic {base64.b64encode(text.encode('latin-1')).decode()}"


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({"GIT_AUTH_TOKEN": "t"}, basic("x-access-token:t")),
        ({"GIT_AUTH_TOKEN": "\xe9"}, basic("x-access-token:\xe9")),
        ({"GIT_AUTH_HEADER": "Bearer t\n"}, "Bearer t"),
        ({"GIT_AUTH_TOKEN": "t", "GIT_AUTH_HEADER": "Bearer h"}, "Bearer h"),
        ({"GIT_AUTH_TOKEN": "t", "GIT_AUTH_TOKEN.HOST": "mine"}, basic("x-access-token:mine")),
        ({"GIT_AUTH_HEADER": "no", "GIT_AUTH_TOKEN.HOST": "mine"}, basic("x-access-token:mine")),
        ({"GIT_AUTH_TOKEN.other.example": "t"}, ""),
    ],
)
def test_C29_secrets_authenticate(
    client: Client, upstream: Upstream, tmp_path: Path, secrets: dict[str, str], expected: str
) -> None:
    upstream.commit(f="one")
    with smart(tmp_path) as server:
        host = server.url.removeprefix("http://")
        client.secrets = {
            id.replace("HOST", host): (lambda value=value: value.encode("latin-1"))
            for id, value in secrets.items()
        }
        server.token = expected
        assert files(client.tree(f"{server.url}/upstream.git")) == {"f": "one"}
        assert {authorization for _, authorization in server.asked} == {expected}


def test_18_4_credentials_of_a_url_authenticate_and_are_kept_nowhere(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.commit(f="one")
    arguments = tmp_path / "arguments"
    real = shutil.which("git")
    path = program(tmp_path / "bin", "git", f'echo "$@" >> {arguments}\nexec {real} "$@"')
    client.variables = {"PATH": path}
    with smart(tmp_path) as server:
        server.token = basic("me:s3cret")
        tree = client.tree(f"{server.url}/upstream.git", keep=True, credentials="me:s3cret")
        assert files(tree)["f"] == "one"
    assert "s3cret" not in arguments.read_text()
    for found in client.directory.rglob("*"):
        if found.is_file():
            assert b"s3cret" not in found.read_bytes(), found


@pytest.mark.parametrize("id", ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN.HOST", ""])
def test_R1_a_secret_follows_no_redirect(
    client: Client, upstream: Upstream, tmp_path: Path, id: str
) -> None:
    """git itself would send it along: to the new address, with the second request."""
    upstream.commit(f="one")
    with smart(tmp_path) as other, smart(tmp_path) as server:
        server.redirect = other.url
        id = id.replace("HOST", server.url.removeprefix("http://"))
        client.secrets = {id: lambda: b"s3cret"} if id else {}
        with pytest.raises(Unreachable) as raised:
            client.tree(f"{server.url}/upstream.git", credentials="" if id else "me:s3cret")
        assert server.asked and other.asked == []
        assert "redirects" in raised.value.hint


def test_R1_without_a_secret_a_redirect_is_followed(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.commit(f="one")
    with smart(tmp_path) as other, smart(tmp_path) as server:
        server.redirect = other.url
        assert files(client.tree(f"{server.url}/upstream.git")) == {"f": "one"}


def test_C29_a_password_that_nobody_gave_is_not_sent(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    """A Dockerfile, or a submodule, could have with it what its author may not."""
    upstream.commit(f="one")
    home = client.directory / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    with smart(tmp_path) as server:
        server.token = basic("me:s3cret")
        with pytest.raises(Unreachable):
            client.tree(f"{server.url}/upstream.git")
        assert {authorization for _, authorization in server.asked} == {""}


def test_R1_a_submodule_elsewhere_gets_no_secret(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    module = upstream_at(tmp_path / "module.git")
    module.commit(m="m")
    upstream.commit(f="one")
    with smart(tmp_path) as other, smart(tmp_path) as server:
        upstream("submodule", "--quiet", "add", f"{other.url}/module.git", "dep")
        upstream("commit", "-qm", "x")
        client.secrets = {"GIT_AUTH_TOKEN": lambda: b"s3cret"}
        other.asked.clear()
        assert files(client.tree(f"{server.url}/upstream.git"))["dep/m"] == "m"
        assert {authorization for _, authorization in other.asked} == {""}
        assert basic("x-access-token:s3cret") in {one for _, one in server.asked}


def test_C29_a_401_says_which_secret_would_help(
    client: Client, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.commit(f="one")
    with smart(tmp_path) as server:
        server.token = "x"
        with pytest.raises(Unreachable) as raised:
            client.commit(f"{server.url}/upstream.git")
        assert "GIT_AUTH_TOKEN" in raised.value.hint


def environment(client: Client, tmp_path: Path, wanted: GitReference) -> dict[str, str]:
    """The environment and, by their names, the settings that git is given for `wanted`."""
    told = tmp_path / "environment"
    client.variables["PATH"] = program(tmp_path / "bin", "git", f"env > {told}; exit 1")
    with pytest.raises(AssemblerError):
        client.repositories.commit(wanted)
    found = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)
    settings = {
        found[f"GIT_CONFIG_KEY_{number}"]: found[f"GIT_CONFIG_VALUE_{number}"]
        for number in range(int(found["GIT_CONFIG_COUNT"]))
    }
    return found | settings


def test_R3_a_repository_at_https_leads_to_no_http(client: Client, tmp_path: Path) -> None:
    secure = environment(client, tmp_path, GitReference("https://h/r.git"))
    assert secure["protocol.http.allow"] == "user" and secure["protocol.allow"] == "never"
    plain = environment(client, tmp_path, GitReference("http://h/r.git"))
    assert plain["protocol.http.allow"] == "always"


def test_C29_at_github_a_token_is_good_for_every_repository(client: Client, tmp_path: Path) -> None:
    client.secrets = {"GIT_AUTH_TOKEN": lambda: b"t"}
    github = environment(client, tmp_path, GitReference("https://github.com/a/b.git"))
    assert "http.https://github.com/.extraheader" in github
    other = environment(client, tmp_path, GitReference("https://gitlab.com/a/b.git"))
    assert "http.https://gitlab.com/a/b.git.extraheader" in other


def test_git_is_told_of_proxies_and_of_nothing_else(client: Client, tmp_path: Path) -> None:
    client.variables = {
        "HTTPS_PROXY": "http://proxy:1", "no_proxy": "x", "SSL_CERT_FILE": "/ca.pem",
        "GIT_DIR": "/elsewhere", "GIT_EXEC_PATH": "/elsewhere", "LD_PRELOAD": "", "SECRET": "s",
    }  # fmt: skip
    found = environment(client, tmp_path, GitReference("https://h/r.git"))
    assert (found["HTTPS_PROXY"], found["no_proxy"]) == ("http://proxy:1", "x")
    assert found["GIT_SSL_CAINFO"] == "/ca.pem"
    assert not {"GIT_DIR", "GIT_EXEC_PATH", "LD_PRELOAD", "SECRET"} & found.keys()


# ssh ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["ssh://me@host{path}", "ssh://me@host:2222{path}", "me@host:{path}"]
)
def test_C29_over_ssh_with_the_agent(
    client: Client, upstream: Upstream, tmp_path: Path, form: str
) -> None:
    upstream.commit(f="one")
    told = tmp_path / "told"
    script = f'echo "$SSH_AUTH_SOCK $@ $HOME" >> {told}\nfor last; do :; done\nexec sh -c "$last"'
    client.variables = {"PATH": program(tmp_path / "bin", "ssh", script)}
    client.agent = "/agent.socket"
    assert files(client.tree(form.format(path=upstream.path))) == {"f": "one"}
    lines = told.read_text().splitlines()
    assert all(line.startswith("/agent.socket ") and "BatchMode=yes" in line for line in lines)
    assert all(line.endswith(f" {client.directory}/home") for line in lines)
    assert any("-p 2222" in line for line in lines) == (":2222" in form)


def test_C29_over_ssh_to_a_path_that_is_no_utf_8(client: Client, tmp_path: Path) -> None:
    upstream = upstream_at(tmp_path / "\udce9.git")
    upstream.commit(f="one")
    script = 'for last; do :; done\nexec sh -c "$last"'
    client.variables = {"PATH": program(tmp_path / "bin", "ssh", script)}
    assert files(client.tree(f"me@host:{upstream.path}")) == {"f": "one"}


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Host key verification failed.", "ssh-keyscan host >> ~/.ssh/known_hosts"),
        ("me@host: Permission denied (publickey).", "--ssh default"),
    ],
)
def test_C29_what_ssh_wants_is_said(
    client: Client, tmp_path: Path, require: Callable[..., None], said: str, hint: str
) -> None:
    require("git")
    client.variables = {"PATH": program(tmp_path / "bin", "ssh", f"echo '{said}' >&2; exit 255")}
    for url in ("ssh://me@host/r.git", "me@host:r.git"):
        with pytest.raises(Unreachable) as raised:
            client.commit(url)
        assert hint in raised.value.hint


def test_the_key_of_a_repository_has_no_credentials() -> None:
    with_them = GitReference("https://h/r.git", credentials="u:p")
    assert with_them == replace(with_them, credentials="") and "u:p" not in repr(with_them)
