"""The word that was probably meant (rule LN2)."""

from __future__ import annotations

from collections.abc import Iterable

_FARTHEST = 2


def nearest(word: str, candidates: Iterable[str], ignore_case: bool = False) -> str:
    """The first candidate nearest to `word`, at most two edits away; empty when there is none.

    An exact match gives nothing: then the word was not the mistake. With `ignore_case` the answer
    is cased like `word`.
    """
    wanted = word.lower() if ignore_case else word
    best, distance = "", _FARTHEST + 1
    for candidate in candidates:
        option = candidate.lower() if ignore_case else candidate
        if option == wanted:
            return ""
        found = _distance(wanted, option)
        if found < distance:
            best, distance = option, found
    return _cased_like(word, best) if ignore_case else best


def did_you_mean(word: str, candidates: Iterable[str], ignore_case: bool = False) -> str:
    """` (did you mean X?)` with a leading blank, or nothing."""
    match = nearest(word, candidates, ignore_case)
    return f" (did you mean {match}?)" if match else ""


def completed(word: str, candidates: Iterable[str]) -> str:
    """` (did you mean X?)` for the only candidate that begins with `word`, or nothing."""
    longer = {candidate for candidate in candidates if candidate.startswith(word)} - {word}
    return f" (did you mean {longer.pop()}?)" if word and len(longer) == 1 else ""


def _distance(left: str, right: str) -> int:
    """Levenshtein distance, or any number above `_FARTHEST` when it is larger than that.

    Only the cells that may be near enough are looked at (Ukkonen): words may be very long.
    """
    far = _FARTHEST + 1
    if abs(len(left) - len(right)) > _FARTHEST:
        return far
    # cell `at` of a row is the distance to the first `i + at - _FARTHEST` characters of `right`
    row = [far] * _FARTHEST + list(range(far)) + [far]
    for i, char in enumerate(left, start=1):
        before, row = row, [far] * (2 * _FARTHEST + 2)
        for at in range(2 * _FARTHEST + 1):
            j = i + at - _FARTHEST
            if 0 < j <= len(right):
                change = before[at] + (char != right[j - 1])
                row[at] = min(change, before[at + 1] + 1, row[at - 1] + 1 if at else far)
            elif j == 0:
                row[at] = i
        if min(row) > _FARTHEST:
            return far
    return row[len(right) - len(left) + _FARTHEST]


def _cased_like(word: str, match: str) -> str:
    if word.islower():
        return match
    return match.title() if word.istitle() and len(word) > 1 else match.upper()
