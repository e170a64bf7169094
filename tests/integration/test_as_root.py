"""What is different for root: an identity map, or no namespace at all."""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.processes import naming

pytestmark = [pytest.mark.integration, pytest.mark.root]


def test_root_builds_with_its_own_ids(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN touch /f && chown 12345:70000 /f && stat -c %u:%g /f\n"
    )
    first = assemble("build", tmp_path)
    assert "12345:70000" in first.stderr
    assert assemble("build", tmp_path).stdout == first.stdout


@pytest.mark.parametrize("runtime", ["native", "chroot"])
def test_the_layers_of_a_base_are_unpacked_at_once_whatever_forks(
    assemble: Any, tmp_path: Path, runtime: str
) -> None:
    """Both have a zygote: in a namespace of its own, and in none."""
    context = tmp_path / "context"
    context.mkdir()
    names = ("one", "two", "three")
    sums = ""
    for name in names:
        (context / name).write_bytes(os.urandom(600_000))
        sums += f"{hashlib.sha256((context / name).read_bytes()).hexdigest()}  {name}\n"
    (context / "sums").write_text(sums)
    text = "FROM busybox\n" + "".join(f"COPY --chown=7:8 {name} /d/\n" for name in names)
    (context / "Dockerfile").write_text(text)
    assemble("build", "-o", f"type=oci,tar=false,dest={tmp_path}/base", context)
    (context / "Dockerfile").write_text(
        "FROM base\nRUN --mount=type=bind,target=/c cd /d && sha256sum -c /c/sums"
        " && test $(stat -c %u:%g one) = 7:8\n"
    )
    store = {"ASSEMBLE_STORE": str(tmp_path / "second")}
    base = ("--build-context", f"base=oci-layout://{tmp_path}/base")
    done = assemble("build", "--runtime", runtime, *base, context, **store)
    assert all(f"{name}: OK" in done.stderr for name in names)
    assemble("store", "check", **store)


DOCKERFILE = """\
FROM busybox AS build
RUN mkdir -p /out/deep && echo made > /out/deep/file && chown -R 1000:50 /out
RUN --mount=type=tmpfs,target=/scratch echo gone > /scratch/x && cat /etc/hosts > /dev/null
RUN --mount=type=secret,id=hush,target=/etc/secret --mount=type=cache,target=/cache \\
    cat /etc/secret > /cache/was && echo someone:x:1234:1234::/:/bin/sh >> /etc/passwd
RUN --mount=type=cache,target=/cache --mount=type=bind,source=file,target=/etc/bound \\
    cat /cache/was /etc/bound > /both
RUN --mount=type=secret,id=hush,target=/cache/in/it --mount=type=cache,id=other,target=/cache \\
    --mount=type=tmpfs,target=/dev/own cat /cache/in/it > /nested && touch /cache/in/beside
RUN <<EOF
#!/bin/sh
echo script > /script
EOF
WORKDIR /work
USER someone
RUN id -u > /tmp/who; umask > /tmp/umask; sleep 1000 & true
FROM busybox
COPY --from=build /out /out
COPY --from=build /tmp/who /tmp/umask /both /nested /script /
RUN ln -s /out/deep /short && rm -r /var/log && mkdir /var/log && ln /who /who2
"""


def test_root_gets_the_same_digest_from_every_runtime(
    assemble: Any, require: Any, tmp_path: Path
) -> None:
    require("podman", "crun", "runc")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "file").write_text("of the context\n")
    digests = {}
    for runtime in ("native", "podman", "crun", "runc", "chroot"):
        digests[runtime] = assemble(
            "build", "--no-cache", "--runtime", runtime, "--secret", "id=hush,env=HUSH", tmp_path,
            SOURCE_DATE_EPOCH="1700000000", HUSH="hush",
        ).stdout  # fmt: skip
    assert len(set(digests.values())) == 1, digests


MOUNT_POINTS = """\
FROM busybox
RUN --mount=type=bind,source=file,target=/etc/passwd cat /etc/passwd > /seen; rm /etc/passwd || true
RUN --mount=type=cache,target=/var/log touch /var/log/x; rm -r /var/log || true
RUN --mount=type=tmpfs,target=/s/t/u echo lost > /s/t/u/lost; rm -r /s || true
RUN rm -f /etc/hosts /etc/resolv.conf; rmdir /proc /sys /dev/shm; echo lost > /dev/lost; rm -rf /dev || true
"""


