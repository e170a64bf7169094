"""What the system itself shows a step: /proc, /sys and /dev (rootless-runtime.md 3b, rule R2)."""

from __future__ import annotations

import errno
import os
import stat

from assembler.linux.job import Setting
from assembler.linux.mounts import Bind, FileSystem
from assembler.linux.owner_filter import Ownership
from assembler.linux.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

NAMES = ("proc", "sys", "dev")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MASKED = (
    "proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats",
    "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware",
    "sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")


def mount_system(top: str, setting: Setting) -> None:
    """Mount them in the directories of `NAMES` below `top`. Raises OSError."""
    proc, sys = os.path.join(top, "proc"), os.path.join(top, "sys")
    try:
        FileSystem("proc", proc).execute()
    except OSError as error:
        if error.errno != errno.EPERM:  # nested in a container whose own /proc is masked
            raise
        Bind("/proc", proc).execute()
    _device_mounts(os.path.join(top, "dev"), setting)
    if setting.private_network:
        FileSystem("sysfs", sys, "", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY).execute()
    else:
        Bind("/sys", sys, read_only=not setting.insecure).execute()
    if setting.insecure:
        return
    for name in MASKED:
        _mask(os.path.join(top, name))
    for name in READ_ONLY:
        path = os.path.join(top, name)
        if os.path.exists(path):
            Bind(path, path, read_only=True).execute()


def _mask(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # not on this kernel, or already out of reach
    if stat.S_ISDIR(mode):
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
        FileSystem("tmpfs", path, "size=0k", flags).execute()
    else:
        Bind("/dev/null", path).execute()


def _device_mounts(dev: str, setting: Setting) -> None:
    FileSystem("tmpfs", dev, "mode=755,size=64m", MS_NOSUID).execute()
    for name in _DEVICES:
        path = os.path.join(dev, name)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        Bind(f"/dev/{name}", path).execute()
    links = (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx"), ("core", "/proc/kcore"))
    streams = (("stdin", 0), ("stdout", 1), ("stderr", 2))
    for name, target in (*links, *((s, f"/proc/self/fd/{n}") for s, n in streams)):
        os.symlink(target, os.path.join(dev, name))
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(os.path.join(dev, name), 0o755)
    pts = "newinstance,ptmxmode=0666,mode=0620" + (
        ",gid=5" if setting.ownership is Ownership.MAPPED else ""
    )
    FileSystem("devpts", f"{dev}/pts", pts, MS_NOSUID | MS_NOEXEC).execute()
    FileSystem("tmpfs", f"{dev}/shm", f"mode=1777,size={setting.shared_memory}").execute()
    FileSystem("mqueue", f"{dev}/mqueue").execute()
