"""The files of a build's target in a directory or a tar (`-o type=local|tar`; rules O1, O2, T2;
features 85, 86, 89)."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assembler.layer.changeset import walk_order

pytestmark = pytest.mark.integration

RICH = """\
FROM busybox AS rich
RUN mkdir -p /d/empty /d/gone /d/shut && echo a > /d/a && ln /d/a /d/b && mkdir /links \\
 && ln /d/a /links/a && ln -s ../../../etc/passwd /d/out && ln -s /abs /d/abs \\
 && mkfifo -m 622 /d/p && chown 5:6 /d/a && chmod 4755 /d/a && chown -h 7:8 /d/out \\
 && chmod 1777 /d/empty && touch -d @5 /d/empty && echo x > /d/gone/old && echo x > /d/shut/f \\
 && chmod 500 /d/shut && chown 1000 /d/shut
RUN rm -r /d/gone && mkdir /d/gone && echo new > /d/gone/f && rm /etc/group && echo x > '/d/odd name' \\
 && rm /bin/sh && ln -s busybox /bin/sh && head -c 3000000 /dev/zero > /d/large
COPY --chown=9:10 f /d/f
FROM scratch AS binaries
COPY --from=rich /d/a /d/shut /out/
"""
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
Described = dict[str, tuple[object, ...]]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A context with RICH."""
    path = tmp_path / "context"
    path.mkdir()
    (path / "Dockerfile").write_text(RICH)
    (path / "f").write_text("from the context\n")
    return path


def described(member: tarfile.TarInfo) -> tuple[object, ...]:
    """All that a tar says of a member."""
    return (
        member.type, oct(member.mode), member.uid, member.gid, member.size, member.mtime,
        member.linkname, (member.devmajor, member.devminor),
    )  # fmt: skip


def of_tar(content: bytes) -> Described:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: described(member) for member in archive}


def of_image(store: Path, digest: str) -> Described:
    """What the layers of an image come to, one over the other."""
    blobs = store / "blobs/sha256"
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_text())
    found: Described = {}
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            for member in archive:
                above, _, name = member.name.rpartition("/")
                hidden = f"{above}/{name.removeprefix('.wh.')}".lstrip("/")
                if name == ".wh..wh..opq":
                    found = {path: one for path, one in found.items() if not below(path, above)}
                elif name.startswith(".wh."):
                    found = {path: one for path, one in found.items() if not below(path, hidden)}
                    found.pop(hidden, None)
                elif member.name not in ("", "."):
                    found[member.name] = described(member)
    return dict(sorted(found.items(), key=lambda one: walk_order(one[0])))


def below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")


def of_directory(path: Path) -> Described:
    """What is below `path` as a tar would say it, but for owners."""
    found: Described = {}
    first: dict[int, str] = {}
    kinds = {
        stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
    }  # fmt: skip

    def visit(directory: Path) -> None:
        for one in sorted(directory.iterdir(), key=lambda one: one.name):
            name, status = str(one.relative_to(path)), one.lstat()
            kind, size = kinds[stat.S_IFMT(status.st_mode)], status.st_size
            link = os.readlink(one) if kind == tarfile.SYMTYPE else ""
            if kind == tarfile.REGTYPE and status.st_nlink > 1:
                link = first.setdefault(status.st_ino, name)
                link, kind = ("", kind) if link == name else (link, tarfile.LNKTYPE)
            size = size if kind == tarfile.REGTYPE else 0
            mode = oct(stat.S_IMODE(status.st_mode))
            found[name] = (kind, mode, size, int(status.st_mtime), link)
            if kind == tarfile.DIRTYPE:
                visit(one)

    visit(path)
    return found


def without_owners(found: Described) -> Described:
    return {
        name: (kind, mode, size, mtime, link)
        for name, (kind, mode, _, _, size, mtime, link, _) in found.items()
    }


