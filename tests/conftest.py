"""Fixtures for tests with real parts: a registry, base images, the command line."""

from __future__ import annotations

import base64
import fcntl
import gc
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import zstandard

from tests.processes import naming
from tests.served import Relay, reserved_port, serving

ROOT = Path(__file__).parent.parent
_COLLECTED = gc.get_threshold()
BASES = {"debian": "", "golang": "golang-go,ca-certificates"}

UNTIMED = hypothesis.settings(
    database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("repeatable", UNTIMED, derandomize=True)
hypothesis.settings.register_profile("thorough", UNTIMED, max_examples=2_000)
hypothesis.settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Signals that whoever started the tests ignores, as a shell does for what it starts with `&`,
    would be ignored by every builder that a test ends by one; and files would have the modes that
    the mask of that one leaves."""
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_runtest_teardown() -> None:
    """A command that a test runs in this process has it collect next to no garbage, which in a process
    of thousands of tests comes to gigabytes."""
    gc.set_threshold(*_COLLECTED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` are left to a run as root."""
    for item in items:
        if item.get_closest_marker("root") and os.getuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skipped test is a failure: everything it needs is installed there."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


def needs(*programs: str) -> None:
    """Skip the test unless every program is installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@dataclass(frozen=True)
class Assemble:
    """The command line, run as users run it. `env` is its whole environment."""

    env: Mapping[str, str]

    def __call__(
        self,
        *arguments: str | Path,
        code: int | None = 0,
        timeout: float = 600,
        prefix: Sequence[str] = (),
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run it, behind `prefix`; fails the test unless it ends with `code` (None: any)."""
        done = subprocess.run(
            [*prefix, *self.command(*arguments)],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if code is not None:
            assert done.returncode == code, (
                f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
            assert "Traceback" not in done.stderr, done.stderr
        return done

    def command(self, *arguments: str | Path) -> list[str]:
        """The argument vector."""
        return [sys.executable, "-m", "assembler", *map(str, arguments)]


def environment(store: Path, **more: str) -> dict[str, str]:
    """The environment of a user with an empty home."""
    home = store.parent / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "ASSEMBLE_STORE": str(store),
        "LANG": "C.UTF-8",
        **more,
    }


@pytest.fixture
def require() -> Callable[..., None]:
    """`needs`, for tests that drive other tools."""
    return needs


@pytest.fixture
def mirror_of_apt() -> str:
    """`apt_mirror`, for Dockerfiles that install packages."""
    return apt_mirror()


@pytest.fixture(scope="session")
def busybox_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds `busybox`, to be copied."""
    store = tmp_path_factory.mktemp("busybox") / "store"
    run_fixture("busybox", store, "docker.io/library/busybox:latest", cache_directory() / "busybox")
    return store


@pytest.fixture
def assemble(busybox_store: Path, tmp_path: Path) -> Iterator[Assemble]:
    """The command line with a store of its own that holds `busybox`."""
    store = tmp_path / "store"
    shutil.copytree(busybox_store, store, copy_function=shutil.copy)  # as old as if made now
    yield Assemble(environment(store))
    remove(tmp_path)


def run_fixture(kind: str, store: Path, name: str, *rest: str | Path) -> None:
    """Make a base image with fixtures/base/image.py."""
    script = ROOT / "fixtures/base/image.py"
    command = [sys.executable, script, kind, store, name, *rest]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, capture_output=True)


def remove(directory: Path) -> None:
    """Remove a tree whose files belong to subordinate ids."""
    code = (
        "import sys; from assembler.linux import userns; from assembler.linux.paths import "
        "remove_tree; userns.enter(); [remove_tree(p) for p in sys.argv[1:]]"
    )
    below = [str(path) for path in directory.iterdir()]
    subprocess.run([sys.executable, "-c", code, *below], check=True)


def cache_directory() -> Path:
    """Where base images are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(home) / "assembler-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def apt_mirror() -> str:
    """The first package mirror of this machine's apt."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()[0]


def base_tar(name: str) -> Path:
    """The root file system `name` of `BASES` as a tar, made by mmdebstrap and kept."""
    include = BASES[name]
    key = hashlib.sha256(f"bookworm minbase {include} 1".encode()).hexdigest()[:12]
    path = cache_directory() / f"{name}-{key}.tar"
    with lock(cache_directory() / f"{name}.lock"):
        if not path.exists():
            partial = path.with_suffix(".partial.tar")
            extra = [f"--include={include}"] if include else []
            extra.append('--aptopt=Acquire::Retries "5"')
            command = ["mmdebstrap", "--quiet", "--variant=minbase", *extra, "bookworm"]
            subprocess.run([*command, str(partial), apt_mirror()], check=True)
            partial.rename(path)
    return path


@dataclass(frozen=True)
class Registry:
    """A running docker-registry; `mirror` is a registries.conf that makes it docker.io."""

    host: str
    mirror: Path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry on a free loopback port."""
    needs("docker-registry")
    directory = tmp_path_factory.mktemp("registry")
    with serving(directory) as host:
        mirror = directory / "registries.conf"
        mirror.write_text(
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{host}"\ninsecure = true\n'
        )
        yield Registry(host, mirror)


@pytest.fixture(scope="session")
def hub(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Puts a base image (`debian`, `golang`, `busybox`) into the registry, once."""
    done: set[str] = set()
    directory = tmp_path_factory.mktemp("hub")

    def provide(name: str) -> None:
        if name in done:
            return
        store = directory / name
        full = f"docker.io/library/{name}:latest"
        if name == "busybox":
            run_fixture("busybox", store, full, cache_directory() / "busybox")
        else:
            needs("mmdebstrap")
            run_fixture("tar", store, full, base_tar(name))
        command = Assemble(environment(store))
        command("push", name, f"{registry.host}/library/{name}:latest", "--progress", "quiet")
        shutil.rmtree(store)
        done.add(name)

    return provide


@dataclass(frozen=True)
class Podman:
    """podman for an unprivileged user without a login session, on storage of its own."""

    directory: Path

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run it; its stdout."""
        short = self.directory / "r"
        command = [
            "podman", f"--root={self.directory}/root", f"--runroot={short}",
            f"--tmpdir={self.directory}/tmp", "--storage-driver=vfs", "--cgroup-manager=cgroupfs",
            "--events-backend=none", "--runtime=runc", *arguments,
        ]  # fmt: skip
        env = {**environment(self.directory / "store"), "XDG_RUNTIME_DIR": str(self.directory)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def skopeo(self, *arguments: str) -> str:
        """skopeo's stdout."""
        return self._run("skopeo", "--insecure-policy", *arguments)

    def buildah(self, *arguments: str) -> str:
        """buildah's stdout, on the same storage directories' sibling."""
        options = [f"--root={self.directory}/broot", f"--runroot={self.directory}/brun"]
        return self._run("buildah", *options, "--storage-driver=vfs", *arguments)

    def umoci_unpack(self, layout: Path, tag: str, bundle: Path) -> None:
        """Unpack an image for a user with one id."""
        self._run("umoci", "unpack", "--rootless", "--image", f"{layout}:{tag}", str(bundle))

    def _run(self, *command: str) -> str:
        env = {**environment(self.directory / "store"), "XDG_RUNTIME_DIR": str(self.directory)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Debian's podman; its runroot must be short."""
    needs("podman", "runc")
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="p", dir="/var/tmp"))
    yield Podman(directory)
    for path in directory.rglob("pause.pid"):  # podman keeps its namespaces by a process
        with suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while left := naming(directory):  # conmon, and what it calls at a container's end
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    remove(directory)
    directory.rmdir()


@pytest.fixture
def free_port() -> Iterator[int]:
    """See `reserved_port`."""
    with reserved_port() as port:
        yield port


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A registry of the test's own, and the directory its blobs are in."""
    needs("docker-registry")
    directory = tmp_path / "registry"
    directory.mkdir()
    with serving(directory) as host:
        yield host, directory / "data"


@pytest.fixture
def relay(own_registry: tuple[str, Path]) -> Iterator[Relay]:
    """The test's own registry behind a port that counts."""
    with Relay(own_registry[0]) as relay:
        yield relay


@pytest.fixture
def without_namespaces() -> list[str]:
    """A command prefix under which no user namespace can be made."""
    code = (
        "import os, sys, errno, struct, ctypes\n"
        "from assembler.linux import seccomp, syscalls\n"
        "syscalls.prctl(38, 1)\n"
        "syscalls.seccomp_filter(seccomp.profile(syscalls.machine()))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    return [sys.executable, "-c", code]


@pytest.fixture
def single_id(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command prefix under which newuidmap is not found, but every runtime is."""
    programs = tmp_path_factory.mktemp("programs")
    for name in ("podman", "crun", "runc"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    return ["env", f"PATH={os.path.dirname(sys.executable)}:{programs}"]


@dataclass(frozen=True)
class LazyLayer:
    """A layer read as lazy pullers read it: by ranges, with what its descriptor's annotations say,
    after stargz-snapshotter's docs/estargz.md and containers/storage's pkg/chunked. Everything is
    checked on the way."""

    blob: bytes
    annotations: Mapping[str, str]

    def range(self, start: int, end: int) -> bytes:
        """What a range request for these bytes gives."""
        assert 0 <= start <= end <= len(self.blob)
        return self.blob[start:end]

    def files(self) -> dict[str, tuple[dict[str, Any], bytes]]:
        """Every row of the table of contents that is no further chunk, with the file's bytes."""
        if "containerd.io/snapshot/stargz/toc.digest" in self.annotations:
            rows, gunzip = self._estargz()
            return self._fetched(rows, gunzip)
        rows, _ = self._chunked()
        return self._fetched(rows, unzstd)

    def _fetched(
        self, rows: list[dict[str, Any]], decompress: Callable[[bytes], bytes]
    ) -> dict[str, tuple[dict[str, Any], bytes]]:
        offsets = sorted({row["offset"] for row in rows if "offset" in row})
        assert len(offsets) == sum("offset" in row for row in rows), "an offset is there twice"
        after = dict(zip(offsets, [*offsets, len(self.blob)][1:], strict=True))
        found: dict[str, tuple[dict[str, Any], bytes]] = {}
        last: dict[str, Any] = {}
        for row in rows:
            if row["type"] != "chunk":
                last = row
                found[row["name"]] = (row, b"")
            if "offset" not in row:
                continue
            assert row["name"] == last["name"]
            content = found[last["name"]][1]
            assert row.get("chunkOffset", 0) == len(content)
            size = row.get("chunkSize") or last["size"] - len(content)
            whole = row is last and "chunkSize" in row  # its endOffset is the file's, then
            end = after[row["offset"]] if whole else row.get("endOffset", after[row["offset"]])
            piece = decompress(self.range(row["offset"], end))[:size]
            assert len(piece) == size
            if "chunkDigest" in row:
                assert row["chunkDigest"] == sha256(piece)
            found[last["name"]] = (last, content + piece)
        for row, content in found.values():
            assert len(content) == row.get("size", 0)
            assert not content or row["digest"] == sha256(content)
        return found

    def _estargz(self) -> tuple[list[dict[str, Any]], Callable[[bytes], bytes]]:
        footer = self.range(len(self.blob) - 51, len(self.blob))
        assert footer[:16] == b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0"
        assert footer[32:38] == b"STARGZ"
        assert gzip.decompress(footer) == b""
        at = int(footer[16:32], 16)
        stream = zlib.decompressobj(31)
        table = stream.decompress(self.range(at, len(self.blob) - 51))
        assert stream.eof
        assert not stream.unused_data, "the table is not the last member"
        with tarfile.open(fileobj=io.BytesIO(table)) as archive:
            (member,) = archive.getmembers()
            assert member.name == "stargz.index.json"
            file = archive.extractfile(member)
            assert file is not None
            text = file.read()
        assert sha256(text) == self.annotations["containerd.io/snapshot/stargz/toc.digest"]
        document = json.loads(text)
        assert document["version"] == 1
        assert int(self.annotations["io.containers.estargz.uncompressed-size"]) == len(
            gzip.decompress(self.blob)
        )
        for row in document["entries"]:
            assert ("chunkDigest" in row) == ("offset" in row)
            assert (
                "offset" not in row or self.range(row["offset"], row["offset"] + 2) == b"\x1f\x8b"
            )
        (landmark,) = (row for row in document["entries"] if row["name"] == ".no.prefetch.landmark")
        assert landmark["digest"] == sha256(b"\x0f")
        return document["entries"], lambda data: zlib.decompressobj(31).decompress(data)

    def _chunked(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        prefix = "io.github.containers.zstd-chunked."
        said = [
            [int(number) for number in self.annotations[f"{prefix}{name}-position"].split(":")]
            for name in ("manifest", "tarsplit")
        ]
        footer = self.range(len(self.blob) - 72, len(self.blob))
        assert footer[:8] == b"\x50\x2a\x4d\x18\x40\0\0\0"
        assert footer[64:] == b"GNUlInUx"
        numbers = struct.unpack("<7Q", footer[8:64])
        assert [list(numbers[:4]), list(numbers[4:])] == said
        (at, size, whole, kind), (split_at, split_size, split_whole) = said
        assert kind == 1
        table = self.range(at, at + size)
        assert sha256(table) == self.annotations[f"{prefix}manifest-checksum"]
        text = unzstd(table)
        document = json.loads(text)
        assert (len(text), document["version"]) == (whole, 1)
        split = self.range(split_at, split_at + split_size)
        assert sha256(split) == document["tarSplitDigest"]
        lines = unzstd(split)
        assert len(lines) == split_whole
        parts = [json.loads(line) for line in lines.splitlines()]
        assert [part["position"] for part in parts] == list(range(len(parts)))
        return document["entries"], parts

    def tar_again(self) -> bytes:
        """The tar, put together from a zstd:chunked layer's files and its tar-split data."""
        files = self.files()
        out = []
        for part in self._chunked()[1]:
            if part["type"] == 2:
                out.append(base64.b64decode(part["payload"]))
                continue
            content = files[part["name"]][1]
            assert part.get("size", 0) == len(content)
            if content:
                assert base64.b64decode(part["payload"]) == crc64_go_iso(content).to_bytes(8, "big")
            out.append(content)
        return b"".join(out)


def sha256(data: bytes) -> str:
    """A digest as manifests spell it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def unzstd(data: bytes) -> bytes:
    """All frames of `data`."""
    stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    return stream.read()


def crc64_go_iso(data: bytes) -> int:
    """Bit by bit, after the parameters of the catalogue of CRC algorithms."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ ((1 << 64) - 1)


@pytest.fixture
def lazily() -> type[LazyLayer]:
    """Reads a layer as lazy pullers do."""
    return LazyLayer
