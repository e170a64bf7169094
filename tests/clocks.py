"""Time as file systems tell it: two changes within one tick of the kernel's clock look alike."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path


def tick(directory: Path) -> None:
    """Wait until what changes below `directory` from now on has a later time than what has changed so
    far. Kernels before 6.13 have ticks of up to ten milliseconds, and a busy machine may miss some;
    some file systems have ticks of seconds."""
    end = time.monotonic() + 30
    with tempfile.TemporaryDirectory(dir=directory) as place:
        probe = Path(place, "probe")
        probe.touch()
        before = probe.stat().st_ctime_ns
        while probe.stat().st_ctime_ns == before:
            assert time.monotonic() < end, "time stands still"
            time.sleep(0.001)
            probe.touch()