@dataclass(frozen=True)
class Machine:
    """The command with a store of its own and, perhaps, one id only."""

    assemble: Any
    store: Path
    prefix: tuple[str, ...] = ()

    def __call__(self, *words: str | Path, code: int = 0, **env: str) -> str:
        """stderr of a build, which writes nothing to stdout."""
        more = {"ASSEMBLE_STORE": str(self.store), **env}
        done = self.assemble("build", *words, code=code, prefix=self.prefix, **more)
        assert done.stdout == ""
        return str(done.stderr)

    def tar(self, *words: str | Path, **env: str) -> bytes:
        """stdout of `-o -`."""
        command = [*self.prefix, *self.assemble.command("build", "-o", "-", *words)]
        more = {**self.assemble.env, "ASSEMBLE_STORE": str(self.store), **env}
        done = subprocess.run(command, env=more, capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def image(self, *words: str | Path, **env: str) -> str:
        """The digest of an image."""
        more = {"ASSEMBLE_STORE": str(self.store), **env}
        return str(self.assemble("build", *words, prefix=self.prefix, **more).stdout.strip())

    @property
    def blobs(self) -> set[str]:
        return set(os.listdir(self.store / "blobs/sha256"))


@pytest.fixture
def machine(assemble: Any) -> Machine:
    return Machine(assemble, Path(assemble.env["ASSEMBLE_STORE"]))


@pytest.fixture
def small(machine: Machine, single_id: list[str], busybox: Callable[[str], Path]) -> Machine:
    """One that maps one id, so that owners are records."""
    return Machine(machine.assemble, busybox("small"), tuple(single_id))


@pytest.fixture
def busybox(busybox_store: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes another store that holds busybox."""

    def made(name: str) -> Path:
        import shutil

        return Path(shutil.copytree(busybox_store, tmp_path / name, copy_function=shutil.copy))

    return made


def test_O1_a_tar_is_the_image_s_whole_file_system(machine: Machine, context: Path) -> None:
    before = machine.blobs
    found = of_tar(machine.tar("--target", "rich", context))
    assert machine.blobs == before, "nothing is packed"
    image = machine.image("--target", "rich", context)
    assert found == of_image(machine.store, image)
    assert list(found) == sorted(found, key=walk_order)
    assert found["d/out"][2:4] == (7, 8) and found["d/f"][2:4] == (9, 10)
    assert "etc/passwd" in found and "etc/group" not in found and "d/gone/old" not in found
    assert of_tar(machine.tar("--target", "rich", context)) == found, "taken out of blobs"


def test_T2_the_same_tar_from_any_id_map(
    machine: Machine, small: Machine, context: Path, busybox: Callable[[str], Path]
) -> None:
    first = machine.tar("--target", "rich", context, **EPOCH)
    assert small.tar("--target", "rich", context, **EPOCH) == first
    assert small.tar("--target", "rich", context, **EPOCH) == first, "cached"
    image = small.image("--target", "rich", context, **EPOCH)
    alone = Machine(machine.assemble, busybox("alone")).image("--target", "rich", context, **EPOCH)
    assert image == alone, "what was exported before does not show in an image"
    assert small.tar("--target", "rich", context, **EPOCH) == first, "taken out of blobs"
    assert {one[5] for one in of_tar(first).values()} == {1_700_000_000}


@pytest.mark.parametrize("ids", ["machine", "small"])
def test_O1_a_directory_has_the_same_files_and_they_are_the_caller_s(
    request: pytest.FixtureRequest, ids: str, context: Path, tmp_path: Path
) -> None:
    machine: Machine = request.getfixturevalue(ids)
    before, out = machine.blobs, tmp_path / "out"
    machine("-o", out, "--target", "rich", context)
    tar = machine.tar("--target", "rich", context)
    assert machine.blobs == before, "nothing is packed"
    assert of_directory(out) == without_owners(of_tar(tar))
    assert owners(out) == {(os.getuid(), os.getgid())}
    assert (out / "d/large").read_bytes() == bytes(3_000_000)
    assert (out / "d/f").read_text() == "from the context\n"
    (out / "d/f").write_text("of the user")
    (out / "d/mine").write_text("of the user")
    machine(f"-otype=local,dest={out}", "--target", "rich", context)
    (out / "d/mine").unlink()
    os.utime(out / "d", (0, of_tar(tar)["d"][5]))  # type: ignore[arg-type]
    assert of_directory(out) == without_owners(of_tar(tar)), "what the image has is written over"


def owners(path: Path) -> set[tuple[int, int]]:
    return {(one.lstat().st_uid, one.lstat().st_gid) for one in (path, *path.rglob("*"))}


def test_O1_binaries_out_of_a_stage(machine: Machine, context: Path, tmp_path: Path) -> None:
    """`FROM scratch` with COPY --from, and out with it (feature 89)."""
    for _ in range(2):
        machine("-o", tmp_path / "bin", context)
        shown = of_directory(tmp_path / "bin")
        assert list(shown) == ["out", "out/a", "out/f"]
        assert shown["out/a"][1] == "0o4755" and (tmp_path / "bin/out/a").read_text() == "a\n"


def test_a_known_image_needs_no_namespace_to_give_its_files(
    machine: Machine, context: Path, tmp_path: Path, without_namespaces: list[str]
) -> None:
    """Nor does a base of which nothing runs."""
    tar = machine.tar("--target", "rich", context)
    machine.image("--target", "rich", context)
    bare = Machine(machine.assemble, machine.store, tuple(without_namespaces))
    assert bare.tar("--target", "rich", context) == tar
    bare("-o", tmp_path / "out", "--target", "rich", context)
    assert of_directory(tmp_path / "out") == without_owners(of_tar(tar))
    (context / "Dockerfile").write_text("FROM busybox\nCOPY f /d/\nWORKDIR /w\n")
    bare("-o", tmp_path / "bare", context)
    assert (tmp_path / "bare/d/f").read_text() == "from the context\n"
    assert (tmp_path / "bare/bin/busybox").stat().st_mode & 0o111


def test_layers_of_a_base_that_are_nowhere_but_in_the_registry_are_fetched(
    machine: Machine, context: Path, tmp_path: Path, registry: Any, hub: Callable[[str], None]
) -> None:
    hub("busybox")
    name = f"{registry.host}/files/app:1"
    base = f"FROM {registry.host}/library/busybox\nCOPY --link f /f\n"
    (context / "Dockerfile").write_text(base)
    fresh = Machine(machine.assemble, tmp_path / "fresh")
    fresh.image("--push", "-t", name, context)
    assert max((fresh.store / "blobs/sha256" / one).stat().st_size for one in fresh.blobs) < 9_000
    fresh("-o", tmp_path / "out", context)
    assert (tmp_path / "out/bin/busybox").is_file() and (tmp_path / "out/f").is_file()
    (context / "Dockerfile").write_text(f"FROM {name}\n")
    other = Machine(machine.assemble, tmp_path / "other")
    assert of_tar(other.tar(context)).keys() == of_directory(tmp_path / "out").keys()


def test_O2_an_image_and_its_files_at_once(
    machine: Machine, context: Path, tmp_path: Path, registry: Any
) -> None:
    name, outputs = f"{registry.host}/files/both:1", ["-o", str(tmp_path / "out"), "--push"]
    image = machine.image(*outputs, "-t", name, "--target", "rich", context)
    assert of_directory(tmp_path / "out") == without_owners(of_image(machine.store, image))
    shown = machine.assemble("inspect", name).stdout
    assert image in shown
    tar = tmp_path / "x.tar"
    words = ["-o", f"type=tar,dest={tar}", "-o", f"type=oci,dest={tmp_path}/x.oci"]
    assert machine.image(*words, "--target", "rich", context) == image
    assert of_tar(tar.read_bytes()) == of_image(machine.store, image)


def test_what_is_said_where_no_image_is_made(
    machine: Machine, context: Path, tmp_path: Path
) -> None:
    """As under buildx: no digest, an empty image id, and no name for what is not there."""
    (tmp_path / "id").write_text("sha256:old")
    words = ("--iidfile", tmp_path / "id", "--metadata-file", tmp_path / "metadata", "-t", "never")
    machine("-o", tmp_path / "out", *words, context)
    assert (tmp_path / "id").read_text() == ""
    assert json.loads((tmp_path / "metadata").read_text()).keys() == {"buildx.build.ref"}
    machine("-q", "-o", tmp_path / "out", context)
    assert "never" not in machine.assemble("images").stdout
    assert "never" not in machine.assemble("history").stdout
    shown = machine.assemble("explain").stdout
    assert "completed" in shown and "0 run" in shown


def test_O2_stdout_has_the_stream_and_nothing_else(machine: Machine, context: Path) -> None:
    command = machine.assemble.command("build", "-o", "type=oci,dest=-", context)
    done = subprocess.run(command, env=machine.assemble.env, capture_output=True, timeout=600)
    assert done.returncode == 0 and done.stdout[-1024:] == bytes(1024), "where a tar ends"


def test_require_cached_is_content_with_files_that_nobody_packed(
    machine: Machine, context: Path, tmp_path: Path
) -> None:
    asked = ("--require-cached", "-o", tmp_path / "out", context)
    said = machine(*asked, code=1)
    assert "RUN" in said and not (tmp_path / "out").exists()
    machine("-o", tmp_path / "first", context)
    machine(*asked)
    assert of_directory(tmp_path / "out").keys() == of_directory(tmp_path / "first").keys()
    planned = machine.assemble("plan", context).stdout
    assert "3 cached" in planned or planned.count("cached") >= 3, planned


def test_a_cache_is_exported_of_a_build_without_an_image(
    machine: Machine, context: Path, tmp_path: Path, busybox: Callable[[str], Path]
) -> None:
    cache = f"type=local,dest={tmp_path}/cache,mode=max"
    machine("-o", tmp_path / "out", "--cache-to", cache, context, **EPOCH)
    other = Machine(machine.assemble, busybox("other"))
    said = other(
        "-o", tmp_path / "again", "--cache-from", f"type=local,src={tmp_path}/cache", context, **EPOCH
    )  # fmt: skip
    assert of_directory(tmp_path / "again") == of_directory(tmp_path / "out")
    assert said.count("CACHED (from directory cache") == len("RUN RUN COPY COPY".split()), said


def test_O1_a_failing_output_is_named_and_the_others_are_written(
    machine: Machine, context: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    words = ("-o", tmp_path / "file/out", "-o", tmp_path / "out", "-t", "app")
    said = machine(*words, "-o", "type=image", context, code=1)
    assert "file/out: Not a directory" in said.splitlines()[-1]
    assert (tmp_path / "out/out/a").is_file() and "app" in machine.assemble("images").stdout


def test_a_device_node_is_told(machine: Machine, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN mknod /node c 1 3\n")
    said = machine("-o", tmp_path / "out", context, code=1)
    assert "'node' is a device node" in said and "type=tar" in said
    assert of_tar(machine.tar(context))["node"][0] == tarfile.CHRTYPE


def test_a_limit_of_an_image_is_no_limit_of_files(machine: Machine, tmp_path: Path) -> None:
    for limit in ("--max-size=1g", "--max-layers=9"):
        said = machine("-o", tmp_path / "out", limit, tmp_path, code=2)
        assert "are for images, and none is made" in said


# How it ends ------------------------------------------------------------------------------------


def test_a_reader_that_has_enough_ends_the_build(machine: Machine, context: Path) -> None:
    command = machine.assemble.command("build", "-o", "-", "--target", "rich", context)
    process = subprocess.Popen(
        command, env=machine.assemble.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None and process.stdout is not None
    assert process.stdout.read(1_000)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141, said.decode()
    assert b"Traceback" not in said


def test_a_pipe_that_nobody_reads_is_given_up(machine: Machine, context: Path) -> None:
    command = machine.assemble.command("build", "-o", "-", "--target", "rich", context)
    process = subprocess.Popen(
        command, env=machine.assemble.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None and process.stdout is not None
    while b"exporting to tar" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.stdout.close(), process.stderr.read()
    assert process.wait(timeout=60) == 130, said.decode()
    process.stderr.close()


ENDED = """
import os, signal, sys
from assembler.output import directory
number, whole, calls = int(sys.argv.pop(1)), directory.fill_from_source, []
def half(descriptor, entry, *rest):
    calls.append(entry)
    if len(calls) == 50:
        os.write(descriptor, b"half of")
        os.kill(os.getpid(), number)
    whole(descriptor, entry, *rest)
directory.fill_from_source = half
from assembler.__main__ import process
process()
"""
"""The command line, ended in the middle of the 50th file."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_directory_of_a_build_that_was_ended_has_no_half_file(
    machine: Machine, context: Path, tmp_path: Path, number: int
) -> None:
    """Neither where there was nothing, nor where there was another one."""
    (context / "files").mkdir()
    contents = {f"{n:03}": f"{n} " * 1_000 for n in range(100)}
    for name, content in contents.items():
        (context / "files" / name).write_text(content)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")
    for there in (contents, {}):
        out = tmp_path / f"out{len(there)}/files"
        out.mkdir(parents=True)
        for name in there:
            (out / name).write_text("old")
        command = [
            sys.executable,
            "-c",
            ENDED,
            str(int(number)),
            "build",
            "-o",
            out.parent,
            context,
        ]
        done = subprocess.run(command, env=machine.assemble.env, capture_output=True, timeout=600)
        code = 130 if number == signal.SIGINT else -number
        assert done.returncode == code, done.stderr.decode()
        found = {name: (out / name).read_text() for name in os.listdir(out)}
        written = dict(list(contents.items())[:49])
        assert found == dict.fromkeys(there, "old") | written
        machine("-o", out.parent, context)
        assert {name: (out / name).read_text() for name in os.listdir(out)} == contents


# Beside buildah ---------------------------------------------------------------------------------

BESIDE = """\
FROM scratch
COPY d /
COPY --chown=3:4 --chmod=750 d/s /owned
ADD a.tar /unpacked/
"""


def prepared(context: Path) -> None:
    """Files of most kinds."""
    (context / "Dockerfile").write_text(BESIDE)
    (context / "d/s/t").mkdir(parents=True)
    (context / "d/one").write_text("one\n")
    (context / "d/one").chmod(0o711)
    (context / "d/two").hardlink_to(context / "d/one")
    (context / "d/link").symlink_to("../../nowhere")
    (context / "d/s/h").write_text("h\n")
    (context / "d/s/t").chmod(0o750)
    for path in (context / "d").rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    with tarfile.open(context / "a.tar", "w") as archive:
        for name, kind, mode in (("e", tarfile.DIRTYPE, 0o2750), ("e/f", tarfile.REGTYPE, 0o4755)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = kind, mode, 1_600_000_000
            member.uid = member.gid = 12
            archive.addfile(member)


IMPLIED = {"owned", "unpacked"}  # made by a COPY, now; buildah gives them no mode (rule C12)


def as_buildah(found: Described) -> Described:
    """`found` as buildah exports it: without setuid and setgid bits, which buildx does not leave out."""
    return {
        name: (kind, oct(int(str(mode), 8) & 0o1777), *rest)
        for name, (kind, mode, *rest) in found.items()
        if name not in IMPLIED
    }


def test_buildah_writes_the_same_files(
    machine: Machine, context: Path, tmp_path: Path, podman: Any
) -> None:
    prepared(context)
    machine("-o", tmp_path / "ours", context)
    podman.buildah("build", "--layers=false", "-o", str(tmp_path / "theirs"), str(context))
    ours = of_directory(tmp_path / "ours")
    assert as_buildah(ours) == as_buildah(of_directory(tmp_path / "theirs"))
    assert ours["unpacked/e/f"][1] == "0o4755"
    podman.buildah("build", "-o", f"type=tar,dest={tmp_path}/theirs.tar", str(context))
    tar = of_tar((tmp_path / "theirs.tar").read_bytes())
    assert as_buildah(of_tar(machine.tar(context))) == as_buildah(tar)
