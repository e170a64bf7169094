"""Reading specifications from directories (M12)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from assembler.cdi.directories import DIRECTORIES, read


def text(name: str = "dev", kind: str = "v/c") -> str:
    """A specification with one device."""
    devices = [{"name": name, "containerEdits": {"env": ["A=1"]}}]
    return json.dumps({"cdiVersion": "0.3.0", "kind": kind, "devices": devices})


def test_M12_the_usual_directories_are_buildkits() -> None:
    assert DIRECTORIES == ("/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi")


def test_M12_files_of_several_directories(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "a.json").write_text(text("a"))
    (first / "b.yaml").write_text(f"# as nvidia-ctk writes it\n---\n{text('b')}\n")
    (second / "a.json").write_text(text("a"))
    (first / "not.yml").write_text(text("c"))
    (first / "not.json.tmp").write_text(text("d"))
    (first / "deep").mkdir()
    (first / "deep" / "e.json").write_text(text("e"))
    (first / "deep.json").mkdir()
    found = read([str(first), str(tmp_path / "missing"), str(second)])
    assert {name: one.path for name, one in found.devices.items()} == {
        "v/c=a": str(second / "a.json"),
        "v/c=b": str(first / "b.yaml"),
    }
    assert found.problems == ()
    assert found.directories == (str(first), str(tmp_path / "missing"), str(second))


def test_M12_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "good.json").write_text(text())
    (tmp_path / "dangling.json").symlink_to("nowhere")
    (tmp_path / "large.json").write_bytes(b" " * ((4 << 20) + 1))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe.json")
    found = read([str(tmp_path), str(tmp_path / "good.json")])
    assert list(found.devices) == ["v/c=dev"]
    problems = dict(problem.split(": ", 1) for problem in found.problems)
    assert {os.path.basename(path): why for path, why in problems.items()} == {
        "bad.json": "line 1: Expecting property name enclosed in double quotes",
        "binary.json": "it is not UTF-8",
        "dangling.json": "No such file or directory",
        "large.json": "it is larger than 4 MiB",
        "pipe.json": "it is no regular file",
        "good.json": "Not a directory",
    }
