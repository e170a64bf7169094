"""`--name=value` after an instruction's name (rules I2, I3), and the fields inside --mount (M1)."""

from __future__ import annotations

from collections.abc import Sequence

from assembler.dockerfile.instructions import Flag
from assembler.dockerfile.suggest import did_you_mean
from assembler.dockerfile.words import WHITESPACE
from assembler.errors import BadFlag
from assembler.source import Span
from assembler.values import value


@value
class Allowed:
    """The flags an instruction has: with a value, boolean, and with a value any number of times."""

    valued: tuple[str, ...] = ()
    boolean: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.valued, *self.boolean, *self.repeated)


@value
class Flags:
    """The flags of one instruction, checked."""

    given: tuple[Flag, ...] = ()

    def text(self, name: str) -> str:
        """The value of a flag, empty when it was not given."""
        return next((flag.value for flag in self.given if flag.name == name), "")

    def all(self, name: str) -> tuple[str, ...]:
        """The values of a repeatable flag, in order."""
        return tuple(flag.value for flag in self.given if flag.name == name)

    def truth(self, name: str) -> bool | None:
        """The value of a boolean flag, None when it was not given."""
        value = self.text(name)
        return value == "true" if value else None


def split_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """The words starting with `--` at the front of `text`, unquoted, and the text after them."""
    words: list[str] = []
    position = 0
    while True:
        position = _skip_blanks(text, position)
        if not text.startswith("--", position):
            return tuple(words), text[position:]
        word, position = _word(text, position, escape)
        if word == "--":
            return tuple(words), text[_skip_blanks(text, position) :]
        words.append(word)


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in WHITESPACE:
        position += 1
    return position


def _word(text: str, position: int, escape: str) -> tuple[str, int]:
    """The word at `position` without quotes and escapes, and where it ends."""
    out: list[str] = []
    quote = ""
    while position < len(text):
        char = text[position]
        position += 1
        if char == escape:
            out.append(text[position : position + 1])
            position += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char in WHITESPACE:
            break
        else:
            out.append(char)
    return "".join(out), position


def check_flags(words: Sequence[str], allowed: Allowed, span: Span) -> Flags:
    """The flags that `words` (from `split_flags`) give. Raises `BadFlag`."""
    given: list[Flag] = []
    seen: set[str] = set()
    for word in words:
        name, equals, value = word[2:].partition("=")
        place = span.blame(f"--{name}")
        if name not in allowed.names:
            suggestion = did_you_mean(name, allowed.names)
            raise BadFlag(f"unknown flag: --{name}{suggestion}", place)
        if name in seen and name not in allowed.repeated:
            raise BadFlag(f"duplicate flag specified: --{name}", place)
        seen.add(name)
        if name in allowed.boolean:
            value = _boolean(name, equals, value, place)
        elif not equals:
            raise BadFlag(f"missing a value on flag: --{name}", place)
        given.append(Flag(name, value))
    return Flags(tuple(given))


def _boolean(name: str, equals: str, value: str, span: Span) -> str:
    if equals and not value:
        raise BadFlag(f"missing a value on flag: --{name}", span)
    if value.lower() not in ("", "true", "false"):
        raise BadFlag(f"expecting boolean value for flag --{name}, not: {value}", span.blame(value))
    return value.lower() or "true"


def parse_csv_fields(text: str) -> tuple[tuple[str, str | None], ...]:
    """The fields of a --mount value: key in lower case and value, None for a bare key (rule M1).

    Fields are separated by commas; one may be put in double quotes, with `""` for a quote in it.
    Raises `BadFlag` without a span.
    """
    return tuple(map(_key_and_value, csv_fields(text)))


def _key_and_value(field: str) -> tuple[str, str | None]:
    key, equals, value = field.partition("=")
    return key.lower(), value if equals else None


def csv_fields(text: str) -> list[str]:
    """The fields of `text` as written, their quotes resolved. Raises `BadFlag` without a span."""
    if not text:
        return []
    fields: list[str] = []
    position = 0
    while position <= len(text):
        if text.startswith('"', position):
            field, position = _quoted_field(text, position + 1)
            if position < len(text) and text[position] != ",":
                raise BadFlag(f'failed to parse csv fields: text after the closing " in {text}')
        else:
            comma = text.find(",", position)
            end = comma if comma >= 0 else len(text)
            field, position = text[position:end], end
            if '"' in field:
                raise BadFlag(f'failed to parse csv fields: bare " in non-quoted field {field}')
        fields.append(field)
        position += 1
    return fields


def _quoted_field(text: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    while (end := text.find('"', position)) >= 0:
        out.append(text[position:end])
        if not text.startswith('"', end + 1):
            return "".join(out), end + 1
        out.append('"')
        position = end + 2
    raise BadFlag(f'failed to parse csv fields: missing closing " in {text}')
