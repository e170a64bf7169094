"""Owners where one id is mapped (rootless-runtime.md 5 a2): what processes do and are told.

Tests are scripts: each enters a user namespace of one id in a child process, and runs a
payload in Python under the supervisor, in a directory of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PRELUDE = r"""
import ctypes, errno, mmap, os, resource, select, shutil, signal, socket, stat, subprocess, sys, threading, time, traceback
os.environ["PATH"] = "/none"
from assembler.linux import ownership, supervision, syscalls, userns
from assembler.linux.payload import supervise
from assembler.linux.credentials import Credentials
from assembler.linux.mounts import FileSystem
from assembler.linux.owner_filter import Ownership, program
from assembler.linux.supervisor import Supervisor

id_map = userns.enter()
assert id_map.single
os.chdir(sys.argv[1])
os.umask(0o022)
libc = ctypes.CDLL(None, use_errno=True)

def supervised(payload, user=(0, 0, ()), kept=Ownership.SUPERVISED, late=False, container=False):
    '''Run `payload` in a pid namespace, under the filter; returns the table. Where the supervisor is
    `late`, it looks when `payload`, which is given the listener, is over.'''
    reader, writer = os.pipe()
    shim = os.fork()
    if shim == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
            first = os.fork()
            if first == 0:
                FileSystem("proc", "/proc").execute()
                os._exit(serve(payload, user, kept, late, container, writer))
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    os.close(writer)
    assert os.waitpid(shim, 0)[1] == 0, "the payload failed"
    return os.fdopen(reader, "rb").read()

def serve(payload, user, kept, late, container, writer):
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(10, (0, resource.getrlimit(10)[1]))
            listener = syscalls.seccomp_listener(program(syscalls.machine(), kept))
            socket.send_fds(theirs, [b"l"], [listener])
            payload(listener) if late else payload()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    listener = socket.recv_fds(ours, 1, 1)[1][0]
    if late: os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    answering = Supervisor(
        listener, Credentials.of(user[0], user[1], user[2]), kept=kept, container=container)
    status = supervise(answering, child)
    os.write(writer, ownership.rows(answering.owners()))
    return status

def refuses(code, call, *arguments, **more):
    try: call(*arguments, **more)
    except OSError as error: assert error.errno == code, error
    else: raise AssertionError(f"{call.__name__}{arguments} was allowed")

def owner(path, **more):
    status = os.stat(path, **more)
    return status.st_uid, status.st_gid

def become(uid, gid=None, groups=()):
    gid = uid if gid is None else gid
    os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)

def forked(body):
    child = os.fork()
    if child == 0:
        try:
            body()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0

def touch(path, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))

exec(sys.stdin.read())
"""

Supervised = Callable[[str], None]


@pytest.fixture
def supervised(tmp_path: Path) -> Supervised:
    """Runs a script that defines payloads and calls `supervised`; fails unless it ends well."""
    work = tmp_path / "work"
    work.mkdir()

    def execute(script: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE, str(work)],
            input=script,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr

    return execute


def test_A2_every_call_that_changes_an_owner(supervised: Supervised) -> None:
    supervised(
        """
os.makedirs("d/e")
def payload():
    touch("d/f"); os.symlink("f", "d/l")
    os.chown("d/f", 5, 6)
    assert owner("d/f") == (5, 6) and owner("d/l") == (5, 6)
    os.chown("d/f", -1, 7)
    assert owner("d/f") == (5, 7)
    here = os.open("d", os.O_RDONLY)
    os.chown("f", 8, -1, dir_fd=here)
    assert owner("f", dir_fd=here) == (8, 7)
    os.lchown("d/l", 1, 1)
    assert owner("d/f") == (8, 7), "the link, not what it leads to"
    descriptor = os.open("d/f", os.O_RDONLY)
    os.fchown(descriptor, 9, 9)
    status = os.fstat(descriptor)
    assert (status.st_uid, status.st_gid) == (9, 9)
    handle = os.open("d/f", os.O_PATH)
    assert libc.fchownat(handle, b"", 3, 4, 0x1000) == 0, "AT_EMPTY_PATH"
    assert owner("d/f") == (3, 4)
    os.chown("d/f", 0, 0)
    assert owner("d/f") == (0, 0) and "user.assemble.owner" not in os.listxattr("d/f")
    os.chdir("d/e"); os.chown("../f", 2, 2); os.chdir("../..")
    assert owner(os.path.abspath("d/f")) == (2, 2)
    os.rename("d/f", "d/g")
    assert owner("d/g") == (2, 2), "a record follows a rename"
    assert owner("d") == (0, 0)
