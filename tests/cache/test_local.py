"""The step cache: derived data that may be lost, garbled or shared."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assembler.cache.base import Record
from assembler.cache.local import LocalCache, damage
from assembler.cache.rows import SCHEMA, insertion
from assembler.context.download import Download
from assembler.errors import StoreError
from assembler.oci.descriptor import LAYER_GZIP, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from tests.bounds import watchdog

KEY, IDENTITY = Digest.of(b"key"), Digest.of(b"identity")
RECORD = Record(IDENTITY, "2026-01-02T03:04:05Z", '{"step": "RUN x"}', 1.5, "ghcr.io/o/app:cache")


def test_what_is_recorded_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path) as cache:
        assert cache.lookup(KEY) is None
        cache.record(KEY, RECORD)
    with LocalCache(path) as cache:
        assert cache.lookup(KEY) == RECORD


def test_packed_layers_are_kept_by_variant(tmp_path: Path) -> None:
    layer = Layer(Descriptor(LAYER_GZIP, Digest.of(b"blob"), 5), Digest.of(b"tar"))
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        cache.record_packed(IDENTITY, "gzip 5", layer)
        assert cache.packed(IDENTITY, "gzip 5") == layer
        assert cache.packed(IDENTITY, "zstd 3") is None


def test_packed_layers_keep_what_their_table_is_found_by(tmp_path: Path) -> None:
    annotations = {"containerd.io/snapshot/stargz/toc.digest": f"sha256:{'3' * 64}"}
    descriptor = Descriptor("application/x", Digest("sha256", "1" * 64), 3, annotations)
    layer = Layer(descriptor, Digest("sha256", "2" * 64))
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        cache.record_packed(IDENTITY, "estargz", layer)
        assert cache.packed(IDENTITY, "estargz") == layer


def test_an_assembled_manifest_is_remembered(tmp_path: Path) -> None:
    descriptor = Descriptor(MANIFEST, Digest.of(b"manifest"), 9)
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        cache.remember(KEY, descriptor)
        assert cache.recall(KEY) == descriptor


def test_CR08_garbage_is_set_aside_and_said(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"this is no database" * 1000)
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        assert "could not be read" in "".join(told)
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert (tmp_path / "cache.db.bak-1").exists()


def test_CR08_a_newer_schema_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        assert "newer" in "".join(told) and cache.lookup(KEY) is None


def test_what_an_older_version_knew_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE steps(key TEXT PRIMARY KEY, identity TEXT) WITHOUT ROWID")
        database.execute("INSERT INTO steps VALUES(?, ?)", (str(KEY), str(IDENTITY)))
        database.execute("CREATE TABLE downloads(url TEXT PRIMARY KEY, digest TEXT)")
        database.execute("INSERT INTO downloads VALUES('http://x', 'y')")
        database.execute("PRAGMA user_version = 3")
    database.close()
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache, LocalCache(str(path)) as other:
        assert cache.lookup(KEY) is None
        cache.record(KEY, RECORD)
        assert other.lookup(KEY) == RECORD
    assert told == [] and [one.name for one in tmp_path.iterdir()] == ["cache.db"]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT url FROM downloads").fetchall() == []
    database.close()


def test_an_older_database_that_cannot_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE steps(key TEXT PRIMARY KEY, identity TEXT) WITHOUT ROWID")
        database.execute("PRAGMA user_version = 3")
    database.close()

    def read_only(path: str) -> sqlite3.Connection:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    monkeypatch.setattr("assembler.cache.local._open", read_only)
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        assert cache.lookup(KEY) is None
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert len(told) == 1 and "cannot be written" in told[0]


def test_threads_share_it(tmp_path: Path) -> None:
    with LocalCache(str(tmp_path / "cache.db")) as cache:

        def work(number: int) -> None:
            for step in range(20):
                cache.record(Digest.of(f"{number}/{step}".encode()), RECORD)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.lookup(Digest.of(b"7/19")) == RECORD


def test_two_processes_may_have_it_open(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path) as one, LocalCache(path) as other:
        one.record(KEY, RECORD)
        assert other.lookup(KEY) == RECORD


@contextmanager
def written_elsewhere(path: str) -> Iterator[sqlite3.Connection]:
    """Another connection in the middle of a write."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


