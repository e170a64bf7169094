"""A slow, obvious reading of the word rules (W1, V1 to V9, V11, H8), and that ours agrees with it.

The reference is trusted because it passes the vectors of section 12. "Ours:" marks the places
where the rules are silent and it follows `assembler.dockerfile.words`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from assembler.dockerfile.words import expand, expand_heredoc, expand_list, split_words
from assembler.errors import ExpansionFailed

Env = Mapping[str, str]
Marked = list[tuple[str, bool]]
"""Text, and whether its blanks separate words (rule V11)."""

BLANKS = " \t\n"
"""The blanks that are generated here."""


class Wrong(Exception):
    """What the rules refuse, and the text that they give."""


class Reference:
    """Reads one word from left to right, a character at a time."""

    def __init__(self, text: str, env: Env, escape: str, quotes: bool) -> None:
        self.text, self.env, self.escape, self.quotes = text, env, escape, quotes
        self.at = 0
        self.unset: set[str] = set()

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self) -> str:
        char = self.peek()
        if char:
            self.at += 1
        return char

    def until(self, stop: str, raw: bool) -> Marked:
        """Everything before `stop` (empty: the end). `raw` keeps escapes (patterns, V7, V8)."""
        out: Marked = []
        while True:
            char = self.take()
            if char == stop:
                return out
            if char == "":
                raise Wrong("the caller says what is missing")
            if char == self.escape:  # V1, H8
                out.append((char + self.take() if raw else self.take(), False))
            elif char == "'" and self.quotes:
                out.append((self.single(), False))
            elif char == '"' and self.quotes:
                out.append((self.double(raw), False))
            elif char == "$":
                # Ours: all of what a `$` gave splits, also what was quoted in `${v:-"a b"}`.
                out.append((self.dollar(), True))
            else:
                out.append((char, True))

    def single(self) -> str:
        out = ""
        while (char := self.take()) != "'":
            if char == "":
                raise Wrong("unexpected end of statement while looking for matching single-quote")
            out += char
        return out

    def double(self, raw: bool) -> str:
        out = ""
        while (char := self.take()) != '"':
            if char == "":
                raise Wrong("unexpected end of statement while looking for matching double-quote")
            if char == "$":
                out += self.dollar()
            elif char == self.escape and self.peek() in list('"$' + self.escape):
                out += char + self.take() if raw else self.take()
            else:
                out += char
        return out

    def name(self) -> str:
        """The name at the position; maybe none (V2)."""
        name = ""
        if self.peek().isdecimal():
            # Ours: `$01` takes all digits as `$10` does, although `$0` is a single-character name
            while self.peek().isdecimal():
                name += self.take()
        elif self.peek() in list("@*#?-$!"):
            name = self.take()
        else:
            while named(self.peek()):
                name += self.take()
        return name

    def find(self, name: str) -> str | None:
        """The value; None if unset, as are digits and special names, whatever is in `env`."""
        is_name = name != "" and (name[0].isalpha() or name[0] == "_")
        return self.env.get(name) if is_name else None

    def plain(self, name: str) -> str:
        value = self.find(name)
        if value is None:
            self.unset.add(name)
            return ""
        return value

    def dollar(self) -> str:
        """What comes after a `$` that was taken."""
        if self.peek() != "{":
            name = self.name()
            return self.plain(name) if name else "$"
        self.take()
        if self.peek() == "":
            raise Wrong("syntax error: missing '}'")
        if self.peek() in list("{}:"):
            raise Wrong("syntax error: bad substitution")
        name = self.name()  # Ours: may be empty, `${-}`, `${+x}` and `${/a/b}` are no errors (V9)
        operator = self.take()
        if operator == ":":
            operator += self.take()
        if operator == "":
            raise Wrong("syntax error: missing '}'")
        if operator == "}":
            return self.plain(name)
        if operator == "/":
            return self.replaced(self.find(name) or "")
        if operator in ("#", "%"):
            return trimmed(self.find(name) or "", operator, self.operand("}", raw=True))
        if operator[0] not in list("-+?:") or operator in (":#", ":%"):
            raise Wrong(f"unsupported modifier ({operator}) in substitution")
        word = self.operand("}", raw=False)  # Ours: expanded even when it is then not used
        value = self.find(name)
        present = value is not None and (value != "" or operator[0] != ":")
        if operator in ("-", ":-"):
            return value or "" if present else word
        if operator in ("+", ":+"):
            return word if present else ""
        if operator in ("?", ":?"):
            if not present:
                state = "unset" if value is None else "empty"
                raise Wrong(f"{name}: {word or 'is not allowed to be ' + state}")  # V5
            return value or ""
        raise Wrong(f"unsupported modifier ({operator}) in substitution")

    def operand(self, stop: str, raw: bool, missing: str = "missing '}'") -> str:
        """The text before `stop`. Ours: whatever failed at the word's end is a missing `stop`."""
        try:
            return joined(self.until(stop, raw))
        except Wrong:
            if self.peek() == "":
                raise Wrong(f"syntax error: {missing}") from None
            raise

    def replaced(self, value: str) -> str:
        every = self.peek() == "/"
        if every:
            self.take()
        pattern = self.operand("/", raw=True, missing="missing '/' in ${}")
        replacement = self.operand("}", raw=True)
        return replaced(value, pattern, replacement, every)


