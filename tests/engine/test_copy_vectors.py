"""COPY, ADD, WORKDIR and ignore rules: every row of the language's table (reference 15)."""

from __future__ import annotations

from typing import Any

import pytest

from assembler.context.filtered import FilteredTree
from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import AssemblerError
from assembler.layer.changeset import Kind
from assembler.source import Source


@pytest.fixture
def table(bench: Any, fill: Any) -> Any:
    """The table's context, and the directories and files that its rows say are there."""
    fill("f", "d/g", "d/s/h", "l -> f", "dl -> d")
    (bench.context / "t.tgz").write_bytes(bench.tar(("z", b"Z"), mode="w:gz"))
    bench.stage = (
        bench.directory("e", mode=0o700),
        bench.file("file", b"old"),
        bench.link("lnk", "/real"),
        bench.directory("real"),
        bench.directory("w"),
    )
    bench.st = (
        bench.directory("dir", mode=0o700, uid=100, gid=200),
        bench.file("dir/c", uid=7, gid=8),
        bench.file("f", uid=100, gid=200),
    )
    bench.remote.files.update(
        {
            "http://h/p/t.tgz": bench.tar(("z", b"Z"), mode="w:gz"),
            "http://h/": b"page",
            "https://h/r.git#one": b"1",
        }
    )
    return bench


@pytest.mark.parametrize(
    ("instruction", "result"),
    [
        ("COPY f /x", "x"),
        ("COPY f /x/", "x x/f"),
        ("COPY f x", "w/x"),
        ("COPY f .", "w/f"),
        ('COPY f ""', "w/f"),
        ("COPY f $EMPTY", "w/f"),
        ("COPY f /e", "e/f"),
        ("COPY d /x", "x x/g x/s x/s/h"),
        ("COPY d/ /x", "x x/g x/s x/s/h"),
        ("COPY d /x/", "x x/g x/s x/s/h"),
        ("COPY d/. /x", "x x/g x/s x/s/h"),
        ("COPY f d /x/", "x x/f x/g x/s x/s/h"),
        ("COPY ../f /x", "x"),
        ("COPY /f /x", "x"),
        ("COPY l /x/", "x x/l"),
        ("COPY dl /x", "x x/g x/s x/s/h"),
        ("COPY . /x", "x x/d x/d/g x/d/s x/d/s/h x/dl x/f x/l x/t.tgz"),
        ("COPY d/* /x/", "x x/g x/h"),
        ("COPY nope* /x/", ""),
        ("COPY --parents d/s/h /x/", "x x/d x/d/s x/d/s/h"),
        ("COPY --parents d/./s/h /x/", "x x/s x/s/h"),
        ("COPY --parents d/**/h /x/", "x x/d x/d/s x/d/s/h"),
        ("COPY --parents d /x/", "x x/d x/d/g x/d/s x/d/s/h"),
        ("COPY --exclude=s d /x", "x x/g"),
        ("COPY --exclude=**/h d /x", "x x/g x/s"),
        ("COPY --link f /lnk/f", "lnk lnk/f"),
        ("COPY f /lnk/f", "real/f"),
        ("ADD t.tgz /x", "x x/z"),
        ("ADD t.tgz /x/", "x x/z"),
        ("COPY t.tgz /x/", "x x/t.tgz"),
        ("ADD --unpack=false t.tgz /x/", "x x/t.tgz"),
        ("ADD *.tgz /x", "x x/z"),
        ("ADD http://h/p/t.tgz /x/", "x x/t.tgz"),
        ("ADD --unpack http://h/p/t.tgz /x", "x x/z"),
        ("ADD http://h/ /x/", "x x/__unnamed__"),
        ("ADD https://h/r.git#v1:sub /x", "x x/one"),
        ('COPY <<a <<"b" /x/\n$EMPTY\na\n$EMPTY\nb\n', "x x/a x/b"),
    ],
)
def test_copy_rows_of_the_table(table: Any, instruction: str, result: str) -> None:
    assert table.paths(instruction) == result.split()


def test_copy_l_is_a_file_with_the_content_of_f(table: Any) -> None:
    entry = table.run("COPY l /x/")["x/l"]
    assert (entry.kind, table.text_of(entry)) == (Kind.FILE, "f")


def test_copy_all_keeps_l_a_link(table: Any) -> None:
    entry = table.run("COPY . /x")["x/l"]
    assert (entry.kind, entry.link) == (Kind.SYMLINK, "f")


