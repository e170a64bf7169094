"""`--cache-from` and `--cache-to`: buildx's grammar and short form (features 72-75)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from assembler.cache.exporting import CacheTarget
from assembler.cache.places import CacheSource
from assembler.cli.caches import sources_of, targets_of
from assembler.errors import UsageError
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference

APP = Reference.parse("ghcr.io/o/app:cache")
DIGEST = Digest.of(b"x")


@pytest.mark.parametrize(
    ("word", "sources"),
    [
        ("ghcr.io/o/app:cache", [CacheSource(APP)]),
        ("o/app", [CacheSource(Reference.parse("docker.io/o/app:latest"))]),
        ("a,b:1", [CacheSource(Reference.parse("a")), CacheSource(Reference.parse("b:1"))]),
        ("type=registry,ref=ghcr.io/o/app:cache", [CacheSource(APP)]),
        ("ref=ghcr.io/o/app:cache,type=registry,mounts=true", [CacheSource(APP, mounts=True)]),
        ("type=local,src=/c", [CacheSource(path="/c")]),
        ('type=local,"src=/a,b"', [CacheSource(path="/a,b")]),
        ("type=local,src=c,tag=main", [CacheSource(path=os.path.abspath("c"), choice="main")]),
        (f"type=local,src=/c,digest={DIGEST}", [CacheSource(path="/c", choice=str(DIGEST))]),
    ],
)
def test_what_cache_from_means(word: str, sources: list[CacheSource]) -> None:
    assert sources_of([word]) == tuple(sources)


def test_several_are_asked_in_order_and_each_once() -> None:
    found = sources_of(["b", "type=registry,ref=a", "b", "type=local,src=/c"])
    names = [one.path if one.reference is None else one.reference.familiar for one in found]
    assert names == ["b:latest", "a:latest", "/c"]


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("ghcr.io/o/app:cache", {"reference": APP}),
        ("type=registry,ref=ghcr.io/o/app:cache,mode=max", {"reference": APP, "mode": "max"}),
        (
            "type=registry,ref=ghcr.io/o/app:cache,image-manifest=false,compression=zstd,"
            "compression-level=9,force-compression=true,ignore-error=true,mounts=1",
            {
                "reference": APP, "manifest": False, "compression": "zstd", "level": 9,
                "force": True, "ignore_error": True, "mounts": True,
            },
        ),
        # Docker's media types have no word for a cache's configuration, but in a list
        (
            "type=registry,ref=ghcr.io/o/app:cache,oci-mediatypes=false",
            {"reference": APP, "manifest": False, "docker": True},
        ),
        ("type=local,dest=/c,tag=main", {"path": "/c", "tag": "main"}),
        ("type=inline", {}),
    ],
)  # fmt: skip
def test_what_cache_to_means(word: str, fields: dict[str, Any]) -> None:
    assert targets_of([word], {}) == (CacheTarget(**fields),)


@pytest.mark.parametrize(
    ("value", "inline"), [("1", True), ("true", True), ("0", False), ("", False)]
)
def test_a_build_argument_means_inline(value: str, inline: bool) -> None:
    assert bool(targets_of([], {"BUILDKIT_INLINE_CACHE": value})) is inline
    both = targets_of(["type=inline"], {"BUILDKIT_INLINE_CACHE": value})
    assert both == (CacheTarget(),)


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("type=gha", "unknown type 'gha'", "one of registry, local"),
        ("type=s3,bucket=b", "unknown type 's3'", "one of registry, local"),
        ("type=azblob,name=n", "unknown type 'azblob'", "one of registry, local"),
        ("type=inline", "unknown type 'inline'", "one of registry, local"),
        ("ref=a", "type is missing", "one of registry, local"),
        ("type=registry", "ref is missing", "type=registry,ref=REGISTRY/NAME:TAG"),
        ("type=registry,ref=A", "repository name must be lowercase", "type=registry"),
        ("UPPER", "repository name must be lowercase", "type=registry"),
        ("type=registry,ref=a,mode=max", "registry has no attribute 'mode'", "mounts, ref"),
        ("type=registry,ref=a,ref=b", "ref is given twice", ""),
        ("type=registry,ref", "ref has no value", ""),
        ('type=local,"src=/c', 'missing closing "', ""),
        ("type=local", "src is missing", "type=local,src=PATH"),
        ("type=local,src=/c,digest=sha256:1", "invalid digest", ""),
        ("type=local,src=/c,tag=", "tag is empty", ""),
        ("type=local,src=/c,mounts=perhaps", "mounts is neither true nor false", ""),
    ],
)
def test_what_cache_from_cannot_mean(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        sources_of([word])
    assert f"--cache-from {word}: " in refused.value.message
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("type=gha", "unknown type 'gha'", "one of registry, local, inline"),
        ("type=registry,ref=a,mode=all", "unknown mode 'all'", "one of min, max"),
        ("type=inline,mode=max", "inline has no attribute 'mode'", "none"),
        ("type=local,src=/c", "local has no attribute 'src'", "dest"),
        ("type=local", "dest is missing", "type=local,dest=PATH"),
        (f"a@{DIGEST}", "a digest cannot be chosen", ""),
        ("type=registry,ref=a,compression=lz4", "lz4", ""),
        ("type=registry,ref=a,compression-level=x", "compression-level is not a number", ""),
        (
            "type=registry,ref=a,oci-mediatypes=false,image-manifest=true",
            "image-manifest=true conflicts with oci-mediatypes=false",
            "",
        ),
        (
            "type=registry,ref=a,oci-mediatypes=false,compression=zstd",
            "compression=zstd conflicts with oci-mediatypes=false",
            "",
        ),
    ],
)
def test_what_cache_to_cannot_mean(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        targets_of([word], {})
    assert message in refused.value.message
    assert hint in refused.value.hint
