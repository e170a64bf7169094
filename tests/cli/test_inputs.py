"""Where the Dockerfile and the contexts come from (rules P1-P3, X1-X4, G1)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import zstandard

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.cli.inputs import GitOptions, Inputs, dockerfile_of, inputs_of
from assembler.context.base import Context
from assembler.environment import Environment
from assembler.errors import AssemblerError, UsageError
from assembler.events import discard
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts, FilesContext, ImageContext, NamedContext
from assembler.remotes import Remotes
from assembler.store.store import Store
from tests.answering import answering

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
TEXT = "FROM scratch\n"


@pytest.fixture
def remotes(tmp_path: Path) -> Iterator[Remotes]:
    environment = Environment.read({"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    with (
        Store.open(str(tmp_path / "store")) as store,
        LocalCache(str(tmp_path / "cache.db")) as cache,
        Cancellation() as cancellation,
        Remotes(
            store, environment, known=lambda: cache, secrets={}, sink=discard,
            cancellation=cancellation,
        ) as found,
    ):  # fmt: skip
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def read(
    remotes: Remotes,
    context: Path | str,
    file: str = "",
    *named: str,
    git: GitOptions | None = None,
) -> Inputs:
    return inputs_of(file, str(context), named, git or GitOptions(), remotes)


def names(context: Context | None) -> list[str]:
    assert context is not None
    return [entry.path for entry in context.tree().children("")]


def tar(**files: str) -> bytes:
    """A plain tar; `__` in a name stands for a slash."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.mtime = len(text), 1_700_000_000
            archive.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


# The Dockerfile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (("Dockerfile", "dockerfile", "Containerfile"), "Dockerfile"),
        (("dockerfile", "Containerfile"), "dockerfile"),
        (("Containerfile",), "Containerfile"),
    ],
)
def test_P1_the_default_file(
    remotes: Remotes, place: Path, there: tuple[str, ...], chosen: str
) -> None:
    for name in there:
        (place / name).write_text(f"# {name}\n")
    found = read(remotes, place)
    assert (found.dockerfile.text, found.path) == (f"# {chosen}\n", f"{place}/{chosen}")


def test_P1_lower_case_stands_in_for_the_name_that_was_given(remotes: Remotes, place: Path) -> None:
    (place / "dockerfile").write_text(TEXT)
    assert read(remotes, place, f"{place}/Dockerfile").path == f"{place}/dockerfile"
    with pytest.raises(UsageError, match=r"failed to read dockerfile: open .*/DOCKERFILE: No such"):
        read(remotes, place, f"{place}/DOCKERFILE")


