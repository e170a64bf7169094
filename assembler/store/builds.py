"""Records of builds: what was asked for, and of each step what became of it and why.

    builds/<number>-<id>          a build, JSON; numbers are milliseconds since the epoch, and grow
    builds/<number>-<id>.inputs   the inputs of what it executed, by key, compressed

Derived data: a record may be missing or garbled, and is passed over then. They are written whole or
not at all, but not synced; the newest MOST stay. Nothing in them is a path of the host.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from assembler.linux.replacing import put, sweep
from assembler.values import fields, value

MOST = 100
VERSION = 1
COMPLETED, ERROR, CANCELED = "completed", "error", "canceled"
CACHED, RUN, FAILED, UNNEEDED = "cached", "run", "failed", "unneeded"
_FEW = 4  # builds that are looked at though all was cached: that may be of a shared cache
_LARGEST = 64 << 20  # bytes of a record
_LATEST = float(1 << 34)  # seconds since the epoch: the year 2514
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@value(kw_only=True)
class StepRecord:
    """What became of a step, the `number`th from 0 of a stage that progress calls `stage`.

    `verdict` is `cached`, `run`, `failed`, `canceled`, or `unneeded` where nobody asked for it.
    `key` is what its result is recorded under, empty where that was never known. `source` is where
    the result of a cached one came from, empty for this store, and `ran` when it ran, in seconds
    since the epoch, 0.0 where that is not known. `seconds` is how long it took now. `because` are
    the first differences from the nearest earlier step, of which there are `differences`.
    """

    stage: str
    number: int
    name: str
    line: int
    kind: str
    verdict: str
    key: str = ""
    parent: str = ""
    source: str = ""
    ran: float = 0.0
    seconds: float = 0.0
    because: tuple[Mapping[str, str], ...] = ()
    differences: int = 0


@value(kw_only=True)
class BuildRecord:
    """A build: when it began, in seconds since the epoch, how long it took, how it ended
    (`completed`, `error`, `canceled`), and what was asked for. `image` is the digest of its manifest,
    empty for none. `place` tells whether two builds are of the same Dockerfile and context: it is a
    digest, and shown to nobody."""

    id: str
    started: float
    seconds: float
    status: str
    dockerfile: str = ""
    target: str = ""
    platform: str = ""
    tags: tuple[str, ...] = ()
    image: str = ""
    place: str = ""
    steps: tuple[StepRecord, ...] = ()

    @property
    def name(self) -> str:
        """What people know it by."""
        target = f" ({self.target})" if self.target else ""
        return self.tags[0] if self.tags else f"{self.dockerfile}{target}"

    def is_of(self, place: str, tags: Iterable[str]) -> bool:
        """Whether this surely is a build of the same as one of `place` named `tags`: in the same
        place, or under a name of the same repository."""
        same = {_repository(tag) for tag in self.tags} & {_repository(tag) for tag in tags}
        return bool(place and place == self.place) or bool(same)

    def count(self, *verdicts: str) -> int:
        """How many steps have one of `verdicts`."""
        return sum(step.verdict in verdicts for step in self.steps)


class Builds:
    """The records in `directory`, which need not be there."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def write(self, build: BuildRecord, inputs: Mapping[str, str]) -> None:
        """Keep `build` as the newest, with the input documents of steps by their keys; the oldest
        go. Raises OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        names = self._names()
        newest = int(_number(names[0])) if names else 0
        name = f"{max(int(time.time() * 1000), newest + 1):013d}-{build.id}"
        if inputs:
            import zlib

            packed = zlib.compress(json.dumps(dict(inputs)).encode(), 1)
            put(os.path.join(self._directory, f"{name}.inputs"), packed)
        text = json.dumps(_document(build), separators=(",", ":"))
        put(os.path.join(self._directory, name), text.encode())
        self._tidy([name, *names])

    def recent(self) -> Iterator[BuildRecord]:
        """The builds of which a record is kept, the last one first."""
        yield from self._read(self._names()[:MOST])

    def telling(self, most: int) -> Iterator[BuildRecord]:
        """At most so many builds, the last one first: the newest few, and before those only such that
        executed something."""
        names = self._names()
        telling = names[:_FEW] + [name for name in names[_FEW:] if self._has_inputs(name)]
        yield from self._read(telling[:most])

    def _read(self, names: Iterable[str]) -> Iterator[BuildRecord]:
        for name in names:
            content = self._get(name)
            build = None if content is None else _parse(content)
            if build is not None:
                yield build

    def _has_inputs(self, name: str) -> bool:
        return os.path.lexists(os.path.join(self._directory, f"{name}.inputs"))

    def inputs(self, id: str) -> dict[str, str]:
        """The input documents of what the build `id` executed, by key; empty where they are not
        known."""
        for name in self._names():
            if name.endswith(f"-{id}"):
                content = self._get(f"{name}.inputs")
                return {} if content is None else _unpacked(content)
        return {}

    def _names(self) -> list[str]:
        """Of records, the newest first; none where the directory cannot be read."""
        with suppress(OSError):
            names = [name for name in os.listdir(self._directory) if _is_record(name)]
            return sorted(names, key=lambda name: (len(name), name), reverse=True)
        return []

    def _get(self, name: str) -> bytes | None:
        with suppress(OSError):
            descriptor = os.open(os.path.join(self._directory, name), _READ)
            with os.fdopen(descriptor, "rb") as stream:
                return stream.read(_LARGEST)
        return None

    def _tidy(self, names: list[str]) -> None:
        """Remove the oldest of `names`, and what killed writers left."""
        for name in names[MOST:]:
            for one in (name, f"{name}.inputs"):
                self._remove(one)
        if len(names) > MOST:
            sweep(self._directory)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))


def new_id() -> str:
    """An id that no other build has."""
    return os.urandom(6).hex()


def _repository(tag: str) -> str:
    """A familiar name without tag and digest; a colon before a slash is that of a port."""
    name = tag.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _is_record(name: str) -> bool:
    number, _, id = name.partition("-")
    return len(number) > 12 and number.isdecimal() and len(id) == 12 and id.isalnum()


def _number(name: str) -> str:
    return name.partition("-")[0]


_ALLOWED: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {"str": (str,), "int": (int,), "float": (float, int)}
)
_STEP = tuple(one.name for one in fields(StepRecord))
_TYPES = {
    kind: [(one.name, _ALLOWED[str(one.type)]) for one in fields(kind) if one.type in _ALLOWED]
    for kind in (StepRecord, BuildRecord)
}
_DEFAULTS = {one.name: one.default for one in fields(StepRecord)}


def _document(build: BuildRecord) -> dict[str, Any]:
    document = {one.name: getattr(build, one.name) for one in fields(build)}
    steps = []
    for step in build.steps:
        values = ((name, getattr(step, name)) for name in _STEP)
        steps.append({name: one for name, one in values if one != _DEFAULTS[name]})
    return {"version": VERSION, **document, "steps": steps}


def _parse(content: bytes) -> BuildRecord | None:
    """The record that `content` is, None for anything else."""
    try:
        document = json.loads(content)
        if document.pop("version") != VERSION:
            return None
        steps = tuple(_step(one) for one in document.pop("steps"))
        build = BuildRecord(**document | {"tags": tuple(document["tags"]), "steps": steps})
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return build if _typed(build) else None


def _step(document: dict[str, Any]) -> StepRecord:
    because = tuple(
        {str(key): str(one) for key, one in each.items()} for each in document.pop("because", ())
    )
    step = StepRecord(**document, because=because)
    if not _typed(step):
        raise ValueError("not a step")
    return step


def _typed(record: BuildRecord | StepRecord) -> bool:
    """Whether every field of a record has the type that it should have, and times are times."""
    for name, types in _TYPES[type(record)]:
        found = getattr(record, name)
        if type(found) not in types or (float in types and not 0 <= found < _LATEST):
            return False
    return all(type(tag) is str for tag in getattr(record, "tags", ()))


def _unpacked(content: bytes) -> dict[str, str]:
    import zlib

    try:
        unpacking = zlib.decompressobj()
        document = json.loads(unpacking.decompress(content, _LARGEST))
        return {key: one for key, one in document.items() if isinstance(one, str)}
    except (AttributeError, ValueError, RecursionError, zlib.error):
        return {}