def named(char: str) -> bool:
    return char.isalpha() or char.isdecimal() or char == "_"


def joined(marked: Marked) -> str:
    return "".join(text for text, _ in marked)


def tokens(pattern: str) -> list[str]:
    """`*`, `?`, or `=` and the character that is meant (V7)."""
    out, at = [], 0
    while at < len(pattern):
        if pattern[at] != "\\":
            out.append(pattern[at] if pattern[at] in "*?" else "=" + pattern[at])
        else:
            at += 1
            char = pattern[at : at + 1]
            if char not in list("*?\\}/"):
                text = f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'"
                raise Wrong(text)
            out.append("=" + char)
        at += 1
    return out


def matches(pattern: list[str], value: str) -> bool:
    """Whether all of `value` matches."""
    if not pattern:
        return value == ""
    if pattern[0] == "*":
        return matches(pattern[1:], value) or (value != "" and matches(pattern, value[1:]))
    if value == "":
        return False
    return pattern[0] in ("?", "=" + value[0]) and matches(pattern[1:], value[1:])


def trimmed(value: str, operator: str, pattern: str) -> str:
    """`${v#p}` and its kin (V6)."""
    longest = pattern.startswith(operator)  # Ours: also when it came out of a variable or quotes
    items = tokens(pattern[1:] if longest else pattern)
    sizes = range(len(value) + 1)
    for size in reversed(sizes) if longest else sizes:
        rest = len(value) - size
        if operator == "#" and matches(items, value[:size]):
            return value[size:]
        if operator == "%" and matches(items, value[rest:]):
            return value[:rest]
    return value


def replaced(value: str, pattern: str, replacement: str, every: bool) -> str:
    """`${v/p/r}` and `${v//p/r}` (V6): leftmost matches, the longest at each place."""
    items = tokens(pattern)
    out, start, before = "", 0, -1
    while start <= len(value):
        ends = [end for end in range(start, len(value) + 1) if matches(items, value[start:end])]
        # as in Go, an empty match does not count right after a match
        if ends and not (ends[-1] == start == before):
            before = ends[-1]
            out += referenced(replacement, value[start:before]) if every else replacement
            if not every:
                return out + value[before:]
            if before > start:
                start = before
                continue
        out += value[start : start + 1]
        start += 1
    return out


def referenced(text: str, match: str) -> str:
    """V8: `$0` and `${0}` are the match, `$$` a dollar, other names nothing. Else `$` stays."""
    out, at = "", 0
    while at < len(text):
        after = at + 1
        braced = text.startswith("${", at)
        name, start = "", after + braced
        while start < len(text) and named(text[start]):
            name += text[start]
            start += 1
        if text.startswith("$$", at):
            out, at = out + "$", at + 2
        elif text[at] == "$" and name and (not braced or text[start : start + 1] == "}"):
            out, at = out + (match if name == "0" else ""), start + braced
        else:
            out, at = out + text[at], after
    return out


