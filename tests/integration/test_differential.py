"""Debian's buildah and we build the same image from each case of fixtures/differential.

A case is a context. Words in its `arguments.txt` go to both builders; what only code can make
(archives, fifos, modes) is in `PREPARE`. `@CONTEXT@` stands for the context's path, `@SITE@` for a
web server's address, `@CASE@` for a word of the builder's own. Where the images differ, the case's `differences.toml`
says where, both values and the rule that makes them differ: a difference that is not listed fails
the test, and so does a listed one that is gone.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import posixpath
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.answering import answering

pytestmark = pytest.mark.integration

CASES = Path(__file__).parents[2] / "fixtures/differential"
ABSENT = "absent"
COPIED = 1_700_000_000  # when every file of a context was last changed
ATTRIBUTE = "SCHILY.xattr."
CAPABILITY = f"{ATTRIBUTE}security.capability"
WORKERS = 4  # each with a buildah store of its own: it sleeps to the next second under a lock
LAYERED = {
    "Z2-removed-and-replaced",
    "Z2-copied-over-what-was-removed",
}  # buildah makes a layer of each step

# Differences that need no list, though a list may name them, whose test then fails when they are gone.
# R3: buildah leaves the files it provides for RUN in the image; what they stand on changes.
# S6: an image from scratch has the working directory "/"; buildah leaves it out.
EVERYWHERE = {
    "/etc/hostname kind": {"ours": ABSENT, "buildah": "file"},
    "/etc/hosts kind": {"ours": ABSENT, "buildah": "file"},
    "/etc/resolv.conf kind": {"ours": ABSENT, "buildah": "file"},
    "/etc time": {"ours": "0", "buildah": "new"},
    "WorkingDir": {"ours": "/", "buildah": ABSENT},
}


# What cannot be committed ----------------------------------------------------------------------


def archive(path: Path) -> None:
    """An archive of every kind of entry, compressed as its name says."""
    mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as stream:  # type: ignore[call-overload]
        for name, kind, bits, link in ENTRIES:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.linkname = kind, bits, link
            member.uid, member.gid, member.mtime = 100, 200, 1_600_000_000
            content = f"{name} of {path.name}\n".encode()
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            stream.addfile(member, io.BytesIO(content))


ENTRIES = [
    ("dir", tarfile.DIRTYPE, 0o750, ""),
    ("dir/below", tarfile.REGTYPE, 0o640, ""),
    ("file", tarfile.REGTYPE, 0o4755, ""),
    ("hard", tarfile.LNKTYPE, 0o4755, "file"),
    ("soft", tarfile.SYMTYPE, 0o777, "dir/below"),
    ("absolute", tarfile.SYMTYPE, 0o777, "/etc/passwd"),
    ("pipe", tarfile.FIFOTYPE, 0o622, ""),
    ("implied/parents/file", tarfile.REGTYPE, 0o600, ""),
]


def archives(context: Path) -> None:
    """Archives of every compression, one under a name that does not say so."""
    for name in ("a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"):
        archive(context / name)
    shutil.copy(context / "a.tar.gz", context / "misnamed")


def odd_modes(context: Path) -> None:
    """Modes that git does not keep."""
    (context / "d/s/h").chmod(0o604)
    (context / "d/s").chmod(0o2751)
    (context / "d").chmod(0o1705)


def hard_link(context: Path) -> None:
    """Two names of one file."""
    (context / "d/two").hardlink_to(context / "d/one")


def kinds(context: Path) -> None:
    """What git does not keep: an empty directory, a fifo, modes."""
    (context / "d/empty").mkdir(mode=0o711)
    os.mkfifo(context / "d/pipe")
    (context / "d/pipe").chmod(0o622)
    (context / "d/dangling").symlink_to("nowhere")
    (context / "d").chmod(0o1777)


def capable(context: Path) -> None:
    """An archive whose file has a capability: cap_net_raw, permitted and effective."""
    value = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    with tarfile.open(context / "capable.tar", "w", format=tarfile.PAX_FORMAT) as stream:
        member = tarfile.TarInfo("capable")
        member.mode, member.size, member.mtime = 0o755, 5, COPIED
        member.pax_headers = {CAPABILITY: value.decode("utf-8", "surrogateescape")}
        stream.addfile(member, io.BytesIO(b"text\n"))


def gnu(context: Path) -> None:
    """Programs of Debian that know extended attributes and sockets, and an archive that has some."""
    programs = [str(shutil.which(name)) for name in ("tar", "cp", "mv", "perl")]
    command = ["ldd", *programs]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    libraries = {word for word in listing if word.startswith("/") and not word.endswith(":")}
    places = [(path, f"gnu/{Path(path).name}") for path in programs]
    for path, name in [*places, *((path, path.lstrip("/")) for path in libraries)]:
        place = context / "host" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        place.chmod(0o755)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep
    with tarfile.open(context / "attributes.tar", "w", format=tarfile.PAX_FORMAT) as stream:
        for name, kind, attributes in (
            (
                "file",
                tarfile.REGTYPE,
                {"user.mine": b"text", "user.empty": b"", "user.raw": b"\xff\n"},
            ),
            ("d", tarfile.DIRTYPE, {"user.of-a-directory": b"1"}),
            ("overlay", tarfile.DIRTYPE, {"user.overlay.opaque": b"y"}),
            ("capable", tarfile.REGTYPE, {"security.capability": capability}),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = kind, 0o755, COPIED
            member.pax_headers = {
                ATTRIBUTE + key: value.decode("utf-8", "surrogateescape")
                for key, value in attributes.items()
            }
            stream.addfile(member)


PREPARE: dict[str, Callable[[Path], None]] = {
    "C13-modes-of-directories": odd_modes,
    "C20-hard-links-of-the-context": hard_link,
    "C20-kinds-of-the-context": kinds,
    "C26-archives": archives,
    "Z4-capabilities": capable,
    "Z4-capabilities-of-a-run": gnu,
    "Z4-extended-attributes": gnu,
    "Z5-sockets-and-pipes": gnu,
}


# Both builders ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Builders:
    """assemble and buildahs, each with a store that holds `busybox`."""

    assemble: Any
    idle: SimpleQueue[Any]
    site: str

    def images(self, case: str, directory: Path) -> tuple[Image, Image]:
        """What each makes of the case, below `directory`."""
        context, ours, theirs = (directory / name for name in ("context", "ours", "theirs"))
        ignored = shutil.ignore_patterns("differences.toml", "arguments.txt")
        shutil.copytree(CASES / case, context, symlinks=True, ignore=ignored)
        PREPARE.get(case, lambda _: None)(context)
        file = context / "Dockerfile"
        text = file.read_bytes().replace(b"@SITE@", self.site.encode())
        file.write_bytes(text.replace(b"@CASE@", case.encode()))
        for path in context.rglob("*"):
            os.utime(path, (COPIED, COPIED), follow_symlinks=False)
        words = CASES / case / "arguments.txt"
        arguments = words.read_text().split() if words.exists() else []
        arguments = [word.replace("@CONTEXT@", str(context)) for word in arguments]
        self.assemble(
            "build", "--progress", "quiet", "-o", f"type=oci,dest={ours},tar=false",
            *arguments, context,
        )  # fmt: skip
        podman = self.idle.get()
        try:
            podman.buildah(
                "bud", "--quiet", "--isolation=chroot", "--format=docker", "--pull=never",
                f"--layers={str(case in LAYERED).lower()}", "--disable-compression",
                "-f", f"{context}/Dockerfile", *arguments, "-t", f"dir:{theirs}", str(context),
            )  # fmt: skip
        finally:
            self.idle.put(podman)
        index = json.loads((ours / "index.json").read_bytes())
        blobs = ours / "blobs/sha256"
        return (
            read_image(blobs, blob(blobs, index["manifests"][0])),
            read_image(theirs, theirs / "manifest.json"),
        )


@contextmanager
def served() -> Iterator[str]:
    """The address of a web server with two files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as stream:
        stream.addfile(tarfile.TarInfo("inside"))
    files = {"/p/file.bin": b"bytes\n", "/archive.tar.gz": packed.getvalue()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield url


@pytest.fixture(scope="module")
def builders() -> Iterator[Builders]:
    """Both builders on stores that live as long as the module's tests."""
    shared = conftest()
    shared.needs("buildah")
    directory = Path(tempfile.mkdtemp(prefix="d", dir="/var/tmp"))
    name = "docker.io/library/busybox:latest"
    store = directory / "store"
    shared.run_fixture("busybox", store, name, shared.cache_directory() / "busybox")
    assemble = shared.Assemble(shared.environment(store))
    empty, archive = directory / "empty", directory / "base.tar"
    empty.mkdir()
    (empty / "Dockerfile").write_text("FROM busybox\n")
    assemble("build", "-q", "-t", name, "-o", f"type=docker,dest={archive}", empty)
    idle: SimpleQueue[Any] = SimpleQueue()
    for number in range(WORKERS):
        own = directory / str(number)
        own.mkdir()
        podman = shared.Podman(own)
        podman.buildah("pull", "-q", f"docker-archive:{archive}")
        idle.put(podman)
    with served() as site:
        yield Builders(assemble, idle, site)
    shared.remove(directory)
    directory.rmdir()


@pytest.fixture(scope="module")
def built(
    builders: Builders, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[tuple[Image, Image]]]]:
    """Both images of every case that this run asks for; a few are built at a time."""
    cases = [
        item.callspec.params["case"]  # type: ignore[attr-defined]
        for item in request.session.items
        if item.path == request.path
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {
            case: pool.submit(builders.images, case, tmp_path_factory.mktemp("case"))
            for case in cases
        }
        pool.shutdown(cancel_futures=True)


def conftest() -> Any:
    """tests/conftest.py as a module: its fixtures are made per test, ours per module."""
    path = Path(__file__).parents[1] / "conftest.py"
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    raise LookupError(path)


# An image, read from its layers ----------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """The part of an image that is compared: facts by place, and the tree's nodes by path."""

    config: dict[str, object]
    tree: dict[str, Node]

    def facts(self) -> dict[str, object]:
        """Everything that can differ, each under a name of its own."""
        found = dict(self.config)
        groups: dict[int, list[str]] = {}
        for path, node in self.tree.items():
            groups.setdefault(id(node), []).append(path)
        for path, node in self.tree.items():
            for name, value in node.facts().items():
                found[f"{path} {name}"] = value
            if len(groups[id(node)]) > 1:
                found[f"{path} links"] = sorted(groups[id(node)])
        return found


@dataclass(eq=False)
class Node:
    """An inode; hard links share one."""

    kind: str
    mode: int
    owner: str
    content: str
    mtime: int
    attributes: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """Its fields. A symlink has no mode."""
        mode = {} if self.kind == "symlink" else {"mode": f"{self.mode:04o}"}
        content = {"content": self.content} if self.content else {}
        time = {"time": "new" if self.mtime > COPIED else str(self.mtime)}
        return {
            "kind": self.kind, "owner": self.owner, **mode, **content, **self.attributes, **time,
        }  # fmt: skip


KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
}


