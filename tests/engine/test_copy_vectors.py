"""COPY, ADD and WORKDIR against the language's vectors (dockerfile-language 15)."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from assembler.context.directory import DirectoryContext, find_ignore_file
from assembler.dockerfile.ignore import IgnoreRules
from assembler.engine import content, copy, directories
from assembler.engine.selection import select
from assembler.errors import AssemblerError, ContextChanged, CopySourceMissing
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, EmptyTree, MergedTree, Tree, resolve
from assembler.plan.steps import ContextOrigin, Copy, InlineFile, MakeDirectory, StageOrigin
from assembler.plan.workdir import destination_path
from assembler.source import Source, Span

SPAN = Span(Source("Dockerfile", "COPY"), 1, 1)
NOW = 5_000_000_000
PASSWD = b"root:x:0:0:::\nann:x:7:8:::\n"
GROUP = b"root:x:0:\nstaff:x:50:\n"


def file(path: str, text: bytes = b"", **more: int) -> Entry:
    return Entry(path, Kind.FILE, size=len(text), source=InlineBytes(text), **more)  # type: ignore[arg-type]


STAGE = (
    Entry("e", Kind.DIRECTORY, mode=0o700),
    Entry("etc", Kind.DIRECTORY, mode=0o755),
    file("etc/passwd", PASSWD),
    file("etc/group", GROUP),
    file("file", b"old"),
    Entry("lnk", Kind.SYMLINK, link="/real"),
    Entry("real", Kind.DIRECTORY, mode=0o755),
    Entry("w", Kind.DIRECTORY, mode=0o755),
)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    (path / "d/s").mkdir(parents=True)
    (path / "f").write_text("F")
    (path / "d/g").write_text("G")
    (path / "d/s/h").write_text("H")
    (path / "l").symlink_to("f")
    (path / "dl").symlink_to("d")
    with tarfile.open(path / "t.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("z")
        member.size, member.mode, member.uid = 1, 0o640, 33
        archive.addfile(member, io.BytesIO(b"Z"))
    for directory in (path, path / "d", path / "d/s"):
        directory.chmod(0o755)
    for name in ("f", "d/g", "d/s/h"):
        (path / name).chmod(0o644)
    return path


def run(
    context: Path, tmp_path: Path, sources: str, destination: str, **flags: object
) -> dict[str, Entry]:
    """The changeset's entries by path; parents that exist already are left out."""
    step = Copy(
        origin=ContextOrigin(),
        sources=tuple(sources.split()),
        destination=destination_path(destination, "/w"),
        span=SPAN,
        name="COPY",
        **flags,  # type: ignore[arg-type]
    )
    stage: Tree = EmptyTree() if step.link else ChangesetTree(STAGE)
    selection = select(step, DirectoryContext(str(context), None).tree())
    made = copy.changeset(step, selection, stage, now=NOW, spool=str(tmp_path))
    return {entry.path: entry for entry in made if stage.lookup(entry.path) != entry}


@pytest.mark.parametrize(
    ("sources", "destination", "paths"),
    [
        ("f", "/x", "x"),
        ("f", "/x/", "x x/f"),
        ("f", "x", "w/x"),
        ("f", ".", "w/f"),
        ("f", "", "w/f"),
        ("f", "/e", "e/f"),
        ("d", "/x", "x x/g x/s x/s/h"),
        ("d/", "/x", "x x/g x/s x/s/h"),
        ("d", "/x/", "x x/g x/s x/s/h"),
        ("d/.", "/x", "x x/g x/s x/s/h"),
        ("f d", "/x/", "x x/f x/g x/s x/s/h"),
        ("../f", "/x", "x"),
        ("/f", "/x", "x"),
        ("dl", "/x", "x x/g x/s x/s/h"),
        ("d/*", "/x/", "x x/g x/h"),
        ("nope*", "/x/", ""),
        ("[df]*", "/x/", "x x/f x/g x/s x/s/h"),
        ("t.tgz", "/x/", "x x/t.tgz"),
        ("f", "/lnk/f", "real/f"),
        ("f", "/deep/er/f", "deep deep/er deep/er/f"),
    ],
)
def test_C4_C5_C8_C9_C11_where_things_land(
    context: Path, tmp_path: Path, sources: str, destination: str, paths: str
) -> None:
    if sources == "[df]*":
        (context / "dl").unlink()
    assert sorted(run(context, tmp_path, sources, destination)) == paths.split()


def test_C7_a_named_link_is_followed_and_keeps_its_name(context: Path, tmp_path: Path) -> None:
    entry = run(context, tmp_path, "l", "/x/")["x/l"]
    assert entry.kind is Kind.FILE and entry.source is not None
    with entry.source.open() as stream:
        assert stream.read() == b"F"


def test_C7_a_link_below_a_directory_stays_a_link(context: Path, tmp_path: Path) -> None:
    entry = run(context, tmp_path, ".", "/x")["x/l"]
    assert (entry.kind, entry.link) == (Kind.SYMLINK, "f")


