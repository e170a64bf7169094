"""Bases that stay in their registry: what is fetched, stored and mounted (design decision 1)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from assembler.testing import Answer, Asked, MemoryRegistry

pytestmark = pytest.mark.integration

BIG = 4_000_000
SMALL = 200_000  # bytes of all that is no layer of the base
LINKED = 'FROM {base}\nCOPY --link f /srv/app/f\nCMD ["x"]\n'
COPIED = 'FROM {base}\nCOPY f /app/f\nCMD ["x"]\n'


class Site:
    """A registry that holds `base`, with /app a link to /srv; `build` with a store of its own."""

    def __init__(self, assemble: Any, relay: Any, directory: Path) -> None:
        self.assemble = assemble
        self.relay = relay
        self.directory = directory
        self.base = f"{relay.host}/team/base:1"
        (directory / "base").mkdir()
        (directory / "base/srv").mkdir()
        (directory / "base/srv/big").write_bytes(os.urandom(BIG))
        (directory / "base/app").symlink_to("srv")
        (directory / "base/Dockerfile").write_text("FROM scratch\nCOPY . /\n")
        self.run("build", "--push", "-t", self.base, directory / "base", store="maker")
        relay.moved()

    def run(self, *words: str | Path, store: str = "cold", code: int = 0) -> str:
        """The command with the store `store`; its stdout."""
        made = self.directory / store
        done = self.assemble(*words, code=code, ASSEMBLE_STORE=str(made))
        return str(done.stdout if code == 0 else done.stderr).strip()

    def build(self, text: str, *words: str, store: str = "cold", content: str = "f") -> str:
        """Build `text`; the image's digest."""
        context = self.directory / "context"
        context.mkdir(exist_ok=True)
        (context / "f").write_text(content)
        (context / "Dockerfile").write_text(text.format(base=self.base))
        return self.run("build", *words, context, store=store)

    def layers(self, store: str = "cold") -> list[int]:
        """The sizes of large blobs in the store."""
        sizes = [p.stat().st_size for p in (self.directory / store / "blobs/sha256").iterdir()]
        return [size for size in sizes if size > BIG / 2]

    def files(self, name: str) -> set[str]:
        """The names of all files in the image `name`, pulled into a store of its own."""
        self.run("pull", name, store="reader")
        shown = json.loads(self.run("inspect", "--format", "json", name, store="reader"))
        found: set[str] = set()
        for layer in shown["manifest"]["layers"]:
            hex = layer["digest"].removeprefix("sha256:")
            blob = self.directory / "reader/blobs/sha256" / hex
            with tarfile.open(blob) as archive:
                found |= {member.name for member in archive if member.isfile()}
        return found


@pytest.fixture
def site(assemble: Any, relay: Any, tmp_path: Path) -> Site:
    return Site(assemble, relay, tmp_path)


def test_a_linked_copy_is_pushed_without_a_byte_of_its_base(site: Site) -> None:
    name = f"{site.relay.host}/other/app:1"
    site.build(LINKED, "--push", "-t", name)
    moved = site.relay.moved()
    assert moved["received"] < SMALL and moved["sent"] < SMALL
    assert site.layers() == []
    assert site.files(name) == {"srv/big", "Dockerfile", "srv/app/f"}


def test_a_copy_reads_its_base_once_and_stores_only_its_index(site: Site) -> None:
    name = f"{site.relay.host}/other/app:1"
    site.build(COPIED, "--push", "-t", name)
    moved = site.relay.moved()
    assert BIG < moved["received"] < BIG + SMALL and moved["sent"] < SMALL
    assert site.layers() == []
    assert site.files(name) == {"srv/big", "Dockerfile", "srv/f"}
    site.relay.moved()
    site.build(COPIED, "--push", "-t", name, content="changed")
    moved = site.relay.moved()
    assert moved["received"] < SMALL and moved["sent"] < SMALL


def test_a_copy_onto_a_base_with_a_table_of_contents_reads_the_table(site: Site) -> None:
    tabled, name = f"{site.relay.host}/team/tabled:1", f"{site.relay.host}/other/app:1"
    output = f"type=registry,name={tabled},compression=zstd:chunked"
    site.run("build", "-o", output, site.directory / "base", store="maker")
    site.relay.moved()
    site.build(COPIED.format(base=tabled), "--push", "-t", name)
    moved = site.relay.moved()
    assert moved["received"] < SMALL and moved["sent"] < SMALL
    assert site.layers() == []
    shown = json.loads(site.run("inspect", "--format", "json", name))
    assert shown["manifest"]["layers"][-1]["size"] < SMALL
    hex = shown["manifest"]["layers"][-1]["digest"].removeprefix("sha256:")
    with tarfile.open(site.directory / "cold/blobs/sha256" / hex) as archive:
        assert [member.name for member in archive if member.isfile()] == ["srv/f"]


