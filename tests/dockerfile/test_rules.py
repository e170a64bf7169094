"""An example for every rule about text: files, directives, lines, instructions, here-documents
(dockerfile-language 1.1 to 1.5, and what A and K say about syntax)."""

from __future__ import annotations

from typing import TypeVar

import pytest

from assembler.dockerfile.instructions import (
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    HealthCheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from assembler.dockerfile.parser import parse, parse_trigger
from assembler.errors import BadFlag, DockerfileError, SyntaxProblem, UnknownInstruction
from assembler.source import Source, Span, excerpt

One = TypeVar("One", bound=Instruction)
BIG = 65535


def tree(text: str) -> Dockerfile:
    return parse(Source("Dockerfile", text))


def body(text: str) -> tuple[Instruction, ...]:
    """The instructions of `text` after `FROM a`."""
    return tree(f"FROM a\n{text}").stages[0].instructions


def only(kind: type[One], text: str) -> One:
    """The one instruction of `text`."""
    [found] = body(text)
    assert isinstance(found, kind)
    return found


def shell(text: str) -> list[str]:
    """The texts of the RUNs of `text`."""
    return [one.command.text for one in body(text) if isinstance(one, Run)]


def failure(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        tree(text)
    return caught.value


def refused(text: str) -> str:
    """What is said about `text` after `FROM a`."""
    return failure(f"FROM a\n{text}").message


# 1.1 the file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the Dockerfile cannot be empty"),
        ("\n", "file with no instructions"),
        ("# only\n\n  # this\n", "file with no instructions"),
        ("ARG A=1\nARG B\n", "dockerfile contains no stages to build"),
    ],
)
def test_P4_a_file_needs_a_stage(text: str, message: str) -> None:
    assert failure(text).message == message


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_P4_utf_16_is_named(encoding: str) -> None:
    written = "\ufeffFROM a\n".encode(encoding)
    error = failure(written.decode("utf-8", "surrogateescape"))
    assert error.message == "the Dockerfile is UTF-16 text, where UTF-8 is needed"


def test_P5_a_byte_order_mark_is_dropped() -> None:
    assert tree("\ufeffFROM a\n").stages[0].base.image == "a"
    assert tree("\ufeff# escape=`\nFROM a\n").escape == "`"
    assert failure("\ufeff").message == "file with no instructions"
    assert isinstance(failure("FROM a\n\ufeffRUN x\n"), UnknownInstruction)


def test_P5_lines_may_end_in_cr_lf() -> None:
    assert shell("RUN a \\\r\n  b\r\nRUN c\r\n") == ["a   b", "c"]
    assert tree("# escape=`\r\nFROM a\r\n").escape == "`"


def test_P5_bodies_keep_their_line_ends() -> None:
    [heredoc] = only(Run, "RUN <<EOF\r\na\r\nb\nEOF\r\n").command.heredocs
    assert heredoc.body == "a\r\nb\n"


