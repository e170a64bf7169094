"""The disk: what is said when nothing more can be written, and when blobs are on it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from assembler.errors import BadArchive, BlobCorrupt, BlobMissing, HostError, NoSpace, StoreUnusable
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.store.blobs import Blobs
from assembler.store.disk import Disk, Fsync, mount_point, shortage, translated
from assembler.store.store import Store


def failure(number: int, filename: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), filename)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ("no space left", "123 bytes needed", "bytes free")),
        (errno.EDQUOT, ("the disk quota is used up", "123 bytes needed")),
        (errno.EFBIG, ("the largest size", "bytes free")),
        (errno.EROFS, ("is read-only",)),
    ],
)
def test_RS02_what_cannot_be_written_names_its_file_system(
    tmp_path: Path, number: int, words: tuple[str, ...]
) -> None:
    error = translated(failure(number), str(tmp_path), 123)
    assert isinstance(error, NoSpace) and error.hint
    assert error.file_system == mount_point(str(tmp_path))
    place = f"the file system of {tmp_path} (mounted at {error.file_system})"
    assert place in error.message
    assert all(word in error.message for word in words)
    assert ("assemble prune" in error.hint) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_a_mount_point_is_found_from_below_it_and_from_what_is_not_there() -> None:
    assert mount_point("/proc/self/no/such/file") == "/proc"
    assert mount_point("/proc") == "/proc"
    assert mount_point("/") == "/"


def test_RS02_the_reason_below_another_error_is_found() -> None:
    error = BadArchive("'f' cannot be made", "f")
    error.__cause__ = failure(errno.ENOSPC)
    found = shortage(error, "/proc/self")
    assert isinstance(found, NoSpace)
    assert found.message.startswith(
        "'f' cannot be made: no space left on the file system of /proc/self (mounted at /proc): "
    )
    assert shortage(found, "/") is None, "it is said already"
    assert shortage(failure(errno.EACCES), "/") is None
    other = HostError("no cgroup", "cgroups")
    other.__cause__ = failure(errno.EROFS, "/sys/fs/cgroup/x")
    assert shortage(other, "/") is None, "not of the store"


class Recorded(Disk):
    """A disk that tells its order."""

    def __init__(self, policy: Fsync) -> None:
        super().__init__(policy, lambda text: None)
        self.order: list[str] = []

    def sync(self, descriptor: int) -> None:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        self.order.append("directory" if directory else "blob")
        super().sync(descriptor)


def mode(store: Store, digest: Digest) -> int:
    return os.stat(store.blobs.path(digest)).st_mode & 0o777


def test_a_batch_is_synced_once_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Recorded(Fsync.BATCH)
    store = Store.open(str(tmp_path / "store"), disk=disk)
    digests = [store.blobs.put(f"{number}".encode()) for number in range(5)]
    assert disk.order == [] and {mode(store, one) for one in digests} == {0o400}
    monkeypatch.setattr(
        "assembler.store.refs.write_index", lambda path, entries: disk.order.append("name")
    )
    store.refs.set("a:1", Descriptor(MANIFEST, digests[0], 1))
    assert disk.order == ["blob"] * 5 + ["directory", "name"]
    assert {mode(store, one) for one in digests} == {0o444}
    store.refs.set("b:1", Descriptor(MANIFEST, digests[0], 1))
    assert disk.order[7:] == ["name"]
    store.close()


@pytest.mark.parametrize("nameless", [True, False])
def test_what_takes_the_place_of_a_durable_blob_is_on_disk_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    """What names it survives a power cut, and shall find it: as it was, or as it is now."""
    content = bytes(1 << 20)
    with Store.open(str(tmp_path / "store"), disk=Disk(Fsync.BATCH)) as first:
        digest = first.blobs.put(content)
        first.refs.set("a:1", Descriptor(MANIFEST, digest, len(content)))
    disk = Recorded(Fsync.BATCH)
    rename = os.rename

    def noted(old: str, new: str) -> None:
        disk.order.append("rename")
        rename(old, new)

    with Store.open(str(tmp_path / "store"), disk=disk) as second:
        second.blobs.links_open_files = nameless
        monkeypatch.setattr(os, "rename", noted)
        second.blobs.put(content)
        assert disk.order == ["blob", "rename"]
        monkeypatch.undo()
    assert mode(second, digest) == 0o444


def test_a_store_that_is_closed_is_synced(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "store"), disk=Disk(Fsync.BATCH)) as store:
        digest = store.blobs.put(b"content")
    assert mode(store, digest) == 0o444


@pytest.mark.parametrize("policy", [Fsync.FULL, Fsync.OFF])
def test_in_full_each_blob_is_synced_at_once_and_otherwise_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Fsync
) -> None:
    synced: list[int] = []
    store = Store.open(str(tmp_path / "store"), disk=Disk(policy))
    monkeypatch.setattr("os.fsync", synced.append)
    digest = store.blobs.put(b"content")
    assert len(synced) == (2 if policy is Fsync.FULL else 0)
    assert mode(store, digest) == 0o444
    store.close()


def test_a_blob_that_a_power_cut_may_have_spoilt_is_believed_when_it_was_read(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "store")
    first = Store.open(path, disk=Disk(Fsync.BATCH))
    good, bad = first.blobs.put(b"good"), first.blobs.put(b"bad!")
    damaged = Path(first.blobs.path(bad))
    damaged.chmod(0o600)
    damaged.write_bytes(bytes(4))
    damaged.chmod(0o400)
    with Store.open(path, disk=Disk(Fsync.BATCH)) as second:
        assert second.blobs.has(good) and not second.blobs.has(bad)
        assert not damaged.exists()
    assert mode(first, good) == 0o444
    assert first.blobs.put(b"bad!") == bad and first.blobs.has(bad)


def test_a_file_system_without_fsync_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise failure(errno.EINVAL)

    told: list[str] = []
    store = Store.open(str(tmp_path / "store"), disk=Disk(Fsync.FULL, told.append))
    monkeypatch.setattr("os.fsync", refuse)
    for number in range(3):
        store.blobs.put(f"{number}".encode())
    assert len(told) == 1 and "has no fsync" in told[0]


def test_a_large_blob_is_on_its_way_to_disk_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "assembler.linux.syscalls.start_writeout",
        lambda descriptor, offset, size: started.append((offset, size)),
    )
    store = Store.open(str(tmp_path / "store"), disk=Disk(Fsync.BATCH))
    with store.blobs.ingest() as ingest:
        for _ in range(40):
            ingest.write(bytes(1 << 20))
        ingest.commit()
    assert started[0] == (0, 16 << 20)
    assert sum(size for _, size in started) == 40 << 20
    store.close()


def test_a_blob_that_does_not_fit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    with pytest.raises(NoSpace, match=f"{1 << 60} bytes needed"), store.blobs.ingest(1 << 60):
        raise AssertionError("not reached")


def damaged(store: Store) -> tuple[Digest, Path]:
    """A blob of `content`, and the file in which it has other bytes."""
    digest = store.blobs.put(b"content")
    path = Path(store.blobs.path(digest))
    path.chmod(0o644)
    path.write_bytes(b"c0ntent")
    return digest, path


def test_a_damaged_blob_that_fails_its_reader_is_taken_away(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    digest = store.blobs.put(b"content")
    with pytest.raises(BadArchive), store.blobs.reading(digest):
        raise BadArchive("not the blob's fault")
    assert store.blobs.has(digest)
    assert damaged(store)[0] == digest
    with pytest.raises(BlobCorrupt, match=digest.hex), store.blobs.reading(digest):
        raise BadArchive("the blob's fault")
    with pytest.raises(BlobMissing):
        store.blobs.open(digest)


def test_a_damaged_blob_that_another_has_removed_is_told_as_damaged(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    digest, path = damaged(store)
    with pytest.raises(BlobCorrupt) as caught, store.blobs.reading(digest):
        path.unlink()
        raise BadArchive("the blob's fault")
    assert caught.value.removed
    store.blobs.condemn(digest)  # there is nothing to say of it


@pytest.mark.parametrize("durable", [True, False])
def test_a_blob_that_another_has_put_in_place_of_a_damaged_one_stays(
    tmp_path: Path, durable: bool
) -> None:
    """Two builds find the damage; the first has the blob again before the second has read it all."""

    def renew() -> None:
        if path.read_bytes() != b"content":
            path.unlink()
            path.write_bytes(b"content")

    digest, path = damaged(Store.open(str(tmp_path / "store")))
    path.chmod(0o444 if durable else 0o400)
    second = Blobs(str(tmp_path / "store"), renew)
    if durable:
        with pytest.raises(BlobCorrupt) as caught:
            second.condemn(digest)
        assert caught.value.removed
    else:
        assert second.size(digest) is None
    assert path.read_bytes() == b"content"


def test_a_link_in_place_of_a_blob_is_not_read(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    digest, path = damaged(store)
    path.unlink()
    path.symlink_to("/dev/zero")
    store.blobs.condemn(digest)
    assert not store.blobs.has(digest) and store.blobs.put(b"content") == digest
    assert path.read_bytes() == b"content" and not path.is_symlink()


def test_a_store_where_anybody_may_make_files_must_be_ones_own(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "theirs").mkdir()
    (shared / "theirs").chmod(0o777)
    with pytest.raises(StoreUnusable, match="anybody may have made it"):
        Store.open(str(shared / "theirs"))
    (shared / "linked").symlink_to(tmp_path)
    with pytest.raises(StoreUnusable, match="anybody may have made it"):
        Store.open(str(shared / "linked"))
    with Store.open(str(shared / "own")):
        assert os.stat(shared / "own").st_mode & 0o777 == 0o700
    with Store.open(str(shared / "own")):
        pass
