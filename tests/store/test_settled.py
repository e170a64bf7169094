"""Layer directories after a power cut: what the kernel had not surely written is not believed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assembler.store import settled
from assembler.store.disk import Disk, Fsync
from assembler.store.leases import collecting
from assembler.store.store import Store
from tests.ticks import tick

LATER = 10_000  # seconds: more than the kernel waits with writing, where it is as usual


class Machine:
    """Its boot and its monotonic clock, and the store on it."""

    def __init__(self, store: Path) -> None:
        self.boot, self.time = "first", 100.0
        self.store = store

    def layer(self, id: str) -> Path:
        return self.store / "layers" / "full" / id

    def publish(self, store: Store, id: str) -> None:
        self.layer(id).mkdir(parents=True)
        store.published(f"layers/full/{id}")

    def command(self, *published: str, policy: Fsync = Fsync.BATCH) -> list[str]:
        """What a command finds that then makes the layers `published`."""
        with Store.open(str(self.store), disk=Disk(policy)) as store:
            found = sorted(os.listdir(self.store / "layers" / "full"))
            for id in published:
                self.publish(store, id)
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "store")
    machine.layer("none").parent.mkdir(parents=True)
    monkeypatch.setattr(settled, "boot_id", lambda: machine.boot)
    monkeypatch.setattr(settled, "moment", lambda: int(machine.time) + 1)
    return machine


def test_after_another_boot_fresh_layers_are_gone_and_old_ones_stay(machine: Machine) -> None:
    machine.command("a")
    machine.time += LATER
    machine.command("b")
    assert machine.command() == ["a", "b"], "the same boot"
    machine.boot, machine.time = "second", 1.0
    assert machine.command("c") == ["a"]
    machine.boot = "third"
    assert machine.command() == ["a"]
    assert os.listdir(machine.layer("a").parent) == ["a"], "and nothing is left of the others"


def test_a_later_command_of_the_same_boot_finds_that_layers_are_on_disk(machine: Machine) -> None:
    machine.command("a")
    machine.time += 5
    machine.command()
    machine.time += LATER
    machine.command()
    machine.boot = "second"
    assert machine.command() == ["a"]


def test_the_note_is_written_only_when_there_is_something_new(machine: Machine) -> None:
    note = machine.store / "settled"
    machine.command("a")
    first = note.stat().st_ino
    machine.command()
    machine.time += 20
    machine.command()
    assert note.stat().st_ino == first
    machine.time += LATER
    machine.command()
    second = note.stat().st_ino
    machine.time += LATER
    machine.command()
    assert note.stat().st_ino == second and note.read_text().startswith("first 0\n")


def test_a_layer_of_a_killed_command_is_not_believed(machine: Machine) -> None:
    with Store.open(str(machine.store)):
        machine.layer("killed").mkdir()
    machine.time += LATER
    machine.boot = "second"
    assert machine.command() == []


def test_a_layer_made_anew_under_an_old_name_is_another(machine: Machine) -> None:
    """Pruned, made again by a build, which the power cut ended."""
    machine.command("a")
    machine.time += LATER
    machine.command("b")
    machine.layer("a").rmdir()
    tick(machine.store)
    machine.layer("a").mkdir()
    machine.boot = "second"
    assert machine.command() == []


def test_CR10_clocks_that_went_backwards_make_nothing_old(machine: Machine) -> None:
    machine.time = LATER
    machine.command("a")
    os.utime(machine.layer("a"), (0, 0))
    machine.time = 1
    machine.command("b")
    machine.boot = "second"
    assert machine.command() == []


@pytest.mark.parametrize("content", [None, b"", b"first\n", b"\xff\x00 0\n", b"second 0\n0 1 x"])
def test_without_a_note_nothing_is_believed(machine: Machine, content: bytes | None) -> None:
    machine.command("a")
    machine.time += LATER
    machine.command()
    note = machine.store / "settled"
    note.unlink()
    if content is not None:
        note.write_bytes(content)
    machine.boot = "third"
    assert machine.command() == []


def test_with_fsync_off_nothing_goes_and_nothing_is_noted(machine: Machine) -> None:
    machine.command("a", policy=Fsync.OFF)
    machine.boot = "second"
    assert machine.command(policy=Fsync.OFF) == ["a"]
    assert not (machine.store / "settled").exists()


def test_in_full_a_layer_is_on_disk_when_the_command_ends(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    write = settled._write
    monkeypatch.setattr("assembler.linux.syscalls.sync_file_system", lambda _: order.append("sync"))

    def note(*arguments: Any) -> None:
        order.append("note")
        write(*arguments)

    monkeypatch.setattr(settled, "_write", note)
    machine.command("a", policy=Fsync.FULL)
    assert order == ["note", "sync", "note"]
    machine.boot = "second"
    assert machine.command(policy=Fsync.FULL) == ["a"]


def test_where_the_kernel_names_no_boot_all_are_one(machine: Machine) -> None:
    machine.command("a")
    machine.boot = ""
    assert machine.command("b") == ["a"]
    assert machine.command() == ["a", "b"]
    machine.boot = "second"
    assert machine.command() == []


def test_a_sweep_that_is_interrupted_is_done_by_the_next_command(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.command("a")
    machine.time += LATER
    machine.command("b", "c", "d")
    machine.boot = "second"
    rename = os.rename

    def once(source: str, target: str) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", once)
        with pytest.raises(KeyboardInterrupt):
            machine.command()
    left = os.listdir(machine.layer("a").parent)
    assert len(left) == 4 and sum(name.startswith(".") for name in left) == 1
    assert machine.command() == ["a"]
    assert os.listdir(machine.layer("a").parent) == ["a"]


def test_a_full_disk_does_not_keep_a_store_from_being_opened(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.command("a")
    machine.boot = "second"

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(settled, "_write", full)
        assert machine.command("b") == []
    assert machine.command() == [], "this boot is not noted yet: it is not known whose b is"


def test_what_a_live_command_uses_stays_and_is_not_old_by_that(machine: Machine) -> None:
    """One that leaves the disk to the kernel, or that runs on another host."""
    machine.command("a", "b")
    with Store.open(str(machine.store), disk=Disk(Fsync.OFF)) as store:
        store.hold("layers/full/a")
        machine.boot = "second"
        assert machine.command() == ["a"]
    machine.boot = "third"
    assert machine.command() == []


def test_of_commands_that_begin_at_once_each_sees_the_store_swept(machine: Machine) -> None:
    """Real processes, in this boot: the note names another."""
    machine.command("b", "c")
    machine.layer("a").mkdir()
    change = machine.layer("a").stat().st_ctime_ns
    note = machine.store / "settled"
    note.write_text(f"{note.read_text()}0 {change} layers/full/a\n")
    code = (
        "import os, sys; from assembler.store.disk import *; from assembler.store.store import *\n"
        "sys.stdin.read(1)\n"
        "with Store.open(sys.argv[1], disk=Disk(Fsync.BATCH)):\n"
        "    names = os.listdir(sys.argv[1] + '/layers/full')\n"
        "    print(*(name for name in names if not name.startswith('.')))\n"
    )
    command = [sys.executable, "-c", code, str(machine.store)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    commands = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for one in commands:
        assert one.stdin is not None
        one.stdin.close()
    for one in commands:
        assert one.stdout is not None
        with one.stdout as stream:
            assert stream.read() == "a\n"
        assert one.wait() == 0
    assert os.listdir(machine.layer("a").parent) == ["a"]


def test_a_build_ends_while_a_collector_decides(machine: Machine) -> None:
    store = Store.open(str(machine.store), disk=Disk(Fsync.BATCH))
    machine.publish(store, "a")
    with collecting(store.path):
        store.close()
    assert "layers/full/a" in (machine.store / "settled").read_text()


@pytest.mark.parametrize(
    ("expire", "writeback", "seconds"),
    [("3000", "500", 155), ("100", "1", 155), ("6000", "1000", 190), ("3000", "0", float("inf"))],
)
def test_how_long_the_kernel_waits_is_what_it_says(
    monkeypatch: pytest.MonkeyPatch, expire: str, writeback: str, seconds: float
) -> None:
    said = {"dirty_expire": expire, "dirty_writeback": writeback}
    monkeypatch.setattr(settled, "_centiseconds", lambda name: int(said[name]))
    assert settled._wait() == seconds