@pytest.mark.parametrize(
    ("sources", "destination", "paths"),
    [
        ("d/s/h", "/x/", "x x/d x/d/s x/d/s/h"),
        ("d/./s/h", "/x/", "x x/s x/s/h"),
        ("d/**/h", "/x/", "x x/d x/d/s x/d/s/h"),
        ("d", "/x/", "x x/d x/d/g x/d/s x/d/s/h"),
    ],
)
def test_C24_parents(
    context: Path, tmp_path: Path, sources: str, destination: str, paths: str
) -> None:
    assert sorted(run(context, tmp_path, sources, destination, parents=True)) == paths.split()


@pytest.mark.parametrize(("exclude", "paths"), [("s", "x x/g"), ("**/h", "x x/g x/s"), ("*", "x")])
def test_C23_exclude(context: Path, tmp_path: Path, exclude: str, paths: str) -> None:
    assert sorted(run(context, tmp_path, "d", "/x", exclude=(exclude,))) == paths.split()


@pytest.mark.parametrize(
    ("chown", "owner"),
    [("5", (5, 5)), ("5:6", (5, 6)), ("ann", (7, 8)), ("ann:staff", (7, 50)), ("0:staff", (0, 50))],
)
def test_C17_owners(context: Path, tmp_path: Path, chown: str, owner: tuple[int, int]) -> None:
    made = run(context, tmp_path, "f", "/n/f", chown=chown)
    assert {(entry.uid, entry.gid) for entry in made.values()} == {owner}


def test_C17_an_unknown_owner_is_an_error(context: Path, tmp_path: Path) -> None:
    with pytest.raises(AssemblerError, match="unknown user nobody-here") as caught:
        run(context, tmp_path, "f", "/x", chown="nobody-here")
    assert caught.value.span == SPAN  # type: ignore[attr-defined]


def test_C12_C18_modes(context: Path, tmp_path: Path) -> None:
    made = run(context, tmp_path, "f", "/n/f", chmod="0600")
    assert {path: entry.mode for path, entry in made.items()} == {"n": 0o600, "n/f": 0o600}
    (context / "d/s/h").chmod(0o755)
    made = run(context, tmp_path, "d", "/x", chmod="u=rwX,go=rX")
    assert {path: entry.mode for path, entry in made.items()} == {
        "x": 0o755, "x/g": 0o644, "x/s": 0o755, "x/s/h": 0o755,
    }  # fmt: skip
    with pytest.raises(AssemblerError, match="invalid chmod parameter: '999'"):
        run(context, tmp_path, "f", "/x", chmod="999")


def test_C13_a_new_destination_does_not_take_the_sources_mode(
    context: Path, tmp_path: Path
) -> None:
    (context / "d").chmod(0o700)
    assert run(context, tmp_path, "d", "/new")["new"].mode == 0o755
    assert "e" not in run(context, tmp_path, "d", "/e"), "an existing directory is left as it is"


def test_C14_files_and_directories_do_not_replace_each_other(context: Path, tmp_path: Path) -> None:
    with pytest.raises(AssemblerError, match="cannot copy to non-directory: /file"):
        run(context, tmp_path, "d", "/file")
    (context / "d/etc").write_text("x")
    with pytest.raises(AssemblerError, match="cannot replace to directory /etc with file"):
        run(context, tmp_path, "d", "/")


def test_C25_a_linked_copy_follows_nothing_below(context: Path, tmp_path: Path) -> None:
    assert sorted(run(context, tmp_path, "f", "/lnk/f", link=True)) == ["lnk", "lnk/f"]


def test_C20_hard_links_of_one_source_stay_linked(context: Path, tmp_path: Path) -> None:
    os.link(context / "d/g", context / "d/g2")
    entry = run(context, tmp_path, "d", "/x")["x/g2"]
    assert (entry.kind, entry.link) == (Kind.HARDLINK, "x/g")


@pytest.mark.parametrize("destination", ["/x", "/x/"])
def test_C26_add_extracts_an_archive(context: Path, tmp_path: Path, destination: str) -> None:
    made = run(context, tmp_path, "t.tgz", destination, unpack=True)
    assert sorted(made) == ["x", "x/z"]
    assert (made["x/z"].mode, made["x/z"].uid) == (0o640, 33)


def test_H7_here_documents_are_files(context: Path, tmp_path: Path) -> None:
    inline = (InlineFile("a", "A"), InlineFile("b", "$B"))
    made = run(context, tmp_path, "", "/x/", inline=inline)
    assert {path: entry.mode for path, entry in made.items()} == {
        "x": 0o755,
        "x/a": 0o644,
        "x/b": 0o644,
    }


