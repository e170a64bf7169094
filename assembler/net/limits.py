"""How slow the other end of a connection may be (reliability.md 1.2)."""

from __future__ import annotations

from assembler.values import value


@value
class Limits:
    """Seconds for connecting, for a TLS handshake, and for the head of an answer; below `floor`
    bytes a second over `window` seconds a transfer has failed."""

    connect: float = 10.0
    handshake: float = 10.0
    head: float = 60.0
    floor: float = 1024.0
    window: float = 60.0
