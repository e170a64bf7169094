"""Blobs of earlier caches go from a layout, and nothing else ever does."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.cache.exporting import CacheTarget, described, document_of
from assembler.linux.claims import sharing
from assembler.oci.descriptor import LAYER_ZSTD, REF_NAME, Descriptor
from assembler.oci.digest import Digest
from assembler.output.layout import LayoutDirectory, write_layout
from assembler.output.superseded import remove_superseded
from assembler.values import replace
from tests.output.test_layout import image


def export(path: Path, tag: str, *layers: bytes, manifest: bool = True) -> set[str]:
    """Write a cache of `layers`; the names of its blobs."""
    blobs = {Digest.of(one): one for one in layers}
    descriptors = tuple(Descriptor(LAYER_ZSTD, one, len(blobs[one])) for one in blobs)
    content = b"{%s}" % b"".join(layers)
    top = document_of(CacheTarget(manifest=manifest), content, descriptors)
    entry = replace(top.descriptor, annotations={REF_NAME: tag})
    documents = {described(content).digest: content, entry.digest: top.content}
    write_layout(
        str(path), entry, descriptors, lambda one: io.BytesIO(blobs[one.digest]), documents,
        cache=True,
    )  # fmt: skip
    return {one.hex for one in (*blobs, *documents)}


def names(path: Path) -> set[str]:
    return set(os.listdir(path / "blobs/sha256"))


@pytest.mark.parametrize("manifest", [True, False])
def test_what_was_replaced_goes_and_other_tags_stay(tmp_path: Path, manifest: bool) -> None:
    export(tmp_path, "main", b"one", b"common", manifest=manifest)
    other = export(tmp_path, "branch", b"two", b"common", manifest=manifest)
    main = export(tmp_path, "main", b"three", manifest=manifest)
    remove_superseded(str(tmp_path))
    assert names(tmp_path) == main | other
    assert sorted(os.listdir(tmp_path)) == ["blobs", "index.json", "oci-layout"]


def test_images_beside_caches_stay_with_all_that_they_lead_to(tmp_path: Path) -> None:
    cache = export(tmp_path, "main", b"one")
    written = LayoutDirectory(str(tmp_path), "docker.io/library/a:1").write(
        image(b"layer"), lambda layer: io.BytesIO(b"layer")
    )
    export(tmp_path, "main", b"one")
    remove_superseded(str(tmp_path))
    found = names(tmp_path)
    assert len(found - cache) == 3 and written.digest.hex in found


def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path) -> None:
    export(tmp_path, "main", b"one")
    left = b"nothing leads here yet"
    path = tmp_path / "blobs/sha256" / Digest.of(left).hex
    path.write_bytes(left)
    path.chmod(0o400)
    kept = export(tmp_path, "main", b"two")
    remove_superseded(str(tmp_path))
    assert names(tmp_path) == kept


def unmarked(path: Path) -> None:
    index = json.loads((path / "index.json").read_text())
    assert index.pop("annotations") == {"assembler.caches": "true"}
    (path / "index.json").write_text(json.dumps(index))


def with_another_kind(path: Path) -> None:
    index = json.loads((path / "index.json").read_text())
    digest = "sha256:" + "0" * 64
    index["manifests"].append({"mediaType": "application/x-other", "digest": digest, "size": 1})
    (path / "index.json").write_text(json.dumps(index))


def without_a_manifest(path: Path) -> None:
    index = json.loads((path / "index.json").read_text())
    (path / "blobs/sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")).unlink()


def garbled(path: Path) -> None:
    (path / "index.json").write_text("{")


def blobs_elsewhere(path: Path) -> None:
    (path / "blobs").rename(path / "shared")
    (path / "blobs").symlink_to("shared")


def digests_elsewhere(path: Path) -> None:
    (path / "blobs/sha256").rename(path / "shared")
    (path / "blobs/sha256").symlink_to("../shared")


@pytest.mark.parametrize(
    "change",
    [unmarked, with_another_kind, without_a_manifest, garbled, blobs_elsewhere, digests_elsewhere],
    ids=lambda change: change.__name__,
)
def test_what_is_not_ours_or_not_understood_stays(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    export(tmp_path, "branch", b"branch")
    export(tmp_path, "main", b"one")
    export(tmp_path, "main", b"two")
    change(tmp_path)
    before = names(tmp_path)
    remove_superseded(str(tmp_path))
    assert names(tmp_path) == before


def test_a_layout_that_others_began_is_never_looked_through(tmp_path: Path) -> None:
    LayoutDirectory(str(tmp_path), "docker.io/library/a:1").write(
        image(b"layer"), lambda layer: io.BytesIO(b"layer")
    )
    first = export(tmp_path, "main", b"one")
    export(tmp_path, "main", b"two")
    remove_superseded(str(tmp_path))
    assert first < names(tmp_path)


def test_blobs_that_were_there_before_any_index_stay(tmp_path: Path) -> None:
    foreign = tmp_path / "blobs/sha256" / ("1" * 64)
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"somebody's")
    foreign.chmod(0o444)
    export(tmp_path, "main", b"one")
    export(tmp_path, "main", b"two")
    remove_superseded(str(tmp_path))
    assert foreign.exists()


def test_what_we_do_not_write_stays(tmp_path: Path) -> None:
    export(tmp_path, "main", b"one")
    blobs = tmp_path / "blobs/sha256"
    others = [blobs / "README", blobs / ("a" * 64), blobs / ("b" * 64), blobs / ("c" * 64)]
    others[0].write_bytes(b"no digest")
    others[1].write_bytes(b"of skopeo, which has not written the index yet")
    others[2].mkdir()
    others[3].symlink_to("/etc/passwd")
    remove_superseded(str(tmp_path))
    assert all(os.path.lexists(one) for one in others)


def test_annotations_of_the_index_are_kept(tmp_path: Path) -> None:
    export(tmp_path, "main", b"one")
    index = json.loads((tmp_path / "index.json").read_text())
    index["annotations"]["org.example"] = "kept"
    (tmp_path / "index.json").write_text(json.dumps(index))
    export(tmp_path, "main", b"two")
    found = json.loads((tmp_path / "index.json").read_text())["annotations"]
    assert found == {"assembler.caches": "true", "org.example": "kept"}


def test_what_a_build_reads_stays_until_it_has_done(tmp_path: Path) -> None:
    first = export(tmp_path, "main", b"one")
    with sharing(str(tmp_path / "blobs"), lambda: None):
        second = export(tmp_path, "main", b"two")
        remove_superseded(str(tmp_path))
        assert names(tmp_path) == first | second
    remove_superseded(str(tmp_path))
    assert names(tmp_path) == second


class Killed(BaseException):
    """The process ends here."""


@settings(max_examples=20)
@given(
    exports=st.lists(
        st.tuples(st.sampled_from("ab"), st.sets(st.sampled_from("123456"), min_size=1)),
        min_size=1, max_size=5,
    ),
    killed=st.sets(st.integers(0, 30)),
)  # fmt: skip
def test_every_tag_is_whole_at_any_moment(
    tmp_path_factory: pytest.TempPathFactory, exports: list[tuple[str, set[str]]], killed: set[int]
) -> None:
    """Whenever a process is killed among the removals, and however often."""
    path = tmp_path_factory.mktemp("layout")
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks in killed:
            raise Killed

    tags: dict[str, set[str]] = {}
    for tag, layers in exports:
        tags[tag] = export(path, tag, *(one.encode() for one in sorted(layers)))
        try:
            remove_superseded(str(path), check)
        except Killed:
            assert set().union(*tags.values()) <= names(path)
        else:
            assert set().union(*tags.values()) == names(path)
