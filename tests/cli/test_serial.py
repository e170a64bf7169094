"""JSON as the commands print it."""

from __future__ import annotations

import json
import os

import pytest

from assembler.cli.serial import dumps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("\U0001f389 \\ud800", "\U0001f389 \\ud800"),
        (os.fsdecode(b"a\xff\xfe/\xc3\xa9"), "a\ufffd\ufffd/\u00e9"),
        ("\ud800", "\ufffd"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_no_text_is_replaced_and_all_else_stays(
    text: str, expected: str, indent: int | None
) -> None:
    given = {text: [text, {"a": text}], "n": 1.5, "z": None}
    assert json.loads(dumps(given, indent=indent)) == {
        expected: [expected, {"a": expected}], "n": 1.5, "z": None,
    }  # fmt: skip


def test_one_object_is_one_line() -> None:
    assert dumps({"a": [1, 2], "b": "c\n"}) == '{"a":[1,2],"b":"c\\n"}'
    assert dumps({"a": os.fsdecode(b"\xff\n"), "b": [1]}) == '{"a":"\\ufffd\\n","b":[1]}'
