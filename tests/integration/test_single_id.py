"""A host that maps one id gives the image that one with all ids gives, entry by entry."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
Build = Callable[..., str]
Described = dict[str, tuple[object, ...]]


def described(store: Path, image: str) -> list[Described]:
    """What every layer holds: kind, mode, owner, link, device, size, attributes, by name."""
    blobs = store / "blobs/sha256"
    manifest = json.loads((blobs / image.removeprefix("sha256:")).read_text())
    layers = []
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            layers.append({member.name.rstrip("/"): member_of(member) for member in archive})
    return layers


def member_of(member: tarfile.TarInfo) -> tuple[object, ...]:
    attributes = sorted(pair for pair in member.pax_headers.items() if "xattr" in pair[0])
    return (
        member.type, oct(member.mode), member.uid, member.gid, member.linkname,
        (member.devmajor, member.devminor), member.size, attributes,
    )  # fmt: skip


def owners(layers: list[Described], *names: str) -> list[object]:
    """uid:gid of the uppermost entry of each name."""
    merged = {name: entry for layer in layers for name, entry in layer.items()}
    return [f"{merged[name][2]}:{merged[name][3]}" for name in names]


@pytest.fixture
def build(assemble: Any, single_id: list[str], tmp_path: Path) -> Build:
    """Builds a Dockerfile with one id or (`full=True`) with all; returns the image's digest."""

    def execute(dockerfile: str, *options: str, full: bool = False, **more: str) -> str:
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile)
        (context / "file").write_text("from the context\n")
        prefix = [] if full else single_id
        done = assemble("build", "--no-cache", *options, context, prefix=prefix, **EPOCH, **more)
        return str(done.stdout.strip())

    return execute


@pytest.fixture
def store(assemble: Any) -> Path:
    """The store that `build` uses unless it is told another."""
    return Path(assemble.env["ASSEMBLE_STORE"])


def both(
    build: Build, store: Path, dockerfile: str, runtime: str = "native"
) -> tuple[list[Described], list[Described]]:
    """`dockerfile` built with one id under `runtime`, and with all ids under the native one, in a
    store of its own, where nothing is known."""
    other = store.with_name("store-of-all-ids")
    shutil.copytree(store, other, ignore=shutil.ignore_patterns("layers", "cache.db*"))
    single = build(dockerfile, "--runtime", runtime)
    full = build(dockerfile, full=True, ASSEMBLE_STORE=str(other))
    return described(store, single), described(other, full)


every_runtime = pytest.mark.parametrize("runtime", ["native", "crun", "runc", "podman"])


# What busybox's adduser does (Debian's has no such applet).
ADDUSER = """\
RUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd && echo app:x:1000: >> /etc/group \
 && echo extra:x:50:app >> /etc/group && mkdir /home/app && chown app:app /home/app \
 && chmod 2755 /home/app && chmod 755 /home/app
"""
BUSYBOX = f"""\
FROM busybox AS base
{ADDUSER}
RUN mkdir -m 2775 /shared && chown :50 /shared
RUN su app -c 'umask 027; cd; id -un > who; mkdir -p d/e; ln -s who link; mkfifo pipe; echo x > d/f'
RUN cd /home && tar -cf /a.tar app && mkdir /u && tar -xpf /a.tar -C /u && cp -a app /copy \
 && mv /u/app /moved && touch /shared/inherited && mkdir /shared/below
RUN chown -R 7:8 /moved && chown -h 9:9 /moved/link && mv /moved/link /moved/renamed \
 && chmod 6755 /moved/who && ln /moved/who /moved/same
RUN mkdir /nodes && mknod /nodes/null c 1 3 && mknod -m 640 /nodes/disk b 259 7 \
 && chown app /nodes/disk && mknod /nodes/fifo p
RUN rm /home/app/link && ln -s who /home/app/link && touch -h /moved/renamed && chown 5 /
FROM base AS more
COPY --from=base --chown=app:50 /home/app/link /bin/busybox /copied/
COPY --from=base /home /nodes /all/
COPY --from=base /moved /moved2
WORKDIR /home/app/work
USER app
WORKDIR /home/app
RUN id -u > id; id -G >> id; touch a; rm -f /etc/x; : > /dev/null; test -O a && ls -ln | awk '{{ print $3, $4 }}' >> id
RUN --mount=type=bind,from=base,source=/home,target=/b --mount=type=cache,uid=1000,target=/c \
 cd /b/app && ls -n who link d | awk '{{ print $3, $4 }}' > ~/seen && touch /c/mine
USER root
RUN --mount=type=cache,uid=1000,target=/c ls -n /c | awk '{{ print $3, $4 }}' >> /home/app/seen
"""


