"""A build of which everything is cached looks up, and does nothing else: 30 steps in 5 stages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parent.parent.parent
WATCHED = """
import json, sys
seen = []
kinds = ("socket.", "subprocess.", "ctypes.", "os.fork", "os.exec", "os.posix_spawn", "os.system")
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(kinds) else None)
from assembler.cli.main import run
status = run()
print(json.dumps([sorted(set(seen)), sorted(sys.modules)]), file=sys.stderr)
sys.exit(status)
"""
HEAVY = frozenset(
    """httpx httpcore rich pyoci zstandard isal ssl socket asyncio subprocess tempfile logging
    concurrent.futures click inspect dataclasses tomllib ctypes uuid shutil assembler.engine.stage
    assembler.engine.realisation assembler.linux.syscalls assembler.linux.userns
    assembler.registry.client assembler.registry.push assembler.net.client""".split()
)


def context(directory: Path) -> Path:
    """The Dockerfile with a small context."""
    for name in ("tools", "assets", "etc", "package_0/src"):
        (directory / name).mkdir(parents=True)
        for number in range(5):
            (directory / name / f"file_{number}").write_text(f"{name} {number}\n")
    shutil.copy(ROOT / "fixtures/cached/Dockerfile", directory)
    return directory


@pytest.fixture
def built(assemble: Any, tmp_path: Path) -> Path:
    """A context that is built, so that all of it is cached."""
    place = context(tmp_path / "context")
    assemble("build", "-q", "-t", "cached", place)
    return place


def watched(assemble: Any, *words: str | Path) -> tuple[list[str], set[str], str]:
    """What a build does that it need not, the modules it imports, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "build", *map(str, words)],
        env=dict(assemble.env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *said, last = done.stderr.splitlines()
    seen, modules = json.loads(last)
    return seen, set(modules), "\n".join(said)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-t", "cached", "-t", "other:1"),
        ("-q", "--iidfile", "iid", "--metadata-file", "metadata"),
        ("--cache-from", "127.0.0.1:9/nobody/listens:1", "--cache-from", "type=local,src=nowhere"),
    ],
)
def test_what_is_cached_opens_no_socket_makes_no_process_and_imports_nothing_heavy(
    assemble: Any, built: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    words = tuple(str(tmp_path / word) if word in ("iid", "metadata") else word for word in words)
    seen, modules, said = watched(assemble, *words, built)
    assert seen == [], "ctypes is what a namespace would be entered by"
    assert not HEAVY & modules
    assert not {name for name in modules if name.startswith("assembler.registry.")} - {
        "assembler.registry.registries_conf",
        "assembler.registry.plain_toml",
    }
    if "-q" not in words:
        assert said.count("CACHED") >= 30


def test_what_is_required_to_be_cached_and_is_compares_nothing(assemble: Any, built: Path) -> None:
    seen, modules, _ = watched(assemble, "--require-cached", built)
    compared = {"engine.earlier", "engine.nearest", "plan.differences", "plan.wording"}
    assert seen == [] and not {f"assembler.{name}" for name in compared} & modules


def test_what_is_cached_leaves_the_store_as_it_is(assemble: Any, built: Path) -> None:
    store = Path(assemble.env["ASSEMBLE_STORE"])

    def everything() -> dict[str, tuple[int, int]]:
        parts = {"builds", "uses", "leases"}  # what tells of builds themselves
        return {
            str(path.relative_to(store)): (found.st_ino, found.st_mtime_ns)
            for path in store.rglob("*")
            if (found := path.lstat()) and path.is_file() and not parts & set(path.parts)
        }

    watched(assemble, "-t", "cached", built)
    before = everything()
    watched(assemble, "-t", "cached", built)
    assert everything() == before
