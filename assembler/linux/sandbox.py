"""One RUN's sandbox: the first process of its pid namespace, which makes the root and waits.

Runs in a fork of the zygote, single-threaded; the order is rootless-runtime.md section 3. Every
mount is in this process' own mount namespace, so its death removes all of them.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import select
import signal
import socket
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from assembler.linux import ownership, seccomp, syscalls
from assembler.linux.credentials import Credentials
from assembler.linux.mounts import Bind, FileSystem, Overlay
from assembler.linux.owner_filter import Ownership, program
from assembler.linux.ownership import Owner
from assembler.linux.supervisor import Supervisor
from assembler.linux.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

CAPABILITIES = 0xA80425FB  # Docker's fourteen
ALL_CAPABILITIES = (1 << 41) - 1  # up to CAP_CHECKPOINT_RESTORE
_LAST_CAPABILITY = 63
_MAX_SIGNALS = 4096
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MASKED = (
    "proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats",
    "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware",
    "sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_ACCOUNTS = 16 << 20


@dataclass(frozen=True, slots=True)
class FileMount:
    """A file that exists only in memory."""

    target: str
    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class DirectoryMount:
    """A host path, or (with `source` empty) a tmpfs of `size` bytes."""

    target: str
    source: str = ""
    read_only: bool = False
    discard: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Everything one sandbox needs; it travels to the zygote by pickle."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    hostname: str
    private_network: bool
    lowers: tuple[str, ...]
    upper: str
    work: str
    scratch: str
    files: tuple[FileMount, ...]
    directories: tuple[DirectoryMount, ...]
    ownership: Ownership = Ownership.MAPPED
    insecure: bool = False
    """Every capability of the user namespace, no filter, nothing masked (rule N2)."""
    shared_memory: int = 64 << 20
    limits: tuple[tuple[str, int, int], ...] = ()
    """As setrlimit(2) has them: name in lower case without RLIMIT_, soft, hard; -1 is no limit."""
    chroot: str = ""
    """The tree to run in where no namespace can be made; empty in a sandbox."""

    def run(self, output: int) -> int:
        """Be the first process of a sandbox, its output going to the descriptor `output`.

        Returns the payload's status. Raises SetupFailed, OSError.
        """
        return _run(self, output)


class SetupFailed(Exception):
    """A step of the set-up failed; the text names it."""


def _run(job: Job, output: int) -> int:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    syscalls.unshare(flags | (syscalls.CLONE_NEWNET if job.private_network else 0))
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if job.private_network:
        _loopback_up()
    socket.sethostname(job.hostname)
    created = _make_root(job)
    root = os.path.join(job.scratch, "merged")
    upper = os.open(job.upper, _DIRECTORY)
    table = -1
    below: dict[str, Owner] = {}
    if ownership.has_table(job.upper):
        table = os.open(os.path.dirname(job.upper), _DIRECTORY)
        below = ownership.read_tables(job.lowers or (job.upper,))
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    try:
        return run_payload(job, output, Records(upper, table, below))
    finally:
        remove_made(created, root)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        import fcntl

        fcntl.ioctl(control, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))


def _make_root(job: Job) -> list[Made]:
    """Mount the overlay and everything in it at scratch/merged; returns what had to be created
    in the upper directory because a layer hides the stub below it."""
    scratch = job.scratch
    merged, memory = os.path.join(scratch, "merged"), os.path.join(scratch, "memory")
    os.makedirs(memory, mode=0o755, exist_ok=True)
    FileSystem("tmpfs", memory, "mode=700", MS_NOSUID | MS_NODEV).execute()
    resolved, created = mount_root(job.lowers, job.upper, job.work, scratch, _targets(job))
    _system_mounts(merged, job, resolved)
    for number, file in enumerate(job.files):
        source = os.path.join(memory, str(number))
        write_file(source, file)
        Bind(source, merged + resolved[file.target], read_only=file.mode & 0o222 == 0).execute()
    for number, directory in enumerate(job.directories):
        mount_directory(directory, merged + resolved[directory.target], f"{memory}/d{number}")
    return created


def mount_root(
    lowers: tuple[str, ...],
    upper: str,
    work: str,
    scratch: str,
    targets: dict[str, bool],
    links: tuple[tuple[str, str], ...] = (),
) -> tuple[dict[str, str], list[Made]]:
    """Mount the overlay at scratch/merged with a mount point for each of `targets` (true for a
    directory) that leaves no trace: a bottom layer holds empty ones, and `links` (path, text).

    Returns where each target is inside the root, links followed, and what had to be made in the
    upper directory after all, because a layer hides the bottom one there. Without `lowers` the
    directory `upper` is the whole root, and everything that is missing is made in it.
    """
    if not lowers and not work:
        return _mount_tree(upper, os.path.join(scratch, "merged"), targets, links)
    for name in ("merged", "stub", "void"):
        os.makedirs(os.path.join(scratch, name), mode=0o755, exist_ok=True)
    merged, stub = os.path.join(scratch, "merged"), os.path.join(scratch, "stub")
    Overlay((*lowers, stub, os.path.join(scratch, "void")), merged).execute()
    resolved = {target: resolve(merged, target) for target in targets}
    syscalls.umount(merged)
    for target, is_directory in targets.items():
        _make_stub(stub, resolved[target], is_directory)
    for path, text in links:
        os.makedirs(os.path.dirname(stub + path), mode=0o755, exist_ok=True)
        os.symlink(text, stub + path)
    Overlay((*lowers, stub), merged, upper, work).execute()
    created: list[Made] = []
    for target, is_directory in targets.items():
        created += _ensure(merged, resolved[target], is_directory)
    return resolved, created


def _mount_tree(
    tree: str, merged: str, targets: dict[str, bool], links: tuple[tuple[str, str], ...]
) -> tuple[dict[str, str], list[Made]]:
    os.makedirs(merged, exist_ok=True)
    Bind(tree, merged).execute()
    resolved = {target: resolve(merged, target) for target in targets}
    created: list[Made] = []
    for target, is_directory in targets.items():
        created += _ensure(merged, resolved[target], is_directory)
    for path, text in links:
        place = resolve(merged, os.path.dirname(path))
        created += _ensure(merged, place, True)
        link = os.path.join(place, os.path.basename(path))
        if not os.path.lexists(merged + link):
            created.append(_made(merged + link, functools.partial(os.symlink, text)))
    return resolved, created


def _targets(job: Job) -> dict[str, bool]:
    """Every mount point, true for directories."""
    targets = {"/proc": True, "/sys": True, "/dev": True}
    targets |= {file.target: False for file in job.files if not file.target.startswith("/dev/")}
    for directory in job.directories:
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


def _make_stub(stub: str, target: str, is_directory: bool) -> None:
    path = stub + target
    parent = path if is_directory else os.path.dirname(path)
    os.makedirs(parent, mode=0o755, exist_ok=True)
    if not is_directory and not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


@dataclass(frozen=True, slots=True)
class Made:
    """A mount point that had to be made in the root itself. The parent's times, in nanoseconds,
    before and (modification only) after."""

    path: str
    times: tuple[int, int]
    changed: int


def _ensure(merged: str, target: str, is_directory: bool) -> list[Made]:
    """Make a mount point that is missing or that a whiteout hides; what was made, deepest last."""
    missing: list[str] = []
    path = target
    while path != "/" and not os.path.lexists(merged + path):
        missing.append(path)
        path = os.path.dirname(path)

    def make(path: str) -> None:
        if path == target and not is_directory:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        else:
            os.mkdir(path, 0o755)

    target = merged + target
    return [_made(merged + path, make) for path in reversed(missing)]


def _made(path: str, make: Callable[[str], None]) -> Made:
    parent = os.path.dirname(path)
    before = os.stat(parent)
    make(path)
    return Made(path, (before.st_atime_ns, before.st_mtime_ns), os.stat(parent).st_mtime_ns)


def remove_made(created: Sequence[Made], root: str = "") -> None:
    """Remove mount points made in the root, whose path on the host `root` is taken off where the
    root is now `/`; parents that nothing else changed get their times back."""
    for made in reversed(created):
        path = made.path.removeprefix(root)
        parent = os.path.dirname(path)
        before = os.stat(parent)
        while True:
            try:
                syscalls.umount(path, syscalls.MNT_DETACH)
            except OSError:
                break
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
            continue  # the step put files there: it is a directory of the image now
        untouched = before.st_mtime_ns == made.changed
        os.utime(parent, ns=made.times if untouched else (before.st_atime_ns, before.st_mtime_ns))


def _system_mounts(merged: str, job: Job, resolved: dict[str, str]) -> None:
    proc, sys = merged + resolved["/proc"], merged + resolved["/sys"]
    try:
        FileSystem("proc", proc).execute()
    except OSError as error:
        if error.errno != errno.EPERM:  # nested in a container whose own /proc is masked
            raise
        Bind("/proc", proc).execute()
    _device_mounts(merged + resolved["/dev"], job)
    if job.private_network:
        FileSystem("sysfs", sys, "", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY).execute()
    else:
        Bind("/sys", sys, read_only=not job.insecure).execute()
    if job.insecure:
        return
    for name in MASKED:
        _mask(os.path.join(merged, name))
    for name in READ_ONLY:
        path = os.path.join(merged, name)
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


def _device_mounts(dev: str, job: Job) -> None:
    FileSystem("tmpfs", dev, "mode=755,size=64m", MS_NOSUID).execute()
    for name in _DEVICES:
        path = os.path.join(dev, name)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        Bind(f"/dev/{name}", path).execute()
    links = (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx"), ("core", "/proc/kcore"))
    streams = (("stdin", 0), ("stdout", 1), ("stderr", 2))
    for name, target in (*links, *((s, f"/proc/self/fd/{n}") for s, n in streams)):
        os.symlink(target, os.path.join(dev, name))
    for name in ("pts", "shm", "mqueue", "pipes"):
        os.mkdir(os.path.join(dev, name), 0o755)
    pts = "newinstance,ptmxmode=0666,mode=0620" + (
        ",gid=5" if job.ownership is Ownership.MAPPED else ""
    )
    FileSystem("devpts", f"{dev}/pts", pts, MS_NOSUID | MS_NOEXEC).execute()
    FileSystem("tmpfs", f"{dev}/shm", f"mode=1777,size={job.shared_memory}").execute()
    FileSystem("mqueue", f"{dev}/mqueue").execute()
    for file in job.files:
        if file.target.startswith("/dev/"):
            path = os.path.join(dev, os.path.relpath(file.target, "/dev"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def write_file(path: str, file: FileMount) -> None:
    """Write `file` to the new file `path`, with its owner and mode."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.content)
        ownership.give(descriptor, (file.uid, file.gid))
        os.fchmod(descriptor, file.mode)


