"""Differences in the user's terms: short for the line of a step, long where there is room.

Values are cut to the part that differs, control characters are escaped, passwords of URLs hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from assembler.plan.differences import (
    ADDED,
    CHANGED,
    LINKS,
    REMOVED,
    Difference,
    contrasted,
    title,
)
from assembler.source import printable, redacted

_LENGTH = 60  # characters of a value
_HEX = 12  # of a digest
_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "args": "ARG",
        "env": "ENV",
        "user": "USER",
        "cwd": "WORKDIR",
        "argv": "the command",
        "scripts": "the here-document",
        "inline": "the here-document",
        "hostname": "BUILDKIT_SANDBOX_HOSTNAME",
        "hosts": "--add-host",
        "devices": "--device",
        "limits": "--ulimit",
        "shared_memory": "--shm-size",
        "path": "the path",
        "destination": "the destination",
        "sources": "the sources",
    }
)
"""What a field is called; another is an option."""

_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "new": "instruction is new",
        "first": "no earlier build is known",
        "unreached": "no earlier build has come so far",
        "no-cache": "--no-cache",
        "cache-ttl": "older than --cache-ttl",
        "pruned": "result was pruned",
        "failed": "it failed in the build before",
        "canceled": "it was canceled in the build before",
        "unknown": "what was there before is not known any more",
        "unrecorded": "something that is not recorded differs",
    }
)
"""Why a step ran where nothing differs, or where there is nothing to compare."""

REASONS = frozenset(_REASONS)
_KINDS = MappingProxyType({
    "-": "file", "d": "directory", "l": "link", "p": "pipe", "c": "device", "b": "device",
})  # fmt: skip


def words(difference: Difference, *, long: bool = False) -> str:
    """`difference` as text of one line; with `long` where it is, and digests."""
    return printable(_words(difference, long))


def _words(difference: Difference, long: bool) -> str:
    what = difference.what
    if what in _REASONS:
        return _REASONS[what]
    if what == "file":
        return _at(difference, _file(difference, long), long)
    if what in ("files", "origin"):
        return _at(difference, _source(difference), long)
    if what == "mount":
        return _mount(difference)
    if what in ("base", "stage", "step", "instruction"):
        return _below(difference, long)
    label = _LABELS.get(what, f"--{what}")
    return _at(difference, _value(f"{label} {_name(difference.name)}".rstrip(), difference), long)


def more(count: int) -> str:
    """That there are `count` others; nothing for none."""
    return f" (and {count} more)" if count else ""


def shown(name: str) -> str:
    """A step with its place among those of its stage: `COPY src /app (3/7)`."""
    place = name.partition("] ")[0].rpartition(" ")[2].lstrip("[")
    return f"{_name(title(name))} ({place})" if title(name) != name else _name(name)


def _at(difference: Difference, text: str, long: bool) -> str:
    place = difference.place
    return f"{_name(place)}: {text}" if place and (long or place.startswith("--")) else text


def _file(difference: Difference, long: bool) -> str:
    path, change = _name(difference.name), difference.change
    old, new = difference.old, difference.new
    if change in (ADDED, REMOVED):
        return f"{path} {change}"
    if change == CHANGED:
        return f"{path} changed" + (_digests(old, new) if long else "")
    if change == "kind":
        return f"{path} was a {_KINDS.get(old, old)} and is a {_KINDS.get(new, new)}"
    if change == "mode":
        return f"{path} mode {old:0>4} → {new:0>4}"
    if change == "attributes":
        return f"{path} attributes changed"
    return f"{path} {change} {_contrast(old, new)}"


def _source(difference: Difference) -> str:
    if difference.what == "origin" and difference.change == CHANGED:
        return _contrast(difference.old, difference.new)
    kind, _, name = difference.name.partition(" ")
    name = _name(name)
    if difference.change == LINKS:
        return f"hard links of {kind} {name} changed" if name else "its hard links changed"
    if difference.change != CHANGED:
        return f"{_name(difference.name)} {difference.change}"
    if kind in ("url", "git"):
        return f"{name} changed"
    if kind == "image":
        return f"image {name} moved"
    return f"files of {kind} {name} changed" if name else "its files changed"


def _mount(difference: Difference) -> str:
    name = _name(difference.name)
    if difference.change in (ADDED, REMOVED):
        return f"{name} {difference.change}"
    contrast = _contrast(difference.old, difference.new)
    if difference.change == "order":
        return f"the order of mounts changed: {contrast}"
    type, target = name.partition(",")[0], f",{name.partition(',')[2]}".rstrip(",")
    return f"{type}{target * (difference.change != 'target')} {difference.change} {contrast}"


def _below(difference: Difference, long: bool) -> str:
    what, name, old = difference.what, _name(difference.name), difference.old
    if what == "instruction":
        return f"instruction was {_name(old)}"
    if what == "stage":
        return f"the stage it is built from, {name}, changed"
    if what == "base" and difference.change == "moved":
        return f"base {name} moved{_digests(old, difference.new)}" if long else "base moved"
    if what == "base":
        return f"FROM {_contrast(old or 'scratch', difference.new or 'scratch')}"
    if difference.change == REMOVED:
        return f"{shown(old)}, which was before it, is gone"
    if difference.change == ADDED:
        return f"the step before it, {shown(difference.name)}, is new"
    if difference.change == "replaced":
        was = shown(old) if old else "nothing"
        return f"the step before it, {shown(difference.name)}, was {was}"
    return f"the step before it, {shown(difference.name)}, changed"


def _value(label: str, difference: Difference) -> str:
    old, new = redacted(difference.old), redacted(difference.new)
    if difference.change == "order":
        return f"the order of {label} changed"
    if difference.what in ("scripts", "inline"):
        return f"{label} {difference.change}"
    if difference.change in (ADDED, REMOVED):
        joint = "=" if difference.name else " "
        return f"{label}{joint}{_name(old or new)} {difference.change}"
    if difference.what == "argv":
        old, new = _command(old, new), _command(new, old)
    return f"{label} {_contrast(old, new)}"


def _command(one: str, other: str) -> str:
    """A command without the shell that both are given to."""
    shell = "/bin/sh -c "
    return one.removeprefix(shell) if other.startswith(shell) else one


def _contrast(old: str, new: str) -> str:
    """Two values, cut to where they begin to differ."""
    return " → ".join(one or '""' for one in contrasted(old, new, _LENGTH))


def _name(text: str) -> str:
    """A name that is not to fill the line."""
    text = redacted(text)
    cut = text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"
    return cut


def _digests(old: str, new: str) -> str:
    """Two digests as people tell them apart."""
    short = [_name(one.rpartition(":")[2][:_HEX]) for one in (old, new)]
    return f" (sha256 {short[0]} → {short[1]})" if all(short) else ""
