"""Layers that are unpacked at once, in processes of their own: what one after the other gives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings

from assembler.cancellation import Cancellation
from assembler.engine.change import BaseChange
from assembler.engine.realisation import Realisation
from assembler.engine.services import Services
from assembler.errors import BadArchive, Cancelled, HostError, NoSpace
from assembler.events import discard
from assembler.layer import apart
from assembler.layer.apart import Apart
from assembler.layer.changeset import Entry
from assembler.layer.limits import DEFAULT_LIMITS
from assembler.layer.tree import DirectoryTree, MergedTree
from assembler.linux import zygote
from assembler.linux.ownership import write_table
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.plan.plan import ResolvedImage
from assembler.store.store import Store
from tests.layer.archives import directory, file, hardlink, tar
from tests.layer.test_stacks import STACKS, listed, modelled, sound


class Directories:
    """A snapshotter without mounts, its owners on record."""

    name = "plain"

    def __init__(self, place: Path) -> None:
        self.place = place

    def find(self, id: str) -> str | None:
        path = self.place / id / "tree"
        return str(path) if path.is_dir() else None

    @contextmanager
    def create(self, id: str) -> Iterator[str]:
        work = self.place / f"{id}.work"
        (work / "tree").mkdir(parents=True)
        write_table(str(work / "tree"), {})
        yield str(work / "tree")
        work.rename(self.place / id)


class Bench:
    """Stacks of layers whose blobs are in a store."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.number = 0
        self.store = Store.open(str(place / "store"))
        self.cancellation = Cancellation()
        self.started = zygote.start(isolated=False)

    def close(self) -> None:
        self.started.close()
        self.cancellation.close()
        self.store.close()

    def realisation(self) -> Realisation:
        """One to which no directory is known."""
        self.number += 1
        services = SimpleNamespace(
            store=self.store,
            cancellation=self.cancellation,
            jobs=4,
            archive_limits=DEFAULT_LIMITS,
            claims=self.store.working.claim,
            sink=discard,
            clock=time.time,
        )
        snapshotter: Any = Directories(self.place / f"layers-{self.number}")
        unpacker = Apart(self.started, least=0)
        return Realisation(cast(Services, services), snapshotter, None, apart=unpacker)

    def snapshot(self, *archives: bytes) -> tuple[BaseChange, ...]:
        found = []
        for archive in archives:
            digest = self.store.blobs.put(archive)
            described = Descriptor(LAYER_TAR, digest, len(archive))
            found.append(BaseChange(cast(ResolvedImage, None), described, Digest.of(archive)))
        return tuple(found)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("unpacking"))
    yield made
    made.close()


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)
@given(STACKS)
def test_TR02_layers_unpacked_at_once_mean_what_the_model_says(
    bench: Bench, layers: list[list[Entry]]
) -> None:
    for stack in (layers, sound(layers)):
        archives = [tar(*entries) for entries in stack]
        if len(set(archives)) < len(archives):
            continue  # a layer has one directory, whatever it lies on
        snapshot = bench.snapshot(*archives)
        try:
            paths = bench.realisation().directories(snapshot)
            found = listed(MergedTree([DirectoryTree(path) for path in paths]))
        except BadArchive:
            found = None
        assert found == modelled(stack)


def test_a_layer_is_told_what_is_below_while_that_is_being_unpacked(bench: Bench) -> None:
    """The directory that the second implies has the mode of the first; the third links to its file."""
    large = file("f", os.urandom(8 << 20))
    snapshot = bench.snapshot(
        tar(directory("d", 0o2750), large), tar(file("d/x", b"1")), tar(hardlink("d/y", "d/x"))
    )
    top, middle, _ = (Path(path) for path in bench.realisation().directories(snapshot))
    assert (middle / "d").stat().st_mode & 0o7777 == 0o2750
    assert (top / "d").stat().st_mode & 0o7777 == 0o2750
    assert (top / "d/y").read_bytes() == b"1"


def test_T12_the_error_is_that_of_the_layer_whichever_process_met_it(bench: Bench) -> None:
    good, bad = tar(file("a", b"1")), tar(file("b", b"2"), hardlink("d/y", "nowhere"))
    snapshot = bench.snapshot(good, bad, tar(file("e/c", b"3")))
    with pytest.raises(BadArchive) as caught:
        bench.realisation().directories(snapshot)
    assert caught.value.message.startswith(f"layer {Digest.of(bad)}: 'd/y' is a hard link to")
    assert caught.value.entry == "d/y"


def test_T17_a_layer_that_is_not_what_its_configuration_says_is_refused(bench: Bench) -> None:
    first, second = bench.snapshot(tar(file("a", b"1")), tar(file("b", b"2")))
    other = BaseChange(second.image, second.descriptor, Digest.of(b"other"))
    with pytest.raises(BadArchive, match="not what the image configuration says"):
        bench.realisation().directories((first, other))


def test_an_error_keeps_its_cause_on_the_way() -> None:
    error = NoSpace("no space left for 'a'", "a", hint="make room")
    error.__cause__ = OSError(28, "No space left on device", "/x/a")
    made = apart._error(apart._told(error))
    assert isinstance(made, NoSpace) and (made.message, made.path, made.hint) == (
        "no space left for 'a'", "a", "make room",
    )  # fmt: skip
    assert isinstance(made.__cause__, OSError) and made.__cause__.filename == "/x/a"


class Held:
    """A blob that is never whole, so that whoever reads it waits; and who that is."""

    def __init__(self, place: Path) -> None:
        self.path = place / "pipe"
        os.mkfifo(self.path)
        self.into = place / "into"
        self.into.mkdir()

    def reader(self) -> int:
        """The process that has it open, once there is one."""
        os.close(os.open(self.path, os.O_WRONLY))
        while True:
            for one in Path("/proc").iterdir():
                if one.name.isdigit() and int(one.name) != os.getpid():
                    try:
                        links = [os.readlink(file) for file in (one / "fd").iterdir()]
                    except OSError:
                        continue  # of somebody else, or it has just ended
                    if str(self.path) in links:
                        return int(one.name)
            time.sleep(0.01)


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_CN01_the_process_is_gone_when_it_is_not_needed_any_more(
    bench: Bench, tmp_path: Path, how: str
) -> None:
    held = Held(tmp_path)
    keep_open = os.open(held.path, os.O_RDWR)
    stopped = threading.Event()
    readers: list[int] = []

    def end() -> None:
        readers.append(held.reader())
        if how == "killed":
            os.kill(readers[0], signal.SIGKILL)
        stopped.set()

    def check() -> None:
        if how == "cancelled" and stopped.is_set():
            raise Cancelled

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(Cancelled if how == "cancelled" else HostError):
        Apart(bench.started).unpack(
            str(held.path),
            str(held.into),
            diff_id=Digest.of(b""),
            check=check,
            lower=lambda path: None,
            limits=DEFAULT_LIMITS,
        )
    thread.join()
    os.close(keep_open)
    with pytest.raises(ProcessLookupError):
        for _ in range(6000):  # until the zygote has reaped it
            os.kill(readers[0], 0)
            time.sleep(0.01)
