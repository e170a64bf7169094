"""Platforms as containerd spells and compares them: `os[(version)]/arch[/variant]` (rule A10)."""

from __future__ import annotations

from assembler.expressions import expression
from assembler.values import replace, value

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
_SYSTEM = expression(r"([^()]+)(?:\(([0-9.]+)\))?")
_NUMBER = expression(r"v([1-9][0-9]?)")
_ARM64 = expression(r"v([89])(?:\.([0-9]))?")


@value(order=True)
class Platform:
    """Where an image runs. Only Windows has an `os_version`: its kernel must be the image's."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/arm/v7`, `arm64`, `windows(10.0.17763)/amd64`… normalised. Raises ValueError."""
        parts = text.lower().split("/")
        system = _SYSTEM.fullmatch(parts[0])
        parts[0], version = (system[1], system[2] or "") if system else ("", "")
        if not 1 <= len(parts) <= 3 or not all(_word(part) for part in parts):
            raise ValueError(f"invalid platform {text!r}: expected os/arch[/variant]")
        if len(parts) == 1:
            if parts[0] in _KNOWN_SYSTEMS:
                raise ValueError(f"invalid platform {text!r}: expected os/arch[/variant]")
            parts = ["linux", *parts]
        architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], ""))
        if len(parts) == 3:
            variant = parts[2]
        variant = _normal_variant(architecture, variant)
        return cls(parts[0], architecture, variant, version if parts[0] == "windows" else "")

    @property
    def runs(self) -> tuple[Platform, ...]:
        """The platforms whose images run here without emulation, this one first and then the
        nearest: older variants, and the 32-bit architecture of a 64-bit one."""
        return tuple(
            replace(self, architecture=architecture, variant=variant)
            for architecture, variant in dict.fromkeys(_runs(self.architecture, self.variant))
        )

    def matches(self, other: Platform) -> bool:
        """Whether an image for `other` runs here without emulation."""
        return self.rank(other) is not None

    def rank(self, other: Platform) -> tuple[int, int] | None:
        """How near an image for `other` comes to this platform, less is better; None when it does
        not run here. Of the builds of a Windows version, the newest is the best."""
        version = other.os_version
        if self.os_version:
            if version and version.split(".")[:3] != self.os_version.split(".")[:3]:
                return None
            revision = version.split(".")[3:4]
            newest = -int(revision[0]) if revision and revision[0].isdecimal() else 0
        else:
            newest = 0
        try:
            place = self.runs.index(replace(other, os_version=self.os_version))
        except ValueError:
            return None
        return place, newest

    def __str__(self) -> str:
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


def _runs(architecture: str, variant: str) -> list[tuple[str, str]]:
    """The (architecture, variant) pairs that run on one, as containerd's platforms.Only has them."""
    found = [(architecture, variant)]
    number = _NUMBER.fullmatch(variant)
    if architecture == "amd64":
        newest = int(number[1]) if number else 1
        found += [("amd64", f"v{n}") for n in range(newest - 1, 1, -1)]
        found += [("amd64", ""), ("386", "")]
    elif architecture == "arm":
        found += [("arm", f"v{n}") for n in range(int(number[1]) - 1 if number else 0, 4, -1)]
    elif architecture == "arm64":
        found += [("arm64", one) for one in _arm64(variant or "v8")]
        found += [("arm", f"v{n}") for n in range(8, 4, -1)]
    elif variant:
        found.append((architecture, ""))
    return found


def _arm64(variant: str) -> list[str]:
    """What of 64-bit Arm runs on `variant`: v9.n has all that v8.(n+5) has."""
    match = _ARM64.fullmatch(variant)
    if match is None:
        return [""]
    minor = int(match[2] or 0)
    found = []
    if match[1] == "9":
        found = [f"v9.{n}" for n in range(minor, 0, -1)] + ["v9"]
        minor = min(minor + 5, 9)
    return [*found, *(f"v8.{n}" for n in range(minor, 0, -1)), ""]


def _word(part: str) -> bool:
    return bool(part) and all(char.isalnum() or char in "._-" for char in part)


def _normal_variant(architecture: str, variant: str) -> str:
    if architecture == "arm64" and variant in ("v8", "8", "v8.0"):
        return ""
    if architecture == "arm64":
        return {"9": "v9", "v9.0": "v9"}.get(variant, variant)
    if architecture == "arm":
        return {"": "v7", "7": "v7", "6": "v6", "5": "v5", "8": "v8"}.get(variant, variant)
    if architecture == "amd64" and variant == "v1":
        return ""
    return variant
