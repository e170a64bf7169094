"""RUN --mount=type=cache, and what another machine had in it (rule M7)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from assembler.testing import Answer, Asked, MemoryRegistry

pytestmark = pytest.mark.integration


def said(stderr: str) -> list[str]:
    """What steps printed, `#N TIME text`."""
    lines = (line.split(" ", 2) for line in stderr.splitlines() if line.startswith("#"))
    return [words[2].strip() for words in lines if len(words) == 3 and words[1][:1].isdigit()]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory for a Dockerfile."""
    path = tmp_path / "context"
    path.mkdir()
    return path


def test_M7_a_step_may_have_one_cache_in_two_places(assemble: Any, context: Path) -> None:
    mount = "--mount=type=cache,id=one,sharing=locked,target="
    (context / "Dockerfile").write_text(
        f"FROM busybox\nRUN {mount}/a {mount}/b touch /a/here && echo $(ls /b)\n"
    )
    assert said(assemble("build", context, timeout=120).stderr) == ["here"]


def test_M7_a_seed_of_another_owner_where_one_id_is_mapped(
    assemble: Any, context: Path, single_id: list[str]
) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox AS seed\nRUN mkdir /seed && echo planted > /seed/f && chown 7:8 /seed/f\n"
        "FROM busybox\nRUN --mount=type=cache,target=/c,from=seed,source=/seed"
        " ls -n /c/f | awk '{ print $3, $4 }'\n"
    )
    assert said(assemble("build", context, prefix=single_id).stderr)[-1:] == ["7 8"]


CACHES = """\
FROM busybox
ARG round
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    --mount=type=cache,target=/root/.cache/pip,id=pip \\
    --mount=type=cache,target=/c,id=private,sharing=private \\
    --mount=type=cache,target=/own,uid=1000,gid=50,mode=0710 \\
    fetch
"""
FETCH = """\
#!/bin/sh -e
cd / && echo "found $(find var/cache/apt root/.cache/pip c -type f | sort | xargs)"
if test -e /c/p && test -e /own/mine && test -e /root/.cache/pip/wheel; then
    stat -c '%n %u:%g %a %h %y' /var/cache/apt /var/cache/apt/*/* /root/.cache/pip/* /own /own/*
    readlink /root/.cache/pip/latest; cat /var/cache/apt/archives/* /root/.cache/pip/* /own/*
    exit
fi
mkdir -p /var/cache/apt/archives && echo deb > /var/cache/apt/archives/a.deb
chown 42:7 /var/cache/apt/archives/a.deb && chmod 4750 /var/cache/apt/archives/a.deb
touch -d '2020-02-02 02:02:02' /var/cache/apt/archives/a.deb
cd /root/.cache/pip && rm -f same .pipe && echo wheel > wheel
ln wheel same && ln -sf wheel latest && mkfifo .pipe
echo p > /c/p; echo mine > /own/mine; chown 1000 /own/mine
"""
COLD = ["found"]
WARM = "found c/p root/.cache/pip/same root/.cache/pip/wheel var/cache/apt/archives/a.deb"


class Machine:
    """A store with busybox, which `prefix` keeps from other ids than one."""

    def __init__(self, assemble: Any, path: Path, context: Path) -> None:
        self._assemble = assemble
        self._context = context
        self.store = path
        self.prefix: list[str] = []
        self.stderr = ""

    def build(self, round: str, *options: str) -> list[str]:
        """What the steps of a build say."""
        done = self._assemble(
            "build", "--build-arg", f"round={round}", *options, self._context,
            prefix=self.prefix, ASSEMBLE_STORE=str(self.store),
        )  # fmt: skip
        self.stderr = done.stderr
        return said(done.stderr)

    @property
    def warnings(self) -> list[str]:
        """The lines that say what went not as it should."""
        return [line for line in self.stderr.splitlines() if "WARNING" in line]

    @property
    def mounts(self) -> list[str]:
        """The directories of cache mounts."""
        found = self.store.glob("mounts/*/*")
        return [path.name for path in found if re.fullmatch(r"[0-9a-f]{64}\.\d+", path.name)]


@pytest.fixture
def machines(assemble: Any, context: Path, tmp_path: Path) -> Callable[[], Machine]:
    """Makes machines that have nothing but the base."""
    own = Path(assemble.env["ASSEMBLE_STORE"])
    (context / "fetch").write_text(FETCH)
    (context / "fetch").chmod(0o755)
    (context / "Dockerfile").write_text(
        CACHES.replace("    fetch", "    --mount=type=bind,target=/b /b/fetch")
    )

    def make() -> Machine:
        path = tmp_path / f"machine-{len(list(tmp_path.glob('machine-*')))}"
        shutil.copytree(own, path)
        return Machine(assemble, path, context)

    return make


def test_M7_caches_are_carried_to_another_machine_by_a_registry(
    machines: Callable[[], Machine], relay: Any
) -> None:
    place = f"type=registry,ref={relay.host}/caches:main,mounts=true"
    first, second, third = machines(), machines(), machines()
    assert first.build("1", "--cache-to", f"{place},mode=max") == COLD
    assert not first.warnings
    seen = first.build("2")
    assert seen[0] == WARM
    assert "42:7 4750 1 2020-02-02 02:02:02" in seen[2]

    assert second.build("1", "--cache-from", place) == [], "nothing runs"
    assert second.mounts == [], "and nothing is taken over that nobody needs"
    relay.moved()
    assert second.build("1", "--cache-from", place, "--cache-to", f"{place},mode=max") == []
    assert not second.warnings
    assert relay.moved()["received"] < 100_000, "what is only passed on is not fetched"

    assert third.build("2", "--cache-from", place) == seen
    assert len(third.mounts) == 4


