"""Id maps: which one a process can have, and what is said when it can have none."""

from __future__ import annotations

import os
from pathlib import Path

from assembler.linux.userns import IdMap, group_is_mapped, subordinate


def test_subordinate_ranges_are_found_by_name_and_number(tmp_path: Path) -> None:
    import pwd

    name = pwd.getpwuid(os.getuid()).pw_name
    path = tmp_path / "subuid"
    path.write_text(f"other:1:5\n{name}:100000:65536\n{os.getuid()}:300000:10\n{name}:bad:line\n")
    assert subordinate(str(path), os.getuid()) == ((100000, 65536), (300000, 10))


def test_no_file_means_no_ranges(tmp_path: Path) -> None:
    assert subordinate(str(tmp_path / "missing"), os.getuid()) == ()


def test_a_map_of_one_id_is_single_whatever_it_is_called() -> None:
    assert IdMap("identity", ((0, 0, 1),), ((0, 0, 1),), 0, 0).single
    assert not IdMap("full", ((0, 1, 1), (1, 5, 9)), ((0, 1, 1), (1, 5, 9)), 1, 1).single


def test_M12_a_group_is_mapped_where_the_kernel_says_so() -> None:
    with Path("/proc/self/gid_map").open() as stream:
        first, _, count = map(int, stream.readline().split())
    assert group_is_mapped(first) and group_is_mapped(first + count - 1)
    assert not group_is_mapped(1 << 32)
