"""Caches that machines share, by a real registry, a layout, the image: features 72-76 and 79, the issue
of the cache, 4. A machine is a store of its own."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    Assemble,
    cache_directory,
    environment,
    needs,
    remove,
    run_fixture,
)
from tests.served import serving

pytestmark = pytest.mark.integration

DOCKERFILE = """\
FROM {host}/base:1 AS deps
RUN echo deps ran >&2; mkdir /out && head -c 300000 /dev/urandom > /out/dep; echo > /deps
FROM {host}/base:1 AS build
COPY src /src
RUN echo build ran >&2; cat /src/* > /built; head -c 300000 /dev/urandom > /noise
FROM {host}/base:1
RUN echo final ran >&2; head -c 500000 /dev/urandom > /big
COPY --from=deps /out /out
COPY --from=build /built /built
RUN echo last ran >&2; cat /built > /last; echo {last} >> /last
"""
STEPS = ["build", "deps", "final", "last"]


@dataclass(frozen=True)
class Machines:
    """Machines with one registry, which has the base image, and the same context. `team` is a part of
    the registry that is the test's own."""

    host: str
    team: str
    data: Path
    context: Path

    def write(self, source: str = "source", last: str = "1") -> None:
        """The file that is copied, and the last RUN."""
        (self.context / "src").mkdir(exist_ok=True)
        (self.context / "src/main").write_text(source)
        (self.context / "Dockerfile").write_text(DOCKERFILE.format(host=self.host, last=last))

    def build(self, machine: str, *options: str, **settings: Any) -> Any:
        """Build on `machine`."""
        command = Assemble(environment(self.context.parent / machine))
        return command("build", "--progress", "plain", *options, self.context, **settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A registry with a base image, and where its data are."""
    needs("docker-registry")
    directory = tmp_path_factory.mktemp("registry")
    with serving(directory) as host:
        run_fixture("busybox", directory / "store", f"{host}/base:1", cache_directory() / "busybox")
        push = ("push", f"{host}/base:1", f"{host}/base:1", "--progress", "quiet")
        Assemble(environment(directory / "store"))(*push)
        yield host, directory / "data"


@pytest.fixture
def machines(site: tuple[str, Path], tmp_path: Path) -> Iterator[Machines]:
    host, data = site
    context = tmp_path / "context"
    context.mkdir()
    made = Machines(host, f"{host}/{tmp_path.name.lower()}", data, context)
    made.write()
    yield made
    remove(tmp_path)


def ran(done: Any) -> list[str]:
    """The steps that ran, by what they said."""
    lines = [line.split(" ", 2)[-1] for line in done.stderr.splitlines()]
    return sorted(line.removesuffix(" ran") for line in lines if line.endswith(" ran"))


def pulled(done: Any) -> list[str]:
    """The last parts of the names that layers were pulled from."""
    lines = [line.split() for line in done.stderr.splitlines() if "[internal] pull" in line]
    titles = {(line[3], line[4]) for line in lines}
    return sorted(name.rpartition("/")[2] for name, _ in titles)


def test_73_what_one_machine_exports_another_takes_and_runs_nothing(machines: Machines) -> None:
    cache = f"{machines.team}/cache:main"
    first = machines.build("one", "--cache-to", f"type=registry,ref={cache},mode=max")
    assert ran(first) == STEPS
    second = machines.build("two", "--cache-from", cache)
    assert (ran(second), second.stdout) == ([], first.stdout)
    assert pulled(second) == ["base:1", *["cache:main"] * 4]  # the image stays in the store
    again = machines.build("two", "--cache-from", f"{machines.host}/nowhere")
    assert (ran(again), again.stdout) == ([], first.stdout)
    assert "importing" not in again.stderr  # the store knows it all


def test_79_what_is_only_forwarded_is_not_downloaded(machines: Machines) -> None:
    cache, image = f"{machines.team}/cache:main", f"{machines.team}/app:1"
    machines.build("one", "--cache-to", f"type=registry,ref={cache},mode=max")
    second = machines.build("two", "--cache-from", cache, "--push", "-t", image)
    assert (ran(second), pulled(second)) == ([], [])
    third = machines.build("three", "--cache-from", cache, "-t", image)
    assert third.stdout == second.stdout
    # what a machine has seen it exports too, though it never had the layers
    other = f"type=registry,ref={machines.team}/other/cache:1,mode=max"
    exported = machines.build("two", "--push", "-t", image, "--cache-to", other)
    assert pulled(exported) == []
    fourth = machines.build("four", "--cache-from", f"{machines.team}/other/cache:1")
    assert (ran(fourth), fourth.stdout) == ([], second.stdout)


def test_what_a_changed_step_needs_is_pulled_and_no_more(machines: Machines) -> None:
    cache, image = f"{machines.team}/cache:main", f"{machines.team}/app:1"
    machines.build("one", "--cache-to", f"type=registry,ref={cache},mode=max")
    machines.write(last="2")
    second = machines.build("two", "--cache-from", cache, "--push", "-t", image)
    assert ran(second) == ["last"]
    # the base, and the three layers below; none of the two stages that files came from
    assert pulled(second) == ["base:1", *["cache:main"] * 3]
    machines.write(source="changed", last="2")
    third = machines.build("two", "--push", "-t", image)
    assert ran(third) == [
        "build",
        "last",
    ]  # what was never here is had from where it is known to be
    machines.write(last="3")
    cut = machines.build(
        "three", "--cache-from", f"type=registry,ref={cache}", "-o", "type=cacheonly"
    )
    assert ran(cut) == ["last"]


def test_72_a_cache_of_the_image_only_has_its_layers(machines: Machines) -> None:
    cache = f"{machines.team}/cache:min"
    first = machines.build("one", "--cache-to", f"type=registry,ref={cache}")
    second = machines.build("two", "--cache-from", cache)
    assert (ran(second), second.stdout) == ([], first.stdout)
    machines.write(source="changed")
    third = machines.build("three", "--cache-from", cache)
    assert ran(third) == ["build", "last"]  # the layer of deps is nowhere, and nobody needs it


def test_74_an_image_carries_its_cache(machines: Machines) -> None:
    image = f"{machines.team}/app:1"
    inline = ("--build-arg", "BUILDKIT_INLINE_CACHE=1")
    first = machines.build("one", "--push", "-t", image, *inline)
    assert machines.build("one", "--push", "-t", image, *inline).stdout == first.stdout
    second = machines.build(
        "two", "--push", "-t", image, "--cache-from", image, "--cache-to", "type=inline"
    )
    assert (ran(second), second.stdout) == ([], first.stdout)


def test_75_a_layout_is_a_cache_that_skopeo_reads(
    machines: Machines, require: Callable[..., None], podman: Any, tmp_path: Path
) -> None:
    require("skopeo")
    layout = tmp_path / "cache"
    first = machines.build("one", "--cache-to", f"type=local,dest={layout},mode=max,tag=main")
    manifest = json.loads(podman.skopeo("inspect", "--raw", f"oci:{layout}:main"))
    assert manifest["config"]["mediaType"] == "application/vnd.assemble.cache.v1+json"
    kinds = [one["mediaType"].rpartition(".image.")[2] for one in manifest["layers"]]
    listings = "application/vnd.assemble.cache.listings.v1"
    assert kinds == ["layer.v1.tar+gzip"] * 7 + [listings]
    second = machines.build("two", "--cache-from", f"type=local,src={layout},tag=main")
    assert (ran(second), second.stdout) == ([], first.stdout)
    copy = f"docker://{machines.team}/copied/cache:1"
    podman.skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:main", copy)
    third = machines.build("three", "--cache-from", f"{machines.team}/copied/cache:1")
    assert (ran(third), third.stdout) == ([], first.stdout)
    machines.write(source="changed")
    own = f"{machines.team}/copied/cache:2"
    Assemble(environment(machines.context.parent / "four"))(
        "copy", copy.removeprefix("docker://"), own
    )
    fourth = machines.build("four", "--cache-from", own)
    assert " RUN: src/main changed\n" in fourth.stderr, "its listings are copied too"
    machines.write()
    before = {path: os.stat(path).st_mtime_ns for path in (layout / "blobs/sha256").iterdir()}
    machines.build("one", "--cache-to", f"type=local,dest={layout},mode=max,tag=main")
    assert {
        path: os.stat(path).st_mtime_ns for path in (layout / "blobs/sha256").iterdir()
    } == before


@pytest.mark.parametrize("form", ["image-manifest=false,compression=zstd", "compression=estargz"])
def test_blobs_in_another_compression_are_a_cache_too(machines: Machines, form: str) -> None:
    cache = f"{machines.team}/cache:index"
    form = f"mode=max,{form},force-compression=true"
    first = machines.build("one", "--cache-to", f"type=registry,ref={cache},{form}")
    copied = f"{machines.team}/elsewhere/cache:index"
    env = environment(machines.context.parent / "copier")
    Assemble(env)("copy", cache, copied)
    second = machines.build("two", "--cache-from", copied)
    assert (ran(second), second.stdout) == ([], first.stdout)


def test_results_that_were_asked_for_anew_lead_on(machines: Machines) -> None:
    cache = f"type=registry,ref={machines.team}/cache:main"
    machines.build("one")
    fresh = machines.build("one", "--no-cache", "--cache-to", f"{cache},mode=max")
    assert ran(fresh) == STEPS
    second = machines.build("two", "--cache-from", cache)
    assert (ran(second), second.stdout) == ([], fresh.stdout)


def test_results_that_are_directories_only_are_packed_for_the_cache(machines: Machines) -> None:
    first = machines.build("one")
    cache = f"type=registry,ref={machines.team}/cache:main"
    assert ran(machines.build("one", "--cache-to", f"{cache},mode=max")) == []
    machines.write(source="changed")
    assert ran(machines.build("two", "--cache-from", cache)) == ["build", "last"]
    assert first.stdout


def test_a_cache_that_vanished_is_missed_once(machines: Machines) -> None:
    cache = f"{machines.team}/cache:main"
    machines.build("one", "--cache-to", f"type=registry,ref={cache},mode=max")
    taken = machines.build("two", "--cache-from", cache, "--push", "-t", f"{machines.team}/x:1")
    assert (ran(taken), pulled(taken)) == ([], [])
    for link in machines.data.rglob(
        f"repositories/{machines.team.partition('/')[2]}/cache/_layers/sha256/*/link"
    ):
        link.unlink()
    machines.write(last="2")
    done = machines.build("two", "--push", "-t", f"{machines.team}/x:2")
    assert ran(done) == STEPS
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("WARNING")]
    assert f"the cache {machines.team}/cache is not used any more: " in line