def words_of(marked: Marked) -> list[str]:
    """V11. Ours: empty words are left out, also quoted ones."""
    words = [""]
    for text, splits in marked:
        for char in text:
            if splits and char in BLANKS:
                words.append("")
            else:
                words[-1] += char
    return [word for word in words if word]


def split(text: str, escape: str) -> list[str]:
    """W1. Ours: a closed `${…}` outside quotes is not split, unless an unclosed one came before."""
    words: list[str] = []
    word, inside, at, broken = "", False, 0, False
    while at < len(text):
        closes = 0
        if text.startswith("${", at) and not broken:
            closes = closing(text, at, escape)
            broken = not closes
        end = closes or after_unit(text, at, escape)
        unit = text[at:end]
        if unit in BLANKS:
            words += [word] if inside else []
            word, inside = "", False
        else:
            if unit[0] == '"' and end == len(text):
                unit = without_lone_escape(unit, escape)
            unit = "" if unit == escape else unit
            word += unit
            inside = inside or unit != ""
        at = end
    return words + ([word] if inside else [])


def after_unit(text: str, at: int, escape: str) -> int:
    """The end of the quoted text, the escape and its character, the name `$$` (V2), or the
    character at `at`."""
    quote = text[at]
    if quote == escape:
        return min(at + 2, len(text))
    if text.startswith("$$", at):
        return at + 2
    at += 1
    if quote not in "'\"":
        return at
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == escape and quote == '"' else 1
    return min(at + 1, len(text))


def without_lone_escape(unit: str, escape: str) -> str:
    at = 1
    while at < len(unit):
        if unit[at] == escape and at + 1 == len(unit):
            return unit[:at]
        at += 2 if unit[at] == escape else 1
    return unit


def closing(text: str, at: int, escape: str) -> int:
    """The end of the `${…}` at `at`, or 0."""
    depth = 0
    while at < len(text):
        if text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        at = after_unit(text, at, escape)
    return 0


Outcome = tuple[object, frozenset[str]] | str
"""What came out and the unset names, or the failure's message."""


def quoted(text: str) -> str:
    for char, shown in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(char, shown)
    return f'"{text}"'


def reference(
    word: str,
    env: Env,
    escape: str = "\\",
    *,
    quotes: bool = True,
    result: Callable[[Marked], object] = joined,
) -> Outcome:
    reader = Reference(word, env, escape, quotes)
    try:
        return result(reader.until("", raw=False)), frozenset(reader.unset)
    except Wrong as wrong:
        return f"failed to process {quoted(word)}: {wrong}"


def ours(word: str, env: Env, escape: str) -> Outcome:
    try:
        found = expand(word, env.get, escape)
    except ExpansionFailed as failed:
        return failed.message
    return found.text, found.unset


def our_heredoc(body: str, env: Env) -> Outcome:
    try:
        found = expand_heredoc(body, env.get)
    except ExpansionFailed as failed:
        return failed.message
    return found.text, found.unset


def our_list(word: str, env: Env, escape: str) -> Outcome:
    try:
        return expand_list(word, env.get, escape)
    except ExpansionFailed as failed:
        return failed.message


# The reference against the vectors of section 12.

HOME = {"PWD": "/home", "SHELL": "bash", "NULL": ""}
ERROR = "failed to process "


