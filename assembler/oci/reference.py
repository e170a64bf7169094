"""Image references: `registry/repository[:tag][@digest]` with Docker Hub's short names (rule S16)."""

from __future__ import annotations

from assembler.expressions import expression
from assembler.oci.digest import Digest
from assembler.values import value

LAYOUT = "oci-layout://"
"""What the path of a layout on disk follows where the name of an image could be, as buildx has it."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = expression(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = expression(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = expression(
    r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
)
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def has_registry(name: str) -> bool:
    """Whether the first part of `name` is a registry, by Docker's rule (S16)."""
    head, slash, _ = name.partition("/")
    return bool(slash) and (
        "." in head or ":" in head or head == "localhost" or head.lower() != head
    )


@value(order=True)
class Reference:
    """A normalised image name. `tag` and `digest` may both be absent."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Normalise `text`; without tag and digest the tag is `latest`. Raises ValueError."""
        name, _, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if digest_text else None
        if "@" in text and digest is None:
            raise ValueError(f"invalid reference {text!r}: empty digest")
        if has_registry(name):
            registry, _, path = name.partition("/")
        else:
            registry, path = "docker.io", name
        path, colon, tag = path.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise ValueError(f"invalid reference {text!r}: bad tag {tag!r}")
        if not _HOST.fullmatch(registry):
            raise ValueError(f"invalid reference {text!r}: bad registry {registry!r}")
        if registry in _HUB_NAMES:
            registry = "docker.io"
            path = path if "/" in path else f"library/{path}"
        if not _REPOSITORY.fullmatch(path) or len(path) > 255:
            problem = (
                "repository name must be lowercase"
                if path != path.lower()
                else "bad repository name"
            )
            raise ValueError(f"invalid reference {text!r}: {problem}")
        if not tag and digest is None:
            tag = "latest"
        return cls(registry, path, tag, digest)

    @property
    def familiar(self) -> str:
        """The short form users type: `debian:12`, `example.com/a/b:1`."""
        name = f"{self.registry}/{self.repository}"
        if self.registry == "docker.io":
            name = self.repository.removeprefix("library/")
        return name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix()}"
