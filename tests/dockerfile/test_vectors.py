"""The vectors of section 13: lines, JSON, here-document delimiters, as they stand there.

What is executed (13.4) is in tests/plan; here is what of it the parser sees.
"""

from __future__ import annotations

import pytest

from assembler.dockerfile.instructions import (
    CommandLine,
    Copy,
    Dockerfile,
    HealthCheck,
    Instruction,
    Run,
    Shell,
    User,
    Volume,
)
from assembler.dockerfile.parser import parse
from assembler.errors import DockerfileError
from assembler.source import Source

LINT = "NoEmptyContinuation"


def tree(text: str) -> Dockerfile:
    return parse(Source("Dockerfile", text))


def body(text: str) -> tuple[Instruction, ...]:
    return tree(f"FROM a\n{text}").stages[0].instructions


@pytest.mark.parametrize(
    ("text", "runs", "lint"),
    [
        ("RUN echo a \\\n# note\nb", ["echo a b"], []),
        ("RUN echo a \\\n\nb", ["echo a b"], [LINT]),
        ('RUN echo "\\\n     x"', ['echo "     x"'], []),
        ("RUN echo a \\  \nb", ["echo a b"], []),
        ("RUN echo a\\\\\nRUN b", ["echo a\\\\", "b"], []),
        ("   RUN x", ["x"], []),
        ("run x\nRun x", ["x", "x"], []),
        ("RUN x\n\\", ["x"], []),
        ("RUN x \\", ["x"], []),
        ("# c", [], []),
    ],
)
def test_L_vectors_13_1_lines(text: str, runs: list[str], lint: list[str]) -> None:
    made = tree(f"FROM a\n{text}")
    found = [one.command.text for one in made.stages[0].instructions if isinstance(one, Run)]
    assert found == runs
    assert len(made.stages[0].instructions) == len(runs)
    assert [warning.rule for warning in made.warnings] == lint


def test_D_vectors_13_1_directives() -> None:
    [copy] = tree("# escape=`\nFROM a\nCOPY a c:\\\n").stages[0].instructions
    assert isinstance(copy, Copy) and copy.destination == "c:\\"
    with pytest.raises(DockerfileError, match="only one syntax parser directive can be used"):
        tree("#syntax=a\n#syntax=b\nFROM a")
    for first in ("# hello", "# unknown=1"):
        assert tree(f"{first}\n# escape=x\nFROM a").escape == "\\"
    assert tree("\n# check=skip=all\nFROM a").check == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('["a","b c"]', CommandLine(arguments=("a", "b c"))),
        ('[ "a" ]  ', CommandLine(arguments=("a",))),
        ("['a']", CommandLine("['a']")),
        ('["a", "b"', CommandLine('["a", "b"')),
        ('["a"] x', CommandLine('["a"] x')),
        ("[]", CommandLine(arguments=())),
        ('["sh","-c","echo $HOME"]', CommandLine(arguments=("sh", "-c", "echo $HOME"))),
        ('["echo","$HOME"]', CommandLine(arguments=("echo", "$HOME"))),
    ],
)
@pytest.mark.parametrize("name", ["CMD", "RUN", "ENTRYPOINT"])
def test_I5_vectors_13_2_commands(name: str, text: str, wanted: CommandLine) -> None:
    [found] = body(f"{name} {text}")
    assert getattr(found, "command", None) == wanted


def test_I5_I6_vectors_13_2_others() -> None:
    with pytest.raises(DockerfileError, match="arrays must be comprised of strings only"):
        body('CMD ["a", 1]')
    with pytest.raises(DockerfileError, match="SHELL requires the arguments to be in JSON form"):
        body("SHELL /bin/bash -c")
    copy, words, json, plain, check, shell = body(
        'COPY ["a b","/c d/"]\nCOPY a\\ b /c\nVOLUME ["/a","/b"]\nVOLUME /a /b\n'
        'HEALTHCHECK CMD ["x"]\nSHELL ["/bin/bash", "-c"]'
    )
    assert isinstance(copy, Copy) and copy.sources == ("a b",) and copy.destination == "/c d/"
    assert isinstance(words, Copy) and words.sources == ("a\\", "b") and words.destination == "/c"
    assert isinstance(json, Volume) and isinstance(plain, Volume) and json.paths == plain.paths
    assert isinstance(check, HealthCheck) and check.command == CommandLine(arguments=("x",))
    assert isinstance(shell, Shell) and shell.arguments == ("/bin/bash", "-c")


@pytest.mark.parametrize(
    ("opening", "end", "name", "expand"),
    [
        ("<<EOF", "EOF", "EOF", True),
        ("<<-EOF", "EOF", "EOF", True),
        ("<<-EOF", "\tEOF", "EOF", True),
        ('<<"EOF"', "EOF", "EOF", False),
        ("<<'EOF'", "EOF", "EOF", False),
        ("<<eo'f'", "eof", "eof", False),
        ("<<eo\\'f", "eo'f", "eo'f", True),
        ("<<'one two'", "one two", "one two", False),
        ("<<$EOF", "$EOF", "$EOF", True),
        ("<<  EOF", "EOF", "EOF", True),
        ("3<<EOF", "EOF", "EOF", True),
    ],
)
def test_H2_H4_H5_vectors_13_3_delimiters(opening: str, end: str, name: str, expand: bool) -> None:
    copy, run = body(f"COPY {opening} /f\n\tx\n{end}\nRUN y")
    assert isinstance(copy, Copy) and isinstance(run, Run)
    [heredoc] = copy.heredocs
    assert (heredoc.name, heredoc.body, heredoc.expand) == (name, "\tx\n", expand)
    assert heredoc.strip_tabs is opening.startswith("<<-")
    assert heredoc.descriptor == (3 if opening.startswith("3") else 0)


@pytest.mark.parametrize("text", ['RUN "<<EOF"', "RUN <<<x", 'RUN ["x", "<<EOF"]', "USER <<EOF"])
def test_H1_H2_vectors_13_3_no_here_documents(text: str) -> None:
    found, after = body(f"{text}\nUSER z")
    assert isinstance(after, User)
    assert not isinstance(found, Run) or found.command.heredocs == ()


def test_H3_vectors_13_3_two_here_documents() -> None:
    [run] = body("RUN cat <<X <<Y\nY\nX\n1\nY\n")
    assert isinstance(run, Run)
    assert [(one.name, one.body) for one in run.command.heredocs] == [("X", "Y\n"), ("Y", "1\n")]


@pytest.mark.parametrize(
    ("text", "line", "names", "mounts"),
    [
        ("RUN <<EOF\nset -e\na\nEOF", "<<EOF", ["EOF"], 0),
        ("RUN <<EOF\n#!/usr/bin/env python3\nEOF", "<<EOF", ["EOF"], 0),
        ("RUN <<EOF python3\nx\nEOF", "<<EOF python3", ["EOF"], 0),
        (
            "RUN cat <<A >/x && cat <<B >/y\nA\nB",
            "cat <<A >/x && cat <<B >/y",
            ["A", "B"],
            0,
        ),
        ("RUN --mount=type=cache,target=/c <<EOF\nx\nEOF", "<<EOF", ["EOF"], 1),
    ],
)
def test_H9_H10_vectors_13_4_what_the_parser_hands_on(
    text: str, line: str, names: list[str], mounts: int
) -> None:
    [run] = body(text)
    assert isinstance(run, Run)
    assert run.command.text == line
    assert [one.name for one in run.command.heredocs] == names
    assert len(run.mounts) == mounts
