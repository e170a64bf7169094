"""What commands take, as data: plain words are read here, everything else by click.

To import click takes a tenth of a build that finds all in the cache, or of a push that finds all
there. It is asked where there is more to do: for help, for a mistake, for variables of the
environment, for types that are rarely given. So `Command.read` says either what click would, or
nothing. The names here are click's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from assembler.values import NamedTuple, value

if TYPE_CHECKING:
    import click

Function = TypeVar("Function", bound=Callable[..., Any])
Words = dict[str, Any]
_GLOBAL = frozenset(("ASSEMBLE_DEBUG", "ASSEMBLE_HELP", "ASSEMBLE_VERSION"))
"""Variables for the options that every command has."""


class Choice(NamedTuple):
    """One of some words."""

    words: Sequence[str]

    def read(self, word: str) -> str | None:
        """`word`, None where click has to say something."""
        return word if word in self.words else None

    def by_click(self) -> Any:
        """Click's type."""
        import click

        return click.Choice(self.words)


class IntRange(NamedTuple):
    """A number."""

    min: int | None = None
    max: int | None = None

    def read(self, word: str) -> int | None:
        """The number, None where click has to say something."""
        if not word.isdecimal() or len(word) > 9:
            return None
        number = int(word)
        low, high = number < (self.min or 0), self.max is not None and number > self.max
        return None if low or high else number

    def by_click(self) -> Any:
        """Click's type."""
        import click

        return click.IntRange(self.min, self.max)


class Path(NamedTuple):
    """A path, which is click's to look at."""

    exists: bool
    file_okay: bool
    resolve_path: bool

    def read(self, word: str) -> None:
        """None."""
        return None

    def by_click(self) -> Any:
        """Click's type."""
        import click

        return click.Path(*self)


@value
class Option:
    """One option: its flags, and perhaps the name of its value, as `click.option` has them."""

    words: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What its value is called."""
        for word in self.words:
            if not word.startswith("-"):
                return word
        longest = max(self.words, key=lambda word: word.startswith("--"))
        return longest.lstrip("-").replace("-", "_").lower()

    @property
    def default(self) -> Any:
        """The value of an option that is not given."""
        given = self.settings.get("default", False if self.flag else None)
        return () if self.multiple and given is None else given

    @property
    def flag(self) -> bool:
        """Whether it takes no value."""
        return bool(self.settings.get("is_flag"))

    @property
    def multiple(self) -> bool:
        """Whether all values count that are given, not the last."""
        return bool(self.settings.get("multiple"))

    def read(self, word: str) -> Any:
        """What the value `word` means, None where click has to say something."""
        kind = self.settings.get("type")
        return word if kind is None else kind.read(word)

    def by_click(self, command: Function) -> Function:
        """`command` with this option of click's."""
        import click

        settings = dict(self.settings)
        if "type" in settings:
            settings["type"] = settings["type"].by_click()
        return click.option(*self.words, **settings)(command)

    def __call__(self, command: Function) -> Function:
        """`command`, which becomes a `Command`, with this option before those below it."""
        return options(self)(command)


def option(*words: str, **settings: Any) -> Option:
    """What `click.option` declares."""
    return Option(words, settings)


def options(*several: Option) -> Callable[[Function], Function]:
    """A decorator with several options."""

    def decorate(command: Function) -> Function:
        declared: Any = command
        declared.options = (*several, *getattr(command, "options", ()))
        return command

    return decorate


@value
class Argument:
    """One word, or if `many` at least one and all that are left, as a tuple."""

    name: str
    metavar: str
    many: bool = False

    def by_click(self, command: Function) -> Function:
        """`command` with this argument of click's."""
        import click

        number = -1 if self.many else 1
        return click.argument(self.name, metavar=self.metavar, nargs=number, required=True)(command)


@value
class Command:
    """A command that `run` executes with a value for each of its options and arguments, of which the
    last may be many."""

    name: str
    run: Callable[..., int | None]
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]

    def read(self, words: Iterable[str], variables: Mapping[str, str]) -> Words | None:
        """The values that click would find in `words`; None where it has more to do. `variables`
        are those of the environment."""
        prefixes = (f"ASSEMBLE_{self.name.upper()}_", "_ASSEMBLE_")
        if any(one in _GLOBAL or one.startswith(prefixes) for one in variables):
            return None
        flags = {word: one for one in self.options for word in one.words if word.startswith("-")}
        found: Words = {one.name: one.default for one in self.options}
        given: dict[str, list[Any]] = {}
        bare: list[str] = []
        left = iter(words)
        for word in left:
            if word == "-" or not word.startswith("-"):
                bare.append(word)
                continue
            flag, equals, value = word.partition("=")
            asked = flags.get(flag)
            if asked is None or (equals and (asked.flag or not flag.startswith("--"))):
                return None
            if not asked.flag:
                if not equals:
                    value = asked.settings.get("flag_value") or next(left, "--")
                    if value.startswith("-") and value != "-":
                        return None
                meant = asked.read(value)
            else:
                meant = True
            if meant is None:
                return None
            given.setdefault(asked.name, []).append(meant)
        for one in self.options:
            if one.name in given:
                values = given[one.name]
                found[one.name] = tuple(values) if one.multiple else values[-1]
        last = len(self.arguments) - 1
        if len(bare) <= last or (len(bare) > last + 1 and not self.arguments[last].many):
            return None
        for number, argument in enumerate(self.arguments):
            found[argument.name] = tuple(bare[number:]) if argument.many else bare[number]
        return found

    def by_click(self) -> click.Command:
        """Click's command."""
        import click

        run = self.run
        for argument in reversed(self.arguments):
            run = argument.by_click(run)
        for one in reversed(self.options):
            run = one.by_click(run)
        return click.command(self.name)(run)


def command(name: str, *arguments: Argument) -> Callable[[Callable[..., int | None]], Command]:
    """A decorator that makes a function, and the options below it, a command."""
    return lambda run: Command(name, run, getattr(run, "options", ()), arguments)
