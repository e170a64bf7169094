"""Values: dataclasses whose methods are shared."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import fields, is_dataclass

import pytest

from assembler.values import NamedTuple, field, mutable, replace, value


@value
class Point:
    """A place, and what it is called."""

    x: int
    y: int = 0
    name: str = field(default="", compare=False)
    secret: str = field(default="", repr=False)


@value
class Named(Point):
    """A point that is more."""

    more: tuple[int, ...] = ()


@value(kw_only=True)
class Keyed:
    """What is given by name."""

    x: int


@value
class Nothing:
    """What has no fields."""


def test_values_are_equal_when_what_is_compared_is() -> None:
    assert Point(1, 2, "a") == Point(1, 2, "b") != Point(1, 3)
    assert hash(Point(1, 2, "a")) == hash(Point(1, 2, "b"))
    assert Point(1) != Named(1) and Point(1) != (1, 0, "", "")
    assert Nothing() == Nothing() and len({Nothing(), Nothing(), Point(1), Point(1)}) == 2


def test_values_are_dataclasses_with_slots() -> None:
    assert is_dataclass(Point) and [one.name for one in fields(Named)][-1] == "more"
    assert replace(Named(1, 2), more=(3,)) == Named(1, 2, more=(3,))
    assert dataclasses.replace(Named(1, 2), y=3) == Named(1, 3)
    assert dataclasses.asdict(Keyed(x=1)) == {"x": 1}
    assert [one.default for one in fields(Point)] == [dataclasses.MISSING, 0, "", ""]
    assert not hasattr(Point(1), "__dict__")
    assert Keyed(x=1) == Keyed(x=1)
    with pytest.raises(TypeError):
        Keyed(1)  # type: ignore[misc]
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_texts_show_no_more_than_they_may() -> None:
    assert repr(Point(1, name="a", secret="s")) == "Point(x=1, y=0, name='a')"


def test_what_a_class_defines_is_its_own() -> None:
    @value
    class Own:
        """Equal to everything."""

        x: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    assert Own(1) == Own(2) and hash(Own(1)) == 0


def test_values_in_an_order_are_compared_field_by_field() -> None:
    @value(order=True)
    class Pair:
        """Two numbers."""

        first: int
        second: int

    assert sorted([Pair(2, 1), Pair(1, 2), Pair(1, 1)]) == [Pair(1, 1), Pair(1, 2), Pair(2, 1)]
    assert Pair(1, 2) <= Pair(1, 2) >= Pair(1, 1) and not Pair(1, 2) > Pair(1, 2)
    with pytest.raises(TypeError):
        assert Pair(1, 1) < 3


def test_what_is_made_for_each_value_is_its_own() -> None:
    @value
    class Kept:
        """What it was asked before is remembered."""

        x: int
        kept: list[int] = field(default_factory=list, init=False, compare=False)
        sure: bool = field(default=True, init=False)

    one, other = Kept(1), Kept(1)
    one.kept.append(1)
    assert one == other and not other.kept and other.sure
    assert replace(one, x=2).kept == []


def test_what_is_mutable_is_equal_to_itself_only() -> None:
    @mutable
    class Count:
        """How many."""

        number: int = 0

    one = Count()
    one.number += 1
    assert (
        one.number == 1 and Count() != Count() and repr(one).endswith(".<locals>.Count(number=1)")
    )


def test_a_field_of_the_standard_library_means_the_same() -> None:
    @value
    class Said:
        """Whose fields are described by something else."""

        x: int = dataclasses.field(default=1)
        more: list[int] = dataclasses.field(default_factory=list, compare=False, repr=False)

    assert Said().x == 1 and Said().more == [] and Said(more=[1]) == Said()
    assert repr(Said()).endswith("Said(x=1)")


class Around:
    """What has a class of its own."""

    @value
    class Inner:
        """Which is found by its whole name."""

        x: int


def test_values_go_to_other_processes_as_they_are() -> None:
    for one in (Point(1, 2, "a", "s"), Named(1, more=(2,)), Nothing(), Around.Inner(1)):
        again = pickle.loads(pickle.dumps(one))
        assert again == one == copy.copy(one) and repr(again) == repr(one)
        assert type(again) is type(one)


class Place(NamedTuple):
    """A pair with a method."""

    x: int
    y: int = 0

    @property
    def far(self) -> bool:
        """Whether it is not at the origin."""
        return any(self)


def test_named_tuples_are_those_of_the_standard_library() -> None:
    assert Place(1) == (1, 0) and Place(1).far and Place._fields == ("x", "y")
    assert repr(Place(1)._replace(y=2)) == "Place(x=1, y=2)" and Place.__module__ == __name__
    assert Place.__doc__ == "A pair with a method." and pickle.loads(pickle.dumps(Place(1))) == (
        1,
        0,
    )
    with pytest.raises(TypeError):
        Place()  # type: ignore[call-arg]
