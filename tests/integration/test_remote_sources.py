"""ADD of URLs and git repositories, and contexts that are elsewhere (rules C26-C29, X1-X4, P2)."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.answering import answering
from tests.processes import naming
from tests.served import git_serving

pytestmark = pytest.mark.integration
MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1700000000


@dataclass
class Site:
    """A web server on loopback: `files` by path, `asked` (path, headers) in order."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    token: str = ""
    url: str = ""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.asked.append((self.path, headers))
            content = found.files.get(self.path)
            status = 200 if content is not None else 404
            if found.token and headers.get("authorization") != f"Bearer {found.token}":
                status, content = 401, b""
            etag = f'"{hashlib.sha256(content or b"").hexdigest()[:8]}"'
            if status == 200 and headers.get("if-none-match") == etag:
                status, content = 304, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", MODIFIED)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as found.url:
        yield found


@dataclass
class Git:
    """A git server on loopback, and the repository it serves."""

    url: str
    path: Path

    def __call__(self, *arguments: str) -> str:
        env = {
            **os.environ,
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000",
        }  # fmt: skip
        command = ["git", "-C", str(self.path), "-c", "protocol.file.allow=always", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            path = self.path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self("add", "-A")
        self("commit", "-qm", "change")
        return self("rev-parse", "HEAD")


@pytest.fixture
def git(tmp_path: Path, require: Any) -> Iterator[Git]:
    require("git")
    base = tmp_path / "git"
    (base / "app.git").mkdir(parents=True)
    with git_serving(base) as url:
        repository = Git(f"{url}/app.git", base / "app.git")
        repository("init", "-q", "-b", "main")
        yield repository


def archive(**files: str) -> bytes:
    """A gzipped tar; `__` in a name stands for a slash."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.mtime, info.uid = len(text), 1700000000, 1234
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


@dataclass
class Files:
    """The last layer of an image."""

    members: dict[str, tarfile.TarInfo]
    contents: dict[str, str]

    def __contains__(self, path: str) -> bool:
        return path in self.members


def built(
    assemble: Any, tmp_path: Path, dockerfile: str, *options: str | Path, **env: str
) -> Files:
    """Build `dockerfile` and read its image's last layer."""
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    return exported(assemble, tmp_path, *options, context, **env)


def exported(assemble: Any, tmp_path: Path, *arguments: str | Path, **env: str) -> Files:
    out = tmp_path / "out.tar"
    assemble("build", "-o", f"type=docker,dest={out}", *arguments, **env)
    with tarfile.open(out) as image:
        manifest = json.load(image.extractfile("manifest.json") or io.BytesIO())
        layer = image.extractfile(manifest[0]["Layers"][-1])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as tar:
            members = {member.name: member for member in tar}
            contents = {
                name: (tar.extractfile(member) or io.BytesIO()).read().decode("latin-1")
                for name, member in members.items()
                if member.isfile()
            }
    return Files(members, contents)


def test_C27_a_url_becomes_a_private_file_with_the_servers_time(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/p/tool.bin"] = b"tool"
    text = f"FROM scratch\nADD {site.url}/p/tool.bin?x=1 /bin/\n".replace("?x=1", "")
    files = built(assemble, tmp_path, text)
    found = files.members["bin/tool.bin"]
    assert (found.mode, found.uid, found.mtime) == (0o600, 0, 1700000000)
    assert files.contents["bin/tool.bin"] == "tool"


def test_C27_a_url_without_a_name(assemble: Any, tmp_path: Path, site: Site) -> None:
    site.files["/"] = b"root"
    files = built(assemble, tmp_path, f"FROM scratch\nADD {site.url}/ /x/\n")
    assert files.contents["x/__unnamed__"] == "root"


def test_C27_chmod_and_chown_apply(assemble: Any, tmp_path: Path, site: Site) -> None:
    site.files["/f"] = b"f"
    files = built(
        assemble, tmp_path, f"FROM scratch\nADD --chmod=755 --chown=3:4 {site.url}/f /f\n"
    )
    assert (files.members["f"].mode, files.members["f"].uid, files.members["f"].gid) == (
        0o755,
        3,
        4,
    )


def test_C26_an_archive_from_a_url_is_unpacked_only_when_asked(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/a.tgz"] = archive(d__z="z")
    packed = built(assemble, tmp_path, f"FROM scratch\nADD {site.url}/a.tgz /x/\n")
    assert "x/a.tgz" in packed
    unpacked = built(assemble, tmp_path, f"FROM scratch\nADD --unpack {site.url}/a.tgz /x\n")
    assert unpacked.contents == {"x/d/z": "z"} and unpacked.members["x/d/z"].uid == 1234


def test_C28_a_checksum_is_checked_and_saves_the_request(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/f"] = b"content"
    digest = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    text = f"FROM scratch\nADD --checksum={digest} {site.url}/f /f\n"
    assert built(assemble, tmp_path, text).contents["f"] == "content"
    asked = len(site.asked)
    assert built(assemble, tmp_path, text).contents["f"] == "content"
    assert len(site.asked) == asked
    wrong = text.replace(digest, f"sha256:{'0' * 64}")
    (tmp_path / "context/Dockerfile").write_text(wrong)
    done = assemble("build", tmp_path / "context", code=1)
    assert f"digest mismatch sha256:{'0' * 64}: {digest}" in done.stderr
    assert ">>> ADD" in done.stderr


def test_C27_an_unchanged_url_is_cached_and_a_changed_one_is_not(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/f"] = b"one"
    text = f"FROM scratch\nADD {site.url}/f /f\n"
    built(assemble, tmp_path, text)
    done = assemble("build", tmp_path / "context")
    assert "CACHED" in done.stderr and "if-none-match" in site.asked[-1][1]
    site.files["/f"] = b"two"
    assert built(assemble, tmp_path, text).contents["f"] == "two"


def test_C27_a_refusal_names_the_line(assemble: Any, tmp_path: Path, site: Site) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {site.url}/nope /f\n")
    done = assemble("build", context, code=1)
    assert "invalid response status 404" in done.stderr and ">>> ADD" in done.stderr


def test_C27_secrets_authenticate_and_appear_nowhere(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/f"] = b"private"
    site.token = "s3cret-token"
    secret = tmp_path / "token"
    secret.write_text("s3cret-token\n")
    text = f"FROM scratch\nADD {site.url}/f /f\n"
    option = f"id=HTTP_AUTH_TOKEN_{site.host},src={secret}"
    assert built(assemble, tmp_path, text, "--secret", option).contents["f"] == "private"
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert b"s3cret-token" not in path.read_bytes(), path
    site.asked.clear()
    done = assemble("build", tmp_path / "context", code=1)
    assert "HTTP_AUTH_TOKEN_" in done.stderr and "invalid response status 401" in done.stderr


def test_C30_local_and_remote_sources_make_one_layer(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/b"] = b"b"
    (tmp_path / "context").mkdir()
    (tmp_path / "context/a").write_text("a")
    files = built(assemble, tmp_path, f"FROM scratch\nADD a {site.url}/b <<c /x/\ntext\nc\n")
    assert files.contents == {"x/a": "a", "x/b": "b", "x/c": "text\n"}


def test_C29_a_repository_at_a_tag_below_a_subdirectory(
    assemble: Any, tmp_path: Path, git: Git
) -> None:
    git.commit(sub__f="one", top="t")
    git("tag", "-am", "x", "v1")
    git.commit(sub__f="two")
    files = built(assemble, tmp_path, f"FROM scratch\nADD {git.url}#v1:sub /x/\n")
    assert files.contents == {"x/f": "one"} and files.members["x/f"].mode == 0o644
    whole = built(assemble, tmp_path, f"FROM scratch\nADD {git.url} /x/\n")
    assert whole.contents == {"x/sub/f": "two", "x/top": "t"}


def test_C29_branch_commit_and_short_commit(assemble: Any, tmp_path: Path, git: Git) -> None:
    first = git.commit(f="one")
    git("branch", "old")
    git.commit(f="two")
    for reference in ("old", first, first[:9], "refs/heads/old"):
        files = built(assemble, tmp_path, f"FROM scratch\nADD {git.url}#{reference} /x/\n")
        assert files.contents == {"x/f": "one"}, reference
    files = built(assemble, tmp_path, f"FROM scratch\nADD {git.url}?branch=old /x/\n")
    assert files.contents == {"x/f": "one"}


def test_C29_keep_git_dir(assemble: Any, tmp_path: Path, git: Git) -> None:
    git.commit(f="one")
    without = built(assemble, tmp_path, f"FROM scratch\nADD {git.url} /x/\n")
    assert not [name for name in without.members if ".git" in name]
    kept = built(assemble, tmp_path, f"FROM scratch\nADD --keep-git-dir {git.url} /x/\n")
    assert kept.contents["x/.git/HEAD"].strip() == git("rev-parse", "HEAD")
    assert git.url in kept.contents["x/.git/config"]


def test_C29_submodules(assemble: Any, tmp_path: Path, git: Git) -> None:
    module = Git(git.url.replace("app", "module"), git.path.parent / "module.git")
    module.path.mkdir()
    module("init", "-q", "-b", "main")
    module.commit(inner="m")
    git.commit(f="one")
    git("submodule", "--quiet", "add", module.url, "dep")
    git("commit", "-qm", "submodule")
    files = built(assemble, tmp_path, f"FROM scratch\nADD {git.url} /x/\n")
    assert files.contents["x/dep/inner"] == "m"
    assert not [name for name in files.members if name.endswith(".git")]
    without = built(assemble, tmp_path, f"FROM scratch\nADD {git.url}?submodules=false /x/\n")
    assert "x/dep/inner" not in without


def test_C29_a_submodule_may_not_name_a_file_here(assemble: Any, tmp_path: Path, git: Git) -> None:
    secret = Git("", tmp_path / "secret")
    secret.path.mkdir()
    secret("init", "-q")
    secret.commit(f="secret")
    git("submodule", "--quiet", "add", f"file://{secret.path}", "dep")
    git("commit", "-qm", "submodule")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {git.url} /x/\n")
    done = assemble("build", context, code=1)
    assert "failed" in done.stderr and "secret" not in done.stdout


def test_C28_the_checksum_of_a_repository_is_a_commit(
    assemble: Any, tmp_path: Path, git: Git
) -> None:
    commit = git.commit(f="one")
    text = f"FROM scratch\nADD --checksum={commit[:10]} {git.url}#main /x/\n"
    assert built(assemble, tmp_path, text).contents == {"x/f": "one"}
    moved = git.commit(f="two")
    done = assemble("build", tmp_path / "context", code=1)
    assert f"expected checksum to match {commit[:10]}, got {moved}" in done.stderr


def test_C29_the_key_of_a_repository_is_its_commit(assemble: Any, tmp_path: Path, git: Git) -> None:
    git.commit(f="one")
    text = f"FROM scratch\nADD {git.url}#main /x/\n"
    built(assemble, tmp_path, text)
    done = assemble("build", tmp_path / "context")
    assert "CACHED" in done.stderr and "load git source" not in done.stderr
    git.commit(f="two")
    assert built(assemble, tmp_path, text).contents == {"x/f": "two"}


def test_C29_a_missing_reference_is_named(assemble: Any, tmp_path: Path, git: Git) -> None:
    git.commit(f="one")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM scratch\nADD {git.url}#nope /x/\n")
    done = assemble("build", context, code=1)
    assert "has no branch, tag or commit nope" in done.stderr and ">>> ADD" in done.stderr


def test_X1_a_repository_is_a_context(assemble: Any, tmp_path: Path, git: Git) -> None:
    git.commit(
        Dockerfile="FROM scratch\nCOPY . /x/\n", keep="k", **{".dockerignore": "Dockerfile\n.d*\n"}
    )
    files = exported(assemble, tmp_path, git.url)
    assert files.contents == {"x/keep": "k"}
    git.commit(sub__Dockerfile="FROM scratch\nCOPY . /x/\n", sub__g="g")
    assert set(exported(assemble, tmp_path, f"{git.url}#main:sub").contents) == {
        "x/g",
        "x/Dockerfile",
    }


def test_X1_a_repository_keeps_its_git_directory_when_told(
    assemble: Any, tmp_path: Path, git: Git
) -> None:
    git.commit(Dockerfile="FROM scratch\nCOPY . /x/\n")
    argument = "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"
    assert "x/.git/HEAD" in exported(assemble, tmp_path, "--build-arg", argument, git.url)


def test_T1_the_epoch_of_a_repository_is_its_commits(
    assemble: Any, tmp_path: Path, git: Git
) -> None:
    git.commit(Dockerfile="FROM scratch\nCOPY Dockerfile /x/\n")
    argument = "SOURCE_DATE_EPOCH=context"
    files = exported(assemble, tmp_path, "--build-arg", argument, git.url)
    assert files.members["x"].mtime == 1700000000


CLOCK = "FROM scratch AS clock\nADD {} /c\nFROM scratch\nCOPY <<f /x/\nhello\nf\n"


def test_T1_the_epoch_of_a_stage_is_that_of_what_it_adds(
    assemble: Any, tmp_path: Path, site: Site, git: Git
) -> None:
    site.files["/f"] = b"f"
    git.commit(f="f")
    argument = "SOURCE_DATE_EPOCH=clock"
    for source in (f"{site.url}/f", git.url):
        files = built(assemble, tmp_path, CLOCK.format(source), "--build-arg", argument)
        assert files.members["x"].mtime == 1700000000
    files = built(assemble, tmp_path, CLOCK.format(f"{site.url}/f"), SOURCE_DATE_EPOCH="clock")
    assert files.members["x"].mtime == 1700000000


def test_X1_an_archive_at_a_url_is_a_context(assemble: Any, tmp_path: Path, site: Site) -> None:
    site.files["/c.tgz"] = archive(Dockerfile="FROM scratch\nCOPY d /x/\n", d__f="f")
    files = exported(assemble, tmp_path, f"{site.url}/c.tgz")
    assert files.contents == {"x/f": "f"} and files.members["x/f"].uid == 0


def test_X1_a_dockerfile_at_a_url(assemble: Any, tmp_path: Path, site: Site) -> None:
    site.files["/Dockerfile"] = b"FROM scratch\nCOPY <<a /a\nb\na\n"
    assert exported(assemble, tmp_path, f"{site.url}/Dockerfile").contents == {"a": "b\n"}


def piped(
    assemble: Any, content: bytes, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        assemble.command("build", *arguments), env=dict(assemble.env), input=content,
        capture_output=True, timeout=300,
    )  # fmt: skip
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.mark.parametrize("mode", ["", "gz", "bz2", "xz"])
def test_P2_an_archive_on_stdin_is_the_context(assemble: Any, tmp_path: Path, mode: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{mode}") as tar:
        for name, text in (("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "text")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    done = piped(assemble, stream.getvalue(), "-")
    assert done.returncode == 0, done.stderr
    other = piped(assemble, stream.getvalue(), "-f", "nope", "-")
    assert other.returncode == 2 and "has no nope" in other.stderr


def test_P2_X4_a_dockerfile_on_stdin_has_no_context(assemble: Any, tmp_path: Path) -> None:
    assert piped(assemble, b"FROM scratch\nENV a=b\n", "-").returncode == 0
    done = piped(assemble, b"FROM scratch\nCOPY f /f\n", "-")
    assert done.returncode == 1 and "there is no build context" in done.stderr
    (tmp_path / "f").write_text("f")
    with_context = piped(assemble, b"FROM scratch\nCOPY f /f\n", "-f", "-", tmp_path)
    assert with_context.returncode == 0, with_context.stderr
    assert piped(assemble, b"FROM scratch\n", "-f", "-", "-").returncode == 2


def test_X3_a_directory_stands_in_for_an_image(assemble: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "d").mkdir(parents=True)
    (other / "d/f").write_text("f")
    (other / "secret").write_text("s")
    (other / ".dockerignore").write_text("secret\n")
    text = "FROM scratch\nCOPY --from=parts / /x/\n"
    files = built(assemble, tmp_path, text, "--build-context", f"parts={other}")
    assert set(files.contents) == {"x/d/f", "x/.dockerignore"}
    based = built(assemble, tmp_path, "FROM parts\n", "--build-context", f"parts={other}")
    assert based.contents["d/f"] == "f" and based.members["d/f"].uid == 0
    mounted = "FROM busybox\nRUN --mount=from=parts,target=/m cat /m/d/f > /out\n"
    assert built(assemble, tmp_path, mounted, "--build-context", f"parts={other}").contents == {
        "out": "f"
    }


def test_S4_a_context_replaces_a_whole_stage(assemble: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "f").write_text("from the context")
    text = "FROM nosuch:1 AS Parts\nRUN false\nFROM scratch\nCOPY --from=parts f /f\n"
    files = built(assemble, tmp_path, text, "--build-context", f"parts={other}")
    assert files.contents == {"f": "from the context"}


def test_X3_images_and_layouts_stand_in(assemble: Any, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    context = tmp_path / "base"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nENV FROM_LAYOUT=1\nCOPY Dockerfile /base\n")
    assemble("build", "-t", "base:1", "-o", f"type=oci,dest={layout},tar=false", context)
    text = "FROM alpine:latest\nRUN test -f /base && echo $FROM_LAYOUT > /out\n"
    for value in (f"oci-layout://{layout}", f"oci-layout://{layout}:1", "docker-image://base:1"):
        files = built(assemble, tmp_path, text, "--build-context", f"alpine={value}")
        assert files.contents == {"out": "1\n"}, value


def test_X3_a_repository_and_an_archive_stand_in(
    assemble: Any, tmp_path: Path, git: Git, site: Site
) -> None:
    git.commit(g="g")
    site.files["/a.tgz"] = archive(h="h")
    text = "FROM scratch\nCOPY --from=one g /x/\nCOPY --from=two h /x/\n"
    contexts = ("--build-context", f"one={git.url}", "--build-context", f"two={site.url}/a.tgz")
    assert built(assemble, tmp_path, text, *contexts).contents == {"x/h": "h"}


def test_git_over_http_with_a_token(assemble: Any, tmp_path: Path, git: Git) -> None:
    """The smart protocol by git's own CGI program, behind Basic authorization."""
    git.commit(f="one")
    program = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True)
                   .stdout.strip(), "git-http-backend")  # fmt: skip
    wanted = "basic " + base64.b64encode(b"x-access-token:tok3n").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, body: bytes) -> None:
            if self.headers.get("Authorization", "").lower() != wanted.lower():
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            env = {
                "GIT_PROJECT_ROOT": str(git.path.parent), "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path.replace("app.git", "app.git/.git"), "QUERY_STRING": query,
                "REQUEST_METHOD": self.command, "PATH": os.environ["PATH"],
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }  # fmt: skip
            done = subprocess.run([program], env=env, input=body, capture_output=True)
            head, _, rest = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as site:
        url = f"{site}/app.git"
        token = tmp_path / "token"
        token.write_text("tok3n")
        text = f"FROM scratch\nADD {url} /x/\n"
        secret = ("--secret", f"id=GIT_AUTH_TOKEN,src={token}")
        assert built(assemble, tmp_path, text, *secret).contents == {"x/f": "one"}
        done = assemble("build", tmp_path / "context", code=1)
        assert "GIT_AUTH_TOKEN" in done.stderr and "tok3n" not in done.stderr


def test_X3_a_layout_by_tag_by_digest_and_without_either(assemble: Any, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    base = tmp_path / "base"
    base.mkdir()
    for number in ("1", "2", "latest"):
        (base / "Dockerfile").write_text(f"FROM busybox\nENV WHICH={number}\n")
        output = f"type=oci,dest={layout},tar=false"
        assemble("build", "-t", f"base:{number}", "-o", output, base)
    lines = json.loads((layout / "index.json").read_text())["manifests"]
    digests = {line["annotations"]["org.opencontainers.image.ref.name"]: line["digest"]
               for line in lines}  # fmt: skip
    text = "FROM other\nRUN echo $WHICH > /out\n"
    for value, which in (
        (":1", "1"), (f"@{digests['2']}", "2"), (f":1@{digests['2']}", "2"), ("", "latest"),
    ):  # fmt: skip
        option = f"other=oci-layout://{layout}{value}"
        assert built(assemble, tmp_path, text, "--build-context", option).contents == {
            "out": f"{which}\n"
        }
    wrong = assemble(
        "build", "--build-context", f"other=oci-layout://{layout}:3", tmp_path / "context", code=1
    )
    assert "holds no image named 3" in wrong.stderr and "it holds: 1, 2, latest" in wrong.stderr


def test_18_4_credentials_of_urls_are_shown_and_kept_nowhere(
    assemble: Any, tmp_path: Path, site: Site
) -> None:
    site.files["/f"] = b"f"
    credentials = base64.b64encode(b"me:s3cret").decode()
    place = site.url.replace("http://", "http://me:s3cret@")
    text = f"FROM scratch\nADD {place}/f /x/\n"
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(text)
    image = tmp_path / "image"
    output = ("-o", f"type=oci,dest={image},tar=false")
    shown = ""
    for progress in ("plain", "rawjson"):
        done = assemble("build", "--progress", progress, *output, context)
        shown += done.stdout + done.stderr
    assert site.asked[0][1]["authorization"] == f"Basic {credentials}"
    for format in ("text", "dot", "mermaid"):
        shown += assemble("plan", "--format", format, context).stdout
    document = json.loads(assemble("plan", "--format", "json", context).stdout)
    document.pop("sources", None)  # the Dockerfile itself, as it was written
    shown += json.dumps(document)
    wrong = text.replace("/f /x", "/nope /x")
    (context / "Dockerfile").write_text(wrong)
    failed = assemble("build", context, code=1).stderr
    assert ">>> ADD http://xxxxx:xxxxx@127.0.0.1" in failed
    assert "invalid response status 404" in failed
    for path in (*image.rglob("*"), *(tmp_path / "store").rglob("*")):
        if path.is_file():
            shown += path.read_bytes().decode("latin-1")
    assert "s3cret" not in shown + failed and credentials not in shown
    assert "ADD http://xxxxx:xxxxx@127.0.0.1" in shown  # of the history


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize(
    "source", ["ADD git://127.0.0.1:{}/r.git /x/", "ADD http://127.0.0.1:{}/f /x"]
)
@pytest.mark.parametrize("where", ["a step", "the context"])
def test_ctrl_c_waits_for_no_server_and_leaves_no_process(
    assemble: Any, tmp_path: Path, silent: socket.socket, source: str, where: str
) -> None:
    context, port = tmp_path / "context", silent.getsockname()[1]
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM scratch\n{source.format(port)}\n")
    named = source.format(port).split()[1] if where == "the context" else str(context)
    process = subprocess.Popen(
        assemble.command("build", "--progress", "plain", named), env=dict(assemble.env),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "[internal]" in line:
            break
    silent.settimeout(60)
    asking, _ = silent.accept()
    with asking:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=40)  # of a server's sixty seconds, or more
    assert process.returncode == 130, "".join(said) + rest
    assert "cancelled by SIGINT" in rest
    assert naming(f":{port}/") == []
    assert not list((tmp_path / "store/scratch").iterdir())


@pytest.mark.parametrize("arguments", [["-"], ["-f", "-", "CONTEXT"]])
def test_ctrl_c_waits_for_no_stdin(assemble: Any, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "context").mkdir()
    words = [word.replace("CONTEXT", str(tmp_path / "context")) for word in arguments]
    process = subprocess.Popen(
        assemble.command("build", *words), env=dict(assemble.env),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    scratch = tmp_path / "store/scratch"
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/input")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    _, said = process.communicate()
    assert "cancelled by SIGINT" in said
