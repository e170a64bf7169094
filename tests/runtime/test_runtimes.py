"""Processes in sandboxes: what they see, how they end, and that nothing of them stays.

Each test is a script run by a child process, since entering the namespace changes a process.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

Sandboxed = Callable[..., "subprocess.CompletedProcess[str]"]
every_runtime = pytest.mark.parametrize("kind", ["native", "spare", "podman", "crun", "runc"])


@pytest.mark.parametrize("snapshots", ["overlay", "copy"])
@every_runtime
def test_nothing_is_left_of_a_process_that_writes_nothing(
    sandboxed: Sandboxed, kind: str, snapshots: str
) -> None:
    sandboxed("assert run('true') == (0, '', []), run('true')", kind, snapshots=snapshots)


@every_runtime
def test_the_status_is_the_commands_own(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
assert run("exit 7")[0] == 7
assert run("sh -c 'kill -TERM $$'; exit $?")[0] == 143
assert run("sh -c 'kill -9 $$'; exit $?")[0] == 137
assert run(["nope"])[0] == 127
assert run(["/bin/nope"])[0] == 127
assert run(["/etc/passwd"])[0] == 126
""",
        kind,
    )


def test_what_cannot_be_executed_is_said_as_docker_says_it(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
assert run(["nope"])[1] == 'exec: "nope": executable file not found in $PATH\\n'
assert run(["/etc/passwd"])[1] == 'exec: "/etc/passwd": permission denied\\n'
"""
    )


def test_a_command_that_kills_itself_dies_of_the_signal(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
assert run("kill -TERM $$")[0] == 143
assert run("kill -9 $$")[0] == 137
"""
    )


@every_runtime
def test_privileges_are_dockers(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
status = dict(l.split(":", 1) for l in show("cat /proc/self/status").splitlines() if ":" in l)
assert {status[k].strip() for k in ("CapPrm", "CapEff", "CapBnd")} == {"00000000a80425fb"}
assert status["NoNewPrivs"].strip() == "0" and status["Seccomp"].strip() == "2"
assert run("mount -t tmpfs x /tmp")[0] != 0
assert run("echo 1 > /proc/sys/kernel/hostname")[0] != 0
""",
        kind,
    )


@every_runtime
def test_N2_insecure_has_every_capability_and_no_filter(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
command = "cat /proc/self/status; mount -t tmpfs x /tmp && echo mounted"
shown = show(command, insecure=True)
status = dict(l.split(":", 1) for l in shown.splitlines() if ":" in l)
assert int(status["CapEff"], 16) & 1 << 21, "CAP_SYS_ADMIN"
assert status["Seccomp"].strip() == "0"
assert shown.endswith("mounted")
""",
        kind,
    )


@every_runtime
def test_R5_limits_and_shared_memory_are_as_asked(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
asked = dict(limits=(Limit("nofile", 77, 99),), shared_memory=3 << 20)
assert show("ulimit -n; ulimit -Hn", **asked) == "77\\n99"
assert "size=3072k" in show("grep ' /dev/shm ' /proc/mounts", **asked)
""",
        kind,
    )


@every_runtime
def test_B11_the_oom_killer_takes_a_step_before_the_builder(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
def score(): return int(open("/proc/self/oom_score_adj").read())
before = score()
assert int(show("cat /proc/self/oom_score_adj")) == min(1000, before + 500)
assert score() == before
""",
        kind,
    )


def test_R5_a_limit_above_the_users_own_is_an_error(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
try: run("true", limits=(Limit("nofile", 1 << 40, 1 << 40),))
except StepError as error: assert "ulimit nofile=" in error.message, error.message
else: raise AssertionError("nobody may have so many")
"""
    )


def test_the_first_process_cannot_be_looked_into(sandboxed: Sandboxed) -> None:
    sandboxed('assert run("cat /proc/1/environ")[0] != 0')


@every_runtime
def test_users_come_from_the_roots_own_files(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
if id_map.single: sys.exit(0)
assert show("id", user="bob") == "uid=1000(bob) gid=1001(bobs) groups=50(extra),1001(bobs)"
assert show("id -g; id -u", user="1000:50") == "50\\n1000"
assert show("echo $HOME", user="bob") == "/home/bob"
try: run("true", user="nobody-here")
except StepError as error: assert "nobody-here" in error.message
else: raise AssertionError("an unknown user is an error")
""",
        kind,
    )


