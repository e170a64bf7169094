"""The same Dockerfile under every runtime gives the same image."""

from __future__ import annotations

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
RUN ln -s /out/deep /short && rm -r /var/log && mkdir /var/log && ln /who /who2
"""


def test_every_runtime_gives_the_same_digest(
    assemble: Any, require: Callable[..., None], tmp_path: Path
) -> None:
    require("podman", "crun", "runc")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("from the context\n")
    digests = {
        runtime: assemble(
            "build", "--no-cache", "--runtime", runtime, context, SOURCE_DATE_EPOCH="1700000000"
        ).stdout
        for runtime in ("native", "podman", "crun", "runc")
    }
    assert len(set(digests.values())) == 1, digests


def test_one_id_gives_the_same_digest(assemble: Any, single_id: list[str], tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("from the context\n")
    digests = [
        assemble(
            "build", "--no-cache", context, prefix=prefix, SOURCE_DATE_EPOCH="1700000000"
        ).stdout
        for prefix in ([], single_id)
    ]
    assert digests[0] == digests[1]
