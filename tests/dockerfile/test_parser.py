"""Whole files and triggers (rules I4, I7, H11, K13, K14). Most cases are in fixtures/dockerfile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.dockerfile.instructions import Copy, Heredoc, OnBuild, Run
from assembler.dockerfile.parser import parse, parse_trigger
from assembler.errors import AssemblerError, BadFlag, DockerfileError, SyntaxProblem
from assembler.source import Source, Span, excerpt
from tests.bounds import cpu_seconds

FROM = Span(Source("Dockerfile", "# one\nFROM base\n"), 2, 2)


def failure(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(Source("Dockerfile", text))
    return caught.value


def test_I4_a_typo_is_shown_with_a_caret() -> None:
    error = failure("FROM a\n\nCPOY a b\n")
    assert error.message == (
        "dockerfile parse error on line 3: unknown instruction: CPOY (did you mean COPY?)"
    )
    assert error.span is not None
    assert "   3 | >>> CPOY a b\n     |     ^^^^\n" in excerpt(error.span)


def test_L7_a_flag_on_a_later_line_is_found() -> None:
    error = failure("FROM a\nRUN --mount=type=cache,target=/x \\\n  --netwrok=none x\n")
    assert isinstance(error, BadFlag)
    assert error.message == "unknown flag: --netwrok (did you mean network?)"
    assert error.span is not None
    assert (error.span.start, error.span.end, error.span.word) == (2, 3, "--netwrok")


def test_I7_only_arg_before_from() -> None:
    assert failure("ARG A\nENV B=1\nFROM a").message == "no build stage in current context"


def test_H12_a_script_is_named_by_its_first_line() -> None:
    tree = parse(Source("Dockerfile", "FROM a\nRUN <<EOF\nset -e\nmake\nEOF\n"))
    assert tree.stages[0].instructions[0].text == "RUN <<EOF (set -e...)"


def test_K13_stored_triggers_come_back_as_instructions() -> None:
    text = "FROM a\nONBUILD COPY --chown=1 <<-a <<'b' /d/\n\tA\n\ta\n$B\nb\n"
    [trigger] = parse(Source("Dockerfile", text)).stages[0].instructions
    assert isinstance(trigger, OnBuild)
    copy = parse_trigger(trigger.trigger, FROM, "\\")
    assert isinstance(copy, Copy)
    assert copy.span == FROM
    assert copy.chown == "1"
    assert copy.heredocs == (
        Heredoc("a", "\tA\n", expand=True, strip_tabs=True),
        Heredoc("b", "$B\n", expand=False, strip_tabs=False),
    )


def test_K14_triggers_are_placed_at_from() -> None:
    run = parse_trigger("RUN make all", FROM, "\\")
    assert isinstance(run, Run)
    assert (run.span, run.command.text) == (FROM, "make all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "onbuild trigger should be a single expression"),
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("ONBUILD RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("from x", "FROM isn't allowed as an ONBUILD trigger"),
        ("RUN <<EOF\nx", "unterminated heredoc"),
        ("COPY a", "COPY requires at least two arguments, but only one was provided."),
        ("RUNN x", "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN"),
        ("# escape=`\nRUN x `\ny", "onbuild trigger should be a single expression"),
    ],
)
def test_K14_bad_triggers(text: str, message: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        parse_trigger(text, FROM, "\\")
    assert caught.value.message.startswith(message)
    assert caught.value.span is not None
    assert (caught.value.span.source, caught.value.span.start) == (FROM.source, FROM.start)


def test_I5_deeply_nested_json_is_text() -> None:
    tree = parse(Source("Dockerfile", "FROM a\nCMD " + "[" * 60_000))
    assert tree.stages[0].instructions[0].text.startswith("CMD [[[")


def test_I5_lone_surrogates_in_json_are_replaced() -> None:
    tree = parse(Source("Dockerfile", 'FROM a\nRUN ["\\ud800"]'))
    [run] = tree.stages[0].instructions
    assert isinstance(run, Run)
    assert run.command.arguments == ("\ufffd",)


def test_large_files_are_quick() -> None:
    text = (
        "FROM a\n"
        + "RUN --mount=type=cache,target=/x echo $HOME && \\\n  true\nENV A=1 B=2\n" * 5000
    )
    with cpu_seconds(5):
        assert len(parse(Source("Dockerfile", text)).stages[0].instructions) == 10_000


WORDS = st.sampled_from(
    "FROM RUN COPY ADD ENV ARG LABEL ONBUILD HEALTHCHECK CMD SHELL VOLUME EXPOSE from as AS NONE"
    " a b=c /x <<EOF <<-'E' EOF E \\ ` \" ' # #escape=` --from=a --mount=type=cache --link -- ["
    ' ["a"] ["a", ] $x ${y} ${ = \ufeff \r é \x00 \x1c \ud800'.split(" ")
)
FILES = st.lists(
    st.lists(WORDS, max_size=6).map(" ".join), max_size=8
).map("\n".join)  # fmt: skip


@given(st.one_of(st.text(max_size=200), FILES, FILES.map("FROM a\n{}".format)))
def test_only_our_errors_come_out(text: str) -> None:
    with cpu_seconds(2):
        check_outcome(Source("Dockerfile", text))


def check_outcome(source: Source) -> None:
    """That it is read, or refused in the way it has to be."""
    try:
        tree = parse(source)
    except AssemblerError as error:
        assert isinstance(error, DockerfileError)
        assert error.span is not None
        excerpt(error.span)
        return
    assert tree.stages
    for stage in tree.stages:
        for instruction in stage.instructions:
            assert 1 <= instruction.span.start <= instruction.span.end <= len(source.lines())


@given(FILES)
def test_only_our_errors_come_out_of_triggers(text: str) -> None:
    try:
        instruction = parse_trigger(text, FROM, "\\")
    except DockerfileError as error:
        assert error.span is not None
        assert error.span.source == FROM.source
        return
    assert instruction.span == FROM
