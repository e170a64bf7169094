"""Device nodes of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assembler.linux.nodes import HostNode, host_node, open_by_group


def test_M12_a_node_has_a_kind_numbers_and_a_mode(tmp_path: Path) -> None:
    found = host_node("/dev/null")
    assert found is not None and (found.kind, found.numbers) == ("c", (1, 3))
    (tmp_path / "link").symlink_to("/dev/null")
    assert host_node(str(tmp_path / "link")) == found
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert host_node(str(tmp_path / "pipe")) == HostNode("p", (0, 0), 0o600)


def test_M12_other_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing", "file/below", ""):
        assert host_node(str(tmp_path / name)) is None


def test_M12_a_node_for_everybody_or_of_its_owner_needs_no_group(tmp_path: Path) -> None:
    assert not open_by_group("/dev/null")
    os.mkfifo(tmp_path / "pipe", 0o660)
    assert not open_by_group(str(tmp_path / "pipe"))


@pytest.mark.parametrize(("groups", "mode", "by_group"), [
    ([7], 0o660, True), ([8], 0o660, False), ([7], 0o666, False), ([], 0o660, False),
    ([7], 0o640, True), ([7], 0o664, True), ([7], 0o644, False), ([7], 0o600, False),
])  # fmt: skip
def test_M12_a_node_may_be_for_a_group_of_the_caller(
    monkeypatch: pytest.MonkeyPatch, groups: list[int], mode: int, by_group: bool
) -> None:
    node = os.stat_result((0o020000 | mode, 0, 0, 1, os.getuid() + 1, 7, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path: node)
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert open_by_group("/dev/group") is by_group
