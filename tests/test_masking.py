"""The matcher, beside a model that looks at every place of the whole text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.masking import LEAST, MARK, Masks
from assembler.spellings import spellings


def expected(patterns: list[bytes], text: bytes) -> bytes:
    """`text` with a mark for each run of bytes that belong to an occurrence."""
    hidden = bytearray(len(text))
    for pattern in patterns:
        for at in range(len(text)):
            if text.startswith(pattern, at):
                hidden[at : at + len(pattern)] = b"x" * len(pattern)
    out = b""
    for at, byte in enumerate(text):
        if not hidden[at]:
            out += bytes([byte])
        elif not (at and hidden[at - 1]):
            out += MARK
    return out


def masked(masks: Masks, pieces: list[bytes]) -> bytes:
    """What comes out of the stream of `pieces`."""
    said: list[bytes] = []
    with masks.masked(said.append) as write:
        for piece in pieces:
            write(piece)
    assert b"" not in said
    return b"".join(said)


def masked_by(secret: bytes, text: bytes) -> bytes:
    """`text` without `secret`."""
    return masked(Masks(spellings(secret)), [text])


letters = st.binary(min_size=LEAST, max_size=7) | st.text("ab", min_size=LEAST, max_size=40).map(
    str.encode
)
patterns = st.lists(
    letters.filter(lambda one: b"\n" not in one), min_size=1, max_size=6, unique=True
) | st.lists(st.text("ab", min_size=LEAST, max_size=9).map(str.encode), min_size=30, max_size=60)


@st.composite
def texts(draw: st.DrawFn, among: list[bytes]) -> list[bytes]:
    """Pieces of a text that has whole patterns and parts of them."""
    one = st.sampled_from(among)
    parts = st.builds(
        lambda pattern, start, stop: pattern[start:stop], one, st.integers(0, 9), st.integers(1, 40)
    )
    whole = b"".join(
        draw(st.lists(one | parts | st.sampled_from([b"\n", b"a", b"b", b"-"]), max_size=20))
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(data=st.data())
def test_cut_anywhere_a_stream_is_masked_as_its_whole_is(data: st.DataObject) -> None:
    among = data.draw(patterns)
    pieces = data.draw(texts(among))
    whole, masks = b"".join(pieces), Masks(among)
    assert masked(masks, pieces) == expected(among, whole)
    assert masked(masks, [whole[at : at + 1] for at in range(len(whole))]) == expected(among, whole)


@given(data=st.data())
def test_no_pattern_ever_comes_out(data: st.DataObject) -> None:
    among = data.draw(patterns)
    out = masked(Masks(among), data.draw(texts(among)))
    assert not [one for one in among if one in out and not set(one) & set(MARK)]


def test_only_what_may_become_a_pattern_waits() -> None:
    said: list[bytes] = []
    with Masks([b"hunter2", b"hunters"]).masked(said.append) as write:
        for piece in (b"Password: ", b"25 %\rhun", b"t", b"ing\n", b"hunter", b"2", b" hunter"):
            write(piece)
        assert said == [b"Password: ", b"25 %\r", b"hunting\n", b"***", b" "]
    assert said[5:] == [b"hunter"]


def test_what_waits_is_given_out_when_the_stream_ends_badly() -> None:
    said: list[bytes] = []
    try:
        with Masks([b"hunter2"]).masked(said.append) as write:
            write(b"a hun")
            raise OSError
    except OSError:
        assert said == [b"a ", b"hun"]


def test_a_stream_in_which_nothing_occurs_is_not_copied() -> None:
    said: list[bytes] = []
    piece = b"nothing of that\n" * 4000
    with Masks([b"hunter2"]).masked(said.append) as write:
        write(piece)
    assert said[0] is piece


@pytest.mark.parametrize("count", [1, 30, 3000])
def test_hostile_text_and_patterns_take_steps_for_each_byte_and_no_more(count: int) -> None:
    """Patterns that are all but in the text, at each of its places."""
    among = [b"a" * 900 + b"%04d" % number for number in range(count)]
    masks, size = Masks(among), 200_000
    calls = 0

    class Counted(list[bytes]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal calls
            calls += 1
            return super().__getitem__(at)

    masks._patterns = Counted(masks._patterns)
    text = b"a" * size + b"\n"
    assert masked(masks, [text[at : at + 5000] for at in range(0, len(text), 5000)]) == text
    assert calls <= 30 * size