@every_runtime
def test_K2_a_user_may_open_the_output_by_its_name(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
command = "echo one > /dev/stdout; echo two > /dev/stderr; echo three > /dev/fd/1"
assert sorted(show(command, user="bob").split()) == ["one", "three", "two"]
""",
        kind,
    )


@every_runtime
def test_braces_are_the_commands_own(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
assert show("echo '{root} {f0} {{home}} {' $X; cat '/{d0}'", FileContent("/{d0}", b"{}"),
    add_hosts=()) == "{root} {f0} {{home}} {\\n{}"
""",
        kind,
    )


@every_runtime
def test_mounts_show_and_leave_no_trace(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
secret = FileContent("/run/secrets/key", b"hush", 0o400)
assert run("cat /run/secrets/key", secret) == (0, "hush", [])
assert run("ls /t", TemporaryFiles("/t", 1 << 20)) == (0, "", [])
os.makedirs(directory + "/shared"); open(directory + "/shared/f", "w").write("x")
shared = directory + "/shared"
assert run("echo y > /s/f", BindSource("/s", shared))[0] != 0, "read-only"
assert run("echo y > /s/f; cat /s/f", BindSource("/s", shared, False, True)) == (0, "y\\n", [])
assert open(shared + "/f").read() == "x", "writes were thrown away"
assert run("echo z > /s/f", BindSource("/s", shared, False))[0] == 0
assert open(shared + "/f").read() == "z\\n"
shutil.rmtree(shared)
""",
        kind,
    )


@every_runtime
def test_a_hidden_mount_point_is_made_and_removed_again(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
with snapshots.prepare("ab", [BASE]) as root:
    runtime.run(Process(("/bin/rm", "-r", "/etc")), root, (), print, cancellation)
lowers = (snapshots.find("ab"), BASE)
status, output, held = run("cat /etc/hosts", lowers=lowers)
assert status == 0 and "localhost" in output
assert [p for p in held if "hosts" in p] == [], held
""",
        kind,
    )


@every_runtime
def test_the_network_can_be_none(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
assert show("ip -o link | cat", network="none").count("\\n") == 0
assert "LOOPBACK,UP" in show("ip -o link", network="none")
""",
        kind,
    )


@every_runtime
def test_background_processes_die_with_the_step(sandboxed: Sandboxed, kind: str) -> None:
    mark = f"41{os.getpid()}"
    sandboxed(f"assert run('(sleep {mark} &) ; true')[0] == 0", kind)
    assert not running(f"sleep {mark}")


@every_runtime
def test_cancelling_ends_a_process_that_will_not(sandboxed: Sandboxed, kind: str) -> None:
    mark = f"42{os.getpid()}"
    sandboxed(
        f"""
native.GRACE = 0.3
threading.Timer(0.3, cancellation.cancel, (2,)).start()
try: run("trap '' TERM; sleep {mark}; sleep {mark}")
except Cancelled as error: assert error.signal == 2
else: raise AssertionError("it was not cancelled")
""",
        kind,
    )
    assert not running(f"sleep {mark}")


@every_runtime
def test_a_second_wish_to_stop_gives_no_more_time(sandboxed: Sandboxed, kind: str) -> None:
    mark = f"44{os.getpid()}"
    sandboxed(
        f"""
native.GRACE = 3600
threading.Timer(0.5, cancellation.cancel, (2,)).start()
threading.Timer(0.6, cancellation.hurry).start()
try: run("trap '' TERM; (trap '' TERM; sleep {mark}) & sleep {mark}; sleep {mark}")
except Cancelled: pass
else: raise AssertionError("it was not cancelled")
""",
        kind,
    )
    assert not running(f"sleep {mark}")


def test_a_build_that_has_had_its_time_is_told_so(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
threading.Timer(0.2, cancellation.expire, (0.2,)).start()
try: run("sleep 30")
except TimedOut as error: assert error.message == "the build took longer than 0.2 s"
else: raise AssertionError("it was not cancelled")
"""
    )


@every_runtime
def test_many_run_at_once_from_threads(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
import concurrent.futures
def one(number):
    said = []
    with snapshots.prepare(f"c{number:03x}", [BASE]) as root:
        status = runtime.run(
            Process(("/bin/sh", "-c", f"echo {number}; exit {number}")), root, (), said.append, cancellation)
    return status, b"".join(said)
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    results = list(pool.map(one, range(48)))
wrong = [one for n, one in enumerate(results) if one != (n, b"%d\\n" % n)]
assert not wrong, wrong
""",
        kind,
    )


@every_runtime
def test_the_root_is_one_file_system(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
devices = show(": > /new; stat -c %d / /etc /new /etc/passwd /bin/sh /bin/busybox").split()
assert len(devices) == 6 and len(set(devices)) == 1, devices
""",
        kind,
    )


