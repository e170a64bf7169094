"""A slow, obvious reading of the ignore language (rules G2 to G5), and that ours agrees with it.

"Ours:" marks the places where the rules are silent.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from assembler.dockerfile.ignore import IgnoreRules
from assembler.errors import DockerfileError
from assembler.source import Source

Rules = list[tuple[bool, str]]
"""Whether it is negated, and the pattern, cleaned."""


class Wrong(Exception):
    """A line that the rules refuse."""


def rules(text: str) -> Rules:
    """G2."""
    found = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        line = line.strip()
        if line == "":
            continue
        negated = line[0] == "!"
        if negated:
            line = line[1:].strip()
            if line == "":
                raise Wrong('illegal exclusion pattern: "!"')
        pattern = cleaned(line)
        elements(pattern)
        found.append((negated, pattern))
    return found


def cleaned(path: str) -> str:
    """G2: `.` and doubled slashes go, `..` takes what is before it, so does the leading slash."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
            elif not path.startswith("/"):
                parts.append(part)
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or "."


Element = str | tuple[bool, list[tuple[str, str]]]
"""`*`, `?`, `**`, `**/`, `=` and a literal character, or whether a set is negated and its ranges."""


def elements(pattern: str) -> list[Element]:
    """G3, and the syntax of Go's `filepath.Match`."""
    found: list[Element] = []
    rest = pattern
    while rest:
        if rest.startswith("**"):
            # Ours: as in moby, `**` is read from the left and takes a slash behind it
            rest = rest[2:]
            slash = rest.startswith("/")
            rest = rest[1:] if slash else rest
            found.append("**/" if rest else "**")
        elif rest[0] == "[":
            negated, ranges, rest = character_set(rest[1:])
            found.append((negated, ranges))
        elif rest[0] == "\\":
            if len(rest) == 1:
                raise Wrong("nothing follows the last backslash")
            found.append("=" + rest[1])
            rest = rest[2:]
        else:
            found.append(rest[0] if rest[0] in "*?" else "=" + rest[0])
            rest = rest[1:]
    return found


def character_set(rest: str) -> tuple[bool, list[tuple[str, str]], str]:
    negated = rest.startswith("^")
    rest = rest[1:] if negated else rest
    ranges: list[tuple[str, str]] = []
    while not (rest.startswith("]") and ranges):
        low, rest = character(rest)
        high = low
        if rest.startswith("-"):
            high, rest = character(rest[1:])
        if low > high:
            raise Wrong("a range is backwards")
        ranges.append((low, high))
    return negated, ranges, rest[1:]


def character(rest: str) -> tuple[str, str]:
    if rest == "" or rest[0] in "-]" or rest == "\\":
        raise Wrong("a set is not finished")
    return (rest[1], rest[2:]) if rest[0] == "\\" else (rest[0], rest[1:])


def matches(pattern: list[Element], path: str) -> bool:
    """G3, by trying everything."""
    if not pattern:
        return path == ""
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return True
    if first == "**/":
        starts = [0, *(at + 1 for at, char in enumerate(path) if char == "/")]
        return any(matches(rest, path[start:]) for start in starts)
    if first == "*":
        component = path.split("/")[0]
        return any(matches(rest, path[size:]) for size in range(len(component) + 1))
    if path == "" or not fits(first, path[0]):
        return False
    return matches(rest, path[1:])


def fits(element: Element, char: str) -> bool:
    if isinstance(element, tuple):
        negated, ranges = element
        inside = any(low <= char <= high for low, high in ranges)
        return char != "/" and inside is not negated  # Ours: no set matches a slash
    return char != "/" if element == "?" else element == "=" + char


def covers(pattern: str, path: str) -> bool:
    """G4: the path itself or a directory above it matches."""
    parts = path.split("/")
    paths = ["/".join(parts[:size]) for size in range(1, len(parts) + 1)]
    plain = pattern[2:]
    literal = plain and not any(char in plain for char in "*?[]\\")
    if pattern.startswith("**") and literal and not plain.startswith("/"):
        # Ours: as in moby, `**x` is whatever ends in x
        return any(one.endswith(plain) for one in paths)
    return any(matches(elements(pattern), one) for one in paths)


def excluded(text: str, path: str) -> bool:
    """G5."""
    verdict = False
    for negated, pattern in rules(text):
        if covers(pattern, path):
            verdict = not negated
    return verdict


# The reference against the vectors of section 15.


