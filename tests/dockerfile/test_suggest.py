"""Suggestions (rule LN2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.dockerfile.suggest import completed, did_you_mean, nearest
from tests.bounds import cpu_seconds

NAMES = ("RUN", "COPY", "ADD", "ENTRYPOINT")


def test_LN2_the_nearest_within_two_edits() -> None:
    assert nearest("CPOY", NAMES) == "COPY"
    assert nearest("RUNN", NAMES) == "RUN"
    assert nearest("ENTRYPINT", NAMES) == "ENTRYPOINT"
    assert nearest("FOOBAR", NAMES) == ""


def test_LN2_an_exact_match_suggests_nothing() -> None:
    assert nearest("RUN", NAMES) == ""
    assert nearest("run", NAMES, ignore_case=True) == ""


def test_LN2_case_follows_the_user() -> None:
    assert nearest("cpoy", NAMES, ignore_case=True) == "copy"
    assert nearest("Cpoy", NAMES, ignore_case=True) == "Copy"
    assert nearest("CPOY", NAMES, ignore_case=True) == "COPY"
    assert nearest("cpoy", NAMES) == ""


def test_LN2_as_text() -> None:
    assert did_you_mean("chwon", ["chown", "chmod"]) == " (did you mean chown?)"
    assert did_you_mean("zzz", ["chown"]) == ""


def test_LN2_long_words_take_no_time() -> None:
    """All cells of their table would be a thousand million."""
    word = "a" * 30_000
    with cpu_seconds(15):
        assert nearest(f"{word}b", [f"{word}c"]) == f"{word}c"
        assert nearest(f"b{word}", [f"{word}ccc"]) == ""


@given(st.text("ab", min_size=1, max_size=6), st.integers(0, 5), st.sampled_from("ab"))
def test_LN2_one_edit_is_always_found(word: str, at: int, char: str) -> None:
    edited = word[:at] + char + word[at:]
    assert nearest(edited, [word]) == word
    assert nearest(word, [edited]) == edited


@pytest.mark.parametrize(
    ("word", "candidates", "text"),
    [
        ("rel", ["build", "release"], " (did you mean release?)"),
        ("rel", ["release", "release"], " (did you mean release?)"),
        ("re", ["release", "review"], ""),
        ("release", ["release"], ""),
        ("lease", ["release"], ""),
        ("", ["release"], ""),
    ],
)
def test_the_only_word_that_begins_so(word: str, candidates: list[str], text: str) -> None:
    assert completed(word, candidates) == text


def edits(left: str, right: str) -> int:
    """Levenshtein's distance, by trying everything."""
    if not left or not right:
        return len(left) + len(right)
    change = edits(left[1:], right[1:]) + (left[0] != right[0])
    return min(change, edits(left[1:], right) + 1, edits(left, right[1:]) + 1)


@given(st.text("abc", max_size=5), st.lists(st.text("abc", max_size=5), max_size=3))
def test_LN2_agrees_with_a_slow_reference(word: str, names: list[str]) -> None:
    near = [name for name in names if edits(word, name) <= 2]
    wanted = "" if word in names or not near else min(near, key=lambda name: edits(word, name))
    assert nearest(word, names) == wanted