def reads(word: str, env: Env, wanted: str) -> None:
    found = reference(word, env)
    assert found == ours(word, env, "\\")
    if wanted.startswith(ERROR):
        assert isinstance(found, str)
        assert found.startswith(ERROR) and wanted.removeprefix(ERROR) in found
    else:
        assert found[0] == wanted


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("he'll'o", "hello"),
        ("he'llo", ERROR + "looking for matching single-quote"),
        (r"he\'llo", "he'llo"),
        (r"abc\tdef", "abctdef"),
        (r'"abc\tdef"', r"abc\tdef"),
        (r'"abc\\tdef"', r"abc\tdef"),
        (r"'abc\tdef'", r"abc\tdef"),
        ("hello\\", "hello"),
        ("hello\\\\", "hello\\"),
        (r'"hello\"', ERROR + "looking for matching double-quote"),
        (r"'hello\'", "hello\\"),
        ('"hel\'lo"', "hel'lo"),
        ("\"''\"", "''"),
        ("$.", "$."),
        ("he$1x", "hex"),
        ("$999aaa", "aaa"),
        ("$@@@", "@@"),
        ("he$PWD", "he/home"),
        (r"he\$PWD", "he$PWD"),
        (r"he\\$PWD", r"he\/home"),
        (r'"he\$PWD"', "he$PWD"),
        ("'$PWD'", "$PWD"),
        (r"\${}", "${}"),
        ("${}", ERROR + "bad substitution"),
        ("${.}", ERROR),
        ("he${hi}xx", "hexx"),
        ("${{aaa}", ERROR + "bad substitution"),
        ("${aaa}}", "}"),
        ("${aaa", ERROR + "missing '}'"),
        ("he${PWD", ERROR + "missing '}'"),
        ("he${XXX:-000}xx", "he000xx"),
        ("he${PWD:-000}xx", "he/homexx"),
        ("he${XXX:-$PWD}xx", "he/homexx"),
        ("he${XXX:-${YYY:-yyy}}xx", "heyyyxx"),
        (r"he${XXX:-\$PWD:}xx", "he$PWD:xx"),
        ("he${PWD:+${SHELL}}xx", "hebashxx"),
        ("he${XXX:+000}xx", "hexx"),
        ("${1:-bbb}", "bbb"),
        ("${NULL-x}", ""),
        ("${NULL:-x}", "x"),
        ("${NULL+x}", "x"),
        ("${NULL:+x}", ""),
        ("he${NULL?}", "he"),
        ("he${NULL:?}", ERROR + "NULL: is not allowed to be empty"),
        ("he${XXX?}", ERROR + "XXX: is not allowed to be unset"),
        ("${XXX:?need it}", ERROR + "XXX: need it"),
        ("${PWD:=x}", ERROR + "unsupported modifier (:=)"),
        ("${PWD=x}", ERROR + "unsupported modifier (=)"),
        ("${PWD:#x}", ERROR + "unsupported modifier (:#)"),
        ("he${XXX:YYY}", ERROR),
        ("${aaa:-bbb {foo}", "bbb {foo"),
        ("${aaa:-bbb ${foo}", ERROR + "missing '}'"),
    ],
)
def test_V1_V2_V3_V4_V5_V9_both_pass_vectors_12_1_and_12_2(word: str, wanted: str) -> None:
    reads(word, HOME, wanted)


