"""Uploads that are not finished, in the store: one owner each, readable by one user, no longer
than registries keep them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.oci.digest import Digest
from assembler.store.check import Check
from assembler.store.leases import used
from assembler.store.store import Store
from assembler.store.uploads import STALE, Uploads

DIGEST = Digest.of(b"x")
WHERE = "http://host/v2/app/blobs/uploads/1?_state=s"
KILLED = """\
import os, signal, sys
from assembler.oci.digest import Digest
from assembler.store.uploads import Uploads
with Uploads(sys.argv[1]).entry("host", "app", Digest.of(b"x")) as entry:
    entry.note(sys.argv[2], 5)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(str(tmp_path / "uploads"))


def files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "uploads").iterdir())


def test_what_a_killed_process_noted_is_found(uploads: Uploads, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "uploads"), WHERE]
    assert subprocess.run(command, check=False).returncode == -9
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None and (entry.location, entry.offset) == (WHERE, 5)
    with uploads.entry("host", "other", DIGEST) as entry:
        assert entry is not None and entry.location == ""


def test_the_last_whole_line_counts(uploads: Uploads, tmp_path: Path) -> None:
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None
        entry.note(WHERE, 5)
        entry.note(f"{WHERE}2", 7)
    with files(tmp_path)[0].open("ab") as stream:
        stream.write(b'{"location": "http://ha')
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None and (entry.location, entry.offset) == (f"{WHERE}2", 7)
        entry.note(f"{WHERE}3", 9)
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None and entry.offset == 9, "a torn line spoils only itself"


@pytest.mark.parametrize("content", [b"\n", b"nonsense\n", b"[1]\n", b'{"offset": 1}\n', b"\xff\n"])
def test_a_damaged_entry_is_none(uploads: Uploads, tmp_path: Path, content: bytes) -> None:
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None
        entry.note(WHERE, 5)
    files(tmp_path)[0].write_bytes(content)
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None and entry.location == ""


def test_an_entry_has_one_owner(uploads: Uploads) -> None:
    with uploads.entry("host", "app", DIGEST) as ours:
        assert ours is not None
        with uploads.entry("host", "app", DIGEST) as theirs:
            assert theirs is None


def test_a_finished_or_empty_one_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    with uploads.entry("host", "app", DIGEST):
        pass
    assert files(tmp_path) == []
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None
        entry.note(WHERE, 5)
        entry.finished()
    assert files(tmp_path) == []


def test_nobody_else_can_read_a_location(uploads: Uploads, tmp_path: Path) -> None:
    with uploads.entry("host", "app", DIGEST) as entry:
        assert entry is not None
        entry.note(WHERE, 5)
        path = files(tmp_path)[0]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_where_nothing_can_be_written_there_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_bytes(b"a file")
    with Uploads(str(tmp_path / "uploads")).entry("host", "app", DIGEST) as entry:
        assert entry is None


def test_stale_entries_that_nobody_has_are_swept(tmp_path: Path) -> None:
    directory = str(tmp_path / "uploads")
    now = os.stat(tmp_path).st_mtime
    for clock, left in ((now, 1), (now + 2 * STALE, 0)):
        with Uploads(directory).entry("host", "app", DIGEST) as entry:
            assert entry is not None
            entry.note(WHERE, 5)
        Uploads(directory, clock=lambda clock=clock: clock).sweep()  # type: ignore[misc]
        assert len(files(tmp_path)) == left
    with Uploads(directory).entry("host", "app", DIGEST) as entry:
        assert entry is not None
        entry.note(WHERE, 5)
        Uploads(directory, clock=lambda: now + 2 * STALE).sweep()
        assert len(files(tmp_path)) == 1


def test_the_store_knows_its_uploads(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "store")) as store:
        with store.uploads.entry("host", "app", DIGEST) as entry:
            assert entry is not None
            entry.note(WHERE, 5)
            [path] = (tmp_path / "store" / "uploads").iterdir()
            assert f"uploads/{path.name}" in used(store.path)
        check = Check(store.path, lambda progress: None, lambda: None)
        assert list(check.problems()) == []
        path.chmod(0o644)
        (path.parent / "other").touch(0o600)
        assert {one.path for one in check.problems()} == {f"uploads/{path.name}", "uploads/other"}
