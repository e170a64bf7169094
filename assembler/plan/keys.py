"""Cache keys: digests of typed, length-framed, versioned inputs (rules R7, C21, M7, 18.3).

Never in a key: spans, names, proxies, secret values, cache mounts' ids, host paths, times. Where a
step reads from is in it as an identity, not as a stage's number or a context's path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.plan import ResolvedImage
from assembler.plan.steps import CacheMount, Copy, GitSource, Origin, SshMount, Step, UrlSource

VERSION = 1
_Origins = Sequence[tuple[Origin | UrlSource | GitSource, Digest]]


def scratch_key(platform: Platform) -> Digest:
    """The identity of an empty file system."""
    return _digest("scratch", (str(platform),))


def base_key(image: ResolvedImage) -> Digest:
    """The identity of an image's file system: its platform and diff_ids."""
    return _digest("base", (str(image.config.platform), *map(str, image.config.diff_ids)))


def step_key(parent: Digest, step: Step, origins: _Origins) -> Digest:
    """The definition key of `step` above `parent`; `origins` are what it reads, in order."""
    return _digest(
        "step",
        (str(parent), _definition(step), tuple(str(identity) for _, identity in origins)),
    )


def content_key(parent: Digest, copy: Copy, selection: Digest) -> Digest:
    """The identity of a COPY: the same whenever it copies the same files, wherever from.

    A linked copy does not depend on what is below it (rule C25).
    """
    below = "" if copy.link else str(parent)
    return _digest("content", (below, _definition(copy), str(selection)))


def fresh_key(key: Digest, nonce: str) -> Digest:
    """The identity of a result that must not be taken for an earlier one of the same key."""
    return _digest("fresh", (str(key), nonce))


def _definition(step: Step) -> tuple[object, ...]:
    return (type(step).__name__, *_fields(step))


def _fields(value: object) -> tuple[object, ...]:
    left_out = {"span", "name", "proxies", "written"}
    found: list[object] = []
    for field in fields(value):  # type: ignore[arg-type]
        if field.name in left_out and not field.compare:
            continue
        content = getattr(value, field.name)
        if field.name == "origin":
            continue  # its identity is among the origins
        if isinstance(value, Copy) and field.name == "sources":
            # what they select is in the selection's digest; only how it is taken is not
            content = [isinstance(one, UrlSource) and one.unpack for one in content]
        if isinstance(value, CacheMount) and field.name not in ("target", "read_only"):
            continue
        if isinstance(value, SshMount) and field.name == "id":
            continue
        found.append((field.name, content))
    return tuple(found)


def _digest(kind: str, value: object) -> Digest:
    hasher = hashlib.sha256()
    for piece in _frames((f"assemble/{VERSION}/{kind}", value)):
        hasher.update(piece)
    return Digest("sha256", hasher.hexdigest())


def _frames(value: object) -> list[bytes]:
    if value is None:
        return [b"n"]
    if isinstance(value, bool):
        return [b"t" if value else b"f"]
    if isinstance(value, int):
        return [b"i%d;" % value]
    if isinstance(value, str):
        content = value.encode("utf-8", "surrogateescape")
        return [b"s%d:" % len(content), content]
    if isinstance(value, tuple | list):
        return [b"l%d:" % len(value), *(piece for item in value for piece in _frames(item))]
    if is_dataclass(value):
        return [b"d", *_frames((type(value).__name__, _fields(value)))]
    raise TypeError(f"{type(value).__name__} has no place in a key")
