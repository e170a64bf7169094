"""The linters are tests: ruff, mypy --strict, and the arrows between packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "ruff check": ["ruff", "check", "--no-cache", "."],
    "ruff format": ["ruff", "format", "--no-cache", "--check", "."],
    "mypy": ["mypy", "--no-incremental", "--cache-dir=/dev/null"],
    "import-linter": ["lint-imports", "--no-cache"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_linter(name: str) -> None:
    program, *arguments = COMMANDS[name]
    path = Path(sys.executable).parent / program
    done = subprocess.run(
        [str(path), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
