"""Files that are opened for writing are known, and no others."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from assembler.linux import syscalls
from assembler.snapshot.written import WatchedTree


def test_what_was_opened_for_writing_is_told_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("d/kept", "read", "left"):
        (tmp_path / name).write_text("x")
    watched = WatchedTree([("", str(tmp_path)), ("d", str(tmp_path / "d"))])
    os.close(os.open(tmp_path / "d/kept", os.O_RDWR))
    (tmp_path / "read").read_text()
    subprocess.run(["sh", "-c", "exec 5>>left; kill -9 $$"], cwd=tmp_path)
    assert watched.close() == {"d/kept", "left"}


def test_directories_that_were_moved_are_told_as_they_were_named(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "stays").mkdir()
    names = ("", "d", "d/e", "stays")
    watched = WatchedTree([(name, str(tmp_path / name)) for name in names])
    (tmp_path / "d").rename(tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "d")
    (tmp_path / "d/e").rename(tmp_path / "stays/e")
    (tmp_path / "stays").chmod(0o700)
    assert (watched.close(), watched.moved) == (set(), {"d", "d/e"})


def test_many_events_are_read_while_they_come(tmp_path: Path) -> None:
    """The kernel keeps 16,384 of them."""
    watched = WatchedTree([("", str(tmp_path))])
    end = time.monotonic() + 60
    for number in range(20_000):
        os.close(os.open(tmp_path / f"f{number}", os.O_WRONLY | os.O_CREAT))
        os.unlink(tmp_path / f"f{number}")
        while number - len(watched._found) > 10_000:  # its reader may wait for a processor
            assert time.monotonic() < end
            time.sleep(0.001)
    assert len(watched.close()) == 20_000


def test_without_inotify_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(syscalls, "inotify_init", refused)
    watched = WatchedTree([("", str(tmp_path))])
    (tmp_path / "f").write_text("x")
    assert watched.close() == set()
