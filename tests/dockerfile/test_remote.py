"""What counts as a URL or a repository, and what its text asks for (rules C3, C27, C29, X1)."""

from __future__ import annotations

import pytest

from assembler.dockerfile.remote import (
    GitReference,
    file_name,
    parse_git,
    remote_kind,
    without_credentials,
)


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("https://h/r.git", "https://h/r.git"),
        ("HTTPS://h/r.git", "https://h/r.git"),
        ("http://h:8080/a/r.git", "http://h:8080/a/r.git"),
        ("ssh://git@h:22/r.git", "ssh://git@h:22/r.git"),
        ("ssh://h/r", "ssh://h/r"),
        ("git://h/r", "git://h/r"),
        ("git@h:a/r.git", "git@h:a/r.git"),
        ("some_user-1@h.example:r", "some_user-1@h.example:r"),
    ],
)
def test_C29_what_is_a_repository(text: str, remote: str) -> None:
    assert parse_git(text) == GitReference(remote)
    assert remote_kind(text) == "git ref"


@pytest.mark.parametrize(
    "text",
    ["https://h/r", "https://h/r.git/x", "https://h/r.gitx", "ftp://h/r.git", "a.b@1:2", "./u@h:r",
     "r.git", "github.com/a/b", "file:///r.git", "ext::sh -c x", "http:/h/r.git"],
)  # fmt: skip
def test_C29_what_is_none(text: str) -> None:
    assert parse_git(text) is None


def test_X1_a_context_may_leave_the_scheme_of_github_out() -> None:
    assert parse_git("github.com/a/b#v1", context=True) == GitReference(
        "https://github.com/a/b", "v1"
    )


@pytest.mark.parametrize(
    ("fragment", "ref", "subdirectory"),
    [
        ("", "", ""),
        ("#main", "main", ""),
        ("#main:sub/dir", "main", "sub/dir"),
        ("#:sub", "", "sub"),
        ("#refs/pull/1/head", "refs/pull/1/head", ""),
        ("#feature/a%20b", "feature/a b", ""),
        ("#v1:/sub/", "v1", "sub"),
        ("#v1:../../etc", "v1", "etc"),
        ("#v1:a/../b", "v1", "b"),
    ],
)
@pytest.mark.parametrize("remote", ["https://h/r.git", "ssh://git@h/r.git"])
def test_C29_the_fragment(remote: str, fragment: str, ref: str, subdirectory: str) -> None:
    assert parse_git(remote + fragment) == GitReference(remote, ref, subdirectory)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ref=main", GitReference("R", "main")),
        ("tag=v1", GitReference("R", "refs/tags/v1")),
        ("tag=refs/tags/v1", GitReference("R", "refs/tags/v1")),
        ("branch=main", GitReference("R", "refs/heads/main")),
        ("branch=refs/heads/main", GitReference("R", "refs/heads/main")),
        ("subdir=/a/b/", GitReference("R", "", "a/b")),
        ("checksum=abc123", GitReference("R", checksum="abc123")),
        ("commit=abc123", GitReference("R", checksum="abc123")),
        ("keep-git-dir", GitReference("R", keep_git_dir=True)),
        ("keep-git-dir=false", GitReference("R", keep_git_dir=False)),
        ("submodules=0", GitReference("R", submodules=False)),
        ("submodules=", GitReference("R", submodules=True)),
        ("mtime=commit", GitReference("R", commit_times=True)),
        ("mtime=checkout", GitReference("R")),
        ("fetch-by-commit", GitReference("R", fetch_by_commit=True)),
        ("fetch-by-commit=F", GitReference("R")),
        ("ref=v1&subdir=d", GitReference("R", "v1", "d")),
    ],
)
def test_C29_the_query(query: str, expected: GitReference) -> None:
    found = parse_git(f"https://h/r.git?{query}")
    assert found == GitReference("https://h/r.git", *_rest(expected))
    scp = parse_git(f"git@h:r.git?{query}")
    assert scp == GitReference("git@h:r.git", *_rest(expected))


def _rest(expected: GitReference) -> tuple[object, ...]:
    names = [name for name in GitReference.__slots__ if name not in ("remote", "credentials")]
    return tuple(getattr(expected, name) for name in names)