class Stop(Exception):
    """What ends a build."""


def stop() -> None:
    raise Stop


def test_waiting_for_another_process_ends_with_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "cache.db")
    monkeypatch.setattr("assembler.cache.local._PATIENCE", 3600.0)
    with (
        watchdog(),
        LocalCache(path, stop) as cache,
        written_elsewhere(path),
        pytest.raises(Stop),
    ):
        cache.record(KEY, RECORD)


def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LocalCache(path) as cache, written_elsewhere(path) as other:
        ending = threading.Timer(0.5, other.execute, ["COMMIT"])
        ending.start()
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
        ending.join()  # else it may still be in `execute` when that connection is closed


def test_CR08_a_locked_database_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assembler.cache.local._PATIENCE", 0.3)
    path = str(tmp_path / "cache.db")
    with written_elsewhere(path), pytest.raises(StoreError, match="has had the cache"):
        LocalCache(path)
    assert not list(tmp_path.glob("*.bak*"))


def filled(path: Path) -> None:
    """A database of many pages."""
    with LocalCache(str(path)) as cache:
        for number in range(400):
            cache.record(Digest.of(f"{number}".encode()), RECORD)


def usable(path: Path) -> bool:
    """Whether what is recorded at `path` now is found."""
    with LocalCache(str(path)) as cache:
        cache.record(KEY, RECORD)
        return cache.lookup(KEY) == RECORD


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_CR08_a_truncated_database_is_set_aside_and_said(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cache.db"
    filled(path)
    with path.open("r+b") as stream:
        stream.truncate(int(path.stat().st_size * share))
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        for number in range(400):
            cache.lookup(Digest.of(f"{number}".encode()))
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert len(told) == 1 and "starting with an empty one" in told[0]
    assert (tmp_path / "cache.db.bak-1").exists() and usable(path)


def test_CR08_damage_that_is_met_later_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    filled(path)
    content = bytearray(path.read_bytes())
    for start in range(2 * 4096, len(content), 4096):
        content[start : start + 100] = b"\xaa" * 100
    path.write_bytes(content)
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        for number in range(400):
            cache.lookup(Digest.of(f"{number}".encode()))
            cache.record(Digest.of(f"new {number}".encode()), RECORD)
        assert cache.lookup(Digest.of(b"new 399")) == RECORD
    assert len(told) == 1 and (tmp_path / "cache.db.bak-1").exists()
    assert damage(str(path)) == "" and damage(f"{path}.bak-1")


def test_CR08_a_lost_log_loses_records_only(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with LocalCache(str(path)) as cache:
        cache.record(KEY, RECORD)
        kept = path.read_bytes()  # what the log holds is not in it yet
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_bytes(kept)
    assert usable(path)


def test_CR08_what_cannot_be_written_is_read_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.db"
    filled(path)
    real = sqlite3.connect

    def read_only(where: str, **options: object) -> sqlite3.Connection:
        if not where.startswith("file:"):
            where, options = f"file:{where}?mode=ro", {**options, "uri": True}
        return real(where, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("sqlite3.connect", read_only)
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        assert cache.lookup(Digest.of(b"7")) == RECORD
        cache.record(KEY, RECORD)
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) is None
    assert len(told) == 1 and "cannot be written" in told[0]
    assert not list(tmp_path.glob("*.bak*"))


def test_CR08_one_whose_damage_is_that_it_may_not_be_written_is_set_aside(tmp_path: Path) -> None:
    """One byte of its header, and SQLite reads it for ever, and never writes."""
    path = tmp_path / "cache.db"
    filled(path)
    content = bytearray(path.read_bytes())
    content[18] = 3
    path.write_bytes(content)
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        assert cache.lookup(Digest.of(b"7")) == RECORD
        cache.record(KEY, RECORD)
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert "starting with an empty one" in one_line(told) and usable(path)


def test_CR08_where_no_file_can_be_made_the_build_does_without(tmp_path: Path) -> None:
    told: list[str] = []
    with LocalCache(str(tmp_path / "none" / "cache.db"), tell=told.append) as cache:
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert len(told) == 1 and "not remembered" in told[0]


def test_CR08_of_many_that_meet_damage_one_sets_it_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"this is no database" * 1000)
    code = (
        "import sys; from assembler.cache.local import LocalCache, damage\n"
        "from assembler.cache.base import Record; from assembler.oci.digest import Digest\n"
        "with LocalCache(sys.argv[1]) as cache:\n"
        "    cache.record(Digest.of(sys.argv[2].encode()), Record(Digest.of(b'x'), 'now'))\n"
    )
    many = [
        subprocess.Popen([sys.executable, "-c", code, str(path), f"{number}"])
        for number in range(6)
    ]
    assert [one.wait(300) for one in many] == [0] * 6
    with LocalCache(str(path)) as cache:
        assert all(cache.lookup(Digest.of(f"{number}".encode())) for number in range(6))
    assert [one.name for one in tmp_path.glob("*.bak*")] == ["cache.db.bak-1"]


def one_line(told: list[str]) -> str:
    """What was told, once."""
    (line,) = told
    assert "\n" not in line
    return line


def test_CR08_a_database_with_other_tables_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE steps(other TEXT)")
        database.execute(f"PRAGMA user_version = {SCHEMA}")
    database.close()
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        assert cache.lookup(KEY) is None and cache.recall(KEY) is None
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert "no such column" in one_line(told) and usable(path)


def test_CR08_a_table_that_wants_more_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    filled(path)
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE steps ADD COLUMN more TEXT NOT NULL DEFAULT ''")
    database.close()
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        cache.record(KEY, RECORD)
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert "starting with an empty one" in one_line(told)


@pytest.mark.parametrize("kind", ["zeroed", "directory", "text", "swapped"])
def test_CR08_what_is_no_database_is_set_aside(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cache.db"
    filled(path)
    size = path.stat().st_size
    if kind == "directory":
        path.unlink()
        (path / "inside").mkdir(parents=True)
    else:
        content = {"zeroed": bytes(size), "text": b"no " * size, "swapped": path.read_bytes()[::-1]}
        path.write_bytes(content[kind])
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        cache.record(KEY, RECORD)
        assert cache.lookup(KEY) == RECORD
    assert "starting with an empty one" in one_line(told)
    assert (tmp_path / "cache.db.bak-1").exists() and usable(path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_CR08_a_torn_log_loses_its_end(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cache.db"
    with LocalCache(str(path)) as cache:
        cache._database.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(100):
            cache.record(Digest.of(f"{number}".encode()), RECORD)
        files = {one: one.read_bytes() for one in tmp_path.iterdir()}
    for one, content in files.items():
        one.write_bytes(
            content[: int(len(content) * share)] if one.name.endswith("-wal") else content
        )
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        found = [cache.lookup(Digest.of(f"{number}".encode())) for number in range(100)]
    kept = sum(one is not None for one in found)
    assert found == [RECORD] * kept + [None] * (100 - kept) and not told
    assert kept < 100 and usable(path)


def test_CR08_one_that_is_deleted_while_it_is_used_is_made_anew_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        cache.record(KEY, RECORD)
        path.unlink()
        for number in range(300):
            cache.record(Digest.of(f"{number}".encode()), RECORD)
        assert cache.lookup(KEY) == RECORD
        assert usable(path)
        cache.record(Digest.of(b"late"), RECORD)
        assert cache.lookup(Digest.of(b"late")) in (RECORD, None)
    assert usable(path) and damage(str(path)) == ""


def test_CR08_one_that_another_has_mended_is_not_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        cache.record(KEY, RECORD)
        path.unlink()
        assert usable(path)
        cache._lose(sqlite_error(sqlite3.SQLITE_CORRUPT))
        assert cache.lookup(KEY) == RECORD, "the file that is there now"
    assert not told and not list(tmp_path.glob("*.bak*"))


def sqlite_error(code: int) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError("damaged")
    error.sqlite_errorcode = code
    return error


def test_CR08_what_was_told_or_recorded_holds_when_the_database_is_lost(tmp_path: Path) -> None:
    path, other = tmp_path / "cache.db", Digest.of(b"other")
    with LocalCache(str(path)) as cache:
        cache.record(KEY, RECORD)
        cache.record_packed(IDENTITY, "gzip", LAYER)
        cache.record(other, RECORD)
    with LocalCache(str(path)) as cache:
        assert (cache.lookup(KEY), cache.packed(IDENTITY, "gzip")) == (RECORD, LAYER)
        cache.record(IDENTITY, RECORD)
        cache._lose(sqlite_error(sqlite3.SQLITE_CORRUPT))
        assert (cache.lookup(KEY), cache.packed(IDENTITY, "gzip")) == (RECORD, LAYER)
        assert cache.lookup(IDENTITY) == RECORD
        assert cache.lookup(other) is None, "nobody has asked for it"
    assert (tmp_path / "cache.db.bak-1").exists() and usable(path)


def test_CR08_where_the_order_of_rows_is_damaged_none_is_taken_for_another(tmp_path: Path) -> None:
    """Two digits of keys are others: the rest is whole, and SQLite, which looks by the order, finds the
    rows of other keys when some were put among them."""
    path = tmp_path / "cache.db"
    keys = [Digest.of(b"%d" % number) for number in range(20)]
    with LocalCache(str(path)) as cache:
        for key in keys:
            cache.record(key, Record(key, RECORD.created, "x" * 300))
    content = path.read_bytes()
    places = [match.end() for match in re.finditer(b"sha256:", content)]
    found = 0
    for second in places[3:]:
        for place in tmp_path.iterdir():
            place.unlink()
        damaged = bytearray(content)
        damaged[places[2]] = damaged[second] = ord("f")
        path.write_bytes(damaged)
        with LocalCache(str(path)) as cache:
            for key in keys[:4]:
                cache.record(key, Record(key, RECORD.created, "x" * 300))
            records = {key: cache.lookup(key) for key in keys}
        assert {key for key, one in records.items() if one and one.identity != key} == set()
        found += sum(one is not None for one in records.values())
    assert found > 10 * len(places), "most are found"


def test_CR08_what_was_forgotten_or_has_become_another_is_not_told_again(tmp_path: Path) -> None:
    path, newer = tmp_path / "cache.db", Record(IDENTITY, RECORD.created, "{}", 2.5)
    lie = Layer(LAYER.descriptor, Digest.of(b"another tar"))
    with LocalCache(str(path)) as cache:
        cache.record_packed(KEY, "gzip", lie)
        cache.record_packed(IDENTITY, "gzip", LAYER)  # so that was a lie
        cache.record(KEY, RECORD)
        cache.record(KEY, newer)
        cache._lose(sqlite_error(sqlite3.SQLITE_CORRUPT))
        assert (cache.packed(KEY, "gzip"), cache.packed(IDENTITY, "gzip")) == (None, LAYER)
        assert cache.lookup(KEY) == newer
        cache.forget(lambda digest: True, lambda identity: True)
        cache._lose(sqlite_error(sqlite3.SQLITE_CORRUPT))
        assert (cache.packed(IDENTITY, "gzip"), cache.lookup(KEY)) == (None, None)


def test_RS02_a_disk_that_fills_while_it_writes_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    told: list[str] = []
    with LocalCache(str(path), tell=told.append) as cache:
        cache.record(KEY, RECORD)
        cache._database.execute("PRAGMA max_page_count = 20")
        for number in range(300):
            cache.record(Digest.of(f"{number}".encode()), RECORD)
        assert cache.lookup(KEY) == RECORD
    line = one_line(told)
    assert line.endswith(
        "cannot be written (database or disk is full); this build is not remembered"
    )
    assert not list(tmp_path.glob("*.bak*")) and usable(path)


LAYER = Layer(
    Descriptor(LAYER_GZIP, Digest.of(b"blob"), 5, {"toc": f"sha256:{'3' * 64}"}), Digest.of(b"tar")
)
MADE = Descriptor(MANIFEST, Digest.of(b"manifest"), 9)
FETCHED = Download(Digest.of(b"file"), 7, '"etag"', "Mon, 01 Jan 2026 00:00:00 GMT")
READS: dict[str, tuple[Callable[[LocalCache], object], object]] = {
    "steps": (lambda cache: cache.lookup(KEY), RECORD),
    "layers": (lambda cache: cache.packed(IDENTITY, "gzip"), LAYER),
    "images": (lambda cache: cache.recall(KEY), MADE),
    "downloads": (lambda cache: cache.downloaded("http://x"), FETCHED),
    "origins": (lambda cache: cache.select("origins"), [("sha256:a", "place")]),
}
COLUMNS = {
    "steps": ("identity", "created", "inputs", "ran", "source", "seal"),
    "layers": ("media_type", "digest", "size", "diff_id", "annotations", "seal"),
    "images": ("media_type", "digest", "size", "seal"),
    "downloads": ("digest", "size", "etag", "modified", "seal"),
    "origins": ("place", "seal"),
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, one) for table, names in COLUMNS.items() for one in names]
)
def test_a_row_of_which_anything_was_changed_is_none(
    tmp_path: Path, table: str, column: str
) -> None:
    path = str(tmp_path / "cache.db")
    read, expected = READS[table]
    with LocalCache(path) as cache:
        cache.record(KEY, RECORD)
        cache.record_packed(IDENTITY, "gzip", LAYER)
        cache.remember(KEY, MADE)
        cache.record_download("http://x", FETCHED)
        cache.change([insertion("origins", "sha256:a", "place")])
        assert read(cache) == expected
    kept: object = [] if table == "origins" else None
    for change in (f"{column} || 'x'", "x'ff00'", f"substr({column}, 2)", "8"):
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE saved AS SELECT * FROM " + table)
            database.execute(f"UPDATE {table} SET {column} = {change}")
        database.close()
        with LocalCache(path) as cache:
            assert read(cache) == kept
            cache.forget(lambda digest: False, lambda identity: False)
            assert isinstance(cache.titles(), dict)
        with sqlite3.connect(path) as database:
            database.execute(f"DELETE FROM {table}")
            database.execute(f"INSERT INTO {table} SELECT * FROM saved")
            database.execute("DROP TABLE saved")
        database.close()
    with LocalCache(path) as cache:
        assert read(cache) == expected


def test_many_rows_are_forgotten_in_one_pass(tmp_path: Path) -> None:
    """Looking through all rows for each would take minutes for what a large store has."""
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        digests = [Digest.of(f"{number}".encode()) for number in range(2000)]
        for one in digests:
            cache.record_packed(one, "gzip", Layer(Descriptor(LAYER_GZIP, one, 5), one))
        statements: list[str] = []
        cache._database.set_trace_callback(statements.append)
        cache.forget(lambda digest: digest != digests[7], lambda identity: True)
        deletions = [one for one in statements if one.startswith("DELETE FROM layers")]
        assert len(deletions) == 1
        assert [one for one in digests if cache.packed(one, "gzip")] == [digests[7]]


def test_titles_are_those_of_results_and_of_what_they_are_packed_in(tmp_path: Path) -> None:
    blob = Descriptor(LAYER_GZIP, Digest.of(b"blob"), 5)
    with LocalCache(str(tmp_path / "cache.db")) as cache:
        for number in range(200):
            identity = Digest.of(b"%d" % number)
            inputs = {"step": f"RUN {number}", "fields": {"env": {"A": "x" * 100_000}}}
            cache.record(identity, Record(identity, RECORD.created, json.dumps(inputs)))
        cache.record(KEY, Record(IDENTITY, RECORD.created, "none of ours"))
        cache.record_packed(identity, "gzip", Layer(blob, Digest.of(b"tar")))
        tracemalloc.start()
        found = cache.titles()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    expected = {Digest.of(b"%d" % number).hex: f"RUN {number}" for number in range(200)}
    assert found == {**expected, blob.digest.hex: "RUN 199"}
    assert peak < 2 << 20, "not all inputs at once"
