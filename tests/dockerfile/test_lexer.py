"""Lines (rules P5 to P7, D, L) and here-documents (rule H). More are in fixtures/dockerfile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.dockerfile.heredocs import openings
from assembler.dockerfile.lexer import Lexer
from assembler.errors import SyntaxProblem
from assembler.source import Source


def lines(text: str) -> list[str]:
    lexer = Lexer(Source("Dockerfile", text))
    found = []
    while line := lexer.next():
        found.append(line.text)
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("RUN echo a \\\n# note\nb", ["RUN echo a b"]),
        ("RUN echo a \\\n\nb", ["RUN echo a b"]),
        ('RUN echo "\\\n     x"', ['RUN echo "     x"']),
        ("RUN echo a \\  \nb", ["RUN echo a b"]),
        ("RUN echo a\\\\\nRUN b", ["RUN echo a\\\\", "RUN b"]),
        ("   RUN x", ["RUN x"]),
        ("RUN x\n\\", ["RUN x"]),
        ("RUN x \\", ["RUN x"]),
        ("FROM a\n# c", ["FROM a"]),
        ("RUN a # b", ["RUN a # b"]),
        ("RUN a \\\n  # c \\\n  b", ["RUN a   b"]),
        ("RUN a\r\n", ["RUN a"]),
    ],
)
def test_L1_to_L5_joining(text: str, wanted: list[str]) -> None:
    assert lines(text) == wanted


def test_P6_a_line_that_is_too_long() -> None:
    assert lines("RUN " + "x" * 65531) == ["RUN " + "x" * 65531]
    for text in ("RUN " + "x" * 65532, "RUN " + "é" * 32766):
        with pytest.raises(SyntaxProblem) as caught:
            lines("FROM a\n" + text)
        assert caught.value.message == "dockerfile line greater than max allowed size of 65535"
        assert str(caught.value.span) == "Dockerfile:2"


def test_P6_each_piece_of_a_continued_line_has_that_limit() -> None:
    assert len(lines(("x" * 60_000 + "\\\n") * 3)[0]) == 180_000


def test_L6_doc_comments() -> None:
    line = Lexer(Source("f", "# a\n#\n#  b \n\n # c\nRUN x")).next()
    assert line is not None
    assert line.comment == ("b", "c")


def test_L6_directives_are_no_doc_comments() -> None:
    line = Lexer(Source("f", "# syntax=a\n# b\nFROM x")).next()
    assert line is not None
    assert line.comment == ("b",)


@pytest.mark.parametrize(
    ("text", "escape", "syntax", "check"),
    [
        ("# escape=`\n# syntax=a b\n#CHECK = skip=all ", "`", "a b", "skip=all"),
        ("#escape=\\", "\\", "", ""),
        ("#!x\n#escape=`\n#syntax=a", "\\", "a", ""),
        ("\n# escape=`", "\\", "", ""),
        ("# note\n# escape=`", "\\", "", ""),
        ("# escape=", "\\", "", ""),
        ("\ufeff# escape=`", "`", "", ""),
    ],
)
def test_D_directives(text: str, escape: str, syntax: str, check: str) -> None:
    found = Lexer(Source("f", text)).directives
    assert (found.escape, found.syntax, found.check) == (escape, syntax, check)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#escape=`\n#escape=`", "only one escape parser directive can be used"),
        ("#escape=x", "invalid escape token 'x' does not match ` or \\"),
        ("#check=foo", 'invalid check option "foo"'),
        ("#check=skip=all;warn=1", 'invalid check option "warn"'),
    ],
)
def test_D_errors(text: str, message: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        Lexer(Source("f", text))
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "name", "expand"),
    [
        ("<<EOF", "EOF", True),
        ("<<-EOF", "EOF", True),
        ('<<"EOF"', "EOF", False),
        ("<<'EOF'", "EOF", False),
        ("<<eo'f'", "eof", False),
        (r"<<eo\'f", "eo'f", True),
        (r"<<'e'o\'f", "eo'f", False),
        ("<<'one two'", "one two", False),
        ("<<$EOF", "$EOF", True),
        ("<<  EOF", "EOF", True),
        ("<<  EOF  > foo", "EOF", True),
        ("<< -EOF", "-EOF", True),
        ("<<- EOF", "EOF", True),
        ("3<<EOF", "EOF", True),
        ("cat ${x:-'a b'} <<EOF", "EOF", True),
    ],
)
def test_H2_H5_openings(text: str, name: str, expand: bool) -> None:
    [found] = openings(text)
    assert (found.name, found.expand) == (name, expand)


@pytest.mark.parametrize(
    "text",
    [
        '"<<EOF"', "'<<EOF'", "<<<x", "<<", "<<-", "<EOF", r"\<<EOF", "a<<EOF", "it's <<EOF",
        "<<''", "$((1 << 2))", "<<EOF'", "${x <<EOF",
    ],
)  # fmt: skip
def test_H2_what_opens_nothing(text: str) -> None:
    assert openings(text) == ()


def test_H2_descriptors_and_tabs() -> None:
    first, second = openings("3<<A cat <<-B")
    assert (first.descriptor, first.strip_tabs) == (3, False)
    assert (second.descriptor, second.strip_tabs) == (0, True)


@given(st.text("<-'\"\\$({)} \tE1", max_size=30))
def test_H2_any_line_can_be_asked(text: str) -> None:
    for found in openings(text):
        assert found.name
        assert "<<" in text[found.start : found.end]


@given(st.text("ab\\#\n\r \t`=", max_size=60))
def test_L7_lines_are_in_order_and_cover_what_they_say(text: str) -> None:
    try:
        lexer = Lexer(Source("f", text))
    except SyntaxProblem:
        return
    before = 0
    while line := lexer.next():
        assert before < line.span.start <= line.span.end <= text.count("\n") + 1
        before = line.span.end