def test_P6_a_line_has_at_most_65535_bytes() -> None:
    assert shell("RUN " + "x" * (BIG - 4)) == ["x" * (BIG - 4)]
    message = "dockerfile line greater than max allowed size of 65535"
    assert refused("RUN " + "x" * (BIG - 3)) == message
    assert refused("RUN " + "é" * (BIG // 2)) == message
    latin1 = (b"RUN " + b"\xe9" * (BIG - 4)).decode("utf-8", "surrogateescape")  # a byte each
    assert shell(latin1) == [latin1[4:]]
    assert refused(f"{latin1}x") == message
    assert shell("RUN " + "x" * 40000 + "\\\n" + "x" * 40000) == ["x" * 80000]


def test_P7_after_a_shebang_come_syntax_and_check_but_not_escape() -> None:
    made = tree("#!/usr/bin/env build\n# syntax=docker/dockerfile:1\n# check=error=true\nFROM a\n")
    assert (made.syntax, made.check) == ("docker/dockerfile:1", "error=true")
    assert tree("#!/usr/bin/env build\n# escape=`\nFROM a\n").escape == "\\"


def test_P7_after_a_shebang_a_wrong_escape_is_a_comment() -> None:
    assert tree("#!/usr/bin/env build\n# escape=x\nFROM a\n").escape == "\\"


def test_P7_after_a_shebang_escape_ends_nothing_and_may_come_twice() -> None:
    made = tree(
        "#!/x\n# escape=`\n# check=skip=all\n# escape=`\n# syntax=docker/dockerfile\nFROM a"
    )
    assert (made.escape, made.check, made.syntax) == ("\\", "skip=all", "docker/dockerfile")


# 1.2 directives


@pytest.mark.parametrize(
    "line", ["# check=skip=all", "#check=skip=all", "#\tCheck =  skip=all  ", "  # CHECK= skip=all"]
)
def test_D1_blanks_and_the_keys_case_are_free(line: str) -> None:
    assert tree(f"{line}\nFROM a\n").check == "skip=all"


def test_D1_the_value_keeps_its_case_and_must_not_be_empty() -> None:
    assert tree("# syntax=Docker/Dockerfile:X\nFROM a\n").syntax == "Docker/Dockerfile:X"
    assert tree("# syntax=\n# escape=`\nFROM a\n").escape == "\\"


def test_D1_keys_are_letters_and_digits() -> None:
    assert tree("# esc-ape=`\nFROM a\n").escape == "\\"
    assert tree("# 1escape=`\nFROM a\n").escape == "\\"


@pytest.mark.parametrize("above", ["", "# hello", "# unknown=1", "ARG A", "FROM z"])
def test_D2_anything_else_ends_the_directives(above: str) -> None:
    made = tree(f"{above}\n# escape=`\n# syntax=a\n# check=nonsense\nFROM a\n")
    assert (made.escape, made.syntax, made.check) == ("\\", "", "")


def test_D2_all_three_may_stand_at_the_top() -> None:
    made = tree("# check=skip=all\n# escape=`\n# syntax=docker/dockerfile\nFROM a\n")
    assert (made.escape, made.syntax, made.check) == ("`", "docker/dockerfile", "skip=all")


@pytest.mark.parametrize(
    ("key", "value"), [("escape", "`"), ("syntax", "docker/dockerfile"), ("check", "skip=all")]
)
def test_D3_a_key_comes_once(key: str, value: str) -> None:
    message = f"only one {key} parser directive can be used"
    assert failure(f"# {key}={value}\n# {key.upper()}={value}\nFROM a\n").message == message


def test_D4_a_directive_is_not_continued() -> None:
    assert tree("# syntax=docker/dockerfile \\\nFROM a\n").syntax == "docker/dockerfile \\"
    assert tree("# syn\\\n# tax=x\nFROM a\n").syntax == ""


@pytest.mark.parametrize("value", ["x", "``", "\\\\", "` x"])
def test_D5_escape_is_a_backslash_or_a_backtick(value: str) -> None:
    message = f"invalid escape token '{value}' does not match ` or \\"
    assert failure(f"# escape={value}\nFROM a\n").message == message
    assert tree("# escape=\\\nFROM a\n").escape == "\\"


def test_D5_escape_continues_and_quotes() -> None:
    text = "# escape=`\nFROM a\nCOPY a c:\\\nRUN x `\n y\nENV K=a` b\n"
    copy, run, env = tree(text).stages[0].instructions
    assert isinstance(copy, Copy) and copy.destination == "c:\\"
    assert isinstance(run, Run) and run.command.text == "x  y"
    assert isinstance(env, Env) and [pair.value for pair in env.pairs] == ["a` b"]


@pytest.mark.parametrize(
    "reference",
    [
        "docker/dockerfile",
        "docker/dockerfile:1.7-labs",
        "docker.io/docker/dockerfile:1 more words",
        "docker/dockerfile-upstream:master",
        "docker/dockerfile@sha256:" + "0" * 64,
    ],
)
def test_D6_the_dockerfile_frontend_is_accepted(reference: str) -> None:
    made = tree(f"# syntax={reference}\nFROM a\n")
    assert made.syntax == reference and made.warnings == ()


def test_D6_other_frontends_are_warned_about_by_their_first_word() -> None:
    [warning] = tree("# syntax=acme/other:1 more\nFROM a\n").warnings
    assert "acme/other:1" in warning.message and "more" not in warning.message
    assert warning.span.start == 1


@pytest.mark.parametrize(
    "text",
    [
        "// syntax=acme/other:1\nimport x",
        "#!/x\n//syntax = acme/other:1\n",
        "// SYNTAX=acme/other:1",
        '{"syntax": "acme/other:1"}',
        '\ufeff{"syntax": "acme/other:1 more"}',
    ],
)
def test_D6_files_that_are_no_dockerfiles_may_name_theirs_too(text: str) -> None:
    assert "acme/other:1" in failure(text).message


@pytest.mark.parametrize(
    "value",
    ["skip=A,B", "skip=all", "error=true", "error=false", "experimental=A", "experimental=all"],
)
def test_D7_check_takes_options(value: str) -> None:
    assert tree(f"# check={value}\nFROM a\n").check == value
    assert tree(f"# check={value} ; error=true\nFROM a\n").check == f"{value} ; error=true"


@pytest.mark.parametrize("value", ["foo", "foo=1", "skip=A;foo", "foo;skip=A"])
def test_D7_a_bad_option_is_named(value: str) -> None:
    assert failure(f"# check={value}\nFROM a\n").message == 'invalid check option "foo"'


# 1.3 comments and continuations


def test_L1_comment_lines_go_wherever_they_are() -> None:
    assert shell("RUN a \\\n  # note\n b\n   # more\nRUN c") == ["a  b", "c"]
    assert shell("RUN echo # not a comment") == ["echo # not a comment"]
    assert shell("RUN a \\\nb # not one") == ["a b # not one"]


def test_L2_blanks_stay_only_before_continuation_lines() -> None:
    assert shell(" \t RUN x  \t") == ["x"]
    assert shell('RUN echo "\\\n     x"') == ['echo "     x"']
    assert shell("RUN a\\\n\tb  \\\n  ") == ["a\tb"]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("RUN a\\\nb", ["ab"]),
        ("RUN a \\ \t \nb", ["a b"]),
        ("RUN a\\\\\nRUN b", ["a\\\\", "b"]),
        ("RUN a\\\n\\\nb", ["ab"]),
        ("RUN a\\\n  \\\nb", ["a  b"]),
        ("RUN \\\na", ["a"]),
        ("\\\nRUN a", ["a"]),
        ("RUN a\\b", ["a\\b"]),
    ],
)
def test_L3_a_lone_escape_at_the_end_continues(text: str, runs: list[str]) -> None:
    assert shell(text) == runs