@pytest.mark.parametrize(
    ("env", "word", "wanted"),
    [
        ({"S": "foobarbaz"}, "${S#f*b}", "arbaz"),
        ({"S": "foobarbaz"}, "${S##f*b}", "az"),
        ({"S": "foobarbaz"}, "${S%b*}", "foobar"),
        ({"S": "foobarbaz"}, "${S%%b*}", "foo"),
        ({"S": "foobarbaz"}, "${S/ba/fo}", "fooforbaz"),
        ({"S": "foobarbaz"}, "${S//ba/fo}", "fooforfoz"),
        ({"S": "xxyy"}, "${S#*x*y}", "y"),
        ({"S": "xxyy"}, "${S##*x}", "yy"),
        ({"S": "xxyy"}, "${S#}", "xxyy"),
        ({"S": "xxyy"}, "${S%x}", "xxyy"),
        ({"S": "???y"}, r"${S#?\?}", "?y"),
        ({"S": "a***yy*"}, r"${S%%\**\*}", "a"),
        ({"S": "xx**"}, r"${S%%\**}", "xx"),
        ({"S": "/tmp/tmp/b", "N": "/tmp"}, "${S/$N/}", "/tmp/b"),
        ({"S": "/tmp/tmp/b", "N": "/tmp"}, "${S//$N/}", "/b"),
        ({"S": "/a/foo/b/c", "N": "/?/", "R": "/"}, "${S//$N/$R}", "/foo/c"),
        ({"S": "http://g.de", "N": "http://", "R": "https://"}, "${S/$N/$R}", "https://g.de"),
        ({"S": "xxyy"}, "${S//ww}", ERROR + "syntax error: missing '/' in ${}"),
        ({"S": "xxyy"}, "${S///}", "xxyy"),
        ({"V": "1.2.3", "T": "arm", "TV": "v7"}, "x-$V.$T${TV:+-$TV}.tgz", "x-1.2.3.arm-v7.tgz"),
        ({"F": "/a/b"}, r"${F//\//\/}", r"\/a\/b"),  # V8
        ({"F": "aab"}, "${F//a/'<$0${0}$$$x>'}", "<aa$><aa$>b"),  # V8
        ({"F": "aab"}, "${F/a/'$0'}", "$0ab"),  # V8
        ({"F": "aab"}, r"${F#\a}", ERROR + r"invalid pattern (\a) in substitution: invalid esc"),
    ],
)
def test_V6_V7_V8_both_pass_vectors_12_3(env: Env, word: str, wanted: str) -> None:
    reads(word, env, wanted)


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("hello${space}bye", ["helloabc", "defbye"]),
        ('hello"${space}"bye', ["helloabc  defbye"]),
        ("hello there", ["hello", "there"]),
        (r"hello\ there", ["hello there"]),
        ('hello" there  "', ["hello there  "]),
        (r"hello\" there", ['hello"', "there"]),
    ],
)
def test_V11_both_pass_vectors_12_4(word: str, wanted: list[str]) -> None:
    env = {"space": "abc  def"}
    assert reference(word, env, result=words_of) == (wanted, frozenset())
    assert our_list(word, env, "\\") == (wanted, frozenset())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        (r"a\ b 'c d' \"e f", [r"a\ b", "'c d'", r"\"e", "f"]),
        ("'' \"\" x", ["''", '""', "x"]),
        (r"'a\' b", [r"'a\'", "b"]),
        (r'"a\" b" c', [r'"a\" b"', "c"]),
        ("a \\", ["a"]),
        ('a "b\\', ["a", '"b']),
    ],
)
def test_W1_both_split_by_the_rule(text: str, wanted: list[str]) -> None:
    assert split(text, "\\") == wanted
    assert split_words(text, "\\") == wanted


@pytest.mark.parametrize(
    ("body", "wanted"),
    [(r"\$V", "$V"), (r"\\", "\\"), (r"\n", "n"), ("\\\n", "\n"), ("'$V' \"${V}\"", "'1' \"1\"")],
)
def test_H8_both_read_heredocs_by_the_rule(body: str, wanted: str) -> None:
    assert reference(body, {"V": "1"}, quotes=False) == (wanted, frozenset())
    assert our_heredoc(body, {"V": "1"}) == (wanted, frozenset())


# Ours against the reference.

ENV = {
    "a": "x y",
    "b": "",
    "S": "a/b*\\}a",
    "P": "a*",
    "R": "$0-$$",
    "D": "#?",
    "é": "E",
    "1": "never",
    "@": "never",
    "0": "never",
    "": "never",
}
ESCAPES = st.sampled_from("\\`")
NAMES = st.sampled_from("a a b b S S S u u R D a_1 é 1 12 @ # 0".split())
OPERATORS = st.sampled_from([*":- - :+ + :? ? # ## % %% # ## % %% := :# = ^".split(), "", ":"])
CHARS = "'\"\\`${}:-+?#%/*@!.=_ \n\tabSPé01"
LONGER = r"""${ // :- \} \* \? `$ $a $u ${b ${S/ ${S//a ${S% ${u:- '' "" '$0' $R $$"""
SOUP = st.lists(st.sampled_from([*CHARS, *LONGER.split()]), max_size=14).map("".join)
WHOLE = r"""a b / * ? : { } é a* *b a/ # % $a $u $R $P $$ $1 ${a} \$ \" \' \\ \} \/ \* \? \a
    `$ `" `` `} `* '$a' '*' '\' '"' "'" "\$a" "\"" "\\" "\*" "`$a" "`a" "$a" '$0' '$$' '${0}'"""
