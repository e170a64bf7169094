"""The way into cgroups, on files that stand in for them."""

from __future__ import annotations

import os
from pathlib import Path

from assembler.linux.cgroups import Group
from assembler.linux.entrances import enter, fork_into
from tests.leftovers import nothing_left


def test_a_process_writes_itself_into_groups_of_every_kind(tmp_path: Path) -> None:
    names = {"one": "tasks", "two": "cgroup.procs", "threaded": "cgroup.threads"}
    for name, file in names.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
    groups = (
        Group(1, str(tmp_path / "one")),
        Group(2, str(tmp_path / "two")),
        Group(2, str(tmp_path / "threaded"), threaded=True),
    )
    with nothing_left():
        enter([group.entrance() for group in groups])
    assert [(tmp_path / name / file).read_text() for name, file in names.items()] == ["0"] * 3


def test_where_nobody_can_be_born_in_a_group_the_child_has_to_enter(tmp_path: Path) -> None:
    entrance = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)  # no group: clone3 says EBADF
    pid, left = fork_into([entrance])
    if pid == 0:
        os._exit(0 if left == [entrance] else 1)
    os.close(entrance)
    assert os.waitpid(pid, 0)[1] == 0


def test_without_groups_it_is_a_fork() -> None:
    pid, left = fork_into([])
    if pid == 0:
        os._exit(7 if left == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
