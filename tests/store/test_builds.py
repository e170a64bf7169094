"""Records of builds: the newest are kept, whatever else happens to the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from assembler.store.builds import MOST, BuildRecord, Builds, StepRecord, new_id

STEP = StepRecord(
    stage="build",
    number=1,
    name="[build 2/3] COPY src /app",
    line=4,
    kind="COPY",
    verdict="run",
    key="sha256:1",
    parent="sha256:0",
    seconds=0.25,
    because=({"what": "file", "name": "src/a", "change": "added"},),
    differences=42,
)
BUILD = BuildRecord(
    id="0123456789ab",
    started=100.5,
    seconds=2.0,
    status="completed",
    dockerfile="Dockerfile",
    target="app",
    platform="linux/amd64",
    tags=("app:1",),
    image="sha256:2",
    place="3",
    steps=(
        STEP,
        StepRecord(stage="build", number=2, name="x", line=5, kind="RUN", verdict="cached"),
    ),
)


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    return Builds(str(tmp_path / "builds"))


def record(id: str = "") -> BuildRecord:
    return BuildRecord(id=id or new_id(), started=1.0, seconds=1.0, status="error")


def test_what_is_written_is_read_again_and_the_newest_comes_first(builds: Builds) -> None:
    assert list(builds.recent()) == [] and builds.inputs(BUILD.id) == {}
    builds.write(BUILD, {"sha256:1": '{"step": "x"}'})
    later = record()
    builds.write(later, {})

    assert list(builds.recent()) == [later, BUILD]
    assert builds.inputs(BUILD.id) == {"sha256:1": '{"step": "x"}'}
    assert builds.inputs(later.id) == {}


def test_a_record_is_private_and_nothing_else_is_left(builds: Builds, tmp_path: Path) -> None:
    builds.write(BUILD, {"a": "b"})

    directory = tmp_path / "builds"
    names = sorted(path.name for path in directory.iterdir())
    assert [name.partition("-")[2] for name in names] == [BUILD.id, f"{BUILD.id}.inputs"]
    assert {oct(path.stat().st_mode & 0o777) for path in (directory, *directory.iterdir())} == {
        "0o700",
        "0o600",
    }


def test_only_the_newest_are_kept(builds: Builds, tmp_path: Path) -> None:
    ids = [new_id() for _ in range(MOST + 3)]
    for id in ids:
        builds.write(record(id), {"a": "b"})

    assert [build.id for build in builds.recent()] == ids[:2:-1]
    assert len(list((tmp_path / "builds").iterdir())) == 2 * MOST


def test_builds_that_executed_nothing_tell_little(builds: Builds) -> None:
    ids = [new_id() for _ in range(12)]
    for number, id in enumerate(ids):
        builds.write(record(id), {"a": "b"} if number % 4 == 0 else {})

    assert [build.id for build in builds.telling(100)] == [*ids[:7:-1], ids[4], ids[0]]
    assert [build.id for build in builds.telling(2)] == [ids[11], ids[10]]


def test_a_clock_that_went_back_changes_no_order(
    builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds.write(record("a" * 12), {})
    monkeypatch.setattr(time, "time", lambda: 5.0)
    builds.write(record("b" * 12), {})

    assert [build.id for build in builds.recent()] == ["b" * 12, "a" * 12]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"version": 2}',
        b"[" * 100_000,
        b'{"version": 1, "id": 5, "started": 1, "seconds": 1, "status": "x", "tags": [], "steps": []}',
        b'{"version": 1, "id": "5", "started": 1, "seconds": 1, "status": "x", "tags": [1], "steps": []}',
        b'{"version": 1, "id": "5", "started": 1, "seconds": 1, "status": "x", "tags": [], "steps": [{}]}',
    ],
)
def test_what_is_no_record_is_passed_over(builds: Builds, tmp_path: Path, content: bytes) -> None:
    builds.write(BUILD, {"a": "b"})
    directory = tmp_path / "builds"
    (directory / "9999999999999-ffffffffffff").write_bytes(content)
    (directory / "9999999999999-ffffffffffff.inputs").write_bytes(content)
    (directory / "9999999999998-eeeeeeeeeeee").mkdir()
    (directory / "something else").write_bytes(content)

    assert list(builds.recent()) == [BUILD] and builds.inputs("f" * 12) == {}
    later = record()
    builds.write(later, {})
    assert next(builds.recent()) == later


@pytest.mark.parametrize("time", ["NaN", "1e300", "-1", "Infinity"])
def test_a_time_that_is_none_makes_a_record_none(builds: Builds, tmp_path: Path, time: str) -> None:
    builds.write(BUILD, {})
    (name,) = (one for one in (tmp_path / "builds").iterdir() if not one.suffix)
    document = json.loads(name.read_bytes())
    text = json.dumps({**document, "started": "TIME"}).replace('"TIME"', time)
    name.write_text(text)

    assert list(builds.recent()) == []


def test_builds_that_end_at_once_are_all_recorded(builds: Builds) -> None:
    ids = [new_id() for _ in range(16)]
    threads = [threading.Thread(target=builds.write, args=(record(id), {"a": "b"})) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {build.id for build in builds.recent()} == set(ids)


KILLED = """\
import os, signal, sys
from assembler.store.builds import BuildRecord, Builds
os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
Builds(sys.argv[1]).write(BuildRecord(id="0" * 12, started=1.0, seconds=1.0, status="error"), {})
"""


def test_what_a_killed_writer_left_is_no_record_and_goes(builds: Builds, tmp_path: Path) -> None:
    directory = tmp_path / "builds"
    done = subprocess.run([sys.executable, "-c", KILLED, str(directory)], check=False)
    assert done.returncode == -9
    (left,) = directory.iterdir()
    assert list(builds.recent()) == []
    for _ in range(MOST + 1):
        builds.write(record(), {})
    assert left.exists(), "its writer might still be there"
    os.utime(left, (1, 1))
    builds.write(record(), {})
    assert not left.exists() and len(list(builds.recent())) == MOST


def test_defaults_take_no_room(builds: Builds, tmp_path: Path) -> None:
    builds.write(BUILD, {})
    (path,) = (tmp_path / "builds").iterdir()

    assert "source" not in path.read_text()
    assert len(json.loads(path.read_text())["steps"][1]) == 6


def test_builds_are_of_the_same_by_their_place_or_repository() -> None:
    assert BUILD.is_of("3", ())
    assert BUILD.is_of("", ("app:2",)) and not BUILD.is_of("", ("application:1",))
    assert not BUILD.is_of("", ()) and not record().is_of("", ())
    ported = BuildRecord(id="", started=0, seconds=0, status="", tags=("localhost:5000/app:1",))
    assert ported.is_of("", ("localhost:5000/app@sha256:1",)) and not ported.is_of(
        "", ("localhost",)
    )


def test_people_know_a_build_by_its_name_or_by_what_was_asked_for() -> None:
    assert BUILD.name == "app:1"
    unnamed = BuildRecord(
        id="", started=0, seconds=0, status="", dockerfile="Dockerfile", target="app"
    )
    assert unnamed.name == "Dockerfile (app)"
    assert (BUILD.count("run"), BUILD.count("run", "cached")) == (1, 2)


def test_a_directory_that_cannot_be_read_has_no_records(builds: Builds, tmp_path: Path) -> None:
    (tmp_path / "builds").symlink_to("builds")
    assert list(builds.recent()) == list(builds.telling(1)) == []
    with pytest.raises(OSError):
        builds.write(BUILD, {})