supervised(payload)
assert ownership.recorded("d/g") == (2, 2)
"""
    )


def test_A2_errors_are_the_kernels(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    touch("f")
    refuses(errno.ENOENT, os.chown, "nothing", 1, 1)
    refuses(errno.ENOENT, os.chown, "nothing", 0, 0)
    refuses(errno.ENOENT, os.chown, "", 1, 1)
    refuses(errno.ENOTDIR, os.chown, "f/x", 1, 1)
    refuses(errno.EBADF, os.fchown, 77, 1, 1)
    refuses(errno.EBADF, os.chown, "x", 1, 1, dir_fd=77)
    refuses(errno.ENAMETOOLONG, os.chown, "x/" * 3000, 1, 1)
    os.symlink("loop", "loop")
    refuses(errno.ELOOP, os.chown, "loop", 1, 1)
    assert libc.chown(ctypes.c_void_p(8), 1, 1) == -1 and ctypes.get_errno() == errno.EFAULT
    assert libc.chown(ctypes.c_void_p(2**64 - 8), 1, 1) == -1 and ctypes.get_errno() == errno.EFAULT
    refuses(errno.ENOENT, os.mkdir, "no/x")
    refuses(errno.EEXIST, os.mkdir, "f")
supervised(payload)
"""
    )


def test_A2_a_path_may_end_where_memory_ends(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    touch("f" * 100); touch("g" * 100)
    libc.mmap.restype = ctypes.c_void_p
    area = libc.mmap(None, ctypes.c_size_t(3 * 4096), 3, 0x22, -1, ctypes.c_long(0))
    assert libc.munmap(ctypes.c_void_p(area + 2 * 4096), ctypes.c_size_t(4096)) == 0
    for name, end in ((b"f" * 100, area + 2 * 4096), (b"g" * 100, area + 4096 + 50)):
        start = end - len(name) - 1
        ctypes.memmove(start, name + b"\\0", len(name) + 1)
        assert libc.chown(ctypes.c_void_p(start), 5, 6) == 0
        assert owner(name) == (5, 6)
supervised(payload)
"""
    )


def test_A2_a_caller_that_dies_meanwhile_is_ignored(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    for _ in range(20):
        child = os.fork()
        if child == 0:
            while True: os.chown("f", 5, 6)
        time.sleep(0.005)
        os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    os.chown("f", 7, 7)
    assert owner("f") == (7, 7)
touch("f")
supervised(payload)

def waits(listener):
    child = os.fork()
    if child == 0:
        try: os.chown("f", 1, 1)
        finally: os._exit(1)
    asked = select.poll()
    asked.register(listener, select.POLLIN)
    asked.poll()
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
supervised(waits, late=True)
assert ownership.recorded("f") == (7, 7), "nobody answered"
"""
    )


def test_A2_what_chown_takes_away_is_taken_away(supervised: Supervised) -> None:
    supervised(
        """
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
def payload():
    touch("f"); os.chmod("f", 0o6755)
    os.setxattr("f", "security.capability", CAPABILITY)
    assert os.getxattr("f", "security.capability") == CAPABILITY, "version 2, as a layer carries it"
    os.chown("f", 5, 6)
    assert stat.S_IMODE(os.stat("f").st_mode) == 0o755
    assert "security.capability" not in os.listxattr("f")
    os.mkdir("d"); os.chmod("d", 0o2775); os.chown("d", 5, 6)
    assert stat.S_IMODE(os.stat("d").st_mode) == 0o2775, "of directories nothing is taken"
supervised(payload)
"""
    )


