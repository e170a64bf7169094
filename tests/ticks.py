"""The clocks of file systems."""

from __future__ import annotations

import time
from pathlib import Path


def tick(root: Path) -> None:
    """Wait until what is changed from now on has another time than all that is below `root`: it is
    that of the kernel's last tick, and may be some milliseconds old (before Linux 6.13 whoever looks);
    some file systems have ticks of seconds. Nothing changes in `root` by that."""
    taken = {path.lstat().st_ctime_ns for path in (root, *root.rglob("*"))}
    end = time.monotonic() + 30
    probe = root.with_name(f"{root.name}.tick")
    probe.touch()
    while probe.stat().st_ctime_ns in taken:
        assert time.monotonic() < end, "time stands still"
        time.sleep(0.001)
        probe.touch()
    probe.unlink()
