"""Differences in the user's terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.plan.differences import Difference
from assembler.plan.wording import REASONS, more, words

BELOW = "[build 3/7] COPY src /src"
SHORT = {
    "src/app.py changed": Difference(
        "file", "src/app.py", "changed", "sha256:1", "sha256:2", "COPY src"
    ),
    "src/new.py added": Difference("file", "src/new.py", "added", "", "sha256:1", "COPY src"),
    "src/old/ removed": Difference("file", "src/old/", "removed", place="COPY src"),
    "run.sh mode 0644 → 0755": Difference("file", "run.sh", "mode", "644", "755"),
    "a owner 0:0 → 1:1": Difference("file", "a", "owner", "0:0", "1:1"),
    "l target a → b": Difference("file", "l", "target", "a", "b"),
    "a was a file and is a link": Difference("file", "a", "kind", "-", "l"),
    "a attributes changed": Difference("file", "a", "attributes", "1", "2"),
    "ARG VERSION 1 → 2": Difference("args", "VERSION", "changed", "1", "2"),
    'ENV A "" → 2': Difference("env", "A", "changed", "", "2"),
    "ENV A=2 added": Difference("env", "A", "added", "", "2"),
    "ENV A=2 removed": Difference("env", "A", "removed", "2", ""),
    "the order of ENV changed": Difference("env", "", "order", "A B", "B A"),
    "USER a → b": Difference("user", "", "changed", "a", "b"),
    "USER app added": Difference("user", "", "added", "", "app"),
    "WORKDIR /a → /b": Difference("cwd", "", "changed", "/a", "/b"),
    "the command make → make all": Difference(
        "argv", "", "changed", "/bin/sh -c make", "/bin/sh -c make all"
    ),
    "the command /bin/sh -c make → /bin/bash -c make": Difference(
        "argv", "", "changed", "/bin/sh -c make", "/bin/bash -c make"
    ),
    "the here-document EOF changed": Difference("scripts", "EOF", "changed", "a", "b"),
    "the destination /a → /b": Difference("destination", "", "changed", "/a", "/b"),
    "the sources a → a b": Difference("sources", "", "changed", "a", "a b", "COPY a b"),
    "--chown 1 → 2": Difference("chown", "", "changed", "1", "2"),
    "--ulimit nofile 1:1 → 2:2": Difference("limits", "nofile", "changed", "1:1", "2:2"),
    "--shm-size 67108864 → 1": Difference("shared_memory", "", "changed", "67108864", "1"),
    "--network default → none": Difference("network", "", "changed", "default", "none"),
    "--mount=type=cache target /a → /b": Difference(
        "mount", "--mount=type=cache,target=/a", "target", "/a", "/b"
    ),
    "--mount=type=bind,target=/a source /x → /y": Difference(
        "mount", "--mount=type=bind,target=/a", "source", "/x", "/y"
    ),
    "--mount=type=ssh added": Difference("mount", "--mount=type=ssh", "added"),
    "--mount=type=bind,target=/in: a.txt changed": Difference(
        "file", "a.txt", "changed", "", "", "--mount=type=bind,target=/in"
    ),
    "its files changed": Difference("files", "context", place="COPY . /"),
    "files of stage build changed": Difference("files", "stage build", place="COPY --from=build"),
    "its hard links changed": Difference("files", "context", "links", place="COPY . /"),
    "hard links of stage build changed": Difference("files", "stage build", "links", place="COPY"),
    "--platform linux/amd64 → linux/arm64": Difference(
        "platform", old="linux/amd64", new="linux/arm64"
    ),
    "image x moved": Difference("files", "image x", place="COPY --from=x /a"),
    "https://host/a changed": Difference("files", "url https://host/a", place="ADD"),
    "context → stage b": Difference("origin", "stage b", "changed", "context", "stage b"),
    "base moved": Difference("base", "docker.io/x", "moved", "sha256:1", "sha256:2"),
    "FROM a:1 → a:2": Difference("base", "a:2", "replaced", "a:1", "a:2"),
    f"FROM …aaa @sha256:{'1' * 48}… → …aaa @sha256:{'2' * 48}…": Difference(
        "base", "x", "replaced", f"{'a' * 40} @sha256:{'1' * 64}", f"{'a' * 40} @sha256:{'2' * 64}"
    ),
    "the stage it is built from, deps, changed": Difference("stage", "deps"),
    "the step before it, COPY src /src (3/7), changed": Difference(
        "step", BELOW, "changed", BELOW, BELOW
    ),
    "the step before it, COPY src /src (3/7), is new": Difference(
        "step", BELOW, "added", "x", BELOW
    ),
    "RUN y (2/7), which was before it, is gone": Difference(
        "step", BELOW, "removed", "[2/7] RUN y"
    ),
    "instruction is new": Difference("new"),
    "--no-cache": Difference("no-cache"),
    "older than --cache-ttl": Difference("cache-ttl"),
    "result was pruned": Difference("pruned"),
}


@pytest.mark.parametrize("text", SHORT)
def test_a_difference_in_few_words(text: str) -> None:
    assert words(SHORT[text]) == text


def test_at_length_it_is_said_where_and_digests_are_shown() -> None:
    digests = ("sha256:0123456789abcdef", "sha256:fedcba9876543210")
    file = Difference("file", "src/app.py", "changed", *digests, "COPY src")
    base = Difference("base", "docker.io/x", "moved", *digests)

    assert words(file, long=True) == (
        "COPY src: src/app.py changed (sha256 0123456789ab → fedcba987654)"
    )
    assert words(base, long=True) == "base docker.io/x moved (sha256 0123456789ab → fedcba987654)"


def test_how_many_others_there_are() -> None:
    assert (more(41), more(0)) == (" (and 41 more)", "")


def test_A6_long_values_are_cut_to_what_differs() -> None:
    text = words(Difference("args", "FLAGS", "changed", "-x " * 100 + "-O2", "-x " * 100 + "-O3"))

    assert text == "ARG FLAGS … -x -x -x -O2 → … -x -x -x -O3"


def test_passwords_of_urls_and_control_characters_are_not_shown() -> None:
    old, new = "https://user:hush@host/a", "https://user:hush@host/b\x1b[2J"
    text = words(Difference("args", "URL", "changed", old, new), long=True)

    assert "hush" not in text and text.endswith("host/b\\x1b[2J")
    assert "\n" not in words(Difference("file", "a\nb", "added"))


anything = st.text(max_size=80)


@given(
    st.builds(
        Difference, anything | st.sampled_from([*REASONS, "file", "step", "mount"]), *[anything] * 5
    )
)
def test_whatever_a_record_says_is_one_line_of_text(difference: Difference) -> None:
    for long in (True, False):
        text = words(difference, long=long)
        assert text.isprintable() and len(text) < 600
