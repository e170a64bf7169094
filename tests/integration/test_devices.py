"""RUN --device by the command line, under every runtime (M12)."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import naming

pytestmark = pytest.mark.integration

RUNTIMES = ("native", "podman", "crun", "runc")
every_runtime = pytest.mark.parametrize("runtime", RUNTIMES)
ROOT_OF_A_HOOK = """\
#!/bin/sh
set -e
bundle=$(sed 's/.*"bundle": "\\([^"]*\\)".*/\\1/')
root=$(sed 's/.*"root": {"path": "\\([^"]*\\)".*/\\1/' "$bundle/config.json")
"""
HOOK = (
    ROOT_OF_A_HOOK
    + """\
echo "hook $1, ${2:-} $GREETING; $(cat "$root/opt/driver/lib")"
cp "$root/opt/driver/lib" "$root/etc/cache-of-libraries"
ln -s /opt/driver/lib "$root/usr/lib-link"
test ! -e "$root/run/secrets/hush"
"""
)
DOCKERFILE = """\
FROM busybox
ENV DRIVER=none KEPT=yes
RUN --device=vendor.com/accelerator=one,required --mount=type=secret,id=hush \\
    set -e; cat /run/secrets/hush > /dev/null; \\
    echo "$DRIVER $KEPT $(cat /etc/cache-of-libraries /usr/lib-link)" > /made; \\
    head -c 3 /dev/of-mine/zero | wc -c >> /made; \\
    ! echo x > /opt/driver/lib; ! cat /dev/other; \\
    grep -q ' /opt/driver .*nosuid,nodev,noexec' /proc/mounts; id -G; cat /made