def test_L4_blank_lines_inside_an_instruction_are_skipped_with_a_warning() -> None:
    made = tree("FROM a\nRUN a \\\n\n \t\nb\nRUN c\n")
    assert [one.text for one in made.stages[0].instructions] == ["RUN a b", "RUN c"]
    [warning] = made.warnings
    assert (warning.rule, warning.message) == ("NoEmptyContinuation", "Empty continuation line")
    assert (warning.span.start, warning.span.end) == (5, 5), "the line that ends it, as BuildKit"


def test_L4_comments_inside_an_instruction_are_skipped_silently() -> None:
    made = tree("FROM a\nRUN a \\\n# note \\\nb\n# last \\\nRUN c\n")
    assert [one.text for one in made.stages[0].instructions] == ["RUN a b", "RUN c"]
    assert made.warnings == ()


@pytest.mark.parametrize("end", ["\\", "\\\n", "\\\n\n", "\\\n# note\n"])
def test_L5_the_end_of_the_file_ends_a_continuation(end: str) -> None:
    assert shell(f"RUN x {end}") == ["x"]
    assert tree("FROM a\n# c").stages[0].instructions == ()


def test_L6_comments_above_an_instruction_are_its_own() -> None:
    made = tree("# old\n#\n#one\n\n  # two\nARG A\n# three\nFROM a\n#  x  \n#\nRUN y\nRUN z\n")
    assert made.arguments[0].comment == ("one", "two")
    assert made.stages[0].base.comment == ("three",)
    assert [one.comment for one in made.stages[0].instructions] == [(), ()]


def test_L7_every_instruction_knows_its_lines() -> None:
    made = tree("ARG A\n\nFROM a\nRUN x \\\n # c\n y\nCOPY <<E /f\n1\n2\nE\nCMD z\n")
    stage = made.stages[0]
    spans = [one.span for one in (*made.arguments, stage.base, *stage.instructions)]
    assert [(one.start, one.end) for one in spans] == [(1, 1), (3, 3), (4, 6), (7, 10), (11, 11)]


def test_L7_errors_show_the_range() -> None:
    span = failure("FROM a\nRUN --x=1 \\\n y\nRUN z\n").span
    assert span is not None and (span.start, span.end) == (2, 3)
    shown = excerpt(span)
    assert "2 | >>> RUN --x=1 \\" in shown and "3 | >>>  y" in shown and "4 |     RUN z" in shown


# 1.4 splitting


@pytest.mark.parametrize("blank", [" ", "\t", "\v", "\f", "\r", " \t\r "])
def test_I1_the_first_word_names_the_instruction(blank: str) -> None:
    assert shell(f"RUN{blank}echo  a") == ["echo  a"]


@pytest.mark.parametrize("name", ["run", "Run", "RUN", "rUN"])
def test_I1_in_any_case(name: str) -> None:
    assert shell(f"{name} x") == ["x"]


@pytest.mark.parametrize("name", ["\u017fHELL", "\u212aOPY", "\uff32UN", "RUN\xa0x"])
def test_I1_names_are_ascii(name: str) -> None:
    assert isinstance(failure(f'FROM a\n{name} ["x"]'), UnknownInstruction)


@pytest.mark.parametrize(
    "text",
    ["RUN a\0b", "ENV A=\0", "COPY a\0 /b", "FROM a\0", "\0", 'RUN ["\\u0000"]', "RUN <<E\n\0\nE"],
)
def test_I1_no_instruction_holds_a_nul(text: str) -> None:
    error = failure(f"FROM a\n{text}\n")
    assert isinstance(error, SyntaxProblem)
    assert error.message == "an instruction cannot hold a NUL byte"
    assert error.span is not None and error.span.start == 2


def test_I1_comments_and_copied_bodies_hold_any_byte() -> None:
    assert shell("# \0\nRUN x") == ["x"]
    assert documents("COPY <<E /f\n\0\udcff\nE") == [("E", "\0\udcff\n")]


def test_I2_flags_stand_before_the_first_other_word() -> None:
    run = only(Run, "RUN --network=none\t--mount=type=tmpfs,target=/t x --network=host")
    assert (run.network, run.mounts) == ("none", ("type=tmpfs,target=/t",))
    assert run.command.text == "x --network=host"


@pytest.mark.parametrize(("flag", "text"), [("network", "mode"), ("security", "is not valid")])
def test_I3_N1_N2_an_empty_mode_is_none(flag: str, text: str) -> None:
    assert text in refused(f"RUN --{flag}= x") and '""' in refused(f"RUN --{flag}= x")


def test_S1_a_comment_behind_from_is_named() -> None:
    error = failure("FROM a # base")
    assert error.hint == "a comment needs a line of its own"