def test_an_image_that_stays_in_the_store_is_whole(site: Site) -> None:
    site.build(LINKED, "-t", "app:1")
    assert len(site.layers()) == 1
    site.build(LINKED, "-t", "app:1", "-o", f"type=oci,dest={site.directory}/layout,tar=false")
    sizes = [p.stat().st_size for p in (site.directory / "layout/blobs/sha256").iterdir()]
    assert len([size for size in sizes if size > BIG / 2]) == 1


def test_an_image_whose_base_is_elsewhere_can_be_used_as_any_other(site: Site) -> None:
    name = f"{site.relay.host}/other/app:1"
    digest = site.build(LINKED, "--push", "-t", name)
    site.relay.moved()
    again = f"{site.relay.host}/third/app:2"
    assert site.run("push", name, again) == digest  # mounted
    moved = site.relay.moved()
    assert moved["received"] < SMALL and moved["sent"] < SMALL
    assert site.layers() == []
    assert "not there" not in site.run("store", "check")
    assert digest in site.run("inspect", name)
    site.run("tag", name, "renamed:1")  # under this name no registry has it
    assert len(site.layers()) == 1
    assert site.run("push", "renamed:1", f"{site.relay.host}/fourth/app:1") == digest


def test_a_registry_that_lacks_the_base_is_sent_it(site: Site, registry: Any) -> None:
    name = f"{registry.host}/elsewhere/app:{site.relay.host.rpartition(':')[2]}"
    site.build(LINKED, "--push", "-t", name)
    assert BIG < site.relay.moved()["received"] < BIG + SMALL
    assert site.files(name) == {"srv/big", "Dockerfile", "srv/app/f"}


def test_a_base_that_must_be_sent_is_fetched_once(site: Site, registry: Any) -> None:
    name = f"{registry.host}/another/app:{site.relay.host.rpartition(':')[2]}"
    site.build(COPIED, "--push", "-t", name)  # its index is made while it comes into the store
    assert BIG < site.relay.moved()["received"] < BIG + SMALL
    assert len(site.layers()) == 1
    site.build(COPIED, "--push", "-t", name, store="another", content="more")
    assert site.layers("another") == []  # by now the registry has it


def test_files_are_taken_out_of_a_base_that_is_elsewhere(site: Site) -> None:
    text = "FROM scratch\nCOPY --from={base} /app/big /Dockerfile /out/\n"
    site.build(text, "-t", "out:1")
    assert BIG < site.relay.moved()["received"] < BIG + SMALL
    assert not (site.directory / "cold/layers").exists() or not list(
        (site.directory / "cold/layers").iterdir()
    )


def test_ctrl_c_while_a_base_is_read_leaves_nothing(assemble: Any, tmp_path: Path) -> None:
    silenced: list[str] = []
    asked_for, over = threading.Event(), threading.Event()

    def silent(asked: Asked) -> Answer | None:
        if asked.method == "GET" and asked.path.rpartition("/")[2] in silenced:
            asked_for.set()
            over.wait()
        return None

    (tmp_path / "base").mkdir()
    (tmp_path / "base/f").write_bytes(os.urandom(BIG))
    (tmp_path / "base/Dockerfile").write_text("FROM scratch\nCOPY f /f\n")
    with MemoryRegistry(fault=silent) as registry:
        base = f"{registry.host}/base:1"
        assemble("build", "--push", "-t", base, tmp_path / "base")
        shown = json.loads(assemble("inspect", "--format", "json", base).stdout)
        silenced.append(shown["manifest"]["layers"][0]["digest"])
        (tmp_path / "base/Dockerfile").write_text(f"FROM {base}\nCOPY Dockerfile /x\n")
        store = tmp_path / "cold"
        name = f"{registry.host}/app:1"
        command = assemble.command(
            "build", "--push", "-t", name, "--progress", "plain", tmp_path / "base"
        )
        process = subprocess.Popen(
            command, env={**assemble.env, "ASSEMBLE_STORE": str(store)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            assert any("[internal] read " in line for line in process.stderr)
            assert asked_for.wait(60)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=40)  # the server has sixty seconds
        finally:
            over.set()
    assert process.returncode == 130
    assert not list((store / "scratch").iterdir()) and not list((store / "ingest").iterdir())
    assert not (store / "indexes").exists()
