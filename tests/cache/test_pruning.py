"""What goes from a store: BuildKit's choice, the longest unused first."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from assembler.cache import pruning
from assembler.cache.base import Record
from assembler.cache.bounds import Policy
from assembler.cache.local import LocalCache
from assembler.cache.pruning import chosen, collect, parse_filter, prune
from assembler.cache.usage import CACHE_MOUNT, GIT, INTERNAL, REGULAR, Usage, human, needs, usages
from assembler.cancellation import Cancellation
from assembler.errors import UsageError
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.store.store import Store
from tests.ticks import tick

NOW = 1_000_000.0
PLATFORM = Platform.parse("linux/amd64")


def usage(name: str, size: int = 10, last: float = NOW, **more: object) -> Usage:
    """A record of a layer directory."""
    values = {"type": REGULAR, "created": 0.0, "path": f"layers/full/{name}", **more}
    return Usage(id=name, size=size, last_used=last, **values)  # type: ignore[arg-type]


FOUND = [
    usage("old", 100, NOW - 7200, description="[2/3] RUN make"),
    usage("index", 5, NOW - 7000, type=INTERNAL),
    usage("image", 50, NOW - 6000, in_use=True, shared=True),
    usage("mount", 30, NOW - 600, type=CACHE_MOUNT, mutable=True),
    usage("new", 20, NOW - 10, parents=("image",)),
]


def names(policy: Policy, free: int = 0) -> list[str]:
    return [one.id for one in chosen(FOUND, [policy], NOW, free)]


def test_all_that_is_not_needed_goes_and_internal_records_only_when_asked() -> None:
    assert names(Policy()) == ["old", "mount", "new"]
    assert names(Policy(all=True)) == ["old", "index", "mount", "new"]


@pytest.mark.parametrize(
    ("policy", "free", "expected"),
    [
        (Policy(max_used=155), 0, []),
        (Policy(max_used=154), 0, ["old"]),
        (Policy(max_used=50), 0, ["old", "mount"]),
        (Policy(max_used=1), 0, ["old", "mount", "new"]),
        (Policy(reserved=50), 0, ["old", "mount"]),
        (Policy(max_used=1, reserved=50), 0, ["old", "mount"]),
        (Policy(min_free=1000), 1000, []),
        (Policy(min_free=1000), 990, ["old"]),
        (Policy(min_free=1000), 890, ["old", "mount"]),
        (Policy(min_free=1000, reserved=150), 0, ["old"]),
        (Policy(min_free=1000, max_used=154), 2000, ["old"]),
        (Policy(unused_for=3600), 0, ["old"]),
        (Policy(unused_for=3600, max_used=1), 0, ["old"]),
    ],
)
def test_caps_are_those_of_buildkit(policy: Policy, free: int, expected: list[str]) -> None:
    assert names(policy, free) == expected


def test_of_several_policies_each_is_for_what_those_before_left() -> None:
    def gone(bounds: Policy, free: int = 0) -> list[str]:
        policies = [bounds, bounds.internal]
        return [one.id for one in chosen(FOUND, policies, NOW, free)]

    assert gone(Policy(max_used=54)) == ["old", "mount"]
    assert gone(Policy(max_used=4)) == ["old", "mount", "new", "index"]
    assert gone(Policy(min_free=1000), 850) == ["old", "mount", "new"]
    assert gone(Policy(min_free=1000), 849) == ["old", "mount", "new", "index"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("type", "regular", ["old", "image", "new"]),
        ("type!", "regular", ["index", "mount"]),
        ("type~", "^exec", ["mount"]),
        ("id", "ol", ["old"]),
        ("description~", "make$", ["old"]),
        ("parents", "image", ["new"]),
        ("inuse", None, ["image"]),
        ("inuse", "false", ["old", "index", "mount", "new"]),
        ("mutable", None, ["mount"]),
        ("immutable", "true", ["old", "index", "image", "new"]),
        ("shared", None, ["image"]),
        ("private", None, ["old", "index", "mount", "new"]),
    ],
)
def test_filters_are_those_of_buildx(key: str, value: str | None, expected: list[str]) -> None:
    matches = parse_filter(key, value)
    assert [one.id for one in FOUND if matches(one)] == expected


@pytest.mark.parametrize(
    ("key", "value"), [("typ", "regular"), ("type", None), ("inuse", "maybe"), ("id~", "(")]
)
def test_what_is_no_filter_is_said(key: str, value: str | None) -> None:
    with pytest.raises(UsageError):
        parse_filter(key, value)


def test_sizes_have_four_digits() -> None:
    sizes = (0, 999, 4096, 1_704_000_000, 10**15)
    assert [human(size) for size in sizes] == ["0B", "999B", "4.096kB", "1.704GB", "1PB"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def image(store: Store, name: str, *layers: bytes) -> Image:
    """An image of `layers` in `store`, under `name` unless that is empty."""
    packed = tuple(
        Layer(Descriptor(LAYER_TAR, store.blobs.put(one), len(one)), Digest.of(one))
        for one in layers
    )
    made = Image.create(
        ImageConfig(PLATFORM, diff_ids=tuple(one.diff_id for one in packed)), packed
    )
    store.put_image(made)
    if name:
        store.refs.set(name, made.manifest.descriptor)
    return made


def go(store: Store, policy: Policy, cache: LocalCache | None = None) -> list[str]:
    """Prune `store`; the paths that went."""
    gone: list[str] = []
    with (
        Cancellation() as cancellation,
        cache or LocalCache(os.path.join(store.path, "cache.db")) as opened,
    ):
        prune(
            store, opened, policy, time.time(), cancellation,
            lambda moved: gone.extend(one.path for one in moved),
        )  # fmt: skip
    return sorted(gone)


def listed(store: Store) -> list[Usage]:
    """The records of `store`."""
    return usages(store.path, {}, time.time(), lambda: None)


def blob(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def test_an_image_with_a_name_stays_whole_and_one_without_goes(store: Store) -> None:
    kept = image(store, "kept:1", b"shared", b"own")
    lost = image(store, "", b"shared", b"lost")
    store.close()
    gone = go(store, Policy(all=True))
    assert gone == sorted(map(blob, (lost.digest, lost.manifest.config.digest, Digest.of(b"lost"))))
    assert store.image(kept.manifest.descriptor).config == kept.config
    assert store.blobs.has(Digest.of(b"shared")) and store.blobs.has(Digest.of(b"own"))
    store.close()
    store.refs.remove("kept:1")
    assert len(go(store, Policy())) == 4


def test_what_a_live_build_holds_stays_though_nothing_names_it(
    store: Store, tmp_path: Path
) -> None:
    made = image(store, "", b"layer")
    directory = Path(store.path, "layers", "full", "a" * 64)
    mount = Path(store.path, "mounts", "full", f"{'b' * 64}.0")
    for one in (directory, mount):
        one.mkdir(parents=True)
    store.hold(f"layers/full/{'a' * 64}")
    store.hold(f"mounts/full/{'b' * 64}")
    other = Store.open(store.path)
    assert go(other, Policy(all=True)) == []
    assert all(one.in_use for one in listed(other))
    store.close()
    assert len(go(other, Policy(all=True))) == 5
    assert not directory.exists() and not mount.exists() and not other.blobs.has(made.digest)


def test_an_image_that_gets_its_name_while_sizes_are_counted_stays(store: Store) -> None:
    made = image(store, "", b"layer")
    store.close()
    found = listed(store)
    store.refs.set("late:1", made.manifest.descriptor)
    trash = os.path.join(store.path, "scratch")
    assert collect(store.path, found, trash, lambda: None) == []
    assert store.image(made.manifest.descriptor).digest == made.digest


def test_a_repository_that_is_being_fetched_into_stays(store: Store) -> None:
    repository = Path(store.path, "git", "c" * 64)
    repository.mkdir(parents=True)
    (repository / "HEAD").write_text("ref: x")
    with Path(store.path, "git", f"{'c' * 64}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert go(store, Policy()) == [] and repository.exists()
    assert go(store, Policy(filters=[parse_filter("type", GIT)])) == [f"git/{'c' * 64}"]
    assert not repository.exists()


def test_derived_data_of_any_directory_goes_with_all_only(store: Store) -> None:
    index = Path(store.path, "indexes", "sha256", "d" * 64)
    index.parent.mkdir(parents=True)
    index.write_bytes(b"x" * 5000)
    (one,) = listed(store)
    assert (one.type, one.path) == (INTERNAL, f"indexes/sha256/{'d' * 64}")
    assert one.size >= 5000
    assert go(store, Policy()) == []
    assert go(store, Policy(all=True)) == [one.path]
    assert not index.exists()


def test_records_that_point_to_what_is_gone_go_too(store: Store) -> None:
    path = os.path.join(store.path, "cache.db")
    identity, lost, known = (Digest.of(text) for text in (b"packed", b"lost", b"known"))
    made = image(store, "kept:1", b"layer")
    gone = Layer(Descriptor(LAYER_TAR, Digest.of(b"gone"), 4), Digest.of(b"gone"))
    Path(store.path, "layers", "full", known.hex).mkdir(parents=True)
    store.close()
    store.hold(f"layers/full/{known.hex}")
    with LocalCache(path) as cache:
        cache.record_packed(identity, "plain", made.layers[0])
        cache.record_packed(lost, "plain", gone)
        for one in (identity, lost, known):
            cache.record(one, Record(one, "2026-01-02T03:04:05Z"))
    assert go(Store.open(store.path), Policy()) == []
    with LocalCache(path) as cache:
        assert cache.packed(identity, "plain") and cache.packed(lost, "plain") is None
        assert cache.lookup(lost)
    go(Store.open(store.path), Policy(all=True))
    with LocalCache(path) as cache:
        assert cache.lookup(identity) and cache.lookup(known) and cache.lookup(lost) is None


def test_what_a_build_makes_while_it_is_counted_is_not_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, identity = os.path.join(store.path, "cache.db"), Digest.of(b"made")
    real = pruning.usages

    def meanwhile(*arguments: Any) -> list[Usage]:
        found = real(*arguments)
        Path(store.path, "layers", "full", identity.hex).mkdir(parents=True)
        with LocalCache(path) as cache:
            cache.record(identity, Record(identity, "2026-01-02T03:04:05Z"))
        return found

    monkeypatch.setattr(pruning, "usages", meanwhile)
    assert go(store, Policy(all=True)) == []
    with LocalCache(path) as cache:
        assert cache.lookup(identity) is not None


def test_the_longest_unused_goes_first_and_use_counts_not_age(store: Store) -> None:
    directories = [Path(store.path, "layers", "full", letter * 64) for letter in "ef"]
    for directory in directories:
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"x" * 10_000)
    tick(Path(store.path))
    with Store.open(store.path) as other:
        other.hold(f"layers/full/{'e' * 64}")
    assert [one.id[0] for one in listed(store)] == ["f", "e"]
    assert go(store, Policy(max_used=20_000)) == [f"layers/full/{'f' * 64}"]
    assert [one.count for one in listed(store)] == [1]


def test_a_prune_uses_nothing(store: Store) -> None:
    image(store, "kept:1", b"layer")
    store.close()
    before = {one.path: (one.last_used, one.count) for one in listed(store)}
    path = os.path.join(store.path, "cache.db")
    with LocalCache(path) as cache:
        for one in store.refs.items():
            cache.remember(Digest.of(b"key"), one[1])
    with Store.open(store.path) as other:
        assert go(other, Policy(all=True)) == []
    assert {one.path: (one.last_used, one.count) for one in listed(store)} == before


def test_CR10_times_in_the_future_are_now(store: Store) -> None:
    store.blobs.put(b"blob")
    store.close()
    for note in Path(store.path, "uses").iterdir():
        os.utime(note, (4_000_000_000, 4_000_000_000))
    now = time.time()
    (one,) = usages(store.path, {}, now, lambda: None)
    assert one.last_used <= now and one.created <= now


def test_a_file_with_two_names_counts_once(store: Store) -> None:
    directory = Path(store.path, "layers", "full", "a" * 64)
    directory.mkdir(parents=True)
    (directory / "one").write_bytes(b"x" * 100_000)
    (before,) = listed(store)
    os.link(directory / "one", directory / "two")
    (after,) = listed(store)
    assert after.size == before.size >= 100_000


def test_needs_of_a_damaged_image_are_what_can_be_read(store: Store) -> None:
    made = image(store, "damaged:1", b"layer")
    path = store.blobs.path(made.digest)
    os.chmod(path, 0o644)
    Path(path).write_bytes(b"{")
    assert set(needs(store.path).blobs) == {blob(made.digest)}
