"""What is remembered of a context's files: never believed wrongly, never needed (rule C21, BD-06)."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from assembler.cancellation import nothing
from assembler.context import digests, listing, stat_cache
from assembler.context.directory import DirectoryContext
from assembler.context.files import ContextBytes
from assembler.dockerfile.ignore import IgnoreRules
from assembler.layer.compression import by_name
from assembler.layer.summary import Summary
from assembler.layer.tree import everything
from assembler.layer.write import pack
from assembler.source import Source
from tests.ticks import tick

FILES = ("a/f", "a/g", "a/b/f", "c/f", "c/d/e/f", "h")


class Build:
    """Builds of a context, some time after its files were written; `read` is what the last one
    read of them."""

    def __init__(self, directory: Path, clock: Callable[[], int]) -> None:
        self.root = directory / "context"
        self.records = directory / "records"
        self.clock = clock
        self.read: list[str] = []
        for path in FILES:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(path)
        while max(self.changed()) - min(self.changed()) > 50_000_000:  # the machine stood still
            for path in FILES:
                (self.root / path).touch()

    def changed(self) -> list[int]:
        """When each of the files changed."""
        return [(self.root / path).stat().st_ctime_ns for path in FILES]

    def summary(
        self, text: str = "", path: str = "", *, records: bool = True, packed: bool = False
    ) -> Summary:
        """The summary; where `packed` says so, of files that were packed after they were listed. What
        is changed afterwards has another time."""
        tick(self.root)
        rules = IgnoreRules.parse(Source(".dockerignore", text)) if text else None
        place = str(self.records) if records else ""
        tree: Any = DirectoryContext(str(self.root), rules, "", place).tree()
        self.read = []
        hashed = digests._Reading.read

        def watched(one: Any, source: ContextBytes) -> bytes:
            self.read.append(source.path)
            return hashed(one, source)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(digests._Reading, "read", watched)
            patched.setattr(digests, "_MANY", 1)
            patched.setattr(digests.time, "time_ns", self.clock)
            if not packed or not tree.unread(path, nothing):
                return tree.summary(path, nothing)
            known: dict[Any, bytes] = {}
            pack(
                everything(tree),
                io.BytesIO(),
                by_name("uncompressed"),
                seen=lambda entry, digest: known.update({entry.source: digest}),
            )
            return tree.summary(path, nothing, known)

    def record(self) -> Path:
        (found,) = self.records.iterdir()
        return found


def later(seconds: float = 10) -> Callable[[], int]:
    """A clock that is ahead."""
    real = time.time_ns
    return lambda: real() + int(seconds * 1e9)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path, later())


def test_what_did_not_change_is_not_read_again(build: Build) -> None:
    first = build.summary()
    assert sorted(build.read) == sorted(FILES)
    assert build.summary() == first == build.summary(records=False)
    build.summary()
    assert build.read == []


def test_only_what_changed_is_read(build: Build) -> None:
    first = build.summary()
    (build.root / "a/g").write_text("new")
    (build.root / "c/new").write_text("new")
    second = build.summary()
    assert build.read == ["a/g", "c/new"] and second != first
    assert second == build.summary(records=False)
    build.summary()
    assert build.read == []


@pytest.mark.parametrize("hide", ["size and times", "times"])
def test_BD06_a_change_that_hides_its_time_is_found_by_ctime(build: Build, hide: str) -> None:
    first = build.summary()
    place = build.root / "a/g"
    was = place.stat()
    place.write_text("A/G" if hide == "size and times" else "another size")
    os.utime(place, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert build.summary() != first and build.read == ["a/g"]


def test_BD06_a_file_that_is_replaced_by_one_with_its_times_is_found_by_inode(
    build: Build,
) -> None:
    first = build.summary()
    place, other = build.root / "a/g", build.root.parent / "other"
    other.write_text("A/G")
    os.utime(other, ns=(place.stat().st_atime_ns, place.stat().st_mtime_ns))
    other.rename(place)
    assert build.summary() != first


@pytest.mark.parametrize(("age", "remembered"), [(0, False), (1.9, False), (2.1, True)])
def test_what_is_younger_than_two_seconds_is_not_remembered(
    tmp_path: Path, age: float, remembered: bool
) -> None:
    """As git: it may change once more within one tick of the file system's clock."""
    build = Build(tmp_path, later())
    moment = time.time_ns()
    build.clock = lambda: moment
    newest = max(build.changed())
    build.clock = lambda: newest + int(age * 1e9)
    first = build.summary()
    assert build.records.is_dir() is remembered
    assert build.summary() == first
    assert build.read == ([] if remembered else build.read) and bool(build.read) is not remembered


