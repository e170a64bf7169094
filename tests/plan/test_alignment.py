"""Which instruction of an earlier stage stands where one stands now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.plan.alignment import aligned


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        (["RUN a"], ["RUN a"], {0: 0}),
        (["RUN a", "RUN b"], ["RUN a", "RUN x", "RUN b"], {0: 0, 2: 1}),
        (["RUN a", "RUN x", "RUN b"], ["RUN a", "RUN b"], {0: 0, 1: 2}),
        (["COPY a", "RUN b"], ["COPY a", "RUN c"], {0: 0, 1: 1}),
        (["COPY a", "RUN b"], ["RUN c", "WORKDIR /"], {0: 1}),
        (["RUN a", "RUN b", "RUN c"], ["RUN c", "RUN a", "RUN b"], {1: 0, 2: 1}),
        (["RUN a"], [], {}),
        (["RUN a", "RUN a"], ["RUN a"], {0: 0}),
    ],
)
def test_what_stands_in_the_place_of_what(
    old: list[str], new: list[str], pairs: dict[int, int]
) -> None:
    assert aligned(old, new) == pairs


lines = st.lists(st.sampled_from(["RUN a", "RUN b", "COPY a", "WORKDIR /"]), max_size=8)


@given(lines, lines)
def test_lines_are_aligned_each_with_one_of_its_kind(old: list[str], new: list[str]) -> None:
    found = aligned(old, new)

    assert aligned(new, new) == {number: number for number in range(len(new))}
    assert len(set(found.values())) == len(found)
    assert sorted(found.values()) == [found[number] for number in sorted(found)], "none cross"
    for number, other in found.items():
        assert new[number].split()[0] == old[other].split()[0]


def test_thousands_of_lines_are_aligned_at_once() -> None:
    new = [f"RUN {number % 10}" for number in range(5000)]

    found = aligned(["RUN first", *new[:2500], "RUN middle", *new[2500:]], new)
    assert len(found) == 5000
