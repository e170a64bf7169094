"""COPY of any tree, with any flags, agrees with a slow model of the rules (C4-C16, C23, C24).

The model is a file system in a dictionary that is changed one object after another, as a copying
program would change it; it knows nothing of selections, entries or changesets.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as some

from assembler.engine import copy
from assembler.engine.selection import select
from assembler.errors import StepError
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, MergedTree, Tree
from assembler.plan.steps import Copy, StageOrigin
from assembler.source import Source, Span

SPAN = Span(Source("Dockerfile", "COPY"), 1, 1)


@dataclass(frozen=True)
class Node:
    """A file (with its text), a link (with its target) or a directory."""

    kind: str
    text: str = ""
    mode: int = 0o755
    owner: int = 0


Files = dict[str, Node]
"""Absolute paths to nodes; "/" is always there."""


class Refused(Exception):
    """The copy is an error."""


def walk_links(files: Files, path: str) -> str:
    """The path with every link in it followed, the last one too."""
    links = 0
    done = "/"
    rest = [part for part in path.split("/") if part]
    while rest:
        part = rest.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = posixpath.dirname(done)
            continue
        here = posixpath.join(done, part)
        node = files.get(here)
        if node is None or node.kind != "link":
            done = here
            continue
        links += 1
        if links > 40:
            raise Refused("links")
        rest = node.text.split("/") + rest
        if node.text.startswith("/"):
            done = "/"
    return done


def names_in(files: Files, directory: str) -> list[str]:
    return sorted(
        posixpath.basename(path)
        for path in files
        if path != "/" and posixpath.dirname(path) == directory
    )


@dataclass
class Model:
    source: Files
    target: Files
    chown: int | None
    chmod: int | None
    exclude: list[str]
    made: list[str] = field(default_factory=list)

    def run(self, sources: list[str], destination: str, parents: bool) -> None:
        for source in sources:
            if parents:
                self.with_parents(source, walk_links(self.target, destination))
                continue
            for name, found in self.find(source):
                # a link on the way may have been replaced by what was copied before
                self.copy_one(name, found, destination, walk_links(self.target, destination))

    def find(self, source: str) -> list[tuple[str, str]]:
        """(name, path after following links) for each match, C4 to C7."""
        cleaned = posixpath.normpath("/" + source)
        cleaned = "/" + cleaned.lstrip("/")
        parts = [part for part in cleaned.split("/") if part]
        wild = [n for n, part in enumerate(parts) if any(char in part for char in "*?[")]
        if not wild:
            found = walk_links(self.source, cleaned)
            if found not in self.source:
                raise Refused("missing")
            return [(parts[-1] if parts else "", found)]
        base = walk_links(self.source, "/" + "/".join(parts[: wild[0]]))
        if base not in self.source:
            raise Refused("missing")
        matches = []
        for path in self.depth_first(base):
            relative = path[len(base.rstrip("/")) + 1 :].split("/")
            pattern = parts[wild[0] :]
            if len(relative) == len(pattern) and all(
                fnmatch.fnmatchcase(name, one) for name, one in zip(relative, pattern, strict=True)
            ):
                matches.append(path)
        found_all = []
        for path in matches:
            found = walk_links(self.source, path)
            if found not in self.source:
                raise Refused("missing")
            found_all.append((posixpath.basename(path), found))
        return found_all

    def depth_first(self, directory: str) -> list[str]:
        found = []
        if self.source[directory].kind != "directory":
            return []
        for name in names_in(self.source, directory):
            path = posixpath.join(directory, name)
            found.append(path)
            found += self.depth_first(path)
        return found

    def copy_one(self, name: str, found: str, destination: str, place: str) -> None:
        """C8, C11 to C13."""
        node = self.source[found]
        if node.kind != "directory":
            existing = self.target.get(place)
            if destination.endswith("/") or (existing and existing.kind == "directory"):
                self.make(place)
                place = posixpath.join(place, name)
            self.make(posixpath.dirname(place))
            self.put(place, node)
            return
        self.make(place)
        for path in self.depth_first(found):
            relative = path[len(found.rstrip("/")) + 1 :]
            if not self.excluded(relative):
                self.put(posixpath.join(place, relative), self.source[path])

    def with_parents(self, source: str, place: str) -> None:
        """C24; the model's sources have no wildcards and no links here."""
        head, pivot, tail = source.partition("/./")
        root = posixpath.normpath("/" + head).replace("//", "/") if pivot else "/"
        wanted = posixpath.normpath("/" + (tail if pivot else source)).strip("/")
        whole = posixpath.join(root, wanted).rstrip("/") or "/"
        if whole not in self.source or walk_links(self.source, root) != root:
            raise Refused("missing")
        if self.source[root].kind != "directory":
            raise Refused("missing")
        self.make(place)
        chosen = [
            path
            for path in self.depth_first(root)
            if path == whole or path.startswith(whole.rstrip("/") + "/")
        ]
        for path in chosen:
            relative = path[len(root.rstrip("/")) + 1 :]
            if self.excluded(relative):
                continue
            above = relative.split("/")
            for depth in range(1, len(above)):
                self.parent(root, "/".join(above[:depth]), place)
            self.put(posixpath.join(place, relative), self.source[path])

    def parent(self, root: str, relative: str, place: str) -> None:
        path, target = posixpath.join(root, relative), posixpath.join(place, relative)
        covered = any(path == one for one in self.made)
        existing = self.target.get(target)
        if covered:
            return
        self.made.append(path)
        if existing is not None and existing.kind == "directory":
            self.target[target] = replace(existing, mode=self.source[path].mode)
        else:
            self.put(target, self.source[path])

    def excluded(self, relative: str) -> bool:
        """A pattern for a path or one of the directories above it (C23, without `!`)."""
        parts = relative.split("/")
        return any(
            re.fullmatch(pattern.replace("*", "[^/]*"), "/".join(parts[:depth]))
            for pattern in self.exclude
            for depth in range(1, len(parts) + 1)
        )

    def make(self, path: str) -> None:
        """C12."""
        if path == "/":
            return
        existing = self.target.get(path)
        if existing is not None:
            if existing.kind != "directory":
                raise Refused("non-directory")
            return
        self.make(posixpath.dirname(path))
        mode = 0o755 if self.chmod is None else self.chmod
        self.target[path] = Node("directory", "", mode, self.chown or 0)

    def put(self, path: str, node: Node) -> None:
        """C14, C15, C16, C18."""
        existing = self.target.get(path)
        if existing is not None and (existing.kind == "directory") != (node.kind == "directory"):
            raise Refused("kinds")
        if path == "/":
            return
        if self.chown is not None:
            node = replace(node, owner=self.chown)
        if self.chmod is not None and node.kind != "link":
            node = replace(node, mode=self.chmod)
        self.target[path] = node