def test_BD06_what_has_the_times_of_an_image_is_not_remembered(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of two squashfs at one mount point may have the same inodes, sizes and times."""
    chosen = 1_600_000_000 * 10**9

    def squashed(found: os.stat_result) -> tuple[int, ...]:
        return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, chosen

    def write(text: str) -> None:
        (build.root / "a/g").write_text(text)
        os.utime(build.root / "a/g", ns=(chosen, chosen))

    monkeypatch.setattr(listing, "seen_of", squashed)
    write("v=1")
    first = build.summary()
    write("v=2")
    assert build.summary() != first
    assert build.summary() == build.summary(records=False)


def test_one_young_file_does_not_keep_the_others_from_being_remembered(build: Build) -> None:
    build.summary()
    moment = time.time_ns()
    (build.root / "a/g").write_text("young")
    build.clock = lambda: moment
    build.summary()
    build.summary()
    assert "a/g" in build.read
    build.clock = later()
    build.summary()
    assert build.read == ["a/g"]
    build.summary()
    assert build.read == []


def test_files_of_the_future_are_read_each_time(build: Build) -> None:
    ahead = time.time_ns() + int(1e12)
    os.utime(build.root / "h", ns=(ahead, ahead))
    assert build.summary() == build.summary() and build.read == ["h"]


def test_times_that_no_file_has(build: Build) -> None:
    for seconds in (-(1 << 31), 1 << 33):
        os.utime(build.root / "h", (seconds, seconds))
        assert build.summary() == build.summary()


def garbled(record: Path) -> list[bytes]:
    """What may be found where a record was."""
    whole = record.read_bytes()
    size = len(whole)
    spots = sorted({*range(0, 120, 7), *range(120, size, max(1, size // 40)), size - 1})
    flipped = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in spots]
    cut = [whole[:at] for at in (0, 1, 20, 79, 80, 200, size // 2, size - 1)]
    newer = whole.replace(stat_cache.MAGIC, b"assemble stats 9")
    return [*flipped, *cut, newer, whole + b"more", os.urandom(500), bytes(500)]


def test_a_record_that_is_garbled_is_not_believed(build: Build) -> None:
    text = "c/d\n!c/d/e/f\n*.o"
    expected = build.summary(text)
    record = build.record()
    for content in garbled(record):
        record.write_bytes(content)
        (build.root / "a/g").touch()
        assert build.summary(text) == expected
    build.summary(text)
    assert build.read == [], "and it is mended"


def test_a_record_that_is_no_file(build: Build) -> None:
    expected = build.summary()
    record = build.record()
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        record.unlink()
        make(record)
        assert build.summary() == expected
        if record.is_dir():
            record.rmdir()
            record.touch()
    shutil.rmtree(build.records)
    assert build.summary() == expected
    shutil.rmtree(build.records)
    build.records.write_text("no directory")
    assert build.summary() == expected


def test_nothing_is_remembered_of_few_files(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    tree: Any = DirectoryContext(str(build.root), None, "", str(build.records)).tree()
    tree.summary("", nothing)
    assert not build.records.exists()
    monkeypatch.setattr(digests, "_MUCH", 3)
    monkeypatch.setattr(digests.time, "time_ns", build.clock)
    tree = DirectoryContext(str(build.root), None, "", str(build.records)).tree()
    tree.summary("", nothing)
    assert build.records.exists(), "but of much"


def test_no_path_of_the_host_is_in_a_record_nor_counts(build: Build) -> None:
    first = build.summary()
    record = build.record()
    for word in (build.root.name, str(build.root), "a/g", "a", "f"):
        assert len(word) < 2 or os.fsencode(word) not in record.read_bytes() + os.fsencode(
            record.name
        )
    build.root = build.root.rename(build.root.with_name("moved"))
    assert build.summary() == first and build.read, "another context, the same files"


def test_other_selections_and_rules_start_from_what_is_known(build: Build) -> None:
    build.summary()
    for text, path in (("", "a"), ("c", ""), ("a\n!a/b", ""), ("**/g", ""), ("", "")):
        found = build.summary(text, path)
        assert build.read == []
        assert found == build.summary(text, path, records=False)


def test_files_that_are_selected_one_by_one_are_remembered(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wildcard's matches, what --exclude leaves, a large file that is named."""
    monkeypatch.setattr(digests, "_MANY", 1)
    monkeypatch.setattr(digests.time, "time_ns", build.clock)
    read: list[str] = []
    hashed = digests._hashed

    def watched(descriptor: int, path: str, *rest: Any) -> bytes:
        read.append(path)
        return hashed(descriptor, path, *rest)

    monkeypatch.setattr(digests, "_hashed", watched)

    def found(selection: str) -> list[bytes]:
        read.clear()
        tree: Any = DirectoryContext(str(build.root), None, "", str(build.records)).tree()
        with tree.contents(selection, nothing) as content:
            return [content(tree.lookup(path)) for path in ("a/f", "a/g", "h")]

    tick(build.root)
    first = found("one")
    assert first == [hashlib.sha256(path.encode()).digest() for path in ("a/f", "a/g", "h")]
    assert read == ["a/f", "a/g", "h"]
    assert found("one") == first and read == []
    (build.root / "a/g").write_text("A/G")
    assert found("one") != first and read == ["a/g"]
    assert found("one") and read == []
    assert build.summary() == build.summary(records=False)


def test_records_of_many_selections_do_not_pile_up(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stat_cache, "_MOST_FILES", 3)
    for number in range(9):
        build.summary(f"none-{number}")
        assert len(list(build.records.iterdir())) <= 3


def test_two_builds_at_once(build: Build) -> None:
    """The last one that writes stays, and whatever is read is whole."""
    expected = build.summary(records=False)
    found: list[Summary] = []

    def run(number: int) -> None:
        for turn in range(20):
            (build.root / f"a/{number}").write_text(str(turn))
            (build.root / f"a/{number}").unlink()
            tree: Any = DirectoryContext(str(build.root / "c"), None, "", str(build.records)).tree()
            found.append(tree.summary("", nothing))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(digests, "_MANY", 1)
        patched.setattr(digests.time, "time_ns", build.clock)
        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(found)) == 1 and len(found) == 80
    assert len(list(build.records.iterdir())) == 1
    assert build.summary() == expected