def thirty_two_bit() -> bytes:
    """A program that writes hello, for the 32-bit machine whose programs this one runs: an ELF
    header, one segment, the code."""
    at = 0x10000 + 84
    if os.uname().machine == "aarch64":
        machine, flags = 40, 0x05000400
        # mov r7, #4; mov r0, #1; add r1, pc, #16; mov r2, #6; svc 0; mov r7, #1; mov r0, #0; svc 0
        words = (0xE3A07004, 0xE3A00001, 0xE28F1010, 0xE3A02006, 0xEF000000, 0xE3A07001, 0xE3A00000)
        code = struct.pack("<8I", *words, 0xEF000000)
    else:
        machine, flags = 3, 0
        # mov eax, 4; mov ebx, 1; mov ecx, text; mov edx, 6; int 0x80; mov eax, 1; …; int 0x80
        code = struct.pack("<BIBIBIBI", 0xB8, 4, 0xBB, 1, 0xB9, at + 34, 0xBA, 6) + b"\xcd\x80"
        code += struct.pack("<BI", 0xB8, 1) + b"\x31\xdb\xcd\x80" + b"\x90" * 3
    size = 84 + len(code) + 6
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<2H5I6H", 2, machine, 1, at, 52, 0, flags, 52, 32, 1, 0, 0, 0)
    return (
        header + struct.pack("<8I", 1, 0, 0x10000, 0x10000, size, size, 5, 4096) + code + b"hello\n"
    )


@every_runtime
def test_programs_of_a_32_bit_image_run(sandboxed: Sandboxed, tmp_path: Path, kind: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(thirty_two_bit())
    program.chmod(0o755)
    try:
        subprocess.run([str(program)], check=True, capture_output=True)
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    sandboxed(
        """
with snapshots.create("32b1") as layer:
    shutil.copy(directory + "/program", layer + "/program")
assert run(["/program"], lowers=(snapshots.find("32b1"), BASE)) == (0, "hello\\n", [])
""",
        kind,
    )


@pytest.mark.parametrize("layers", [130, 400])
def test_many_layers_are_one_root(sandboxed: Sandboxed, layers: int) -> None:
    sandboxed(
        f"""
lowers = [BASE]
for number in range({layers}):
    with snapshots.create(f"d{{number:04x}}") as path:
        open(f"{{path}}/f{{number}}", "w").close()
    lowers.insert(0, snapshots.find(f"d{{number:04x}}"))
assert show("ls / | grep -c ^f", lowers=tuple(lowers)) == "{layers}"
assert len(set(show("stat -c %d / /f0 /f1", lowers=tuple(lowers)).split())) == 1
"""
    )


def test_long_output_without_line_ends_streams(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
total = 0
def count_bytes(chunk):
    global total
    total += len(chunk)
with snapshots.prepare("ee", [BASE]) as root:
    command = "head -c 100000000 /dev/zero"
    os.symlink("busybox", root.upper + "/head")
    asked = Process(("/bin/sh", "-c", "busybox " + command), env=(("PATH", "/bin"),))
    assert runtime.run(asked, root, (), count_bytes, cancellation) == 0
assert total == 100000000
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert int(peak.split()[1]) < 120_000, peak
"""
    )


def test_when_the_builder_is_killed_its_sandboxes_die(prelude: str, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("not installed: busybox-static")
    mark = f"43{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", prelude, busybox, str(tmp_path), "native"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(f"run('sleep {mark} & sleep {mark}')".encode())
    wait_until(lambda: running(f"sleep {mark}"))
    process.kill()
    process.wait(60)
    wait_until(lambda: not running(f"sleep {mark}"))
    sweep = "import sys; from assembler.linux import userns; userns.enter()\n"
    sweep += "from assembler.snapshot.overlay import OverlaySnapshotter\n"
    sweep += "import os\nOverlaySnapshotter(sys.argv[1]).close()\n"
    sweep += "assert not [n for n in os.listdir(sys.argv[1]) if n.startswith('.')]\n"
    sweep += "from assembler.linux.paths import remove_tree\nremove_tree(sys.argv[1])\n"
    subprocess.run([sys.executable, "-c", sweep, str(tmp_path / "layers")], check=True)


def running(text: str) -> bool:
    """Whether any process's command line holds `text`."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in line:
                return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll for up to a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