@pytest.mark.parametrize(
    ("text", "path", "wanted"),
    [
        ("*.md", "a.md", True),
        ("*.md", "d/a.md", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "d/e/a.md", True),
        ("d", "d/x/y", True),
        ("/d", "d/x", True),
        ("d/*\n!d/keep", "d/keep", False),
        ("d/*\n!d/keep", "d/x", True),
        ("*\n!src", "src/a", False),
        ("*\n!src", "b", True),
        ("**\n!**/*.go", "p/q.go", False),
        ("!x\nx", "x", True),
        ("d/", "d/x", True),
        ("./d", "d/x", True),
        ("#x", "#x", False),
        ("\\#x", "#x", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab].t", "a.t", True),
        ("a/../b", "b", True),
        ("**/x", "d/e/x", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("x/y\n!x", "x/y", False),
    ],
)
def test_G_both_pass_the_vectors(text: str, path: str, wanted: bool) -> None:
    assert excluded(text, path) is wanted
    assert (IgnoreRules.parse(Source("i", text)).match(path) is not None) is wanted


# Ours against the reference.

NAMES = st.text("ab", min_size=1, max_size=3) | st.text("ab.#!*?[]^-\\é", min_size=1, max_size=3)
PATHS = st.lists(
    NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4
).map("/".join)  # fmt: skip
PIECES = r"a b ab * ** ? [ab] [^a] [a-b] [b\]] \* \[ \\ . # ! é - ^ ]".split()
PARTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join)
WHOLE = st.sampled_from(["**", "*", ".", "..", "a", "b", "ab", ""])
PATTERNS = st.lists(PARTS | WHOLE, min_size=1, max_size=4).map("/".join)
LINES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "!", "! ", " ", "#", "!/", "/", "./"]),
    PATTERNS,
    st.sampled_from(["", "", "/", " ", "\r", "/**"]),
    st.sampled_from(["", "", "\n"]),
)
SOUP = st.text("ab/*?[]^-\\!# .\n", max_size=12)
FILES = st.builds(
    "{}{}".format,
    st.sampled_from(["", "\ufeff"]),
    st.lists(LINES | SOUP, max_size=5).map("\n".join),
)
MANY = settings(max_examples=1000, suppress_health_check=list(HealthCheck))


@MANY
@given(FILES, PATHS)
@example("a**b", "axb")
@example("**a*", "xa")
@example("**\\*a", "x*a")
@example("**a]", "xa]")
@example("**a/b", "xa/b")
@example("a/b\n!a\na/b/**", "a/b")
def test_G2_G3_G4_G5_files_agree_with_the_reference(text: str, path: str) -> None:
    try:
        wanted = excluded(text, path)
    except Wrong:
        with pytest.raises(DockerfileError):
            IgnoreRules.parse(Source("i", text))
        return
    assert (IgnoreRules.parse(Source("i", text)).match(path) is not None) is wanted


@settings(MANY, max_examples=60)
@given(st.lists(LINES, min_size=34, max_size=60), st.lists(PATHS, min_size=1, max_size=8))
def test_G5_long_files_agree_with_the_reference(lines: list[str], paths: list[str]) -> None:
    good = [line for line in lines if not is_wrong(line)]
    text = "\n".join(good)
    ours = IgnoreRules.parse(Source("i", text))
    for path in paths:
        assert (ours.match(path) is not None) is excluded(text, path)


def is_wrong(line: str) -> bool:
    try:
        rules(line)
    except Wrong:
        return True
    return False


@settings(MANY, max_examples=300)
@given(st.lists(LINES, min_size=1, max_size=40), PATHS)
def test_G5_no_directory_is_left_out_that_holds_what_is_included(
    lines: list[str], path: str
) -> None:
    text = "\n".join(line for line in lines if not is_wrong(line))
    ours = IgnoreRules.parse(Source("i", text))
    if not excluded(text, path):
        parts = path.split("/")
        for size in range(1, len(parts)):
            parent = "/".join(parts[:size])
            assert not excluded(text, parent) or ours.may_reinclude_below(parent)


@settings(MANY, max_examples=300)
@given(st.lists(LINES, min_size=1, max_size=6), PATHS)
def test_G5_the_rule_that_is_named_decides(lines: list[str], path: str) -> None:
    good = [line.strip("\n") for line in lines if not is_wrong(line) and "\n" not in line.strip()]
    found = IgnoreRules.parse(Source("i", "\n".join(good))).match(path)
    if found is not None:
        assert excluded(good[found.line - 1], path)
        assert not any(
            covers(pattern, path) for line in good[found.line :] for _, pattern in rules(line)
        )