def test_P2_a_dockerfile_outside_the_context(
    remotes: Remotes, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").write_text(TEXT)
    (tmp_path / "other.dockerignore").write_text("hidden\n")
    (place / "hidden").write_text("")
    (place / "shown").write_text("")
    found = read(remotes, place, str(tmp_path / "other"))
    assert found.dockerfile.name == "other" and names(found.context) == ["shown"]
    monkeypatch.chdir(tmp_path)
    assert read(remotes, "context", "other").path == "other"


def test_P2_a_dockerfile_on_stdin_with_a_context(
    remotes: Remotes, place: Path, stdin: Callable[[bytes], None]
) -> None:
    (place / "f").write_text("")
    stdin(b"FROM scratch\r\n")
    found = read(remotes, place, "-")
    assert found.dockerfile.text == "FROM scratch\r\n" and found.path == ""
    assert names(found.context) == ["f"]


def test_P3_a_link_is_followed_also_out_of_the_context(
    remotes: Remotes, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").write_text(TEXT)
    (place / "Dockerfile").symlink_to("../real")
    assert read(remotes, place).dockerfile.text == TEXT


def test_a_dockerfile_may_be_a_pipe(remotes: Remotes, place: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, TEXT.encode())
    os.close(writer)
    try:
        assert read(remotes, place, f"/dev/fd/{reader}").dockerfile.text == TEXT
    finally:
        os.close(reader)


@pytest.mark.parametrize("kind", ["directory", "absent", "loop"])
def test_P1_what_cannot_be_read_is_named(remotes: Remotes, place: Path, kind: str) -> None:
    if kind == "directory":
        (place / "Dockerfile").mkdir()
    if kind == "loop":
        (place / "Dockerfile").symlink_to("Dockerfile")
    with pytest.raises(UsageError, match=r"failed to read dockerfile: open .*/Dockerfile: "):
        read(remotes, place)


def test_a_dockerfile_without_end_is_not_read_whole(remotes: Remotes, place: Path) -> None:
    with pytest.raises(UsageError, match="/dev/zero: larger than"):
        read(remotes, place, "/dev/zero")


# Contexts that are here --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "problem"),
    [("nosuch", "build context nosuch: no such directory"), ("", "the context is empty"),
     ("/dev/null", "build context /dev/null: not a directory"), ("h:p", "no such directory"),
     ("ftp://h/x", "no such directory"), ("http://[::1", "Invalid IPv6 URL"),
     ("https://h:port/x", "Port could not be cast"), ("https://h/r.git?x=1", "unexpected query"),
     ("https://h/r.git#-x", "invalid git ref"), ("-x@h:r", "invalid git remote")],
)  # fmt: skip
def test_X1_what_is_no_context(remotes: Remotes, context: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(remotes, context)
    assert problem in raised.value.message


def test_18_4_a_wrong_url_is_told_without_its_password(remotes: Remotes) -> None:
    with pytest.raises(UsageError) as raised:
        read(remotes, "https://me:s3cret@h/r.git?x=1")
    assert "s3cret" not in str(raised.value)
    with pytest.raises(UsageError) as raised:
        read(remotes, ".", "", "a=https://me:s3cret@h/r.git?x=1")
    assert "s3cret" not in str(raised.value)


def test_X1_a_directory_is_meant_before_a_url(
    remotes: Remotes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git@h:x").mkdir()
    (tmp_path / "git@h:x/Dockerfile").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    assert read(remotes, "git@h:x").dockerfile.text == TEXT


# Stdin -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_P2_an_archive_on_stdin(
    remotes: Remotes, stdin: Callable[[bytes], None], compress: Callable[[bytes], bytes]
) -> None:
    stdin(compress(tar(Dockerfile=TEXT, d__f="f")))
    found = read(remotes, "-")
    assert found.dockerfile.text == TEXT and names(found.context) == ["Dockerfile", "d"]


def test_P2_a_dockerfile_of_the_archive_by_name(
    remotes: Remotes, stdin: Callable[[bytes], None]
) -> None:
    files = {"sub__my.docker": TEXT, "sub__my.docker.dockerignore": "secret\n", "secret": "s"}
    for name in ("sub/my.docker", "/sub/my.docker", "./sub/../sub/my.docker"):
        stdin(tar(**files, **{".dockerignore": "sub\n"}))
        found = read(remotes, "-", name)
        assert found.dockerfile.text == TEXT
        assert names(found.context) == [".dockerignore", "sub"]  # rule G1: its own ignore file


@pytest.mark.parametrize("asked", ["", "Dockerfile"])
def test_P1_lower_case_in_an_archive(
    remotes: Remotes, stdin: Callable[[bytes], None], asked: str
) -> None:
    stdin(tar(dockerfile=TEXT))
    assert read(remotes, "-", asked).dockerfile.text == TEXT


def test_P2_an_archive_without_the_dockerfile(
    remotes: Remotes, stdin: Callable[[bytes], None]
) -> None:
    stdin(tar(f="f"))
    with pytest.raises(UsageError, match="the archive on stdin has no Dockerfile"):
        read(remotes, "-")


def test_P2_X4_a_dockerfile_on_stdin_alone(
    remotes: Remotes, stdin: Callable[[bytes], None]
) -> None:
    stdin(TEXT.encode())
    found = read(remotes, "-")
    assert found.dockerfile.text == TEXT and found.context is None
    stdin(TEXT.encode())
    with pytest.raises(UsageError, match="stdin is no archive"):
        read(remotes, "-", "Dockerfile")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(gzip.compress(b"x" * 600), "neither an archive nor a Dockerfile"), (b"\0" * 1024, "neither")],
)
def test_P2_what_is_neither(
    remotes: Remotes, stdin: Callable[[bytes], None], content: bytes, problem: str
) -> None:
    stdin(content)
    with pytest.raises(UsageError, match=problem):
        read(remotes, "-")


