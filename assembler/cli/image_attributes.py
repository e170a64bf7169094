"""What `-o type=image` says of names, of pushing and of the store (dockerfile-language.md 10.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from assembler.cli.truths import parse_truth
from assembler.errors import UsageError
from assembler.expressions import expression
from assembler.values import replace, value

if TYPE_CHECKING:
    from assembler.oci.digest import Digest
    from assembler.oci.reference import Reference

_EMPTY_ONLY = ("danging-name-empty-only", "dangling-name-empty-only")
"""BuildKit's spelling, and what it means."""
_HARMLESS = ("unpack", "oci-artifact", "attestation-inline")
"""Nothing here depends on them: layers are unpacked for a RUN, and attestations are not made."""
_REFUSED = {
    "source-date-epoch": "--build-arg SOURCE_DATE_EPOCH=… is for the whole build",
    "compatibility-version": "images are made in one way only",
}
EVERY = {"prefer-nondist-layers", "rewrite-timestamp", *_HARMLESS, *_REFUSED}
"""Attributes of every output of an image."""
NAMED = {
    *("push", "push-by-digest", "name-canonical", "store", "registry.insecure"),
    *("dangling-name-prefix", *_EMPTY_ONLY),
}
"""Attributes of those that know images by names."""
_ANNOTATION = expression(r"annotation(?:-([a-z-]+))?(\[[a-z0-9_/-]+\])?\.(\S+)")


@value
class ImageAttributes:
    """Where an image is pushed, and what it is called. With `by_digest` no tag is moved; with
    `canonical` the store has it under NAME@DIGEST as well, `kept` says whether it has it under a name
    at all. Under `prefix`@DIGEST it is in any case, unless `fallback` is set and it has a name.
    `insecure` allows plain http. `rewrite` is None where nothing is said of the times in layers."""

    push: bool = False
    by_digest: bool = False
    canonical: bool = False
    kept: bool = True
    insecure: bool = False
    prefix: str = ""
    fallback: bool = False
    rewrite: bool | None = None

    @classmethod
    def read(cls, option: str, fields: Mapping[str, str]) -> ImageAttributes:
        """What the `fields` of `option` say. Raises UsageError."""

        def truth(key: str, default: bool = False) -> bool:
            return parse_truth(option, fields, key, default)

        for key, hint in _REFUSED.items():
            if key in fields:
                raise UsageError(f"{option}: {key} is not supported", hint=hint)
        for key in _HARMLESS:
            truth(key)
        if truth("prefer-nondist-layers"):
            raise UsageError(f"{option}: prefer-nondist-layers is not supported")
        return cls(
            push=truth("push"),
            by_digest=truth("push-by-digest"),
            canonical=truth("name-canonical"),
            kept=truth("store", True),
            insecure=truth("registry.insecure"),
            prefix=fields.get("dangling-name-prefix", ""),
            fallback=any(map(truth, _EMPTY_ONLY)),
            rewrite=truth("rewrite-timestamp") if "rewrite-timestamp" in fields else None,
        )

    def dangling(self, named: bool) -> Reference | None:
        """The repository where the image is known by its digest; `named` says whether it has a name.
        Raises UsageError."""
        from assembler.image_names import parse_repository

        if not self.prefix or (named and self.fallback):
            return None
        return parse_repository(self.prefix, "dangling-name-prefix")

    def targets(self, names: Sequence[Reference]) -> tuple[Reference, ...]:
        """What is pushed to, for an image called `names`: without a tag, what has none to move."""
        found = [replace(name, tag="") if self.by_digest else name for name in names]
        dangling = self.dangling(bool(names))
        return tuple(dict.fromkeys((*found, *([dangling] if dangling else []))))


def named(
    names: Sequence[Reference], attributes: Sequence[ImageAttributes], digest: Digest
) -> tuple[Reference, ...]:
    """What the results say an image called `names` is called: as what it was pushed under."""
    found = list(names)
    if any(one.push and one.by_digest for one in attributes):
        found = [replace(name, tag="") for name in names]
    for one in attributes:
        if dangling := one.dangling(bool(names)):
            found.append(replace(dangling, digest=digest))
    return tuple(dict.fromkeys(found))


def kept_names(
    names: Sequence[Reference], attributes: Sequence[ImageAttributes], digest: Digest
) -> tuple[Reference, ...]:
    """What an image called `names` is in the store, by the `attributes` of all of its outputs. One
    that was pushed by its digest is known by that."""

    def found() -> Iterator[Reference]:
        by_digest = any(one.push and one.by_digest for one in attributes)
        if not by_digest:
            yield from names
        if by_digest or any(one.canonical for one in attributes):
            yield from (replace(name, tag="", digest=digest) for name in names if not name.digest)
        for one in attributes:
            if dangling := one.dangling(bool(names)):
                yield replace(dangling, digest=digest)

    if not all(one.kept for one in attributes):
        return ()
    return tuple(dict.fromkeys(found()))


def annotation_words(fields: Mapping[str, str]) -> dict[str, str]:
    """The keys of `fields` that are annotations, each with the word of `--annotation` that it is."""
    found = {}
    for key, text in fields.items():
        if match := _ANNOTATION.fullmatch(key):
            kind, platform, name = match[1] or "manifest", match[2] or "", match[3]
            found[key] = f"{kind}{platform}:{name}={text}"
    return found
