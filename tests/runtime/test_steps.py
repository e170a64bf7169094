"""What a step sees and may do, the same under every runtime (rootless-runtime.md 3, 3b, 4a, 4b).

Each test is a script run by a child process, since entering the namespace changes a process.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.integration

Sandboxed = Callable[..., "subprocess.CompletedProcess[str]"]
every_runtime = pytest.mark.parametrize("kind", ["native", "spare", "podman", "crun", "runc"])

# A layer with programs of the host that busybox has not, and their libraries.
PROGRAMS = """
import struct, subprocess
def fill(path):
    sources = [shutil.which("cat"), shutil.which("perl")]
    told = subprocess.run(["ldd", *sources], capture_output=True, text=True, check=True).stdout
    libraries = {w for w in told.split() if w.startswith("/") and not w.endswith(":")}
    places = [*((s, "/gnu/" + os.path.basename(s)) for s in sources), *((l, l) for l in libraries)]
    for source, place in places:
        os.makedirs(os.path.dirname(path + place), exist_ok=True)
        shutil.copy(source, path + place)
    shutil.copy(sources[0], path + "/gnu/suid")
    os.chmod(path + "/gnu/suid", 0o4755)
    shutil.copy(sources[0], path + "/gnu/capable")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(path + "/gnu/capable", "security.capability", capability)
PROGRAMS = layer("9406", fill)
"""


@every_runtime
def test_R2_the_environment_is_what_was_asked_for(sandboxed: Sandboxed, kind: str) -> None:
    """podman gives HOSTNAME to every container."""
    sandboxed(
        """
os.environ["LEAK"] = "x"
wanted = {"HOME=/root", "PATH=/bin"} | ({"HOSTNAME=buildkitsandbox"} if kind == "podman" else set())
assert set(show(["env"]).split()) == wanted
assert "HOME=/home/bob" in show(["env"], user="bob").split()
""",
        kind,
    )


@every_runtime
def test_R2_groups_are_those_of_the_files_unless_one_is_given(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
if id_map.single: sys.exit(0)
def ids(user): return show("id -u; id -g; id -G", user=user).split("\\n")
assert ids("") == ["0", "0", "0"]
assert ids("bob") == ids("1000") == ["1000", "1001", "1001 50"]
assert ids("bob:extra") == ids("1000:50") == ["1000", "50", "50"]
assert ids("77:88") == ["77", "88", "88"], "the primary group is always among them"
assert run("true", user="77:88")[2] == [], "the account files stay as they are"
try: run("true", user="bob:nobody-here")
except StepError as error: assert "unable to find group nobody-here" in error.message
else: raise AssertionError("an unknown group is an error")
""",
        kind,
    )


@every_runtime
def test_another_user_than_root_has_no_capability(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
if id_map.single: sys.exit(0)
shown = show("grep ^Cap /proc/self/status", user="bob")
found = dict(line.split(":\\t") for line in shown.splitlines())
bounding = found.pop("CapBnd")
assert bounding == "00000000a80425fb" and set(found.values()) == {"0" * 16}, shown
""",
        kind,
    )


@every_runtime
def test_N2_an_insecure_step_lends_every_capability_to_any_user(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
asked = "grep -E '^(CapEff|Uid)' /proc/self/status; mount -t tmpfs x /tmp && echo mounted"
shown = show(asked, user="bob", insecure=True)
assert "1000" in shown or id_map.single, shown
assert shown.endswith("mounted") and "000001ffffffffff" in shown, shown
""",
        kind,
    )


@every_runtime
def test_set_id_programs_and_file_capabilities_work_for_a_user(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        PROGRAMS
        + """
if id_map.single: sys.exit(0)
def status(program, field):
    shown = show([f"/gnu/{program}", "/proc/self/status"], lowers=PROGRAMS, user="bob")
    return next(l.split()[1:] for l in shown.splitlines() if l.startswith(field))
assert status("cat", "Uid:") == ["1000", "1000", "1000", "1000"]
assert status("suid", "Uid:") == ["1000", "0", "0", "0"]
assert status("capable", "CapEff:") == [f"{1 << 13:016x}"]
""",
        kind,
    )


@every_runtime
def test_limits_and_the_mask_are_the_builders_own_and_022(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
assert show("umask; ulimit -n; ulimit -Hn").split() == ["0022", str(soft), str(hard)]
""",
        kind,
    )


@every_runtime
def test_a_step_has_three_descriptors_and_an_empty_input(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
assert show("ls /proc/self/fd").split() == ["0", "1", "2", "3"], "the last is that of ls"
assert show("cat | wc -c; mount < /dev/stdin > /dev/null; echo read") == "0\\nread"
""",
        kind,
    )