def test_I2_a_bare_double_dash_ends_them() -> None:
    run = only(Run, "RUN --network=none -- --mount=x y")
    assert (run.network, run.mounts, run.command.text) == ("none", (), "--mount=x y")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ('--chown="a b"', "a b"),
        ("--chown='a b'", "a b"),
        ("--chown=a\\ b", "a b"),
        ("--chown=a\"b c\"'d'", "ab cd"),
        ('--chown=\\"a', '"a'),
        ('"--chown=a"', ""),
    ],
)
def test_I2_quotes_and_the_escape_work_inside_flags(flag: str, value: str) -> None:
    copy = only(Copy, f"COPY {flag} x y")
    assert copy.chown == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN --foo x", "unknown flag: --foo"),
        ("COPY --chwon=1 x y", "unknown flag: --chwon (did you mean chown?)"),
        ("COPY --chown x y", "missing a value on flag: --chown"),
        ("COPY --link=x a b", "expecting boolean value for flag --link, not: x"),
        ("COPY --link=1 a b", "expecting boolean value for flag --link, not: 1"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --chown=1 --chown=2 a b", "duplicate flag specified: --chown"),
        ("COPY --link --link=false a b", "duplicate flag specified: --link"),
        ("WORKDIR --x=1 /a", "unknown flag: --x"),
    ],
)
def test_I3_wrong_flags(text: str, message: str) -> None:
    error = failure(f"FROM a\n{text}")
    assert isinstance(error, BadFlag) and error.message == message


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--link", True), ("--link=true", True), ("--link=TRUE", True), ("--link=False", False)],
)
def test_I3_a_boolean_needs_no_value(flag: str, value: bool) -> None:
    assert only(Copy, f"COPY {flag} a b").link is value


def test_I3_some_flags_may_be_repeated() -> None:
    run = only(Run, "RUN --mount=target=/a --mount=target=/b --device=c --device=d x")
    assert (run.mounts, run.devices) == (("target=/a", "target=/b"), ("c", "d"))
    assert only(Copy, "COPY --exclude=a --exclude=b . /x").exclude == ("a", "b")


def test_I4_an_unknown_instruction_is_told_with_its_line() -> None:
    error = failure("FROM a\n\nRUNN x\n")
    assert isinstance(error, UnknownInstruction)
    assert error.message == (
        "dockerfile parse error on line 3: unknown instruction: RUNN (did you mean RUN?)"
    )
    assert failure("FROM a\nXYZZY\n").message == (
        "dockerfile parse error on line 2: unknown instruction: XYZZY"
    )


def words(instruction: Instruction) -> tuple[str, ...] | None:
    """The strings of a JSON form; None when the text was taken as it is."""
    match instruction:
        case Run() | Cmd() | Entrypoint():
            return instruction.command.arguments
        case HealthCheck():
            assert instruction.command is not None
            return instruction.command.arguments
        case Shell():
            return instruction.arguments
        case Copy():
            return (*instruction.sources, instruction.destination)
        case Volume():
            return instruction.paths
        case _:
            raise AssertionError(instruction)


@pytest.mark.parametrize(
    "name", ["RUN", "CMD", "ENTRYPOINT", "SHELL", "HEALTHCHECK CMD", "ADD", "COPY", "VOLUME"]
)
def test_I5_json_is_understood(name: str) -> None:
    [found] = body(f'{name}   [ "/a b" ,\\\n "/\\u0063" ]  ')
    assert words(found) == ("/a b", "/c")
    message = "when using JSON array syntax, arrays must be comprised of strings only"
    for other in ("1", "null", "true", "{}", '["b"]'):
        assert refused(f'{name} ["a", {other}]') == message


@pytest.mark.parametrize(
    "text", ["['a']", '["a", "b"', '["a"] x', "[a]", "[ -f x ] && y", '["a",]']
)
def test_I5_what_is_no_json_is_text(text: str) -> None:
    assert only(Run, f"RUN {text}").command.text == text
    assert only(Cmd, f"CMD {text}").command.text == text
    assert only(Entrypoint, f"ENTRYPOINT {text}").command.text == text


@pytest.mark.parametrize("text", ["['a']", '["a", "b"', '["a"] x'])
def test_I5_text_that_looks_like_json_is_warned_about(text: str) -> None:
    [warning] = tree(f"FROM a\nCMD {text}").warnings
    assert "JSON" in warning.message and warning.span.start == 2


def test_I5_paths_that_are_no_json_are_words() -> None:
    assert words(only(Copy, "COPY ['a', '/b']")) == ("['a',", "'/b']")
    assert words(only(Volume, "VOLUME [/a /b]")) == ("[/a", "/b]")


def test_I6_some_instructions_take_the_whole_text() -> None:
    assert only(Maintainer, "MAINTAINER A  'B' <c@d>").name == "A  'B' <c@d>"
    assert only(User, "USER a  b").user == "a  b"
    assert only(Workdir, "WORKDIR /a  b").path == "/a  b"
    assert only(StopSignal, "STOPSIGNAL a  b").signal == "a  b"


def test_I6_some_split_at_blanks_whatever_the_quotes() -> None:
    assert failure('FROM "a b"').message == "FROM requires either one or three arguments"
    assert only(Expose, "EXPOSE '80\t 90'").ports == ("'80", "90'")
    assert words(only(Copy, "COPY a\\ b /c")) == ("a\\", "b", "/c")
    assert words(only(Copy, "ADD 'a b' /c")) == ("'a", "b'", "/c")
    assert words(only(Volume, 'VOLUME "/a /b"')) == ('"/a', '/b"')
    assert words(only(Copy, 'COPY ["a b", "/c d/"]')) == ("a b", "/c d/")


def test_I6_some_know_quoted_words() -> None:
    text = "A='a b' B=c\\ d \"C=e f\""
    keys = [("A", "'a b'"), ("B", "c\\ d"), ('"C', 'e f"')]
    for found in (only(Arg, f"ARG {text}"), only(Env, f"ENV {text}"), only(Label, f"LABEL {text}")):
        assert [(pair.key, pair.value) for pair in found.pairs] == keys