NAMES = some.sampled_from(["f", "g", "a", "b", "c", "d"])
PATHS = some.lists(NAMES, min_size=1, max_size=3).map("/".join)
EDITS = some.lists(
    some.tuples(
        some.sampled_from(["write", "mode", "remove", "link", "symlink", "move", "pipe"]),
        PATHS,
        PATHS,
    ),
    min_size=1,
    max_size=4,
)


def edit(root: Path, act: str, one: str, other: str) -> None:
    place, second = root / one, root / other
    try:
        if act == "write":
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_fifo():  # nobody reads it: writing would wait for ever
                place.write_text(other)
        elif act == "mode":
            place.chmod(0o700)
        elif act == "remove":
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        elif act == "link":
            os.link(place, second, follow_symlinks=False)
        elif act == "symlink":
            place.symlink_to(other)
        elif act == "move":
            place.rename(second)
        else:
            os.mkfifo(place)
    except OSError:
        pass  # there is nothing to edit, or it is in the way


@settings(deadline=None, max_examples=60)
@given(edits=some.lists(EDITS, max_size=3), text=some.sampled_from(["", "a", "*\n!a/b", "**/g"]))
def test_BD06_no_edit_is_missed(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[list[tuple[str, str, str]]],
    text: str,
) -> None:
    build = Build(tmp_path_factory.mktemp("edits"), later())
    build.summary(text)
    for some_edits in edits:
        for act, one, other in some_edits:
            edit(build.root, act, one, other)
        assert build.summary(text) == build.summary(text, records=False)


@settings(deadline=None, max_examples=60)
@given(edits=EDITS, text=some.sampled_from(["", "a", "*\n!a/b", "**/g"]))
def test_what_was_packed_is_as_good_as_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str, str]], text: str
) -> None:
    """Files that are hashed when they are packed give the same summary and the same record."""
    build = Build(tmp_path_factory.mktemp("packed"), later())
    for act, one, other in edits:
        edit(build.root, act, one, other)
    summary = build.summary(text)
    if build.read == []:  # no file is left, or none is shown
        assert build.summary(text, packed=True) == summary
        return
    hashed_first = build.record().read_bytes()
    shutil.rmtree(build.records)
    assert build.summary(text, packed=True) == summary
    assert build.read == [], "they were packed"
    assert build.record().read_bytes() == hashed_first
    assert build.summary(text) == summary and build.read == []


def test_what_is_packed_soon_after_it_was_written_is_not_remembered(tmp_path: Path) -> None:
    """The two seconds are those before the listing, however late the files are packed."""
    build = Build(tmp_path, later())
    moment = max(build.changed()) + 1_900_000_000
    clock = itertools.chain([moment], itertools.repeat(moment + int(1e12)))
    build.clock = lambda: next(clock)
    build.summary(packed=True)
    assert not build.records.is_dir()


def test_what_is_remembered_is_not_packed_to_be_known(build: Build) -> None:
    build.summary(packed=True)
    tree: Any = DirectoryContext(str(build.root), None, "", str(build.records)).tree()
    assert not tree.unread("", nothing)
    (build.root / "a/g").write_text("new")
    tree = DirectoryContext(str(build.root), None, "", str(build.records)).tree()
    assert tree.unread("", nothing)