def test_nothing_of_the_host_is_in_a_cache(machines: Machines, tmp_path: Path) -> None:
    layout = tmp_path / "cache"
    secret = tmp_path / "secret"
    secret.write_text("hush-hush")
    text = (machines.context / "Dockerfile").read_text()
    run = (
        "RUN --mount=type=secret,id=s --mount=type=cache,target=/c cat /run/secrets/s > /dev/null\n"
    )
    (machines.context / "Dockerfile").write_text(text + run)
    options = ("--secret", f"id=s,src={secret}", "--add-host", "db:10.1.2.3")
    done = machines.build(
        "one", *options, "--cache-to", f"type=local,dest={layout},mode=max",
        HTTP_PROXY="http://someone:password@proxy.example:3128/",
    )  # fmt: skip
    assert ran(done) == STEPS
    documents = [
        path.read_bytes()
        for path in (layout / "blobs/sha256").iterdir()
        if path.stat().st_size < 90_000
    ]
    packed = [content for content in documents if content.startswith(b"\x78\x01")]
    documents = [content for content in documents if content.startswith(b"{")]
    assert len(documents) == 2
    documents += listings(packed)
    assert b"src/main" in b"".join(documents[2:]), "what COPYs selected is there too"
    for word in (
        str(tmp_path),
        os.uname().nodename,
        "hush-hush",
        "password",
        "proxy.example",
        "10.1.2.3",
    ):
        assert not any(word.encode() in content for content in documents), word


