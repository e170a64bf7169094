"""Blobs on their way: how far each is, how fast it goes, how long it will take."""

from __future__ import annotations

from assembler.events import VertexProgress
from assembler.values import mutable

QUIET, STEP = 5.0, 0.05  # seconds and share between two lines of a blob, as buildx prints them
WINDOW = 3.0  # seconds that a rate is of


@mutable
class Transfer:
    """One blob's. `under_way` says that it was seen before its end: bytes have really moved."""

    item: str
    started: float
    current: int
    total: int
    time: float
    under_way: bool = False
    said: float = 0.0
    said_bytes: int = 0
    since: tuple[float, int] = (0.0, 0)
    before: tuple[float, int] = (0.0, 0)

    @classmethod
    def of(cls, event: VertexProgress) -> Transfer:
        """As the first event of it says."""
        now = (event.time, event.current)
        found = cls(
            event.item, event.time, event.current, event.total, event.time,
            said=event.time, said_bytes=event.current, since=now, before=now,
        )  # fmt: skip
        found.take(event)
        return found

    @property
    def over(self) -> bool:
        """Whether all has come."""
        return self.total > 0 and self.current >= self.total

    def take(self, event: VertexProgress) -> None:
        """How far it is now; less than before when it had to begin anew."""
        if event.current < self.current:
            self.since = self.before = (event.time, event.current)
        self.current, self.total, self.time = event.current, event.total, event.time
        self.under_way = self.under_way or not self.over
        if event.time - self.since[0] >= WINDOW:
            self.before, self.since = self.since, (event.time, event.current)

    def due(self) -> bool:
        """Whether a log should have a line of it now. A line for each megabyte would bury the rest."""
        if self.over:
            return self.under_way
        moved = abs(self.current - self.said_bytes)
        if self.time - self.said < QUIET or (self.total and moved < self.total * STEP):
            return False
        self.said, self.said_bytes = self.time, self.current
        return True

    def line(self) -> str:
        """As buildx says it: `sha256:… 12.58MB / 200.00MB 1.2s`."""
        of = f" / {size(self.total)}" if self.total else ""
        end = " done" if self.over else ""
        return f"{self.item} {size(self.current)}{of} {self.time - self.started:.1f}s{end}"

    def arrival(self) -> str:
        """For somebody who watched, when it is over: `sha256:0123456789ab 200.00MB`."""
        return f"{self._short()} {size(self.current)}"

    def live(self) -> str:
        """For somebody who watches: `sha256:0123456789ab 12.58MB / 200.00MB 4.20MB/s 45s left`."""
        parts = [self._short(), size(self.current)]
        parts += [f"/ {size(self.total)}"] if self.total else []
        seconds = self.time - self.before[0]
        rate = (self.current - self.before[1]) / seconds if seconds > 0 else 0.0
        if rate >= 1:
            parts.append(f"{size(rate)}/s")
            if self.total:
                parts.append(f"{_duration((self.total - self.current) / rate)} left")
        return " ".join(parts)

    def _short(self) -> str:
        algorithm, colon, hex = self.item.partition(":")
        return f"{algorithm}{colon}{hex[:12]}"


def size(count: float) -> str:
    """A number of bytes in decimal units, as buildx shows it: `12.58MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f}B" if unit == "B" else f"{count:.2f}{unit}"
        count /= 1000
    return f"{count:.2f}TB"


def _duration(seconds: float) -> str:
    whole = int(seconds) + 1
    if whole < 60:
        return f"{whole}s"
    return (
        f"{whole // 60}m{whole % 60:02}s"
        if whole < 3600
        else f"{whole // 3600}h{whole // 60 % 60:02}m"
    )