@every_runtime
def test_signals_have_their_default_meaning(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
shown = show(["grep", "^Sig[BIC]", "/proc/self/status"])
assert {line.split()[1] for line in shown.splitlines()} == {"0" * 16}, shown
shown = show("((yes; echo $? >&3) | head -1) 3>&1")  # runc and podman have a pipe for each stream
assert shown == "y\\n141", f"SIGPIPE ends who writes to nobody: {shown!r}"
""",
        kind,
    )


@every_runtime
def test_a_process_that_kills_itself(sandboxed: Sandboxed, kind: str) -> None:
    """A container's command is the first process of its namespace, which no signal of its own
    ends; natively that is ours, and the signal works."""
    sandboxed(
        """
expected = (137, "") if kind in ("native", "spare") else (0, "alive\\n")
assert run("kill -9 $$; echo alive")[:2] == expected
""",
        kind,
    )


@every_runtime
def test_what_cannot_be_executed_is_126_or_127(sandboxed: Sandboxed, kind: str) -> None:
    """crun under podman does not tell a directory on the way from a file that may not be run."""
    sandboxed(
        """
assert run(["/etc"])[0] == 126, "a directory"
assert run(["./true"], cwd="/bin")[0] == 0 and run(["bin/true"])[0] == 0
if kind != "podman":
    assert run(["/etc/passwd/x"])[0] == 127
    assert run([""])[0] in (126, 127)
""",
        kind,
    )


@every_runtime
def test_R3_names_of_the_host(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
asked = dict(hostname="box", add_hosts=(("other", "10.1.2.3"), ("six", "::7")))
assert show("hostname; cat /etc/hostname", **asked) == "box\\nbox"
assert show("cat /etc/hosts", **asked).splitlines() == [
    "127.0.0.1\\tlocalhost box", "::1\\tlocalhost ip6-localhost ip6-loopback",
    "10.1.2.3\\tother", "::7\\tsix",
]
with open("/etc/resolv.conf") as stream: assert show("cat /etc/resolv.conf") == stream.read().strip()
assert show("cat /etc/resolv.conf", network="none") == ""
""",
        kind,
    )


@every_runtime
def test_R3_files_of_the_step_cannot_be_taken_away_and_changes_vanish(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
assert run("echo '10.9.9.9 lost' >> /etc/hosts; echo lost > /etc/resolv.conf; tail -1 /etc/hosts") == (
    0, "10.9.9.9 lost\\n", [])
assert "lost" not in show("cat /etc/hosts /etc/resolv.conf")
for attempt in ("rm /etc/hosts", "mv /etc/hosts /x", "rm /etc/resolv.conf", "rm -r /dev/shm"):
    status, said, held = run(attempt)
    assert status != 0 and "busy" in said and held == [], (attempt, said, held)
""",
        kind,
    )


@every_runtime
def test_R3_links_in_place_of_these_files_are_followed_inside_the_root(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
def fill(path):
    os.mkdir(path + "/etc")
    os.symlink("../run/resolver/resolv.conf", path + "/etc/resolv.conf")
    os.symlink("/nowhere/hosts", path + "/etc/hosts")
lowers = layer("11f5", fill)
status, said, held = run("readlink /etc/hosts; cat /etc/hosts", lowers=lowers)
assert said.startswith("/nowhere/hosts\\n127.0.0.1\\tlocalhost") and held == []
assert not os.path.exists("/nowhere")
""",
        kind,
    )