NAMES = some.sampled_from(["a", "b", "c"])
MODES = some.sampled_from([0o755, 0o700, 0o644])
TARGETS = some.sampled_from(["a", "b", "../a", "/a", "/b/c", "..", "/", "gone", "../../c"])
LEAVES = some.one_of(
    some.builds(Node, some.just("file"), NAMES, MODES, some.integers(0, 3)),
    some.builds(Node, some.just("link"), TARGETS, some.just(0o777), some.integers(0, 3)),
)


def trees(leaves: some.SearchStrategy[Node]) -> some.SearchStrategy[Files]:
    nested = some.recursive(
        leaves, lambda inner: some.dictionaries(NAMES, inner, max_size=3), max_leaves=8
    )
    return some.tuples(some.dictionaries(NAMES, nested, max_size=3), MODES).map(flattened)


def flattened(drawn: tuple[Any, int]) -> Files:
    found: Files = {"/": Node("directory")}

    def add(path: str, inner: dict[str, Any]) -> None:
        for name, what in inner.items():
            here = posixpath.join(path, name)
            if isinstance(what, dict):
                found[here] = Node("directory", "", drawn[1], 2)
                add(here, what)
            else:
                found[here] = what

    add("/", drawn[0])
    return found


PLAIN = some.lists(some.sampled_from(["a", "b", "c", ".", ".."]), min_size=1, max_size=3)
WILD = some.lists(some.sampled_from(["a", "b", "*", "?", "[ab]", "c*"]), min_size=1, max_size=3)
SOURCES = some.one_of(
    PLAIN.map("/".join), WILD.map("/".join), PLAIN.map(lambda one: "/" + "/".join(one) + "/")
)
EXISTING = some.integers(0, 50)
"""The number of a path that is there."""
DESTINATIONS = some.lists(NAMES, max_size=3).flatmap(
    lambda one: some.sampled_from(["/" + "/".join(one), "/" + "/".join([*one, ""])])
)
PATTERNS = some.sampled_from(["a", "b", "*/a", "a/*", "b/c"])