def blob(directory: Path, descriptor: dict[str, Any]) -> Path:
    """The file of a descriptor's blob."""
    return directory / descriptor["digest"].partition(":")[2]


def read_image(blobs: Path, manifest: Path) -> Image:
    """Read an image from a directory of blobs."""
    document = json.loads(manifest.read_bytes())
    config = json.loads(blob(blobs, document["config"]).read_bytes())
    tree: dict[str, Node] = {}
    for layer in document["layers"]:
        with tarfile.open(blob(blobs, layer)) as archive:
            merge(tree, archive)
    return Image(facts_of_config(config), tree)


def merge(tree: dict[str, Node], archive: tarfile.TarFile) -> None:
    """Put a layer over `tree`: whiteouts first, they mean what is below."""
    members = [(rooted(member.name), member) for member in archive]
    for path, _ in members:
        parent, _, name = path.rpartition("/")
        if name == ".wh..wh..opq":
            cut(tree, parent + "/")
        elif name.startswith(".wh."):
            gone = f"{parent}/{name.removeprefix('.wh.')}"
            tree.pop(gone, None)
            cut(tree, gone + "/")
    for path, member in members:
        if "/.wh." in path:
            continue
        if not member.isdir():
            cut(tree, path + "/")
        if member.islnk():
            tree[path] = tree[rooted(member.linkname)]
            continue
        content = member.linkname if member.issym() else ""
        if member.isreg():
            stream = archive.extractfile(member)
            assert stream is not None
            content = readable(stream.read())
        elif member.ischr() or member.isblk():
            content = f"{member.devmajor}:{member.devminor}"
        mode, owner = member.mode & 0o7777, f"{member.uid}:{member.gid}"
        attributes = {
            name.removeprefix(ATTRIBUTE): value.encode("utf-8", "surrogateescape").hex()
            for name, value in member.pax_headers.items()
            if name.startswith(ATTRIBUTE)
        }
        mtime = int(member.mtime)
        tree[path] = Node(KINDS[member.type], mode, owner, content, mtime, attributes)


