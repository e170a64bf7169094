"""T7, TR-03: what whiteouts hide, by names as layers spell them (image-spec layer.md, "Whiteouts").

Each row is a lower layer, the members of a layer above it, and what shows then: contents, `/` for a
directory, `-> target` for a link; None where the layer is refused.
"""

from __future__ import annotations

import pytest

from assembler.layer.changeset import Entry, Kind
from tests.layer.archives import (
    ZEROS,
    directory,
    file,
    hardlink,
    opaque,
    raw,
    symlink,
    tar,
    whiteout,
)
from tests.layer.test_stacks import modelled, unpacked

LOWER = [
    directory("d"), file("d/f", b"f"), file("d/g", b"g"), directory("d/s"), file("d/s/h", b"h"),
    file("f", b"top"), symlink("l", "d"),
]  # fmt: skip
ALL = {"d": "/", "d/f": "f", "d/g": "g", "d/s": "/", "d/s/h": "h", "f": "top", "l": "-> d"}


def without(*paths: str, **more: str) -> dict[str, str]:
    kept = {
        path: shown
        for path, shown in ALL.items()
        if not any(f"{path}/".startswith(f"{gone}/") for gone in paths)
    }
    return kept | {path.replace("__", "/"): shown for path, shown in more.items()}


TABLE: dict[str, tuple[list[bytes], dict[str, str] | None]] = {
    "a file": ([raw(b"d/.wh.f")], without("d/f")),
    "a file at the root": ([raw(b".wh.f")], without("f")),
    "a directory": ([raw(b".wh.d")], without("d")),
    "a directory below": ([raw(b"./d/.wh.s")], without("d/s")),
    "a link, not what it leads to": ([raw(b".wh.l")], without("l")),
    "what is not there": ([raw(b"d/.wh.nothing")], ALL),
    "what is not there, in no directory": ([raw(b"n/.wh.nothing")], without(n="/")),
    "twice": ([raw(b".wh.f"), raw(b".wh.f")], without("f")),
    "through a link": ([raw(b"l/.wh.f")], without("d/f")),
    "before what replaces it": ([raw(b".wh.f"), raw(b"f", b"new")], without(f="new")),
    "after what replaces it": ([raw(b"f", b"new"), raw(b".wh.f")], without(f="new")),
    "before its directory": (
        [raw(b".wh.d"), raw(b"d/", kind=b"5"), raw(b"d/n", b"new")],
        without("d", d="/", d__n="new"),
    ),
    "after its directory": (
        [raw(b"d/", kind=b"5"), raw(b"d/n", b"new"), raw(b".wh.d")],
        without("d", d="/", d__n="new"),
    ),
    "of an implied parent": ([raw(b"d/n", b"new"), raw(b".wh.d")], without("d", d="/", d__n="new")),
    "of a parent further up": (
        [raw(b"d/s/n", b"new"), raw(b".wh.d")],
        without("d", d="/", d__s="/", d__s__n="new"),
    ),
    "opaque": ([raw(b"d/.wh..wh..opq")], without("d/f", "d/g", "d/s")),
    "opaque, after siblings": (
        [raw(b"d/n", b"new"), raw(b"d/.wh..wh..opq")],
        without("d", d="/", d__n="new"),
    ),
    "opaque, before siblings": (
        [raw(b"d/.wh..wh..opq"), raw(b"d/s/n", b"new")],
        without("d", d="/", d__s="/", d__s__n="new"),
    ),
    "opaque, with content": (
        [raw(b"d/.wh..wh..opq", b"ignored" * 100), raw(b"n", b"new")],
        without("d/f", "d/g", "d/s", n="new"),
    ),
    "opaque, as a directory": (
        [raw(b"d/.wh..wh..opq/", kind=b"5")],
        without("d/f", "d/g", "d/s"),
    ),
    "opaque, as a link": (
        [raw(b"d/.wh..wh..opq", kind=b"2", link=b"/etc")],
        without("d/f", "d/g", "d/s"),
    ),
    "opaque, of the root": ([raw(b".wh..wh..opq"), raw(b"n", b"new")], {"n": "new"}),
    "opaque, through a link": ([raw(b"l/.wh..wh..opq")], without("d/f", "d/g", "d/s")),
    "of aufs": ([raw(b".wh..wh.plnk/"), raw(b".wh..wh.plnk/12.3"), raw(b"d/.wh..wh.x")], ALL),
    "a device 0:0": ([raw(b"f", kind=b"3", at=(329, b"0000000\0" * 2))], without("f")),
    "a name that climbs out of one": ([raw(b"d/.wh.s/../n", b"new")], without(d__n="new")),
    "only alike": ([raw(b"d/.why", b"w"), raw(b"x.wh.f", b"x")], without(**{"d__.why": "w", "x.wh.f": "x"})),
    "the name of one": ([raw(b"d/.wh..n")], ALL),
    "of nothing": ([raw(b".wh.")], None),
    "of nothing, below": ([raw(b"d/.wh.")], None),
    "of its own directory": ([raw(b"d/.wh..")], None),
    "of the directory above": ([raw(b"d/.wh...")], None),
    "a file below one": ([raw(b".wh.d/f", b"new")], None),
    "below a file of its layer": ([raw(b"f", b"new"), raw(b"f/.wh.x")], None),
}  # fmt: skip


