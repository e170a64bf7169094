"""Mounts, names and users of a step that hardly anybody asks for, and what is said of bad ones."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.integration

Sandboxed = Callable[..., "subprocess.CompletedProcess[str]"]
every_runtime = pytest.mark.parametrize("kind", ["native", "spare", "podman", "crun", "runc"])

ERROR = """
def error(*mounts, **process):
    try: run("true", *mounts, **process)
    except StepError as error:
        assert directory not in error.message, "no path of the host"
        return error.message
    raise AssertionError((mounts, process))
"""


def test_M3_mounts_that_cannot_be_made_are_named(sandboxed: Sandboxed) -> None:
    sandboxed(
        ERROR
        + """
for mounts in (
    (TemporaryFiles("/etc/passwd/x"),),
    (FileContent("/s/key", b"x"), TemporaryFiles("/s/key/inner")),
    (TemporaryFiles("/" + "n" * 256),),
    (FileContent("/proc/none", b"x"),),
): assert f"mount target {mounts[-1].target}: " in error(*mounts)
"""
    )


@every_runtime
def test_M3_a_target_may_have_any_name(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        r"""
for name in ("a:ro", "a,b", 'a"b"', "a b", "{f0}", "é\n"):
    mounts = (FileContent(f"/t/{name}", b"text", 0o444), TemporaryFiles(f"/d/{name}"))
    assert run(["/bin/cat", f"/t/{name}"], *mounts) == (0, "text", []), name
    assert run(["/bin/touch", f"/d/{name}/f"], *mounts) == (0, "", []), name
""",
        kind,
    )


def test_M3_T15_targets_and_working_directories_as_deep_as_a_path_can_be(
    sandboxed: Sandboxed,
) -> None:
    sandboxed(
        """
deep = "/a" * 1100
assert run(["/bin/touch", deep + "/f"], TemporaryFiles(deep)) == (0, "", [])
assert show(["/bin/cat", deep + "/f"], FileContent(deep + "/f", b"text", 0o444)) == "text"
sys.setrecursionlimit(10_000)  # for what looks at the layer here
assert run("true", cwd=deep)[0] == 0
"""
    )


def test_M3_a_link_in_place_of_dev_is_followed_inside_the_root(sandboxed: Sandboxed) -> None:
    sandboxed(
        r"""
def fill(path): os.symlink("/devices", path + "/dev")
script = FileContent("/dev/pipes/EOF", b"#!/bin/sh\necho ran\n", 0o755)
assert run(["/dev/pipes/EOF"], script, lowers=layer("de75", fill)) == (0, "ran\n", [])
"""
    )


def test_B3_a_mount_in_a_cache_stays_in_the_root_whatever_others_do_to_the_cache(
    sandboxed: Sandboxed,
) -> None:
    """Another step turns a directory of the cache into a link, and back, all the time."""
    sandboxed(
        """
import subprocess
shared, host = directory + "/cache", directory + "/host"
for path in (shared + "/d", host): os.makedirs(path)
os.symlink(host, shared + "/l")
flips = '''if True:
    import ctypes, sys
    exchange = ctypes.CDLL(None).renameat2
    one, other = (sys.argv[1].encode() + name for name in (b"/d", b"/l"))
    while True: exchange(-100, one, -100, other, 2)
'''
step = subprocess.Popen([sys.executable, "-c", flips, shared])
try:
    for _ in range(100):
        cache = BindSource("/c", shared, read_only=False)
        try: run("true", cache, FileContent("/c/d/key", b"x"), TemporaryFiles("/c/d/in/deep"))
        except StepError as error: assert "mount target /c/d/" in error.message, error
finally:
    step.kill()
    step.wait()
assert os.listdir(host) == [], "nothing was made outside of the root"
shutil.rmtree(shared); shutil.rmtree(host)
"""
    )


@every_runtime
def test_M6_a_file_that_may_be_written_is_what_it_was_and_changes_are_lost(
    sandboxed: Sandboxed, kind: str
) -> None:
    sandboxed(
        r"""
shared = directory + "/context"
os.mkdir(shared)
script = "#!/bin/sh\necho ran\n"
with open(shared + "/script", "w") as stream: stream.write(script)
os.chmod(shared + "/script", 0o751)
os.utime(shared + "/script", (10 ** 9, 10 ** 9))
mount = BindSource("/s", shared + "/script", read_only=False, discard=True)
asked = "stat -c '%a %Y' /s; /s; echo echo more >> /s; /s"
assert run(asked, mount) == (0, "751 1000000000\nran\nran\nmore\n", [])
assert open(shared + "/script").read() == script
shutil.rmtree(shared)
""",
        kind,
    )


@every_runtime
def test_a_working_directory_that_is_none(sandboxed: Sandboxed, kind: str) -> None:
    sandboxed(
        ERROR
        + """
for cwd in ("/etc/passwd", "/etc/passwd/x"):
    assert error(cwd=cwd) == f"working directory {cwd}: Not a directory"
""",
        kind,
    )


def test_R2_ids_that_are_not_mapped_are_told(sandboxed: Sandboxed) -> None:
    sandboxed(
        ERROR
        + """
for user in () if id_map.single else ("4000000000", "0:4000000000"):
    said = error(user=user)
    assert "4000000000" in said and "/etc/subuid" in said, said
"""
    )


def test_R3_names_of_the_host_may_be_any_bytes_but_not_too_many(sandboxed: Sandboxed) -> None:
    sandboxed(
        ERROR
        + r"""
asked = r"cat /etc/hostname /etc/hosts | grep -c $(printf '\377')"
assert show(asked, hostname="\udcff", add_hosts=(("\udcff", "1.2.3.4"),)) == "3"
assert error(hostname="h" * 65).startswith("hostname hhh")
"""
    )


def test_R2_nothing_of_the_host_heeds_the_environment_of_a_step(sandboxed: Sandboxed) -> None:
    """podman runs on the host: what LD_PRELOAD of the Dockerfile names would be loaded there."""
    sandboxed(
        r"""
variables = (
    ("LD_PRELOAD", "/none.so"), ("LD_TRACE_LOADED_OBJECTS", "1"), ("GODEBUG", "inittrace=1"),
    ("CONTAINERS_CONF", "mine"), ("CONTAINER_HOST", "unix:///none"), ("TMPDIR", "/x"),
    ("MANY", "lines\nof text"),
)
with snapshots.prepare("e0e0", (BASE,)) as root:
    said = []
    process = Process(("/bin/env",), env=(("PATH", "/bin"), *variables))
    assert runtime.run(process, root, (), said.append, cancellation) == 0
lines = b"".join(said).decode().splitlines()
wanted = [line for name, value in variables for line in f"{name}={value}".splitlines()]
assert set(lines) == {*wanted, "PATH=/bin", "HOME=/root", "HOSTNAME=buildkitsandbox"}, lines
""",
        "podman",
    )


def test_a_directory_above_a_mount_point_may_be_moved(sandboxed: Sandboxed) -> None:
    sandboxed(
        """
mount = TemporaryFiles("/a/mount")
assert run("mv /a /c; ls /c", mount) == (0, "mount\\n", ["c"]), "it is mounted there now"
""",
        snapshots="copy",
    )
