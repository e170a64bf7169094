"""Overlays served by fuse-overlayfs, for hosts whose kernel refuses its own (rootless-runtime 5c).

The program runs in a mount namespace of its own: in that of the sandbox, pivot_root(2) would make
what it serves its own root. It hands over a detached copy of its mount, and ends when the last copy
is gone, at the latest with the pid namespace of whoever started it.
"""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass

from assembler.linux import syscalls
from assembler.linux.mounts import Bind, FileSystem, try_overlay

DEVICE = "/dev/fuse"
PROGRAM = "fuse-overlayfs"
_IN_CONTAINERS = (
    f"in a container, --device {DEVICE}; in Kubernetes, the limit smarter-devices/fuse: 1 of its"
    f" device plugin, or with CRI-O the annotation io.kubernetes.cri-o.Devices: {DEVICE}"
)

# The program splits paths at `:`, libfuse its options at `,`, and neither can be escaped for both.
# So it is given short names in a tmpfs: nobody in its mount namespace needs what this one covers.
_PLACE = "/sys"
_MESSAGE = 4000  # bytes of what the program says that are passed on


@dataclass(frozen=True, slots=True)
class FuseOverlay:
    """What `mounts.Overlay` is, by `program`; every path is absolute. Below the last directory that
    `upper` and `work` have in common, their names hold no `:` and no `,`.

    Every write is the program's at once (`writeback=0`): pages that are still the kernel's when the
    sandbox dies have nobody to write them any more.
    """

    lowers: tuple[str, ...]
    target: str
    upper: str = ""
    work: str = ""
    program: str = PROGRAM

    def execute(self) -> None:
        """Start the program and mount what it serves. Raises OSError with what it says."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            try:
                ours.close()
                self._hand_over(theirs)
            finally:
                os._exit(0)
        theirs.close()
        with ours:
            said, descriptors, _, _ = socket.recv_fds(ours, _MESSAGE, 1)
        os.waitpid(child, 0)
        if not descriptors:
            raise OSError(0, said.decode("utf-8", "replace") or "fuse-overlayfs was killed")
        try:
            syscalls.move_mount(descriptors[0], self.target)
        finally:
            os.close(descriptors[0])

    def describe(self) -> str:
        """The equivalent command."""
        options = f"lowerdir={':'.join(self.lowers)}"
        if self.upper:
            options += f",upperdir={self.upper},workdir={self.work}"
        return f"{self.program} -o {options} {self.target}"

    def _hand_over(self, receiver: socket.socket) -> None:
        try:
            mounted = self._mount()
        except OSError as error:
            receiver.send(str(error.strerror or error).encode("utf-8", "replace")[:_MESSAGE])
        else:
            socket.send_fds(receiver, [b"m"], [mounted])

    def _mount(self) -> int:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        target = f"{_PLACE}/merged"
        FileSystem("tmpfs", _PLACE, "mode=700").execute()
        os.chdir(_PLACE)
        os.mkdir(target)
        for number, lower in enumerate(self.lowers):
            os.symlink(lower, str(number))
        options = f"lowerdir={':'.join(map(str, range(len(self.lowers))))}"
        if self.upper:  # one mount for both: files are renamed from the one to the other
            above = os.path.commonpath((self.upper, self.work))
            os.mkdir("above")
            Bind(above, "above").execute()
            upper, work = (os.path.relpath(path, above) for path in (self.upper, self.work))
            options += f",upperdir=above/{upper},workdir=above/{work},volatile,writeback=0"
        _start([self.program, "-o", options, "merged"])
        mounted = syscalls.open_tree(target)
        syscalls.umount(target, syscalls.MNT_DETACH)
        return mounted


def _start(argv: list[str]) -> None:
    """Run a program until it has made itself a daemon. Raises OSError with its last line if it
    fails."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for source, target in ((null, 0), (null, 1), (writer, 2)):
                os.dup2(source, target)
            syscalls.close_range(3)
            os.execve(argv[0], argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        finally:
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode("utf-8", "replace").strip().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        reason = said[-1] if said else f"status {status}"
        raise OSError(0, f"{PROGRAM}: {reason.removeprefix(f'{PROGRAM}: ')}")


def shortfall(directory: str) -> tuple[str, str]:
    """Why fuse-overlayfs cannot mount an overlay in the new directory `directory`, and the one thing
    to do about it; empty texts if it can. Nothing of the trial stays."""
    program = shutil.which(PROGRAM)
    if program is None:
        return f"{PROGRAM} is not installed", f"apt-get install {PROGRAM}"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        return f"{DEVICE}: {error.strerror}", f"{_IN_CONTAINERS}; else chmod 666 {DEVICE}"
    except OSError as error:
        return f"{DEVICE}: {error.strerror}", f"{_IN_CONTAINERS}; else modprobe fuse"

    def mount(lowers: tuple[str, ...], target: str, upper: str, work: str) -> FuseOverlay:
        return FuseOverlay(lowers, target, upper, work, program)

    try:
        try_overlay(directory, mount)
    except OSError as error:
        return error.strerror or str(error), "put the store on another file system with --store DIR"
    return "", ""
