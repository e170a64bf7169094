"""Cache mounts that travel: packed once, within bounds, alone where builds take turns (rule M7)."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assembler.cache import mounts
from assembler.cache.document import CachedMount
from assembler.cache.local import LocalCache
from assembler.cache.mounts import MountExport, directory_name, named, restore
from assembler.dockerfile.parser import parse
from assembler.errors import BadArchive, Cancelled
from assembler.layer.tar_reader import DEFAULT_LIMITS
from assembler.layer.write import Packed, nothing
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.plan.steps import CacheMount
from assembler.source import Source
from assembler.store.disk import Disk, Fsync
from assembler.store.store import Store
from tests.layer.archives import directory, file, hardlink, raw, symlink, tar

MOUNT = CacheMount("/root/.cache", "/root/.cache")
NAME = directory_name(MOUNT)


class Machine:
    """A store with a cache mount; `told` are the lines for the user."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.store = Store.open(str(path / "store"), disk=Disk(Fsync.OFF))
        self.cache = LocalCache(str(path / "store/cache.db"))
        self.mount = path / "store/mounts/full" / f"{NAME}.0"
        self.told: list[str] = []

    def export(
        self, mount: CacheMount = MOUNT, largest: int = 0, check: Callable[[], None] = nothing
    ) -> CachedMount | None:
        exporting = MountExport(
            self.store, self.cache, "full", largest=largest, tell=self.told.append, check=check
        )
        return exporting.export(directory_name(mount), [mount])

    def holds(self, name: str) -> CachedMount:
        """A mount with one file, exported."""
        self.mount.mkdir(parents=True, exist_ok=True)
        (self.mount / name).write_bytes(os.urandom(100))
        found = self.export()
        assert found is not None
        return found

    def close(self) -> None:
        self.cache.close()
        self.store.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine")
    yield made
    made.close()


def test_M7_a_mount_is_one_by_its_id_owner_and_mode() -> None:
    text = """\
FROM scratch AS a
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t x
FROM scratch AS unused
RUN --mount=type=cache,target=/u x
FROM a
RUN --mount=type=cache,target=/elsewhere,id=/c,sharing=locked y
RUN --mount=type=cache,target=/c,uid=1000 z
"""
    platform = Platform("linux", "amd64")
    request = PlanRequest(dockerfile=parse(Source("Dockerfile", text)), build_platform=platform)
    found = named(make(request, {}))
    assert [[(one.target, one.sharing, one.uid) for one in each] for each in found.values()] == [
        [("/c", "shared", 0), ("/elsewhere", "locked", 0)],
        [("/c", "shared", 1000)],
    ]


def test_M7_a_mount_that_did_not_change_is_not_packed_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_TICK", -(1 << 62))
    first = machine.holds("f")

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("packed again")

    with monkeypatch.context() as patched:
        patched.setattr(mounts, "pack_ordered", refused)
        assert machine.export() == first
    os.unlink(machine.store.blobs.path(first.layer.descriptor.digest))
    assert machine.export() == first, "the same bytes of the same files"
    machine.holds("g")
    assert machine.export() != first


def test_M7_what_may_have_changed_within_one_tick_of_the_clock_is_packed_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_TICK", 1 << 62)
    packings = []
    pack = mounts.pack_ordered

    def counted(*given: Any, **named: Any) -> Packed:
        packings.append(given)
        return pack(*given, **named)

    monkeypatch.setattr(mounts, "pack_ordered", counted)
    assert machine.holds("f") == machine.export()
    assert len(packings) == 2


def test_M7_the_blob_of_an_earlier_state_goes_when_nobody_needs_it(
    machine: Machine, tmp_path: Path
) -> None:
    has = machine.store.blobs.path
    first, second = (machine.holds(name).layer.descriptor.digest for name in "ab")
    assert os.path.exists(has(first)), "this process has given it to somebody"
    machine.store.close()
    machine.store = Store.open(machine.store.path, disk=Disk(Fsync.OFF))
    third = machine.holds("c").layer.descriptor.digest
    assert [os.path.exists(has(one)) for one in (second, third)] == [False, True]


def test_M7_what_is_too_large_is_told_with_the_option_that_allows_it(machine: Machine) -> None:
    machine.holds("f")
    assert machine.export(largest=99) is None
    assert machine.told == [
        "cache mount /root/.cache is not exported: it has 100B, more than the 99B that "
        "mounts-max-size allows"
    ]
    (machine.mount / "sparse").touch()
    os.truncate(machine.mount / "sparse", 1 << 40)
    assert machine.export() is None, "holes count"


