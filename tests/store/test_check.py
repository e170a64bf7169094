"""`store check` finds what is wrong, and nothing else."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import CACHE_CONFIG, LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.manifest import build, build_index
from assembler.oci.platform import Platform
from assembler.store.check import Check, Problem
from assembler.store.store import Store

PLATFORM = Platform.parse("linux/amd64")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def put(store: Store, name: str, *contents: bytes, remote: bool = False) -> Image:
    """An image in `store` under `name`."""
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, store.blobs.put(one), len(one)), Digest.of(one))
        for one in contents
    )
    made = Image.create(
        ImageConfig(PLATFORM, diff_ids=tuple(one.diff_id for one in layers)), layers
    )
    store.put_image(made)
    store.refs.set(name, made.manifest.descriptor, remote=remote)
    return made


def check(store: Store) -> tuple[list[Problem], Check]:
    run = Check(store.path, lambda progress: None, lambda: None)
    return list(run.problems()), run


def test_a_sound_store_has_no_problem(store: Store) -> None:
    put(store, "a:1", b"one", b"two")
    problems, run = check(store)
    assert problems == []
    assert (run.progress.blobs, run.progress.names) == (4, 1)


def test_CR07_fifty_flipped_bytes_are_found_fifty_times(store: Store) -> None:
    generator = random.Random(7)
    digests = [
        store.blobs.put(generator.randbytes(generator.randrange(1, 200_000))) for _ in range(60)
    ]
    flipped = set()
    for digest in generator.sample(digests, 50):
        path = Path(store.blobs.path(digest))
        content = bytearray(path.read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.chmod(0o644)
        path.write_bytes(content)
        flipped.add(f"blobs/sha256/{digest.hex}")
    problems, _ = check(store)
    assert {one.path for one in problems} == flipped
    assert all(one.removable for one in problems)


def test_what_a_name_leads_to_is_missed(store: Store) -> None:
    made = put(store, "a:1", b"one", b"two")
    os.unlink(store.blobs.path(Digest.of(b"two")))
    problems, _ = check(store)
    assert len(problems) == 1 and "a:1: its layer" in problems[0].message
    os.unlink(store.blobs.path(made.manifest.config.digest))
    os.unlink(store.blobs.path(Digest.of(b"one")))
    problems, _ = check(store)
    assert len(problems) == 3
    os.unlink(store.blobs.path(made.digest))
    problems, _ = check(store)
    assert len(problems) == 1 and "a:1: its manifest" in problems[0].message


@pytest.mark.parametrize("manifest", [True, False])
def test_a_shared_cache_is_no_image_and_has_its_blobs(store: Store, manifest: bool) -> None:
    layer, config = (
        Descriptor(kind, store.blobs.put(content), len(content))
        for kind, content in ((LAYER_TAR, b"one"), (CACHE_CONFIG, b"{}"))
    )
    made = build(config, [layer]) if manifest else build_index([layer, config])
    store.blobs.put(made.content)
    store.refs.set("cache:1", made.descriptor)
    assert check(store)[0] == []
    os.unlink(store.blobs.path(layer.digest))
    (problem,) = check(store)[0]
    assert f"{layer.digest} is not there, or damaged" in problem.message


def test_layers_that_only_the_registry_has_are_no_problem_in_what_is_built_on_them(
    store: Store,
) -> None:
    put(store, "docker.io/library/base:1", b"base", remote=True)
    put(store, "app:1", b"base", b"own")
    os.unlink(store.blobs.path(Digest.of(b"base")))
    problems, run = check(store)
    assert problems == [] and run.progress.remote == 2
    os.unlink(store.blobs.path(Digest.of(b"own")))
    problems, _ = check(store)
    assert len(problems) == 1 and "app:1" in problems[0].message


def test_what_is_no_blob_and_no_layer_is_named(store: Store) -> None:
    os.symlink("/etc/hostname", store.blobs.path(Digest.of(b"linked")))
    Path(store.path, "blobs", "sha256", "notes.txt").write_text("x")
    Path(store.path, "layers", "full", "x").mkdir(parents=True)
    Path(store.path, "layers", "recorded", "a" * 64, "tree").mkdir(parents=True)
    Path(store.path, "layers", "full", "b" * 64).mkdir()
    problems, _ = check(store)
    assert {one.path.rpartition("/")[2] for one in problems} == {
        Digest.of(b"linked").hex, "notes.txt", "x", "a" * 64,
    }  # fmt: skip


def test_a_file_among_directories_is_named_and_keeps_nothing_from_being_looked_at(
    store: Store,
) -> None:
    for place in ("blobs", "layers"):
        Path(store.path, place, "a file").write_text("x")
    put(store, "a:1", b"one")
    Path(store.path, "settled").unlink()
    with Store.open(store.path):
        Path(store.path, "layers", "full", "x").mkdir(parents=True)
        problems, run = check(store)
    found = {"blobs/a file", "layers/a file", "layers/full/x"}
    assert {one.path for one in problems} == found and run.progress.names == 1


def test_an_index_that_cannot_be_read_is_named(store: Store) -> None:
    Path(store.path, "index.json").write_text("{")
    problems, _ = check(store)
    assert [one.path for one in problems] == ["index.json"]
