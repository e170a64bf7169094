"""What a shell is told when it completes a command line, by its own words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.store.refs import Refs

ROOT = Path(__file__).parents[2]


def completed(directory: Path, line: str, shell: str = "bash") -> list[str]:
    """What `shell` is offered for the last word of `line`."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "assembler"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "ASSEMBLE_STORE": str(directory / "store"),
            "_ASSEMBLE_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
        },
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_commands(tmp_path: Path) -> None:
    assert completed(tmp_path, "assemble pu") == ["plain,push", "plain,pull"]
    assert completed(tmp_path, "assemble comp", "fish") == [
        "plain,completion\tPrint what makes SHELL (bash, zsh or fish)..."
    ]


def test_options(tmp_path: Path) -> None:
    assert completed(tmp_path, "assemble build --no-c") == [
        "plain,--no-cache",
        "plain,--no-cache-filter",
    ]
    assert completed(tmp_path, "assemble store check --rep") == ["plain,--repair"]


def test_values_of_a_choice(tmp_path: Path) -> None:
    assert completed(tmp_path, "assemble build --progress r") == ["plain,rawjson"]


def test_files_and_directories(tmp_path: Path) -> None:
    assert completed(tmp_path, "assemble build --iidfile x") == ["file,x"]
    assert completed(tmp_path, "assemble build -f Docker") == ["file,Docker"]
    assert completed(tmp_path, "assemble build -t a sr") == ["dir,sr"]
    assert completed(tmp_path, "assemble check --store s") == ["dir,s"]


def test_images_of_the_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    one = Descriptor(MANIFEST, Digest("sha256", "0" * 64), 2)
    for name in ("docker.io/library/app:1", "r.example/tool:2"):
        Refs(str(store)).set(name, one)
    assert completed(tmp_path, "assemble rmi ") == ["plain,app:1", "plain,r.example/tool:2"]
    assert completed(tmp_path, "assemble push r.") == ["plain,r.example/tool:2"]
    assert completed(tmp_path, "assemble push ./a") == ["file,./a"]
    assert completed(tmp_path, "assemble inspect --store elsewhere a") == ["file,a"]


def test_stages_of_the_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch AS build\nFROM scratch AS test\nFROM\n")
    (tmp_path / "other").write_text("FROM scratch AS third\n")
    assert completed(tmp_path, "assemble build --target ") == ["plain,build", "plain,test"]
    assert completed(tmp_path, "assemble build -f other --target t") == ["plain,third"]


@pytest.mark.parametrize(
    "line",
    [
        "assemble nonsense x",
        "assemble build --target ",
        "assemble rmi ",
        "assemble build --wrong x",
    ],
)
def test_mistakes_are_no_errors_while_a_line_is_typed(tmp_path: Path, line: str) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/index.json").write_text("{")
    assert not [one for one in completed(tmp_path, line) if one.startswith("plain")]


@pytest.mark.parametrize(("shell", "words"), [("bash", "complete -o"), ("zsh", "compdef")])
def test_the_script_is_one_of_the_shell(tmp_path: Path, shell: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "assembler", "completion", shell],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert words in done.stdout and "_ASSEMBLE_COMPLETE" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True, timeout=600)
