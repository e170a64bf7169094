"""How tools print a secret: beside what they really print."""

from __future__ import annotations

import base64
import html
import json
import shlex
import subprocess
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.masking import LEAST
from assembler.spellings import LEAST_OF_A_LINE, MOST_ENCODED, spellings
from tests.test_masking import masked_by

ODD = "p@ss 'word'/\"<&>\\$`+é~"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq/kiG9w0B\nAQEF+AASCBKcwggS\n-----END PRIVATE KEY-----\n"
ENCODERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a line": lambda text: base64.b64encode(f"{text}\n".encode()).decode(),
    "base64 of one for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "in a path": urllib.parse.quote,
    "in a form": urllib.parse.quote_plus,
    "in lower case": lambda text: "".join(
        char if urllib.parse.quote(char, safe="") == char else "".join(f"%{one:02x}" for one in char.encode())
        for char in text
    ),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "XML": lambda text: html.escape(text, quote=False),
    "HTML": lambda text: html.escape(text).replace("&#x27;", "&#39;"),
    "in quotes": lambda text: shlex.quote(text).strip("'"),
    "by set -x": lambda text: shell('set -x; : "$1"', text).removeprefix("+ : ").strip("'"),
    "by printf %q": lambda text: shell('printf "%q" "$1" >&2', text),
    "by printf %q of a step": lambda text: shell('printf "%q" "$1" >&2', text, "C").removeprefix("$'").removesuffix("'"),
    "by declare": lambda text: shell("X=$1; declare -p X >&2", text).removeprefix('declare -- X="')[:-1],
}  # fmt: skip


def shell(script: str, text: str, locale: str = "C.UTF-8") -> str:
    """What bash says on stderr."""
    command = ["bash", "-c", script, "bash", text]
    done = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": locale})
    return done.stderr.decode().removesuffix("\n")


@pytest.mark.parametrize("way", ENCODERS)
@pytest.mark.parametrize("secret", [ODD, "hunter2", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"])
def test_what_tools_print_of_a_secret_is_hidden(secret: str, way: str) -> None:
    printed = ENCODERS[way](secret)
    assert masked_by(secret.encode(), f"> {printed} <".encode()) == b"> *** <"


@given(st.binary(min_size=6, max_size=90), st.binary(max_size=20), st.binary(max_size=5))
def test_base64_of_a_text_with_the_secret_shows_next_to_nothing_of_it(
    secret: bytes, before: bytes, after: bytes
) -> None:
    """At most the bits that share a character with what is before or after."""
    bare = secret.strip()
    if len(bare) < 6 or b"\n" in bare:
        return
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + bare + after)
        shown = masked_by(bare, encoded)
        head, tail = shown.partition(b"***")[0], shown.rpartition(b"***")[2]
        assert len(head) <= -(-len(before) * 8 // 6)
        assert len(tail) <= len(encoded) - len(before + bare) * 8 // 6


@pytest.mark.parametrize("tool", [("base64",), ("base64", "-w0"), ("openssl", "base64")])
def test_lines_of_a_long_secret_in_base64_are_hidden(tool: tuple[str, ...]) -> None:
    secret = bytes(range(256)) * 9
    done = subprocess.run(tool, input=secret, capture_output=True, check=True)
    lines = masked_by(secret, done.stdout).splitlines()
    assert set(lines[:-1]) <= {b"***"} and (lines[-1] == b"***" or len(lines[-1]) < 8)


def test_every_telling_line_of_a_secret_is_hidden_by_itself() -> None:
    printed = f"x\n{KEY}y\n".encode()
    out = "x\n-----BEGIN PRIVATE KEY-----\n***\n***\n-----END PRIVATE KEY-----\ny\n"
    assert masked_by(KEY.encode(), printed).decode() == out
    assert masked_by(KEY.replace("\n", "\r\n").encode(), printed).decode() == out
    document = json.dumps({"a": 1, "key": KEY}, indent=2)
    shown = masked_by(document.encode(), document.encode()).decode()
    assert shown == '{\n  "a": 1,\n  ***\n}'
    in_json = json.dumps(KEY)
    assert b"kiG9w0B" not in masked_by(KEY.encode(), in_json.encode())


@given(st.binary(min_size=LEAST, max_size=99), st.binary(max_size=9), st.binary(max_size=9))
def test_no_line_of_a_secret_comes_out(secret: bytes, before: bytes, after: bytes) -> None:
    shown = masked_by(secret, before + secret + after)
    lines = [line.strip() for line in secret.split(b"\n")]
    telling = [one for one in lines if len(one) >= LEAST_OF_A_LINE and len(set(one)) > 2]
    assert not [one for one in telling if one in shown and b"*" not in one]


@pytest.mark.parametrize("secret", ["", "\n", "a", "abc", "abc\n", "  abc\n"])
def test_what_is_too_short_is_not_hidden(secret: str) -> None:
    assert spellings(secret.encode()) == set()


def test_short_lines_are_hidden_where_a_secret_has_no_others() -> None:
    assert masked_by(b"user\npin:1\n", b"user pin:1 use") == b"*** *** use"


def test_a_line_of_half_a_megabyte_is_hidden_wherever_it_is_cut() -> None:
    secret = bytes(65 + at * at % 7919 % 26 for at in range(500 << 10))
    assert len(secret) > MOST_ENCODED
    assert masked_by(secret, b"<" + secret + b">") == b"<***>"
    assert max(map(len, spellings(secret))) <= 1024


@given(st.binary(max_size=300))
def test_patterns_are_what_masks_take(secret: bytes) -> None:
    assert all(len(one) >= LEAST and b"\n" not in one for one in spellings(secret))
