"""`-o …`: where what is built goes, and how layers are to be packed (rules Z7, Y7, O1, O2)."""

from __future__ import annotations

import os
import pty
import re
import sys

import pytest

from assembler.cli.outputs import OutputRequest, Packaging, imaged, requested
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


def only(word: str) -> OutputRequest:
    (found,) = requested([word], push=False)
    return found


@pytest.mark.parametrize(
    ("word", "type", "destination"),
    [
        ("out", "local", "out"),
        ("/a b/c", "local", "/a b/c"),
        ("dest=x", "local", "dest=x"),  # as under buildx: it does not begin with type=
        ("type=local,dest=out", "local", "out"),
        ('type=local,"dest=a,b"', "local", "a,b"),
        ("type=local,dest=out,mode=copy,platform-split=false", "local", "out"),
        ("-", "tar", "-"),
        ("type=tar", "tar", "-"),
        ("type=tar,dest=-", "tar", "-"),
        ("type=tar,dest=x.tar", "tar", "x.tar"),
    ],
)
def test_O1_files_go_to_a_directory_or_a_tar(word: str, type: str, destination: str) -> None:
    found = only(word)
    path = destination if destination == "-" else os.path.abspath(destination)
    assert (found.type, found.destination, found.files, found.whole) == (type, path, True, False)


def test_T1_a_time_of_an_output_s_own() -> None:
    assert only("type=tar,source-date-epoch=17").epoch == 17
    assert only("type=local,dest=x,source-date-epoch=").epoch is None


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("type=local", "dest is missing", "-o DIR"),
        ("type=local,dest=-", "dest cannot be stdout", "-o -"),
        (f"type=local,dest={__file__}", "is no directory", ""),
        (__file__, "is no directory", ""),
        ("type=tar,dest=/", "/ is a directory", ""),
        ("type=tar,mode=copy", "tar has no attribute 'mode'", ""),
        ("type=local,dest=x,mode=delete", "mode=delete is not supported", "remove the directory"),
        ("type=local,dest=x,mode=move", "invalid mode 'move'", "copy"),
        ("type=local,dest=x,platform-split=x", "platform-split is neither true nor false", ""),
        ("type=tar,attestation-prefix=a", "no attestation is written", ""),
        ("type=tar,source-date-epoch=now", "source-date-epoch is not a number", ""),
        ("type=local,dest=x,compression=zstd", "local has no attribute 'compression'", ""),
    ],
)
def test_O1_wrong_outputs_of_files_are_usage_errors(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        requested([word], push=False)
    assert hint in caught.value.hint


def test_O2_two_outputs_cannot_share_stdout() -> None:
    with pytest.raises(UsageError, match="multiple outputs configured to write to stdout"):
        requested(["-", "type=oci,dest=-"], push=False)


def test_a_terminal_is_no_place_for_a_tar(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours):
        monkeypatch.setattr(sys, "stdout", terminal)
        for word in ("-", "type=oci,dest=-"):
            with pytest.raises(UsageError, match="refusing to write to a terminal"):
                requested([word], push=False)
        assert only("out").type == "local"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], True),
        (["out"], False),
        (["out", "-"], False),
        (["out", "type=cacheonly"], False),
        (["type=cacheonly"], True),
        (["out", "type=oci,dest=x"], True),
        (["out", "type=image"], True),
    ],
)
def test_O2_an_image_is_made_unless_only_files_are_asked_for(
    words: list[str], expected: bool
) -> None:
    assert imaged(requested(words, push=False)) is expected
    assert imaged(requested(words, push=True)), "--push is for an image"


def test_an_empty_word_asks_for_nothing() -> None:
    assert requested([""], push=False) == ()
