"""The same Dockerfile under every runtime gives the same image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

DOCKERFILE = """\
FROM busybox AS build
RUN mkdir -p /out/deep && echo made > /out/deep/file && chown -R 1000:50 /out
RUN --mount=type=tmpfs,target=/scratch echo gone > /scratch/x && echo someone:x:1234:1234::/:/bin/sh >> /etc/passwd
WORKDIR /work
COPY --chown=someone file .
USER someone
RUN id -u > /work/../tmp/who && umask > /tmp/umask
FROM busybox
COPY --from=build /out /out
COPY --from=build /tmp/who /tmp/umask /
RUN mknod /null c 1 3 && mknod -m 660 /disk b 259 7 && mknod /fifo p && mv /disk /moved
RUN ln -s /out/deep /short && rm -r /var/log && mkdir /var/log && ln /who /who2
"""


def test_every_runtime_gives_the_same_digest_with_every_id_map(
    assemble: Any, require: Callable[..., None], single_id: list[str], tmp_path: Path
) -> None:
    require("podman", "crun", "runc")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("from the context\n")
    digests = {
        (runtime, ids): assemble(
            "build", "--no-cache", "--runtime", runtime, context, prefix=prefix,
            SOURCE_DATE_EPOCH="1700000000",
        ).stdout
        for runtime in ("native", "podman", "crun", "runc")
        for ids, prefix in (("all", []), ("one", single_id))
    }  # fmt: skip
    assert len(set(digests.values())) == 1, digests


CASES = Path(__file__).parents[2] / "fixtures/differential"
CORPUS = (
    "C12-owners-and-modes-given", "C14-what-is-replaced", "C22-owners-from-elsewhere",
    "I5-json-and-shell-forms", "K1-workdir", "K2-user", "K3-shell",
    "M3-mount-points-and-what-is-beside", "M6-mounts", "M7-cache-of-two-runs",
    "R1-forms-and-the-path", "R3-files-of-the-run", "R3-links-in-place-of-the-hosts-files",
    "Z1-odd-names", "Z2-directories-renamed", "Z2-kinds-that-change", "Z2-removed-and-replaced",
    "Z3-hard-links",
    "Z3-hard-links-of-every-kind", "Z5-kinds-and-modes",
)  # fmt: skip


@pytest.mark.parametrize("case", CORPUS)
def test_a_corpus_has_the_same_digests_under_every_runtime_and_id_map(
    assemble: Any, require: Callable[..., None], single_id: list[str], case: str
) -> None:
    require("podman", "crun", "runc")
    digests = {
        (runtime, ids): assemble(
            "build", "-q", "--no-cache", "--runtime", runtime, CASES / case, prefix=prefix,
            SOURCE_DATE_EPOCH="1700000000",
        ).stdout
        for runtime in ("native", "podman", "crun", "runc")
        for ids, prefix in (("all", []), ("one", single_id))
    }  # fmt: skip
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize(
    "case", ["R3-files-of-the-run", "Z2-kinds-that-change", "Z3-hard-links-of-every-kind"]
)
def test_copies_with_one_id_give_the_digest_of_copies(
    assemble: Any, single_id: list[str], case: str
) -> None:
    digests = {
        assemble(
            "build", "-q", "--no-cache", "--snapshotter", "copy", CASES / case, prefix=prefix,
            SOURCE_DATE_EPOCH="1700000000",
        ).stdout
        for prefix in ([], single_id)
    }  # fmt: skip
    assert len(digests) == 1


def test_copies_give_the_digest_that_overlays_give(assemble: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("from the context\n")
    digests = {
        kind: assemble(
            "build", "--no-cache", "--snapshotter", kind, context, SOURCE_DATE_EPOCH="1700000000"
        ).stdout
        for kind in ("overlay", "copy")
    }
    assert digests["overlay"] == digests["copy"]


@pytest.mark.parametrize("case", CORPUS)
def test_a_corpus_has_the_same_digests_in_copies(assemble: Any, case: str) -> None:
    digests = {
        kind: assemble(
            "build", "-q", "--no-cache", "--snapshotter", kind, CASES / case,
            SOURCE_DATE_EPOCH="1700000000",
        ).stdout
        for kind in ("overlay", "copy")
    }  # fmt: skip
    assert digests["overlay"] == digests["copy"]


ON_AN_OVERLAY = """\
set -e
mkdir -p "$0/lower" "$0/upper" "$0/work" "$0/store"
mount -t overlay overlay -o "lowerdir=$0/lower,upperdir=$0/upper,workdir=$0/work,userxattr" "$0/store"
exec env PATH=/nowhere "$@"
"""


def test_where_overlays_are_refused_steps_run_in_copies(assemble: Any, tmp_path: Path) -> None:
    """As in a container whose store lies on its own root file system, without fuse-overlayfs."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM scratch\n"
        "COPY --chmod=755 busybox /bin/sh\nCOPY --chmod=755 busybox /bin/rm\nCOPY busybox /gone\n"
        "RUN echo made > /f; rm /gone\nRUN test ! -e /gone && rm /f\n"
    )
    shutil.copy("/bin/busybox", context / "busybox")
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_AN_OVERLAY, str(tmp_path)]
    out = tmp_path / "out"
    done = assemble(
        "build", "--store", tmp_path / "store", "-o", f"type=oci,dest={out},tar=false", context,
        prefix=prefix, SOURCE_DATE_EPOCH="1700000000",
    )  # fmt: skip
    assert "steps run in copies" in done.stderr
    assert (out / "index.json").exists()
    plain = assemble(
        "build", "-q", "--store", tmp_path / "plain", context, SOURCE_DATE_EPOCH="1700000000"
    )
    assert done.stdout == plain.stdout


def test_a_snapshotter_that_cannot_be_used_is_refused_with_what_would_help(
    assemble: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    options = ("build", "--snapshotter", "fuse-overlayfs", tmp_path)
    done = assemble(*options, code=1, PATH="/nowhere")
    assert "fuse-overlayfs cannot be used here: fuse-overlayfs is not installed" in done.stderr
    assert "apt-get install fuse-overlayfs" in done.stderr


@pytest.mark.parametrize("count", [400, 600])
def test_an_image_of_many_layers_is_built_and_run(
    assemble: Any, tmp_path: Path, count: int
) -> None:
    """Of 500 on, a kernel's overlay has no more room."""
    (tmp_path / "file").write_text("x")
    last = count - 1
    copies = "".join(f"COPY file /d/{number}\n" for number in range(count))
    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\n{copies}"
        f"RUN test $(ls /d | wc -l) = {count} && rm /d/7 /d/{last} && rm -r /var/log\n"
        f"RUN test ! -e /d/7 && test ! -e /d/{last} && test $(ls /d | wc -l) = {count - 2} && ls /d/8\n"
    )
    assemble("build", "-q", tmp_path)
