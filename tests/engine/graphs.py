"""Random Dockerfiles as values: their text and context, a runtime that computes their steps, and a small
model of which of them run.

Every stage works in /o, where all its files lie side by side; /m is where mounts show theirs.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assembler.runtime.base import BindSource, Process, Root, RunMount
from tests.engine.runtimes import FakeRuntime
from tests.engine.test_execution import PlainDirectories

Files = Mapping[str, tuple[str, int]]
"""Names to texts and modes."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Bind:
    """A bind mount at /m of a directory of the context, or of /o of the stage `stage`."""

    source: str
    stage: int | None = None
    writable: bool = False


@dataclass(frozen=True)
class Run:
    """Write the file /o/`name`. `verb` is `put`, its text is the word; `pick`, that of the file
    called by the word; `sum`, a digest of all that the step sees."""

    verb: str
    name: str
    word: str
    bind: Bind | None = None


@dataclass(frozen=True)
class Copy:
    """Copy what the pattern selects, in a directory of the context or in /o of a stage, to /o; all
    of the directory without a pattern."""

    source: str
    stage: int | None = None
    pattern: str = ""
    chmod: str = ""
    link: bool = False


@dataclass(frozen=True)
class Set:
    """ENV, ARG, WORKDIR, or LABEL."""

    word: str
    name: str
    value: str


Line = Run | Copy | Set


@dataclass(frozen=True)
class Stage:
    """A stage; `base` is another's number, None for scratch."""

    number: int
    base: int | None
    lines: tuple[Line, ...]

    @property
    def all_lines(self) -> tuple[Line, ...]:
        """With those that every stage begins with: none has a step that another has, so that none
        can be known by what runs beside it."""
        own = Set("WORKDIR", "", f"/s{self.number}")
        return (own, Set("WORKDIR", "", "/o"), *self.lines)

    @property
    def needs(self) -> set[int]:
        """The stages that it reads."""
        found = {self.base}
        found |= {line.stage for line in self.lines if isinstance(line, Copy)}
        binds = [line.bind for line in self.lines if isinstance(line, Run)]
        found |= {bind.stage for bind in binds if bind is not None}
        return {number for number in found if number is not None}


@dataclass(frozen=True)
class Graph:
    """A Dockerfile with its context and what the command line says. The last stage is the target.

    `style` is how it is written: of two that differ in nothing else, no step runs for the second."""

    stages: tuple[Stage, ...]
    files: Mapping[str, tuple[str, int]]
    args: Mapping[str, str] = field(default_factory=dict)
    fresh: frozenset[int] = frozenset()
    style: int = 0

    def name(self, number: int) -> str:
        """What the stage with that number is called."""
        return f"{'abc'[self.style % 3]}{number}"

    def text(self) -> str:
        """The Dockerfile."""
        lines: list[str] = ["# a comment"] * (self.style % 4)
        for stage in self.stages:
            base = "scratch" if stage.base is None else self.name(stage.base)
            lines.append(f"FROM {base} AS {self.name(stage.number)}")
            for line in stage.all_lines:
                lines += ["", "# another"] * (self.style % 2)
                word, _, rest = self._line(line).partition(" ")
                lines.append(f"{' ' * (self.style % 3)}{word}{' ' * (1 + self.style % 2)}{rest}")
        lines += [f"LABEL style={self.style}", f"EXPOSE {self.style + 1}"]
        return "\n".join(lines) + "\n"

    def _line(self, line: Line) -> str:
        if isinstance(line, Set):
            return f"{line.word} {line.name}{'=' if line.name else ''}{line.value}"
        if isinstance(line, Run):
            return f"RUN {self._mount(line.bind)}{line.verb} {line.name} {line.word}"
        origin = f"--from={self.name(line.stage)} " if line.stage is not None else ""
        chmod = f"--chmod={line.chmod} " if line.chmod else ""
        place = "/o/" if line.stage is not None else f"{line.source}/"
        flags = f"{origin}{chmod}{'--link ' if line.link else ''}"
        return f"COPY {flags}{place}{line.pattern} /o/"

    def _mount(self, bind: Bind | None) -> str:
        if bind is None:
            return ""
        where = f"source={bind.source}"
        if bind.stage is not None:
            where = f"from={self.name(bind.stage)},source=/o"
        return f"--mount=type=bind,{where},target=/m{',rw' * bind.writable} "

    def write(self, directory: Path) -> None:
        """Make the context. What no step selects depends on the style, and so do times."""
        for path, (text, mode) in {**self.files, f"unused{self.style}": ("x", 0o644)}.items():
            place = directory / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            place.chmod(mode)
            os.utime(place, (self.style, self.style))

    def needed(self) -> list[Stage]:
        """The stages that the target needs, in order."""
        by_number = {stage.number: stage for stage in self.stages}
        found: set[int] = set()
        pending = [self.stages[-1].number]
        while pending:
            number = pending.pop()
            if number not in found:
                found.add(number)
                pending += by_number[number].needs
        return [stage for stage in self.stages if stage.number in found]


def computed(verb: str, word: str, seen: Files, mounted: Files, told: Sequence[object]) -> str:
    """What a RUN writes."""
    if verb == "put":
        return word
    if verb == "pick":
        return {**mounted, **seen}.get(word, ("nothing", 0))[0]
    everything = (sorted(seen.items()), sorted(mounted.items()), told)
    return hashlib.sha256(repr(everything).encode()).hexdigest()


