"""Excerpts: what an error shows of the file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.source import Place, Source, Span, excerpt, printable
from tests.bounds import cpu_seconds

TEN = Source("Dockerfile", "".join(f"LINE {number}\n" for number in range(1, 11)))


def body(text: str) -> list[str]:
    """The lines of an excerpt between its rules."""
    _, rule, *lines, end = text.split("\n")
    assert rule == end == "-" * 20
    return lines


def test_three_lines_before_and_after() -> None:
    assert excerpt(Span(TEN, 5, 5)) == (
        "Dockerfile:5\n"
        "--------------------\n"
        "   2 |     LINE 2\n"
        "   3 |     LINE 3\n"
        "   4 |     LINE 4\n"
        "   5 | >>> LINE 5\n"
        "   6 |     LINE 6\n"
        "   7 |     LINE 7\n"
        "   8 |     LINE 8\n"
        "--------------------"
    )


def test_the_first_and_the_last_line_have_one_neighbourhood() -> None:
    assert [line[:10] for line in body(excerpt(Span(TEN, 1, 1)))] == [
        "   1 | >>>", "   2 |    ", "   3 |    ", "   4 |    "
    ]  # fmt: skip
    assert [line[:10] for line in body(excerpt(Span(TEN, 10, 10)))] == [
        "   7 |    ", "   8 |    ", "   9 |    ", "  10 | >>>"
    ]  # fmt: skip


def test_every_line_of_an_instruction_is_marked() -> None:
    lines = body(excerpt(Span(TEN, 3, 6)))
    assert [">>>" in line for line in lines] == [False] * 2 + [True] * 4 + [False] * 3


def test_the_caret_is_under_the_word() -> None:
    source = Source("Dockerfile", "FROM a\nCOPY --chwon=1 a b\n")
    assert body(excerpt(Span(source, 2, 2, "--chwon"))) == [
        "   1 |     FROM a",
        "   2 | >>> COPY --chwon=1 a b",
        "     |          ^^^^^^^",
    ]


@pytest.mark.parametrize(
    ("line", "word", "start"),
    [
        ("FROM abc AS b", "b", 12),
        ("COPY a.b b", "b", 9),
        ("COPY --from=a a", "a", 12),
        ("RUN --mount=type=cahe,target=/x y", "cahe", 17),
        ("FROM $BASES ${BASE}", "BASE", 14),
        ("FROM abc", "b", 6),
        ("ENV --x=$-y", "$-", 8),
    ],
)
def test_the_word_is_where_it_stands_alone(line: str, word: str, start: int) -> None:
    place = Span(Source("D", line), 1, 1, word).place()
    assert place == Place(1, start, start + len(word))


def test_a_word_is_looked_for_on_every_line_of_the_instruction() -> None:
    source = Source("D", "FROM a\nRUN --mount=type=bind \\\n  --mount=type=cahe \\\n  cahe\n")
    assert Span(source, 2, 4, "cahe").place() == Place(3, 15, 19)
    assert Span(source, 2, 4, "absent").place() is None
    assert Span(source, 2, 4).place() is None
    assert not any("^" in line for line in body(excerpt(Span(source, 2, 4, "absent"))))


@pytest.mark.parametrize(
    ("text", "shown", "caret"),
    [
        ("RUN\tmake all", "RUN make all", 9),
        ("RUN \x1b[31mred all", "RUN \\x1b[31mred all", 16),
        ("RUN 漢字 all", "RUN 漢字 all", 9),
        ("RUN e\N{COMBINING ACUTE ACCENT} all", "RUN e\N{COMBINING ACUTE ACCENT} all", 6),
        ("RUN \udcff all", "RUN \\udcff all", 11),
        ("RUN \u202e all", "RUN \\u202e all", 11),
    ],
)
def test_carets_follow_what_a_terminal_shows(text: str, shown: str, caret: int) -> None:
    line, below = body(excerpt(Span(Source("D", text), 1, 1, "all")))
    assert line == f"   1 | >>> {shown}"
    assert below == f"     |     {' ' * caret}^^^"


def test_a_wide_word_has_a_wide_caret() -> None:
    _, below = body(excerpt(Span(Source("D", "RUN 漢字 x"), 1, 1, "漢字")))
    assert below == "     |         ^^^^"


def test_line_ends_of_either_kind() -> None:
    for end in ("\n", "\r\n"):
        source = Source("D", f"FROM a{end}RUN x{end}CMD y{end}")
        assert body(excerpt(Span(source, 2, 2, "x")))[1:] == [
            "   2 | >>> RUN x",
            "     |         ^",
            "   3 |     CMD y",
        ]
    without = Source("D", "FROM a\nRUN x")
    assert body(excerpt(Span(without, 2, 2)))[-1] == "   2 | >>> RUN x"


def test_a_blank_line_has_no_trailing_blanks() -> None:
    assert body(excerpt(Span(Source("D", "FROM a\n\nRUN x\n"), 3, 3)))[1] == "   2 |"


def test_an_empty_file_can_be_shown() -> None:
    assert body(excerpt(Span(Source("D", ""), 1, 1))) == ["   1 | >>>"]


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("before", [0, 10, 500, 60_000])
def test_a_long_line_is_cut_around_the_word(columns: int, before: int) -> None:
    text = f"RUN {'y' * before} needle {'z' * 60_000}"
    line, below = body(excerpt(Span(Source("D", text), 1, 1, "needle"), columns=columns))
    assert len(line) <= columns and len(below) <= columns
    assert line[below.index("^") : below.rindex("^") + 1] == "needle"
    assert line.endswith("…")


def test_a_word_longer_than_the_terminal_is_marked_as_far_as_it_is_shown() -> None:
    text = f"RUN {'x' * 10_000}"
    line, below = body(excerpt(Span(Source("D", text), 1, 1, "x" * 10_000), columns=60))
    assert len(below) <= len(line) <= 60 and below.count("^") > 20


def test_long_neighbours_are_cut_too() -> None:
    source = Source("D", f"RUN {'漢' * 5000}\nCPOY a\n")
    line = body(excerpt(Span(source, 2, 2), columns=80))[0]
    assert line.endswith("…") and len(line) < 80


def test_of_a_very_long_instruction_the_ends_and_the_word_are_shown() -> None:
    lines = ["FROM a", "RUN <<E", *["line"] * 50_000, "bad one", *["line"] * 50_000, "E", "CMD x"]
    source = Source("D", "\n".join(lines))
    with cpu_seconds(1):
        shown = body(excerpt(Span(source, 2, 100_004, "bad")))
    assert len(shown) < 40
    assert shown[1] == "      2 | >>> RUN <<E" and shown[-2] == " 100004 | >>> E"
    bad = shown.index("  50003 | >>> bad one")
    assert shown[bad + 1] == "        |     ^^^"
    assert shown[bad - 2] == "        | >>> … 49990 more lines"
    assert all(">>>" in line for line in shown[1:bad])


def test_many_excerpts_of_a_large_file_cost_little() -> None:
    source = Source("D", "ENV key value\n" * 200_000)
    with cpu_seconds(3):
        for number in range(1, 5_000):
            excerpt(Span(source, number, number, "key"))


@given(st.text(max_size=200), st.integers(1, 8), st.integers(0, 8), st.text(max_size=3))
def test_any_text_can_be_shown(text: str, start: int, more: int, word: str) -> None:
    source = Source("D", text)
    shown = excerpt(Span(source, start, start + more, word), columns=60)
    assert all(char.isprintable() or char == "\n" for char in shown)
    for number, line in enumerate(source.lines(), start=1):
        if start <= number <= start + more and len(line) < 5:
            assert f"{number:>3} | >>> {printable(line)}".rstrip() in shown