def mount_directory(mount: DirectoryMount, target: str, private: str) -> None:
    """Mount `mount` at `target`; `private` is a path on a tmpfs for what is thrown away."""
    if not mount.source:
        size = f",size={mount.size}" if mount.size else ""
        FileSystem("tmpfs", target, f"mode=1777{size}", MS_NOSUID | MS_NODEV).execute()
    elif mount.discard and os.path.isdir(mount.source):
        for name in ("upper", "work"):
            os.makedirs(os.path.join(private, name))
        Overlay((mount.source,), target, f"{private}/upper", f"{private}/work").execute()
    elif mount.discard:
        with open(mount.source, "rb") as source, open(private, "xb") as copy:
            while chunk := source.read(1 << 20):
                copy.write(chunk)
        Bind(private, target).execute()
    else:
        Bind(mount.source, target, read_only=mount.read_only).execute()


@dataclass(frozen=True, slots=True)
class Records:
    """Descriptors of the upper directory and of where its table goes (-1 for none), and what the
    tables of lower layers say."""

    upper: int = -1
    table: int = -1
    below: Mapping[str, Owner] = field(default_factory=dict)


def run_payload(job: Job, output: int, records: Records) -> int:
    """Fork the job's process, reap until it ends; its status. Raises SetupFailed, OSError."""
    root = job.chroot or "/"
    uid, gid, groups, home = account(job.user, root)
    if job.chroot:
        os.makedirs(job.chroot + resolve(job.chroot, job.cwd), mode=0o755, exist_ok=True)
    else:
        os.makedirs(job.cwd, mode=0o755, exist_ok=True)
    env = dict(job.env)
    env.setdefault("HOME", home)
    problem_reader, problem_writer = os.pipe()
    ours, theirs = socket.socketpair()
    payload = os.fork()
    if payload == 0:
        os.close(problem_reader)
        ours.close()
        _become(job, output, problem_writer, (uid, gid, groups), env, theirs)
    os.close(problem_writer)
    theirs.close()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2, output):  # else the log pipe never ends
        os.dup2(null, descriptor)
    signal.signal(signal.SIGTERM, lambda *_: _terminate(payload))
    _, listeners, _, _ = socket.recv_fds(ours, 1, 1)
    if listeners:
        initial = Credentials.of(uid, gid, tuple(groups))
        supervisor = Supervisor(
            listeners[0],
            initial,
            records.upper,
            records.below,
            kept=job.ownership,
            apart=job.insecure,
        )
        status = _supervise(supervisor, payload)
        if records.table >= 0:
            _write_table(records.table, supervisor)
    else:
        status = _wait(payload)
    problem = b""
    while part := os.read(problem_reader, 4096):
        problem += part
    if problem:
        raise SetupFailed(problem.decode("utf-8", "replace"))
    return status


