"""ADD of archives of very many members: what is kept in a file is what memory would have held (T15)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.engine import copy
from assembler.engine.selection import Selected, Selection
from assembler.errors import StepError
from assembler.layer import archive, entry_map
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.compression import Plain
from assembler.layer.entry_map import SpilledChangeset, changeset_tree
from assembler.layer.tree import ChangesetTree, Tree
from assembler.layer.write import pack
from assembler.plan.steps import Copy
from tests.layer.archives import file, tar
from tests.layer.test_stacks import ENTRIES, sound

MEMBERS = st.lists(ENTRIES, min_size=1, max_size=9).map(
    lambda entries: sound([[one for one in entries if one.kind is not Kind.WHITEOUT]])[0]
)
"""Most of which can be unpacked: links lead somewhere."""
BELOW = st.lists(ENTRIES, max_size=4).map(
    lambda entries: [one for one in entries if one.kind in (Kind.DIRECTORY, Kind.SYMLINK)]
)


class Taking:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes | memoryview, /) -> None:
        self.content += data


def few(patch: pytest.MonkeyPatch) -> None:
    """Three members are many."""
    for module, name in ((entry_map, "_MOST"), (archive, "_MOST")):
        patch.setattr(module, name, 3)
    for followed in (archive, copy):
        patch.setattr(followed, "_MOST_FOLLOWED", 1)


def added(step: Copy, archives: list[list[Entry]], below: Tree, spool: Path) -> Any:
    """What ADD makes of the archives."""
    items = [
        Selected(Entry(name, Kind.FILE, source=InlineBytes(tar(*found))), name, below, unpack=True)
        for name, found in zip("123", archives, strict=False)
    ]
    selection = Selection(tuple(items))
    work = tempfile.mkdtemp(dir=spool)
    return copy.changeset(step, selection, below, now=1_000_000_000, spool=work)


def told(found: Any) -> object:
    """Its bytes as a layer, and what it shows as a tree."""
    packed = Taking()
    pack(found, packed, Plain())
    tree = changeset_tree(found)
    shown = [list(tree.children(path)) for path in ("", "a", "a/b")]
    return packed.content, list(found), [tree.lookup(one.path) for one in found], shown


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(archives=st.lists(MEMBERS, min_size=1, max_size=3), onto=BELOW)
def test_T15_many_members_are_what_few_are(
    bench: Any, archives: list[list[Entry]], onto: list[Entry]
) -> None:
    """The same bytes, or the same error."""
    step, below = bench.step("ADD 1 2 3 /"), ChangesetTree(onto)
    found: list[object] = []
    for many in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if many:
                few(patch)
            try:
                found.append(told(added(step, archives, below, bench.spool)))
            except StepError as error:
                found.append(error.message)
    assert found[0] == found[1]


def test_T15_what_is_above_many_members_is_kept_in_a_file(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    made = added(
        bench.step("ADD 1 /"),
        [[file(f"d{n}/f", b"%d" % n) for n in range(20)]],
        ChangesetTree(()),
        bench.spool,
    )
    assert isinstance(made, SpilledChangeset) and len(made) == 40
    assert [one.path for one in made][:3] == ["d0", "d0/f", "d1"]