def test_ids_are_who_one_became(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    assert os.getgroups() == [4]
    os.setgroups([1, 2, 3]); os.setegid(5); os.seteuid(6)
    assert (os.getresuid(), os.getresgid()) == ((0, 6, 0), (0, 5, 0))
    assert os.getgroups() == [1, 2, 3]
    refuses(errno.EPERM, os.setgroups, [])
    refuses(errno.EPERM, os.setuid, 9)
    os.seteuid(0); os.setegid(0)
    become(7, 8, [9])
    assert (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) == (7, 7, 8, 8)
    refuses(errno.EPERM, os.setuid, 0)
    assert libc.getgroups(0, None) == 1
    assert libc.setfsuid(0) == 7 and libc.setfsuid(7) == 7, "the id before is returned, no error"
supervised(payload, user=(0, 0, (4,)))
def user():
    assert (os.getuid(), os.getgid(), os.getgroups()) == (1000, 1001, [50])
    touch("mine")
    assert owner("mine") == (1000, 1001)
os.chmod(".", 0o777)
supervised(user, user=(1000, 1001, (50,)))
"""
    )


def test_a_step_cannot_have_us_remember_without_end(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    groups = list(range(65535))
    for number in range(12): os.setgroups([number, *groups])
    refuses(errno.ENOMEM, lambda: [os.setgroups([n, *groups]) for n in range(100, 112)])
    os.setgroups([3, *groups])
    assert os.getgroups()[0] == 3
supervised(payload)
"""
    )


def test_ids_are_inherited_kept_by_programs_and_outlive_parents(supervised: Supervised) -> None:
    supervised(
        """
os.chmod(".", 0o777)
def payload():
    def app():
        become(7, 8)
        assert subprocess.run(["/bin/sh", "-c", "/usr/bin/id -u; exec /usr/bin/id -g"],
            capture_output=True, text=True, check=True).stdout == "7\\n8\\n"
        if os.fork() == 0:
            if os.fork() == 0:
                while os.getppid() != 1: time.sleep(0.01)
                assert os.getuid() == 7
                touch("orphan")
            os._exit(0)
        os.wait()
        touch("thread")
        worker = threading.Thread(target=touch, args=("worker",)); worker.start(); worker.join()
    forked(app)
    while not os.path.exists("orphan"): time.sleep(0.01)
    assert os.getuid() == 0
    assert owner("orphan") == owner("thread") == owner("worker") == (7, 8)
supervised(payload)
"""
    )


def test_the_limit_that_holds_ids_is_nobodys_to_change(supervised: Supervised) -> None:
    supervised(
        """
import resource
os.chmod(".", 0o777)
def payload():
    become(7)
    resource.setrlimit(10, (0, 0))
    resource.prlimit(0, 10, (3, 3))
    assert os.getuid() == 7
supervised(payload)
"""
    )


def test_a_set_id_program_gives_its_owners_ids(supervised: Supervised) -> None:
    supervised(
        """
import shutil
os.chmod(".", 0o777)
def payload():
    shutil.copy("/usr/bin/id", "as-app"); os.chown("as-app", 7, 8); os.chmod("as-app", 0o6755)
    shutil.copy("/usr/bin/id", "as-root"); os.chmod("as-root", 0o4755)
    with open("script", "w") as stream: stream.write("#!/bin/sh\\n/usr/bin/id -u\\n")
    os.chown("script", 7, 8); os.chmod("script", 0o6755)
    def said(*argv):
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert said("./as-app", "-u") == ["7"] and said("./as-app", "-ru") == ["0"]
    assert said("./as-app", "-g") == ["8"]
    assert said("./script") == ["0"], "a script's bits count for nothing"
    def app():
        become(1000)
        assert said("./as-root", "-u") == ["0"] and said("/usr/bin/id", "-u") == ["1000"]
    forked(app)
supervised(payload)
"""
    )


