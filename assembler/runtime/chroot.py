"""Steps by chroot(2), for root of a container that may make no namespace, as in most Kubernetes pods.

There being no mounts, files are put into the tree for the time of the step, and directories are
copied in; a cache's copy takes the cache's place afterwards. The tree is the step's own, so that
nothing is to be put back when the builder dies.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from assembler.cancellation import Cancellation
from assembler.errors import HostError
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, everything
from assembler.linux import zygote
from assembler.linux.chroot import ChrootJob
from assembler.linux.job import DirectoryMount, FileMount, Job
from assembler.linux.paths import remove_tree
from assembler.linux.root import resolve, write_file
from assembler.runtime.base import Process, Root, RunMount
from assembler.runtime.native import network_files, run_job, split_mounts

_DEVICES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip


class Chroot:
    """Runs each process in its tree. Works on whole trees only: see `snapshot.copied`."""

    name = "chroot"

    def __init__(self, started: zygote.Zygote) -> None:
        self._zygote = started

    @classmethod
    def start(cls) -> Chroot:
        """Fork the zygote; call it before any thread. Raises HostError for anybody but root."""
        if os.geteuid() != 0:
            raise HostError("the chroot runtime needs root", "chroot", hint="leave --runtime away")
        return cls(zygote.start(isolated=False))

    def run(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
        cancellation: Cancellation,
    ) -> int:
        """See `runtime.base.Runtime.run`."""
        cancellation.check()
        if process.network == "none":
            raise HostError(
                "a step without network needs a network namespace, and none can be made here",
                "network namespaces",
                hint="let the container make user namespaces (see assemble doctor)",
            )
        files, directories = split_mounts(mounts)
        with ExitStack() as stack:
            for path, device in _DEVICES.items():
                stack.enter_context(_placed(root, f"/dev/{path}", _device_maker(device)))
            for file in (*network_files(process), *files):
                stack.enter_context(_placed(root, file.target, _file_maker(file)))
            for directory in directories:
                stack.enter_context(_directory(root, directory))
            return run_job(self._zygote, ChrootJob(_job(process, root)), output, cancellation)

    def close(self) -> None:
        """End every step."""
        self._zygote.close()


def _job(process: Process, root: Root) -> Job:
    return Job(
        argv=process.argv,
        env=process.env,
        cwd=process.cwd,
        user=process.user,
        hostname=process.hostname,
        private_network=False,
        lowers=(),
        upper=root.upper,
        work="",
        scratch=root.scratch,
        files=(),
        directories=(),
        insecure=process.insecure,
        limits=tuple((one.name, one.soft, one.hard) for one in process.limits),
        chroot=root.upper,
    )


@contextmanager
def _placed(root: Root, target: str, make: Callable[[str], None]) -> Iterator[None]:
    """Something at `target` of the tree until the block ends; what was there comes back then, and
    so do the times of directories that the step did not change."""
    path = root.upper + resolve(root.upper, target)
    with ExitStack() as stack:
        stack.enter_context(_parents(root.upper, os.path.dirname(path)))
        parent = os.path.dirname(path)
        times = os.stat(parent)
        saved = f"{root.scratch}/saved-{os.stat(parent).st_ino}-{os.path.basename(path)}"
        there = os.path.lexists(path)
        if there:
            os.rename(path, saved)
        make(path)
        after = os.stat(parent).st_mtime_ns
        try:
            yield
        finally:
            now = os.stat(parent)
            remove_tree(path)
            if there:
                os.rename(saved, path)
            same = now.st_mtime_ns == after
            mtime = times.st_mtime_ns if same else now.st_mtime_ns
            os.utime(parent, ns=(times.st_atime_ns, mtime))


@contextmanager
def _parents(root: str, path: str) -> Iterator[None]:
    """Have the directory `path` of the tree until the block ends; what was made for it is removed
    if nothing else is in it."""
    if os.path.isdir(path):
        yield
        return
    above = os.path.dirname(path)
    with _parents(root, above):
        times = os.stat(above)
        os.mkdir(path, 0o755)
        after = os.stat(above).st_mtime_ns
        try:
            yield
        finally:
            now = os.stat(above)
            if not os.listdir(path):
                os.rmdir(path)
                same = now.st_mtime_ns == after
                mtime = times.st_mtime_ns if same else now.st_mtime_ns
                os.utime(above, ns=(times.st_atime_ns, mtime))


def _device_maker(device: tuple[int, int]) -> Callable[[str], None]:
    def make(path: str) -> None:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(*device))
        os.chmod(path, 0o666)

    return make


def _file_maker(file: FileMount) -> Callable[[str], None]:
    return lambda path: write_file(path, file)


@contextmanager
def _directory(root: Root, mount: DirectoryMount) -> Iterator[None]:
    """A copy of the mount's files in the tree; a writable one takes their place afterwards."""

    def make(path: str) -> None:
        if not mount.source:
            os.mkdir(path)
            os.chmod(path, 0o1777)
        elif os.path.isdir(mount.source):
            os.mkdir(path)
            realise(everything(DirectoryTree(mount.source)), path)
        elif stat.S_ISSOCK(os.stat(mount.source).st_mode):
            os.link(mount.source, path)
        else:
            shutil.copy2(mount.source, path)
            owner = os.stat(mount.source)
            os.chown(path, owner.st_uid, owner.st_gid)

    with _placed(root, mount.target, make):
        yield
        if mount.source and not mount.read_only and not mount.discard:
            path = root.upper + resolve(root.upper, mount.target)
            _replace(mount.source, path, root.scratch)


def _replace(directory: str, copy: str, scratch: str) -> None:
    """Let `copy` be `directory`, at once. Steps that use one cache at the same time each leave
    theirs; the last one stays (rule M7: a cache's content may be dropped any time)."""
    old = os.path.join(scratch, f"old-{os.path.basename(directory)}")
    os.rename(directory, old)
    os.rename(copy, directory)
    os.mkdir(copy)  # for `_placed` to remove
    remove_tree(old)
