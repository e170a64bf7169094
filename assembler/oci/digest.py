"""Digests, validated before they become a path or a URL (image-spec descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib

from assembler.expressions import expression
from assembler.values import value

_SHAPE = expression(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


@value(order=True)
class Digest:
    """`algorithm:hex` of stored bytes. Make one with `parse` or `of`."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that `text` spells. Raises ValueError for anything not registered."""
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise ValueError(f"invalid digest {text[:100]!r}")
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        """The sha256 digest of `content`."""
        return cls("sha256", hashlib.sha256(content).hexdigest())

    def matches(self, content: bytes) -> bool:
        """Whether `content` has this digest."""
        return hashlib.new(self.algorithm, content).hexdigest() == self.hex

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
