"""Word splitting and expansion (rules W1, V1 to V11, H8; vectors of section 12)."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assembler.dockerfile.words import (
    expand,
    expand_heredoc,
    expand_list,
    quoted,
    split_words,
)
from assembler.errors import ExpansionFailed
from tests.bounds import cpu_seconds

HOME = {"PWD": "/home", "SHELL": "bash", "NULL": ""}


def text(word: str, **variables: str) -> str:
    return expand(word, (variables or HOME).get).text


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("he'll'o", "hello"),
        (r"he\'llo", "he'llo"),
        (r"abc\tdef", "abctdef"),
        (r'"abc\tdef"', r"abc\tdef"),
        (r'"abc\\tdef"', r"abc\tdef"),
        (r"'abc\tdef'", r"abc\tdef"),
        ("hello\\", "hello"),
        ("hello\\\\", "hello\\"),
        (r"'hello\'", "hello\\"),
        ('"hel\'lo"', "hel'lo"),
        ("\"''\"", "''"),
        ("", ""),
    ],
)
def test_V1_quotes_and_escapes(word: str, wanted: str) -> None:
    assert text(word) == wanted


@pytest.mark.parametrize(("word", "quote"), [("he'llo", "single"), (r'"hello\"', "double")])
def test_V1_unbalanced_quotes(word: str, quote: str) -> None:
    with pytest.raises(ExpansionFailed) as caught:
        text(word)
    wanted = f"unexpected end of statement while looking for matching {quote}-quote"
    assert caught.value.message == f"failed to process {quoted(word)}: {wanted}"


def test_V1_backtick_escapes_when_the_directive_says_so() -> None:
    assert expand("a`$b c:\\d", {}.get, "`").text == "a$b c:\\d"


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("$.", "$."),
        ("$", "$"),
        ("he$1x", "hex"),
        ("$999aaa", "aaa"),
        ("$@@@", "@@"),
        ("he$PWD", "he/home"),
        (r"he\$PWD", "he$PWD"),
        (r"he\\$PWD", "he\\/home"),
        (r'"he\$PWD"', "he$PWD"),
        ("'$PWD'", "$PWD"),
        (r"\${}", "${}"),
        ("he${hi}xx", "hexx"),
        ("${aaa}}", "}"),
        ("$größe", "XL"),
    ],
)
def test_V2_names(word: str, wanted: str) -> None:
    assert text(word, **HOME, größe="XL") == wanted


@pytest.mark.parametrize("word", ["${}", "${.}", "${{aaa}", "${aaa", "he${PWD", "${:x}", "${"])
def test_V9_bad_substitutions(word: str) -> None:
    with pytest.raises(ExpansionFailed):
        text(word)


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
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
        ("${aaa:-bbb {foo}", "bbb {foo"),
        (r"${aaa:-a\}b}", "a}b"),
        ("${aaa:-'a}b'}", "a}b"),
        ('"${aaa:-"x y"}"', "x y"),
    ],
)
def test_V4_modifiers(word: str, wanted: str) -> None:
    assert text(word) == wanted


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("he${NULL:?}", "NULL: is not allowed to be empty"),
        ("he${XXX?}", "XXX: is not allowed to be unset"),
        ("${XXX:?need it}", "XXX: need it"),
        ("${V:?need V}", "V: need V"),
        ("${XXX:?$SHELL}", "XXX: bash"),
        ("${PWD:=x}", "unsupported modifier (:=) in substitution"),
        ("${PWD=x}", "unsupported modifier (=) in substitution"),
        ("${PWD:#x}", "unsupported modifier (:#) in substitution"),
        ("${PWD:0:2}", "unsupported modifier (:0) in substitution"),
        ("${PWD^}", "unsupported modifier (^) in substitution"),
        ("he${XXX:YYY}", "unsupported modifier (:Y) in substitution"),
        ("${}", "syntax error: bad substitution"),
        ("${aaa:-bbb ${foo}", "syntax error: missing '}'"),
        ("${aaa", "syntax error: missing '}'"),
    ],
)
def test_V5_V9_failure_texts(word: str, wanted: str) -> None:
    with pytest.raises(ExpansionFailed) as caught:
        text(word)
    assert caught.value.message == f'failed to process "{word}": {wanted}'
    assert caught.value.span is None


@pytest.mark.parametrize(
    ("value", "word", "wanted"),
    [
        ("foobarbaz", "${S#f*b}", "arbaz"),
        ("foobarbaz", "${S##f*b}", "az"),
        ("foobarbaz", "${S%b*}", "foobar"),
        ("foobarbaz", "${S%%b*}", "foo"),
        ("foobarbaz", "${S/ba/fo}", "fooforbaz"),
        ("foobarbaz", "${S//ba/fo}", "fooforfoz"),
        ("xxyy", "${S#*x*y}", "y"),
        ("xxyy", "${S##*x}", "yy"),
        ("xxyy", "${S#}", "xxyy"),
        ("xxyy", "${S%x}", "xxyy"),
        ("???y", r"${S#?\?}", "?y"),
        ("a***yy*", r"${S%%\**\*}", "a"),
        ("xx**", r"${S%%\**}", "xx"),
        ("xxyy", "${S///}", "xxyy"),
        ("xy", "${S///-}", "-x-y-"),
        ("abc", "${S//*/x}", "x"),
        ("a}b", r"${S/\}/!}", "a!b"),
        ("axbxc", "${S/x*/}", "a"),
        ("aXbXc", "${S//?X/_}", "__c"),
    ],
)
def test_V6_trim_and_replace(value: str, word: str, wanted: str) -> None:
    assert text(word, S=value) == wanted


def test_V6_patterns_are_expanded_too() -> None:
    assert text("${S/$N/}", S="/tmp/tmp/b", N="/tmp") == "/tmp/b"
    assert text("${S//$N/}", S="/tmp/tmp/b", N="/tmp") == "/b"
    assert text("${S//$N/$R}", S="/a/foo/b/c", N="/?/", R="/") == "/foo/c"
    assert text("${S/$N/$R}", S="http://g.de", N="http://", R="https://") == "https://g.de"
    word = "x-$V.$T${TV:+-$TV}.tgz"
    assert text(word, V="1.2.3", T="arm", TV="v7") == "x-1.2.3.arm-v7.tgz"


def test_V6_the_second_slash_is_required() -> None:
    with pytest.raises(ExpansionFailed, match=r"syntax error: missing '/' in \$\{\}"):
        text("${S//ww}", S="xxyy")


def test_V7_other_escapes_are_refused() -> None:
    with pytest.raises(ExpansionFailed) as caught:
        text(r"${S#a\b}", S="x")
    assert caught.value.message.endswith(
        r": invalid pattern (a\b) in substitution: invalid escape '\b'"
    )


def test_V8_backslashes_stay_in_replacements() -> None:
    assert text(r"${F//\//\/}", F="/a/b") == r"\/a\/b"


def test_V8_double_slash_reads_references() -> None:
    assert text("${S//b?/[$R]}", S="abcbd", R="$0") == "a[bc][bd]"
    assert text("${S//b/$R}", S="abc", R="$1x$$") == "a$c"
    assert text("${S/b/$R}", S="abc", R="$1x$$") == "a$1x$$c"


def test_V3_unset_names_are_reported_when_used_plainly() -> None:
    found = expand("$A ${B} ${C:-x} ${D+y} '$E' $PWD $1", HOME.get)
    assert found.unset == {"A", "B", "1"}


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("hello${space}bye", ["helloabc", "defbye"]),
        ('hello"${space}"bye', ["helloabc  defbye"]),
        ("hello there", ["hello", "there"]),
        (r"hello\ there", ["hello there"]),
        ('hello" there  "', ["hello there  "]),
        (r"hello\" there", ['hello"', "there"]),
        ("$unset", []),
        ('""', []),
        ("80${space}81", ["80abc", "def81"]),
    ],
)
def test_V11_lists(word: str, wanted: list[str]) -> None:
    assert expand_list(word, {"space": "abc  def"}.get)[0] == wanted


def test_V11_unset_names_of_lists() -> None:
    assert expand_list("$A 80", {}.get) == (["80"], {"A"})


def test_H8_bodies_keep_quotes_and_lose_backslashes() -> None:
    body = "\"$V\" '${V}' \\$V \\\\ \\n end\\\nnext\n"
    assert expand_heredoc(body, {"V": "x"}.get).text == "\"x\" 'x' $V \\ n end\nnext\n"


def test_H8_unset_names_of_bodies() -> None:
    assert expand_heredoc("it's $A\n", {}.get).unset == {"A"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a=1 b=2", ["a=1", "b=2"]),
        ("a='x y' b", ["a='x y'", "b"]),
        (r"a=x\ y b", [r"a=x\ y", "b"]),
        (r'a="x\" y" b', [r'a="x\" y"', "b"]),
        ("'' \"\"", ["''", '""']),
        (r"'a\' b", [r"'a\'", "b"]),
        ("a\\", ["a"]),
        ('a="x y', ['a="x y']),
        ('a="x\\', ['a="x']),
        ("\t a  ", ["a"]),
        ("", []),
        ("V=${V:?need V} b", ["V=${V:?need V}", "b"]),
        ("a=${b:-${c} '}' d} e", ["a=${b:-${c} '}' d}", "e"]),
        ("a=${b c=${d e}", ["a=${b", "c=${d", "e}"]),
        (r"a=\${b c", [r"a=\${b", "c"]),
    ],
)
def test_W1_words(line: str, wanted: list[str]) -> None:
    assert split_words(line, "\\") == wanted


def test_W1_the_escape_is_the_directives() -> None:
    assert split_words("a=c:\\ b=x` y", "`") == ["a=c:\\", "b=x` y"]


def test_expansion_bombs_end() -> None:
    value = "x" * 60_000
    with pytest.raises(ExpansionFailed, match="characters longer"):
        text("${A//x/$A}", A=value)
    with pytest.raises(ExpansionFailed, match="characters longer"):
        text("$A" * 1000, A=value)


def test_deep_nesting_ends() -> None:
    with pytest.raises(ExpansionFailed, match="nested"):
        text("${a:-" * 5000 + "}" * 5000)


def test_patterns_do_not_backtrack() -> None:
    with cpu_seconds(5):
        assert text("${S##" + "*a" * 30 + "b}", S="a" * 20_000) == "a" * 20_000
        assert text("${S//" + "a*" * 30 + "b/x}", S="a" * 20_000) == "a" * 20_000


def test_quoted_escapes_like_go() -> None:
    assert quoted('a"b\\\n\x01é\ud800') == '"a\\"b\\\\\\n\\x01é\\ud800"'


WORDS = st.text(alphabet="$${}:-+?#%/*\\'\"`ab1 \t" + "é", max_size=40)


@given(WORDS, st.sampled_from("\\`"))
@example("${a/'", "\\")
def test_expansion_fails_only_as_it_says(word: str, escape: str) -> None:
    for expansion in (
        lambda: expand(word, {"a": "ab/b"}.get, escape),
        lambda: expand_list(word, {"a": "a b"}.get, escape),
        lambda: expand_heredoc(word, {"a": "x"}.get),
    ):
        try:
            expansion()
        except ExpansionFailed as failed:
            assert failed.message.startswith("failed to process ")


@given(st.text(string.ascii_letters + "/.-_:= "))
def test_plain_words_are_themselves(word: str) -> None:
    assert expand(word, {}.get).text == word


def _naive_ends(pattern: list[str], value: str) -> set[int]:
    """Every end of a prefix of `value` that matches, one element at a time."""
    ends = {0}
    for item in pattern:
        if item == "*":
            ends = {later for end in ends for later in range(end, len(value) + 1)}
        else:
            ends = {e + 1 for e in ends if e < len(value) and item in ("?", value[e])}
    return ends


@given(st.lists(st.sampled_from("ab?*"), max_size=6), st.text("abc", max_size=8))
def test_V6_prefixes_agree_with_a_naive_matcher(pattern: list[str], value: str) -> None:
    ends = _naive_ends(pattern, value) or {0}
    word = "".join(pattern)
    assert text("${S#$P}", S=value, P=word) == value[min(ends) :]
    assert text("${S##$P}", S=value, P=word) == value[max(ends) :]
    backwards = value[::-1]
    ends = _naive_ends(pattern[::-1], backwards) or {0}
    assert text("${S%$P}", S=value, P=word) == value[: len(value) - min(ends)]
    assert text("${S%%$P}", S=value, P=word) == value[: len(value) - max(ends)]


@given(st.lists(st.sampled_from("ab?*"), max_size=5), st.text("abc", max_size=8))
def test_V6_replacement_is_leftmost_and_longest(pattern: list[str], value: str) -> None:
    wanted = value
    for start in range(len(value) + 1):
        if ends := _naive_ends(pattern, value[start:]):
            wanted = value[:start] + "-" + value[start + max(ends) :]
            break
    assert text("${S/$P/-}", S=value, P="".join(pattern)) == wanted
