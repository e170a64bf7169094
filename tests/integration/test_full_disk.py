"""Disks that are full or cannot be written: one line that says so, and nothing left."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assembler.testing import MemoryRegistry

pytestmark = [pytest.mark.integration, pytest.mark.root]
ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = "FROM busybox\nCOPY f /f\nRUN cp /f /g\n"


@contextmanager
def mounted(directory: Path, options: str, *words: str | Path) -> Iterator[Path]:
    """A tmpfs, or what `words` mount, at `directory`."""
    directory.mkdir(exist_ok=True)
    what = words or ("-t", "tmpfs", "none")
    subprocess.run(["mount", *map(str, what), str(directory)], check=True)
    try:
        if options:
            subprocess.run(["mount", "-o", f"remount,{options}", str(directory)], check=True)
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def copied(assemble: Any, into: Path) -> dict[str, str]:
    """The environment of a copy of the store in `into`."""
    subprocess.run(["cp", "-a", assemble.env["ASSEMBLE_STORE"], into / "store"], check=True)
    return {"ASSEMBLE_STORE": str(into / "store")}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "f").write_bytes(os.urandom(6 << 20))
    return directory


def last(done: subprocess.CompletedProcess[str]) -> str:
    line = done.stderr.splitlines()[-1]
    assert line.startswith("ERROR: ")
    return line


def sound(assemble: Any, env: dict[str, str]) -> None:
    """Nothing is wrong with the store, and nothing half-written is in it."""
    assemble("store", "check", **env)
    store = Path(env["ASSEMBLE_STORE"])
    for name in ("ingest", "scratch", "leases"):
        assert not list((store / name).iterdir())
    assert not list(store.glob("layers/*/.*"))


@pytest.mark.parametrize("size", ["5m", "16m", "21m"])
def test_RS02_a_full_disk_is_named_and_pruned(
    assemble: Any, context: Path, tmp_path: Path, size: str
) -> None:
    with mounted(tmp_path / "small", f"size={size}") as small:
        env = copied(assemble, small)
        done = assemble("build", context, code=102, **env)
        assert f"no space left on the file system of {small}/store (mounted at {small}): " in last(
            done
        )
        assert "bytes free" in last(done)
        assert "hint: `assemble prune` frees" in done.stderr
        sound(assemble, env)
        assemble("prune", "--all", "--force", **env)
        assert not list(Path(env["ASSEMBLE_STORE"]).glob("layers/*/*"))
        sound(assemble, env)


def test_RS02_a_disk_that_is_full_to_the_last_byte_can_be_pruned(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", "size=40m") as small:
        env = copied(assemble, small)
        expected = assemble("build", context, SOURCE_DATE_EPOCH="1", **env).stdout
        with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        assemble("du", **env)
        assert "Total: 0B" not in assemble("prune", "--force", **env).stdout
        os.truncate(small / "filler", os.path.getsize(small / "filler") - (1 << 20))
        assert assemble("build", context, SOURCE_DATE_EPOCH="1", **env).stdout == expected


def test_RS02_a_disk_without_inodes_is_named(assemble: Any, context: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=100m,nr_inodes=70") as small:
        env = copied(assemble, small)
        done = assemble("build", context, code=102, **env)
        assert f"no inodes left on the file system of {small}/store (mounted at {small}): " in last(
            done
        )
        sound(assemble, env)


def test_RS02_a_limit_of_file_sizes_is_named(assemble: Any, context: Path, tmp_path: Path) -> None:
    env = dict(assemble.env)
    limited = ["sh", "-c", 'ulimit -f 2000; exec "$@"', "sh"]
    done = assemble("build", context, code=102, prefix=limited, **env)
    assert "has reached the limit of" in last(done) and "ulimit -f" in done.stderr
    sound(assemble, env)


def test_RS02_a_disk_that_fills_while_the_cache_is_written_is_told_in_one_line(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    expected = assemble("build", context, SOURCE_DATE_EPOCH="1").stdout
    with mounted(tmp_path / "small", "size=400k") as small:
        database = Path(assemble.env["ASSEMBLE_STORE"], "cache.db")
        database.unlink()
        database.symlink_to(small / "cache.db")
        lines = "".join(f"ENV N={n}\nWORKDIR /w{n}\n" for n in range(5))
        (context / "Dockerfile").write_text(f"FROM scratch\n{lines}")
        assemble("build", context)
        with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        many = "".join(f"WORKDIR /m{n}\n" for n in range(60))
        (context / "Dockerfile").write_text(f"{DOCKERFILE}{many}")
        done = assemble("build", context)
        told = [line for line in done.stderr.splitlines() if "cache.db" in line]
        assert len(told) == 1 and told[0].endswith("this build is not remembered"), told
        (context / "Dockerfile").write_text(DOCKERFILE)
        assert assemble("build", context, SOURCE_DATE_EPOCH="1").stdout == expected
        database.unlink()


def test_RS02_a_store_that_cannot_be_written_is_read(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    source = assemble.env["ASSEMBLE_STORE"]
    for line in ("RUN true", "RUN false"):  # the second fails
        (context / "Dockerfile").write_text(f"FROM busybox\n{line}\n")
        assemble("build", context, code=int(line == "RUN false"))
    with mounted(tmp_path / "small", "bind,ro", "--bind", source) as small:
        env = {"ASSEMBLE_STORE": str(small)}
        assert re.search(
            r"^  run       RUN false\n {12}it failed in the build before$",
            assemble("plan", context, **env).stdout,
            re.M,
        )
        (context / "Dockerfile").write_text("FROM busybox\nRUN true\n")
        assert re.search(r"^  cached    RUN true", assemble("plan", context, **env).stdout, re.M)
        (context / "Dockerfile").write_text(DOCKERFILE)
        for words in (["build", context], ["prune", "--force"], ["rmi", "busybox"]):
            done = assemble(*words, code=102, **env)
            assert f"(mounted at {small}) is read-only" in last(done)
        assert "busybox" in assemble("images", **env).stdout
        assert "Total:" in assemble("du", **env).stdout
        assemble("store", "check", **env)


def test_RS03_a_store_on_tmpfs_works(assemble: Any, context: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=60m") as small:
        env = copied(assemble, small)
        first = assemble("build", "-t", "x", context, **env)
        assert assemble("build", "-t", "x", context, **env).stdout == first.stdout
        sound(assemble, env)


def test_RS03_a_user_without_a_passwd_entry_and_home_builds(assemble: Any, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as spare:
        os.chmod(spare, 0o777)
        Path(spare, "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        user = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
        env = {"PATH": assemble.env["PATH"], "TMPDIR": spare, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*user, *assemble.command("build", spare)], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout.startswith("sha256:"), done.stderr
        assert f"the store is {spare}/assemble-54321" in done.stderr


def test_RS03_a_store_of_another_user_can_be_looked_at_and_says_whose_it_is(assemble: Any) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as spare:
        os.chmod(spare, 0o755)
        Path(spare, "context").mkdir()
        Path(spare, "context/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        store = f"{spare}/store"
        assemble("build", f"{spare}/context", ASSEMBLE_STORE=store)
        user = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
        env = {"PATH": assemble.env["PATH"], "PYTHONPATH": str(ROOT), "ASSEMBLE_STORE": store}

        def other(*words: str) -> subprocess.CompletedProcess[str]:
            command = [*user, *assemble.command(*words)]
            return subprocess.run(command, env=env, capture_output=True, text=True)

        for mode in ("u=rwX,go=", "u=rwX,go=rX"):
            subprocess.run(["chmod", "-R", mode, store], check=True)
            for words in (["build", f"{spare}/context"], ["prune", "--force"]):
                done = other(*words)
                assert done.returncode == 1
                hint, error = done.stderr.splitlines()[-2:]
                told = re.fullmatch(
                    f"ERROR: the store {store} belongs to (root|another user), and this user may"
                    r" not use it: [\w.]+: Permission denied",
                    error,
                )
                assert told is not None, error
                assert hint == (
                    f"hint: set ASSEMBLE_STORE to a directory of your own, or run this as {told[1]}"
                )
        assert re.search(r"^  cached    COPY", other("plan", f"{spare}/context").stdout, re.M)


def test_a_cache_that_has_no_room_is_an_error_or_a_warning(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "full", "size=4m") as full:
        target = f"type=local,dest={full}/cache,mode=max"
        failed = assemble("build", "--cache-to", target, context, code=102)
        assert f"the cache could not be exported to {full}/cache: " in last(failed)
        done = assemble("build", "--cache-to", f"{target},ignore-error=true", context)
        (line,) = [one for one in done.stderr.splitlines() if one.startswith("WARNING")]
        assert f"the cache could not be exported to {full}/cache: " in line
        assert not (full / "cache/index.json").exists()


def filled(disk: Path, left: int) -> Path:
    """A file that leaves `left` bytes free on `disk`."""
    found = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as stream:
        stream.write(bytes(found.f_bavail * found.f_frsize - left))
    return filler


STAGES = """\
FROM busybox AS made
COPY f /f
RUN wc -c /f > /size
FROM busybox
COPY --from=made /size /size
"""


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_RS02_a_store_that_fills_while_a_cache_is_packed_is_an_error_or_a_warning(
    assemble: Any, context: Path, tmp_path: Path, kind: str
) -> None:
    """The layer of the first stage is a directory only, and is packed for the cache."""
    (context / "Dockerfile").write_text(STAGES)
    with MemoryRegistry() as registry, mounted(tmp_path / "small", "size=100m") as small:
        env = copied(assemble, small)
        expected = assemble("build", context, **env).stdout
        filler = filled(small, 3 << 20)
        name = f"{registry.host}/team/cache:1" if kind == "registry" else f"{tmp_path}/cache"
        place = f"type=registry,ref={name}" if kind == "registry" else f"type=local,dest={name}"
        failed = assemble("build", "--cache-to", f"{place},mode=max", context, code=102, **env)
        said = f"the cache could not be exported to {name}: "
        assert said in last(failed) and "no space left on the file system of" in last(failed)
        ignored = ("--cache-to", f"{place},mode=max,ignore-error=true")
        done = assemble("build", *ignored, context, **env)
        (line,) = [one for one in done.stderr.splitlines() if one.startswith("WARNING")]
        assert said in line and "no space left on the file system of" in line
        assert done.stdout == expected
        assert not registry.manifests and not (tmp_path / "cache/index.json").exists()
        filler.unlink()
        sound(assemble, env)
        assert "WARNING" not in assemble("build", *ignored, context, **env).stderr
