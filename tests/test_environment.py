"""Where the store is, whatever home there is (RS-03)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assembler.environment import Environment


def store(**variables: str) -> tuple[str, bool]:
    """Where it is, and whether there is something to say about it."""
    found = Environment.read(variables)
    return found.store, bool(found.notice)


def test_the_store_is_what_was_named_else_in_the_data_home_else_in_home(tmp_path: Path) -> None:
    home = str(tmp_path)
    assert store(HOME=home, ASSEMBLE_STORE="/some/store") == ("/some/store", False)
    assert store(HOME=home, XDG_DATA_HOME="/data") == ("/data/assemble", False)
    assert store(HOME=home) == (f"{home}/.local/share/assemble", False)


def test_RS03_a_home_without_a_slash_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store(HOME="away") == (f"{tmp_path}/away/.local/share/assemble", False)


@pytest.mark.parametrize("home", ["/dev/null", "/etc/passwd/home"])
def test_RS03_a_home_that_cannot_be_written_is_replaced_with_a_notice(
    tmp_path: Path, home: str
) -> None:
    expected = f"{tmp_path}/assemble-{os.getuid()}"
    assert store(HOME=home, TMPDIR=str(tmp_path)) == (expected, True)
    named = str(tmp_path / "named")
    assert store(HOME=home, TMPDIR=str(tmp_path), ASSEMBLE_STORE=named) == (named, False)
