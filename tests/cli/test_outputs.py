"""`-o type=…`: how the layers are to be packed (rules Z7, Y7, O1)."""

from __future__ import annotations

import pytest

from assembler.cli.outputs import OutputRequest, Packaging, requested
from assembler.errors import UsageError


def packaging(words: str) -> Packaging:
    (found,) = requested([f"type=image{words}"], push=False)
    return found.packaging


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Packaging()),
        (",compression=gzip", Packaging()),
        (",compression=zstd", Packaging("zstd")),
        (",compression=zstd:chunked,compression-level=19", Packaging("zstd:chunked", 19)),
        (",compression=estargz,compression-level=0", Packaging("estargz", 0)),
        (",compression=uncompressed,force-compression=true", Packaging("uncompressed", force=True)),
        (",force-compression", Packaging(force=True)),
        (",force-compression=0,oci-mediatypes=1", Packaging()),
        (",oci-mediatypes=false", Packaging(docker=True)),
    ],
)
def test_Z7_how_layers_are_packed(words: str, expected: Packaging) -> None:
    assert packaging(words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (",compression=lzma", "unknown compression 'lzma'"),
        (",compression-level=10", r"10 for gzip is not in 0\.\.9"),
        (",compression=zstd,compression-level=23", r"not in 0\.\.22"),
        (",compression-level=fast", "compression-level is not a number"),
        (",compression=uncompressed,compression-level=1", "no meaning"),
        (",force-compression=maybe", "force-compression is neither true nor false"),
        (",compression=estargz,oci-mediatypes=false", "conflicts with oci-mediatypes=false"),
        (",compression=zstd,oci-mediatypes=false", "conflicts with oci-mediatypes=false"),
        (",compress=zstd", "image has no attribute 'compress'"),
    ],
)
def test_Z7_Y7_wrong_values_are_usage_errors(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        packaging(words)


def test_O1_push_pushes_the_image_as_its_output_packs_it() -> None:
    assert requested(["type=image,compression=zstd"], push=True) == (
        OutputRequest("registry", packaging=Packaging("zstd")),
    )
    assert [one.type for one in requested(["type=oci,dest=x"], push=True)] == ["oci", "registry"]


def test_what_has_a_comma_is_quoted() -> None:
    (found,) = requested(['type=oci,"dest=/a,b",tar=false,"name=x,y:1"'], push=False)
    assert (found.destination, found.names) == ("/a,b", ("x", "y:1"))
    with pytest.raises(UsageError, match=r'-o type=oci,"dest=x: .* missing closing "'):
        requested(['type=oci,"dest=x'], push=False)


@pytest.mark.parametrize("kind", ["image", "registry", "oci,dest=x", "docker,dest=x"])
def test_Z7_every_output_of_an_image_has_the_attributes(kind: str) -> None:
    words = "compression=gzip,compression-level=9,force-compression=true,oci-mediatypes=false"
    (found,) = requested([f"type={kind},{words}"], push=False)
    assert found.packaging == Packaging("gzip", 9, True, True)
