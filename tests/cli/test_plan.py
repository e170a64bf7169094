"""What `assemble plan` prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from assembler.cli.commands import cli


@pytest.mark.parametrize("style", ["text", "json", "dot", "mermaid"])
def test_where_a_cache_is_on_this_host_is_not_told(tmp_path: Path, style: str) -> None:
    context, cache = tmp_path / "context", tmp_path / "there" / "cache"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")

    def run(store: str, command: str, *words: str) -> str:
        options = ("--store", str(tmp_path / store), *words)
        done = CliRunner().invoke(cli, [command, *options, str(context)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    run("one", "build", "--cache-to", f"type=local,dest={cache}")
    shown = run("other", "plan", "--cache-from", f"type=local,src={cache}", "--format", style)
    assert "directory cache" in shown and str(cache) not in shown
