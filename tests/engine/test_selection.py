"""What COPY selects: wildcards, links, --exclude, --parents, and errors (reference 6.2, 6.5)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from assembler.engine.selection import select
from assembler.errors import AssemblerError, CopySourceMissing, StepError
from assembler.layer.changeset import Entry, Kind


@pytest.mark.parametrize(
    ("files", "instruction", "result"),
    [
        ("a/f", "COPY /a/../a/./f /x", "x"),
        ("a/f", "COPY ../../a/f/ /x", "x"),
        ("a/f", "COPY a/../../../a/f /x", "x"),
    ],
)
def test_C4_sources_are_cleaned_against_a_virtual_root(
    bench: Any, fill: Any, files: str, instruction: str, result: str
) -> None:
    fill(*files.split())
    assert bench.paths(instruction) == result.split()


@pytest.mark.parametrize(
    ("files", "source", "result"),
    [
        ("a.c b.c d/e.c", "*.c", "x/a.c x/b.c"),
        ("a.c b.h c.cc", "?.[a-f]", "x/a.c"),
        ("a.c b.c z.c", "[^a-m].c", "x/z.c"),
        ("d/a/x d/b/x e/a/x", "*/a/x", "x/x"),
        ("d/a/1 d/a/2 e/b/3", "*/[ab]/*", "x/1 x/2 x/3"),
        ("d/s/t/f d/g", "d*", "x/g x/s x/s/t x/s/t/f"),
        ("d/d/f", "d*", "x/d x/d/f"),
        ("[a] a", "[[]a]", "x/[a]"),
        ("a*b ab axb", r"a\\\\*?", "x/a*b"),
        ("d/s/f d/t/s/f", "**/s", "x/f"),
        ("d/f e/f/g", "**/f", "x/f x/g"),
        ("ab a**b", "a***b", "x/a**b x/ab"),
        ("a*b axb", "a[*]b*", "x/a*b"),
        ("f", "f*", "x/f"),
        ("d/f", "d/f/*", ""),
        (".hidden f", "*", "x/.hidden x/f"),
        ("d/f l:d", "l/*", "x/f"),
        ("d/f l:d", "*/f", "x/f"),
    ],
)
def test_C5_wildcards(bench: Any, fill: Any, files: str, source: str, result: str) -> None:
    fill(*(name.replace(":", " -> ") for name in files.split()))
    assert [path for path in bench.paths(f'COPY ["{source}", "/x/"]') if path != "x"] == (
        result.split()
    )


def test_C5_the_fixed_prefix_goes_through_links(bench: Any, fill: Any) -> None:
    fill("real/d/a.c", "abs -> /real", "up -> ../../real")
    for prefix in ("abs/d", "up/d"):
        assert bench.paths(f"COPY {prefix}/*.c /x/") == ["x", "x/a.c"]


def test_C5_matches_come_in_lexical_order(bench: Any, fill: Any) -> None:
    fill("b/f", "a/f", "a.x/f", "c/f")
    matched = bench.select(bench.step("COPY */f /x")).items
    assert [item.entry.path for item in matched] == ["a/f", "a.x/f", "b/f", "c/f"]
    assert bench.text_of(bench.run("COPY */f /x")["x"]) == "c/f"


def test_C5_a_name_with_wildcards_in_it_can_be_named(bench: Any, fill: Any) -> None:
    fill("a[1]", "a1", "b\\c")
    assert bench.paths(r'COPY ["a\\\\[1]", "/x/"]') == ["x", "x/a[1]"]
    assert bench.paths(r'COPY ["b\\\\c", "/x/"]') == ["x", "x/b\\c"]
    with pytest.raises(CopySourceMissing):
        bench.run(r'COPY ["a\\\\[2]", "/x/"]')


@pytest.mark.parametrize("source", ["a[", "[]a]", "[b-a]", r"d/*\\\\"])
def test_C5_a_bad_pattern_is_an_error_at_its_word(bench: Any, fill: Any, source: str) -> None:
    fill("a", "d/a")
    with pytest.raises(StepError, match="syntax error in pattern") as caught:
        bench.run(f'COPY ["{source}", "/x/"]')
    assert caught.value.span is not None and caught.value.span.word == source.replace(
        r"\\\\", r"\\"
    )


def test_C5_names_that_are_no_text_match_and_survive(bench: Any, fill: Any) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    fill(f"d/{name}", "d/é.txt")
    assert bench.paths("COPY d/caf?.* /x/") == ["x", f"x/{name}"]
    assert bench.paths("COPY d /x") == ["x", *sorted([f"x/{name}", "x/é.txt"])]


def test_C6_a_wildcard_without_a_match_contributes_nothing(bench: Any, fill: Any) -> None:
    fill("f")
    assert bench.run("COPY no* /x/") == {}
    assert bench.paths("COPY no* f /x/") == ["x", "x/f"]


def test_C6_the_directory_before_a_wildcard_must_be_there(bench: Any, fill: Any) -> None:
    fill("dist/a.js")
    with pytest.raises(CopySourceMissing, match='"/dits": not found') as caught:
        bench.run("COPY dits/*.js /x/")
    assert caught.value.hint == "did you mean dist?"


@pytest.mark.parametrize(
    ("instruction", "near"),
    [
        ("COPY src/mian.py /x", "src/main.py"),
        ("COPY scr/main.py /x", "src/main.py"),
        ("COPY SRC/Main.py /x", "src/main.py"),
        ("COPY readme.md /x", "README.md"),
        ("COPY src/app/README.md /x", "README.md"),
        ("COPY src/config.json /x", "src/app/config.json"),
        ("COPY main.py /x", "src/main.py"),
        ("COPY project/src/main.py /x", "src/main.py"),
        ("COPY /src/mian.py /x", "/src/main.py"),
        ("COPY --parents src/mian.py /x", "src/main.py"),
        ("COPY --parents ./scr/./main.py /x", "src/main.py"),
        ("ADD src/mian.py /x", "src/main.py"),
        ("COPY lnk/mian.py /x", "lnk/main.py"),
    ],
)
def test_C6_the_nearest_existing_path_is_named(
    bench: Any, fill: Any, instruction: str, near: str
) -> None:
    fill("src/main.py", "src/app/config.json", "README.md", "lnk -> src")
    with pytest.raises(CopySourceMissing) as caught:
        bench.run(instruction)
    assert caught.value.hint == f"did you mean {near}?"
    assert caught.value.span is not None
    assert caught.value.span.word == instruction.split()[-2]


def test_C6_the_word_to_blame_is_the_one_that_is_written(bench: Any, fill: Any) -> None:
    fill("f")
    with pytest.raises(CopySourceMissing, match='"/nope": not found') as caught:
        bench.run("COPY f ${EMPTY}no${EMPTY}pe /x/")
    assert caught.value.span is not None and caught.value.span.word == "${EMPTY}no${EMPTY}pe"


def test_C6_nothing_is_suggested_where_nothing_is_near(bench: Any, fill: Any) -> None:
    fill("src/main.py", "f")
    for source in ("nope", "q", "f/x", "/".join("a" * 5000)):
        with pytest.raises(CopySourceMissing) as caught:
            bench.run(f"COPY {source} /x")
        assert caught.value.hint == ""


def test_C6_the_rule_that_hides_a_source_is_named(bench: Any, fill: Any) -> None:
    bench.rules = "# no secrets\n*.key\nprivate/\n"
    fill("my.key", "private/d/f", "l -> my.key", "dangling -> gone")
    said = {
        "my.key": "the ignore rule .dockerignore:2 *.key hides it",
        "private/d/f": "the ignore rule .dockerignore:3 private/ hides it",
        "l": "/l is a link to /my.key, which is not there: "
        "the ignore rule .dockerignore:2 *.key hides it",
        "dangling": "/dangling is a link to /gone, which is not there",
    }
    for source, hint in said.items():
        with pytest.raises(CopySourceMissing, match=f'"/{source}": not found') as caught:
            bench.run(f"COPY {source} /x")
        assert caught.value.hint == hint


def test_C6_no_rule_is_blamed_for_what_does_not_exist(bench: Any, fill: Any) -> None:
    bench.rules = "*.key\n"
    fill("keys")
    with pytest.raises(CopySourceMissing) as caught:
        bench.run("COPY other.key /x")
    assert caught.value.hint == ""


def test_C6_the_place_that_lacks_a_source_is_named(bench: Any, fill: Any) -> None:
    bench.st = (bench.file("out/app"),)
    with pytest.raises(CopySourceMissing) as caught:
        bench.run("COPY --from=st /out/ap /x")
    assert caught.value.message.endswith('"/out/ap": not found in the stage st')
    assert caught.value.hint == "did you mean /out/app?"
    with pytest.raises(CopySourceMissing, match=r'"/out/app": not found$'):
        bench.run("COPY out/app /x")


def test_C7_a_match_is_followed_inside_the_root(bench: Any, fill: Any) -> None:
    fill("etc/passwd", "abs -> /etc/passwd", "up -> ../../../etc/passwd", "dir -> etc")
    for name in ("abs", "up"):
        entry = bench.run(f"COPY {name} /x/")[f"x/{name}"]
        assert bench.text_of(entry) == "etc/passwd"
    assert bench.paths("COPY a* d* /x/") == ["x", "x/abs", "x/passwd"]


def test_C7_links_below_a_directory_are_copied_as_they_are(bench: Any, fill: Any) -> None:
    fill("d/f", "d/s/up -> ../f", "d/out -> /../../etc", "d/gone -> nowhere")
    made = bench.run("COPY d /x")
    assert {path: one.link for path, one in made.items() if one.kind is Kind.SYMLINK} == {
        "x/s/up": "../f", "x/out": "/../../etc", "x/gone": "nowhere",
    }  # fmt: skip


def test_C7_links_in_a_circle_are_an_error_at_their_word(bench: Any, fill: Any) -> None:
    fill("a -> b", "b -> a", "d/again -> ../d")
    with pytest.raises(StepError, match="/a: too many levels of symbolic links") as caught:
        bench.run("COPY a /x")
    assert caught.value.span is not None and caught.value.span.word == "a"
    assert bench.paths("COPY d /x") == ["x", "x/again"], "below a directory nothing is followed"


def test_C8_a_directory_is_its_content(bench: Any, fill: Any) -> None:
    fill("d/f", "empty/")
    assert bench.paths("COPY d empty /x/") == ["x", "x/f"]
    assert bench.paths("COPY empty /x") == ["x"]


def test_C22_from_starts_at_the_root_of_the_stage(bench: Any) -> None:
    bench.st = (bench.file("a/f"), bench.link("l", "/a"))
    for source in ("/a/f", "a/f", "../a/f", "l/f", "/l/*"):
        assert bench.paths(f"COPY --from=st {source} /x/") == ["x", "x/f"]


@pytest.mark.parametrize(
    ("flags", "result"),
    [
        ("--exclude=*.md d /x", "b b/c.txt"),
        ("--exclude=**/*.txt d /x", "a.md b"),
        ("--exclude=b d /x", "a.md"),
        ("--exclude=d d /x", "a.md b b/c.txt"),
        ("--exclude=d/b d /x", "a.md b b/c.txt"),
        ("--exclude=d/b . /x", "d d/a.md f.md"),
        ("--exclude=*/a.md . /x", "d d/b d/b/c.txt f.md"),
        ("--exclude=* --exclude=!b/c.txt d /x", "b b/c.txt"),
        ("--exclude=b --exclude=!b/none d /x", "a.md"),
        ("--exclude=*.md --exclude=b d /x", ""),
        ("--exclude=*.md f.md /x/", "f.md"),
        ("--exclude=*.md * /x/", "b b/c.txt f.md"),
        ("--exclude=a.md --parents d /x", "d d/a.md d/b d/b/c.txt"),
        ("--exclude=d/a.md --parents d /x", "d d/b d/b/c.txt"),
        ("--exclude=**/a.md --parents d/a.md d/b /x", "d d/b d/b/c.txt"),
        ("--exclude=b --parents ./d/./b ./d/./a.md /x", "a.md"),
        ("--exclude=d --exclude=!d/b --parents d /x", "d d/b d/b/c.txt"),
    ],
)
def test_C23_exclude(bench: Any, fill: Any, flags: str, result: str) -> None:
    fill("d/a.md", "d/b/c.txt", "f.md")
    made = [path.removeprefix("x/") for path in bench.paths(f"COPY {flags}") if path != "x"]
    assert made == result.split()


def test_C23_patterns_are_not_expanded(bench: Any, fill: Any) -> None:
    fill("d/$EMPTY", "d/f")
    assert bench.step("COPY --exclude=$EMPTY d /x").exclude == ("$EMPTY",)
    assert bench.paths("COPY --exclude=$EMPTY d /x") == ["x", "x/f"]


def test_C23_nothing_of_an_excluded_directory_is_looked_at(bench: Any) -> None:
    tree = _Recorded(bench.tree_of([bench.file("d/in/f"), bench.file("d/out/f")]))
    step = bench.step("COPY --exclude=out d /x")
    selection = select(step, tree)
    assert [below.path for below in selection.below(selection.items[0])] == ["in", "in/f"]
    assert "d/out" not in tree.listed


class _Recorded:
    """A tree that remembers what was listed."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.listed: list[str] = []

    def lookup(self, path: str) -> Entry | None:
        return self.tree.lookup(path)  # type: ignore[no-any-return]

    def children(self, path: str) -> Any:
        self.listed.append(path)
        return self.tree.children(path)


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("a/b/c", "a a/b a/b/c a/b/c/f"),
        ("./a/b/c", "a a/b a/b/c a/b/c/f"),
        ("/a/b/c/f", "a a/b a/b/c a/b/c/f"),
        ("a/b/c/.", "a a/b a/b/c a/b/c/f"),
        ("a/./b/c", "b b/c b/c/f"),
        ("./a/./b/c", "b b/c b/c/f"),
        ("/./a/b/c", "a a/b a/b/c a/b/c/f"),
        ("a/./b/./c", "b b/c b/c/f"),
        ("a/b/c/./.", "f"),
        ("a/*/c", "a a/b a/b/c a/b/c/f a/b2 a/b2/c a/b2/c/g"),
        ("a/b*/./c", "c c/f c/g"),
        ("**/c", "a a/b a/b/c a/b/c/f a/b2 a/b2/c a/b2/c/g"),
        ("a/./**/g", "b2 b2/c b2/c/g"),
        ("a/b*/./c/**/[fg]", "c c/f c/g"),
        ("a/**", "a a/b a/b/c a/b/c/f a/b2 a/b2/c a/b2/c/g a/l"),
        ("nope*", ""),
        ("a/none*/f", ""),
        ("top", "top"),
        (".", "a a/b a/b/c a/b/c/f a/b2 a/b2/c a/b2/c/g a/l top"),
    ],
)
def test_C24_parents(bench: Any, fill: Any, source: str, result: str) -> None:
    fill("a/b/c/f", "a/b2/c/g", "a/l -> b", "top")
    made = bench.paths(f"COPY --parents {source} /x")
    assert made == ["x", *(f"x/{path}" for path in result.split())]


