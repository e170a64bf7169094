"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assembler.linux.replacing import replacing, sweep, written


@pytest.fixture(params=["unnamed", "named"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With files that have no name yet, and on a file system that has none such."""
    if request.param == "named":
        real = os.open

        def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE")
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", refusing)
    return str(request.param)


def test_a_file_is_there_when_the_block_ends(form: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(str(path), 0o640) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_nothing_changes_when_the_block_fails(form: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(str(path)) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_place_that_is_taken_keeps_what_is_there(form: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    place = str(tmp_path / "directory")
    with pytest.raises(IsADirectoryError) as caught, replacing(place):
        pass
    assert (caught.value.filename, caught.value.filename2) == (place, None)
    with pytest.raises(FileNotFoundError), replacing(str(tmp_path / "missing" / "file")):
        pass
    assert os.listdir(tmp_path) == ["directory"]


def test_CN02_a_writer_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from assembler.linux.replacing import replacing\n"
        "with replacing(sys.argv[1]) as stream:\n"
        "    stream.write(b'x' * 100000); stream.flush(); print('half', flush=True); time.sleep(900)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_a_place_that_takes_no_files_is_named() -> None:
    with pytest.raises(OSError) as caught, replacing("/proc/file"):
        pass
    assert caught.value.filename == "/proc/file"


def test_what_died_long_ago_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    for name in (".old", ".new", "old"):
        (tmp_path / name).touch()
    (tmp_path / ".directory").mkdir()
    for name in (".old", "old", ".directory"):
        os.utime(tmp_path / name, (1, 1))
    sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".directory", ".new", "old"]


def test_a_file_may_have_the_longest_name(form: str, tmp_path: Path) -> None:
    names = ("n" * 255, "漢" * 85, "é" * 127)
    for name in names:
        with replacing(str(tmp_path / name)) as stream:
            stream.write(name.encode())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {n: n for n in names}


def test_what_can_be_replaced_is(form: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    written(str(path), b"old")
    os.link(path, tmp_path / "other name")
    written(str(path), b"new")
    assert (path.read_bytes(), (tmp_path / "other name").read_bytes()) == (b"new", b"old")
    with pytest.raises(FileNotFoundError) as caught:
        written(str(tmp_path / "missing/file"), b"")
    assert "missing" in caught.value.filename
    with pytest.raises(IsADirectoryError):
        written(str(tmp_path), b"x")


def test_devices_and_pipes_are_written_to_not_replaced(tmp_path: Path) -> None:
    written("/dev/null", b"x")
    assert Path("/dev/null").is_char_device()
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to("/dev/null")
    written(str(link), b"x")
    assert link.is_symlink()
    os.mkfifo(fifo)
    with pytest.raises(OSError) as caught:  # nobody is waited for
        written(str(fifo), b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENXIO, str(fifo))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    written(str(fifo), b"digest")
    assert os.read(reader, 100) == b"digest" and fifo.is_fifo()
    os.close(reader)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_file_that_may_be_written_but_not_replaced_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "termination-log"

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError) as caught:
        written(str(path), b"x")
    assert (caught.value.errno, list(tmp_path.iterdir())) == (number, [])
    path.write_text("longer than what is written")
    inode = path.stat().st_ino
    written(str(path), b"digest")
    assert (path.read_bytes(), path.stat().st_ino) == (b"digest", inode)
    assert os.listdir(tmp_path) == ["termination-log"]


def test_stdout_that_is_a_file_is_continued(tmp_path: Path) -> None:
    code = (
        "import sys; from assembler.linux.replacing import written\n"
        "print('before', flush=True)\n"
        "for path in ('/dev/stdout', '/proc/self/fd/1'): written(path, b'digest\\n')\n"
        "print('after')\n"
    )
    with open(tmp_path / "log", "wb") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\ndigest\ndigest\nafter\n"
