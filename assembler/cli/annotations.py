"""`--annotation`: what manifests, indexes and their descriptors are to say (rule Y8)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.oci.image import Annotations
    from assembler.oci.platform import Platform


def annotations_of(
    words: tuple[str, ...], *, indexed: bool = False, option: str = "--annotation"
) -> Annotations:
    """`[TYPE[[PLATFORM]],…:]KEY=VALUE` (rule Y8) of `option`. What is for one platform wins over the
    rest.

    Raises UsageError for another form, and for those of an index unless one is made (`indexed`).
    """
    from assembler.oci.image import Annotations

    found: dict[tuple[str, Platform | None], dict[str, str]] = {}
    for word in words:
        head, equals, value = word.partition("=")
        kinds, colon, key = head.partition(":")
        kinds, key = (kinds, key) if colon else ("manifest", head)
        if not equals or not key:
            raise UsageError(
                f"invalid {option} {word!r}, expected key=value", hint="--annotation KEY=VALUE"
            )
        if word != word.encode("utf-8", "replace").decode():
            raise UsageError(f"{option} {word!r}: it is no UTF-8, which a manifest has to be")
        for kind in kinds.split(","):
            found.setdefault(_annotated(f"{option} {word}", kind, indexed), {})[key] = value

    def those(kind: str, platform: Platform | None = None) -> dict[str, str]:
        return found.get((kind, platform), {})

    platforms = sorted({platform for _, platform in found if platform is not None})
    return Annotations(
        those("manifest"),
        those("manifest-descriptor"),
        those("index"),
        those("index-descriptor"),
        {
            platform: Annotations(
                those("manifest", platform), those("manifest-descriptor", platform)
            )
            for platform in platforms
        },
    )


def _annotated(word: str, kind: str, indexed: bool) -> tuple[str, Platform | None]:
    """What an annotation is put on, and for which platform only."""
    from assembler.oci.platform import Platform

    match = re.fullmatch(r"([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?", kind)
    if match is None:
        raise UsageError(
            f"{word}: invalid annotation type {kind!r}",
            hint="--annotation manifest[linux/amd64]:KEY=VALUE",
        )
    name, platform = match[1], match[2]
    of_index = name in ("index", "index-descriptor")
    if of_index and not indexed:
        raise UsageError(
            f"{word}: {name} annotations not supported for single platform export",
            hint="with --build-arg BUILDKIT_MULTI_PLATFORM=1 there is an index",
        )
    if of_index and platform is not None:
        raise UsageError(f"{word}: an index is for all platforms")
    if not of_index and name not in ("manifest", "manifest-descriptor"):
        raise UsageError(
            f"{word}: unknown annotation type {name!r}",
            hint="manifest, manifest-descriptor, index or index-descriptor",
        )
    try:
        return name, None if platform is None else Platform.parse(platform)
    except ValueError as error:
        raise UsageError(f"{word}: {error}") from error