def test_C24_the_destination_is_a_directory_even_without_a_match(bench: Any, fill: Any) -> None:
    fill("f")
    assert bench.paths("COPY --parents f /x") == ["x", "x/f"]
    assert bench.paths("COPY --parents no* /x") == ["x"]


@pytest.mark.parametrize("source", ["a/nope", "a/./nope", "nope/./f", "f/./g", "a/b/c/f/g"])
def test_C24_a_missing_path_is_an_error(bench: Any, fill: Any, source: str) -> None:
    fill("a/b/c/f", "f")
    with pytest.raises(CopySourceMissing, match="not found"):
        bench.run(f"COPY --parents {source} /x")


def test_C24_links_stay_links_and_lead_to_parents(bench: Any, fill: Any) -> None:
    fill("d/f", "l -> d", "m -> d/f")
    made = bench.run("COPY --parents l m /x")
    assert (made["x/m"].kind, made["x/m"].link) == (Kind.SYMLINK, "d/f")
    made = bench.run("COPY --parents l/f /x")
    assert {path: one.kind for path, one in made.items()} == {
        "x": Kind.DIRECTORY, "x/l": Kind.DIRECTORY, "x/l/f": Kind.FILE,
    }  # fmt: skip


def test_C24_parents_take_the_metadata_of_the_source(bench: Any) -> None:
    bench.st = (
        bench.directory("a", mode=0o700, uid=1, gid=2, mtime=3),
        bench.directory("a/b", mode=0o711, uid=4, gid=5, mtime=6),
        bench.file("a/b/f"),
    )
    made = bench.run("COPY --from=st --parents a/b/f /x")
    assert [(one.mode, one.uid, one.gid, one.mtime) for one in (made["x/a"], made["x/a/b"])] == [
        (0o700, 1, 2, 3), (0o711, 4, 5, 6),
    ]  # fmt: skip
    made = bench.run("COPY --from=st --parents --chown=9 --chmod=755 a/b/f /x")
    assert {(one.mode, one.uid, one.gid) for one in made.values()} == {(0o755, 9, 9)}


def test_C24_an_existing_parent_takes_only_the_mode(bench: Any) -> None:
    bench.stage = (bench.directory("x/a", mode=0o755, uid=7, mtime=1),)
    bench.st = (bench.directory("a", mode=0o700, uid=1, mtime=3), bench.file("a/f"))
    entry = bench.run("COPY --from=st --parents a/f /x")["x/a"]
    assert (entry.mode, entry.uid, entry.mtime) == (0o700, 7, 1)


def test_C24_a_parent_cannot_be_made_of_a_file(bench: Any, fill: Any) -> None:
    fill("a/f")
    bench.stage = (bench.file("x/a"),)
    with pytest.raises(AssemblerError, match="cannot copy to non-directory: /x/a"):
        bench.run("COPY --parents a/f /x")
