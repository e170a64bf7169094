"""Plain TOML is read as `tomllib` reads it, or not at all."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.registry.plain_toml import plain

PIECES = (
    *('a = "b"', '"a" = "c"', '"a.b"="d"  # why', "[t]", "[ a ]", "[t.u]", "a.b = 'c'", "", "# x"),
    *('a = "\\n"', "a = 1", 'a = ["b"]', '[[t]]', '"" = ""', '\t"ü" = "ö"\t', "#\x01", 'a = "b" c'),
    *('a = "b"\r', "[t]\r", "\r", 'a = """b"""', '"a\\"" = "b"', "=", '"t" = "x"', "\ufeff"),
)  # fmt: skip


def read(content: str) -> object:
    """What `tomllib` says, None for a mistake."""
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError:
        return None


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("\n".join))
def test_it_is_what_tomllib_says_or_nothing(content: str) -> None:
    found = plain(content)
    assert found is None or found == read(content)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '# Debian\n\n[aliases]\n  # centos\n  "centos" = "quay.io/centos/centos"\n"x"="docker.io/x"\n',
        'short-name-mode = "enforcing"\n[aliases]\na = "b"\n[other]\n',
    ],
)
def test_what_most_files_are_is_read(content: str) -> None:
    assert plain(content) == tomllib.loads(content)
