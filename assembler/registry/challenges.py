"""WWW-Authenticate (RFC 9110 11.6.1), and the scopes of tokens (distribution's "token scope")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from assembler.values import value

LONGEST = 16 << 10  # characters of the header that are looked at
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(rf"{_TOKEN}(?=[\s,]|$)(?!\s*=)")
# Registries leave realms unquoted, which the grammar forbids and everybody reads.
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
_BETWEEN = re.compile(r"[\s,]*")
_REST = re.compile(r"[^,]*")

Scopes = frozenset[tuple[str, str]]
"""(resource, action): `("repository:team/app", "pull")`."""


@value
class Challenge:
    """One challenge: its scheme and the names of its parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    def get(self, name: str) -> str:
        """The parameter `name`, empty when there is none."""
        return self.parameters.get(name, "")


def parse(header: str) -> tuple[Challenge, ...]:
    """The challenges of `header`, whose lines are joined by commas; what is malformed is left out."""
    found: list[tuple[str, dict[str, str]]] = []
    text = header[:LONGEST]
    at = _end(_BETWEEN, text, 0)
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is not None and found:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
            at = parameter.end()
        elif parameter is None and (scheme := _NAME.match(text, at)) is not None:
            found.append((scheme[0].lower(), {}))
            at = _end(_BETWEEN, text, scheme.end())
            if "," not in text[scheme.end() : at] and not _PARAMETER.match(text, at):
                at = _end(_TOKEN68, text, at)
        else:
            at = _end(_REST, text, at)
        at = max(_end(_BETWEEN, text, at), at)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def scopes(text: str) -> Scopes:
    """The scopes of `text`, separated by blanks: `repository:team/app:pull,push`."""
    found: set[tuple[str, str]] = set()
    for word in text.split():
        resource, _, actions = word.rpartition(":")
        found.update((resource, action) for action in actions.split(",") if resource and action)
    return frozenset(found)


def render(wanted: Iterable[tuple[str, str]]) -> list[str]:
    """One scope for each resource, in order: the values of as many `scope` parameters."""
    actions: dict[str, list[str]] = {}
    for resource, action in sorted(wanted):
        actions.setdefault(resource, []).append(action)
    return [f"{resource}:{','.join(those)}" for resource, those in actions.items()]
