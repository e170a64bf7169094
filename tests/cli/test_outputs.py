"""`-o …`: where what is built goes, and how layers are to be packed (rules Z7, Y7, O1, O2)."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

import pytest

from assembler.cli.image_attributes import ImageAttributes
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
    (found,) = requested(["type=image,compression=zstd"], push=True)
    assert found == OutputRequest(
        "registry", packaging=Packaging("zstd"), attributes=ImageAttributes(push=True)
    )
    assert [one.type for one in requested(["type=oci,dest=x"], push=True)] == ["oci", "registry"]


def test_what_has_a_comma_is_quoted() -> None:
    (found,) = requested(['type=oci,"dest=/a,b",tar=false,"name=x,y:1"'], push=False)
    assert (found.destination, found.names) == ("/a,b", ("x", "y:1"))
    with pytest.raises(UsageError, match=r'-o type=oci,"dest=x: .* missing closing "'):
        requested(['type=oci,"dest=x'], push=False)


@pytest.mark.parametrize("push", ["push=true", "push=1", "push=T", "push=TRUE", "push=t", "push="])
def test_O1_push_is_what_Go_reads_as_true(push: str) -> None:
    for word in (f"type=image,{push}", f"type=image,{push},push-by-digest=t,name-canonical=1"):
        (found,) = requested([word], push=False)
        assert found.type == "registry" and found.attributes.push
    for wrong in ("push=yes", "push=on", "push-by-digest=y", "store=no", "unpack=2"):
        with pytest.raises(
            UsageError, match=f"{wrong.partition('=')[0]} is neither true nor false"
        ):
            requested([f"type=image,{wrong}"], push=False)


@pytest.mark.parametrize("push", ["push=false", "push=0", "push=F", "push-by-digest=true"])
def test_O1_what_is_not_pushed_is_kept(push: str) -> None:
    (found,) = requested([f"type=image,{push}"], push=False)
    assert found.type == "store"
    (pushed,) = requested([f"type=image,{push}"], push=True)
    assert pushed.type == "registry" and pushed.attributes.push


def test_O1_load_is_an_output_of_type_docker_without_a_destination() -> None:
    docker = OutputRequest("docker")
    assert docker.loads and docker.whole and docker.writes
    assert requested([], push=False, load=True) == (docker,)
    assert requested(["type=docker"], push=False, load=True) == (docker,)
    to_file, load = requested(["type=docker,dest=x"], push=False, load=True)
    assert (to_file.loads, load) == (False, docker)
    (remote,) = requested(["type=docker,context=far,name=a:1"], push=False, load=True)
    assert (remote.loads, remote.context, remote.names) == (True, "far", ("a:1",))
    assert [one.type for one in requested([], push=True, load=True)] == ["registry", "docker"]


def test_O1_an_archive_without_a_destination_goes_to_stdout_but_to_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    (found,) = requested(["type=oci"], push=False)
    assert (found.destination, found.archive) == ("-", True)
    for word in ("type=oci,tar=false", "type=oci,tar=0,dest=-", "type=docker,tar=f"):
        with pytest.raises(UsageError, match="dest, a directory, is missing"):
            requested([word], push=False)
    with pytest.raises(UsageError, match="multiple outputs configured to write to stdout"):
        requested(["type=oci", "type=docker,dest=-"], push=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for word in ("type=oci", "type=oci,dest=-", "type=docker,dest=-"):
        with pytest.raises(UsageError, match="refusing to write to a terminal") as raised:
            requested([word], push=False)
        assert "dest=FILE" in raised.value.hint


def test_Y8_annotations_of_an_output_are_words_of_the_option() -> None:
    word = (
        'type=oci,dest=x,annotation.a.b=1,annotation-manifest[linux/amd64].c:d=2,"annotation.e=3,4"'
    )
    (found,) = requested([word], push=False)
    assert found.packaging.annotations == (
        "manifest:a.b=1", "manifest[linux/amd64]:c:d=2", "manifest:e=3,4",
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"image has no attribute 'annotations\.a'"):
        requested(["type=image,annotations.a=1"], push=False)


@pytest.mark.parametrize("word", ["unpack=true", "oci-artifact=true", "attestation-inline=false"])
def test_O1_what_nothing_depends_on_changes_nothing(word: str) -> None:
    assert requested([f"type=image,{word}"], push=False) == (OutputRequest("store"),)


@pytest.mark.parametrize(
    "word", ["prefer-nondist-layers=true", "source-date-epoch=0", "compatibility-version=10"]
)
def test_O1_what_is_not_done_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"{word.partition('=')[0]} is not supported"):
        requested([f"type=image,{word}"], push=False)


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
        ("type=tar,dest=/dev/stdout", "tar", "-"),
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
        ("type=local,dest=x,mode=move", "invalid mode 'move'", "copy or delete"),
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


@pytest.mark.parametrize("place", [".", "..", "/", "../beside", "link", "link/x", "/nowhere/x"])
def test_O1_what_is_not_below_the_working_directory_is_removed_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "beside").mkdir()
    (here / "link").symlink_to("../beside")
    monkeypatch.chdir(here)
    word = f"type=local,dest={place},mode=delete"
    with pytest.raises(UsageError, match="is not below the working directory") as caught:
        requested([word], push=False)
    assert "--allow buildx.local.delete" in caught.value.hint
    assert requested([word], push=False, allow=["buildx.local.delete"])[0].only
    for below in ("x", "x/y", "../here/x"):
        assert only(f"type=local,dest={below},mode=delete").only
    assert not only(f"type=local,dest={place},mode=copy").only


@pytest.mark.parametrize("word", ["type=oci,dest=/dev/stdout", "type=docker,dest=/dev/fd/1"])
def test_O2_another_name_of_stdout_is_stdout_for_an_archive_too(word: str) -> None:
    assert only(word).destination == "-"
    with pytest.raises(UsageError, match="multiple outputs"):
        requested([word, "type=tar"], push=False)


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