def rooted(name: str) -> str:
    """A name in an archive as an absolute path."""
    return posixpath.normpath("/" + name)


def cut(tree: dict[str, Node], below: str) -> None:
    """Drop every path that starts with `below`."""
    for path in [path for path in tree if path.startswith(below)]:
        del tree[path]


def readable(content: bytes) -> str:
    """Short content as it is, so that a failure shows it; else its digest."""
    if len(content) <= 400:
        return repr(content.decode(errors="backslashreplace"))
    return hashlib.sha256(content).hexdigest()


def facts_of_config(document: dict[str, Any]) -> dict[str, object]:
    """What `docker inspect` shows of a config, each variable and label on its own."""
    config = document.get("config") or {}
    found: dict[str, object] = {"Author": document.get("author")}
    variables = [entry.partition("=") for entry in config.get("Env") or []]
    found["Env order"] = [name for name, _, _ in variables]
    found.update({f"Env {name}": value for name, _, value in variables})
    labels = config.get("Labels") or {}
    found.update({f"Labels {k}": v for k, v in labels.items() if k != "io.buildah.version"})
    for key in ("ExposedPorts", "Volumes"):
        found[key] = sorted(config.get(key) or {})
    for key in ("Cmd", "Entrypoint", "User", "WorkingDir", "StopSignal", "Shell", "OnBuild"):
        found[key] = config.get(key)
    for key, value in (config.get("Healthcheck") or {}).items():
        found[f"Healthcheck {key}"] = value
    return {key: value for key, value in found.items() if value or key.startswith("Env ")}


