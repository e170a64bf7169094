"""The clocks of file systems."""

from __future__ import annotations

import os
from pathlib import Path


def tick(root: Path) -> None:
    """Wait until what is changed now has another time than all that is below `root`: it is that of
    the kernel's last tick, and may be some milliseconds old (before Linux 6.13 whoever looks)."""
    probe = root.with_name(f"{root.name}.tick")
    newest = max(path.lstat().st_ctime_ns for path in (root, *_below(root)))
    while True:
        probe.touch()
        if probe.stat().st_ctime_ns > newest:
            return probe.unlink()


def _below(root: Path) -> list[Path]:
    return [Path(above, name) for above, *names in os.walk(root) for some in names for name in some]