def listings(packed: list[bytes]) -> list[bytes]:
    """The texts of listings one after the other."""
    texts = []
    for content in packed:
        while content:
            unpacking = zlib.decompressobj()
            texts.append(unpacking.decompress(content))
            content = unpacking.unused_data
    return texts


def test_B14_what_unpacks_to_something_else_is_not_built_on(
    machines: Machines, tmp_path: Path
) -> None:
    layout = tmp_path / "cache"
    machines.build("one", "--cache-to", f"type=local,dest={layout},mode=max")
    exchange_diff_ids(layout)
    machines.write(last="2")
    done = machines.build("two", "--cache-from", f"type=local,src={layout}")
    assert ran(done) == STEPS  # of a cache that proves wrong nothing more is taken
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("WARNING")]
    assert f"the cache {layout} is not used any more: " in line


def exchange_diff_ids(layout: Path) -> None:
    """Let each layer be said to hold the tar of another, every digest being right."""

    def put(document: Any) -> dict[str, Any]:
        content = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (layout / "blobs/sha256" / digest.partition(":")[2]).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    def get(described: dict[str, Any]) -> dict[str, Any]:
        path = layout / "blobs/sha256" / described["digest"].partition(":")[2]
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    index = json.loads((layout / "index.json").read_text())
    manifest = get(index["manifests"][0])
    document = get(manifest["config"])
    diff_ids = [layer["diff_id"] for layer in document["layers"]]
    for layer, other in zip(document["layers"], diff_ids[1:] + diff_ids[:1], strict=True):
        layer["diff_id"] = other
    manifest["config"] |= put(document)
    index["manifests"][0] |= put(manifest)
    (layout / "index.json").write_text(json.dumps(index))