def test_P2_an_archive_that_is_cut_off(remotes: Remotes, stdin: Callable[[bytes], None]) -> None:
    stdin(tar(Dockerfile=TEXT, f="f" * 5000)[:3000])
    with pytest.raises(AssemblerError):
        read(remotes, "-")


def test_P2_stdin_is_one_thing(remotes: Remotes) -> None:
    with pytest.raises(UsageError, match="stdin cannot be both"):
        read(remotes, "-", "-")


# Contexts that are elsewhere ---------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """A web server: its URL, its files by path, the paths it was asked for."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield url, files, asked


Site = tuple[str, dict[str, bytes], list[str]]


def test_X1_an_archive_at_a_url(remotes: Remotes, site: Site) -> None:
    url, files, _ = site
    files["/c.tgz"] = gzip.compress(
        tar(Dockerfile=TEXT, f="f", secret="s", **{"Dockerfile.dockerignore": "secret\n"})
    )
    found = read(remotes, f"{url}/c.tgz")
    assert found.dockerfile.text == TEXT
    assert names(found.context) == ["Dockerfile", "Dockerfile.dockerignore", "f"]


def test_X1_a_single_dockerfile_at_a_url(remotes: Remotes, site: Site) -> None:
    url, files, _ = site
    files["/x"] = TEXT.encode()
    assert read(remotes, f"{url}/x").dockerfile.text == TEXT


def test_P2_a_dockerfile_from_here_for_a_context_from_elsewhere(
    remotes: Remotes, site: Site, tmp_path: Path, stdin: Callable[[bytes], None]
) -> None:
    url, files, _ = site
    files["/c.tar"] = tar(Dockerfile="FROM other\n", f="f")
    (tmp_path / "mine").write_text(TEXT)
    assert read(remotes, f"{url}/c.tar", str(tmp_path / "mine")).dockerfile.text == TEXT
    stdin(b"FROM stdin\n")
    assert read(remotes, f"{url}/c.tar", "-").dockerfile.text == "FROM stdin\n"


def test_P2_a_dockerfile_from_elsewhere_for_a_context_here(
    remotes: Remotes, site: Site, place: Path
) -> None:
    url, files, _ = site
    files["/Dockerfile"] = TEXT.encode()
    (place / "f").write_text("")
    found = read(remotes, place, f"{url}/Dockerfile")
    assert found.dockerfile.text == TEXT and names(found.context) == ["f"]
    files["/c.tar"] = tar(f="f")
    with pytest.raises(UsageError, match="is an archive, not a Dockerfile"):
        dockerfile_of(f"{url}/c.tar", "", remotes)


# Named contexts ----------------------------------------------------------------------------------


def named(remotes: Remotes, place: Path, *words: str) -> Inputs:
    (place / "Dockerfile").write_text(TEXT)
    return read(remotes, place, "", *words)


def found(inputs: Inputs, name: str, platform: Platform = AMD64) -> NamedContext | None:
    return Contexts(inputs.named).find(name, platform)


def test_X3_a_directory_with_ignore_rules_of_its_own(
    remotes: Remotes, place: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("f", "hidden", "Dockerfile.dockerignore"):
        (other / name).write_text("f\n")
    (other / ".dockerignore").write_text("hidden\n")
    inputs = named(remotes, place, f"x={other}")
    assert found(inputs, "x") == FilesContext("x")
    assert names(inputs.files["x"]) == [".dockerignore", "Dockerfile.dockerignore", "f"]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("docker.io/library/alpine:latest", "alpine"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("Base", "base"),
        ("base", "BASE"),
        ("example.com:5000/a/b", "example.com:5000/a/b:latest"),
        ("[::1]:5000/a", "[::1]:5000/a"),
        ("stage-1_x.y-", "stage-1_x.y-"),
    ],
)
def test_X3_names_are_compared_as_familiar_names(
    remotes: Remotes, place: Path, given: str, asked: str
) -> None:
    inputs = named(remotes, place, f"{given}=docker-image://x")
    assert found(inputs, asked) == ImageContext("docker.io/library/x:latest")


