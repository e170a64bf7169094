"""docker or podman as output: which is chosen, and what becomes of its failure (ecosystem.md 1)."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from assembler.cancellation import Cancellation
from assembler.errors import HostError
from assembler.linux.outside import Outside
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.output.load import Load, loader

NAMES = ("docker.io/library/app:1", "example.com/team/app:2")
CONTENT = bytes(3 << 20)


def program(directory: Path, name: str, script: str = "") -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def image() -> Image:
    digest = Digest.of(CONTENT)
    layer = Layer(Descriptor(LAYER_TAR, digest, len(CONTENT)), digest)
    return Image.create(ImageConfig(Platform("linux", "amd64"), Execution(), (digest,)), (layer,))


def loaded(path: Path, image: Image) -> None:
    with (
        Cancellation() as cancellation,
        Outside([str(path), "load"], {"PATH": "/usr/bin:/bin"}, cancellation) as outside,
    ):
        output = Load(outside, NAMES)
        assert output.name == f"importing to {path.name}"
        assert output.write(image, lambda layer: io.BytesIO(CONTENT)) == image.manifest.descriptor


def test_docker_is_asked_before_podman(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="neither docker nor podman on PATH") as raised:
        loader(str(tmp_path))
    assert "type=docker,dest=FILE" in raised.value.hint
    podman = program(tmp_path, "podman")
    assert loader(str(tmp_path)) == (str(podman), "load", "--quiet")
    with pytest.raises(HostError, match="no docker on PATH"):
        loader(str(tmp_path), "remote")
    docker = program(tmp_path, "docker")
    assert loader(f"/nothing:{tmp_path}") == (str(docker), "load", "--quiet")
    assert loader(str(tmp_path), "r") == (str(docker), "--context", "r", "load", "--quiet")


def test_what_is_loaded_is_a_docker_archive_under_all_names(tmp_path: Path, image: Image) -> None:
    loaded(program(tmp_path, "docker", f"cat > {tmp_path}/archive; echo Loaded image"), image)
    with tarfile.open(tmp_path / "archive") as archive:
        names = archive.getnames()
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        text = manifest.read()
    assert {"index.json", "oci-layout", "manifest.json"} <= set(names)
    assert b'"RepoTags":["docker.io/library/app:1","example.com/team/app:2"]' in text


def test_a_program_that_knows_enough_before_the_end_has_loaded_it(
    tmp_path: Path, image: Image
) -> None:
    loaded(program(tmp_path, "docker", "head -c 10 >/dev/null"), image)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo one >&2; echo 'Error: no space left' >&2; exit 125",
         "podman load ended with status 125: Error: no space left"),
        ("cat >/dev/null; exit 1", "podman load ended with status 1"),
        ("kill -9 $$", "podman load was ended by signal 9"),
    ],
)  # fmt: skip
def test_its_failure_is_an_error_with_its_last_words(
    tmp_path: Path, image: Image, script: str, message: str
) -> None:
    with pytest.raises(HostError) as raised:
        loaded(program(tmp_path, "podman", script), image)
    assert raised.value.message == message
