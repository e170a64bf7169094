"""Sources that are elsewhere (rules C3, C27, C29, X1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.dockerfile.remote import GitReference, file_name, parse_git, remote_kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("http://h/a", "URL"),
        ("https://h/a.tgz?x=.git", "URL"),
        ("https://github.com/o/r", "URL"),
        ("https://h/r.git", "git ref"),
        ("http://h/r.git#v1:sub", "git ref"),
        ("https://h/r.git?nonsense=1", "git ref"),
        ("git://h/r", "git ref"),
        ("ssh://git@h/r", "git ref"),
        ("SSH://git@h/r", "git ref"),
        ("git@h:o/r", "git ref"),
        ("git@h:o/r.git#main", "git ref"),
        ("a", ""),
        ("./git@h:o", ""),
        ("ftp://h/a", ""),
        ("github.com/o/r", ""),
        ("a.b@1.0:c", ""),
        ("HTTP://h/a", ""),
    ],
)
def test_C3_what_is_elsewhere(text: str, kind: str) -> None:
    assert remote_kind(text) == kind


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://h/r.git", GitReference("https://h/r.git")),
        ("https://h/r.git#v1", GitReference("https://h/r.git", "v1")),
        ("https://h/r.git#v1:a/b", GitReference("https://h/r.git", "v1", "a/b")),
        ("https://h/r.git#:/a/../b/", GitReference("https://h/r.git", "", "b")),
        ("https://h/r.git#f/x", GitReference("https://h/r.git", "f/x")),
        ("https://u:p@h:1/r.git", GitReference("https://h:1/r.git", credentials="u:p")),
        ("git@h:o/r#v1:a", GitReference("git@h:o/r", "v1", "a")),
        ("git@h:o/r?ref=v1", GitReference("git@h:o/r", "v1")),
        ("https://h/r.git?ref=v1&subdir=a", GitReference("https://h/r.git", "v1", "a")),
        ("https://h/r.git?tag=v1", GitReference("https://h/r.git", "refs/tags/v1")),
        ("https://h/r.git?branch=b", GitReference("https://h/r.git", "refs/heads/b")),
        (
            "https://h/r.git?branch=refs/heads/b#refs/heads/b",
            GitReference("https://h/r.git", "refs/heads/b"),
        ),
        ("https://h/r.git?checksum=ab", GitReference("https://h/r.git", checksum="ab")),
        ("https://h/r.git?commit=ab", GitReference("https://h/r.git", checksum="ab")),
        ("https://h/r.git?keep-git-dir", GitReference("https://h/r.git", keep_git_dir=True)),
        ("https://h/r.git?keep-git-dir=0", GitReference("https://h/r.git", keep_git_dir=False)),
        ("https://h/r.git?submodules=false", GitReference("https://h/r.git", submodules=False)),
        ("https://h/r.git?mtime=commit", GitReference("https://h/r.git", commit_times=True)),
        ("https://h/r.git?fetch-by-commit", GitReference("https://h/r.git", fetch_by_commit=True)),
    ],
)
def test_C29_what_a_git_source_asks_for(text: str, wanted: GitReference) -> None:
    assert parse_git(text) == wanted


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("ref=a#b", 'ref conflicts: "b" vs "a"'),
        ("ref=a&tag=b", 'ref conflicts: "a" vs "refs/tags/b"'),
        ("tag=a&branch=b", "branch conflicts with tag"),
        ("subdir=a#:b", 'subdir conflicts: "b" vs "a"'),
        ("ref=a&ref=b", 'query "ref" has multiple values'),
        ("ref=", 'query "ref" has no value'),
        ("x=1", 'unexpected query "x"'),
        ("submodules=maybe", 'invalid submodules value: "maybe"'),
        ("keep-git-dir=2", 'invalid keep-git-dir value: "2"'),
        ("mtime=now", 'invalid mtime value: "now" (must be "checkout" or "commit")'),
    ],
)
def test_C29_queries_that_contradict(query: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_git(f"https://h/r.git?{query}")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("github.com/o/r", "https://github.com/o/r"),
        ("github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://github.com/o/r", "https://github.com/o/r"),
        ("https://github.com/o/r#v1", "https://github.com/o/r"),
        ("https://github.com/o/r/archive/v1.tar.gz", None),
        ("https://h/o/r", None),
        ("o/r", None),
    ],
)
def test_X1_repositories_on_github_are_known(text: str, remote: str | None) -> None:
    found = parse_git(text, context=True)
    assert (found and found.remote) == remote


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/p/t.tgz", "t.tgz"),
        ("http://h/p/t.tgz?v=1#x", "t.tgz"),
        ("http://h/p/", "p"),
        ("http://h/a%20b", "a b"),
        ("http://h/a%2Fb", "b"),
        ("http://h/%C3%A9", "é"),
        ("http://h/", "__unnamed__"),
        ("http://h", "__unnamed__"),
        ("http://h/..", "__unnamed__"),
        ("http://h/a%00b", "__unnamed__"),
    ],
)
def test_C27_the_name_is_the_last_element(url: str, name: str) -> None:
    assert file_name(url) == name


@given(st.text("https:/@.git?#&=abc[]%", max_size=30))
def test_C29_only_value_errors_come_out(text: str) -> None:
    for context in (False, True):
        try:
            parse_git(text, context=context)
        except ValueError:
            assert remote_kind(text) or context
