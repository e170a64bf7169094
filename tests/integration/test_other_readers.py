"""Other tools read what we write, and build the same from the same file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

DOCKERFILE = """\
FROM busybox AS build
RUN mkdir /made && echo one > /made/one && chmod 4755 /made/one && ln /made/one /made/two
FROM busybox
LABEL purpose=test
ENV GREETING="hello there"
WORKDIR /srv/data
COPY --from=build /made /made/
COPY tree /tree
RUN rm /etc/group && rm -rf /var/log && mkdir -m 700 /var/log && ln -s /nowhere /dangling
CMD ["sh", "-c", "echo $GREETING; cat /made/two"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    (path / "tree/deep").mkdir(parents=True)
    (path / "Dockerfile").write_text(DOCKERFILE)
    (path / "tree/a").write_text("a")
    (path / "tree/deep/b").write_text("b")
    (path / "tree/link").symlink_to("deep/b")
    (path / "tree/a").chmod(0o640)
    return path


def test_skopeo_umoci_and_podman_read_layout_and_archives(
    assemble: Any, podman: Any, require: Callable[..., None], context: Path, tmp_path: Path
) -> None:
    require("skopeo", "umoci")
    layout, oci, docker = tmp_path / "layout", tmp_path / "oci.tar", tmp_path / "docker.tar"
    digest = assemble(
        "build", "-t", "readers:1", "-o", f"type=oci,dest={layout},tar=false",
        "-o", f"type=oci,dest={oci}", "-o", f"type=docker,dest={docker}", context,
    ).stdout.strip()  # fmt: skip
    for source in (f"oci:{layout}:1", f"oci-archive:{oci}", f"docker-archive:{docker}"):
        inspected = json.loads(podman.skopeo("inspect", source))
        assert inspected["Labels"] == {"purpose": "test"}, source
    assert json.loads(podman.skopeo("inspect", f"oci:{layout}:1"))["Digest"] == digest
    podman.umoci_unpack(layout, "1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/made/two").read_text() == "one\n"
    podman("load", "-i", str(docker))
    output = podman(
        "run", "--rm", "--network=host", "--cgroups=no-conmon", "docker.io/library/readers:1"
    )
    assert output == "hello there\none\n"


def test_an_archive_and_a_layout_are_pushed_and_come_back_the_same(
    assemble: Any, registry: Any, context: Path, tmp_path: Path
) -> None:
    layout, docker = tmp_path / "layout", tmp_path / "docker.tar"
    digest = assemble(
        "build", "-t", "back:1", "-o", f"type=oci,dest={layout},tar=false",
        "-o", f"type=docker,dest={docker}", context,
    ).stdout  # fmt: skip
    for subject in (layout, docker):
        name = f"{registry.host}/back/{subject.name.partition('.')[0]}:1"
        assert assemble("push", subject, name).stdout == digest
        assert assemble("pull", name).stdout == digest
        assert assemble("inspect", name).stdout.split()[1] == digest.strip()


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Every path below `root`: kind, mode, owner, link or content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            what: object = ""
            if path.is_symlink():
                what = os.readlink(path)
            elif path.is_file():
                what = (path.read_bytes(), status.st_nlink)
            mode = 0 if path.is_symlink() else stat.S_IMODE(status.st_mode)
            relative = str(path.relative_to(root))
            found[relative] = (
                stat.S_IFMT(status.st_mode),
                mode,
                status.st_uid,
                status.st_gid,
                what,
            )
    return found


def test_buildah_builds_the_same_tree_from_the_same_file(
    assemble: Any, podman: Any, require: Callable[..., None], context: Path, tmp_path: Path
) -> None:
    require("buildah", "umoci", "skopeo")
    base, ours, theirs = tmp_path / "base.tar", tmp_path / "ours", tmp_path / "theirs"
    assemble("build", "-t", "ours:1", "-o", f"type=oci,dest={ours},tar=false", context)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "Dockerfile").write_text("FROM busybox\n")
    assemble(
        "build", "-t", "docker.io/library/busybox:latest", "-o", f"type=docker,dest={base}", empty
    )
    podman.buildah("pull", f"docker-archive:{base}")
    podman.buildah("bud", "--isolation=chroot", "--layers", "-t", "theirs:1", str(context))
    podman.buildah("push", "theirs:1", f"oci:{theirs}:1")
    for layout in (ours, theirs):
        podman.umoci_unpack(layout, "1", tmp_path / f"{layout.name}-bundle")
    left = listing(tmp_path / "ours-bundle/rootfs")
    right = listing(tmp_path / "theirs-bundle/rootfs")
    ignored = {
        "run",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
        "proc",
        "sys",
        "dev",
    }
    differing = {
        path: (left.get(path), right.get(path))
        for path in left.keys() | right.keys()
        if left.get(path) != right.get(path) and path not in ignored and not path.startswith("run/")
    }
    assert differing == {}


def test_the_store_is_a_layout_that_skopeo_reads(
    assemble: Any, podman: Any, require: Callable[..., None]
) -> None:
    require("skopeo")
    store = assemble.env["ASSEMBLE_STORE"]
    name = "docker.io/library/busybox:latest"
    inspected = json.loads(podman.skopeo("inspect", f"oci:{store}:{name}"))
    assert inspected["Os"] == "linux"


def test_the_command_line_keeps_names(assemble: Any) -> None:
    assemble("tag", "busybox", "example.com/a/b:1", "c")
    rows = json.loads(assemble("images", "--format", "json").stdout)
    assert {row["name"] for row in rows} == {"busybox:latest", "example.com/a/b:1", "c:latest"}
    assemble("rmi", "c")
    assert "c:latest" not in assemble("images").stdout
    missing = assemble("rmi", "c", code=1)
    assert "no image named c:latest" in missing.stderr
    assert isinstance(subprocess.list2cmdline(assemble.command("images")), str)


def test_CL1_pull_asks_the_registry_again_and_else_the_store_is_enough(
    assemble: Any, own_registry: tuple[str, Path], tmp_path: Path
) -> None:
    host, _ = own_registry
    for number in (1, 2):
        context = tmp_path / str(number)
        context.mkdir()
        (context / "Dockerfile").write_text(f"FROM busybox\nLABEL n={number}\n")
    using = tmp_path / "using"
    using.mkdir()
    (using / "Dockerfile").write_text(f"FROM {host}/moving:1\nRUN true\n")
    other = {"ASSEMBLE_STORE": str(tmp_path / "other")}
    assemble("build", "-t", f"{host}/moving:1", "--push", tmp_path / "1")
    first = assemble("build", using, **other).stdout
    assemble("build", "-t", f"{host}/moving:1", "--push", tmp_path / "2")
    assert assemble("build", using, **other).stdout == first
    assert assemble("build", "--pull", using, **other).stdout != first
