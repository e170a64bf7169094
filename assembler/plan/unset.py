"""`--unset`: what an image would have from its base, and is not to have.

A Dockerfile cannot take back a VOLUME, EXPOSE, ENTRYPOINT, HEALTHCHECK, LABEL, ENV or ONBUILD of the
image that it is built from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from assembler.errors import UsageError
from assembler.oci.config import Execution
from assembler.values import replace, value


@value
class Unset:
    """One word: all of `kind`, or only `name` of it."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def parse(words: Iterable[str]) -> tuple[Unset, ...]:
    """What `KIND[:NAME],…` ask for. Raises UsageError."""
    return tuple(_parse(part) for word in words for part in word.split(",") if part)


def unset(execution: Execution, what: Iterable[Unset]) -> tuple[Execution, tuple[Unset, ...]]:
    """`execution` without it, and what of it was not there."""
    absent = []
    for one in what:
        left = _BY_KIND[one.kind](execution, one.name)
        absent += [one] if left == execution else []
        execution = left
    return execution, tuple(absent)


def _parse(word: str) -> Unset:
    kind, colon, name = word.partition(":")
    kind = kind.strip().lower()
    kind = _ALIASES.get(kind, kind)
    if kind not in _BY_KIND:
        raise UsageError(
            f"--unset {word}: there is no {kind!r} to unset", hint=f"one of {', '.join(_BY_KIND)}"
        )
    if colon and (kind not in _NAMED or not name):
        raise UsageError(
            f"--unset {word}: no name can follow", hint=f"names are for {', '.join(_NAMED)}"
        )
    if kind == "expose" and name and "/" not in name:
        name = f"{name}/tcp"
    return Unset(kind, name)


def _without(found: Iterable[str], name: str) -> Iterator[str]:
    return (one for one in found if name and one != name)


def _env(execution: Execution, name: str) -> Execution:
    kept = (one for one in execution.env if name and one.partition("=")[0] != name)
    return replace(execution, env=tuple(kept))


def _labels(execution: Execution, name: str) -> Execution:
    labels = execution.labels
    return replace(execution, labels={key: labels[key] for key in _without(labels, name)})


_BY_KIND: Mapping[str, Callable[[Execution, str], Execution]] = MappingProxyType(
    {
        "volume": lambda one, name: replace(one, volumes=tuple(_without(one.volumes, name))),
        "expose": lambda one, name: replace(
            one, exposed_ports=tuple(_without(one.exposed_ports, name))
        ),
        "env": _env,
        "label": _labels,
        "entrypoint": lambda one, _: replace(one, entrypoint=None),
        "cmd": lambda one, _: replace(one, cmd=None),
        "healthcheck": lambda one, _: replace(one, healthcheck=None),
        "onbuild": lambda one, _: replace(one, on_build=()),
        "user": lambda one, _: replace(one, user=""),
        "workdir": lambda one, _: replace(one, working_dir=""),
        "stopsignal": lambda one, _: replace(one, stop_signal=""),
        "shell": lambda one, _: replace(one, shell=()),
    }
)
_NAMED = ("volume", "expose", "env", "label")
_ALIASES = MappingProxyType({"volumes": "volume", "labels": "label", "ports": "expose"})
