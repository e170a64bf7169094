"""Flags of instructions (rules I2, I3) and the fields of --mount (rule M1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.dockerfile.flags import Allowed, check_flags, parse_csv_fields, split_flags
from assembler.errors import BadFlag
from assembler.source import Source, Span

SPAN = Span(Source("Dockerfile", "COPY --x a b"), 1, 1)
COPY = Allowed(("from", "chown", "chmod"), ("link",), ("exclude",))


@pytest.mark.parametrize(
    ("text", "words", "rest"),
    [
        ("--a --b=c d --e", ("--a", "--b=c"), "d --e"),
        ("x", (), "x"),
        ("-x", (), "-x"),
        ("", (), ""),
        ("  --a  ", ("--a",), ""),
        ("-- --a", (), "--a"),
        ("--a=1 -- b", ("--a=1",), "b"),
        ("--a=\"b c\"'d e' f", ("--a=b cd e",), "f"),
        (r"--a=b\ c\"d e", ('--a=b c"d',), "e"),
        (r"--a='b\'c' d", ("--a=b'c",), "d"),
        ("--a=b\\", ("--a=b",), ""),
        ("--a='b c", ("--a=b c",), ""),
    ],
)
def test_I2_flags_end_at_the_first_other_word(text: str, words: tuple[str], rest: str) -> None:
    assert split_flags(text, "\\") == (words, rest)


def test_I2_the_escape_is_the_directives() -> None:
    assert split_flags("--a=c:\\x` y z", "`") == (("--a=c:\\x y",), "z")


def test_I3_values() -> None:
    flags = check_flags(
        ("--from=a", "--link", "--exclude=x", "--exclude=y=z", "--chown="), COPY, SPAN
    )
    assert flags.text("from") == "a"
    assert flags.text("chown") == flags.text("chmod") == ""
    assert flags.truth("link") is True
    assert flags.all("exclude") == ("x", "y=z")


@pytest.mark.parametrize(("word", "value"), [("--link=TRUE", True), ("--link=False", False)])
def test_I3_booleans_in_any_case(word: str, value: bool) -> None:
    assert check_flags((word,), COPY, SPAN).truth("link") is value


def test_I3_a_boolean_that_was_not_given() -> None:
    assert check_flags((), COPY, SPAN).truth("link") is None


@pytest.mark.parametrize(
    ("words", "message", "blamed"),
    [
        (("--chwon=1",), "unknown flag: --chwon (did you mean chown?)", "--chwon"),
        (("--foobar",), "unknown flag: --foobar", "--foobar"),
        (("--Link",), "unknown flag: --Link (did you mean link?)", "--Link"),
        (("--chown",), "missing a value on flag: --chown", "--chown"),
        (("--exclude",), "missing a value on flag: --exclude", "--exclude"),
        (("--link=",), "missing a value on flag: --link", "--link"),
        (("--link=x",), "expecting boolean value for flag --link, not: x", "x"),
        (("--chown=1", "--chown=1"), "duplicate flag specified: --chown", "--chown"),
    ],
)
def test_I3_errors(words: tuple[str, ...], message: str, blamed: str) -> None:
    with pytest.raises(BadFlag) as caught:
        check_flags(words, COPY, SPAN)
    assert caught.value.message == message
    assert caught.value.span == SPAN.blame(blamed)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("type=cache,target=/x", (("type", "cache"), ("target", "/x"))),
        ("TYPE=Cache,ro", (("type", "Cache"), ("ro", None))),
        ('type=bind,"source=a,b"', (("type", "bind"), ("source", "a,b"))),
        ('"a=say ""hi"""', (("a", 'say "hi"'),)),
        ("a=b=c,", (("a", "b=c"), ("", None))),
        ("a=", (("a", ""),)),
        ("", ()),
    ],
)
def test_M1_fields(text: str, fields: tuple[tuple[str, str | None], ...]) -> None:
    assert parse_csv_fields(text) == fields


@pytest.mark.parametrize("text", ['a="b"', '"a=b', '"a"b'])
def test_M1_bad_quoting(text: str) -> None:
    with pytest.raises(BadFlag, match="failed to parse csv fields") as caught:
        parse_csv_fields(text)
    assert caught.value.span is None


FIELD = st.text(st.characters(exclude_characters="="), max_size=6)


@given(st.lists(st.tuples(FIELD.map(str.lower), st.none() | FIELD), min_size=1, max_size=4))
def test_M1_quoted_fields_come_back(fields: list[tuple[str, str | None]]) -> None:
    fields = [(key.lower(), value) for key, value in fields]
    texts = (key if value is None else f"{key}={value}" for key, value in fields)
    quoted = ",".join('"' + text.replace('"', '""') + '"' for text in texts)
    assert parse_csv_fields(quoted) == tuple(fields)
