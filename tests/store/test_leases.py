"""Leases: what a live command uses is seen by whoever collects, whatever clocks say."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assembler.errors import StoreUnusable
from assembler.store import leases, uses
from assembler.store.leases import Lease, collecting
from assembler.store.store import Store

HOLDER = """\
import sys
from assembler.store.store import Store
with Store.open(sys.argv[1]) as store:
    store.hold(sys.argv[2])
    print(flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(store: str, item: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds `item`, killed at the end."""
    command = [sys.executable, "-c", HOLDER, store, item]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        try:
            yield process
        finally:
            process.kill()


def held(store: str) -> set[str]:
    with collecting(store) as found:
        return found


def test_what_a_live_process_uses_is_held_and_afterwards_noted(tmp_path: Path) -> None:
    path = str(tmp_path)
    lease = Lease(path)
    lease.hold("layers/full/a")
    lease.hold("layers/full/a")
    lease.hold("blobs/sha256/b")
    assert held(path) == {"layers/full/a", "blobs/sha256/b"}
    lease.close()
    assert held(path) == set()
    found = uses.read(os.path.join(path, "uses"), time.time())
    assert {item: use.count for item, use in found.items()} == {
        "layers/full/a": 1,
        "blobs/sha256/b": 1,
    }


def test_what_was_used_was_used_until_its_command_ended(tmp_path: Path) -> None:
    """A step may run for hours after the last thing that was noted."""
    lease = Lease(str(tmp_path))
    lease.hold("mounts/full/a")
    (note,) = (tmp_path / "leases").iterdir()
    os.utime(note, (1, 1))
    before = time.time()
    lease.close()
    (use,) = uses.read(str(tmp_path / "uses"), time.time() + 60).values()
    assert use.last >= before - 1


def test_CR11_a_killed_process_holds_nothing_and_a_live_one_goes_on(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    with Store.open(path):
        pass
    with holder(path, "layers/full/alive"):
        with holder(path, "layers/full/dead"):
            pass
        with Store.open(path):
            assert leases.used(path) == {"layers/full/alive"}
    assert held(path) == set() and os.listdir(os.path.join(path, "leases")) == []


def test_CR10_a_lease_from_the_future_or_the_past_is_a_lease(tmp_path: Path) -> None:
    path = str(tmp_path)
    lease = Lease(path)
    lease.hold("a")
    (file,) = Path(path, "leases").iterdir()
    for when in (0, 4_000_000_000):
        os.utime(file, (when, when))
        assert held(path) == {"a"}
    lease.close()
    now = time.time()
    assert uses.read(os.path.join(path, "uses"), now)["a"].last <= now  # not in 2096


def test_nobody_begins_to_use_anything_while_it_is_decided_what_goes(tmp_path: Path) -> None:
    path = str(tmp_path)
    lease, done = Lease(path), threading.Event()

    def use() -> None:
        lease.hold("a")
        done.set()

    with collecting(path):
        thread = threading.Thread(target=use)
        thread.start()
        assert not done.wait(0.2)
    assert done.wait(60)
    thread.join()
    assert held(path) == {"a"}
    lease.close()


class Stop(Exception):
    """What ends a build."""


def test_waiting_for_a_collector_ends_with_the_build(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stop

    with collecting(str(tmp_path)), pytest.raises(Stop):
        Lease(str(tmp_path), stop).hold("a")


def test_notes_of_many_commands_become_one(tmp_path: Path) -> None:
    path = str(tmp_path)
    for number in range(120):
        lease = Lease(path)
        lease.hold("often")
        lease.hold(f"once-{number}")
        lease.close()
    notes = os.path.join(path, "uses")
    assert len(os.listdir(notes)) < 110
    found = uses.read(notes, time.time())
    assert found["often"].count == 120 and found["once-3"].count == 1
    uses.compact(notes, time.time(), lambda item: item == "often", 1)
    assert os.listdir(notes) == ["summary"]
    assert set(uses.read(notes, time.time())) == {"often"}


@pytest.mark.parametrize("notes", [0, 120])
def test_RS02_the_lease_of_a_killed_process_is_swept_from_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: int
) -> None:
    """By `assemble prune`, for one: there is no room for a note, nor for a summary of many."""
    path = str(tmp_path / "store")
    Store.open(path).close()
    Path(path, "leases").mkdir()
    Path(path, "leases", "dead").write_text("a\n")
    for number in range(notes):
        (Path(path, "uses") / str(number)).parent.mkdir(exist_ok=True)
        (Path(path, "uses") / str(number)).write_text("b\n")

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "makedirs", full)
    monkeypatch.setattr(uses, "replacing", full)
    leases.sweep(path)
    assert os.listdir(os.path.join(path, "leases")) == []
    assert held(path) == set()
    monkeypatch.undo()
    found = uses.read(os.path.join(path, "uses"), time.time())
    assert {item: use.count for item, use in found.items()} == ({"a": 1, "b": 120} if notes else {})


def test_a_spoilt_note_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "summary").write_bytes(b"1.5 2 1.0 kept\nnonsense\n\xff\x00 1 x\n3 4")
    found = uses.read(str(tmp_path), 2.0)
    assert found == {"kept": uses.Use(1.5, 1.0, 2)}


def test_CR11_a_thousand_directories_of_dead_commands_are_swept_by_few_descriptors(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "store")
    code = (
        "import resource, sys; from assembler.store.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); Store.open(sys.argv[1])"
    )
    with Store.open(path) as alive, alive.scratch() as kept:
        for number in range(1000):
            Path(path, "ingest", f"{number:032x}").mkdir()
        subprocess.run([sys.executable, "-c", code, path], check=True)
        assert os.listdir(os.path.join(path, "ingest")) == []
        assert os.path.isdir(kept)


def test_whose_store_it_is_that_this_user_may_not_use_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = os.open, os.geteuid() + 4321

    def refusing(path: str, *words: Any) -> int:
        if str(path).endswith("gc.lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *words)

    Store.open(str(tmp_path / "store")).close()
    monkeypatch.setattr(os, "open", refusing)
    path = str(tmp_path / "store")
    lease, looking = Lease(path), Lease(path)
    looking.look_only()
    looking.hold("layers/full/a")  # nobody is kept from looking
    with pytest.raises(StoreUnusable) as own:
        lease.hold("layers/full/a")
    assert own.value.message == f"the store {path} cannot be used: Permission denied"
    monkeypatch.setattr(os, "geteuid", lambda: other)
    name = pwd.getpwuid(os.getuid()).pw_name
    for refused in (lambda: lease.hold("layers/full/a"), lambda: held(path)):
        with pytest.raises(StoreUnusable) as caught:
            refused()
        assert caught.value.message == (
            f"the store {path} belongs to {name}, and this user may not use it: gc.lock:"
            " Permission denied"
        )
        assert caught.value.hint == (
            f"set ASSEMBLE_STORE to a directory of your own, or run this as {name}"
        )
