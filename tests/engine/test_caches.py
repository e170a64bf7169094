"""Rule M7: the directory of a cache mount, which another machine may have had before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assembler.cache.local import LocalCache
from assembler.cache.mounts import directory_name
from assembler.cancellation import Cancellation
from assembler.dockerfile.parser import parse
from assembler.engine.caches import cache_directory, exported
from assembler.errors import AssemblerError, Cancelled, NamespacesForbidden, NotFound
from assembler.events import Event, Warned
from assembler.layer.changeset import Changeset
from assembler.layer.tar_reader import DEFAULT_LIMITS
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.plan.steps import CacheMount
from assembler.source import Source
from assembler.store.disk import Disk, Fsync
from assembler.store.store import Store
from tests.layer.archives import directory, file, tar

MOUNT = CacheMount("/c", "id")
SEED = (file("seed", b"planted"),)


@dataclass
class Elsewhere:
    """Cache mounts of another machine, by name."""

    store: Store
    layers: dict[str, Layer] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fetched: list[Digest] = field(default_factory=list)
    fault: AssemblerError | None = None

    def find(self, name: str) -> Layer | None:
        self.asked.append(name)
        return self.layers.get(name)

    def fetch(self, blob: Descriptor, take: object, *, judged: bool) -> None:
        self.fetched.append(blob.digest)
        if self.fault is not None:
            raise self.fault
        self.store.blobs.put(self.blobs[blob.digest])


class Bench:
    """A store, and another machine that has a file called `carried` in the mount."""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(str(path / "store"), disk=Disk(Fsync.OFF))
        self.cache = LocalCache(str(path / "store/cache.db"))
        self.cancellation = Cancellation()
        self.elsewhere = Elsewhere(self.store)
        self.told: list[str] = []
        self.services: Any = SimpleNamespace(
            store=self.store, carried=self.elsewhere, cached=self.elsewhere, sink=self._take, clock=lambda: 0.0,
            cancellation=self.cancellation, archive_limits=DEFAULT_LIMITS,
            packed=self.cache,
        )  # fmt: skip
        self.has(tar(directory("", 0o1777), file("carried", b"1")))

    def has(self, blob: bytes, diff_id: Digest | None = None) -> None:
        digest = Digest.of(blob)
        self.elsewhere.blobs[digest] = blob
        layer = Layer(Descriptor(LAYER_TAR, digest, len(blob)), diff_id or digest)
        self.elsewhere.layers[directory_name(MOUNT)] = layer

    def _take(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.told.append(event.message)

    def files(self, mount: CacheMount = MOUNT, seed: Changeset = SEED) -> list[str]:
        """What a step finds in the mount."""
        sandbox: Any = SimpleNamespace(ids="full")
        name = directory_name(mount)
        with cache_directory(mount, name, self.services, sandbox, seed) as path:
            return sorted(os.listdir(path))

    def exported(self, enter: Callable[[], str] = lambda: "full") -> list[Layer]:
        """The layers of the mounts that a Dockerfile names."""
        text = "FROM scratch\nRUN --mount=type=cache,target=/c,id=id x\n"
        request = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)), build_platform=Platform("linux", "amd64")
        )
        found = exported(make(request, {}), self.services, enter, 0)
        assert {(one.name, one.id) for one in found} <= {(directory_name(MOUNT), "id")}
        return [one.layer for one in found]

    @property
    def left(self) -> list[str]:
        """What is beside the directories and locks of mounts."""
        parent = os.path.join(self.store.cache_mounts_directory, "full")
        return [name for name in os.listdir(parent) if name.startswith(".")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.cancellation.close()
    made.cache.close()
    made.store.close()


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_M7_a_new_mount_has_what_another_machine_had_and_an_old_one_its_own(
    bench: Bench, sharing: str
) -> None:
    mount = replace(MOUNT, sharing=sharing)
    assert bench.files(mount) == ["carried"]
    bench.has(tar(directory(""), file("newer", b"2")))
    assert bench.files(mount) == ["carried"]
    assert len(bench.elsewhere.asked) == 1, "nobody is asked for what is here"
    assert bench.files(replace(MOUNT, mode=0o700)) == ["seed"], "that is another mount"
    assert not bench.told


def test_M7_builds_at_once_take_a_mount_over_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = threading.Barrier(8)

    def files(_: int) -> list[str]:
        here.wait()
        return bench.files()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files, range(8))) == [["carried"]] * 8
    assert len(bench.elsewhere.fetched) == 1


def not_there(bench: Bench) -> None:
    bench.elsewhere.fault = NotFound("invalid response status 403")


def other_bytes(bench: Bench) -> None:
    bench.has(tar(directory(""), file("poison")), Digest.of(b"others"))


def no_archive(bench: Bench) -> None:
    bench.has(b"x" * 2000)


def damaged(bench: Bench) -> None:
    (layer,) = bench.elsewhere.layers.values()
    bench.elsewhere.fetch(layer.descriptor, None, judged=True)
    path = bench.store.blobs.path(layer.descriptor.digest)
    os.chmod(path, 0o600)
    with open(path, "r+b") as stream:
        stream.seek(300)
        stream.write(b"damage")


@pytest.mark.parametrize("spoil", [not_there, other_bytes, no_archive, damaged])
def test_M7_what_is_not_as_it_was_said_to_be_is_told_and_the_mount_starts_anew(
    bench: Bench, spoil: Callable[[Bench], None]
) -> None:
    spoil(bench)
    assert bench.files() == ["seed"]
    (told,) = bench.told
    assert told.startswith("cache mount id is not taken over, and starts anew: ")
    assert bench.store.path not in told
    assert bench.left == []


def test_M7_a_build_that_is_ended_leaves_no_half_of_a_mount(bench: Bench) -> None:
    bench.cancellation.cancel()
    with pytest.raises(Cancelled):
        bench.files()
    assert bench.left == []
    bench.cancellation.renew()
    assert bench.files() == ["carried"]


def no_namespace() -> str:
    raise NamespacesForbidden("this host lets no user namespace be made", "user namespaces")


def test_M7_what_this_store_has_not_is_passed_on_as_it_is(bench: Bench) -> None:
    assert bench.exported(no_namespace) == list(bench.elsewhere.layers.values())
    assert bench.elsewhere.fetched == [], "and not fetched for it"
    assert not bench.told


def test_M7_what_this_store_has_is_exported_whatever_there_is_elsewhere(bench: Bench) -> None:
    bench.files()
    (own,) = bench.exported()
    assert own not in bench.elsewhere.layers.values()
    assert bench.exported(lambda: "identity") == list(bench.elsewhere.layers.values())


def test_M7_where_no_namespace_can_be_made_no_mount_is_exported_and_that_is_told(
    bench: Bench,
) -> None:
    bench.files()
    assert bench.exported(no_namespace) == []
    assert bench.told == ["cache mounts are not exported: this host lets no user namespace be made"]