def test_X3_a_tag_is_not_another_one(remotes: Remotes, place: Path) -> None:
    inputs = named(remotes, place, "alpine:V1=docker-image://x", "plain=docker-image://y")
    assert found(inputs, "alpine:v1") is None and found(inputs, "alpine") is None
    assert found(inputs, "[::1]:5000/no/context") is None


def test_X3_a_platforms_own_context_comes_first(remotes: Remotes, place: Path) -> None:
    inputs = named(
        remotes, place, "b::linux/aarch64=docker-image://arm", "b=docker-image://any",
        "only::linux/amd64=docker-image://amd",
    )  # fmt: skip
    assert found(inputs, "b", ARM64) == ImageContext("docker.io/library/arm:latest")
    assert found(inputs, "b", AMD64) == ImageContext("docker.io/library/any:latest")
    assert found(inputs, "only", ARM64) is None


def test_X3_the_last_one_of_a_name_wins(remotes: Remotes, place: Path) -> None:
    inputs = named(remotes, place, f"a={place}", "a=docker-image://x")
    assert found(inputs, "a") == ImageContext("docker.io/library/x:latest")
    assert inputs.files == {}


@pytest.mark.parametrize("value", ["", ":tag", "@sha256:" + "0" * 64, ":tag@sha256:" + "0" * 64])
def test_X3_a_layout(remotes: Remotes, place: Path, tmp_path: Path, value: str) -> None:
    layout = tmp_path / "lay:out"  # a colon of the path's own
    layout.mkdir()
    (layout / "index.json").write_text("{}")
    word = f"oci-layout://{layout}{value}"
    if value in ("", "@sha256:" + "0" * 64):  # `out` would be a tag there
        (tmp_path / "layout").symlink_to(layout)
        word = f"oci-layout://{tmp_path}/layout{value}"
    inputs = named(remotes, place, f"a={word}")
    assert found(inputs, "a") == ImageContext(word)


def test_X3_a_layouts_path_is_of_this_directory(
    remotes: Remotes, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    inputs = named(remotes, place, "a=oci-layout://context:1")
    assert found(inputs, "a") == ImageContext(f"oci-layout://{place}:1")


def test_X3_an_empty_image(remotes: Remotes, place: Path) -> None:
    inputs = named(remotes, place, "a=docker-image://scratch")
    assert found(inputs, "a") == FilesContext("a") and names(inputs.files["a"]) == []


def test_X2_what_is_elsewhere_is_fetched_when_it_is_needed(
    remotes: Remotes, place: Path, site: Site
) -> None:
    url, files, asked = site
    files["/a.tar"], files["/file"] = tar(f="f"), b"text"
    inputs = named(remotes, place, f"a={url}/a.tar", f"b={url}/file", f"never={url}/nope")
    assert asked == []
    assert names(inputs.files["a"]) == ["f"] and names(inputs.files["b"]) == ["context"]
    assert asked == ["/a.tar", "/file"]
    with pytest.raises(AssemblerError, match="invalid response status 404"):
        inputs.files["never"].tree()


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("a", "invalid --build-context 'a'"),
        ("=x", "invalid --build-context '=x'"),
        ("a=", "invalid --build-context 'a='"),
        ("scratch=.", "scratch cannot be replaced"),
        ("CONTEXT=.", "CONTEXT cannot be replaced"),
        ("context::linux/arm64=.", "cannot be replaced"),
        ("a::linux/=.", "invalid platform 'linux/'"),
        ("a b=.", "invalid reference"),
        ("a=docker-image://UPPER", "repository name must be lowercase"),
        ("a=docker-image://", "bad repository name"),
        ("a=oci-layout://nosuch", "holds no OCI layout"),
        ("a=oci-layout:///tmp@sha512:" + "0" * 64, "invalid digest"),
        ("a=target:b", "is for bake files only"),
        ("a=nosuch", "build context a (nosuch): no such directory"),
        ("a=foo://x", "build context a (foo://x): no such directory"),
        ("a=https://h/r.git?ref=a#b", "ref conflicts"),
    ],
)
def test_X3_what_is_no_named_context(
    remotes: Remotes, place: Path, word: str, problem: str
) -> None:
    with pytest.raises(UsageError) as raised:
        named(remotes, place, word)
    assert problem in raised.value.message and raised.value.message.count("\n") == 0