@every_runtime
def test_R2_devices(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
names = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
assert set(show("ls /dev").split()) - {"core"} == set(names.split())
user = "" if id_map.single else "bob"
works = "echo x > /dev/null && head -c 2 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c"
assert show(works, user=user) == "2\\n3"
assert run("echo x > /dev/full", user=user)[0] != 0
assert show("echo shared > /dev/shm/x; cat /dev/shm/x", user=user) == "shared"
assert run("stat /dev/sda /dev/kmsg /dev/mem")[0] != 0
mounts = {words[1]: words for words in map(str.split, show("cat /proc/mounts").splitlines())}
assert mounts["/dev/mqueue"][2] == "mqueue" and mounts["/dev/shm"][2] == "tmpfs"
assert ("gid=" in mounts["/dev/pts"][3]) != id_map.single, "an id that is not mapped is refused"
assert show("stat -c %a /dev/pts/ptmx") == "666"
""",
        kind,
    )


@every_runtime
def test_R2_what_the_kernel_shows_of_the_host_is_masked(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
for path in ("/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug"):
    assert show(f"cat {path} 2> /dev/null") == "", path
for path in ("/proc/acpi", "/proc/scsi", "/sys/firmware"):
    assert show(f"ls {path} 2> /dev/null") == "", path
for path in ("/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/proc/irq/x", "/sys/x"):
    assert run(f"echo b > {path}")[0] != 0, path
assert set(show("ls /sys/class/net").split()) == set(os.listdir("/sys/class/net"))
""",
        kind,
    )


@every_runtime
def test_what_mobys_profile_refuses_is_refused(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
for attempt in ("unshare -U true", "unshare -m true", "hostname x", "mount -t tmpfs x /tmp"):
    status, said, _ = run(attempt)
    assert status != 0 and ("not permitted" in said or "denied" in said), (attempt, status, said)
""",
        kind,
    )


@every_runtime
def test_useradds_socket_for_the_audit_can_be_made_or_is_unknown(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        PROGRAMS
        + """
ask = 'print socket(S, 16, 3, 9) ? "made" : $! + 0; print " ", socket(T, 38, 5, 0) ? "made" : "not"'
assert show(["/gnu/perl", "-e", ask], lowers=PROGRAMS) in ("made not", "22 not")
""",
        kind,
    )


@every_runtime
def test_N1_without_network_there_is_a_loopback_device_alone(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
assert show("ls /sys/class/net", network="none") == "lo"
assert run("ping -c 1 -w 60 127.0.0.1", network="none")[0] == 0
for mode in ("default", "host"):
    assert set(show("ls /sys/class/net", network=mode).split()) == set(os.listdir("/sys/class/net"))
""",
        kind,
    )


def test_the_first_process_tells_nothing_of_the_builder(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
assert show("cat /proc/1/cmdline").strip("\\0") == "assemble: steps"
user = "" if id_map.single else "bob"
for who in ("", user):
    for name in ("environ", "maps"):
        assert "denied" in show(f"cat /proc/1/{name}", user=who), name
    for name in ("root", "cwd", "exe", "fd/0"):
        assert run(f"readlink /proc/1/{name}", user=who)[0] != 0, name
"""
    )


@every_runtime
def test_M3_targets_are_found_through_links_inside_the_root(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
def fill(path):
    os.makedirs(path + "/real/in")
    for name, text in (
        ("absolute", "/real"), ("relative", "real/in"), ("real/up", "../../../../../../real"),
        ("top", "/"), ("dangling", "missing/place"), ("chain", "absolute/in"),
    ):
        os.symlink(text, f"{path}/{name}")
lowers = layer("11aa", fill)
for target, place in (
    ("/absolute/a", "/real/a"), ("/relative", "/real/in"), ("/real/up/b", "/real/b"),
    ("/top/c", "/c"), ("/dangling/d", "/missing/place/d"), ("/chain/e/f", "/real/in/e/f"),
    ("/top/../top/absolute/g", "/real/g"),
):
    asked = f"echo seen > {place}/x; cat {target}/x"
    assert run(asked, TemporaryFiles(target), lowers=lowers) == (0, "seen\\n", []), target
    assert not os.path.lexists(place), "nothing was made on the host"
    content = FileContent(target, b"text", 0o444)
    if target != "/relative":
        assert run(f"cat {place}", content, lowers=lowers) == (0, "text", []), target
""",
        kind,
    )


@every_runtime
def test_M3_a_mount_in_a_mount_is_seen_whatever_their_order(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        """
shared = directory + "/cache"
os.mkdir(shared)
secret = FileContent("/c/deep/key", b"hush", 0o444)
cache = BindSource("/c", shared, read_only=False)
for mounts in ((secret, cache), (cache, secret)):
    assert run("cat /c/deep/key; echo x > /c/f", *mounts) == (0, "hush", [])
assert open(shared + "/f").read() == "x\\n"
assert open(shared + "/deep/key").read() == "", "what it was mounted on is in the cache"
inner = TemporaryFiles("/c/deep")
assert run("ls /c/deep; echo x > /c/deep/y", inner, BindSource("/c", shared)) == (0, "", [])
assert sorted(os.listdir(shared + "/deep")) == ["key"]
shutil.rmtree(shared)
""",
        kind,
    )


