"""A persistent map is a dict that is never changed, whichever of its versions is looked at."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.plan.chain import Chain
from assembler.plan.mapping import PersistentMap

calmly = settings(deadline=None)
"""Whatever else the machine does meanwhile."""
keys = st.sampled_from("abcd")
Operations = list[tuple[int, str, int]]


@calmly
@given(
    st.dictionaries(keys, st.integers()), st.lists(st.tuples(st.integers(0), keys, st.integers()))
)
def test_every_version_is_the_dict_it_should_be(
    start: dict[str, int], operations: Operations
) -> None:
    made = [(PersistentMap(start), start)]
    for number, key, value in operations:
        mapping, reference = made[number % len(made)]
        made.append((mapping.with_item(key, value), {**reference, key: value}))
    for mapping, reference in made:
        assert list(mapping.items()) == list(mapping.pairs) == list(reference.items())
        assert len(mapping) == len(reference)
        assert {key: mapping.get(key) for key in "abcd"} == {
            key: reference.get(key) for key in "abcd"
        }
        assert mapping == reference and mapping.pairs is mapping.pairs


def test_nothing_is_copied_while_it_grows() -> None:
    mapping: PersistentMap[int] = PersistentMap()
    versions = [mapping := mapping.with_item(f"k{n}", n) for n in range(100_000)]
    assert (len(versions[9]), len(versions[-1])) == (10, 100_000)
    assert versions[9].get("k9") == 9 and "k10" not in versions[9]


def test_one_key_may_have_many_values() -> None:
    mapping: PersistentMap[int] = PersistentMap()
    versions = [mapping := mapping.with_item("k", n) for n in range(100_000)]
    assert [versions[n]["k"] for n in (0, 5_000, 99_999)] == [0, 5_000, 99_999]
    assert len(versions[-1]) == 1


@calmly
@given(st.lists(st.integers()), st.lists(st.integers()))
def test_a_chain_is_a_list_and_what_it_grew_from_stays(items: list[int], more: list[int]) -> None:
    chain = Chain.of(items)
    longer = chain
    for item in more:
        longer = longer.append(item)
    assert (list(chain), len(chain)) == (items, len(items))
    assert (list(longer), len(longer)) == (items + more, len(items) + len(more))
