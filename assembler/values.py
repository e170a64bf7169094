"""Dataclasses that start-up can afford.

`dataclass` compiles methods for every class, 0.2 ms each, and imports half a compiler for it: together
a third of what a build that finds all in the cache takes. Here a constructor is compiled when the first
value of its class is made, and all other methods are shared. To `dataclasses.fields` and the like the
classes are dataclasses. That nothing is assigned to a value is checked by mypy, not while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload

if TYPE_CHECKING:
    from dataclasses import field, replace
    from typing import NamedTuple
else:
    from collections import namedtuple

    class _Tuples(type):
        """Makes a class of tuples as `typing.NamedTuple` does, which would compile every annotation."""

        def __new__(meta, name, bases, namespace):
            if not bases:
                return super().__new__(meta, name, bases, namespace)
            names = tuple(namespace.get("__annotations__", ()))
            defaults = [namespace.pop(one) for one in names if one in namespace]
            module = namespace.pop("__module__")
            made = namedtuple(name, names, defaults=defaults, module=module)
            for key, one in namespace.items():
                setattr(made, key, one)
            return made

    class NamedTuple(metaclass=_Tuples):
        """What `typing.NamedTuple` is to who checks types."""


Class = TypeVar("Class", bound=type)

__all__ = ["Field", "NamedTuple", "field", "fields", "is_value", "mutable", "replace", "value"]

_LACKING: Any = object()


class Field(NamedTuple):
    """One field of a value. `type` is the text of its annotation."""

    name: str
    default: Any = _LACKING
    factory: Any = _LACKING
    init: bool = True
    repr: bool = True
    compare: bool = True
    kw_only: bool = False
    type: str = ""


if not TYPE_CHECKING:

    def field(
        *,
        default=_LACKING,
        default_factory=_LACKING,
        init=True,
        repr=True,
        compare=True,
        kw_only=False,
    ) -> Any:
        """What is said of a field, see `dataclasses.field`."""
        return Field("", default, default_factory, init, repr, compare, kw_only)

    def replace(one, /, **changes):
        """`one`, a value, with other fields, see `dataclasses.replace`."""
        cls = one.__class__
        if "_initial" not in cls.__dict__:
            import dataclasses

            return dataclasses.replace(one, **changes)
        for name in cls._initial:
            if name not in changes:
                changes[name] = getattr(one, name)
        return cls(**changes)


def is_value(one: object) -> bool:
    """Whether `one` is of a class that this module made."""
    return hasattr(type(one), "_fields_of")


def fields(of: Any) -> tuple[Field, ...]:
    """The fields of a value or of its class, in their order."""
    found: tuple[Field, ...] = of._fields_of
    return found


@overload
def value(cls: Class, /) -> Class:
    """Of a class."""


@overload
def value(*, kw_only: bool = False, order: bool = False) -> Callable[[Class], Class]:
    """Of classes whose fields are given by name, or whose values are in the order of their fields."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: Any = None, /, *, kw_only: bool = False, order: bool = False) -> Any:
    """Make a class a dataclass with slots whose instances are equal when their fields are, and may be
    keys. Fields may be left out of that by `field(compare=False)`, and of texts by `repr=False`."""
    if cls is None:
        return lambda named: _value(named, kw_only, order)
    return _value(cls, kw_only, order)


@dataclass_transform(field_specifiers=(field,))
def mutable(cls: Class, /) -> Class:
    """Make a class a dataclass with slots, each instance of which is equal to itself only."""
    made: Class = _made(cls, False)
    return made


def _value(cls: Any, kw_only: bool, order: bool) -> Any:
    methods: dict[str, Any] = {"__eq__": _equal, "__hash__": _hashed}
    if order:
        methods |= {"__lt__": _less, "__le__": _not_more}  # those of > and >= are these, turned
    made = _made(cls, kw_only, {**methods, **cls.__dict__})
    names = [one.name for one in fields(made) if one.compare]
    made._compared = attrgetter(*names) if names else type
    return made


