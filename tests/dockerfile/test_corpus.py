"""Every `fixtures/dockerfile/<case>/Dockerfile` parses to its `tree.txt` or fails as `error.txt`.

`python tests/dockerfile/test_corpus.py` writes the answers that are missing, to be read and
committed with the case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from assembler.dockerfile.instructions import Dockerfile, Instruction
from assembler.dockerfile.parser import parse
from assembler.errors import DockerfileError
from assembler.source import Source, printable

CORPUS = Path(__file__).parents[2] / "fixtures" / "dockerfile"
CASES = sorted(path.parent for path in CORPUS.glob("*/Dockerfile"))
HIDDEN = {"span", "text", "comment"}


def read(case: Path) -> Source:
    return Source(
        "Dockerfile", (case / "Dockerfile").read_bytes().decode("utf-8", "surrogateescape")
    )


def tree(dockerfile: Dockerfile) -> str:
    return "\n".join(_lines(dockerfile)) + "\n"


def _lines(dockerfile: Dockerfile) -> Iterator[str]:
    for name in ("escape", "syntax", "check"):
        value = getattr(dockerfile, name)
        if value not in ("", "\\"):
            yield f"{name} {value!r}"
    for argument in dockerfile.arguments:
        yield from _instruction(argument, "")
    for stage in dockerfile.stages:
        yield f"stage {stage.index}"
        for instruction in (stage.base, *stage.instructions):
            yield from _instruction(instruction, "  ")
    for warning in dockerfile.warnings:
        lines = f"{warning.span.start}-{warning.span.end}"
        yield f"warning {lines} {warning.rule}: {warning.message}"


def _instruction(instruction: Instruction, indent: str) -> Iterator[str]:
    span = instruction.span
    yield f"{indent}{type(instruction).__name__} {span.start}-{span.end} {instruction.text!r}"
    for line in instruction.comment:
        yield f"{indent}  # {line}"
    for item in fields(instruction):
        value = getattr(instruction, item.name)
        if item.name not in HIDDEN and value != item.default:
            yield f"{indent}  {item.name} = {value!r}"


def failure(error: DockerfileError) -> str:
    place = error.span
    where = f"{place.start}-{place.end} {place.word!r}" if place else "nowhere"
    return f"{type(error).__name__} {where}\n{error.message}\n"


def outcome(case: Path) -> tuple[str, str]:
    """The name of the file that holds the answer, and what it should hold."""
    try:
        name, text = "tree.txt", tree(parse(read(case)))
    except DockerfileError as error:
        name, text = "error.txt", failure(error)
    return name, "\n".join(map(printable, text.split("\n")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_corpus(case: Path) -> None:
    name, text = outcome(case)
    answers = [path.name for path in case.glob("*.txt")]
    assert answers == [name]
    assert text == (case / name).read_text(encoding="utf-8")


def test_the_corpus_is_there() -> None:
    assert len(CASES) >= 160


def write_missing_answers() -> None:
    for case in CASES:
        if not list(case.glob("*.txt")):
            name, text = outcome(case)
            (case / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_missing_answers()
