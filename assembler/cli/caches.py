"""`--cache-from` and `--cache-to` words to shared caches: buildx's grammar, and a bare name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from assembler.cache.exporting import MODES, CacheTarget
from assembler.cache.places import CacheSource
from assembler.cli.limits import size_of
from assembler.cli.outputs import parse_packaging
from assembler.cli.truths import parse_truth
from assembler.dockerfile.flags import parse_csv_fields
from assembler.errors import BadFlag, UsageError
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference

_FROM = {
    "registry": frozenset(("ref", "mounts")),
    "local": frozenset(("src", "tag", "digest", "mounts")),
}
_LARGEST = "mounts-max-size"
_BOTH = frozenset((
    "mode", "image-manifest", "oci-mediatypes", "ignore-error", "mounts", _LARGEST,
    "compression", "compression-level", "force-compression",
))  # fmt: skip
_TO = {
    "registry": _BOTH | {"ref"},
    "local": _BOTH | {"dest", "tag"},
    "inline": frozenset(),
}
_INLINE = "BUILDKIT_INLINE_CACHE"


def sources_of(words: Sequence[str]) -> tuple[CacheSource, ...]:
    """What `--cache-from` names, in order. Raises UsageError."""
    found: list[CacheSource] = []
    for word in words:
        for one in _words(word):
            kind, fields = _fields("--cache-from", one, _FROM)
            mounts = parse_truth(f"--cache-from {one}", fields, "mounts", False)
            if kind == "registry":
                reference = _reference("--cache-from", one, fields)
                found.append(CacheSource(reference, mounts=mounts))
            else:
                path = _path("--cache-from", one, fields, "src")
                choice = _choice(one, fields)
                found.append(CacheSource(path=path, choice=choice, mounts=mounts))
    return tuple(dict.fromkeys(found))


def targets_of(words: Sequence[str], arguments: Mapping[str, str]) -> tuple[CacheTarget, ...]:
    """What `--cache-to`, or the build argument that means `type=inline`, asks for. Raises
    UsageError."""
    found = [_target(one) for word in words for one in _words(word)]
    if arguments.get(_INLINE) and parse_truth("--build-arg", arguments, _INLINE, False):
        found.append(CacheTarget())
    return tuple(dict.fromkeys(found))


def _target(word: str) -> CacheTarget:
    option = f"--cache-to {word}"
    kind, fields = _fields("--cache-to", word, _TO)
    if kind == "inline":
        return CacheTarget()
    mode = fields.get("mode", "min")
    if mode not in MODES:
        raise UsageError(f"{option}: unknown mode {mode!r}", hint=f"one of {', '.join(MODES)}")
    packaging = parse_packaging(option, fields)
    packaging.checked()
    manifest = parse_truth(option, fields, "image-manifest", not packaging.docker)
    if manifest and packaging.docker:
        raise UsageError(
            f"{option}: image-manifest=true conflicts with oci-mediatypes=false",
            hint="Docker's media types are for image-manifest=false",
        )
    registry = kind == "registry"
    return CacheTarget(
        reference=_reference("--cache-to", word, fields) if registry else None,
        path="" if registry else _path("--cache-to", word, fields, "dest"),
        tag=_tag(option, fields),
        mode=mode,
        manifest=manifest,
        compression=packaging.compression,
        level=packaging.level,
        force=packaging.force,
        docker=packaging.docker,
        ignore_error=parse_truth(option, fields, "ignore-error", False),
        mounts=parse_truth(option, fields, "mounts", False),
        largest_mount=_largest_mount(option, fields),
    )


def _largest_mount(option: str, fields: Mapping[str, str]) -> int:
    text = fields.get(_LARGEST)
    if text is None:
        return 0
    size = size_of(text)
    if not size:
        raise UsageError(f"{option}: {_LARGEST}={text} is not a size", hint=f"{_LARGEST}=4g")
    if not parse_truth(option, fields, "mounts", False):
        raise UsageError(f"{option}: {_LARGEST} is for mounts=true")
    return size


def _words(word: str) -> list[str]:
    """Names without a type may be several in one word, as under buildx."""
    return word.split(",") if "=" not in word else [word]


def _fields(
    option: str, word: str, types: Mapping[str, frozenset[str]]
) -> tuple[str, dict[str, str]]:
    if "=" not in word:
        return "registry", {"ref": word}
    try:
        pairs = parse_csv_fields(word)
    except BadFlag as error:
        raise UsageError(f"{option} {word}: {error.message}") from error
    fields: dict[str, str] = {}
    for key, text in ((key.strip(), text) for key, text in pairs):
        if text is None or key in fields:
            problem = "is given twice" if key in fields else "has no value"
            raise UsageError(f"{option} {word}: {key} {problem}", hint=f"{option} type=…,KEY=VALUE")
        fields[key] = text
    kind = fields.pop("type", "")
    if kind not in types:
        problem = f"unknown type {kind!r}" if kind else "type is missing"
        raise UsageError(f"{option} {word}: {problem}", hint=f"one of {', '.join(types)}")
    if unknown := sorted(fields.keys() - types[kind]):
        known = ", ".join(sorted(types[kind])) or "none"
        raise UsageError(f"{option} {word}: {kind} has no attribute {unknown[0]!r}", hint=known)
    return kind, fields


def _reference(option: str, word: str, fields: Mapping[str, str]) -> Reference:
    try:
        reference = Reference.parse(fields.get("ref", ""))
    except ValueError as error:
        name = f"{option} {word}: " + ("ref is missing" if "ref" not in fields else str(error))
        raise UsageError(name, hint=f"{option} type=registry,ref=REGISTRY/NAME:TAG") from error
    if option == "--cache-to" and reference.digest is not None:
        raise UsageError(f"{option} {word}: a digest cannot be chosen for what is written")
    return reference


def _path(option: str, word: str, fields: Mapping[str, str], key: str) -> str:
    if not fields.get(key):
        raise UsageError(f"{option} {word}: {key} is missing", hint=f"type=local,{key}=PATH")
    return os.path.abspath(fields[key])


def _choice(word: str, fields: Mapping[str, str]) -> str:
    digest = fields.get("digest")
    if digest is None:
        return _tag(f"--cache-from {word}", fields)
    try:
        return str(Digest.parse(digest))
    except ValueError as error:
        raise UsageError(f"--cache-from {word}: {error}") from error


def _tag(option: str, fields: Mapping[str, str]) -> str:
    tag = fields.get("tag", "latest")
    if not tag:
        raise UsageError(f"{option}: tag is empty")
    return tag