def test_I6_onbuild_holds_an_instruction() -> None:
    assert only(OnBuild, "ONBUILD  COPY  a   b").trigger == "COPY  a   b"
    assert refused("ONBUILD") == "ONBUILD requires at least one argument"


@pytest.mark.parametrize("text", ["RUN x", "ENV A=1", "ARG A\nLABEL a=b", "MAINTAINER x"])
def test_I7_only_arg_stands_before_from(text: str) -> None:
    assert failure(f"{text}\nFROM a\n").message == "no build stage in current context"
    assert tree("ARG A\nARG B=1\nFROM a\n").arguments[1].pairs[0].key == "B"


# 1.5 here-documents


def documents(text: str) -> list[tuple[str, str]]:
    """Names and bodies of the here-documents of the one RUN, COPY or ADD in `text`."""
    [found] = body(text)
    assert isinstance(found, Run | Copy)
    heredocs = found.command.heredocs if isinstance(found, Run) else found.heredocs
    return [(one.name, one.body) for one in heredocs]


@pytest.mark.parametrize("text", ["RUN <<EOF", "COPY <<EOF /f", "ADD <<EOF /f"])
def test_H1_three_instructions_take_them(text: str) -> None:
    assert documents(f"{text}\nx\nEOF") == [("EOF", "x\n")]
    trigger = only(OnBuild, f"ONBUILD {text}\nx\nEOF").trigger
    assert trigger == f"{text}\nx\nEOF"


@pytest.mark.parametrize(
    "text",
    [
        "USER <<EOF",
        "CMD cat <<EOF",
        "ENV A=<<EOF",
        'RUN ["x", "<<EOF"]',
        'COPY ["<<EOF", "/x"]',
        'ONBUILD RUN ["<<EOF"]',
        "ONBUILD CMD <<EOF",
    ],
)
def test_H1_others_and_the_json_form_do_not(text: str) -> None:
    assert len(body(f"{text}\nRUN b")) == 2


def test_H1_continuations_are_joined_first() -> None:
    assert documents("RUN cat <\\\n<EOF\nx\nEOF") == [("EOF", "x\n")]
    assert documents("RUN cat \\\n <<EOF \\\n > /f\nx\nEOF") == [("EOF", "x\n")]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("<<EOF", "EOF"),
        ("<<-EOF", "EOF"),
        ("<<  EOF", "EOF"),
        ("<<-\tEOF", "EOF"),
        ("3<<EOF", "EOF"),
        ('<<"EOF"', "EOF"),
        ("<<eo'f'", "eof"),
        ("<<eo\\'f", "eo'f"),
        ("<<'one two'", "one two"),
        ("<<$EOF", "$EOF"),
        ("<<EOF.txt", "EOF.txt"),
    ],
)
def test_H2_a_word_opens_one(word: str, name: str) -> None:
    assert documents(f"RUN cat {word}\nx\n{name}") == [(name, "x\n")]
    assert documents(f"COPY {word} /f\nx\n{name}") == [(name, "x\n")]


@pytest.mark.parametrize(
    "text",
    [
        'echo "<<X"',
        "echo '<<X'",
        "echo \\<<X",
        "cat <<<X",
        "cat<<X",
        "echo $((1 << 4))",
        "x<<",
        "cat << ",
    ],
)
def test_H2_other_words_do_not(text: str) -> None:
    assert shell(f"RUN {text}\nRUN b") == [text.strip(), "b"]


@pytest.mark.parametrize(
    "text",
    [
        "cat ${x^^} <<E",
        "cat $((1<<2)) <<E",
        "cat $((1<<'2')) <<E",
        "cat '<<X' <<E",
        'cat "a\\"<<X" <<E',
        "cat \\'<<X <<E",
    ],
)
def test_H2_words_before_it_are_read_as_a_shell_does(text: str) -> None:
    assert documents(f"RUN {text}\nx\nE") == [("E", "x\n")]


def test_H3_bodies_follow_in_order() -> None:
    assert documents("RUN cat <<X <<Y\n1\nY\nX\n2\nX\nY") == [("X", "1\nY\n"), ("Y", "2\nX\n")]
    assert documents("COPY <<a <<b /d/\n1\na\nb") == [("a", "1\n"), ("b", "")]


def test_H4_a_body_ends_at_its_name_alone() -> None:
    text = "EOF \n EOF\nEOFX\n\tEOF\n"
    assert documents(f"RUN <<EOF\n{text}EOF\n") == [("EOF", text)]
    assert documents("RUN <<EOF\r\nx\r\nEOF\r\n") == [("EOF", "x\r\n")]
    assert documents("RUN <<-EOF\nx\n EOF\n\t\tEOF\n") == [("EOF", "x\n EOF\n")]


def test_H4_nothing_has_a_meaning_inside() -> None:
    text = "# note\n\na \\\n# escape=`\nRUN x\nFROM y\n<<Z\n"
    assert documents(f"RUN <<EOF\n{text}EOF") == [("EOF", text)]


@pytest.mark.parametrize("text", ["RUN <<EOF", "RUN <<EOF\nx\nEO", "COPY <<a <<b /\na\n"])
def test_H4_a_missing_end_is_an_error(text: str) -> None:
    assert refused(text) == "unterminated heredoc"


