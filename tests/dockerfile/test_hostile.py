"""Large and hostile texts: what takes a second, or less, would take minutes if it looked at
everything again for each part. The bounds are far from both."""

from __future__ import annotations

from contextlib import suppress

import pytest

from assembler.dockerfile.globs import Glob
from assembler.dockerfile.heredocs import openings
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.instructions import Run
from assembler.dockerfile.parser import parse
from assembler.dockerfile.words import expand, expand_heredoc, expand_list, split_words
from assembler.errors import DockerfileError, ExpansionFailed
from assembler.source import Source
from tests.bounds import cpu_seconds

MEGABYTE = 1_000_000
UNITS = [
    "$((",
    "<<",
    "<<E ",
    "'",
    '"',
    "'\"",
    '"$((',
    "${",
    "${a:-",
    "\\",
    '\\"',
    "{",
    "}",
    "[",
    "$",
]


def continued(unit: str, size: int = MEGABYTE) -> str:
    """`unit` again and again, on as many physical lines as it needs."""
    piece = unit * (40_000 // len(unit))
    return "\\\n".join([piece] * (size // len(piece)))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["RUN", "ENV A=", "ONBUILD ADD --x="])
def test_P6_a_megabyte_in_one_instruction(name: str, unit: str) -> None:
    source = Source("Dockerfile", f"FROM a\n{name}{'' if '=' in name else ' '}{continued(unit)}\n")
    with cpu_seconds(15):
        try:
            parse(source)
        except DockerfileError as error:
            assert error.span is not None


@pytest.mark.parametrize("unit", UNITS)
def test_V1_a_long_word(unit: str) -> None:
    text = unit * (MEGABYTE // 4 // len(unit))
    with cpu_seconds(15):
        openings(f"<<{text * 4}")
        split_words(text, "\\")
        for word in (text, f'"{text}"', f"${{a:-{text}}}", f"${{a//{text}/{text}}}"):
            for expansion in (expand, expand_list, expand_heredoc):
                with suppress(ExpansionFailed):
                    expansion(word, {"a": "x"}.get)


@pytest.mark.parametrize(
    "pattern", ["*a*a*a*b", "a*" * 200 + "c", "*" * 1000, "?" * 200 + "b", "*?b?", "a?" * 120 + "c"]
)
@pytest.mark.parametrize("operator", ["#", "##", "%", "%%", "/", "//"])
def test_V6_a_pattern_against_a_megabyte(operator: str, pattern: str) -> None:
    end = "/x" if "/" in operator else ""
    with cpu_seconds(15):
        expand(f"${{V{operator}{pattern}{end}}}", {"V": "a" * MEGABYTE}.get)


def test_V6_what_would_compare_for_minutes_is_refused() -> None:
    value = {"V": "a" * MEGABYTE}
    with cpu_seconds(15), pytest.raises(ExpansionFailed, match="too long for a value this long"):
        expand("${V##" + "a?" * 200_000 + "b}", value.get)
    assert expand("${V#" + "a" * MEGABYTE + "}", value.get).text == ""


def test_I2_a_hundred_thousand_flags() -> None:
    flags = "\\\n".join(["--mount=type=cache,target=/x "] * 100_000)
    with cpu_seconds(15):
        [run] = parse(Source("Dockerfile", f"FROM a\nRUN {flags} x")).stages[0].instructions
    assert isinstance(run, Run) and len(run.mounts) == 100_000


def test_I5_json_of_a_megabyte() -> None:
    text = "[" + '"a",\\\n' * 150_000 + '"b"]'
    with cpu_seconds(15):
        [run] = parse(Source("Dockerfile", f"FROM a\nRUN {text}")).stages[0].instructions
        parse(Source("Dockerfile", "FROM a\nRUN " + "[\\\n" * 300_000))
    assert isinstance(run, Run) and len(run.command.arguments or ()) == 150_001


def test_H4_a_here_document_of_a_million_lines() -> None:
    with cpu_seconds(15):
        source = Source("Dockerfile", "FROM a\nRUN <<E\n" + "x\n" * MEGABYTE + "E\n")
        [run] = parse(source).stages[0].instructions
        with pytest.raises(DockerfileError, match="unterminated heredoc"):
            parse(Source("Dockerfile", "FROM a\nRUN <<F <<E\nF\n" + "x\n" * MEGABYTE))
    assert run.span.end == MEGABYTE + 3


def test_L_comments_blank_lines_and_stages_by_the_hundred_thousand() -> None:
    with cpu_seconds(30):
        parse(Source("Dockerfile", "# x\n" * 200_000 + "FROM a\n"))
        parse(Source("Dockerfile", "FROM a\nRUN x\\\n" + "\n" * 200_000 + "y"))
        parse(Source("Dockerfile", "FROM a\n" + "CMD ['a']\n" * 50_000))
        assert len(parse(Source("Dockerfile", "FROM a AS b\n" * 100_000)).stages) == 100_000


RULES = 10_000
PATHS = [f"src/p{n % 100}/q{n % 700}/file{n}.txt" for n in range(2_000)]


@pytest.mark.parametrize(
    "rule",
    [
        "lib/a{}/b.c",
        "**/node{}",
        "**/*.x{}",
        "lib{}/*.o",
        "src/x{}*",
        "src/*/foo{}",
        "**/foo{}/*.o",
        "*{}z",
        "src/**/c{}",
        "**/a{}/**/b/**/c*",
        "[ab]x{}",
        "*a*{}*c*d",
        "!src/p{}/*/x",
    ],
)
def test_G3_ten_thousand_rules_are_not_all_tried(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0
    matches = Glob.matches

    def counted(glob: Glob, path: str) -> bool:
        nonlocal tried
        tried += 1
        return matches(glob, path)

    monkeypatch.setattr(Glob, "matches", counted)
    text = "\n".join(["*", *map(rule.format, range(RULES))])
    rules = IgnoreRules.parse(Source(".dockerignore", text))
    for path in PATHS:
        assert rules.match(path) is not None
        rules.may_reinclude_below(path.rpartition("/")[0])
    assert tried < len(PATHS) * 100


@pytest.mark.parametrize(
    "pattern",
    [
        "**/a*/" * 30 + "b",
        "**/?" * 30 + "x",
        "a**a" * 10 + "b",
        "**/*a*a*a*/" * 20 + "*b",
        "*a" * 400 + "b",
        "?*" * 400 + "b",
        "**a" * 30 + "*b",
        "**/" + "*a*" * 50 + "b/**/a*b",
        "[a]**" * 20 + "b*",
        "x/" + "**/" * 300 + "y",
    ],
)
def test_G3_no_pattern_makes_a_path_take_long(pattern: str) -> None:
    path = "/".join(["a" * 100] * 40)
    with cpu_seconds(15):
        assert not Glob.parse(pattern).matches(path)
        assert not Glob.parse(pattern).matches(path + "c")