def test_what_one_creates_is_ones_own(supervised: Supervised) -> None:
    supervised(
        """
os.chmod(".", 0o777)
def payload():
    os.umask(0o027)
    become(7, 8)
    touch("plain", 0o666)
    assert owner("plain") == (7, 8) and stat.S_IMODE(os.stat("plain").st_mode) == 0o640
    with open("written", "w") as stream: stream.write("x")
    with open("written", "a") as stream: stream.write("y")
    assert open("written").read() == "xy" and owner("written") == (7, 8)
    descriptor = os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    assert not os.get_inheritable(descriptor) and os.write(descriptor, b"z") == 1
    assert owner("new") == (7, 8)
    refuses(errno.EEXIST, os.open, "new", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.mkdir("d", 0o777); os.mkdir("d/e")
    assert owner("d") == owner("d/e") == (7, 8) and stat.S_IMODE(os.stat("d").st_mode) == 0o750
    os.symlink("plain", "l"); os.mkfifo("p", 0o666)
    assert owner("l", follow_symlinks=False) == owner("p") == (7, 8)
    assert stat.S_IMODE(os.stat("p").st_mode) == 0o640
    os.symlink("beyond", "dangling"); touch("dangling")
    assert owner("beyond") == (7, 8)
    temporary = os.open("d", os.O_TMPFILE | os.O_WRONLY, 0o600)
    assert libc.linkat(-100, b"/proc/self/fd/%d" % temporary, -100, b"linked", 0x400) == 0
    assert owner("linked") == (7, 8)
    handle = os.open("d", os.O_RDONLY)
    os.mkdir("f", dir_fd=handle); os.close(os.open("g", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    assert owner("d/f") == owner("d/g") == (7, 8)
    os.chmod("plain", 0o444)
    with open("/dev/null", "w") as stream: stream.write("x")
supervised(payload)
"""
    )


def test_A2_what_a_register_holds_beyond_its_argument_means_nothing(
    supervised: Supervised,
) -> None:
    """int and mode_t are the low halves; openat2(2) alone takes notice of the high one."""
    supervised(
        """
os.chmod(".", 0o777)
wide = lambda number: ctypes.c_ulong(number | 1 << 40)
create = os.O_CREAT | os.O_EXCL | os.O_WRONLY
def call(name, *arguments):
    if libc.syscall(numbers[name], *arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def payload():
    become(7)
    call("openat", -100, b"a", wide(create | 1 << 31), wide(0o640))
    call("mknodat", -100, b"b", wide(stat.S_IFREG | 0o640), wide(0))
    call("mknodat", -100, b"c", wide(stat.S_IFIFO | 0o640), wide(0))
    for name in "abc": assert os.stat(name).st_mode & 0o777 == 0o640 and owner(name) == (7, 7), name
    for flags, mode in ((create | 1 << 40, 0o640), (create, 1 << 20)):
        how = struct.pack("QQQ", flags, mode, 0)
        refuses(errno.EINVAL, call, "openat2", -100, b"d", how, len(how))
    refuses(errno.EPERM, call, "mknodat", -100, b"d", wide(stat.S_IFCHR | 0o640), wide(259))
from assembler.linux import allowed_calls
import struct
names = ("openat", "mknodat", "openat2")
numbers = {name: allowed_calls.number(name, syscalls.machine()) for name in names}
supervised(payload)
"""
    )


def test_one_creates_only_where_one_may(supervised: Supervised) -> None:
    supervised(
        """
os.chmod(".", 0o755); touch("there"); os.mkdir("open"); os.chmod("open", 0o777)
def payload():
    become(7)
    refuses(errno.EACCES, touch, "x"); refuses(errno.EACCES, os.mkdir, "x")
    refuses(errno.EACCES, os.symlink, "x", "x"); refuses(errno.EACCES, os.mkfifo, "x")
    refuses(errno.EEXIST, os.mkdir, "there")
    refuses(errno.EEXIST, os.open, "there", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    touch("open/x")
    refuses(errno.EPERM, os.chown, "open/x", 1, -1); refuses(errno.EPERM, os.chown, "there", 7, 7)
    refuses(errno.EPERM, os.mknod, "open/n", stat.S_IFCHR | 0o600, os.makedev(1, 3))
supervised(payload)
"""
    )


