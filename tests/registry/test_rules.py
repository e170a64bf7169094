"""The table of rules and tests in docs/transfers.md is complete and says what is so."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| ((?:R|M)[^|]*) \| ([^|]*) \|$", re.MULTILINE)


def test_every_rule_has_its_tests_where_the_table_says() -> None:
    covered = set()
    for rules, files in ROW.findall((TESTS.parent / "docs/transfers.md").read_text()):
        ids = re.findall(r"\b(?:R|RG|M)[0-9]+\b", rules)
        for name in re.findall(r"`([^`]+)`", files):
            text = (TESTS / f"{name}.py").read_text()
            found = {id for id in ids if re.search(rf"def test_(?:\w+_)?{id}_", text)}
            assert found, f"{name} has no test of {rules}"
            covered |= found
    wanted = {f"R{n}" for n in range(1, 18)} | {f"M{n}" for n in range(1, 13)}
    assert wanted <= covered
