"""Cache keys: digests of typed, length-framed, versioned inputs (rules R7, C21, M7, 18.3).

Never in a key: spans, names, proxies, secret values, what a cache mount is and holds, ids of ssh
agents, host paths, times. Where a step reads from is in it as an identity, not as a stage's number
or a context's path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from assembler.dockerfile.remote import GitReference
from assembler.oci.descriptor import CHUNKED_CHECKSUM
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.plan import ResolvedImage
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    ContextOrigin,
    Copy,
    GitSource,
    MakeDirectory,
    Origin,
    Run,
    SshMount,
    Step,
    UrlSource,
)
from assembler.values import fields, is_value, value

VERSION = 3
"""Part of every key. It is raised when equal inputs may have led to another result before: when a
field means something else, is left out, or a step makes other files of what it is given."""


@value
class Read:
    """What a step reads: where, the paths there, and the identity of what they hold."""

    origin: Origin | UrlSource | GitSource
    sources: tuple[str, ...]
    identity: Digest


_LEFT_OUT: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        Run: frozenset({"span", "name", "proxies", "arguments"}),
        Copy: frozenset({"span", "name", "origin", "sources", "written"}),
        MakeDirectory: frozenset({"span", "name"}),
        BindMount: frozenset({"origin", "source"}),
        CacheMount: frozenset({"id", "sharing", "origin", "source"}),
        SshMount: frozenset({"id"}),
        UrlSource: frozenset({"credentials"}),
        GitReference: frozenset({"credentials"}),
    }
)
"""Fields that are in no key: what is only shown, and origins and sources, which are in it by what
they hold."""

_SELECTING = frozenset({"inline", "parents", "exclude", "unpack"})
"""Fields of a Copy that say what is selected, and how it is taken. The digest of a selection tells."""


def scratch_key(platform: Platform) -> Digest:
    """The identity of an empty file system."""
    return _digest("scratch", (str(platform),))


def nothing_key() -> Digest:
    """The identity of no files, for whatever platform (`from=scratch`)."""
    return _digest("nothing", ())


def base_key(image: ResolvedImage) -> Digest:
    """The identity of an image's file system: its platform, its diff_ids, and the tables of contents
    of its layers, which are believed (`layer.table`): an image that lies in one has its own key."""
    tables = [layer.annotations.get(CHUNKED_CHECKSUM, "") for layer in image.layers]
    told = ("tables", *tables) if any(tables) else ()
    diff_ids = map(str, image.config.diff_ids)
    return _digest("base", (str(image.config.platform), *diff_ids, *told))


def told_by_content(step: Step) -> bool:
    """Whether all that `step` reads is identified by what is selected: files of contexts."""
    if isinstance(step, Copy):
        return isinstance(step.origin, ContextOrigin) and not step.fetched
    return all(isinstance(bind.origin, ContextOrigin) for bind in _binds(step))


def definition_key(parent: Digest, step: Step, reads: Sequence[Digest]) -> Digest:
    """The key of `step` above `parent` before anything is opened: `reads` identify what it reads, in
    order. Where that is told by content, there is no other key than the `content_key`."""
    if told_by_content(step):
        return content_key(parent, step, reads)
    whole = step.sources if isinstance(step, Copy) else [one.source for one in _binds(step)]
    named = tuple(one if isinstance(one, str) else _unpacked(one) for one in whole)
    return _digest("definition", (_below(parent, step), _told(step), named, _texts(reads)))


def content_key(parent: Digest, step: Step, selections: Sequence[Digest]) -> Digest:
    """The identity of what `step` above `parent` gives: the same whenever what it copies or mounts,
    the `selections` in order, holds the same files, wherever from.

    A linked copy does not depend on what is below it (rule C25).
    """
    return _digest("content", (_below(parent, step), _doing(step), _texts(selections)))


def mark_key(parent: Digest, copy: Copy) -> Digest:
    """What no result of `copy` above `parent` is recorded without, whatever it reads.

    A linked copy may have one above any parent, as its `content_key`."""
    return _digest("mark", (_below(parent, copy), _doing(copy)))


def _below(parent: Digest, step: Step) -> str:
    return "" if isinstance(step, Copy) and step.link else str(parent)


def _told(step: Step) -> tuple[object, ...]:
    return (type(step).__name__, _fields(step))


def _doing(step: Step) -> tuple[object, ...]:
    """What `step` does with what it has selected."""
    if not isinstance(step, Copy):
        return _told(step)
    return (Copy.__name__, _fields(step, _SELECTING))


def _binds(step: Step) -> tuple[BindMount, ...]:
    return step.binds if isinstance(step, Run) else ()


def _unpacked(source: UrlSource | GitSource) -> bool:
    """How what `source` selects is taken, where that does not show in its own identity."""
    return isinstance(source, UrlSource) and source.unpack


def _texts(digests: Sequence[Digest]) -> tuple[str, ...]:
    return tuple(map(str, digests))


def above(parent: Digest, step: Step, identity: Digest) -> Digest:
    """The identity of what a stage is after `step` on `parent` gave the change `identity`.

    The change of a linked copy is the same on every base (rule C25); what is above it is not.
    """
    if isinstance(step, Copy) and step.link:
        return _digest("linked", (str(parent), str(identity)))
    return identity


def fresh_key(key: Digest, nonce: str) -> Digest:
    """The identity of a result that must not be taken for an earlier one of the same key."""
    return _digest("fresh", (str(key), nonce))


def framed(value: object) -> bytes:
    """`value` as bytes that no other value has: None, booleans, integers, text, sequences and
    values of them. Raises TypeError for anything else."""
    parts: list[bytes] = []
    _frame(value, parts)
    return b"".join(parts)


def _fields(value: object, left_out: frozenset[str] = frozenset()) -> tuple[object, ...]:
    left_out |= _LEFT_OUT.get(type(value), frozenset())
    names = (field.name for field in fields(value) if field.name not in left_out)
    return tuple((name, getattr(value, name)) for name in names)


def _digest(kind: str, value: object) -> Digest:
    return Digest(
        "sha256", hashlib.sha256(framed((f"assemble/{VERSION}/{kind}", value))).hexdigest()
    )


def _frame(value: object, parts: list[bytes]) -> None:
    if isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")
        parts += (b"s%d:" % len(content), content)
    elif value is None:
        parts.append(b"n")
    elif isinstance(value, bool):
        parts.append(b"t" if value else b"f")
    elif isinstance(value, int):
        parts.append(b"i%d;" % value)
    elif isinstance(value, tuple | list):
        parts.append(b"l%d:" % len(value))
        for item in value:
            _frame(item, parts)
    elif is_value(value):
        parts.append(b"d")
        _frame((type(value).__name__, _fields(value)), parts)
    else:
        raise TypeError(f"{type(value).__name__} has no place in a key")