def test_a_set_group_id_directory_passes_its_group_on(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    os.mkdir("d"); os.chown("d", 0, 50); os.chmod("d", 0o2775)
    touch("d/f"); os.mkdir("d/e"); touch("d/e/g"); os.symlink("f", "d/l")
    assert owner("d/f") == owner("d/e") == owner("d/e/g") == (0, 50)
    assert owner("d/l", follow_symlinks=False) == (0, 50)
    assert os.stat("d/e").st_mode & stat.S_ISGID
    os.chown("d/f", 0, 0)
    assert owner("d/f") == (0, 0)
    os.rename("d/f", "f")
    assert owner("f") == (0, 0)
supervised(payload)
"""
    )


def test_device_nodes_are_made_and_told(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    os.umask(0o022)
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("disk", stat.S_IFBLK | 0o660, os.makedev(259, 65537))
    os.chown("disk", 0, 6)
    status = os.stat("null")
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(status.st_mode) == 0o644
    status = os.lstat("disk")
    assert stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(259, 65537)
    assert (status.st_uid, status.st_gid) == (0, 6)
    os.chown("disk", 0, 0)
    assert stat.S_ISBLK(os.lstat("disk").st_mode), "still a device when it is root's again"
    refuses(errno.EEXIST, os.mknod, "null", stat.S_IFCHR, os.makedev(1, 3))
    refuses(errno.EPERM, os.mknod, "whiteout", stat.S_IFCHR, 0)
    assert subprocess.run(["/usr/bin/stat", "-c", "%F", "null"], capture_output=True,
        text=True).stdout == "character special file\\n", "statx too"
    os.unlink("null"); os.mknod("null", stat.S_IFREG | 0o600)
    assert stat.S_ISREG(os.stat("null").st_mode)
supervised(payload)
assert ownership.decode_node(os.getxattr("disk", ownership.NODE)) == (True, (259, 65537))
def mapped():
    os.mknod("only", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    refuses(errno.EINVAL, os.chown, "only", 5, 5)
supervised(mapped, kept=Ownership.MAPPED)
assert ownership.decode_node(os.getxattr("only", ownership.NODE)) == (False, (1, 3))
"""
    )


def test_A2_a_chrooted_caller_means_its_own_root(supervised: Supervised) -> None:
    supervised(
        """
os.makedirs("jail/d"); touch("jail/d/f"); touch("f"); os.symlink("/d/f", "jail/l")
def payload():
    def inside():
        os.chroot("jail"); os.chdir("/d")
        os.chown("/d/f", 5, 6)
        assert owner("/d/f") == owner("f") == owner("/l") == (5, 6)
        os.chown("/l", 7, 8)
        assert owner("../../../d/f") == (7, 8), "no way up"
        refuses(errno.ENOENT, os.chown, "/jail", 1, 1)
        become(9)
    forked(inside)
    assert owner("jail/d/f") == (7, 8) and owner("f") == (0, 0)
supervised(payload)
"""
    )