def tree_of(files: Files) -> Tree:
    return ChangesetTree(
        Entry(
            path.strip("/"),
            {"file": Kind.FILE, "link": Kind.SYMLINK, "directory": Kind.DIRECTORY}[node.kind],
            mode=node.mode,
            uid=node.owner,
            gid=node.owner,
            link=node.text if node.kind == "link" else "",
            size=len(node.text) if node.kind == "file" else 0,
            source=InlineBytes(node.text.encode()) if node.kind == "file" else None,
        )
        for path, node in sorted(files.items())
    )


def files_of(tree: Tree) -> Files:
    found: Files = {"/": Node("directory")}
    pending = [""]
    while pending:
        for entry in tree.children(pending.pop()):
            text = entry.link
            if entry.source is not None:
                with entry.source.open() as stream:
                    text = stream.read().decode()
            if entry.kind is Kind.DIRECTORY:
                pending.append(entry.path)
            kind = {Kind.FILE: "file", Kind.SYMLINK: "link", Kind.DIRECTORY: "directory"}
            found[f"/{entry.path}"] = Node(kind[entry.kind], text, entry.mode, entry.uid)
    return found


def outcome(step: Copy, source: Files, target: Files) -> Files | None:
    below = tree_of(target)
    try:
        selection = select(step, tree_of(source))
        made = copy.changeset(step, selection, below, now=0, spool="")
    except StepError:
        return None
    return files_of(MergedTree((ChangesetTree(made), below)))  # type: ignore[arg-type]


def expected(model: Model, step: Copy) -> Files | None:
    try:
        model.run([str(one) for one in step.sources], step.destination, step.parents)
    except Refused:
        return None
    return {**model.target, "/": Node("directory")}


def step_of(sources: list[str], destination: str, **flags: Any) -> Copy:
    return Copy(
        origin=StageOrigin(0),
        sources=tuple(sources),
        destination=destination,
        span=SPAN,
        name="COPY",
        **flags,
    )


@settings(max_examples=400)
@given(
    source=trees(LEAVES),
    target=trees(LEAVES),
    asked=some.lists(some.one_of(EXISTING, EXISTING, SOURCES), min_size=1, max_size=2),
    destination=DESTINATIONS,
    chown=some.sampled_from([None, 7]),
    chmod=some.sampled_from([None, 0o711]),
    exclude=some.lists(PATTERNS, max_size=2),
)
@example(
    source=flattened(({"a": {"b": Node("file")}}, 0o700)),
    target=flattened(({"c": Node("link", "/b")}, 0o755)),
    asked=["a"],
    destination="/c/",
    chown=None,
    chmod=None,
    exclude=[],
)
def test_C4_to_C23_copies_agree_with_the_model(
    source: Files,
    target: Files,
    asked: list[str | int],
    destination: str,
    chown: int | None,
    chmod: int | None,
    exclude: list[str],
) -> None:
    step = step_of(
        [sorted(source)[one % len(source)] if isinstance(one, int) else one for one in asked],
        destination,
        chown="" if chown is None else str(chown),
        chmod="" if chmod is None else f"{chmod:o}",
        exclude=tuple(exclude),
    )
    model = Model(source, dict(target), chown, chmod, exclude)
    assert outcome(step, source, target) == expected(model, step)


STRAIGHT = some.lists(NAMES, min_size=1, max_size=3)


@settings(max_examples=200)
@given(
    source=trees(some.builds(Node, some.just("file"), NAMES, MODES, some.integers(0, 3))),
    target=trees(LEAVES),
    asked=some.one_of(
        EXISTING,
        STRAIGHT.map("/".join),
        some.tuples(STRAIGHT, STRAIGHT).map(lambda one: "/./".join(map("/".join, one))),
    ),
    destination=DESTINATIONS,
    chown=some.sampled_from([None, 7]),
    exclude=some.lists(PATTERNS, max_size=2),
)
def test_C24_parents_agree_with_the_model(
    source: Files,
    target: Files,
    asked: str | int,
    destination: str,
    chown: int | None,
    exclude: list[str],
) -> None:
    step = step_of(
        [sorted(source)[asked % len(source)] if isinstance(asked, int) else asked],
        destination,
        parents=True,
        chown="" if chown is None else str(chown),
        exclude=tuple(exclude),
    )
    model = Model(source, dict(target), chown, None, exclude)
    assert outcome(step, source, target) == expected(model, step)