def _supervise(supervisor: Supervisor, payload: int) -> int:
    """Answer calls and reap everything until `payload` ends; its status as shells count it."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    poller.register(supervisor, select.POLLIN)
    while True:
        status = _reap(payload)
        if status is not None:
            return status
        ended = False
        while not ended:
            for descriptor, event in poller.poll():
                if descriptor == reader:
                    os.read(reader, _MAX_SIGNALS)
                    ended = True
                elif event & select.POLLIN:
                    supervisor.answer()
                else:  # nobody is left that could ask
                    poller.unregister(descriptor)


def _write_table(directory: int, supervisor: Supervisor) -> None:
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(ownership.TABLE, flags, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(ownership.rows(supervisor.owners()))


def _terminate(payload: int) -> None:
    try:
        os.killpg(payload, signal.SIGTERM)
    except ProcessLookupError:
        os.kill(payload, signal.SIGTERM)


def _wait(payload: int) -> int:
    """Reap everything until `payload` ends; its status as shells count it."""
    while True:
        pid, status = os.wait()
        if pid == payload:
            return _counted(status)


def _reap(payload: int) -> int | None:
    """Reap what has ended by now; the status of `payload` when it is among it."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == payload:
            return _counted(status)
        if pid == 0:
            return None


def _counted(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _become(
    job: Job,
    output: int,
    problem: int,
    ids: tuple[int, int, list[int]],
    env: dict[str, str],
    supervisor: socket.socket,
) -> None:
    """Turn this fork into the payload; never returns."""
    told = problem
    try:
        os.setsid()
        os.umask(0o022)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    continue  # numbers that the C library keeps for itself
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _limit(job.limits)
        if job.chroot:
            os.chroot(job.chroot)
        _restrict(*ids, job, supervisor)
        told = os.dup2(problem, 3, inheritable=False)
        syscalls.close_range(4)
        os.chdir(job.cwd)
        message = _execute(job.argv, env)
        os.write(2, message.encode("utf-8", "surrogateescape") + b"\n")
        os._exit(127 if "not found" in message else 126)
    except BaseException as error:  # the parent raises it
        os.write(told, f"{error}".encode("utf-8", "replace"))
    finally:
        os._exit(125)


def _limit(limits: tuple[tuple[str, int, int], ...]) -> None:
    for name, soft, hard in limits:
        if name == "locks":
            continue  # without effect since Linux 2.4.25, getrlimit(2); the supervisor uses it
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
        except (OSError, ValueError) as error:
            raise SetupFailed(
                f"ulimit {name}={soft}:{hard} cannot be set: {error}; this user's hard limit is"
                f" {resource.getrlimit(getattr(resource, f'RLIMIT_{name.upper()}'))[1]}"
            ) from error


def _restrict(uid: int, gid: int, groups: list[int], job: Job, supervisor: socket.socket) -> None:
    """seccomp first (it needs CAP_SYS_ADMIN, so that setuid programs keep working), then
    capabilities, then ids: capabilities(7)."""
    kept = ALL_CAPABILITIES if job.insecure else CAPABILITIES
    if not job.insecure:
        try:
            syscalls.seccomp_filter(seccomp.profile(syscalls.machine()))
        except OSError as error:
            if not job.chroot or error.errno != errno.EACCES:
                raise  # in a container without CAP_SYS_ADMIN its own filter holds
    if not job.chroot and (not job.insecure or job.ownership is not Ownership.MAPPED):
        _supervised(job.ownership, supervisor)
    supervisor.close()
    for capability in range(_LAST_CAPABILITY + 1):
        if not kept >> capability & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break  # the kernel's last capability is behind us
    if job.ownership is Ownership.MAPPED:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid == 0 or job.ownership is not Ownership.MAPPED:
        syscalls.capset(kept, kept, 0)


def _supervised(kept: Ownership, supervisor: socket.socket) -> None:
    """Put this process under the filter for owners; the listener, if any, goes to `supervisor`."""
    code = program(syscalls.machine(), kept)
    if kept is Ownership.IGNORED:
        syscalls.seccomp_filter(code)
    else:
        try:
            listener = syscalls.seccomp_listener(code)
        except OSError:
            if kept is Ownership.SUPERVISED:
                raise
            listener = -1  # only device nodes go without
        if listener >= 0:
            socket.send_fds(supervisor, [b"l"], [listener])
            os.close(listener)


def _execute(argv: tuple[str, ...], env: dict[str, str]) -> str:
    """Replace the process; only returns, with the reason, when nothing could be executed."""
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        directories = env.get(
            "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        candidates = [os.path.join(part or ".", name) for part in directories.split(":")]
    failure: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    if failure is not None:
        return f'exec: "{name}": {(failure.strerror or "").lower()}'
    if "/" in name:
        return f'exec: "{name}": stat {name}: no such file or directory (not found)'
    return f'exec: "{name}": executable file not found in $PATH'


def account(user: str, root: str = "/") -> tuple[int, int, list[int], str]:
    """(uid, gid, supplementary groups, home) of `name|uid[:group|gid]` in the files of `root`.

    Raises SetupFailed for a name that they do not have.
    """
    name, _, group = user.partition(":")
    name = name or "0"
    accounts, groups = _rows(root, "etc/passwd", 7), _rows(root, "etc/group", 4)
    found = None
    for row in accounts:
        if row[0] == name or (name.isdigit() and row[2] == name):
            found = row
            break
    if found is None and not name.isdigit():
        raise SetupFailed(f"unable to find user {name}: no matching entries in passwd file")
    uid = int(found[2]) if found else int(name)
    gid = int(found[3]) if found else 0
    home = (found[5] if found else "") or "/"
    if group:
        return uid, _group(group, groups), [], home
    known = found[0] if found else name
    more = [int(row[2]) for row in groups if known in row[3].split(",")]
    return uid, gid, sorted({gid, *more}), home


def _group(group: str, groups: list[list[str]]) -> int:
    for row in groups:
        if row[0] == group:
            return int(row[2])
    if group.isdigit():
        return int(group)
    raise SetupFailed(f"unable to find group {group}: no matching entries in group file")


def _rows(root: str, path: str, columns: int) -> list[list[str]]:
    """The well-formed rows of an account file; never blocks, never reads a device, and follows
    links inside `root` only."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK
        confined = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        descriptor = syscalls.openat2(top, path, flags, resolve=confined)
    except OSError:
        return []
    finally:
        os.close(top)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = stream.read(_MAX_ACCOUNTS).decode("utf-8", "surrogateescape")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= columns and row[2].isdigit()]