@pytest.mark.parametrize(
    ("instruction", "owners_and_modes"),
    [
        ("COPY --chown=5 f /n/f", {"n": (5, 5, 0o755), "n/f": (5, 5, 0o644)}),
        ("COPY --chmod=0600 f /n/f", {"n": (0, 0, 0o600), "n/f": (0, 0, 0o600)}),
        ("COPY --from=st /dir /new", {"new": (0, 0, 0o755), "new/c": (7, 8, 0o644)}),
        ("COPY --from=st /f /x", {"x": (100, 200, 0o644)}),
        ("ADD http://h/p/t.tgz /x/", {"x": (0, 0, 0o755), "x/t.tgz": (0, 0, 0o600)}),
        ("COPY <<a /x\nb\na\n", {"x": (0, 0, 0o644)}),
    ],
)
def test_owner_and_mode_rows_of_the_table(
    table: Any, instruction: str, owners_and_modes: dict[str, tuple[int, int, int]]
) -> None:
    made = {path: (one.uid, one.gid, one.mode) for path, one in table.run(instruction).items()}
    assert made == owners_and_modes


def test_copy_chmod_symbolic_row_of_the_table(table: Any) -> None:
    (table.context / "d/s/h").chmod(0o700)
    (table.context / "d/g").chmod(0o600)
    made = table.run("COPY --chmod=u=rwX,go=rX d /x")
    assert {path: entry.mode for path, entry in made.items()} == {
        "x": 0o755, "x/g": 0o644, "x/s": 0o755, "x/s/h": 0o755,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY nope /x/", '"/nope": not found'),
        ("COPY --chmod=999 f /x", "invalid chmod parameter: '999'"),
        ("COPY d /file", "cannot copy to non-directory: /file"),
        ("COPY http://h/a /x", "source can't be a URL for COPY"),
    ],
)
def test_error_rows_of_the_table(table: Any, instruction: str, message: str) -> None:
    with pytest.raises(AssemblerError) as caught:
        table.run(instruction)
    assert message in caught.value.message


def test_heredoc_row_of_the_table(table: Any) -> None:
    made = table.run('COPY <<a <<"b" /x/\n[$EMPTY]\na\n[$EMPTY]\nb\n')
    assert table.text_of(made["x/a"]) == "[]\n"
    assert table.text_of(made["x/b"]) == "[$EMPTY]\n"


def test_git_row_of_the_table_asks_for_the_ref_and_the_directory(table: Any) -> None:
    (source,) = table.step("ADD https://h/r.git#v1:sub /x").fetched
    assert (source.repository.ref, source.repository.subdirectory) == ("v1", "sub")


@pytest.mark.parametrize(
    ("lines", "result"),
    [
        ("WORKDIR /a\nWORKDIR b\nWORKDIR c", "/a/b/c"),
        ("WORKDIR /a/b/c\nWORKDIR ..", "/a/b"),
        ("WORKDIR /x/../y", "/y"),
        ("WORKDIR /a\nWORKDIR $UNSET", "/a"),
        ('WORKDIR /a\nWORKDIR ""', "/a"),
    ],
)
def test_workdir_rows_of_the_table(table: Any, lines: str, result: str) -> None:
    assert table.workdirs(lines, "", table.tree())[0] == result


def test_workdir_row_about_the_user(table: Any) -> None:
    passwd = table.file("etc/passwd", b"u:x:7:8:::\n")
    below = table.tree_of([*table.stage, passwd])
    assert table.workdirs("WORKDIR /e/a/b", "u", below)[1] == [
        ("e", 0, 0o700), ("e/a", 7, 0o755), ("e/a/b", 7, 0o755),
    ]  # fmt: skip


def test_workdir_of_a_directory_that_is_there_makes_nothing(table: Any) -> None:
    for line in ("WORKDIR /e", "WORKDIR /lnk"):
        assert table.workdirs(line, "", table.tree())[1] == []


@pytest.mark.parametrize(
    ("rules", "path", "excluded"),
    [
        ("*.md", "a.md", True),
        ("*.md", "d/a.md", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "d/e/a.md", True),
        ("d", "d/x/y", True),
        ("/d", "d/x", True),
        ("d/*\n!d/keep", "d/keep", False),
        ("d/*\n!d/keep", "d/x", True),
        ("*\n!src", "src/a", False),
        ("*\n!src", "b", True),
        ("**\n!**/*.go", "p/q.go", False),
        ("!x\nx", "x", True),
        ("d/", "d/x", True),
        ("./d", "d/x", True),
        ("#x", "#x", False),
        ("\\#x", "#x", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab].t", "a.t", True),
    ],
)
def test_ignore_rows_of_the_table(table: Any, rules: str, path: str, excluded: bool) -> None:
    files = table.tree_of([table.file(path)])
    shown = FilteredTree(files, IgnoreRules.parse(Source(".dockerignore", rules)))
    assert (shown.lookup(path) is None) == excluded
    above, _, _ = path.rpartition("/")
    listed = shown.lookup(above) is not None and path in [one.path for one in shown.children(above)]
    assert listed == (not excluded)
