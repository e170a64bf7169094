"""What an entry is, apart from where its bytes live."""

from __future__ import annotations

import pytest

from assembler.layer.changeset import Entry, InlineBytes, Kind

ENTRY = Entry("a/b", Kind.FILE, size=1, source=InlineBytes(b"x"))


@pytest.mark.parametrize(
    "same", [ENTRY._replace(source=None), ENTRY._replace(inode=(1, 2)), ENTRY._replace()]
)
def test_source_and_inode_do_not_make_an_entry_another_one(same: Entry) -> None:
    assert (same == ENTRY, same != ENTRY, hash(same) == hash(ENTRY)) == (True, False, True)


@pytest.mark.parametrize("other", [ENTRY._replace(path="a"), ENTRY._replace(xattrs=()), None])
def test_everything_else_does(other: object) -> None:
    entry = ENTRY._replace(xattrs=(("user.a", b""),))
    assert (other == entry, other != entry) == (False, True)


def test_an_entry_knows_its_name_and_its_parent() -> None:
    assert (ENTRY.name, ENTRY.parent) == ("b", "a")
    assert (Entry("a", Kind.FILE).name, Entry("a", Kind.FILE).parent) == ("a", "")