@every_runtime
def test_owners_links_and_devices_are_those_of_a_full_map(
    build: Build, store: Path, require: Callable[..., None], runtime: str
) -> None:
    require("podman", "crun", "runc")
    single, full = both(build, store, BUSYBOX, runtime)
    assert single == full
    assert owners(
        single, "home/app/d/f", "home/app/pipe", "shared/inherited", "shared/below",
        "moved/renamed", "moved/who", "copy/d/e", "nodes/disk", "copied/link", "all/app/d",
        "all/disk", "moved2/renamed", "home/app/link", "home/app/work", "home/app/a",
    ) == [
        "1000:1000", "1000:1000", "0:50", "0:50", "9:9", "7:8", "1000:1000", "1000:0", "1000:50",
        "1000:1000", "1000:0", "9:9", "0:0", "0:0", "1000:1000",
    ]  # fmt: skip


def test_an_image_with_other_owners_is_a_base(build: Build, store: Path) -> None:
    build(BUSYBOX.split("FROM base AS more")[0], "-t", "owned")
    dockerfile = (
        "FROM owned\nRUN touch -h /moved/renamed /home/app/pipe && rm -r /home/app/d"
        " && chown -h 3 /moved/renamed && mv /home/app/pipe /home/app/pipe2\n"
        "COPY --chown=app file /file\nRUN ls -lnR /moved /home | awk '{ print $3, $4, $9 }' > /list\n"
    )
    single, full = both(build, store, dockerfile)
    assert single == full
    assert owners(single, "moved/renamed", "file") == ["3:9", "1000:1000"]


DEBIAN = """\
FROM debian
ARG MIRROR
RUN rm -f /etc/apt/sources.list.d/* && echo "deb $MIRROR bookworm main" > /etc/apt/sources.list \
 && apt-get update
RUN apt-get install -y --no-install-recommends cron libcap2-bin
RUN adduser --disabled-password --gecos '' app && useradd -m -G staff other
RUN su app -c 'touch ~/mine; mkdir ~/d; ln -s mine ~/link; umask 077; touch ~/d/private' \
 && su - other -c 'touch f' && chmod 2775 /home/other && touch /home/other/inherits
RUN cp /bin/true /capable && setcap cap_net_raw+ep /capable && cp -a /capable /again \
 && cp /bin/true /suid && chown app /suid && chmod 4755 /suid
RUN cd /home && tar -cpf /t.tar . && mkdir /u && tar -xpf /t.tar -C /u && mv /u /v \
 && chown -R other: /v/app && mknod /null c 1 3 && echo '* * * * * x' | crontab - && rm /t.tar
RUN ! su app -c 'touch /etc/x' && su app -c 'touch /tmp/t && test -O /tmp/t'
"""


def test_packages_and_accounts_of_debian(
    assemble: Any,
    hub: Callable[[str], None],
    registry: Any,
    single_id: list[str],
    mirror_of_apt: str,
    require: Callable[..., None],
    tmp_path: Path,
) -> None:
    require("runc")
    hub("debian")
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text(DEBIAN)
    found = []
    for runtime, name, prefix in (
        ("native", "all", []),
        ("native", "one", single_id),
        ("runc", "one", single_id),
    ):
        done = assemble(
            "build", "--no-cache", "--build-arg", f"MIRROR={mirror_of_apt}", tmp_path / "context",
            "--runtime", runtime, prefix=prefix, **EPOCH, ASSEMBLE_STORE=str(tmp_path / name),
            CONTAINERS_REGISTRIES_CONF=str(registry.mirror),
        )  # fmt: skip
        layers = described(tmp_path / name, done.stdout.strip())
        for layer in layers:
            for path, entry in layer.items():
                if path.startswith("var/log/") or path.startswith("var/cache/"):
                    layer[path] = (*entry[:6], *entry[7:])  # logs and caches hold dates
        found.append(layers)
    assert found[0] == found[1] == found[2]
    assert owners(
        found[0], "home/app/d/private", "home/app/link", "home/other/f", "home/other/inherits",
        "suid", "v/app/mine", "var/spool/cron/crontabs", "var/spool/cron/crontabs/root",
        "usr/bin/crontab",
    )[:6] == ["1000:1000", "1000:1000", "1001:1001", "0:1001", "1000:0", "1001:1001"]  # fmt: skip
    capability = found[0][5]["capable"][-1]
    assert capability == found[0][5]["again"][-1] and "\x01\x00\x00\x02" in str(
        dict(capability)["SCHILY.xattr.security.capability"]  # type: ignore[call-overload]
    ), "version 2: without a rootid"


