"""What users call images: a reference, or a layout on disk."""

from __future__ import annotations

from assembler.errors import UsageError
from assembler.expressions import expression
from assembler.oci.digest import Digest
from assembler.oci.reference import LAYOUT, Reference
from assembler.values import replace, value

_DIGEST = expression(r"[a-z0-9]+:[0-9a-f]{32,}")
_TAG = expression(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@value
class LayoutName:
    """`oci-layout://PATH[:TAG][@DIGEST]`: an image of a layout on disk (rule X3)."""

    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> LayoutName:
        """Raises ValueError for a digest that is none."""
        path, digest = text.removeprefix(LAYOUT), ""
        head, at, rest = path.rpartition("@")
        if at and _DIGEST.fullmatch(rest):
            path, digest = head, str(Digest.parse(rest))
        head, colon, tag = path.rpartition(":")
        if colon and _TAG.fullmatch(tag):
            return cls(head, tag, digest)
        return cls(path, "", digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{LAYOUT}{self.path}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse_reference(text: str) -> Reference:
    """The reference `text` spells. Raises UsageError."""
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise UsageError(str(error), hint="a name is [registry/]repository[:tag]") from error


def parse_layout(text: str) -> LayoutName:
    """The layout `text` spells. Raises UsageError."""
    try:
        return LayoutName.parse(text)
    except ValueError as error:
        raise UsageError(f"{text}: {error}", hint="it is PATH[:TAG][@DIGEST]") from error


def parse_repository(text: str, what: str) -> Reference:
    """The repository `text` spells, as a reference without tag and digest. Raises UsageError, also
    for a tag or a digest; `what` is said to forbid it."""
    reference = parse_reference(text)
    if "@" in text or ":" in text.rpartition("/")[2]:
        raise UsageError(f"{what}: {text} has a tag or a digest", hint="leave it out of the name")
    return replace(reference, tag="")