def _made(cls: Any, kw_only: bool, namespace: dict[str, Any] | None = None) -> Any:
    """`cls` with slots, which a class can only be made with: it is made anew."""
    namespace = dict(cls.__dict__ if namespace is None else namespace)
    known: dict[str, Field] = {}
    for above in reversed(cls.__mro__[1:]):
        known.update((one.name, one) for one in above.__dict__.get("_fields_of", ()))
    own = []
    for name, text in namespace.get("__annotations__", {}).items():
        if name not in known:
            own.append(name)
        said = _field(namespace.pop(name, _LACKING), name, kw_only)
        known[name] = said._replace(type=str(text))
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    initial = [one for one in known.values() if one.init]
    positional = tuple(one.name for one in initial if not one.kw_only)
    namespace |= {
        "__qualname__": cls.__qualname__,
        "__slots__": tuple(own),
        "__match_args__": positional,
        "__dataclass_fields__": _DataclassFields(),
        "_fields_of": tuple(known.values()),
        "_initial": tuple(one.name for one in initial),
    }
    namespace.setdefault("__repr__", _shown)
    made: Any = type(cls)(cls.__name__, cls.__bases__, namespace)

    def first(self: Any, *words: Any, **named: Any) -> None:
        made.__init__ = _constructor(made)
        made.__init__(self, *words, **named)

    made.__init__ = first
    return made


def _field(given: Any, name: str, kw_only: bool) -> Field:
    if isinstance(given, Field):
        return given._replace(name=name, kw_only=kw_only or given.kw_only)
    if type(given).__name__ != "Field":
        return Field(name, given, kw_only=kw_only)
    import dataclasses  # whose `field` it is

    default, factory = (
        _LACKING if one is dataclasses.MISSING else one
        for one in (given.default, given.default_factory)
    )
    kw_only = kw_only or given.kw_only is True
    return Field(name, default, factory, given.init, given.repr, given.compare, kw_only)


def _constructor(cls: Any) -> Any:
    """The `__init__` of a value's class, as one would write it."""
    given: dict[str, Any] = {"_lacking": _LACKING}
    words: list[str] = []
    named: list[str] = []
    lines: list[str] = []
    for name, default, factory, init, _, _, kw_only, _ in fields(cls):
        word, made = name, name
        if default is not _LACKING:
            given[f"_given_{name}"] = default
            word = f"{name}=_given_{name}"
            made = name if init else f"_given_{name}"
        elif factory is not _LACKING:
            given[f"_make_{name}"] = factory
            word = f"{name}=_lacking"
            made = (
                f"_make_{name}() if {name} is _lacking else {name}" if init else f"_make_{name}()"
            )
        if init:
            (named if kw_only else words).append(word)
        elif made == name:
            continue
        lines.append(f" self.{name} = {made}\n")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()\n")
    parameters = ", ".join(["self", *words, *(["*", *named] if named else ())])
    exec(f"def __init__({parameters}):\n{''.join(lines) or ' pass'}", given)
    constructor = given["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    return constructor


class _DataclassFields:
    """What `dataclasses` asks a class for; made when it does."""

    def __get__(self, one: Any, cls: Any) -> dict[str, Any]:
        import dataclasses

        def said(one: Field) -> Any:
            given = {"default": one.default, "default_factory": one.factory}
            known = {key: each for key, each in given.items() if each is not _LACKING}
            return dataclasses.field(init=one.init, repr=one.repr, compare=one.compare, **known)

        named = [(one.name, Any, said(one)) for one in fields(cls)]
        model: Any = dataclasses.make_dataclass(cls.__name__, named, kw_only=True)
        found: dict[str, Any] = model.__dataclass_fields__
        cls.__dataclass_fields__ = found
        return found


def _equal(one: Any, other: Any) -> Any:
    if other.__class__ is not one.__class__:
        return NotImplemented
    compared = one.__class__._compared
    return compared(one) == compared(other)


def _less(one: Any, other: Any) -> Any:
    if other.__class__ is not one.__class__:
        return NotImplemented
    compared = one.__class__._compared
    return compared(one) < compared(other)


def _not_more(one: Any, other: Any) -> Any:
    if other.__class__ is not one.__class__:
        return NotImplemented
    compared = one.__class__._compared
    return compared(one) <= compared(other)


def _hashed(one: Any) -> int:
    return hash(one.__class__._compared(one))


def _shown(one: Any) -> str:
    named = (f"{each.name}={getattr(one, each.name)!r}" for each in fields(one) if each.repr)
    return f"{one.__class__.__qualname__}({', '.join(named)})"