@every_runtime
def test_M3_mount_points_below_dev(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
script = FileContent("/dev/pipes/EOF", b"#!/bin/sh\\necho ran $0 $(id -u)\\n", 0o755)
user = "" if id_map.single else "bob"
number = "0" if id_map.single else "1000"
assert run(["/dev/pipes/EOF"], script, user=user) == (0, f"ran /dev/pipes/EOF {number}\\n", [])
assert run("cat /dev/shm/key", FileContent("/dev/shm/key", b"x")) == (0, "x", [])
assert run("echo y > /dev/a/b/f", TemporaryFiles("/dev/a/b")) == (0, "", [])
""",
        kind,
    )


def test_M3_a_mount_that_cannot_be_made_names_its_target(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
shared = directory + "/context"
os.mkdir(shared)
for mounts in (
    (TemporaryFiles("/etc/passwd"),),
    (BindSource("/s", shared), TemporaryFiles("/s/inner")),
):
    try: run("true", *mounts)
    except StepError as error: assert f"mount target {mounts[-1].target}: " in error.message, error
    else: raise AssertionError(mounts)
os.rmdir(shared)
"""
    )


@every_runtime
def test_M8_a_tmpfs_has_its_size(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
command = "head -c 3000000 /dev/zero 2> /dev/null > /t/f; echo $?; wc -c < /t/f; stat -c %a /t"
status, said, held = run(command, TemporaryFiles("/t", 1 << 20))
assert said.split()[-3:] == ["1", str(1 << 20), "1777"] and held == [], said
assert show(command, TemporaryFiles("/t")).split() == ["0", "3000000", "1777"]
""",
        kind,
    )


@every_runtime
def test_a_working_directory_that_is_gone_is_made_again(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        """
user = "" if id_map.single else "bob"
status, said, held = run("readlink /proc/self/cwd; stat -c '%a %u' .", cwd="/new/dir", user=user)
assert (status, said, held) == (0, "/new/dir\\n755 0\\n", ["new", "new/dir"])
""",
        kind,
    )


def test_a_mount_point_that_a_step_takes_away_is_no_deletion(sandboxed: Sandboxed) -> None:
    """The mount point is in the bottom layer alone, and the whiteout over it in none."""
    sandboxed(
        """
from assembler.layer.changeset import Kind
from assembler.layer.diff import changes
with snapshots.prepare("aa11", [BASE]) as root:
    asked = "umount /etc/hosts /deep/t && rm /etc/hosts && rm -r /deep && rm /etc/group"
    process = Process(("/bin/sh", "-c", asked), env=(("PATH", "/bin"),), insecure=True)
    assert runtime.run(process, root, (TemporaryFiles("/deep/t"),), print, cancellation) == 0
found = [(entry.path, entry.kind) for entry in changes(snapshots.find("aa11"), [BASE])]
assert ("etc/group", Kind.WHITEOUT) in found
assert [path for path, kind in found if kind is Kind.WHITEOUT] == ["etc/group"], found
"""
    )


@every_runtime
def test_what_is_published_is_the_upper_directory_alone(sandboxed: Sandboxed, kind: str) -> None:
    """Not the work directory, whose mode is 000, nor the mark of a volatile mount in it."""
    sandboxed(
        """
assert run("rm -r /tmp && mkdir /tmp && touch /f")[2] == ["f", "tmp"]
assert sorted(os.listdir(snapshots.find("0001"))) == ["f", "tmp"]
above = os.listdir(directory + "/layers")
assert sorted(name for name in above if not name.startswith(".")) == ["0001", "ba5e"]
runtime.close()
snapshots.close()
assert sorted(os.listdir(directory + "/layers")) == ["0001", "ba5e"]
runtime.close = lambda: None
snapshots.close = lambda: None
""",
        kind,
    )


@every_runtime
def test_a_directory_of_a_lower_layer_can_be_made_again_and_moved(
    sandboxed: Sandboxed, kind: str
) -> None:
    """What fails with EIO on an overlay of a user namespace without `userxattr`."""
    sandboxed(
        """
assert run("rm -r /etc && mkdir /etc && ls -A /etc | grep -v 'hos\\\\|resolv'")[0] == 1
assert run("mkdir /d && mv /tmp /d/tmp && ls /d")[:2] == (0, "tmp\\n")
""",
        kind,
    )
