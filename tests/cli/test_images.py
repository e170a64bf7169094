"""`assemble images`: one line for each name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.manifest import build_index
from assembler.oci.platform import Platform
from assembler.store.store import Store
from tests.conftest import Assemble, environment

SHARED, OWN = b"shared" * 100, b"own"


def kept(store: Store, platform: str, *contents: bytes) -> Image:
    digests = tuple(map(store.blobs.put, contents))
    sized = zip(contents, digests, strict=True)
    layers = tuple(Layer(Descriptor(LAYER_TAR, one, len(data)), one) for data, one in sized)
    made = Image.create(ImageConfig(Platform.parse(platform), diff_ids=digests), layers)
    store.put_image(made)
    return made


def entry(image: Image, platform: str = "") -> Descriptor:
    shown = Platform.parse(platform) if platform else image.config.platform
    return replace(image.manifest.descriptor, platform=shown)


def test_an_index_is_listed_by_all_platforms_that_are_here_and_each_blob_counts_once(
    tmp_path: Path,
) -> None:
    assemble = Assemble(environment(tmp_path / "store"))
    with Store.open(str(tmp_path / "store")) as store:
        one = kept(store, "linux/amd64", SHARED, SHARED, OWN)
        two = kept(store, "linux/arm64", SHARED)
        gone = replace(entry(two, "linux/s390x"), digest=Digest.of(b"gone"))
        within = build_index([entry(two), entry(two, "unknown/unknown")])
        nested = replace(within.descriptor, platform=None)
        store.blobs.put(within.content)
        top = build_index([entry(one), nested, gone])
        store.blobs.put(top.content)
        store.refs.set("docker.io/library/many:1", top.descriptor)
        store.refs.set("docker.io/library/one:1", one.manifest.descriptor)
        lost = build_index([gone])
        store.blobs.put(lost.content)
        store.refs.set("docker.io/library/lost:1", lost.descriptor)
    configs = one.manifest.config.size + two.manifest.config.size
    rows = {row["name"]: row for row in json.loads(assemble("images", "--format=json").stdout)}
    assert rows["many:1"] == {
        "name": "many:1",
        "digest": str(top.descriptor.digest),
        "platform": "linux/amd64,linux/arm64",
        "size": len(SHARED) + len(OWN) + configs,
    }
    assert rows["one:1"]["platform"] == "linux/amd64"
    assert rows["one:1"]["size"] == len(SHARED) + len(OWN) + one.manifest.config.size
    assert set(rows) == {"many:1", "one:1"}, "of an index nothing is here"
    head, many, _ = assemble("images").stdout.splitlines()
    assert many.split() == [
        "many:1", str(top.descriptor.digest)[:19], "linux/amd64,linux/arm64",
        str(rows["many:1"]["size"]),
    ]  # fmt: skip
    assert head.index("SIZE") == many.index(str(rows["many:1"]["size"]))