def test_A2_proc_self_is_the_caller(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    touch("f")
    descriptor = os.open("f", os.O_RDONLY)
    os.chown(f"/proc/self/fd/{descriptor}", 5, 6); assert owner("f") == (5, 6)
    os.chown(f"/dev/fd/{descriptor}", 7, 8); assert owner(f"/proc/self/fd/{descriptor}") == (7, 8)
    os.chown("/dev/stdout", 7, 8)
    refuses(errno.EPERM, os.chown, "/proc/version", 5, 5)
supervised(payload)
"""
    )


def test_a_caller_cannot_have_us_open_what_is_ours(supervised: Supervised) -> None:
    supervised(
        """
os.chmod(".", 0o777)
def payload():
    become(7)
    for number in range(3, 12):
        os.symlink(f"/proc/self/fd/{number}", f"l{number}")
        for flags in (os.O_PATH | os.O_EXCL, os.O_PATH, os.O_WRONLY, os.O_EXCL | os.O_WRONLY):
            try: opened = os.open(f"l{number}", os.O_CREAT | flags)
            except OSError: continue
            assert os.readlink(f"/proc/self/fd/{opened}") == os.readlink(f"/proc/self/fd/{number}")
            os.close(opened)
    assert owner(".") == (0, 0)
supervised(payload)
"""
    )


def test_a_signal_does_not_have_a_call_made_twice(supervised: Supervised) -> None:
    supervised(
        """
os.chmod(".", 0o777)
def payload():
    become(7)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    for number in range(2000):
        os.mkdir(f"d{number}")
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    signal.setitimer(signal.ITIMER_REAL, 0)
supervised(payload)
"""
    )


def test_many_callers_at_once(supervised: Supervised) -> None:
    supervised(
        """
def payload():
    children = []
    for number in range(1, 9):
        child = os.fork()
        if child == 0:
            try:
                for turn in range(200):
                    name = f"{number}-{turn % 5}"
                    touch(name); os.chown(name, number, turn)
                    assert owner(name) == (number, turn)
                os._exit(0)
            finally: os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
supervised(payload)
"""
    )


def test_a_second_listener_cannot_be_had(supervised: Supervised) -> None:
    supervised(
        """
assert supervision.available()
def payload():
    refuses(errno.EBUSY, syscalls.seccomp_listener, program(syscalls.machine(), Ownership.MAPPED))
    assert not supervision.available()
    assert supervision.kept_here(single=True) is Ownership.IGNORED
    assert supervision.kept_here(single=False) is Ownership.MAPPED
assert supervision.kept_here(single=True) is Ownership.SUPERVISED
supervised(payload, kept=Ownership.MAPPED)
def limited():
    resource.setrlimit(10, (0, 100))
    assert not supervision.available(), "there is no room for credentials"
forked(limited)
"""
    )


CONTAINER = """
def contained(script):
    '''Make a container as a runtime does, and run `script` in it.'''
    os.mkdir("c")
    def first():
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", "c", "tmpfs")
        shutil.copy("/bin/busybox", "c/busybox"); os.mkdir("c/proc"); os.mkdir("c/tmp")
        os.chmod("c/tmp", 0o777)
        FileSystem("proc", "c/proc").execute()
        refuses(errno.EPERM, os.mknod, "c/n", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chdir("c"); syscalls.pivot_root(".", "."); syscalls.umount(".", syscalls.MNT_DETACH)
        refuses(errno.EINVAL, os.chown, "/tmp", 5, 6)
        assert os.getuid() == 0
        os.execv("/busybox", ["busybox", "sh", "-ec", script])
    def between():
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
        forked(first)
    forked(between)
"""


def test_A2_in_a_container_the_payload_is_answered_and_the_runtime_is_not(
    supervised: Supervised,
) -> None:
    supervised(
        CONTAINER
        + """
def payload():
    touch("f")
    refuses(errno.EINVAL, os.chown, "f", 5, 6)
    own = subprocess.run(["/bin/busybox", "chown", "5:6", "f"], stderr=subprocess.DEVNULL)
    assert own.returncode, "a program of the runtime's is not the payload"
    contained('''
test "$(id -u) $(id -g) $(id -G)" = "7 8 8 50"
cd /tmp; umask 027; mkdir d; echo x > d/f; ln -s f d/l; chown :50 d/f
test "$(stat -c %u:%g /tmp/d d/f d/l | xargs)" = "7:8 7:50 7:8"
! chown 9 d/f 2> /tmp/e; ! mknod n c 1 3 2> /tmp/e; ! touch /x 2> /tmp/e
test -e /proc/self/fd/1; : > /proc/self/fd/1
''')
    refuses(errno.EINVAL, os.chown, "f", 5, 6)
    assert os.getuid() == 0
supervised(payload, (7, 8, (8, 50)), container=True)
"""
    )


def test_in_a_container_device_nodes_are_the_payloads_with_every_id_map(
    supervised: Supervised,
) -> None:
    supervised(
        CONTAINER
        + """
def payload():
    refuses(errno.EPERM, os.mknod, "n", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    contained('''
mknod /null c 1 3; mkdir -p /jail/bin; cp /busybox /jail/busybox
chroot /jail /busybox mknod /disk b 8 1; test -e /jail/disk; ! test -e /disk
''')
supervised(payload, kept=Ownership.MAPPED, container=True)
"""
    )
