"""What an output of type image calls its image, in the store and in registries (rule O1)."""

from __future__ import annotations

import pytest

from assembler.cli.image_attributes import ImageAttributes, kept_names, named
from assembler.errors import UsageError
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference

DIGEST = Digest.of(b"an image")
NAMES = tuple(map(Reference.parse, ("example.com/a", "example.com/a:2", "b:1")))
AT = f"@{DIGEST}"


def read(**fields: str) -> ImageAttributes:
    keys = {key.replace("__", ".").replace("_", "-"): text for key, text in fields.items()}
    return ImageAttributes.read("-o", keys)


def kept(*attributes: ImageAttributes, names: tuple[Reference, ...] = NAMES) -> list[str]:
    return list(map(str, kept_names(names, attributes, DIGEST)))


def test_an_image_is_kept_and_pushed_under_its_names() -> None:
    assert kept() == kept(ImageAttributes()) == list(map(str, NAMES))
    assert ImageAttributes(push=True).targets(NAMES) == NAMES
    assert named(NAMES, [ImageAttributes(push=True)], DIGEST) == NAMES


def test_what_is_pushed_by_digest_moves_no_tag_anywhere() -> None:
    names = (Reference.parse("example.com/a"),)
    attributes = read(push="true", push_by_digest="true")
    assert list(map(str, attributes.targets(names))) == ["example.com/a"]
    assert kept(attributes, names=names) == [f"example.com/a{AT}"]
    assert list(map(str, named(names, [attributes], DIGEST))) == ["example.com/a"]
    unpushed = read(push_by_digest="true")
    assert kept(unpushed, names=names) == ["example.com/a:latest"]


def test_a_canonical_name_is_one_more() -> None:
    expected = [*map(str, NAMES), f"example.com/a{AT}", f"docker.io/library/b{AT}"]
    assert kept(read(name_canonical="")) == expected
    whole = (Reference.parse(f"c{AT}"),)
    assert kept(read(name_canonical="1"), names=whole) == [f"docker.io/library/c{AT}"]


def test_a_prefix_names_it_by_its_digest() -> None:
    dangling = f"docker.io/library/d{AT}"
    attributes = read(dangling_name_prefix="d", push="true")
    assert kept(attributes, names=()) == [dangling]
    assert kept(attributes) == [*map(str, NAMES), dangling]
    assert list(map(str, attributes.targets(()))) == ["docker.io/library/d"]
    assert list(map(str, named((), [attributes], DIGEST))) == [dangling]
    for key in ("danging_name_empty_only", "dangling_name_empty_only"):
        fallback = read(dangling_name_prefix="d", push="true", **{key: "true"})
        assert kept(fallback) == list(map(str, NAMES)) and fallback.targets(NAMES) == NAMES
        assert kept(fallback, names=()) == [dangling]
    with pytest.raises(UsageError, match="dangling-name-prefix: d:1 has a tag or a digest"):
        read(dangling_name_prefix="d:1").targets(())


def test_what_is_not_to_be_stored_gets_no_name_in_the_store() -> None:
    assert kept(ImageAttributes(), read(store="false")) == []
    assert kept(read(store="true")) == list(map(str, NAMES))


def test_plain_http_and_rewritten_times() -> None:
    assert read(registry__insecure="true").insecure and not read().insecure
    assert [read().rewrite, read(rewrite_timestamp="1").rewrite] == [None, True]
    assert read(rewrite_timestamp="false").rewrite is False
