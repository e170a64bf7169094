"""Device nodes of the host."""

from __future__ import annotations

import os
from pathlib import Path

from assembler.linux.nodes import HostNode, host_node


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
