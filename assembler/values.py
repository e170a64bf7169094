"""Frozen dataclasses that start-up can afford.

`dataclass(frozen=True, slots=True)` compiles six methods for every class, 0.3 ms: a third of what a
build that finds all in the cache takes. Here one is compiled, the constructor; the others are shared.
That nothing is assigned to a value is checked by mypy, not while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

Class = TypeVar("Class", bound=type)

__all__ = ["field", "value"]


@overload
def value(cls: Class, /) -> Class:
    """Of a class."""


@overload
def value(*, kw_only: bool) -> Callable[[Class], Class]:
    """Of classes whose fields are given by name."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: Any = None, /, *, kw_only: bool = False) -> Any:
    """Make a class a dataclass with slots whose instances are equal when their fields are, and may be
    keys. Fields may be left out of that by `field(compare=False)`, and of texts by `repr=False`."""
    if cls is None:
        return lambda named: _made(named, kw_only)
    return _made(cls, kw_only)


def _made(cls: Any, kw_only: bool) -> Any:
    made: Any = dataclass(cls, eq=False, repr=False, slots=True, kw_only=kw_only)
    names = [one.name for one in fields(made) if one.compare]
    made._compared = attrgetter(*names) if names else type
    for name, method in (("__eq__", _equal), ("__hash__", _hashed), ("__repr__", _shown)):
        if name not in made.__dict__:
            setattr(made, name, method)
    return made


def _equal(one: Any, other: Any) -> Any:
    if other.__class__ is not one.__class__:
        return NotImplemented
    compared = one.__class__._compared
    return compared(one) == compared(other)


def _hashed(one: Any) -> int:
    return hash(one.__class__._compared(one))


def _shown(one: Any) -> str:
    named = (f"{each.name}={getattr(one, each.name)!r}" for each in fields(one) if each.repr)
    return f"{one.__class__.__qualname__}({', '.join(named)})"
