"""Believed ids follow credentials(7), as the kernel itself does."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from assembler.linux.credentials import KEEP, Credentials, Ids

ROOT = Ids.all(0)
APP = Ids.all(7)


def test_the_privileged_become_anyone_for_good() -> None:
    assert ROOT.set(7, True) == APP
    with pytest.raises(PermissionError):
        APP.set(0, False)


def test_the_effective_id_can_be_lent_and_taken_back() -> None:
    lent = ROOT.set_two(KEEP, 7, True)
    assert lent == Ids(0, 7, 7, 7)
    lent = ROOT.set_three(KEEP, 7, KEEP, True)
    assert lent == Ids(0, 7, 0, 7)
    assert lent.set(0, False) == ROOT
    with pytest.raises(PermissionError):
        lent.set_three(8, KEEP, KEEP, False)


def test_the_file_system_id_is_set_or_silently_not() -> None:
    assert ROOT.set_files(7, True) == Ids(0, 0, 0, 7)
    assert APP.set_files(0, False) == APP
    assert Ids(0, 7, 0, 7).set_files(0, False) == Ids(0, 7, 0, 0)
    assert APP.set_files(KEEP, True) == APP


def test_a_program_with_set_id_bits_gives_its_owners_ids() -> None:
    app = Credentials.of(7, 8, (9,))
    assert app.executed(0, None).users == Ids(7, 0, 0, 0)
    assert app.executed(None, 42).groups == Ids(8, 42, 42, 42)
    assert app.executed(None, None) == app
    assert app.executed(0, None).privileged and not app.privileged


def test_groups_are_the_privilegeds_to_set() -> None:
    assert Credentials.of(0, 0).set_groups((1, 2)).supplementary == (1, 2)
    with pytest.raises(PermissionError):
        Credentials.of(7, 7).set_groups(())


def test_minus_one_is_nobodys_id() -> None:
    for change in (
        lambda: ROOT.set(KEEP, True),
        lambda: Credentials.of(0, 0).set_groups((1, KEEP)),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EINVAL


def test_only_the_privileged_give_files_away() -> None:
    root, app = Credentials.of(0, 0), Credentials.of(7, 8, (9,))
    assert root.may_give((7, 8), 1, 1)
    assert app.may_give((7, 8), KEEP, 9), "chgrp to a group one is in"
    assert app.may_give((7, 8), 7, 8)
    assert app.may_give((1, 1), KEEP, KEEP)
    assert not app.may_give((7, 8), 1, KEEP)
    assert not app.may_give((7, 8), KEEP, 10)
    assert not app.may_give((1, 8), KEEP, 9)


@pytest.mark.parametrize(
    ("owner", "mode", "allowed"),
    [
        ((7, 1), 0o300, True), ((7, 1), 0o077, False), ((1, 9), 0o730, True),
        ((1, 8), 0o707, False), ((1, 1), 0o773, True), ((1, 1), 0o772, False),
    ],
)  # fmt: skip
def test_names_are_added_where_the_directory_lets_one(
    owner: tuple[int, int], mode: int, allowed: bool
) -> None:
    assert Credentials.of(7, 8, (9,)).may_add(owner, mode) is allowed
    assert Credentials.of(0, 0).may_add(owner, 0)


AGAINST_THE_KERNEL = """
import ctypes, os, random, sys
from assembler.linux import userns
from assembler.linux.credentials import KEEP, Ids
id_map = userns.enter()
assert not id_map.single
libc = ctypes.CDLL(None, use_errno=True)
source = random.Random(4)

def real(groups):
    fields = [line.split()[1:] for line in open("/proc/self/status") if line[:4] in ("Uid:", "Gid:")]
    return tuple(map(int, fields[groups]))

def trial():
    users, groups = Ids.all(0), Ids.all(0)
    for _ in range(8):
        kind = source.choice(["", "re", "res", "fs"])
        is_group = source.random() < 0.4
        count = {"": 1, "re": 2, "res": 3, "fs": 1}[kind]
        args = [source.choice([0, 1, 2, 3] + [KEEP] * (kind in ("re", "res"))) for _ in range(count)]
        name = f"set{kind}{'gid' if is_group else 'uid'}"
        before = groups if is_group else users
        allowed = users.effective == 0
        method = {"": before.set, "re": before.set_two, "res": before.set_three,
                  "fs": before.set_files}[kind]
        try:
            after, failed = method(*args, allowed), False
        except PermissionError:
            after, failed = before, True
        result = getattr(libc, name)(*map(ctypes.c_uint, args))
        if kind != "fs":
            assert (result != 0) == failed, (name, args, before, result)
        users, groups = (users, after) if is_group else (after, groups)
        for number, ids in enumerate((users, groups)):
            assert real(number) == (ids.real, ids.effective, ids.saved, ids.files), (name, args, before)

for _ in range(300):
    child = os.fork()
    if child == 0:
        try:
            trial()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("same")
"""


@pytest.mark.integration
def test_the_kernel_agrees() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AGAINST_THE_KERNEL], capture_output=True, text=True, timeout=600
    )
    assert done.stdout == "same\n", done.stderr
