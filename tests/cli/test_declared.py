"""Plain words are read as click reads them, or left to click."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.cli import build, copy, pull, push
from assembler.cli.commands import bare_values
from assembler.cli.declared import Command
from assembler.cli.main import WITHOUT_CLICK

WORDS = (
    *("-t", "a:1", "-f", "-", "--file=x", "--push", "-q", "--quiet", "--pull", "--pull=newer", "."),
    *(
        "--build-arg",
        "K=V",
        "--build-arg=K",
        "--no-cache",
        "--no-cache=1",
        "--jobs",
        "3",
        "--jobs=0",
    ),
    *("--progress", "plain", "--progress=wrong", "--target=", "--retry=2", "--tls-verify", "-ta"),
    *(
        "--cert-dir=/",
        "--",
        "-h",
        "--help",
        "--nothing",
        "--memory=1g",
        "-m",
        "1g",
        "--tag",
        "",
        "-x",
    ),
    *("-1", "--jobs=٣", "--jobs= 3", "--cache-ttl=-5h", "--cache-ttl", "--no-cache-filter=a,b"),
    *("--cache-to=", "--cache-from=type=local,src=x", "--require-cached", "--tls-verify=", "-qt"),
    *("--load", "--provenance=false", "--provenance", "--sbom", "false", "--attest=type=sbom"),
    *("--digest-file", "--digestfile=d", "--load=true"),
    *("--pull=", "-f-", "--retry=1001", "--network", "Host", "--buil", "--label=a=b=c"),
)

OF_TRANSFERS = (
    *("app", "r.example/app:1", "--compression", "zstd", "--compression-level=3"),
    *("--compression-level", "-3", "--all-platforms", "--platform=linux/arm64,linux/amd64"),
)
TRANSFERS = (push.command, pull.command, copy.command)


def by_click(words: list[str], command: Command = build.command) -> dict[str, Any] | None:
    """What click gives the command for these words; None for what it refuses, or does itself."""
    found: list[dict[str, Any]] = []
    recording = Command(
        command.name, lambda **options: found.append(options), command.options, command.arguments
    ).by_click()
    bare = bare_values(recording)
    end = words.index("--") if "--" in words else len(words)
    words = [bare.get(word, word) for word in words[:end]] + words[end:]
    try:
        recording.main(words, standalone_mode=False, auto_envvar_prefix="ASSEMBLE_DECLARED")
    except click.ClickException:
        return None
    return found[0] if found else None


@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_what_is_read_is_what_click_reads(words: list[str]) -> None:
    read = build.command.read(words, {})
    assert read is None or read == by_click(words)


@given(
    st.sampled_from(TRANSFERS),
    st.lists(
        st.sampled_from((*WORDS, *OF_TRANSFERS)),
        max_size=7,
    ),
)
def test_what_is_read_of_transfers_is_what_click_reads(command: Command, words: list[str]) -> None:
    read = command.read(words, {})
    assert read is None or read == by_click(words, command)


@pytest.mark.parametrize(
    ("command", "words", "arguments"),
    [
        (push.command, ["app"], {"words": ("app",)}),
        (push.command, ["a", "--retry=2", "r/a:1", "r/a:2"], {"words": ("a", "r/a:1", "r/a:2")}),
        (pull.command, ["--all-platforms", "a", "b"], {"names": ("a", "b")}),
        (copy.command, ["a", "b"], {"source": "a", "targets": ("b",)}),
        (
            copy.command,
            ["a", "b", "--progress", "tty", "c"],
            {"source": "a", "targets": ("b", "c")},
        ),
    ],
)
def test_what_most_transfers_are_given_is_read(
    command: Command, words: list[str], arguments: dict[str, Any]
) -> None:
    read = command.read(words, {"ASSEMBLE_STORE": "/s"})
    assert read is not None and read == by_click(words, command)
    assert {name: read[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (push.command, []),
        (push.command, ["--compression-level=-3", "app"]),
        (push.command, ["--compression-level=1234567890", "app"]),
        (copy.command, ["a"]),
        (pull.command, ["--", "a"]),
    ],
)
def test_the_rest_of_transfers_is_for_click(command: Command, words: list[str]) -> None:
    assert command.read(words, {}) is None


def test_the_commands_without_click_are_those_that_are_declared() -> None:
    assert tuple(one.name for one in (build.command, *TRANSFERS)) == WITHOUT_CLICK


@pytest.mark.parametrize(
    "words",
    [
        ["."],
        ["-t", "app:1", "--push", "--build-arg", "K=V", "--build-arg", "L", "."],
        ["--pull", ".", "--progress=plain", "--jobs=3", "-q", "-f", "-"],
        ["--cache-from", "type=local,src=x", "--retry", "0", "context"],
    ],
)
def test_what_most_builds_are_given_is_read(words: list[str]) -> None:
    read = build.command.read(words, {"PATH": "/bin", "ASSEMBLE_STORE": "/s"})
    assert read is not None and read == by_click(words)


@pytest.mark.parametrize(
    "words",
    [["--help", "."], ["-h"], [], [".", "."], ["--nothing", "."], ["--jobs=0", "."], ["-ta", "."]],
)
def test_the_rest_is_for_click(words: list[str]) -> None:
    assert build.command.read(words, {}) is None


@pytest.mark.parametrize("name", ["ASSEMBLE_BUILD_TARGET", "ASSEMBLE_DEBUG", "_ASSEMBLE_COMPLETE"])
def test_variables_that_stand_for_options_are_for_click(name: str) -> None:
    assert build.command.read(["."], {name: "x"}) is None


def test_every_option_has_a_name_and_a_value_of_its_own() -> None:
    names = [one.name for one in build.command.options]
    assert len(names) == len(set(names))
    assert build.command.read(["."], {}) == by_click(["."])
