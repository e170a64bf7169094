"""`--chmod` (rule C18): octal as it is, symbolic as BSD's chmod, which BuildKit follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from assembler.errors import BadFlag
from assembler.plan.modes import parse


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("0", 0o777, 0o0),
        ("644", 0o4777, 0o644),
        ("07777", 0o0, 0o7777),
        ("00000000644", 0o777, 0o644),
        ("u+x", 0o644, 0o744),
        ("g+w,o-r", 0o644, 0o660),
        ("go-rwx", 0o4777, 0o4700),
        ("a=r", 0o4777, 0o444),
        ("=r", 0o6777, 0o444),
        ("+x", 0o644, 0o755),
        ("-w", 0o666, 0o444),
        ("=", 0o6755, 0o0),
        ("u=", 0o4777, 0o77),
        ("u=rwx,go=rx", 0o600, 0o755),
        ("ug=rw", 0o6777, 0o667),
        ("g=u", 0o740, 0o770),
        ("o=g", 0o2754, 0o2755),
        ("g+u", 0o741, 0o771),
        ("go-u", 0o777, 0o700),
        ("g=o", 0o2777, 0o2777),
        ("u=rwx,go=u-w", 0o600, 0o755),
        ("u+s", 0o755, 0o4755),
        ("g+s", 0o755, 0o2755),
        ("+s", 0o755, 0o6755),
        ("o+s", 0o755, 0o755),
        ("u-s", 0o6755, 0o2755),
        ("+t", 0o755, 0o1755),
        ("u+t", 0o755, 0o1755),
        ("o+t", 0o755, 0o755),
        ("a=rwxst", 0o0, 0o7777),
        ("u=rwx", 0o1777, 0o1777),
        ("u=r,a+X", 0o755, 0o555),
        ("a-x,+X", 0o755, 0o755),
        ("a+X", 0o644, 0o644),
        ("a+X", 0o654, 0o755),
        ("a-X", 0o755, 0o644),
        ("u+r-w+x", 0o200, 0o500),
        ("ugo=rwX", 0o100, 0o777),
    ],
)
def test_C18_modes(text: str, before: int, after: int) -> None:
    assert oct(parse(text)(before, False)) == oct(after)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [("a+X", 0o600, 0o711), ("u=rwX,go=rX", 0o2700, 0o755), ("g=u", 0o2750, 0o2770)],
)
def test_C18_modes_of_directories(text: str, before: int, after: int) -> None:
    assert oct(parse(text)(before, True)) == oct(after)


@pytest.mark.parametrize(
    "text",
    [
        "8", "999", "64a", "10000", "-1", "0o644", "0x1ff", "+644", "u", "rwx", "u+q", "u+x,", ",",
        "u:x", "z+x", "u=gx", "u+x u-x", "٧٧٧", " 644", "644 ",
    ],
)  # fmt: skip
def test_C18_what_means_no_mode(text: str) -> None:
    with pytest.raises(BadFlag) as caught:
        parse(text)
    assert caught.value.message == (
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    )


WHO = some.text("ugoa", max_size=4)
CLAUSE = some.tuples(WHO, some.sampled_from("+-="), some.text("rwxX", max_size=4)).map("".join)


@given(
    clauses=some.lists(CLAUSE, min_size=1, max_size=3).map(",".join),
    before=some.integers(0, 0o777),
    directory=some.booleans(),
)
def test_C18_permissions_agree_with_a_model(clauses: str, before: int, directory: bool) -> None:
    assert parse(clauses)(before, directory) == model(clauses, before, directory)


def model(clauses: str, before: int, directory: bool) -> int:
    """Bit by bit, as chmod(1) is described; X asks for the mode before everything."""
    mode = before
    for clause in clauses.split(","):
        at = next(n for n, char in enumerate(clause) if char in "+-=")
        who, operator, what = clause[:at], clause[at], clause[at + 1 :]
        for person, shift in (("u", 6), ("g", 3), ("o", 0)):
            if who and person not in who and "a" not in who:
                continue
            for letter, bit in (("r", 4), ("w", 2), ("x", 1)):
                named = letter in what
                if letter == "x" and "X" in what:
                    named |= operator == "-" or directory or before & 0o111 != 0
                mask = bit << shift
                if operator == "+" and named:
                    mode |= mask
                elif operator == "-" and named:
                    mode &= ~mask
                elif operator == "=":
                    mode = mode | mask if named else mode & ~mask
    return mode
