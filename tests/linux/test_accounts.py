"""Users and groups by the files of a root, as moby's user package reads them (rule R2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.linux.accounts import Account, account
from assembler.linux.job import SetupFailed

Root = Path


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "etc").mkdir()
    write(tmp_path, "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nbobs:x:1001:\nextra:x:50:ann,bob\nnone:x:51\n")
    return tmp_path


def write(root: Root, accounts: str) -> None:
    (root / "etc/passwd").write_text(accounts)


def test_R2_names_and_numbers(root: Root) -> None:
    bob = Account(1000, 1001, [50, 1001], "/home/bob")
    assert (
        account("bob", str(root))
        == account("1000", str(root))
        == account("01000", str(root))
        == bob
    )
    assert account("", str(root)) == Account(0, 0, [0], "/root")
    assert account("bob:none", str(root)) == Account(1000, 51, [51], "/home/bob")
    assert account("77:88", str(root)) == Account(77, 88, [88], "/")


def test_R2_a_number_is_an_id_even_where_it_is_somebodys_name(root: Root) -> None:
    write(root, "7:x:5:6::/five:\nseven:x:7:8::/seven:\n")
    (root / "etc/group").write_text("9:x:10:\nextra:x:11:7\n")
    assert account("7", str(root)) == Account(7, 8, [8], "/seven")
    assert account("7:9", str(root)) == Account(7, 9, [9], "/seven")
    assert account("1", str(root)) == Account(1, 0, [0], "/"), "of no group whose members are `1`"


def test_R2_root_beside_a_number_needs_no_account_files(root: Root) -> None:
    write(root, "root:x:5:6::/five:\n")
    (root / "etc/group").write_text("root:x:7:\n")
    assert account("root", str(root)) == Account(5, 6, [6], "/five")
    for user in ("root:root", "0:root", "root:0"):
        assert account(user, str(root)) == Account(0, 0, [0], "/")
    (root / "etc/passwd").unlink()
    assert account("root:7", str(root)) == Account(0, 7, [7], "/")
    with pytest.raises(SetupFailed, match="unable to find user root"):
        account("root", str(root))


def test_R2_rows_may_be_short_or_hold_any_character(root: Root) -> None:
    write(root, "a:x:5:6\nb:x:7:8:B\x0cB \u2028 \x85 B:/b:\r\n  c:x:9:10::/c:\n\n# none\n")
    assert account("a", str(root)) == Account(5, 6, [6], "/")
    assert account("b", str(root)) == Account(7, 8, [8], "/b")
    assert account("c", str(root)) == Account(9, 10, [10], "/c")


def test_rows_without_numbers_are_nobodys(root: Root) -> None:
    write(root, f"a:x:²:1::/:\nb:x:5:x::/:\nc:x:{'9' * 5000}:1::/:\nd:x::::\n")
    for name in "abcd":
        with pytest.raises(SetupFailed, match=f"unable to find user {name}: no matching"):
            account(name, str(root))


@pytest.mark.parametrize("user", ["4294967295", "1:4294967295", "9" * 5000, "huge", "bob:huge"])
def test_a_number_that_is_no_id(root: Root, user: str) -> None:
    write(root, "bob:x:1:1::/:\nhuge:x:99999999999:1::/:\n")
    (root / "etc/group").write_text("huge:x:99999999999:\n")
    with pytest.raises(SetupFailed, match="is no user or group id: the largest is 4294967294"):
        account(user, str(root))


def test_a_name_of_other_digits_is_a_name(root: Root) -> None:
    with pytest.raises(SetupFailed, match="unable to find user ²"):
        account("²", str(root))
    with pytest.raises(SetupFailed, match="unable to find group ²"):
        account("1:²", str(root))


def test_T8_account_files_that_are_none(root: Root) -> None:
    (root / "etc/passwd").unlink()
    (root / "etc/group").unlink()
    os.mkfifo(root / "etc/passwd")
    (root / "etc/group").symlink_to("/dev/zero")
    assert account("1000", str(root)) == Account(1000, 0, [0], "/")


def test_T8_millions_of_rows_take_no_memory(root: Root) -> None:
    (root / "etc/passwd").write_bytes(b"::1:1:::\n" * (2 << 20) + b"late:x:5:6::/:\n")
    script = (
        "import sys; from assembler.linux.accounts import *\n"
        "try: account('late', sys.argv[1])\n"
        "except SetupFailed:\n"
        "    peak = next(one for one in open('/proc/self/status') if one.startswith('VmHWM'))\n"
        "    print(peak.split()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 96 << 10, "KiB; what is behind 16 MiB is not read"