def test_C29_a_query_may_repeat_the_fragment() -> None:
    assert parse_git("https://h/r.git?ref=a&subdir=d#a:d") == GitReference(
        "https://h/r.git", "a", "d"
    )


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("?ref=a#b", 'ref conflicts: "b" vs "a"'),
        ("?tag=a#b", 'ref conflicts: "b" vs "refs/tags/a"'),
        ("?branch=a&ref=b", 'ref conflicts: "b" vs "refs/heads/a"'),
        ("?branch=a&tag=a", "branch conflicts with tag"),
        ("?subdir=a#m:b", 'subdir conflicts: "b" vs "a"'),
        ("?checksum=aa&commit=bb", 'checksum conflicts: "aa" vs "bb"'),
        ("?checksum=main", 'invalid checksum "main"'),
        ("?ref=a&ref=b", 'query "ref" has multiple values'),
        ("?ref=", 'query "ref" has no value'),
        ("?depth=1", 'unexpected query "depth"'),
        ("?mtime=now", 'invalid mtime value: "now" (must be "checkout" or "commit")'),
        ("?submodules=yes", 'invalid submodules value: "yes"'),
        ("?keep-git-dir=2", 'invalid keep-git-dir value: "2"'),
        ("?fetch-by-commit=x", 'invalid fetch-by-commit value: "x"'),
        ("#--upload-pack=touch /x", 'invalid git ref "--upload-pack=touch /x"'),
        ("?ref=-x", 'invalid git ref "-x"'),
    ],
)
def test_C29_queries_that_contradict_themselves(rest: str, problem: str) -> None:
    for remote in ("https://h/r.git", "git@h:r.git"):
        with pytest.raises(ValueError) as raised:
            parse_git(remote + rest)
        assert problem in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["-x@h:r", "u@-oProxyCommand=x:r", "ssh://-oProxyCommand=x/r", "ssh://u@-h/r", "git://-x/r",
     "https://h/a\x00.git", "https://h/a\n.git", "https://[::1/r.git", "https://h:port/r.git"],
)  # fmt: skip
def test_B7_what_git_could_take_for_an_option_is_refused(text: str) -> None:
    # `u@-oProxyCommand=x:r` is no scp-like URL at all: `=` is in no host
    try:
        assert parse_git(text) is None
    except ValueError:
        assert remote_kind(text) == "git ref"


def test_18_4_credentials_are_taken_out_of_the_url() -> None:
    found = parse_git("https://us%40er:p%3Aw@h:1/r.git#main")
    assert found is not None
    assert (found.remote, found.ref) == ("https://h:1/r.git", "main")
    assert found.credentials == "us@er:p:w"
    assert "p:w" not in repr(found)
    over_ssh = parse_git("ssh://git:pw@h/r.git")
    assert over_ssh == GitReference("ssh://git@h/r.git") and over_ssh.credentials == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/x?q#f", ("https://h/x?q#f", "")),
        ("https://u:p@h:8/x?q", ("https://h:8/x?q", "u:p")),
        ("https://token@h/x", ("https://h/x", "token:")),
        ("https://a:b@c@h/x", ("https://h/x", "a:b@c")),
        ("https://a:%E9@h/x", ("https://h/x", "a:\udce9")),
        ("https://a:\udce9@h/x", ("https://h/x", "a:\udce9")),
    ],
)
def test_18_4_so_they_are_of_a_file(url: str, expected: tuple[str, str]) -> None:
    assert without_credentials(url) == expected


@pytest.mark.parametrize(
    "url", ["http:///x", "http://:80/x", "http://u:p@/x", "http://h:x/", "http://[::1/"]
)
def test_C27_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"host|Port|IPv6"):
        without_credentials(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/p/t.tgz", "t.tgz"),
        ("http://h/p/t.tgz?name=other#x", "t.tgz"),
        ("http://h/", "__unnamed__"),
        ("http://h", "__unnamed__"),
        ("http://h/p/..", "__unnamed__"),
        ("http://h/p/", "p"),
        ("http://h/a%20b", "a b"),
        ("http://h/a%2Fb", "b"),
        ("http://h/a%00b", "__unnamed__"),
    ],
)
def test_C27_the_name_is_of_the_path(url: str, name: str) -> None:
    assert file_name(url) == name