WITH_A_LISTENER = """
import os, struct, sys
from assembler.linux import syscalls
syscalls.prctl(38, 1)
listener = syscalls.seccomp_listener(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
os.set_inheritable(listener, True)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def without_listeners(single_id: list[str]) -> list[str]:
    """A command prefix under which one id is mapped and calls cannot be supervised."""
    return [*single_id, sys.executable, "-c", WITH_A_LISTENER]


@every_runtime
def test_A1_without_a_supervisor_everything_is_roots_and_that_is_said(
    assemble: Any,
    store: Path,
    require: Callable[..., None],
    without_listeners: list[str],
    tmp_path: Path,
    runtime: str,
) -> None:
    require("podman", "crun", "runc")
    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\n{ADDUSER}"
        "RUN mkdir -m 2775 /d && chown -R app:50 /d && su app -c 'touch /d/f'\n"
        "RUN mkdir -p /etc/apt && cat /etc/apt/apt.conf.d/zz-one-id && mknod /null c 1 3"
        " && mknod /disk b 1 3 && mknod /fifo p && echo x > /dev/null && test -c /dev/null\n"
        "COPY --chown=app Dockerfile /\nUSER app\nRUN touch /g && chown 5:5 /Dockerfile\n"
    )
    options = ("--progress", "plain", "--runtime", runtime)
    done = assemble("build", tmp_path, *options, prefix=without_listeners)
    assert done.stderr.count("belongs to 0:0 in the image") == 1
    assert 'APT::Sandbox::User "root";' in done.stderr
    layers = described(store, done.stdout.strip())
    assert owners(layers, "d", "d/f", "g", "Dockerfile") == ["0:0"] * 3 + ["1000:1000"]
    assert layers[2]["d"][1] == oct(0o2775), "modes are kept"
    names = {name for layer in layers for name in layer}
    assert "fifo" in names and not names & {"null", "disk", "etc/apt/apt.conf.d/zz-one-id"}


@every_runtime
def test_with_a_full_map_too_a_step_makes_device_nodes(
    build: Build, store: Path, require: Callable[..., None], runtime: str
) -> None:
    require("podman", "crun", "runc")
    dockerfile = (
        "FROM busybox AS a\nRUN mknod /null c 1 3 && chown 5:6 /null && mv /null /moved\n"
        "RUN mkdir -p /jail/bin && cp /bin/busybox /jail/bin/sh && ln /jail/bin/sh /jail/bin/mknod"
        " && chroot /jail /bin/sh -c 'mknod /inside b 1 3 && cd bin && mknod ../here c 5 0'"
        " && ! test -e /inside\n"
        "FROM busybox\nCOPY --from=a /moved /copied\nCOPY --from=a /jail /jail\n"
    )
    single, native = both(build, store, dockerfile, runtime)
    full = described(store, build(dockerfile, "--runtime", runtime, full=True))
    assert single == native == full
    assert full[2]["jail/inside"][0] == tarfile.BLKTYPE and full[2]["jail/here"][5] == (5, 0)
    kind, mode, uid, gid, _, device, *_ = full[1]["copied"]
    assert (kind, mode, uid, gid, device) == (tarfile.CHRTYPE, oct(0o644), 5, 6, (1, 3))


def test_both_kinds_of_layers_live_in_one_store(
    assemble: Any, build: Build, single_id: list[str], tmp_path: Path
) -> None:
    dockerfile = "FROM busybox\nRUN echo x > /f && chown 5:6 /f\n"
    first = build(dockerfile)
    assert build(dockerfile, full=True) == first
    assert build(dockerfile) == first
    kinds = sorted(os.listdir(Path(assemble.env["ASSEMBLE_STORE"]) / "layers"))
    assert kinds == ["full", "recorded"]
    again = assemble("build", tmp_path / "context", prefix=single_id, **EPOCH)
    assert again.stdout.strip() == first and "CACHED" in again.stderr
    (tmp_path / "context" / "Dockerfile").write_text(dockerfile + "RUN ls -n /f > /seen\n")
    assemble("build", tmp_path / "context", **EPOCH)


def test_the_doctor_says_how_owners_are_kept(
    assemble: Any, single_id: list[str], without_listeners: list[str]
) -> None:
    told = assemble("doctor", prefix=single_id).stdout
    assert "other owners are kept in records" in told and "ok  supervised system calls" in told
    told = assemble("doctor", prefix=without_listeners).stdout
    assert "belongs to 0:0" in told and "no  supervised system calls" in told
