"""Which instruction of an earlier stage stands where one stands now."""

from __future__ import annotations

from collections.abc import Sequence

_MANY = 1000  # lines, of which not all possibilities are looked through


def aligned(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Of each line of `new` the one of `old` that it is, or that it takes the place of: among lines
    that were replaced, the nth of an instruction that of the nth of the same."""
    least = min(len(old), len(new))
    head = next((n for n in range(least) if old[n] != new[n]), least)
    tails = range(least - head)
    tail = next((n for n in tails if old[-1 - n] != new[-1 - n]), least - head)
    found = {number: number for number in range(head)}
    found |= {len(new) - n: len(old) - n for n in range(1, tail + 1)}
    before, after = old[head : len(old) - tail], new[head : len(new) - tail]
    if not before or not after:
        return found
    from difflib import SequenceMatcher

    many = max(len(before), len(after)) > _MANY  # then lines that are there often do not count
    for tag, start, end, first, last in SequenceMatcher(None, before, after, many).get_opcodes():
        if tag == "equal":
            found |= zip(
                range(head + first, head + last), range(head + start, head + end), strict=True
            )
        elif tag == "replace":
            left = list(range(head + start, head + end))
            for number in range(head + first, head + last):
                kind = new[number].partition(" ")[0]
                alike = next((one for one in left if old[one].partition(" ")[0] == kind), None)
                if alike is not None:
                    found[number] = alike
                    left = [one for one in left if one > alike]
    return found
