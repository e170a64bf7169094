"""Steps by chroot(2), for root of a container that may make no namespace, as in most Kubernetes pods.

There being no mounts, files are put into the tree for the time of the step, and directories are
copied in; a cache's copy takes the cache's place afterwards. The tree is the step's own, so that
nothing is to be put back when the builder dies. What was put there can be taken away by the step,
which no mount point can be: then it was not to stay anyway, and what it stood for comes back.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from assembler.cancellation import Cancellation
from assembler.errors import HostError
from assembler.layer.realise import realise
from assembler.layer.tree import DirectoryTree, MergedTree, everything
from assembler.linux import seccomp, syscalls, zygote
from assembler.linux.chroot import ChrootJob
from assembler.linux.job import DirectoryMount, FileMount, Job, Setting
from assembler.linux.nodes import host_node
from assembler.linux.owner_filter import Ownership
from assembler.linux.paths import open_root, remove_at, remove_tree
from assembler.linux.root import resolve, write_file
from assembler.runtime.base import DeviceNode, Process, Root, RunMount
from assembler.runtime.native import Forked

_DEVICES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip


class Chroot(Forked):
    """Runs each process in its tree. Works on whole trees only: see `snapshot.copied`."""

    name = "chroot"

    @classmethod
    def start(cls) -> Chroot:
        """Fork the zygote; call it before any thread. Raises HostError for anybody but root."""
        if os.geteuid() != 0:
            raise HostError("the chroot runtime needs root", "chroot", hint="leave --runtime away")
        return cls(zygote.start(isolated=False), Ownership.MAPPED)

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
        if process.hooks:
            raise HostError(
                f"device {process.hooks[0].device}: CDI hooks need mounts, and none can be made here",
                "mounts",
                hint="let the container make user namespaces (see assemble doctor)",
            )
        others = [mount for mount in mounts if not isinstance(mount, DeviceNode)]
        with ExitStack() as stack:
            for place, make in (("/proc", _make_empty), ("/sys", _make_empty), ("/dev", _make_dev)):
                stack.enter_context(_placed(root, place, make))
            for mount in mounts:
                if isinstance(mount, DeviceNode):
                    stack.enter_context(_placed(root, mount.target, _node_maker(mount)))
            return super().run(process, root, others, output, cancellation)

    def _job(
        self,
        process: Process,
        root: Root,
        files: Sequence[FileMount],
        directories: Sequence[DirectoryMount],
        stack: ExitStack,
    ) -> ChrootJob:
        if process.network == "none":
            raise HostError(
                "a step without network needs a network namespace, and none can be made here",
                "network namespaces",
                hint="let the container make user namespaces (see assemble doctor)",
            )
        given: list[FileMount | DirectoryMount] = [*files, *directories]
        for mount in sorted(given, key=lambda mount: mount.target):
            if isinstance(mount, FileMount):
                stack.enter_context(_placed(root, mount.target, _file_maker(mount)))
            else:
                stack.enter_context(_directory(root, mount))
        profile = b"" if process.insecure else seccomp.profile(syscalls.machine())
        job = Job(
            setting=Setting(process.hostname, "", profile=profile, insecure=process.insecure),
            argv=process.argv,
            env=process.env,
            cwd=process.cwd,
            user=process.user,
            lowers=(),
            upper=root.upper,
            work="",
            scratch=root.scratch,
            files=(),
            directories=(),
            limits=tuple((one.name, one.soft, one.hard) for one in process.limits),
            groups=process.groups,
            chroot=root.upper,
        )
        return ChrootJob(job)


Make = Callable[[int, str], None]
"""Makes something of that name in the directory open as that descriptor."""


@contextmanager
def _placed(root: Root, target: str, make: Make) -> Iterator[tuple[int, str]]:
    """Something at `target` of the tree until the block ends, in a directory that is open as a
    descriptor: a step may turn the directory's path into a link that leaves the tree. What was
    there comes back in the end, unless the step took away the directory it was in, and so do the
    times of directories that the step did not change."""
    path = resolve(root.upper, target).strip("/")
    above, _, name = path.rpartition("/")
    saved = uuid.uuid4().hex
    with ExitStack() as stack:
        scratch, top = (_opened(stack, path) for path in (root.scratch, root.upper))
        parent = stack.enter_context(_directory_at(top, above))
        there = _kind(parent, name) != 0
        if there:
            root.moved.add(path)

        def put() -> None:
            if there:
                os.rename(name, saved, src_dir_fd=parent, dst_dir_fd=scratch)
            make(parent, name)

        def undo() -> bool:
            remove_at(parent, name)
            if there:
                with suppress(FileNotFoundError):
                    os.rename(saved, name, src_dir_fd=scratch, dst_dir_fd=parent)
            return True

        stack.enter_context(_untouched(parent, name, put, undo))
        yield parent, name


def _opened(stack: ExitStack, path: str) -> int:
    descriptor = open_root(path)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _untouched(
    directory: int, name: str, make: Callable[[], None], undo: Callable[[], bool]
) -> Iterator[None]:
    """Let `make` add `name` to a directory and `undo` take it away after the block; if that could be
    done, the directory's times are what they were, or what something else made them meanwhile. That
    the name is the only one which is missing is nothing else."""
    before = os.fstat(directory)
    make()
    after, names = os.fstat(directory).st_mtime_ns, set(os.listdir(directory))
    try:
        yield
    finally:
        now = os.fstat(directory)
        missing = names - {name} == set(os.listdir(directory))
        if undo() or missing:
            untouched = missing or now.st_mtime_ns == after
            mtime = before.st_mtime_ns if untouched else now.st_mtime_ns
            os.utime(directory, ns=(before.st_atime_ns, mtime))


@contextmanager
def _directory_at(top: int, path: str) -> Iterator[int]:
    """A descriptor of the directory `path` below `top`; those that are missing are made, and
    removed after the block if nothing is in them."""
    if not path:
        yield top
        return
    above, _, name = path.rpartition("/")
    with ExitStack() as stack:
        parent = stack.enter_context(_directory_at(top, above))
        if not stat.S_ISDIR(_kind(parent, name)):
            made = _untouched(
                parent,
                name,
                lambda: os.mkdir(name, 0o755, dir_fd=parent),
                lambda: _removed_if_empty(parent, name),
            )
            stack.enter_context(made)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=parent)
        stack.callback(os.close, descriptor)
        yield descriptor


def _kind(directory: int, name: str) -> int:
    """The file type of an entry (no link is followed), 0 where there is none."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return stat.S_IFMT(status.st_mode)


