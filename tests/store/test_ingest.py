"""A blob being written: by a file without a name, or in a locked directory."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assembler.errors import BlobCorrupt, NoSpace
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.store.disk import Disk, Fsync
from assembler.store.ingest import Draft
from assembler.store.store import Store

CONTENT = random.Random(1).randbytes(200_000)
DIGEST = Digest.of(CONTENT)


def without_tmpfile(monkeypatch: pytest.MonkeyPatch, number: int = errno.EOPNOTSUPP) -> None:
    """Have open(2) say that there are no files without a name."""
    real = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)


@pytest.fixture(params=["unnamed", "named", "fsync first"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """With files that have no name yet, on a file system that has none such, and under the policy
    that does without."""
    if request.param == "named":
        without_tmpfile(monkeypatch)
    policy = Fsync.FULL if request.param == "fsync first" else Fsync.BATCH
    return Store.open(str(tmp_path / "store"), disk=Disk(policy))


def ingests(store: Store) -> list[str]:
    return os.listdir(os.path.join(store.path, "ingest"))


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_a_blob_appears_whole(store: Store, size: int) -> None:
    content = random.Random(size).randbytes(size)
    digest = Digest.of(content)
    with store.blobs.ingest() as ingest:
        for start in range(0, size, 70_000):
            ingest.write(content[start : start + 70_000])
        assert not os.path.lexists(store.blobs.path(digest))
        assert ingest.commit() == (digest, size)
    assert Path(store.blobs.path(digest)).read_bytes() == content and ingests(store) == []
    store.close()
    assert os.stat(store.blobs.path(digest)).st_mode & 0o777 == 0o444


def test_a_blob_that_is_there_is_replaced(store: Store) -> None:
    path = Path(store.blobs.path(DIGEST))
    path.write_bytes(b"damaged")
    path.chmod(0o444)
    before = path.stat().st_ino
    with store.blobs.ingest() as ingest:
        ingest.write(CONTENT)
        ingest.commit()
        assert path.read_bytes() == CONTENT and path.stat().st_ino != before
    assert ingests(store) == [] and path.stat().st_nlink == 1


@pytest.mark.parametrize("size", [0, 100, len(CONTENT)])
def test_what_was_written_is_read_before_it_has_a_name(store: Store, size: int) -> None:
    with store.blobs.ingest() as ingest:
        ingest.write(CONTENT[:size])
        with ingest.content() as content:
            assert content.read() == CONTENT[:size]
        digest, _ = ingest.commit()
    with store.blobs.open(digest) as stream:
        assert stream.read() == CONTENT[:size]


def test_a_blob_gets_the_directory_of_its_algorithm(store: Store) -> None:
    digest = store.blobs.put(CONTENT, "sha512")
    assert digest.algorithm == "sha512" and store.blobs.has(digest)


def test_M1_what_is_wrong_or_given_up_leaves_nothing(store: Store) -> None:
    with store.blobs.ingest() as ingest, pytest.raises(BlobCorrupt):
        ingest.write(CONTENT)
        ingest.commit(Descriptor(MANIFEST, Digest.of(b"other"), len(CONTENT)))
    with pytest.raises(RuntimeError), store.blobs.ingest() as ingest:
        ingest.write(CONTENT)
        raise RuntimeError
    assert ingests(store) == [] == os.listdir(os.path.dirname(store.blobs.path(DIGEST)))


def test_a_killed_writer_leaves_nothing_without_a_sweep(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from assembler.store.disk import Disk, Fsync\n"
        "from assembler.store.store import Store\n"
        "with Store.open(sys.argv[1], disk=Disk(Fsync.BATCH)) as store, store.blobs.ingest() as ingest:\n"
        "    ingest.write(bytes(1 << 20))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "store"
    ended = subprocess.run([sys.executable, "-c", program, str(path)])
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(path / "ingest") == [] == os.listdir(path / "blobs" / "sha256")


def test_a_full_disk_is_not_taken_for_one_that_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path / "store"), disk=Disk(Fsync.BATCH))
    without_tmpfile(monkeypatch, errno.ENOSPC)
    with pytest.raises(NoSpace), store.blobs.ingest() as ingest:
        ingest.write(CONTENT)


def test_a_draft_that_cannot_be_opened_leaves_no_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith("data"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match="Too many open files"):
        Draft(str(tmp_path), nameless=False)
    assert os.listdir(tmp_path / "ingest") == []


def test_what_is_missing_is_held_before_it_is_looked_for(store: Store) -> None:
    here, gone = store.blobs.put(b"here"), Digest.of(b"gone")
    blobs = [Descriptor(MANIFEST, digest, 4) for digest in (gone, here, gone)]
    assert [blob.digest for blob in store.blobs.missing(blobs)] == [gone]
    (lease,) = Path(store.path, "leases").iterdir()
    assert lease.read_text().splitlines() == [f"blobs/sha256/{one.hex}" for one in (here, gone)]
    store.close()