@pytest.mark.parametrize(
    ("word", "expand"),
    [
        ("<<EOF", True),
        ("<<-EOF", True),
        ('<<"EOF"', False),
        ("<<'EOF'", False),
        ('<<E"O"F', False),
        ("<<-'EOF'", False),
        ("<<E\\OF", True),
    ],
)
def test_H5_a_quote_in_the_name_turns_expansion_off(word: str, expand: bool) -> None:
    assert only(Copy, f"COPY {word} /f\nx\nEOF").heredocs[0].expand is expand


def test_H6_a_dash_asks_for_leading_tabs_to_go() -> None:
    text = "COPY <<-a <<b /d/\n\t\tx\n  \ty\n\ta\nb"
    assert [one.strip_tabs for one in only(Copy, text).heredocs] == [True, False]


def test_H7_here_documents_and_paths_are_sources() -> None:
    copy = only(Copy, "COPY a <<x b <<y /d/\n1\nx\n2\ny")
    assert (copy.sources, copy.destination) == (("a", "b"), "/d/")
    assert [one.name for one in copy.heredocs] == ["x", "y"]


@pytest.mark.parametrize("name", ["COPY", "ADD"])
def test_H7_the_destination_is_a_path(name: str) -> None:
    message = f"{name} cannot accept a heredoc as a destination"
    assert refused(f"{name} a <<EOF\nx\nEOF") == message
    assert refused(f"{name} <<a <<'b c'\na\nb c") == message
    assert refused(f"{name} <<EOF\nx\nEOF").startswith(f"{name} requires at least two arguments")


def test_H11_a_trigger_holds_its_bodies() -> None:
    text = "ONBUILD COPY <<-a <<'b' /d/\n\tx\n\ta\n$y\nb\nRUN z"
    trigger, run = body(text)
    assert isinstance(trigger, OnBuild) and isinstance(run, Run)
    assert trigger.trigger == "COPY <<-a <<'b' /d/\n\tx\na\n$y\nb"
    span = Span(Source("Dockerfile", "FROM a"), 1, 1)
    fired = parse_trigger(trigger.trigger, span, "\\")
    assert isinstance(fired, Copy)
    assert fired.heredocs == (
        Heredoc("a", "\tx\n", expand=True, strip_tabs=True),
        Heredoc("b", "$y\n", expand=False, strip_tabs=False),
    )


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("ONBUILD RUN --mount=target=/x <<E\na\nE", "RUN --mount=target=/x <<E\na\nE"),
        ("onbuild add --chown=1 <<'E' /f\na\nE", "add --chown=1 <<'E' /f\na\nE"),
        ("ONBUILD  RUN  cat <<A <<B\nB\nA\nA\nB", "RUN  cat <<A <<B\nB\nA\nA\nB"),
    ],
)
def test_H11_flags_and_several_bodies_are_kept(text: str, trigger: str) -> None:
    assert only(OnBuild, text).trigger == trigger


def test_H12_a_script_is_shown_by_its_first_line() -> None:
    assert only(Run, "RUN <<EOF\nset -e\nmake\nEOF").text == "RUN <<EOF (set -e...)"
    assert only(Copy, "COPY <<name /dest\nx\ny\nname").text == "COPY <<name /dest"


# Sentences about syntax in 2.3, 3 and 8.1


def test_E4_copy_from_has_no_variables() -> None:
    assert refused("ARG x\nCOPY --from=$x a b") == (
        "variable expansion is not supported for --from, define a new stage with FROM using ARG"
        " from global scope as a workaround"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ARG", "ARG requires at least one argument"),
        ("ARG =x", "ARG names can not be blank"),
        ("ARG A =x", "ARG names can not be blank"),
    ],
)
def test_A1_arg_needs_names(text: str, message: str) -> None:
    assert refused(text) == message
    assert failure(f"{text}\nFROM a").message == message


def test_A1_arg_takes_several_names() -> None:
    pairs = only(Arg, "ARG a b= c=1 d='x y'").pairs
    found = [(pair.key, pair.value) for pair in pairs]
    assert found == [("a", None), ("b", ""), ("c", "1"), ("d", "'x y'")]


@pytest.mark.parametrize("name", ["ENV", "LABEL"])
@pytest.mark.parametrize("word", ["x", '"x y"', "x\\ y"])
def test_A13_every_word_is_a_pair(name: str, word: str) -> None:
    shown = word.replace("\\", "\\\\").replace('"', '\\"')
    assert refused(f"{name} a=1 {word} b=2") == (
        f'Syntax error - can\'t find = in "{shown}". Must be of the form: name=value'
    )
    assert refused(name) == f"{name} requires at least one argument"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("K v w  x  ", "K", "v w  x"),
        ("K\t \tv", "K", "v"),
        ("ONE TWO= THREE=x", "ONE", "TWO= THREE=x"),
        ('K "a  b" c', "K", '"a  b" c'),
    ],
)
def test_A14_the_legacy_form_sets_one_variable(text: str, key: str, value: str) -> None:
    env, label = only(Env, f"ENV {text}"), only(Label, f"LABEL {text}")
    for found in (env, label):
        assert [(pair.key, pair.value) for pair in found.pairs] == [(key, value)]
        assert found.legacy


@pytest.mark.parametrize("name", ["ENV", "LABEL"])
def test_A14_it_needs_a_name_and_a_value(name: str) -> None:
    assert refused(f"{name} K") == f"{name} must have two arguments"
    assert refused(f"{name} =x") == f"{name} names can not be blank"


