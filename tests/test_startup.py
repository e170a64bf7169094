"""Start-up pays for nothing it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from assembler.cli.commands import cli
from assembler.cli.main import COMMANDS
from assembler.testing import MemoryRegistry
from assembler.version import __version__


def imported(*arguments: str, status: int = 0) -> set[str]:
    """The modules that a run of the command line imports, which ends with `status`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "assembler", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_version_imports_nothing_of_ours_but_itself() -> None:
    ours = {name for name in imported("--version") if name.startswith("assembler")}
    assert ours <= {"assembler", "assembler.version"}
    assert not {"click", "re", "json", "dataclasses", "typing"} & (
        imported("--version") - imported_by_python()
    )


def imported_by_python() -> set[str]:
    """What Python itself imports for `-m`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "this"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize("arguments", [("--help",), ("build", "--help")])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    heavy = {"httpx", "ssl", "asyncio", "zstandard", "pyoci", "rich", "sqlite3", "urllib.request"}
    heavy |= {"yaml", "assembler.cdi"}
    assert not heavy & imported(*arguments)


def test_help_lists_every_command_without_importing_any() -> None:
    assert not {f"assembler.cli.{name}" for name in COMMANDS} & imported("--help")
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    width = max(map(len, COMMANDS)) + 2
    assert [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()] == lines[
        -len(COMMANDS) :
    ]


def test_a_build_that_finds_all_in_the_cache_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    build = ("build", "--store", str(tmp_path / "store"), str(tmp_path / "context"))
    imported(*build)
    heavy = {"httpx", "ssl", "asyncio", "zstandard", "isal", "pyoci", "rich", "yaml"}
    heavy |= {"subprocess", "tempfile", "logging", "concurrent.futures"}
    heavy |= {"assembler.engine.stage", "assembler.linux.userns", "assembler.net.client"}
    heavy |= {"assembler.store.working", "assembler.masking", "assembler.spellings"}
    assert heavy.isdisjoint(found := imported(*build)), heavy & found


def test_a_cached_build_with_a_shared_cache_speaks_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    build = ("build", "--store", str(tmp_path / "store"), str(tmp_path / "context"))
    imported(*build)
    found = imported(*build, "--cache-from", "registry.invalid/app:cache")
    heavy = {"httpx", "ssl", "zstandard", "isal", "pyoci", "rich", "concurrent.futures"}
    heavy |= {name for name in found if name.startswith(("assembler.registry", "assembler.net"))}
    assert not heavy & found


def test_a_command_that_speaks_to_a_registry_imports_no_display_and_no_event_loop(
    tmp_path: Path,
) -> None:
    with MemoryRegistry() as registry:
        found = imported("pull", f"{registry.host}/x", "--store", str(tmp_path), status=1)
    assert "httpx" in found
    assert found.isdisjoint({"rich", "asyncio", "pyoci", "isal"})


def test_version_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "assembler", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"assemble {__version__}\n"
