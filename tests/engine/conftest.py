"""COPY and ADD as they stand in a Dockerfile, over trees that are given; no build is needed."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assembler.context.directory import DirectoryContext
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.parser import parse
from assembler.engine import content, copy, directories
from assembler.engine.selection import Selection, select
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, EmptyTree, Tree
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.plan.steps import ContextOrigin, Copy, MakeDirectory, StageOrigin
from assembler.source import Source
from assembler.testing import MemoryRemote

LINUX = Platform("linux", "amd64")
NOW = 5_000_000_000


def file(path: str, text: bytes = b"", **more: object) -> Entry:
    """A regular file in memory."""
    return Entry(path, Kind.FILE, size=len(text), source=InlineBytes(text), **more)  # type: ignore[arg-type]


def directory(path: str, **more: object) -> Entry:
    """A directory, 0755 unless told."""
    return Entry(path, Kind.DIRECTORY, **{"mode": 0o755, **more})  # type: ignore[arg-type]


def link(path: str, text: str, **more: object) -> Entry:
    """A symbolic link."""
    return Entry(path, Kind.SYMLINK, link=text, **more)  # type: ignore[arg-type]


def tree_of(entries: Iterable[Entry]) -> ChangesetTree:
    """A tree of these entries, with the directories they need."""
    named = {entry.path: entry for entry in entries}
    for path in list(named):
        while path := path.rpartition("/")[0]:
            named.setdefault(path, directory(path))
    return ChangesetTree(named[path] for path in sorted(named))


def tar(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> bytes:
    """An archive of (name, content) files and of members as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mode, info.uid = len(member[1]), 0o640, 33
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def text_of(entry: Entry) -> str:
    """The content of a file."""
    assert entry.source is not None
    with entry.source.open() as stream:
        return stream.read().decode()


def workdirs(text: str, user: str, below: Tree) -> tuple[str, list[tuple[str, int, int]]]:
    """The directory that WORKDIRs lead to, and (path, owner, mode) of what they make."""
    users = f"USER {user}\n" if user else ""
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", f"FROM scratch\n{users}{text}\n")),
        build_args={},
        platform=LINUX,
        build_platform=LINUX,
        labels={},
    )
    made = make(request, {})
    stage = made.stage(made.target)
    entries = [
        entry
        for step in stage.steps
        if isinstance(step, MakeDirectory)
        for entry in directories.make_directory(step, below, NOW)
    ]
    return stage.config.execution.working_dir, [(one.path, one.uid, one.mode) for one in entries]


@dataclass
class Bench:
    """A context directory, the files of the stage that is copied to, and of the stage `st`."""

    context: Path
    spool: Path
    stage: tuple[Entry, ...] = ()
    st: tuple[Entry, ...] = ()
    rules: str = ""
    remote: MemoryRemote = field(default_factory=lambda: MemoryRemote({}))

    file = staticmethod(file)
    directory = staticmethod(directory)
    link = staticmethod(link)
    tree_of = staticmethod(tree_of)
    tar = staticmethod(tar)
    text_of = staticmethod(text_of)
    workdirs = staticmethod(workdirs)

    def step(self, instruction: str, *, args: Mapping[str, str] | None = None) -> Copy:
        """The step that `instruction` plans, in a stage whose WORKDIR is /w."""
        text = f"FROM scratch AS st\nFROM scratch\nARG EMPTY=\nWORKDIR /w\n{instruction}\n"
        request = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)),
            build_args=args or {},
            platform=LINUX,
            build_platform=LINUX,
            labels={},
        )
        made = make(request, {})
        (step,) = (one for one in made.stage(made.target).steps if isinstance(one, Copy))
        return step

    def tree(self) -> Tree:
        """The tree of the stage that is copied to."""
        return tree_of(self.stage)

    def directory_context(self) -> DirectoryContext:
        """The context with its ignore rules."""
        rules = IgnoreRules.parse(Source(".dockerignore", self.rules)) if self.rules else None
        return DirectoryContext(str(self.context), rules)

    def select(self, step: Copy) -> Selection:
        """What `step` selects."""
        if isinstance(step.origin, StageOrigin):
            source: Tree = tree_of(self.st)
            return select(step, source, place="the stage st", fetch=self.remote.open)
        assert step.origin == ContextOrigin()
        context = self.directory_context()
        return select(
            step,
            context.tree(),
            ignored=context.ignored,
            fetch=self.remote.open,
        )

    def digest(self, instruction: str) -> str:
        """What identifies the selection of `instruction`."""
        return str(content.digest(self.select(self.step(instruction))))

    def run(self, instruction: str) -> dict[str, Entry]:
        """What `instruction` changes, by path; existing parents that stay as they are left out."""
        step = self.step(instruction)
        below: Tree = EmptyTree() if step.link else self.tree()
        made = copy.changeset(step, self.select(step), below, now=NOW, spool=str(self.spool))
        return {entry.path: entry for entry in made if below.lookup(entry.path) != entry}

    def paths(self, instruction: str) -> list[str]:
        """The paths that `instruction` changes."""
        return sorted(self.run(instruction))


@pytest.fixture
def without_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """No namespace is entered, so no file is given away: owners are what the layer tests are about."""
    os.umask(0o022)
    if os.getuid() != 0:
        monkeypatch.setattr(os, "fchown", lambda *arguments: None)
        monkeypatch.setattr(os, "chown", lambda *arguments, **options: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with an empty context."""
    for name in ("context", "spool"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    return Bench(tmp_path / "context", tmp_path / "spool")


Fill = Callable[..., None]


@pytest.fixture
def fill(bench: Bench) -> Fill:
    """`fill("d/f", "l -> d")` makes files, whose content is their path, and links in the
    context; a name that ends in a slash is a directory. Modes do not depend on the umask."""

    def make_all(*names: str) -> None:
        for name in names:
            path, arrow, target = name.partition(" -> ")
            place = bench.context / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if arrow:
                place.symlink_to(target)
            elif path.endswith("/"):
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(os.fsencode(path))
                place.chmod(0o644)
        for above, _, _ in os.walk(bench.context):
            os.chmod(above, 0o755)

    return make_all
