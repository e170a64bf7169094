"""`make demo`, twice, in a copy of the checkout: the second time everything is cached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parent.parent.parent


def demo(assemble: Any, directory: Path) -> subprocess.CompletedProcess[str]:
    """The demo's build, on the store of `assemble`."""
    return assemble(
        "build",
        "-t",
        "demo",
        "-o",
        f"type=oci,dest={directory}/image,tar=false",
        ROOT / "fixtures/demo",
    )


def test_the_demo_builds_two_branches_and_is_cached_the_second_time(
    assemble: Any, tmp_path: Path
) -> None:
    first = demo(assemble, tmp_path)
    assert "nobody needs this stage" not in first.stderr
    second = demo(assemble, tmp_path)
    assert second.stdout == first.stdout
    steps = [line for line in second.stderr.splitlines() if " RUN " in line or " COPY " in line]
    assert steps and second.stderr.count("CACHED") >= len(steps)
    shown = assemble("inspect", tmp_path / "image").stdout
    assert first.stdout.strip() in shown and "httpd" in shown


def test_the_second_build_enters_no_namespace_and_imports_nothing_heavy(
    assemble: Any, tmp_path: Path
) -> None:
    demo(assemble, tmp_path)
    code = (
        "import sys, os\n"
        "from assembler.linux import syscalls\n"
        "def refuse(flags): raise AssertionError('a namespace was entered')\n"
        "syscalls.unshare = refuse\n"
        "from assembler.__main__ import main\n"
        "sys.argv = ['assemble', 'build', '-t', 'demo', sys.argv[1]]\n"
        "status = main()\n"
        "heavy = {'httpx', 'rich', 'pyoci', 'ssl', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "fixtures/demo"],
        env=dict(assemble.env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert os.path.isdir(ROOT / "fixtures/demo")


def test_a_single_id_is_enough_for_the_demo(
    assemble: Any, tmp_path: Path, single_id: list[str]
) -> None:
    done = subprocess.run(
        [*single_id, *assemble.command("build", "-t", "demo", ROOT / "fixtures/demo")],
        env=dict(assemble.env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