def test_C16_files_of_a_stage_keep_their_owner(tmp_path: Path) -> None:
    source = ChangesetTree(
        (
            Entry("dir", Kind.DIRECTORY, mode=0o700, uid=100, gid=200),
            file("dir/f", b"", uid=100, gid=200),
        )
    )
    step = Copy(
        origin=StageOrigin(0), sources=("/dir",), destination="/new", span=SPAN, name="COPY"
    )
    made = copy.changeset(step, select(step, source), EmptyTree(), now=NOW, spool=str(tmp_path))
    assert [(entry.path, entry.uid, entry.mode) for entry in made] == [
        ("new", 0, 0o755),
        ("new/f", 100, 0o644),
    ]


def test_C6_a_missing_source_says_what_hides_it_or_is_near(context: Path) -> None:
    (context / ".dockerignore").write_text("# no secrets\n*.key\n")
    (context / "my.key").write_text("x")
    source = find_ignore_file(str(context), str(context / "Dockerfile"))
    assert source is not None
    ignoring = DirectoryContext(str(context), IgnoreRules.parse(source))
    for name, hint in (("my.key", ".dockerignore:2 *.key"), ("ff", "did you mean f?")):
        step = Copy(
            origin=ContextOrigin(), sources=(name,), destination="/", span=SPAN, name="COPY"
        )
        with pytest.raises(CopySourceMissing) as caught:
            select(step, ignoring.tree(), ignored=ignoring.ignored)
        assert f'"/{name}": not found' in caught.value.message and hint in caught.value.hint


def test_G5_excluded_directories_show_only_what_is_included_again(context: Path) -> None:
    rules = IgnoreRules.parse(Source(".dockerignore", "**\n!d/s/h\n"))
    tree = DirectoryContext(str(context), rules).tree()
    assert [entry.path for entry in tree.children("")] == ["d"]
    assert [entry.path for entry in tree.children("d")] == ["d/s"]


def test_B2_a_file_swapped_for_a_link_is_not_followed(context: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("canary")
    entry = DirectoryContext(str(context), None).tree().lookup("f")
    assert entry is not None and entry.source is not None
    (context / "f").unlink()
    (context / "f").symlink_to(tmp_path / "outside")
    with pytest.raises(ContextChanged):
        entry.source.open()


def test_B2_a_directory_swapped_for_a_link_is_not_followed(context: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/g").write_text("canary")
    entry = DirectoryContext(str(context), None).tree().lookup("d/g")
    assert entry is not None and entry.source is not None
    (context / "d").rename(context / "moved")
    (context / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ContextChanged):
        entry.source.open()


def test_C21_times_are_not_in_the_digest_and_everything_else_is(context: Path) -> None:
    step = Copy(origin=ContextOrigin(), sources=("d",), destination="/", span=SPAN, name="COPY")

    def digest() -> str:
        return str(content.digest(select(step, DirectoryContext(str(context), None).tree())))

    first = digest()
    os.utime(context / "d/g", (1, 1))
    assert digest() == first
    (context / "d/g").chmod(0o600)
    changed = digest()
    assert changed != first
    (context / "d/g").write_text("other")
    assert digest() not in (first, changed)


def test_K1_workdir_makes_what_is_missing() -> None:
    step = MakeDirectory(path="/w/a/b", user="ann", span=SPAN, name="WORKDIR")
    made = directories.make_directory(step, ChangesetTree(STAGE), NOW)
    assert [(entry.path, entry.uid, entry.mode) for entry in made] == [
        ("w", 0, 0o755), ("w/a", 7, 0o755), ("w/a/b", 7, 0o755),
    ]  # fmt: skip
    existing = MakeDirectory(path="/lnk", user="", span=SPAN, name="WORKDIR")
    assert directories.make_directory(existing, ChangesetTree(STAGE), NOW) == ()


def test_B1_links_cannot_leave_a_tree() -> None:
    tree = ChangesetTree(
        (
            Entry("up", Kind.SYMLINK, link="../../../etc"),
            Entry("abs", Kind.SYMLINK, link="/up/passwd"),
            Entry("loop", Kind.SYMLINK, link="loop"),
        )
    )
    assert resolve(tree, "/up/passwd") == "etc/passwd"
    assert resolve(tree, "abs") == "etc/passwd"
    assert resolve(tree, "abs", follow_last=False) == "abs"
    with pytest.raises(AssemblerError, match="too many levels"):
        resolve(tree, "loop/x")


def test_merged_layers_hide_what_upper_ones_removed() -> None:
    lower = ChangesetTree(
        (
            Entry("d", Kind.DIRECTORY),
            file("d/a"),
            file("d/b"),
            Entry("o", Kind.DIRECTORY),
            file("o/x"),
        )
    )
    upper = ChangesetTree(
        (
            Entry("d", Kind.DIRECTORY),
            Entry("d/a", Kind.WHITEOUT),
            file("d/c"),
            Entry("o", Kind.DIRECTORY),
            Entry("o", Kind.OPAQUE),
        )
    )
    merged = MergedTree((upper, lower))
    assert [entry.path for entry in merged.children("d")] == ["d/b", "d/c"]
    assert merged.lookup("d/a") is None and merged.lookup("o/x") is None
    assert list(merged.children("o")) == []