@pytest.mark.parametrize("name", ["WORKDIR", "USER", "STOPSIGNAL", "MAINTAINER"])
def test_K1_K2_K10_K11_exactly_one_argument(name: str) -> None:
    assert refused(name) == f"{name} requires exactly one argument"


def test_K3_shell_is_json() -> None:
    assert only(Shell, 'SHELL ["/bin/bash", "-c"]').arguments == ("/bin/bash", "-c")
    message = "SHELL requires the arguments to be in JSON form"
    assert refused("SHELL /bin/bash -c") == message
    assert refused("SHELL ['/bin/bash']") == message
    assert refused("SHELL []") == "SHELL requires at least one argument"


def test_K8_volume_takes_json_or_words() -> None:
    assert only(Volume, 'VOLUME ["/a b", "/c"]').paths == ("/a b", "/c")
    assert only(Volume, "VOLUME /a /b").paths == ("/a", "/b")
    assert refused('VOLUME ["/a", ""]') == "VOLUME specified can not be an empty string"
    assert refused("VOLUME") == "VOLUME requires at least one argument"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CMD", "Missing command after HEALTHCHECK CMD"),
        ("CMD []", "Missing command after HEALTHCHECK CMD"),
        ("NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("FOO x", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("--retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("--retries=-2147483648 CMD x", "--retries cannot be negative (-2147483648)"),
        (
            "--retries=2147483648 CMD x",
            'strconv.ParseInt: parsing "2147483648": value out of range',
        ),
        ("--retries=1x CMD x", 'strconv.ParseInt: parsing "1x": invalid syntax'),
        ("--interval=999us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("--timeout=1ns CMD x", 'Interval "timeout" cannot be less than 1ms'),
        ("--start-period=-1s CMD x", 'Interval "start-period" cannot be less than 1ms'),
        ("--start-interval=0.5ms CMD x", 'Interval "start-interval" cannot be less than 1ms'),
    ],
)
def test_K12_wrong_health_checks(text: str, message: str) -> None:
    assert refused(f"HEALTHCHECK {text}") == message


def test_K12_health_checks_hold_nanoseconds() -> None:
    text = "--interval=1m30s --timeout=1ms --start-period=0s --start-interval=1.5s --retries=0"
    check = only(HealthCheck, f"HEALTHCHECK {text} CMD x")
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    assert times == (90_000_000_000, 1_000_000, 0, 1_500_000_000)
    assert check.retries == 0
    assert only(HealthCheck, "HEALTHCHECK --retries=2147483647 CMD x").retries == 2147483647
    assert only(HealthCheck, f"HEALTHCHECK --retries=+{'0' * 5000}7 CMD x").retries == 7
    assert only(HealthCheck, "HEALTHCHECK none").command is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("onbuild RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
    ],
)
def test_K13_some_instructions_are_no_triggers(text: str, message: str) -> None:
    assert refused(f"ONBUILD {text}") == message
    span = Span(Source("Dockerfile", "FROM a"), 1, 1)
    with pytest.raises(SyntaxProblem) as caught:
        parse_trigger(text, span, "\\")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV K", "ENV must have two arguments"),
        ("LABEL a=1 b", 'Syntax error - can\'t find = in "b". Must be of the form: name=value'),
        ('RUN ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only"),
    ],
)
def test_K13_words_of_a_trigger_are_looked_at_at_once(text: str, message: str) -> None:
    assert refused(f"ONBUILD {text}") == message


def test_K13_arguments_are_looked_at_when_the_trigger_fires() -> None:
    assert only(OnBuild, "ONBUILD COPY only").trigger == "COPY only"
    assert only(OnBuild, "ONBUILD RUN --nope x").trigger == "RUN --nope x"
    span = Span(Source("Dockerfile", "FROM a"), 1, 1)
    with pytest.raises(SyntaxProblem, match="COPY requires at least two arguments"):
        parse_trigger("COPY only", span, "\\")


@pytest.mark.parametrize("text", ["RUN a\nRUN b", "", "# nothing"])
def test_K14_a_trigger_is_one_instruction(text: str) -> None:
    span = Span(Source("Dockerfile", "FROM a"), 1, 1)
    with pytest.raises(SyntaxProblem) as caught:
        parse_trigger(text, span, "\\")
    assert caught.value.span == span


# Sentences about syntax in 4 and 6.1


@pytest.mark.parametrize("as_", ["AS", "as", "As"])
def test_S1_from_takes_a_platform_an_image_and_a_name(as_: str) -> None:
    base = tree(f"FROM --platform=linux/arm64 a:1@sha256:0 {as_}\tb\n").stages[0].base
    assert (base.platform, base.image, base.name) == ("linux/arm64", "a:1@sha256:0", "b")


@pytest.mark.parametrize("text", ["", "a b", "a AS", "a IS b", "a AS b c", "a AS b # c"])
def test_S1_from_has_one_or_three_arguments(text: str) -> None:
    assert failure(f"FROM {text}\n").message == "FROM requires either one or three arguments"


def test_S1_other_flags_are_unknown() -> None:
    assert failure("FROM --platfrom=x a").message == (
        "unknown flag: --platfrom (did you mean platform?)"
    )
    assert failure("FROM --platform a").message == "missing a value on flag: --platform"


