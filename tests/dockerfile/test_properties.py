"""What holds for every text: only our own errors come out, and places are where the text is.

Texts are arbitrary, or files of the corpus that were cut, doubled, mixed and spoilt.
"""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.dockerfile.instructions import Dockerfile, Instruction, OnBuild, Run
from assembler.dockerfile.lint import every_instruction, text_warnings
from assembler.dockerfile.parser import parse, parse_trigger
from assembler.errors import DockerfileError
from assembler.source import Source, Span, excerpt

CORPUS = Path(__file__).parents[2] / "fixtures" / "dockerfile"
FILES = {
    path.parent: path.read_bytes().decode("utf-8", "surrogateescape")
    for path in sorted(CORPUS.glob("*/Dockerfile"))
}
SMALL = [text for text in FILES.values() if len(text) < 4000]
GOOD = [text for case, text in FILES.items() if text in SMALL and (case / "tree.txt").exists()]
SCRAPS = st.sampled_from(
    "\n|\\\n|\r\n|\\|`|\"|'|<<EOF|<<-'E'|EOF|E|[|]|[\"|\"]|$|${|}|:-|#|# escape=`\n|--|--from=|=|,"
    "| |\t|\0|\ufeff|\udcff|\x85|é|FROM |RUN |COPY |ONBUILD |HEALTHCHECK |ENV |AS |x".split("|")
)
PLACES = st.integers(0, 4000)


def spoilt(text: str, edits: list[tuple[int, int, str]]) -> str:
    """`text` with pieces replaced: place, length, and what comes there."""
    for place, length, scrap in edits:
        place %= len(text) + 1
        text = text[:place] + scrap + text[place + length :]
    return text


EDITS = st.lists(
    st.tuples(PLACES, st.sampled_from([0, 0, 1, 1, 2, 9, 80]), SCRAPS | st.text(max_size=3)),
    max_size=3,
)
SPOILT = st.builds(spoilt, st.sampled_from(GOOD), EDITS)
MIXED = st.builds(
    lambda one, other, at: "\n".join(one.split("\n")[: at % 9]) + "\n" + other,
    st.sampled_from(SMALL),
    SPOILT,
    PLACES,
)
TEXTS = SPOILT | SPOILT | SPOILT | MIXED | st.text(max_size=120)
MANY = settings(max_examples=600, suppress_health_check=list(HealthCheck))


def parsed(text: str) -> Dockerfile | None:
    """The tree; None when the text is refused, in the way it has to be."""
    source = Source("Dockerfile", text)
    try:
        return parse(source)
    except DockerfileError as error:
        check_place(source, error.span)
        assert error.message
        return None


def check_place(source: Source, span: Span | None) -> None:
    assert span is not None
    assert span.source is source
    assert 1 <= span.start <= span.end <= len(source.lines())
    assert ">>>" in excerpt(span)


@MANY
@given(TEXTS)
def test_L7_only_our_errors_come_out_and_they_have_a_place(text: str) -> None:
    made = parsed(text)
    if made is not None:
        for warning in text_warnings(made):
            check_place(made.source, warning.span)


@MANY
@given(TEXTS)
def test_L7_places_are_in_order_and_hold_the_instruction(text: str) -> None:
    made = parsed(text)
    if made is None:
        return
    last = 0
    lines = made.source.lines()
    for instruction in every_instruction(made):
        check_place(made.source, instruction.span)
        assert last < instruction.span.start
        skipped = lines[last : instruction.span.start - 1]
        assert all(is_nothing(line) for line in skipped)
        assert written(instruction) in joined(lines[: instruction.span.end], instruction.span.start)
        last = instruction.span.end
    assert all(is_nothing(line) or is_lone_escape(line, made.escape) for line in lines[last:])


def is_nothing(line: str) -> bool:
    bare = line.removeprefix("\ufeff").strip()
    return bare == "" or bare.startswith("#")


def is_lone_escape(line: str, escape: str) -> bool:
    """A continuation that is followed by nothing (rule L5)."""
    return line.strip() == escape


def written(instruction: Instruction) -> str:
    """The instruction's text as far as here-documents and blanks do not matter."""
    text = instruction.text
    if isinstance(instruction, Run) and instruction.command.heredocs:
        text = text.partition("<<")[0]
    return squeezed(text)


def joined(lines: list[str], start: int) -> str:
    """The physical lines from `start` on, without what joins them."""
    kept = [line for line in lines[start - 1 :] if not line.lstrip().startswith("#")]
    return squeezed("".join(kept))


def squeezed(text: str) -> str:
    return re.sub(r"[\s\\`\ufeff]", "", text)


@MANY
@given(TEXTS)
def test_K13_triggers_that_are_kept_can_be_read_again(text: str) -> None:
    made = parsed(text)
    for instruction in every_instruction(made) if made else ():
        if isinstance(instruction, OnBuild):
            place = Span(Source("Dockerfile", "FROM base"), 1, 1)
            try:
                fired = parse_trigger(instruction.trigger, place, "\\")
            except DockerfileError as error:
                assert error.span is not None and error.span.source is place.source
            else:
                assert fired.span == place


@MANY
@given(TEXTS, st.sampled_from(["\r\n", "\n\n", "\n# note\n"]))
def test_P5_L1_line_ends_blank_lines_and_comments_change_no_instruction(
    text: str, between: str
) -> None:
    """Where no here-document or continuation is near."""
    plain = text.replace("\r", "").replace("\\\n", "").replace("`\n", "").replace("<<", "")
    plain = "\n".join(line for line in plain.split("\n") if not line.strip().startswith("#"))
    before = parsed(plain)
    if before is None or plain.startswith("\ufeff"):
        return
    after = parsed(plain.replace("\n", between))
    assert after is not None
    assert [one.text for one in every_instruction(after)] == [
        one.text for one in every_instruction(before)
    ]