def test_M7_nothing_is_exported_of_what_is_not_here_or_empty(machine: Machine) -> None:
    assert machine.export() is None
    machine.mount.mkdir(parents=True)
    assert machine.export() is None
    assert not machine.told


@pytest.mark.parametrize("sharing", ["locked", "private"])
def test_M7_a_mount_that_another_build_has_to_itself_is_left_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, sharing: str
) -> None:
    machine.holds("f")
    monkeypatch.setattr(mounts, "_PATIENCE", 0.0)
    alone = replace(MOUNT, sharing=sharing)
    with open(f"{machine.mount}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert machine.export(alone) is None
        assert machine.export() is not None, "a shared one belongs to nobody"
    assert machine.told == [
        "cache mount /root/.cache is not exported: another build has had it for 0 seconds"
    ]
    assert machine.export(alone) is not None
    with open(f"{machine.mount}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_M7_a_file_that_changes_while_it_is_packed_is_left_out_and_told(machine: Machine) -> None:
    machine.holds("f")
    large = machine.mount / "g.log"
    large.write_bytes(bytes(2 << 20))

    def written() -> None:
        with large.open("ab") as stream:
            stream.write(b"x")

    machine.told.clear()
    found = machine.export(check=written)
    assert found is not None
    assert machine.told == [
        "cache mount /root/.cache: a file is not exported, 'g.log' for one: it kept changing"
    ]
    assert files(machine, found) == {"f"}


def files(machine: Machine, mount: CachedMount) -> set[str]:
    """What the exported mount holds."""
    into = machine.mount.parent / "out"
    into.mkdir()
    with machine.store.blobs.open(mount.layer.descriptor.digest) as blob:
        restore(mount.layer, blob, str(into), MOUNT, limits=DEFAULT_LIMITS, check=nothing)
    return set(os.listdir(into))


def test_M7_names_of_whiteouts_are_names_of_files(machine: Machine) -> None:
    for name in (".wh.x", ".wh..wh..opq", ".wh..wh.plnk", ".wh."):
        found = machine.holds(name)
    assert files(machine, found) == {".wh.x", ".wh..wh..opq", ".wh..wh.plnk", ".wh."}
    assert not machine.told


def test_M7_a_disk_that_is_full_is_a_line_and_a_wish_to_end_ends(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.mount.mkdir(parents=True)
    (machine.mount / "f").write_bytes(os.urandom(1 << 20))

    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 1 << 16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert machine.export() is None
    assert len(machine.told) == 1
    assert "is not exported: no space left" in machine.told[0]

    def cancelled() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        machine.export(check=cancelled)


def unpacked(
    blob: bytes, into: Path, mount: CacheMount = MOUNT, diff_id: Digest | None = None
) -> None:
    """Take over the mount in `blob`."""
    digest = Digest.of(blob)
    layer = Layer(Descriptor(LAYER_TAR, digest, len(blob)), diff_id or digest)
    restore(layer, io.BytesIO(blob), str(into), mount, limits=DEFAULT_LIMITS, check=nothing)


ROOT = directory("")
HOSTILE = {
    "link out": tar(ROOT, symlink("out", "/etc"), file("out/passwd", b"mine")),
    "dots": tar(ROOT, file("../../passwd", b"mine")),
    "hard link out": tar(ROOT, symlink("up", "../../.."), hardlink("passwd", "up/etc/passwd")),
    "opaque": raw(b"d/", kind=b"5") + raw(b"d/.wh..wh..opq") + bytes(1024),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_M7_a_poisoned_mount_stays_in_its_directory(tmp_path: Path, kind: str) -> None:
    outside, into = tmp_path / "outside", tmp_path / "in/to"
    outside.mkdir()
    into.mkdir(parents=True)
    before = Path("/etc/passwd").stat()
    with suppress(BadArchive):
        unpacked(HOSTILE[kind], into)
    now = Path("/etc/passwd").stat()
    assert (now.st_size, now.st_mtime_ns, now.st_nlink) == (
        before.st_size, before.st_mtime_ns, before.st_nlink,
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["in", "outside"]
    assert os.listdir(tmp_path / "in") == ["to"]


def test_M7_other_bytes_than_were_said_are_refused(tmp_path: Path) -> None:
    blob = tar(directory(""), file("f"))
    with pytest.raises(BadArchive, match="digest"):
        unpacked(blob, tmp_path, diff_id=Digest.of(b"others"))


def test_M7_a_mount_without_a_word_on_its_root_has_what_the_dockerfile_says(tmp_path: Path) -> None:
    unpacked(tar(file("f")), tmp_path, replace(MOUNT, mode=0o1777))
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
