"""`--max-size` and `--max-layers`: an image that is larger fails its build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
TEXT = "FROM busybox\nCOPY small /small\nENV a=b\nRUN head -c 100000 /dev/urandom > /large\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(TEXT)
    (directory / "small").write_text("small")
    return directory


def test_the_instruction_that_made_it_so_is_named_and_no_name_means_it(
    assemble: Any, context: Path
) -> None:
    layout = context.parent / "layout"
    output = f"type=oci,tar=false,dest={layout}"
    words = ("build", "-t", "app", "-o", output, "--max-size", "1m")
    done = assemble(*words, context, code=1)
    *_, hint, error = done.stderr.splitlines()
    assert error.startswith("ERROR: the image has 1") and error.endswith("1048576 (--max-size)")
    assert "bytes by busybox-static; 1" in hint and "RUN /bin/sh -c head -c 100000" in hint
    assert not done.stdout and "app" not in assemble("images").stdout
    assert not (layout / "index.json").exists()
    words = (*words[:-1], "1.5m")
    assert assemble(*words, context).stdout and "app" in assemble("images").stdout


def test_layers_are_counted(assemble: Any, context: Path) -> None:
    done = assemble("build", "--max-layers", "2", context, code=1)
    assert "ERROR: the image has 3 layers, and may have 2 (--max-layers)" in done.stderr
    assemble("build", "--max-layers=3", context)


def test_a_size_that_is_none_is_a_mistake_of_the_command_line(assemble: Any, context: Path) -> None:
    done = assemble("build", "--max-size", "much", context, code=2)
    assert "ERROR: --max-size much: not a size" in done.stderr
