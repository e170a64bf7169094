"""Mistakes and misfortunes: a clear message, the right status, nothing left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.bounds import watchdog
from tests.processes import naming

pytestmark = pytest.mark.integration


def context(tmp_path: Path, dockerfile: str) -> Path:
    """A context directory with this Dockerfile."""
    path = tmp_path / "context"
    path.mkdir()
    (path / "Dockerfile").write_text(dockerfile)
    return path


def last_error(stderr: str) -> str:
    """The `ERROR:` line."""
    return next(line for line in reversed(stderr.splitlines()) if line.startswith("ERROR: "))


@pytest.mark.parametrize(
    ("dockerfile", "message", "marked"),
    [
        ("FROM busybox\nRUNN ls\n", "unknown instruction: RUNN (did you mean RUN?)", "RUNN ls"),
        ("FROM busybox\nCOPY --from=5 a /\n", "invalid stage index 5", "COPY --from=5"),
        ("FROM busybox\nCOPY nope /\n", '"/nope": not found', "COPY nope /"),
        ("FROM busybox\nRUN echo hi && exit 7\n", "exit code: 7", "RUN echo hi"),
        (
            "FROM busybox\nCOPY --chwon=1 a /\n",
            "unknown flag: --chwon (did you mean chown?)",
            "COPY",
        ),
        ("FROM busybox\nADD http://no.invalid/x /\n", "cannot reach no.invalid", "ADD http"),
        ("FROM ${NOPE}\n", "should not be blank", "FROM"),
    ],
)
def test_the_authors_mistakes_name_their_line(
    assemble: Any, tmp_path: Path, dockerfile: str, message: str, marked: str
) -> None:
    done = assemble("build", context(tmp_path, dockerfile), code=1)
    assert message in last_error(done.stderr)
    assert any(">>>" in line and marked in line for line in done.stderr.splitlines())


def test_a_missing_stage_is_suggested(assemble: Any, registry: Any, tmp_path: Path) -> None:
    hub = tmp_path / "registries.conf"
    hub.write_text(f'[[registry]]\nprefix = "docker.io"\nlocation = "{registry.host}"\n')
    path = context(tmp_path, "FROM busybox AS build\nFROM busybox\nCOPY --from=biuld /x /\n")
    done = assemble("build", path, code=1, CONTAINERS_REGISTRIES_CONF=str(hub))
    assert "library/biuld" in last_error(done.stderr)
    assert "(did you mean build?)" in last_error(done.stderr)
    assert any(">>>" in line and "--from=biuld" in line for line in done.stderr.splitlines())


def test_an_unknown_target_is_suggested(assemble: Any, tmp_path: Path) -> None:
    path = context(tmp_path, "FROM busybox AS release\n")
    done = assemble("build", "--target", "relese", path, code=1)
    assert "(did you mean release?)" in last_error(done.stderr)


def test_an_unknown_flag_is_a_usage_error(assemble: Any, tmp_path: Path) -> None:
    done = assemble("build", "--tga", "x", context(tmp_path, "FROM busybox\n"), code=2)
    assert "--tga" in done.stderr and "--tag" in done.stderr


def test_an_unreachable_registry_is_named(assemble: Any, tmp_path: Path, free_port: int) -> None:
    path = context(tmp_path, f"FROM 127.0.0.1:{free_port}/a/b\n")
    done = assemble("build", path, code=1)
    assert f"127.0.0.1:{free_port}" in last_error(done.stderr)


def test_a_missing_image_is_named_with_its_line(
    assemble: Any, registry: Any, tmp_path: Path
) -> None:
    path = context(tmp_path, f"FROM {registry.host}/no/such:tag\n")
    done = assemble("build", path, code=1)
    assert "not found" in last_error(done.stderr) and "no/such" in last_error(done.stderr)
    assert ">>>" in done.stderr


def test_a_wrong_digest_is_refused(assemble: Any, registry: Any, tmp_path: Path) -> None:
    name = f"{registry.host}/digest/test:1"
    assemble("push", "busybox", name)
    path = context(tmp_path, f"FROM {name}@sha256:{'0' * 64}\n")
    done = assemble("build", path, code=1)
    assert "not found" in last_error(done.stderr)


def test_a_changed_blob_in_the_registry_is_refused(
    assemble: Any, own_registry: Any, tmp_path: Path
) -> None:
    host, data = own_registry
    name = f"{host}/corrupt/test:1"
    assemble("push", "busybox", name)
    blobs = sorted(data.rglob("blobs/sha256/*/*/data"), key=lambda path: path.stat().st_size)
    content = bytearray(blobs[-1].read_bytes())
    content[len(content) // 2] ^= 1
    blobs[-1].write_bytes(content)
    path = context(tmp_path, f"FROM {name}\nRUN true\n")
    fresh = tmp_path / "fresh"
    done = assemble("build", path, code=1, ASSEMBLE_STORE=str(fresh))
    assert "other bytes than its digest" in last_error(done.stderr)
    assert list((fresh / "ingest").iterdir()) == [] and no_layers(fresh)


def no_layers(store: Path) -> bool:
    """Whether the store holds no layer directory, finished or not."""
    return not [path for kind in (store / "layers").iterdir() for path in kind.iterdir()]


def test_no_namespaces_is_said_with_what_would_help(
    assemble: Any, tmp_path: Path, without_namespaces: list[str]
) -> None:
    path = context(tmp_path, "FROM busybox\nRUN true\n")
    done = subprocess.run(
        [*without_namespaces, *assemble.command("build", path)],
        env=dict(assemble.env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "user namespace" in last_error(done.stderr) and "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("dockerfile", "code"),
    [
        ("FROM busybox\nRUN head -c 30000000 /dev/urandom > /big\n", 1),
        ("FROM scratch\nCOPY big /\n", 102),
    ],
)
def test_a_full_disk_is_named_and_the_store_stays_whole(
    assemble: Any, tmp_path: Path, dockerfile: str, code: int
) -> None:
    """A small tmpfs in a namespace of its own is the disk."""
    path = context(tmp_path, dockerfile)
    (path / "big").write_bytes(os.urandom(30_000_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    build, inspect = assemble.command("build", path), assemble.command("inspect", "busybox")
    script = (
        f"mount -t tmpfs -o size=8m tmpfs {disk} && cp -r $ASSEMBLE_STORE {disk}/s && "
        f"export ASSEMBLE_STORE={disk}/s && {shlex.join(build)}; code=$?; "
        f"{shlex.join(inspect)} > {tmp_path}/inspected && "
        f"ls -A {disk}/s/ingest {disk}/s/scratch > {tmp_path}/left; exit $code"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env=dict(assemble.env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "no space left on the file system of" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Digest:" in (tmp_path / "inspected").read_text(), "the store is still readable"
    left = (tmp_path / "left").read_text().split()
    assert left == [f"{disk}/s/ingest:", f"{disk}/s/scratch:"], "nothing half-written is left"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_run_leaves_nothing(assemble: Any, tmp_path: Path, number: int) -> None:
    mark = f"31{os.getpid()}{number:02d}"
    path = context(
        tmp_path,
        f"FROM busybox\nRUN trap '' TERM; (setsid sleep {mark} &); echo ready; sleep {mark}\n",
    )
    before = Path("/proc/self/mountinfo").read_text()
    process = subprocess.Popen(
        assemble.command("build", path), env=dict(assemble.env), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        assert any("ready" in line and "echo" not in line for line in process.stderr)
        process.send_signal(number)
        with watchdog():
            rest = process.stderr.read()
            code = process.wait()
    assert code == 128 + number, rest
    assert naming(f"sleep {mark}") == []
    assert Path("/proc/self/mountinfo").read_text() == before
    store = Path(assemble.env["ASSEMBLE_STORE"])
    assert no_layers_in_progress(store) and list((store / "ingest").iterdir()) == []
    assert list((store / "scratch").iterdir()) == []


def no_layers_in_progress(store: Path) -> bool:
    """Whether no work directory is left beside the published layers."""
    work = [p for kind in (store / "layers").iterdir() for p in kind.iterdir()]
    return not [path for path in work if path.name.startswith(".")]


def test_killed_outright_the_step_dies_and_the_next_build_sweeps(
    assemble: Any, tmp_path: Path
) -> None:
    mark = f"32{os.getpid()}"
    path = context(
        tmp_path, f"FROM busybox\nRUN (setsid sleep {mark} &); echo ready; sleep {mark}\n"
    )
    process = subprocess.Popen(
        assemble.command("build", path), env=dict(assemble.env), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        assert any("ready" in line and "echo" not in line for line in process.stderr)
        process.kill()
        process.communicate(timeout=60)  # all that it began has its stderr
    assert naming(f"sleep {mark}") == []
    (path / "Dockerfile").write_text("FROM busybox\nRUN echo fine > /fine\n")
    assemble("build", path)
    assert no_layers_in_progress(Path(assemble.env["ASSEMBLE_STORE"]))


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("FROM busybox\nRUN true\n", "layer sha256:"),
        ("FROM scratch\nCOPY --from=busybox /bin/busybox /\n", "layer sha256:"),
        ("FROM scratch\nADD some.tar /\n", "some.tar cannot be unpacked"),
    ],
)
def test_T14_T15_more_than_layers_and_archives_may_hold_is_an_error_that_says_what_allows_it(
    assemble: Any, tmp_path: Path, dockerfile: str, message: str
) -> None:
    path = context(tmp_path, dockerfile)
    with tarfile.open(path / "some.tar", "w") as archive:
        for name in "abc":
            archive.addfile(tarfile.TarInfo(name))
    ceilings = {"ASSEMBLE_MAX_ENTRIES": ("2", "more than 2"), "ASSEMBLE_MAX_LAYER": ("1k", "1024")}
    for variable, (most, said) in ceilings.items():
        done = assemble("build", path, code=1, **{variable: most})
        assert message in last_error(done.stderr) and said in last_error(done.stderr)
        assert f"hint: {variable} allows more" in done.stderr
    assemble("build", path, ASSEMBLE_MAX_ENTRIES="1000", ASSEMBLE_MAX_LAYER="1gb")


def test_T14_T15_a_whole_image_and_a_context_in_an_archive_may_hold_no_more_either(
    assemble: Any, tmp_path: Path
) -> None:
    path, image = context(tmp_path, "FROM scratch\nCOPY Dockerfile /\n"), tmp_path / "image.tar"
    assemble("build", "-o", f"type=oci,dest={image}", path)
    archive = tmp_path / "context.tar"
    subprocess.run(["tar", "-cf", archive, "-C", path, "."], check=True)
    shell = shlex.join(assemble.command("build", "-"))
    for variable, most in (("ASSEMBLE_MAX_ENTRIES", "1"), ("ASSEMBLE_MAX_LAYER", "1000")):
        done = assemble("import", image, "some", code=1, **{variable: most})
        assert f"hint: {variable} allows more" in done.stderr
        piped = subprocess.run(
            ["sh", "-c", f"{shell} <{shlex.quote(str(archive))}"],
            env={**assemble.env, variable: most}, capture_output=True, text=True,
        )  # fmt: skip
        assert piped.returncode == 1 and f"hint: {variable} allows more" in piped.stderr
    assemble("import", image, "some")
