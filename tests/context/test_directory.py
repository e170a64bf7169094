"""A directory as build context (rules G1, G6, X1; reliability B2)."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assembler.cli.inputs import directory_context, inputs_of
from assembler.context.base import Summarised
from assembler.context.directory import DirectoryContext, find_ignore_file
from assembler.errors import ContextChanged, StepError, UsageError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.compression import by_name
from assembler.layer.realise import realise
from assembler.layer.tree import everything
from assembler.layer.write import pack
from assembler.linux import paths
from assembler.linux.beneath import Openings
from tests.leftovers import nothing_left
from tests.ticks import tick


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "context/d").mkdir(parents=True)
    (tmp_path / "context/d/g").write_text("G")
    (tmp_path / "context/f").write_text("F")
    tick(tmp_path / "context")
    return tmp_path / "context"


def found(root: Path, path: str) -> Entry:
    entry = DirectoryContext(str(root), None).tree().lookup(path)
    assert entry is not None
    return entry


def read(entry: Entry) -> bytes:
    assert entry.source is not None
    with entry.source.open() as stream:
        return stream.read()


def test_entries(root: Path) -> None:
    (root / "l").symlink_to("d/g")
    (root / "d/g").chmod(0o4750)
    os.utime(root / "d/g", ns=(5, 5))
    os.link(root / "d/g", root / "d/h")
    entry = found(root, "d/g")
    assert (entry.kind, entry.mode, entry.mtime, entry.size) == (Kind.FILE, 0o4750, 5, 1)
    assert (entry.uid, entry.gid, read(entry)) == (0, 0, b"G")
    assert entry.inode == found(root, "d/h").inode is not None
    assert found(root, "l").link == "d/g"
    tree = DirectoryContext(str(root), None).tree()
    assert [one.path for one in tree.children("")] == ["d", "f", "l"]
    assert tree.lookup("") is not None and tree.lookup("f/x") is None and tree.lookup("no") is None


def test_no_link_is_followed_to_a_path(root: Path) -> None:
    (root / "l").symlink_to("d")
    tree = DirectoryContext(str(root), None).tree()
    assert tree.lookup("l/g") is None, "who wants to follow links resolves them first"


def test_C20_capabilities_of_programs_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def getxattr(path: str, name: str, *, follow_symlinks: bool = True) -> bytes:
        assert name == "security.capability" and not follow_symlinks
        if path.endswith("/f"):
            return b"capability"
        raise OSError(errno.ENODATA, "no data")

    monkeypatch.setattr(os, "getxattr", getxattr)
    for name in ("f", "d/g"):
        (root / name).chmod(0o755)
    assert found(root, "f").xattrs == (("security.capability", b"capability"),)
    assert found(root, "d/g").xattrs == ()
    (root / "f").chmod(0o644)
    assert found(root, "f").xattrs == (), "no program, no capability"


def test_sockets_and_devices_are_no_files_of_a_context(root: Path) -> None:
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    tree = DirectoryContext(str(root), None).tree()
    assert tree.lookup("socket") is None
    assert [one.path for one in tree.children("")] == ["d", "f"]


@pytest.mark.parametrize("change", ["content", "size", "another", "gone", "link", "directory"])
def test_B2_a_file_that_is_another_one_by_now_is_named(root: Path, change: str) -> None:
    entry = found(root, "d/g")
    place = root / "d/g"
    if change == "content":
        os.utime(place, ns=(1, 1))
    elif change == "size":
        place.write_text("longer")
    else:
        place.unlink()
    if change == "another":
        (root / "new").write_text("G")
        (root / "new").rename(place)
    elif change == "link":
        (root.parent / "outside").write_text("canary")
        place.symlink_to(root.parent / "outside")
    elif change == "directory":
        place.mkdir()
    with pytest.raises(ContextChanged, match="d/g in the build context changed during the build"):
        read(entry)


def test_B2_a_directory_swapped_for_a_link_is_not_followed(root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "g").write_text("canary")
    tree = DirectoryContext(str(root), None).tree()
    entry = found(root, "d/g")
    (root / "d").rename(root / "moved")
    (root / "d").symlink_to(elsewhere)
    with pytest.raises(ContextChanged):
        read(entry)
    with pytest.raises(ContextChanged, match="d in the build context changed"):
        list(tree.children("d"))
    assert tree.lookup("d/g") is None


def test_a_directory_that_vanished_is_named(root: Path) -> None:
    tree = DirectoryContext(str(root), None).tree()
    shutil.rmtree(root / "d")
    with pytest.raises(ContextChanged, match="d in the build context changed during the build"):
        list(tree.children("d"))


def test_a_file_that_vanishes_while_its_directory_is_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "d/l").symlink_to("g")
    readlink = os.readlink

    def removed(path: str, *, dir_fd: int) -> str:
        (root / "d/l").unlink()
        return readlink(path, dir_fd=dir_fd)

    tree = DirectoryContext(str(root), None).tree()
    monkeypatch.setattr(os, "readlink", removed)
    with pytest.raises(ContextChanged, match="d/l in the build context changed"):
        list(tree.children("d"))


def packed(entry: Entry) -> None:
    pack([entry], io.BytesIO(), by_name("uncompressed"))


def realised(entry: Entry) -> None:
    with tempfile.TemporaryDirectory() as directory:
        realise([entry], directory)


def replaced(path: Path) -> None:
    (path.parent / "new").write_text("N")
    os.utime(path.parent / "new", ns=(0, path.stat().st_mtime_ns))
    os.replace(path.parent / "new", path)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(path: Path) -> None:
    path.rename(path.parent / "other")
    path.symlink_to("other")


@pytest.mark.parametrize("use", [packed, realised])
@pytest.mark.parametrize("change", [replaced, fifo, linked, Path.unlink, Path.touch])
def test_B2_another_file_is_noticed(
    root: Path, change: Callable[[Path], None], use: Callable[[Entry], None]
) -> None:
    entry = found(root, "d/g")._replace(uid=os.getuid(), gid=os.getgid())
    use(entry)
    os.utime(root / "d/g", ns=(0, 5))
    entry = found(root, "d/g")._replace(uid=os.getuid(), gid=os.getgid())
    change(root / "d/g")
    with pytest.raises(ContextChanged, match="d/g in the build context changed"):
        use(entry)


@pytest.mark.parametrize("size", [1, 2_000_000])
def test_B2_packing_notices_a_file_that_changes_while_it_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = root / "d/g"
    path.write_bytes(bytes(size))
    os.utime(path, ns=(0, 5))
    entry = found(root, "d/g")
    for name in ("readv", "preadv"):
        read = getattr(os, name)

        def disturbed(*arguments: Any, read: Any = read) -> int:
            path.write_bytes(b"1" * size)
            return int(read(*arguments))

        monkeypatch.setattr(os, name, disturbed)
    with pytest.raises(ContextChanged, match="d/g in the build context changed"):
        packed(entry)


def test_what_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = found(root, "d/g")
    tree = DirectoryContext(str(root), None).tree()

    def refused(*_: object) -> int:  # as for anybody but root where the mode is 000
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(paths, "open_beneath", refused)
    monkeypatch.setattr(Openings, "open", refused)
    for path, act in (("d/g", lambda: read(entry)), ("d", lambda: list(tree.children("d")))):
        with pytest.raises(StepError) as caught:
            act()
        assert caught.value.message == (
            f"{path} in the build context cannot be read: Permission denied"
        )
        assert caught.value.hint == "make it readable, or exclude it in .dockerignore"


def test_names_that_are_no_text(root: Path) -> None:
    name = os.fsdecode(b"d/\xff\xfe\n'")
    (root / name).write_bytes(b"x")
    assert read(found(root, name)) == b"x"
    tree = DirectoryContext(str(root), None).tree()
    assert [one.path for one in tree.children("d")] == ["d/g", name]


def test_paths_longer_than_the_kernel_takes(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("n" * 200, dir_fd=descriptor)
        deeper = os.open("n" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    path = "/".join(["n" * 200] * 50)
    tree = DirectoryContext(str(root), None).tree()
    assert [one.path for one in tree.children(path)] == [f"{path}/f"]
    entry = tree.lookup(f"{path}/f")
    assert entry is not None and read(entry) == b""


IGNORE_FILES = ("sub/My.Dockerfile.dockerignore", ".dockerignore", ".containerignore")


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (IGNORE_FILES, "My.Dockerfile.dockerignore"),
        (IGNORE_FILES[1:], ".dockerignore"),
        (IGNORE_FILES[2:], ".containerignore"),
        (("Dockerfile.dockerignore",), ""),
        (("sub/.dockerignore",), ""),
        ((), ""),
    ],
)
def test_G1_which_ignore_file_is_read(root: Path, present: tuple[str, ...], chosen: str) -> None:
    (root / "sub").mkdir()
    (root / "sub/My.Dockerfile").write_text("FROM scratch\n")
    for name in present:
        (root / name).write_text("f\n")
    source = find_ignore_file(str(root), str(root / "sub/My.Dockerfile"))
    assert (source.name if source else "") == chosen


def test_G1_the_file_beside_a_dockerfile_outside_the_context(root: Path) -> None:
    outside = root.parent / "Other"
    (root.parent / "Other.dockerignore").write_text("f\n")
    (root / ".dockerignore").write_text("d\n")
    context = directory_context(str(root), str(outside), "")
    assert [one.path for one in context.tree().children("")] == [".dockerignore", "d"]


def test_G1_a_dockerfile_on_stdin_has_no_file_beside_it(root: Path) -> None:
    (root / "Dockerfile.dockerignore").write_text("f\n")
    assert find_ignore_file(str(root), "") is None
    (root / ".dockerignore").write_text("f\n")
    source = find_ignore_file(str(root), "")
    assert source is not None and source.name == ".dockerignore"


def test_G1_an_ignore_file_that_is_a_link_is_refused(root: Path) -> None:
    (root.parent / "secret").write_text("f\n")
    (root / ".dockerignore").symlink_to(root.parent / "secret")
    with pytest.raises(UsageError, match="is a symbolic link"):
        directory_context(str(root), "", "")


def test_G1_an_ignore_file_that_never_ends_is_refused(root: Path) -> None:
    with open(root / ".dockerignore", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UsageError, match="larger than 16777216 bytes"):
        directory_context(str(root), "", "")


@pytest.mark.parametrize("rules", ["*", "Dockerfile\n.dockerignore", "**\n!f"])
def test_G6_a_hidden_dockerfile_is_read_and_not_copyable(root: Path, rules: str) -> None:
    (root / "Dockerfile").write_text("FROM scratch\n")
    (root / ".dockerignore").write_text(rules)
    inputs = inputs_of("", str(root), (), False, None)  # type: ignore[arg-type]
    assert inputs.dockerfile.text == "FROM scratch\n"
    assert inputs.context is not None
    tree = inputs.context.tree()
    assert tree.lookup("Dockerfile") is None and tree.lookup(".dockerignore") is None
    assert (inputs.context.ignored("Dockerfile") or "").startswith(".dockerignore:1 ")


def test_G7_a_local_named_context_has_an_ignore_file_of_its_own(root: Path) -> None:
    (root / "Dockerfile").write_text("FROM scratch\n")
    (root / ".dockerignore").write_text("f\n")
    other = root.parent / "other"
    other.mkdir()
    for name in ("f", "g"):
        (other / name).write_text(name)
    (other / ".dockerignore").write_text("g\n.dockerignore\n")
    (other / "Dockerfile.dockerignore").write_text("*\n")
    inputs = inputs_of("", str(root), (f"other={other}",), False, None)  # type: ignore[arg-type]
    named = [one.path for one in inputs.files["other"].tree().children("")]
    assert named == ["Dockerfile.dockerignore", "f"], "what is beside a Dockerfile is not for it"
    assert inputs.context is not None
    assert [one.path for one in inputs.context.tree().children("")] == [
        ".dockerignore", "Dockerfile", "d",
    ]  # fmt: skip


def deep(root: Path, levels: int) -> None:
    """Directories in each other, more than are kept open, a file beside each."""
    top = here = root / "deep"
    for number in range(levels):
        here.mkdir()
        (here / "a").write_text(str(number))
        (here / "z").write_text(str(number))
        here = here / "m"
    assert top.is_dir()


def test_everything_is_what_the_directories_one_by_one_have(root: Path) -> None:
    deep(root, 70)
    (root / "d/l").symlink_to("g")
    os.link(root / "d/g", root / "d/h")
    (root / "d-e").mkdir()
    (root / "program").write_text("P")
    (root / "program").chmod(0o755)
    whole = DirectoryContext(str(root), None).tree()

    class OneByOne:
        lookup, children = whole.lookup, whole.children

    found = list(everything(whole))
    assert found == list(everything(OneByOne()))
    assert len(found) == 1 + 3 * 70 + 7
    assert [entry for entry in found if entry.kind is Kind.HARDLINK] != []
    assert [read(entry) for entry in found if entry.path.endswith("m/m/z")][:1] == [b"69"]


def test_everything_is_as_it_was_when_the_context_was_listed(root: Path) -> None:
    tree = DirectoryContext(str(root), None).tree()
    assert isinstance(tree, Summarised)
    tree.unread("", lambda: None)
    before = list(everything(DirectoryContext(str(root), None).tree()))
    (root / "d/new").write_text("N")
    assert list(everything(tree)) == before


def test_B2_a_directory_that_became_a_link_is_not_entered(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("S")
    walk = everything(DirectoryContext(str(root), None).tree())
    assert [next(walk).path, next(walk).path] == ["", "d"]
    shutil.rmtree(root / "d")
    (root / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ContextChanged, match="d in the build context changed"):
        list(walk)


def test_a_walk_that_is_given_up_leaves_nothing_open(root: Path) -> None:
    deep(root, 5)
    with nothing_left():
        walk = everything(DirectoryContext(str(root), None).tree())
        while not next(walk).path.endswith("m/m"):
            pass
        walk.close()
