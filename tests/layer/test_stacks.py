"""Stacks of layers against a model of what they mean (image-spec layer.md; TR-02, TR-03, T7, T9).

The model has one tree and applies one entry after the other to it, as Docker does in a directory,
except that whiteouts take away what lower layers brought and nothing else, whatever their place.

The full count: pytest --hypothesis-profile=thorough tests/layer/test_stacks.py
"""

from __future__ import annotations

import io
import tempfile
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.errors import BadArchive
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry, Kind
from assembler.layer.index import IndexTree, index
from assembler.layer.members import SpooledMembers
from assembler.layer.tree import DirectoryTree, MergedTree, everything, join
from assembler.linux.ownership import write_table
from assembler.linux.paths import remove_tree
from assembler.oci.digest import Digest
from tests.layer.archives import directory, file, hardlink, opaque, symlink, tar, whiteout

Node = tuple[Kind, str, int]  # what it is; a file's content or a link's text; the mode
Tree = dict[str, Node]
DIRECTORY, FILE, SYMLINK = Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK


class Refused(Exception):
    """The layer is damaged."""


class Model:
    """A root file system: for each path its node and the number of the layer that brought it."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Node, int]] = {"": ((DIRECTORY, "", 0o755), -1)}
        self.layer = -1

    def apply(self, entries: list[Entry]) -> None:
        self.layer += 1
        for entry in entries:
            self.place(entry)

    def place(self, entry: Entry) -> None:
        path = self.real(entry.path)
        if entry.kind is Kind.OPAQUE:
            self.hide(self.parent(entry.path), below=True)
        elif entry.kind is Kind.WHITEOUT:
            self.hide(path)
        elif entry.kind is DIRECTORY:
            self.directory(path, entry.mode)
        elif entry.kind is Kind.HARDLINK:
            target = self.real(entry.link)
            node = self.found.get(target, ((DIRECTORY, "", 0), 0))[0]
            if f"{target}/".startswith(f"{path}/") or node[0] is DIRECTORY:
                raise Refused
            self.put(path, node)
        else:
            self.put(path, (entry.kind, content(entry), entry.mode))

    def put(self, path: str, node: Node) -> None:
        for one in [one for one in self.found if f"{one}/".startswith(f"{path}/")]:
            del self.found[one]
        self.found[path] = node, self.layer

    def directory(self, path: str, mode: int) -> None:
        if path in self.found and self.found[path][0][0] is not DIRECTORY:
            self.put(path, (DIRECTORY, "", mode))
        self.found[path] = (DIRECTORY, "", mode), self.layer

    def hide(self, path: str, below: bool = False) -> None:
        for one, (_, layer) in list(self.found.items()):
            inside = one.startswith(f"{path}/") if path else one != ""
            if layer < self.layer and (inside or (one == path and not below)):
                del self.found[one]

    def real(self, path: str) -> str:
        above, _, name = path.rpartition("/")
        return join(self.parent(above), name) if name else ""

    def parent(self, path: str, links: int = 0) -> str:
        """The real directory at `path`, made where it is missing."""
        here = ""
        for name in path.split("/"):
            if name in ("", ".", ".."):
                here = here.rpartition("/")[0] if name == ".." else here
                continue
            step = join(here, name)
            (kind, text, mode), layer = self.found.get(step, ((DIRECTORY, "", 0o755), -1))
            if kind is SYMLINK:
                if links > 20:
                    raise Refused
                start = "" if text.startswith("/") else f"{here}/"
                here = self.parent(start + text, links + 1)
                continue
            if kind is not DIRECTORY:
                if layer == self.layer:
                    raise Refused
                mode = 0o755
            self.directory(step, mode)
            here = step
        return here


def content(entry: Entry) -> str:
    if entry.kind is FILE and entry.source is not None:
        with entry.source.open() as stream:
            return stream.read().decode()
    return entry.link


def modelled(layers: list[list[Entry]]) -> Tree | None:
    model = Model()
    try:
        for entries in layers:
            model.apply(entries)
    except Refused:
        return None
    return {path: node for path, (node, _) in model.found.items() if path}


def sound(layers: list[list[Entry]]) -> list[list[Entry]]:
    """`layers` without the entries that the model refuses."""
    model, kept = Model(), []
    for entries in layers:
        model.apply([])
        kept.append([])
        for entry in entries:
            before = dict(model.found)
            try:
                model.place(entry)
                kept[-1].append(entry)
            except Refused:
                model.found = before
    return kept


def unpacked(archives: list[bytes]) -> Tree | None:
    """What our layer directories show, one above the other; None where a layer is refused."""
    with tempfile.TemporaryDirectory() as name:
        below: list[str] = []
        try:
            for number, archive in enumerate(archives):
                lower = MergedTree([DirectoryTree(path) for path in reversed(below)])
                into = f"{name}/{number}/tree"
                Path(into).mkdir(parents=True)
                write_table(into, {})  # the root may belong to 0:0, which we need not be
                below.append(into)
                unpack(io.BytesIO(archive), into, lower=lower.lookup)
            merged = MergedTree([DirectoryTree(path) for path in reversed(below)])
            return listed(merged)
        except BadArchive:
            return None
        finally:
            for path in below:
                remove_tree(path)


def indexed(archives: list[bytes], work: str = "") -> Tree | None:
    """What their file indexes show; `work` is where they put what is much."""
    with tempfile.TemporaryDirectory() as spool:
        trees: list[IndexTree] = []
        try:
            for archive in archives:
                made = index(io.BytesIO(archive), Digest.of(archive), spool=work)
                members = SpooledMembers(partial(io.BytesIO, archive), spool)
                trees.insert(0, IndexTree(made, members, MergedTree(trees[:]), work))
            return listed(MergedTree(trees))
        except BadArchive:
            return None


def listed(tree: MergedTree) -> Tree:
    return {
        entry.path: (entry.kind, content(entry), entry.mode)
        for entry in everything(tree, linked=False)
        if entry.path
    }


NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.sampled_from(["a", "/b", "b/c", "../c", "/a/b", "../../b", ".", "nowhere"])
ENTRIES = st.one_of(
    st.builds(file, PATHS, st.sampled_from([b"1", b"2", b"3"])),
    st.builds(directory, PATHS, st.sampled_from([0o755, 0o750, 0o711])),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(hardlink, PATHS, PATHS),
    st.builds(whiteout, PATHS),
    st.builds(opaque, st.one_of(st.just(""), PATHS)),
)
STACKS = st.lists(st.lists(ENTRIES, min_size=1, max_size=7), min_size=1, max_size=4)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(STACKS)
def test_TR02_layers_mean_what_the_model_says(layers: list[list[Entry]]) -> None:
    for stack in (layers, sound(layers)):
        archives = [tar(*entries) for entries in stack]
        assert unpacked(archives) == modelled(stack)
        assert indexed(archives) == modelled(stack)
