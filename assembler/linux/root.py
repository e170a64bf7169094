"""A RUN's root: the overlay or tree, mount points that leave no trace, the system's own mounts.

Made in the mount namespace of the process that calls it (rootless-runtime.md 2, 3, 3b).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from assembler.linux import ownership, syscalls
from assembler.linux.fuse import FuseOverlay
from assembler.linux.job import DirectoryMount, FileMount, Job, Setting, SetupFailed
from assembler.linux.mounts import Bind, FileSystem, Overlay
from assembler.linux.paths import make_directories, open_in_root, open_root, remove_tree
from assembler.linux.syscalls import MS_NODEV, MS_NOSUID
from assembler.linux.system_mounts import NAMES, mount_system

_DEV = "/dev/"
_MEMORY, _ROOT, _SYSTEM = "memory", "merged", "system"


def prepare_root(setting: Setting) -> None:
    """Mount what does not depend on a step, in the memory of `setting`, for `make_root` to move."""
    system = os.path.join(private_memory(setting.memory), _SYSTEM)
    for name in NAMES:
        os.makedirs(os.path.join(system, name), 0o755)
    mount_system(system, setting)


def make_root(job: Job) -> list[Made]:
    """Mount the overlay and everything in it at `root_of(job.scratch)`, after `prepare_root`; returns
    what had to be created in the upper directory because a layer hides the stub below it."""
    memory, merged = job.setting.memory, root_of(job.scratch)
    resolved, created = mount_root(
        job.lowers,
        job.upper,
        job.work,
        job.scratch,
        mount_points(job.files, job.directories),
        program=job.program,
    )
    for name in NAMES:
        source, place = os.path.join(memory, _SYSTEM, name), resolved[f"/{name}"]
        try:
            syscalls.mount(source, merged + place, None, syscalls.MS_MOVE)
        except OSError as error:
            reason = error.strerror if os.path.isdir(merged + place) else "not a directory"
            raise SetupFailed(f"mount target /{name}: {reason}") from error
    _given_mounts(merged, memory, job, resolved)
    return created


def memory_of(scratch: str) -> str:
    """The directory for what only one mount namespace sees: all steps of a build have the same."""
    return os.path.join(os.path.dirname(scratch), _MEMORY)


def private_memory(memory: str) -> str:
    """Mount a new tmpfs at `memory`, which is made if it is not there; `memory`."""
    with suppress(FileExistsError):
        os.mkdir(memory, 0o755)
    FileSystem("tmpfs", memory, "mode=755", MS_NOSUID | MS_NODEV).execute()
    return memory


def root_of(scratch: str) -> str:
    """Where `mount_root` mounts the root of `scratch`."""
    return os.path.join(memory_of(scratch), _ROOT)


def _given_mounts(merged: str, memory: str, job: Job, resolved: Mapping[str, str]) -> None:
    """Make the job's mounts, one that lies in another after it, in a mount point of its own there:
    so a secret is seen in a cache that was named later."""
    kinds = _targets(job.files, job.directories)
    mounts: list[tuple[str, str, Callable[[str], None]]] = []

    def add(target: str, execute: Callable[[str], None]) -> None:
        place = resolved.get(target) or resolved["/dev"] + target.removeprefix("/dev")
        mounts.append((place, target, execute))

    for number, file in enumerate(job.files):
        add(file.target, functools.partial(mount_file, file, f"{memory}/f{number}"))
    for number, directory in enumerate(job.directories):
        private = f"{memory}/d{number}"
        add(directory.target, functools.partial(mount_directory, directory, private, job.program))
    covered = [resolved["/dev"]]
    for place, target, show in sorted(mounts, key=lambda mount: mount[0]):
        with _naming(target):
            if any(place.startswith(f"{above}/") for above in covered):
                place = resolve(merged, place)
                _mount_within(merged, place, kinds[target], show, f"{memory}/n{len(covered)}")
            else:
                show(merged + place)
        covered.append(place)


@contextmanager
def _naming(target: str) -> Iterator[None]:
    """OSErrors as a SetupFailed about the mount target `target`."""
    try:
        yield
    except OSError as error:
        raise SetupFailed(f"mount target {target}: {error.strerror}") from error


def mount_root(
    lowers: tuple[str, ...],
    upper: str,
    work: str,
    scratch: str,
    targets: dict[str, bool],
    links: tuple[tuple[str, str], ...] = (),
    *,
    program: str = "",
) -> tuple[dict[str, str], list[Made]]:
    """Mount the overlay, that of `program` or else the kernel's, at `root_of(scratch)`, in the memory
    there, with a mount point for each of `targets` (true for a directory) that leaves no trace: a
    bottom layer holds empty ones, and `links` (path, text).

    Returns where each target is inside the root, links followed, and what had to be made in the
    upper directory after all, because a layer hides the bottom one there. Without `lowers` the
    directory `upper` is the whole root, and everything that is missing is made in it.
    """
    merged = root_of(scratch)
    os.makedirs(merged, mode=0o755, exist_ok=True)
    if not lowers and not work:
        return _mount_tree(upper, merged, targets, links)
    # Only a mounted root tells where links lead. They seldom are in the way: so it is mounted with
    # mount points at the paths as given, and once more where that was wrong.
    given = {target: target for target in targets if os.path.normpath(target) == target}
    stub = _bottom_layer(scratch, given, targets, links)
    _overlay(program, (*lowers, stub), merged, upper, work).execute()
    resolved = {target: resolve(merged, target) for target in targets}
    if resolved != given:
        syscalls.umount(merged)
        remove_tree(os.path.join(work, "work"))  # a volatile one is for one mount only
        stub = _bottom_layer(scratch, resolved, targets, links)
        _overlay(program, (*lowers, stub), merged, upper, work).execute()
    return resolved, _ensure_all(merged, targets, resolved)


def _overlay(
    program: str, lowers: tuple[str, ...], target: str, upper: str, work: str
) -> Overlay | FuseOverlay:
    if program:
        return FuseOverlay(lowers, target, upper, work, program)
    return Overlay(lowers, target, upper, work)


def _bottom_layer(
    scratch: str,
    places: dict[str, str],
    targets: dict[str, bool],
    links: tuple[tuple[str, str], ...],
) -> str:
    """A directory with an empty mount point at the place of each target, the same for all steps of a
    build that have the same ones: on a disk every file that is made has to be removed again.

    It is on the file system of the layers: of files on two, an overlay tells two device numbers,
    and then `find -xdev` takes all but directories for parts of other file systems (overlayfs.rst).
    """
    wanted = sorted((place, targets[target]) for target, place in places.items())
    name = hashlib.sha256(repr((wanted, links)).encode("utf-8", "surrogateescape")).hexdigest()
    shared = os.path.join(os.path.dirname(scratch), name)
    if os.path.isdir(shared):
        return shared
    stub = os.path.join(scratch, f"{name}.new")
    os.mkdir(stub, 0o755)
    made = {"/"}

    def directory(path: str) -> None:
        missing = []
        while path not in made:
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            os.mkdir(stub + path, 0o755)
            made.add(path)

    for target, place in places.items():
        with _naming(target):
            directory(place if targets[target] else os.path.dirname(place))
            if not targets[target]:
                _touch(stub + place)
    for path, text in links:
        directory(os.path.dirname(path))
        os.symlink(text, stub + path)
    try:
        os.rename(stub, shared)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another step was first
            raise
    return shared


def _mount_tree(
    tree: str, merged: str, targets: dict[str, bool], links: tuple[tuple[str, str], ...]
) -> tuple[dict[str, str], list[Made]]:
    Bind(tree, merged).execute()
    resolved = {target: resolve(merged, target) for target in targets}
    created = _ensure_all(merged, targets, resolved)
    for path, text in links:
        place = resolve(merged, os.path.dirname(path))
        created += _ensure(merged, place, True)
        link = os.path.join(place, os.path.basename(path))
        if not os.path.lexists(merged + link):
            created.append(_made(merged + link, functools.partial(os.symlink, text)))
    return resolved, created


def mount_points(
    files: Sequence[FileMount], directories: Sequence[DirectoryMount]
) -> dict[str, bool]:
    """Every mount point of a root, true for directories; those below /dev are in its own tmpfs."""
    system = {f"/{name}": True for name in NAMES}
    given = _targets(files, directories).items()
    return system | {target: kind for target, kind in given if not target.startswith(_DEV)}


def _targets(files: Sequence[FileMount], directories: Sequence[DirectoryMount]) -> dict[str, bool]:
    targets = {file.target: False for file in files}
    for directory in directories:
        targets[directory.target] = not directory.source or os.path.isdir(directory.source)
    return targets


def resolve(root: str, path: str) -> str:
    """`path` with every symlink inside `root` followed; components that do not exist stay."""
    pending = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            link = os.readlink(os.path.join(root, *done, part))
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > 40:
            raise SetupFailed(f"mount target {path}: too many levels of symbolic links")
        if link.startswith("/"):
            done = []
        pending = [step for step in link.split("/") if step] + pending
    return "/" + "/".join(done)


def _mount_within(
    root: str, place: str, is_directory: bool, show: Callable[[str], None], private: str
) -> None:
    """Mount at `place` what `show` mounts, at the new path `private` first: a cache that `place` is in
    is other steps' too, and they may turn any part of the path into a link to the host's files."""
    point = _mount_point(root, place, is_directory)
    try:
        os.mkdir(private) if is_directory else _touch(private)
        show(private)
        syscalls.mount(private, f"/proc/self/fd/{point}", None, syscalls.MS_MOVE)
    finally:
        os.close(point)


def _mount_point(root: str, place: str, is_directory: bool) -> int:
    """A descriptor of the mount point at `place`, which is made if it is not there; whatever its path
    has become by now, it is inside `root`."""
    top = open_root(root)
    try:
        if is_directory:
            return make_directories(top, place)
        try:
            return open_in_root(top, place, os.O_PATH)
        except FileNotFoundError:
            above, _, name = place.rpartition("/")
        directory = make_directories(top, above)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            return os.open(name, flags, 0o644, dir_fd=directory)
        finally:
            os.close(directory)
    finally:
        os.close(top)


def make_working_directory(root: str, path: str) -> None:
    """Make the directory `path` in `root` where it is missing, and those above it. Raises
    SetupFailed."""
    place = resolve(root, path)
    if os.path.isdir(root + place):
        return
    top = open_root(root)
    try:
        os.close(make_directories(top, place))
    except OSError as error:
        raise SetupFailed(f"working directory {path}: {error.strerror}") from error
    finally:
        os.close(top)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


@dataclass(frozen=True, slots=True)
class Made:
    """A mount point that had to be made in the root itself: `name` in `directory`, a descriptor,
    since a step may turn the directory's path into a link that leaves the root. The directory's
    times, in nanoseconds, before and (modification only) after."""

    directory: int
    name: str
    times: tuple[int, int]
    changed: int


def _ensure_all(
    merged: str, targets: Mapping[str, bool], resolved: Mapping[str, str]
) -> list[Made]:
    created: list[Made] = []
    for target, is_directory in targets.items():
        with _naming(target):
            created += _ensure(merged, resolved[target], is_directory)
    return created


def _ensure(merged: str, target: str, is_directory: bool) -> list[Made]:
    """Make a mount point that is missing or that a whiteout hides; what was made, deepest last."""
    missing: list[str] = []
    path = target
    while path != "/" and not os.path.lexists(merged + path):
        missing.append(path)
        path = os.path.dirname(path)

    def make(path: str) -> None:
        if path == target and not is_directory:
            _touch(path)
        else:
            os.mkdir(path, 0o755)

    target = merged + target
    return [_made(merged + path, make) for path in reversed(missing)]


def _made(path: str, make: Callable[[str], None]) -> Made:
    above, name = os.path.split(path)
    directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.fstat(directory)
    make(path)
    times = (before.st_atime_ns, before.st_mtime_ns)
    return Made(directory, name, times, os.fstat(directory).st_mtime_ns)


def remove_made(created: Sequence[Made], *, mounted: bool = False) -> None:
    """Remove mount points made in the root; directories that nothing else changed get their times
    back. Where they are still `mounted` on, that ends first, wherever they have been moved to."""
    for made in reversed(created):
        if mounted:
            _detach(made)
        before = os.fstat(made.directory)
        if _taken_away(made):
            untouched = before.st_mtime_ns == made.changed
            times = made.times if untouched else (before.st_atime_ns, before.st_mtime_ns)
            os.utime(made.directory, ns=times)
        os.close(made.directory)


def _detach(made: Made) -> None:
    os.fchdir(made.directory)
    while True:
        try:
            syscalls.umount(made.name, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError:
            return


def _taken_away(made: Made) -> bool:
    """Remove a mount point; whether it could be: a step may have put files there, and then it is a
    directory of the image now."""
    try:
        status = os.stat(made.name, dir_fd=made.directory, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(made.name, dir_fd=made.directory)
        else:
            os.unlink(made.name, dir_fd=made.directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
        return False
    return True


def write_file(path: str, file: FileMount) -> None:
    """Write `file` to the new file `path`, with its owner and mode."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(file.content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        ownership.give(descriptor, (file.uid, file.gid))
        os.fchmod(descriptor, file.mode)
    finally:
        os.close(descriptor)