@dataclass(frozen=True)
class _Built:
    """A stage in the model: what identifies it, its files, its variables and directory."""

    identity: object
    files: Files
    env: Mapping[str, str]
    cwd: str = "/"
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """What is known, by the rules of docs/cache.md and nothing else: each step by what it reads as a
    whole, and by the content of what it selects."""

    known: dict[object, object] = field(default_factory=dict)
    times: int = 0

    def build(self, graph: Graph) -> set[tuple[int, int]]:
        """The steps that run, as numbers of stages and of steps in them."""
        ran: set[tuple[int, int]] = set()
        built: dict[int, _Built] = {}
        for stage in graph.needed():
            start = _Built("scratch", {}, {"PATH": PATH})
            now = start if stage.base is None else built[stage.base]
            number = 0
            for line in stage.all_lines:
                step = self._step(graph, line, now, built)
                if step is None:
                    now = _set(graph, line, now)
                    continue
                whole, content, change = step
                identity = None
                if stage.number not in graph.fresh:
                    identity = self.known.get(whole, self.known.get(content))
                if identity is None:
                    ran.add((stage.number, number))
                    identity = content
                    if isinstance(line, Run) and stage.number in graph.fresh:
                        self.times += 1
                        identity = ("fresh", self.times)
                self.known |= dict.fromkeys((whole, content, identity), identity)
                number += 1
                if isinstance(line, Copy) and line.link:
                    identity = ("linked", now.identity, identity)
                now = replace(change(now), identity=identity)
            built[stage.number] = now
        return ran

    def _step(
        self, graph: Graph, line: Line, now: _Built, built: Mapping[int, _Built]
    ) -> tuple[object, object, Callable[[_Built], _Built]] | None:
        """Its key by what it reads as a whole, by content, and what it does; None for no step."""
        if isinstance(line, Run):
            return _run(graph, line, now, built)
        if isinstance(line, Copy):
            return _copy(graph, line, now, built)
        if line.word != "WORKDIR":
            return None
        key = ("WORKDIR", now.identity, line.value)
        return key, key, lambda was: replace(was, cwd=line.value)


def _set(graph: Graph, line: Line, now: _Built) -> _Built:
    assert isinstance(line, Set)
    if line.word == "ENV":
        return replace(now, env={**now.env, line.name: line.value})
    if line.word == "ARG":
        return replace(now, env={**now.env, line.name: graph.args.get(line.name, line.value)})
    return now


def _directory(files: Files, name: str) -> Files:
    return {
        path.partition("/")[2]: file for path, file in files.items() if path.startswith(f"{name}/")
    }


def _listed(files: Files) -> tuple[object, ...]:
    return tuple(sorted(files.items()))


def _run(graph: Graph, line: Run, now: _Built, built: Mapping[int, _Built]) -> Any:
    mounted: Files = {}
    whole: object = None
    content: object = None
    if line.bind is not None:
        stage = None if line.bind.stage is None else built[line.bind.stage]
        mounted = stage.files if stage else _directory(graph.files, line.bind.source)
        content = (line.bind.writable, _listed(mounted))
        whole = (line.bind.writable, stage.identity) if stage else content
    told = ("RUN", now.identity, line.verb, line.name, line.word, (*now.env.items(),), now.cwd)

    def change(was: _Built) -> _Built:
        env = (sorted(was.env.items()), was.cwd)
        text = computed(line.verb, line.word, was.files, mounted, env)
        return replace(was, files={**was.files, line.name: (text, 0o644)})

    return (*told, whole), (*told, content), change


def _copy(graph: Graph, line: Copy, now: _Built, built: Mapping[int, _Built]) -> Any:
    stage = None if line.stage is None else built[line.stage]
    source = stage.files if stage else _directory(graph.files, line.source)
    taken = dict(source)
    if line.pattern:
        taken = {name: source[name] for name in fnmatch.filter(source, line.pattern)}
    told = ("COPY", None if line.link else now.identity, line.chmod, line.link)
    content = (*told, bool(line.pattern), _listed(taken))
    whole = (*told, "whole", line.pattern, stage.identity) if stage else content
    mode = int(line.chmod, 8) if line.chmod else None
    arrived = {name: (text, was if mode is None else mode) for name, (text, was) in taken.items()}
    return whole, content, lambda was: replace(was, files={**was.files, **arrived})


class Directories(PlainDirectories):
    """Two steps may show the same files at once."""

    @contextmanager
    def create(self, id: str) -> Iterator[str]:
        """See `Snapshotter.create`."""
        with tempfile.TemporaryDirectory(dir=self.directory, prefix="work-") as work:
            made = os.path.join(work, "made")
            os.mkdir(made)
            yield made
            with suppress(OSError):  # another one was first
                os.rename(made, self.directory / id)


class ComputingRuntime(FakeRuntime):
    """Executes the commands of `Run`."""

    def execute(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
    ) -> int:
        """See `FakeRuntime.execute`."""
        verb, name, word = process.argv[-1].split()
        seen: dict[str, tuple[str, int]] = {}
        for layer in reversed(root.lowers):
            seen |= _read(Path(layer, "o"))
        mounted: dict[str, tuple[str, int]] = {}
        for mount in mounts:
            assert isinstance(mount, BindSource) and mount.target == "/m"
            mounted = _read(Path(mount.source))
        told = (sorted(process.env), process.cwd)
        path = Path(root.upper, "o", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(computed(verb, word, seen, mounted, told))
        path.chmod(0o644)
        return 0


def _read(directory: Path) -> dict[str, tuple[str, int]]:
    if not directory.is_dir():
        return {}
    return {
        path.name: (path.read_text(), path.stat().st_mode & 0o7777) for path in directory.iterdir()
    }
