"""Several builds on one store at once, and big files through a small memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def test_CR05_builds_of_one_file_on_one_store_agree(assemble: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox AS a\nCOPY f /f\nRUN sleep 0.3; cat /f > /out\n"
        "FROM busybox\nCOPY --from=a /out /\nRUN ls -la / > /dev/null && mkdir /made\n"
    )
    (context / "f").write_text("content")
    env = {**assemble.env, "SOURCE_DATE_EPOCH": "1700000000"}
    builds = [
        subprocess.Popen(
            assemble.command("build", "--progress", "quiet", "-t", f"same:{number}", context),
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(6)
    ]  # fmt: skip
    results = [build.communicate(timeout=120) for build in builds]
    assert [build.returncode for build in builds] == [0] * 6, results
    assert len({out for out, _ in results}) == 1
    store = Path(assemble.env["ASSEMBLE_STORE"])
    assert not list((store / "ingest").iterdir()) and not list((store / "scratch").iterdir())


def test_a_large_layer_goes_through_a_small_memory(
    assemble: Any, registry: Any, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nCOPY big /big\nRUN cp /big /copy\n")
    with (context / "big").open("wb") as stream:
        for _ in range(40):
            stream.write(os.urandom(1 << 20) * 10)
    name = f"{registry.host}/large/layer:1"
    code = (
        "import sys\n"
        "from assembler.__main__ import main\n"
        "sys.argv = ['assemble', 'build', '--progress', 'quiet', '-t', sys.argv[2], '--push', sys.argv[1]]\n"
        "status = main()\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(peak[0].split()[1], file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code, str(context), name],
        env=dict(assemble.env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stderr.split()[-1])  # KiB
    assert peak < 200 * 1024, f"{peak} KiB for an image of 800 MiB"
    assemble("pull", name, ASSEMBLE_STORE=str(tmp_path / "second"))