LEAVES = st.lists(st.sampled_from([*WHOLE.split(), " ", "\n"]), max_size=3).map("".join)


def nested(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Longer words around `words`: substitutions, quotes and words side by side."""
    braces = st.builds("${{{}{}{}}}".format, NAMES, OPERATORS, words)
    slashes = st.builds("${{{}{}{}/{}}}".format, NAMES, st.sampled_from(["/", "//"]), words, words)
    quotes = words.map('"{}"'.format) | words.map("'{}'".format)
    return braces | braces | slashes | quotes | st.lists(words, max_size=3).map("".join)


WORDS = st.recursive(nested(LEAVES), nested, max_leaves=4) | SOUP
BETWEEN = st.sampled_from([" ", " ", "\n", "\\ ", "` "])
LINES = st.builds(lambda words, blank: blank.join(words), st.lists(WORDS, max_size=3), BETWEEN)
ENDS = ["", "", "\\", "`", '"a\\', '"`', '"\\\\']
MANY = settings(max_examples=800, suppress_health_check=list(HealthCheck))


@MANY
@given(WORDS, ESCAPES)
@example("${a:-${u:?m}", "\\")
@example('"$', "\\")
def test_V1_V9_expand_agrees_with_the_reference(word: str, escape: str) -> None:
    assert ours(word, ENV, escape) == reference(word, ENV, escape)


@MANY
@given(WORDS)
def test_H8_expand_heredoc_agrees_with_the_reference(body: str) -> None:
    assert our_heredoc(body, ENV) == reference(body, ENV, quotes=False)


@MANY
@given(LINES, ESCAPES)
def test_V11_expand_list_agrees_with_the_reference(word: str, escape: str) -> None:
    assert our_list(word, ENV, escape) == reference(word, ENV, escape, result=words_of)


@MANY
@given(LINES, st.sampled_from(ENDS), ESCAPES)
def test_W1_split_words_agrees_with_the_reference(start: str, end: str, escape: str) -> None:
    text = start + end
    assert split_words(text, escape) == split(text, escape)


def test_W1_V2_a_brace_after_two_dollars_opens_nothing() -> None:
    assert split_words("$${a b}", "\\") == ["$${a", "b}"]


def test_V2_V8_a_reference_is_a_name() -> None:
    word, env = "${V//a/'$²'}", {"V": "a"}
    assert ours(word, env, "\\") == reference(word, env)


VALUES = st.text("ab/*\\", max_size=8)
REPLACEMENTS = st.lists(st.sampled_from(["$0", "${0}", "$$", *"$0{}a_é\\"]), max_size=5)
PATTERNS = st.lists(st.sampled_from(["a", "b", "/", "*", "?", "\\*", "\\\\", "\\/"]), max_size=5)


@MANY
@given(VALUES, PATTERNS.map("".join), st.sampled_from(["#", "##", "%", "%%"]))
def test_V6_V7_trimming_agrees_with_the_reference(value: str, pattern: str, operator: str) -> None:
    env = {"V": value, "P": pattern}
    word = f"${{V{operator}$P}}"
    assert ours(word, env, "\\") == reference(word, env)


@MANY
@given(
    VALUES,
    PATTERNS.map("".join),
    REPLACEMENTS.map("".join),
    st.sampled_from(["/", "//"]),
)
def test_V6_V8_replacing_agrees_with_the_reference(
    value: str, pattern: str, replacement: str, operator: str
) -> None:
    env = {"V": value, "P": pattern, "R": replacement}
    word = f"${{V{operator}$P/$R}}"
    assert ours(word, env, "\\") == reference(word, env)
