"""One line about each request, for `--debug`: nothing that a header, a query or a body says."""

from __future__ import annotations

from urllib.parse import urlsplit

from assembler.source import printable
from assembler.values import value

_LONGEST = 300


@value
class Exchanged:
    """A request that is over. `status` is 0 where no answer came, and `failure` says why not; bytes
    `sent` are those of its body, those `received` of all that came, in so many seconds."""

    method: str
    url: str
    status: int
    sent: int
    received: int
    seconds: float
    failure: str = ""

    def __str__(self) -> str:
        outcome = f"status {self.status}" if self.status else self.failure
        parts = [f"{self.method} {bare(self.url)}: {outcome}"]
        parts += [f"{self.sent} bytes sent"] if self.sent else []
        parts += [f"{self.received} received"]
        return f"{', '.join(parts)}, {1000 * self.seconds:.0f} ms"


def bare(url: str) -> str:
    """`url` without user, query and fragment, as it may be shown."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "something that is no URL"
    return printable(f"{parts.scheme}://{host}{parts.path}")[:_LONGEST]