def mount_file(file: FileMount, private: str, target: str) -> None:
    """Mount `file` at `target`; it is written to `private`, a path on a tmpfs."""
    write_file(private, file)
    Bind(private, target, read_only=file.mode & 0o222 == 0).execute()


def mount_directory(mount: DirectoryMount, private: str, program: str, target: str) -> None:
    """Mount `mount` at `target`; `private` is a path on a tmpfs for what is thrown away, by an
    overlay of `program` or else the kernel's."""
    if not mount.source:
        size = f",size={mount.size}" if mount.size else ""
        FileSystem("tmpfs", target, f"mode=1777{size}", MS_NOSUID | MS_NODEV).execute()
    elif mount.discard:
        upper, work = f"{private}/upper", f"{private}/work"
        for path in (upper, work):
            os.makedirs(path)
        if os.path.isdir(mount.source):
            _overlay(program, (mount.source,), target, upper, work).execute()
        else:  # over its directory: it keeps its attributes, and is copied when it is written to
            above, name = os.path.split(mount.source)
            merged = f"{private}/merged"
            os.mkdir(merged)
            _overlay(program, (above,), merged, upper, work).execute()
            Bind(f"{merged}/{name}", target).execute()
    else:
        Bind(mount.source, target, mount.read_only, mount.options).execute()
