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

from assembler.linux.replacing import replacing, sweep


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
