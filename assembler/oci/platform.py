"""Platforms as containerd spells them: `os/arch[/variant]`, normalised (rule A10)."""

from __future__ import annotations

from dataclasses import dataclass

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64el": ("ppc64le", ""),
}
_KNOWN_SYSTEMS = frozenset(
    "aix android darwin dragonfly freebsd illumos ios js linux netbsd openbsd plan9 solaris wasip1 windows".split()
)


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """Where an image runs."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/arm/v7`, `arm64`, `linux`… normalised. Raises ValueError."""
        parts = text.lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(_word(part) for part in parts):
            raise ValueError(f"invalid platform {text!r}: expected os/arch[/variant]")
        if len(parts) == 1:
            if parts[0] in _KNOWN_SYSTEMS:
                raise ValueError(f"invalid platform {text!r}: expected os/arch[/variant]")
            parts = ["linux", *parts]
        architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], ""))
        if len(parts) == 3:
            variant = parts[2]
        return cls(parts[0], architecture, _normal_variant(architecture, variant))

    def matches(self, other: Platform) -> bool:
        """Whether an image for `other` runs here without emulation of another architecture."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        if self.architecture == "arm":
            return other.variant <= (self.variant or "v7")
        return not other.variant or self.variant == other.variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _word(part: str) -> bool:
    return bool(part) and all(char.isalnum() or char in "._-" for char in part)


def _normal_variant(architecture: str, variant: str) -> str:
    if architecture == "arm64" and variant in ("v8", "8"):
        return ""
    if architecture == "arm":
        return {"": "v7", "7": "v7", "6": "v6", "5": "v5", "8": "v8"}.get(variant, variant)
    if architecture == "amd64" and variant == "v1":
        return ""
    return variant
