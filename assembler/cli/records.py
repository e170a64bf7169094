"""Records of builds as commands name and show them."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from assembler.dockerfile.suggest import did_you_mean
from assembler.engine.recorder import timestamp
from assembler.errors import NotFound, UsageError

if TYPE_CHECKING:
    from assembler.store.builds import BuildRecord, Builds

_BEFORE = re.compile(r"(?:\^([0-9]{0,9}))?")
_LEAST = 3  # letters of an id


def build_named(builds: Builds, text: str) -> BuildRecord:
    """The build that `text` means: an id or its beginning, an image's name or digest, whose newest
    build it is, `^2` for the one two before the last; empty for the last. Raises NotFound, UsageError."""
    before = _before(text)
    found = list(islice(builds.recent(), None if before is None else before + 1))
    if not found:
        raise NotFound(
            "the store has no record of a build",
            hint="`assemble build` keeps one; --store names another store",
        )
    if before is not None:
        if before < len(found):
            return found[before]
        raise NotFound(f"{text}: the store has records of {len(found)} builds")
    if len(text) >= _LEAST:
        begun = [one for one in found if one.id.startswith(text)]
        if len(begun) > 1:
            ids = ", ".join(one.id for one in begun)
            raise UsageError(f"{text}: several builds begin so", hint=f"one of {ids}")
        if begun:
            return begun[0]
    named = _familiar(text)
    for one in found:
        if named in one.tags or (one.image and text == one.image):
            return one
    words = [tag for one in found for tag in one.tags] + [one.id for one in found]
    raise NotFound(
        f"there is no record of a build {text}{did_you_mean(text, words)}",
        hint="`assemble history` lists them",
    )


def _before(text: str) -> int | None:
    """How many builds before the last one `text` means, if it says that."""
    match = _BEFORE.fullmatch(text)
    if match is None:
        return None
    return 0 if match[1] is None else int(match[1] or 1)


def _familiar(text: str) -> str:
    from assembler.oci.reference import Reference

    try:
        return Reference.parse(text).familiar
    except ValueError:
        return ""


def build_document(build: BuildRecord) -> dict[str, Any]:
    """What is said of a build as a whole, as JSON has it."""
    return {
        "id": build.id,
        "name": build.name,
        "status": build.status,
        "started": timestamp(build.started),
        "seconds": build.seconds,
        "dockerfile": build.dockerfile,
        "target": build.target,
        "platform": build.platform,
        "tags": list(build.tags),
        "image": build.image,
    }