def _removed_if_empty(directory: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR):
            raise
        return False
    return True


def _make_empty(directory: int, name: str) -> None:
    os.mkdir(name, dir_fd=directory)
    os.chmod(name, 0o755, dir_fd=directory)


def _make_dev(directory: int, name: str) -> None:
    _make_empty(directory, name)
    with ExitStack() as stack:
        made = _opened(stack, _path(directory, name))
        for node, numbers in _DEVICES.items():
            _node_maker(DeviceNode(f"/dev/{node}", "", "c", numbers, 0o666))(made, node)
        os.mkdir("shm", dir_fd=made)
        os.chmod("shm", 0o1777, dir_fd=made)


def _node_maker(node: DeviceNode) -> Make:
    kind = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[node.kind]

    def make(directory: int, name: str) -> None:
        try:
            os.mknod(name, kind | 0o600, os.makedev(*node.numbers), dir_fd=directory)
        except OSError as error:
            raise HostError(
                f"device node {node.target} cannot be made: {error.strerror}",
                "mknod",
                hint="give the container the capability MKNOD",
            ) from error
        os.chown(name, node.uid, node.gid, dir_fd=directory)
        os.chmod(name, node.mode, dir_fd=directory)

    return make


def _file_maker(file: FileMount) -> Make:
    return lambda directory, name: write_file(_path(directory, name), file)


def _path(directory: int, name: str) -> str:
    return f"/proc/self/fd/{directory}/{name}"


@contextmanager
def _directory(root: Root, mount: DirectoryMount) -> Iterator[None]:
    """A copy of the mount's files in the tree; a writable one takes their place afterwards."""

    def make(directory: int, name: str) -> None:
        path = _path(directory, name)
        if not mount.source:
            os.mkdir(path)
            os.chmod(path, 0o1777)
        elif os.path.isdir(mount.source):
            os.mkdir(path)
            realise(everything(MergedTree([DirectoryTree(mount.source)])), path)
        elif stat.S_ISSOCK(os.stat(mount.source).st_mode):
            _link_socket(mount, path)
        elif (node := host_node(mount.source)) is not None:
            shown = DeviceNode(mount.target, "", node.kind, node.numbers, node.mode)
            _node_maker(shown)(directory, name)
        else:
            shutil.copy2(mount.source, path)
            owner = os.stat(mount.source)
            os.chown(path, owner.st_uid, owner.st_gid)

    with _placed(root, mount.target, make) as (directory, name):
        yield
        kept = mount.source and not mount.read_only and not mount.discard
        if kept and stat.S_ISDIR(_kind(directory, name)):
            _replace(mount.source, directory, name, root.scratch)


def _link_socket(mount: DirectoryMount, path: str) -> None:
    try:
        os.link(mount.source, path)
    except OSError as error:
        raise HostError(
            f"the socket {mount.source} cannot be shown at {mount.target}: {error.strerror}",
            "mounts",
            hint="let the container make user namespaces (see assemble doctor)",
        ) from error


def _replace(cache: str, directory: int, name: str, scratch: str) -> None:
    """Let the copy `name` in `directory` be `cache`, at once. Steps that use one cache at the same
    time each leave theirs; the last one stays (rule M7: a cache may be dropped any time)."""
    old = os.path.join(scratch, uuid.uuid4().hex)
    os.rename(cache, old)
    os.rename(name, cache, src_dir_fd=directory)
    os.mkdir(name, dir_fd=directory)  # for `_placed` to remove
    remove_tree(old)