def shown(archives: list[bytes]) -> dict[str, str] | None:
    found = unpacked(archives)
    marks = {Kind.DIRECTORY: "/", Kind.SYMLINK: "-> ", Kind.FILE: ""}
    return found and {path: marks[kind] + text for path, (kind, text, _) in found.items()}


@pytest.mark.parametrize("row", TABLE)
def test_T7_TR03_whiteouts(row: str) -> None:
    members, expected = TABLE[row]
    assert shown([tar(*LOWER), b"".join(members) + ZEROS]) == expected


ANEW: dict[str, tuple[list[Entry], dict[str, str] | None]] = {
    "a directory in place of a file": ([directory("f"), file("f/n", b"n")], without(f="/", f__n="n")),
    "a directory after a file of its name": ([file("d"), directory("d")], without("d", d="/")),
    "a directory after a link of its name": ([symlink("d", "/"), directory("d")], without("d", d="/")),
    "a file in place of a directory": ([file("d", b"n")], without("d", d="n")),
    "a directory in place of a link": ([directory("l"), file("l/n", b"n")], without(l="/", l__n="n")),
    "a link in place of a link": ([file("l/n", b"n"), symlink("l", "/"), file("l/m", b"m")],
                                  without(d__n="n", l="-> /", m="m")),
    "a directory in place of a link that was followed": (
        [file("l/n", b"n"), directory("l"), file("l/m", b"m")], without(d__n="n", l="/", l__m="m")),
    "a link that an opaque directory hides": (
        [directory("x"), symlink("x/l", "/d")], without(x="/", x__l="-> /d")),
    "T4 a link to a lower file": ([hardlink("n", "l/f")], without(n="f")),
    "T4 a link to a hidden file": ([whiteout("f"), hardlink("n", "f")], None),
    "T4 a link to a file of an opaque directory": ([opaque("d"), hardlink("n", "d/f")], None),
    "T4 a link to a file of a hidden directory": (
        [whiteout("d"), directory("d"), hardlink("n", "d/f")], None),
    "T4 a link to what it replaces": ([hardlink("d", "d/f")], None),
}  # fmt: skip


@pytest.mark.parametrize("row", ANEW)
def test_T9_kinds_that_change_over_a_lower_layer(row: str) -> None:
    entries, expected = ANEW[row]
    assert shown([tar(*LOWER), tar(*entries)]) == expected


def test_TR02_a_link_that_a_whiteout_hides_is_not_followed() -> None:
    for hidden in ([whiteout("x")], [opaque("x")], [whiteout("x/l")]):
        layers = [[*LOWER, symlink("x/l", "/d")], [*hidden, file("x/l/n", b"n")]]
        assert unpacked([tar(*entries) for entries in layers]) == modelled(layers)
        found = shown([tar(*entries) for entries in layers])
        assert found == without(x="/", x__l="/", x__l__n="n")