def test_M7_what_a_machine_has_is_never_replaced(
    machines: Callable[[], Machine], tmp_path: Path
) -> None:
    place = tmp_path / "cache"
    first, second = machines(), machines()
    first.build("1", "--cache-to", f"type=local,dest={place},mounts=true")
    assert second.build("1") == COLD
    (own,) = second.store.glob("mounts/*/*/p")
    own.write_text("own")
    shutil.rmtree(own.parent.parent / owner_of("wheel", second))
    second.build("2", "--cache-from", f"type=local,src={place},mounts=true")
    assert own.read_text() == "own"
    assert owner_of("wheel", second), "what it has not is taken over"
    assert first.build("3", "--cache-from", f"type=local,src={place}")[0] == WARM


def owner_of(name: str, machine: Machine) -> str:
    """The directory of the cache mount that has the file `name`."""
    (found,) = machine.store.glob(f"mounts/*/*/{name}")
    return found.parent.name


def test_M7_a_machine_with_one_id_has_the_owners_of_one_with_all(
    machines: Callable[[], Machine], single_id: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "cache"
    full, single, back = machines(), machines(), machines()
    single.prefix = single_id
    full.build("1", "--cache-to", f"type=local,dest={place},mounts=true")
    seen = full.build("2")
    again = tmp_path / "again"
    options = ("--cache-to", f"type=local,dest={again},mounts=true")
    assert (
        single.build("2", "--cache-from", f"type=local,src={place},mounts=true", *options) == seen
    )
    assert back.build("3", "--cache-from", f"type=local,src={again},mounts=true") == seen


@pytest.mark.root
@pytest.mark.parametrize("runtime", ["native", "chroot"])
def test_M7_root_carries_caches_too(
    machines: Callable[[], Machine], tmp_path: Path, runtime: str
) -> None:
    place, options = tmp_path / "cache", ("--runtime", runtime)
    first, second = machines(), machines()
    first.build("1", *options, "--cache-to", f"type=local,dest={place},mounts=true")
    seen = first.build("2", *options)
    assert seen[0] == WARM
    assert (
        second.build("2", *options, "--cache-from", f"type=local,src={place},mounts=true") == seen
    )


def test_M7_nothing_of_the_host_is_in_what_travels(
    machines: Callable[[], Machine], tmp_path: Path
) -> None:
    place = tmp_path / "cache"
    machines().build("1", "--cache-to", f"type=local,dest={place},mounts=true,mode=max")
    words = (str(tmp_path).encode(), os.uname().nodename.encode(), b"pytest")
    for blob in (place / "blobs/sha256").iterdir():
        content = blob.read_bytes()
        if content[:4] == b"\x28\xb5\x2f\xfd":
            content = zstandard.ZstdDecompressor().stream_reader(content).read()
        assert not [word for word in words if word in content]


def test_M7_a_mount_that_is_too_large_stays_behind_and_others_travel(
    machines: Callable[[], Machine], context: Path, tmp_path: Path
) -> None:
    place = tmp_path / "cache"
    first, second = machines(), machines()
    (context / "fetch").write_text(FETCH + "head -c 2000 /dev/zero > /c/large\n")
    first.build("1", "--cache-to", f"type=local,dest={place},mounts=true,mounts-max-size=1k")
    (warning,) = first.warnings
    assert "cache mount private is not exported: it has 2.002kB" in warning
    assert "mounts-max-size" in warning
    found, *_ = second.build(
        "1", "--cache-from", f"type=local,src={place},mounts=true", "--no-cache"
    )
    assert "wheel" in found and "c/p" not in found


def garbled(blob: Path) -> None:
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-9] + b"otherwise")


@pytest.mark.parametrize("damage", [garbled, Path.unlink])
def test_M7_a_mount_that_is_damaged_on_its_way_starts_anew(
    machines: Callable[[], Machine], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    place = tmp_path / "cache"
    machines().build("1", "--cache-to", f"type=local,dest={place},mounts=true")
    document = cache_document(place)
    (blob,) = (one["blob"]["digest"] for one in document["mounts"] if one["id"] == "pip")
    damage(place / "blobs/sha256" / blob.removeprefix("sha256:"))
    second = machines()
    found, *_ = second.build("2", "--cache-from", f"type=local,src={place},mounts=true")
    assert "wheel" not in found
    (warning,) = second.warnings
    assert f"the cache {place} is not used any more: " in warning


def cache_document(layout: Path) -> Any:
    """The document of the shared cache in `layout`."""
    blobs = layout / "blobs"
    index = json.loads((layout / "index.json").read_text())

    def of(descriptor: Any) -> Any:
        return json.loads((blobs / descriptor["digest"].replace(":", "/")).read_text())

    return of(of(index["manifests"][0])["config"])


def test_M7_a_registry_that_takes_no_mounts_has_the_cache_without_them(
    assemble: Any, context: Path
) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=cache,target=/c head -c 300000 /dev/urandom > /c/f\n"
    )

    def refused(asked: Asked) -> Answer | None:
        return Answer(403) if len(asked.body) > 100_000 else None

    with MemoryRegistry(refused) as registry:
        place = f"type=registry,ref={registry.host}/cache:1"
        done = assemble("build", context, "--cache-to", f"{place},mounts=true")
        (warning,) = (line for line in done.stderr.splitlines() if "WARNING" in line)
        assert f"cache mounts are not exported to {registry.host}/cache:1: " in warning
        assert registry.tags("cache") == ["1"]
