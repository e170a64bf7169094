"""OCI layouts: several images beside each other, several writers at once."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from assembler.errors import AssemblerError
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.output.layout import LayoutDirectory


def image(content: bytes) -> Image:
    digest = Digest.of(content)
    layer = Layer(Descriptor(LAYER_TAR, digest, len(content)), digest)
    config = ImageConfig(Platform("linux", "amd64"), Execution(cmd=("x",)), (digest,))
    return Image.create(config, (layer,))


def write(path: Path, name: str, content: bytes) -> Descriptor:
    return LayoutDirectory(str(path), name).write(image(content), lambda layer: io.BytesIO(content))


def entries(path: Path) -> dict[str, str]:
    """Tags and digests in index.json."""
    document = json.loads((path / "index.json").read_text())
    return {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
        for entry in document["manifests"]
    }


def test_a_layout_holds_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "layout"
    written = write(path, "docker.io/library/a:1", b"one")
    assert entries(path) == {"1": str(written.digest)}
    assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]
    assert len(os.listdir(path / "blobs/sha256")) == 3


def test_a_tag_is_replaced_and_others_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "docker.io/library/a:1", b"one")
    kept = write(tmp_path, "docker.io/library/a:2", b"two")
    new = write(tmp_path, "docker.io/library/a:1", b"three")
    assert entries(tmp_path) == {"1": str(new.digest), "2": str(kept.digest)}


def test_CR09_eight_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write, args=(tmp_path, f"docker.io/library/a:{n}", b"%d" % n))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(entries(tmp_path)) == {str(n) for n in range(8)}
    assert "ingest" not in os.listdir(tmp_path)


def a_pipe(index: Path) -> None:
    os.mkfifo(index)


def a_link(index: Path) -> None:
    index.symlink_to("/dev/zero")


def too_large(index: Path) -> None:
    index.touch()
    os.truncate(index, 1 << 40)


def too_deep(index: Path) -> None:
    index.write_text("[" * 100_000)


def no_object(index: Path) -> None:
    index.write_text("[]")


@pytest.mark.parametrize("make", [a_pipe, a_link, too_large, too_deep, no_object])
def test_M10_an_index_that_is_none_is_an_error_and_is_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "index.json")
    with pytest.raises(AssemblerError, match=r"index\.json"):
        write(tmp_path, "docker.io/library/a:1", b"one")


def test_a_blob_that_was_cut_short_is_written_anew(tmp_path: Path) -> None:
    write(tmp_path, "docker.io/library/a:1", b"one")
    blob = tmp_path / "blobs/sha256" / Digest.of(b"one").hex
    blob.chmod(0o644)
    blob.write_bytes(b"o")
    write(tmp_path, "docker.io/library/a:1", b"one")
    assert blob.read_bytes() == b"one"