@pytest.mark.parametrize(
    ("word", "name"), [("b", "b"), ("Base-1.x_Y", "base-1.x_y"), ("a--", "a--"), ("scratch",) * 2]
)
def test_S2_names_are_in_lower_case(word: str, name: str) -> None:
    assert tree(f"FROM a AS {word}").stages[0].name == name


@pytest.mark.parametrize("word", ["1x", "2", "-a", "_a", ".a", "a/b", "a:b", "a$b", "é", '"a"'])
def test_S2_other_names_are_refused(word: str) -> None:
    shown = word.replace('"', '\\"')
    assert failure(f"FROM a AS {word}").message == (
        f'invalid name for build stage: "{shown}",'
        " name can't start with a number or contain symbols"
    )


def test_S3_images_and_platforms_are_kept_as_written() -> None:
    base = tree('ARG X\nFROM --platform=$BUILDPLATFORM ${X:-"a"}$Y AS b').stages[0].base
    assert (base.platform, base.image) == ("$BUILDPLATFORM", '${X:-"a"}$Y')
    assert tree("FROM --platform= a").stages[0].base.platform == ""


@pytest.mark.parametrize("name", ["COPY", "ADD"])
def test_C1_sources_and_a_destination(name: str) -> None:
    for text in ("a b /d/", "a\t \\\n b /d/", '["a", "b", "/d/"]'):
        copy = only(Copy, f"{name} {text}")
        assert (copy.sources, copy.destination) == (("a", "b"), "/d/")
        assert copy.add is (name == "ADD")


@pytest.mark.parametrize("text", ["", "a", '["a"]', "[]", "--link", "--link a"])
@pytest.mark.parametrize("name", ["COPY", "ADD"])
def test_C1_two_arguments_are_the_least(name: str, text: str) -> None:
    assert refused(f"{name} {text}") == (
        f"{name} requires at least two arguments, but only one was provided."
        " Destination could not be determined"
    )


def test_C2_flags_of_copy() -> None:
    flags = "--from=s --chown=u:g --chmod=u+x --link --parents --exclude=a --exclude=b"
    copy = only(Copy, f"COPY {flags} x y")
    assert (copy.from_, copy.chown, copy.chmod, copy.link, copy.parents, copy.exclude) == (
        "s", "u:g", "u+x", True, True, ("a", "b")
    )  # fmt: skip
    plain = only(Copy, "COPY x y")
    assert (plain.from_, plain.chown, plain.chmod, plain.link, plain.parents, plain.exclude) == (
        "", "", "", False, False, ()
    )  # fmt: skip


def test_C2_flags_of_add() -> None:
    flags = "--chown=u --chmod=0644 --link --keep-git-dir=true --checksum=sha256:0 --unpack=false"
    add = only(Copy, f"ADD {flags} --exclude=a x y")
    assert (add.chown, add.chmod, add.link, add.keep_git_dir, add.checksum, add.unpack) == (
        "u", "0644", True, True, "sha256:0", False
    )  # fmt: skip
    assert add.exclude == ("a",)
    assert only(Copy, "ADD x y").unpack is None
    assert only(Copy, "ADD --unpack x y").unpack is True


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("ADD --parents a b", "parents"),
        ("ADD --from=x a b", "from"),
        ("COPY --checksum=x a b", "checksum"),
        ("COPY --keep-git-dir a b", "keep-git-dir"),
        ("COPY --unpack a b", "unpack"),
    ],
)
def test_C2_each_has_its_own_flags(text: str, flag: str) -> None:
    assert refused(text).startswith(f"unknown flag: --{flag}")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("http://h/a", "URL"),
        ("https://h/a.tar.gz", "URL"),
        ("https://h/r.git", "git ref"),
        ("https://h/r.git#v1:sub", "git ref"),
        ("git@h:r", "git ref"),
        ("ssh://h/r", "git ref"),
        ("git://h/r", "git ref"),
    ],
)
def test_C3_copy_takes_nothing_from_elsewhere(source: str, kind: str) -> None:
    assert refused(f"COPY a {source} /d/") == f"source can't be a {kind} for COPY"
    assert refused(f'COPY ["{source}", "/d"]') == f"source can't be a {kind} for COPY"
    assert only(Copy, f"ADD a {source} /d/").sources == ("a", source)
    assert only(Copy, f"COPY a {source}").destination == source


# Section 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "FROM a\n\nCPOY a b",
            "dockerfile parse error on line 3: unknown instruction: CPOY (did you mean COPY?)",
        ),
        ("FROM a\nCOPY --chwon=1 a b", "unknown flag: --chwon (did you mean chown?)"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("RUN x\nFROM a", "no build stage in current context"),
        (
            "FROM a AS 2x",
            'invalid name for build stage: "2x", name can\'t start with a number or contain symbols',
        ),
        (
            "FROM a\nCOPY a",
            "COPY requires at least two arguments, but only one was provided."
            " Destination could not be determined",
        ),
        ("FROM a\nSHELL sh", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nENV A", "ENV must have two arguments"),
        ("FROM a\nWORKDIR", "WORKDIR requires exactly one argument"),
        ("FROM a\nVOLUME", "VOLUME requires at least one argument"),
    ],
)
def test_section_11_texts(text: str, message: str) -> None:
    error = failure(text)
    assert error.message == message
    assert error.span is not None
    assert f">>> {text.splitlines()[error.span.start - 1]}" in excerpt(error.span)