# The comparison --------------------------------------------------------------------------------


def differences(ours: dict[str, object], theirs: dict[str, object]) -> dict[str, dict[str, object]]:
    """Where two images differ; of an entry only one has, only its kind."""
    found = {}
    for where in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(where, ABSENT), theirs.get(where, ABSENT)
        entry = where.rpartition(" ")[0] + " kind"
        lonely = entry in ours.keys() ^ theirs.keys()
        if left != right and (not lonely or where == entry):
            found[where] = {"ours": left, "buildah": right}
    return found


def listed(case: Path) -> dict[str, dict[str, object]]:
    """The known differences of a case; each has a reason that begins with its rule."""
    path = case / "differences.toml"
    entries = tomllib.loads(path.read_text())["difference"] if path.exists() else []
    assert all(entry["reason"].partition(":")[2] for entry in entries), path
    return {
        where: {"ours": entry["ours"], "buildah": entry["buildah"]}
        for entry in entries
        for where in ([entry["where"]] if isinstance(entry["where"], str) else entry["where"])
    }


def as_toml(found: dict[str, dict[str, object]]) -> str:
    """Differences as differences.toml would list them."""
    lines = []
    for where, values in found.items():
        pairs = {"where": where, **values, "reason": "RULE: "}
        lines += ["[[difference]]", *(f"{k} = {json.dumps(v)}" for k, v in pairs.items())]
    return "\n".join(lines)


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_buildah_builds_the_same_image(
    built: dict[str, Future[tuple[Image, Image]]], case: str
) -> None:
    ours, theirs = built[case].result()
    found, known = differences(ours.facts(), theirs.facts()), listed(CASES / case)
    for where, values in EVERYWHERE.items():
        if where not in known and found.get(where) == values:
            del found[where]
    unlisted = {where: found[where] for where in found.keys() - known.keys()}
    gone = {where: known[where] for where in known.keys() - found.keys()}
    assert not unlisted, f"not listed:\n{as_toml(unlisted)}"
    assert not gone, f"listed, but gone:\n{as_toml(gone)}"
    assert found == known
