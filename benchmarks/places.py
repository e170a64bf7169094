"""Where benchmarks build: directories with files of other ids, which only a namespace can remove."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
EMPTY = """\
import sys
from assembler.linux import userns
from assembler.linux.paths import remove_tree
userns.enter()
for path in sys.argv[1:]:
    remove_tree(path)
"""


@contextmanager
def place(prefix: str) -> Iterator[Path]:
    """A directory of /var/tmp, for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/var/tmp") as name:
        directory = Path(name)
        try:
            yield directory
        finally:
            paths = map(str, directory.iterdir())
            subprocess.run([sys.executable, "-c", EMPTY, *paths], cwd=ROOT, check=True)