"""


def layer(layout: Path) -> dict[str, bytes]:
    """The files of the last layer."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        return (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]))
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(manifest["layers"][-1])))) as archive:
        return {
            member.name: (archive.extractfile(member) or io.BytesIO()).read()
            if member.isfile()
            else b""
            for member in archive
        }


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory `cdi` with a device that has everything, `driver` with its files, a hook."""
    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "lib").write_text("of-the-host")
    hook = tmp_path / "hook"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    edits = {
        "env": ["DRIVER=found"],
        "deviceNodes": [{"path": "/dev/of-mine/zero", "hostPath": "/dev/zero"}],
        "mounts": [
            {
                "hostPath": str(driver),
                "containerPath": "/opt/driver",
                "options": ["ro", "nosuid", "nodev", "noexec", "rbind"],
            }
        ],
        "additionalGids": [44],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": str(hook),
                "args": ["hook", "one"],
                "env": ["GREETING=hello"],
                "timeout": 300,
            }
        ],
    }
    write(tmp_path, "one", edits)
    return tmp_path


def write(directory: Path, name: str, edits: dict[str, Any]) -> None:
    """A specification of the device vendor.com/accelerator=NAME."""
    (directory / "cdi").mkdir(exist_ok=True)
    document = {
        "cdiVersion": "0.7.0",
        "kind": "vendor.com/accelerator",
        "devices": [{"name": name, "containerEdits": edits}],
    }
    (directory / "cdi" / f"{name}.json").write_text(json.dumps(document))


@pytest.fixture
def build(assemble: Any, host: Path) -> Callable[..., Any]:
    """Builds a Dockerfile with the specifications of `host`."""

    def run(dockerfile: str, *arguments: str | Path, code: int = 0, **more: Any) -> Any:
        context = host / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile)
        return assemble(
            "build", "--cdi-spec-dir", host / "cdi", *arguments, context, code=code,
            SOURCE_DATE_EPOCH="1700000000", HUSH="hush", **more,
        )  # fmt: skip

    return run


def test_M12_a_device_has_everything_and_leaves_nothing_under_every_runtime(
    build: Callable[..., Any], require: Callable[..., None], host: Path
) -> None:
    require("podman", "crun", "runc")
    digests = set()
    for runtime in RUNTIMES:
        out = host / f"out-{runtime}"
        done = build(
            DOCKERFILE, "--no-cache", "--runtime", runtime, "--allow", "device",
            "--secret", "id=hush,env=HUSH", "-o", f"type=oci,dest={out},tar=false",
        )  # fmt: skip
        assert "hook one,  hello; of-the-host" in done.stderr, done.stderr
        assert "44" in done.stderr and "WARNING" not in done.stderr
        files = layer(out)
        assert files["made"] == b"found yes of-the-hostof-the-host\n3\n"
        assert set(files) - {"."} == {"made"}, (
            "neither mount points, nor nodes, nor the hook's files"
        )
        digests.add(done.stdout)
    assert len(digests) == 1


@every_runtime
def test_M12_what_a_step_makes_of_a_hooks_files_is_the_steps(
    build: Callable[..., Any], require: Callable[..., None], host: Path, runtime: str
) -> None:
    require("podman", "crun", "runc")
    out = host / "out"
    build(
        "FROM busybox\nRUN --device=vendor.com/accelerator=one rm /usr/lib-link && "
        "echo mine >> /etc/cache-of-libraries\n",
        "--runtime", runtime, "--allow", "device", "-o", f"type=oci,dest={out},tar=false",
    )  # fmt: skip
    files = layer(out)
    assert files["etc/cache-of-libraries"] == b"of-the-hostmine\n"
    assert not [path for path in files if "lib-link" in path], "nothing was there to be removed"


@every_runtime
@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {"hooks": [{"hookName": "createContainer", "path": "/bin/false"}]},
            "the CDI hook createContainer (/bin/false) failed: exit code: 1",
        ),
        (
            {"hooks": [{"hookName": "createRuntime", "path": "/no/such"}]},
            "the CDI hook createRuntime (/no/such) failed: exit code: 127",
        ),
        (
            {
                "hooks": [
                    {
                        "hookName": "prestart",
                        "path": "/bin/sleep",
                        "args": ["sleep", "60"],
                        "timeout": 1,
                    }
                ]
            },
            "the CDI hook prestart (/bin/sleep): not done after 1 s",
        ),
        (
            {"hooks": [{"hookName": "poststop", "path": "/bin/true"}]},
            "a CDI hook poststop (/bin/true) cannot be run here",
        ),
        (
            {"deviceNodes": [{"path": "/dev/none", "type": "c", "major": 1, "minor": 77}]},
            "/dev/none is not c 1:77 on this host, and a user namespace can make no device nodes",
        ),
    ],
)
def test_M12_what_cannot_be_is_an_error_with_its_line(
    build: Callable[..., Any],
    require: Callable[..., None],
    host: Path,
    runtime: str,
    edits: dict[str, Any],
    message: str,
) -> None:
    require("podman", "crun", "runc")
    write(host, "two", edits)
    done = build(
        "FROM busybox\nRUN --device=vendor.com/accelerator=two true\n",
        "--runtime", runtime, "--allow", "device", code=1,
    )  # fmt: skip
    assert message in done.stderr.splitlines()[-1]
    assert ">>> RUN --device=vendor.com/accelerator=two true" in done.stderr


def test_M12_a_device_that_is_not_allowed_stops_the_build_before_anything_runs(
    build: Callable[..., Any],
) -> None:
    dockerfile = "FROM busybox\nRUN echo ran\nRUN --device=vendor.com/accelerator=one true\n"
    done = build(dockerfile, code=1)
    assert (
        "device vendor.com/accelerator=one is requested by the build but not allowed" in done.stderr
    )
    assert "allow it with --allow device=vendor.com/accelerator=one" in done.stderr
    assert ">>> RUN --device=vendor.com/accelerator=one true" in done.stderr
    assert "#1 " not in done.stderr
    build(dockerfile, "--allow", "device=vendor.com/accelerator=one")


def test_M12_a_required_device_that_is_missing(build: Callable[..., Any], host: Path) -> None:
    (host / "cdi" / "bad.yaml").write_text("kind: [\n")
    done = build("FROM busybox\nRUN --device=v/c=d,required true\n", code=1)
    assert 'required device "v/c=d" is not registered' in done.stderr
    assert f"{host}/cdi/bad.yaml: line 2: " in done.stderr
    assert ">>> RUN --device=v/c=d,required true" in done.stderr


def test_M12_an_optional_device_that_is_missing_is_told(build: Callable[..., Any]) -> None:
    done = build("FROM busybox\nRUN --device=v/c=d echo went on\n")
    assert " went on\n" in done.stderr
    assert 'optional device "v/c=d" is not registered: RUN goes without it (line 2)' in done.stderr


def test_M12_a_cached_step_needs_no_device(build: Callable[..., Any], host: Path) -> None:
    dockerfile = "FROM busybox\nRUN --device=vendor.com/accelerator=one,required true\n"
    first = build(dockerfile, "--allow", "device")
    (host / "cdi" / "one.json").unlink()
    assert build(dockerfile, "--allow", "device").stdout == first.stdout


def test_M12_with_one_id_a_group_is_told_to_be_missing(
    build: Callable[..., Any], single_id: list[str]
) -> None:
    done = build(
        "FROM busybox\nRUN --device=vendor.com/accelerator=one cat /usr/lib-link;"
        " head -c 12345 /dev/of-mine/zero | wc -c\n",
        "--allow", "device", prefix=single_id,
    )  # fmt: skip
    assert "group 44 is not mapped here" in done.stderr
    assert "of-the-host" in done.stderr and "12345" in done.stderr


def test_M12_a_hook_ends_with_the_build(assemble: Any, host: Path) -> None:
    mark = f"47{os.getpid()}"
    words = ["sh", "-c", f"echo the hook runs; exec sleep {mark}"]
    write(host, "two", {"hooks": [{"hookName": "prestart", "path": "/bin/sh", "args": words}]})
    context = host / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN --device=vendor.com/accelerator=two true\n"
    )
    options = ("--cdi-spec-dir", host / "cdi", "--allow", "device", "--timeout", "1h")
    command = assemble.command("build", *options, context)
    with subprocess.Popen(command, env=assemble.env, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        assert any(line.endswith(" the hook runs\n") for line in build.stderr)
        build.send_signal(signal.SIGALRM)  # as the timer does
        assert build.wait(60) == 124, build.stderr.read()
    assert naming(mark) == []


def test_M12_what_a_hook_mounts_is_told_to_be_lost(build: Callable[..., Any], host: Path) -> None:
    hook = host / "mounting"
    hook.write_text(ROOT_OF_A_HOOK + 'mount -t tmpfs tmpfs "$root/tmp"\n')
    hook.chmod(0o755)
    write(host, "two", {"hooks": [{"hookName": "createContainer", "path": str(hook)}]})
    dockerfile = "FROM busybox\nRUN --device=vendor.com/accelerator=two true\n"
    done = build(dockerfile, "--allow", "device")
    assert "a CDI hook mounted /tmp: the step does not have it" in done.stderr


def test_M12_copies_have_no_place_for_a_hooks_files(build: Callable[..., Any], host: Path) -> None:
    step = "FROM busybox\nRUN --device=vendor.com/accelerator={} cat /opt/driver/lib\n"
    done = build(step.format("one"), "--allow", "device", "--snapshotter", "copy", code=1)
    assert "CDI hooks need overlay mounts" in done.stderr
    mounts = [{"hostPath": str(host / "driver"), "containerPath": "/opt/driver"}]
    write(host, "two", {"mounts": mounts})
    done = build(step.format("two"), "--allow", "device", "--snapshotter", "copy")
    assert "of-the-host" in done.stderr


def test_M12_a_directory_that_is_not_there_is_a_usage_error(assemble: Any, tmp_path: Path) -> None:
    done = assemble("build", "--cdi-spec-dir", tmp_path / "none", tmp_path, code=2)
    assert "--cdi-spec-dir" in done.stderr


def test_H9_a_script_of_its_own_runs(build: Callable[..., Any]) -> None:
    done = build("FROM busybox\nRUN <<EOF\n#!/bin/sh\necho from $0\nEOF\n")
    assert " from /dev/pipes/EOF\n" in done.stderr


@every_runtime
def test_M6_a_mount_has_its_place_in_dev(
    build: Callable[..., Any], require: Callable[..., None], host: Path, runtime: str
) -> None:
    require("podman", "crun", "runc")
    out = host / "out"
    done = build(
        "FROM busybox\nRUN --mount=type=bind,source=Dockerfile,target=/dev/deep/file "
        "--mount=type=tmpfs,target=/dev/mine head -n 1 /dev/deep/file && touch /dev/mine/f\n",
        "--runtime", runtime, "-o", f"type=oci,dest={out},tar=false",
    )  # fmt: skip
    assert " FROM busybox\n" in done.stderr
    assert set(layer(out)) <= {"."}


@pytest.mark.parametrize("device", ["", "--device=vendor.com/accelerator=one "])
def test_M12_only_a_step_with_a_device_imports_what_devices_need(
    assemble: Any, host: Path, device: str
) -> None:
    """And a specification in JSON does without a YAML parser."""
    context = host / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN {device}true\n")
    done = _imported(assemble, host / "cdi", context)
    assert ("assembler.cdi.registry" in done) is bool(device)
    assert "yaml" not in done


def _imported(assemble: Any, directory: Path, context: Path) -> set[str]:
    arguments = ["build", "--allow", "device", "--cdi-spec-dir", str(directory), str(context)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "assembler", *arguments],
        env={**assemble.env}, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.root
def test_M12_root_has_the_same_from_every_runtime_and_makes_nodes_by_chroot(
    build: Callable[..., Any], require: Callable[..., None], host: Path
) -> None:
    require("podman", "crun", "runc")
    edits = json.loads((host / "cdi" / "one.json").read_text())["devices"][0]["containerEdits"]
    fuse = {"path": "/dev/fuse-of-mine", "hostPath": "/dev/fuse", "fileMode": 0o640, "uid": 5}
    del edits["hooks"]
    write(host, "two", {**edits, "deviceNodes": [*edits["deviceNodes"], fuse]})
    dockerfile = (
        "FROM busybox\nRUN --device=vendor.com/accelerator=two set -e; "
        'echo "$DRIVER $(cat /opt/driver/lib) $(head -c 3 /dev/of-mine/zero | wc -c)" > /made; '
        "stat -c '%t:%T' /dev/fuse-of-mine >> /made; stat -c 'node %a %u' /dev/fuse-of-mine; id -G\n"
    )
    digests = set()
    for runtime in (*RUNTIMES, "chroot"):
        out = host / f"out-{runtime}"
        done = build(
            dockerfile, "--no-cache", "--runtime", runtime, "--allow", "device",
            "-o", f"type=oci,dest={out},tar=false",
        )  # fmt: skip
        assert layer(out)["made"] == b"found of-the-host 3\na:e5\n"
        assert set(layer(out)) - {"."} == {"made"}
        assert ("node 640 5" in done.stderr) is (runtime == "chroot"), "others show the host's"
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.root
def test_M12_a_node_that_the_host_lacks_is_made_by_chroot_and_hooks_are_refused(
    build: Callable[..., Any], host: Path
) -> None:
    node = {"path": "/dev/null-too", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
    write(host, "two", {"deviceNodes": [{**node, "hostPath": "/dev/no-such"}]})
    dockerfile = "FROM busybox\nRUN --device=vendor.com/accelerator={} echo x > /dev/null-too\n"
    chroot = ("--runtime", "chroot", "--allow", "device")
    build(dockerfile.format("two"), *chroot)
    done = build(dockerfile.format("one"), *chroot, code=1)
    assert "CDI hooks need mounts, and none can be made here" in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("runtime", ["native", "crun", "podman", "runc"])
def test_M12_a_node_for_a_group_of_the_user_can_be_used(
    require: Callable[..., None], runtime: str
) -> None:
    """As the render nodes of a GPU. The user is the one that tests/run.sh makes."""
    require("crun", "podman", "runc")
    directory = Path(tempfile.mkdtemp(prefix="g", dir="/var/tmp"))
    try:
        os.mknod(directory / "node", stat.S_IFCHR | 0o660, os.makedev(1, 5))
        os.chown(directory / "node", 0, 54321)
        os.chmod(directory / "node", 0o660)
        nodes = [{"path": "/dev/mine", "hostPath": str(directory / "node")}]
        write(directory, "one", {"deviceNodes": nodes})
        (directory / "Dockerfile").write_text(
            'FROM scratch\nCOPY --chmod=755 busybox /\nUSER 1000\nSHELL ["/busybox", "sh", "-c"]\n'
            "RUN --device=vendor.com/accelerator /busybox head -c 77 /dev/mine | /busybox wc -c\n"
        )
        shutil.copy("/bin/busybox", directory / "busybox")
        (directory / "store").mkdir()
        user = "assembler-test"
        shutil.chown(directory, user, user)
        shutil.chown(directory / "store", user, user)
        done = subprocess.run(
            [
                "setpriv", f"--reuid={user}", f"--regid={user}", "--groups=54321", "--reset-env",
                sys.executable, "-m", "assembler", "build", f"--store={directory}/store",
                f"--cdi-spec-dir={directory}/cdi", "--allow=device", f"--runtime={runtime}",
                directory,
            ],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if runtime == "runc":
            assert "runc gives a step no groups of the host" in done.stderr
            return
        assert done.returncode == 0 and " 77\n" in done.stderr, done.stderr
        assert "RUN keeps this user's groups" in done.stderr
    finally:
        shutil.rmtree(directory)