# all of the corpus but M3-mount-points-…, which demands that mount points cannot be removed
@pytest.mark.parametrize("case", [
    "C12-owners-and-modes-given", "C14-what-is-replaced", "C22-owners-from-elsewhere",
    "I5-json-and-shell-forms", "K1-workdir", "K2-user", "K3-shell", "M6-mounts",
    "M7-cache-of-two-runs", "R1-forms-and-the-path", "R3-files-of-the-run",
    "R3-links-in-place-of-the-hosts-files", "Z1-odd-names", "Z2-directories-renamed",
    "Z2-kinds-that-change", "Z2-removed-and-replaced", "Z3-hard-links",
    "Z3-hard-links-of-every-kind", "Z5-kinds-and-modes", "mount-points-that-are-taken-away",
])  # fmt: skip
def test_a_chroot_gives_the_digest_of_a_sandbox(assemble: Any, tmp_path: Path, case: str) -> None:
    context = Path(__file__).parents[2] / "fixtures/differential" / case
    if not context.exists():
        context = tmp_path
        (context / "Dockerfile").write_text(MOUNT_POINTS)
        (context / "file").write_text("of the context\n")
    digests = {
        assemble(
            "build", "-q", "--no-cache", "--runtime", runtime, context,
            SOURCE_DATE_EPOCH="1700000000",
        ).stdout
        for runtime in ("native", "chroot")
    }  # fmt: skip
    assert len(digests) == 1


def test_a_step_by_chroot_may_take_away_what_holds_a_mount(assemble: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir -p /gone/deep\n"
        "RUN --mount=type=tmpfs,target=/gone/deep --mount=type=tmpfs,target=/gone/new rm -r /gone\n"
        "RUN test ! -e /gone\n"
    )
    assemble("build", "-q", "--no-cache", "--runtime", "chroot", tmp_path)


UNSHARE_REFUSED = """\
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 272), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
libc.syscall(317, 1, 0, struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_root_of_a_container_that_may_not_unshare_runs_steps_by_chroot(
    assemble: Any, tmp_path: Path
) -> None:
    mark = f"46{os.getpid()}"
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("sleep 1000", f"sleep {mark}"))
    (tmp_path / "file").write_text("of the context\n")
    arguments = ("build", "--no-cache", "--secret", "id=hush,env=HUSH", tmp_path)
    settings = {"SOURCE_DATE_EPOCH": "1700000000", "HUSH": "hush"}
    plain = assemble(*arguments, **settings)
    prefix = [sys.executable, "-c", UNSHARE_REFUSED]
    done = assemble(*arguments, prefix=prefix, **settings)
    assert "steps run by chroot" in done.stderr
    assert done.stdout == plain.stdout
    assert naming(f"sleep {mark}") == [], "background jobs die"


def test_chroot_cannot_keep_a_step_from_the_network_and_says_so(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN --network=none true\n")
    done = assemble("build", "--runtime", "chroot", tmp_path, code=1)
    assert "needs a network namespace" in done.stderr


def test_doctor_says_that_steps_would_run_by_chroot_and_what_that_costs(assemble: Any) -> None:
    done = assemble("doctor", prefix=[sys.executable, "-c", UNSHARE_REFUSED])
    first, second, third = done.stdout.splitlines()[:3]
    assert first.startswith("ids      host: this host lets no user namespace be made")
    assert "steps run by chroot in copies" in first and "secrets on the disk" in first
    assert second.strip() == "in a container, allow unshare(2) in its seccomp profile"
    assert third.startswith("runtime  chroot")


def test_a_step_that_turns_directories_into_links_reaches_nothing_outside(
    assemble: Any, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    for name in ("hosts", "hostname", "resolv.conf", "null", "keep"):
        (outside / name).parent.mkdir(exist_ok=True)
        (outside / name).write_text("mine\n")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\n"
        f"RUN --mount=type=cache,target=/cache/it mv /etc /old-etc && ln -s {outside} /etc"
        f" && mv /dev /old-dev && ln -s {outside} /dev"
        f" && rm -r /cache/it && ln -s {outside} /cache/it\n"
        "RUN --mount=type=cache,target=/cache/it echo seen: $(ls /cache/it)\n"
    )
    done = assemble("build", "--runtime", "chroot", "--no-cache", tmp_path)
    assert " seen:\n" in done.stderr
    found = {path.name: path.read_text() for path in outside.iterdir()}
    names = ("hosts", "hostname", "resolv.conf", "null", "keep")
    assert found == dict.fromkeys(names, "mine\n")


@pytest.mark.parametrize("runtime", ["native", "chroot"])
def test_O1_files_of_a_stage_are_root_s_and_a_tar_keeps_their_owners(
    assemble: Any, tmp_path: Path, runtime: str
) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir /d && echo x > /d/f && chown -R 1000:50 /d && chmod 4711 /d/f\n"
    )
    out, tar = tmp_path / "out", tmp_path / "x.tar"
    words = ("--runtime", runtime, "-o", out, "-o", f"type=tar,dest={tar}")
    assert assemble("build", *words, tmp_path).stdout == ""
    owners = {(one.lstat().st_uid, one.lstat().st_gid) for one in out.rglob("*")}
    assert owners == {(0, 0)} and (out / "d/f").stat().st_mode & 0o7777 == 0o4711
    with tarfile.open(tar) as archive:
        member = archive.getmember("d/f")
        assert (member.uid, member.gid, member.mode) == (1000, 50, 0o4711)
