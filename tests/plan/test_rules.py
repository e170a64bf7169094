"""An example for every rule about meaning: variables and scopes, metadata, configuration, history
(dockerfile-language 2.3, 3, 8.1, 8.3, and what 1 says about plans)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import pytest

from assembler.dockerfile.parser import parse
from assembler.errors import (
    BadFlag,
    DockerfileError,
    ExpansionFailed,
    SyntaxProblem,
    UnknownInstruction,
    UsageError,
)
from assembler.oci.config import DEFAULT_PATH, Execution, Healthcheck, History, ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts, FilesContext
from assembler.plan.make import PlanRequest, make, needs, outline
from assembler.plan.outline import targets
from assembler.plan.plan import Plan, PlannedStage, ResolvedImage
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    Copy,
    GitSource,
    InlineFile,
    MakeDirectory,
    Run,
    SecretMount,
    StageOrigin,
    Step,
    TmpfsMount,
    UrlSource,
)
from assembler.source import Source

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BASE = Execution(env=("PATH=/base",))
ALLOWED = frozenset({"network.host", "security.insecure", "device"})
SHA = "sha256:" + "0" * 64
One = TypeVar("One", bound=Step)


def request(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    target: str = "",
    platform: Platform | None = None,
    labels: Mapping[str, str] | None = None,
    contexts: tuple[str, ...] = (),
) -> PlanRequest:
    return PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)),
        build_args=args or {},
        target=target,
        platform=platform,
        build_platform=AMD64,
        labels=labels or {},
        contexts=Contexts({name: FilesContext(name) for name in contexts}),
        allow=ALLOWED,
    )


def resolve(
    asked: PlanRequest,
    base: Execution | ImageConfig = BASE,
    others: Mapping[str, Execution] | None = None,
) -> dict[str, ResolvedImage]:
    """Every image that is needed: the one `others` has under its short name, else `base`."""
    resolved: dict[str, ResolvedImage] = {}
    while missing := needs(asked, resolved):
        for need in missing:
            short = need.image.removeprefix("docker.io/library/").removesuffix(":latest")
            found = (others or {}).get(short, base)
            config = found if isinstance(found, ImageConfig) else ImageConfig(need.platform, found)
            manifest = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
            resolved[need.key] = ResolvedImage(need.image, manifest, config, ())
    return resolved


def plan(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    base: Execution | ImageConfig = BASE,
    others: Mapping[str, Execution] | None = None,
    target: str = "",
    platform: Platform | None = None,
    labels: Mapping[str, str] | None = None,
    contexts: tuple[str, ...] = (),
) -> Plan:
    """The plan of `text`, every image being `base`, or what `others` says by name."""
    asked = request(text, args, target=target, platform=platform, labels=labels, contexts=contexts)
    return make(asked, resolve(asked, base, others))


def stage(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    base: Execution | ImageConfig = BASE,
    platform: Platform | None = None,
) -> PlannedStage:
    """The target of `text` after `FROM a`."""
    made = plan(f"FROM a\n{text}", args, base=base, platform=platform)
    return made.stage(made.target)


def last(made: Plan) -> PlannedStage:
    return made.stage(made.target)


def config(text: str, base: Execution | ImageConfig = BASE) -> Execution:
    return stage(text, base=base).config.execution


def step(kind: type[One], text: str, args: Mapping[str, str] | None = None) -> One:
    """The last step of `text` after `FROM a`."""
    found = stage(text, args).steps[-1]
    assert isinstance(found, kind)
    return found


def seen(made: Plan) -> dict[str, str]:
    """The environment of the target's last RUN."""
    found = last(made).steps[-1]
    assert isinstance(found, Run)
    return dict(found.env)


def environment(text: str, args: Mapping[str, str] | None = None) -> dict[str, str]:
    return seen(plan(text, args))


def told(text: str, args: Mapping[str, str] | None = None) -> list[str]:
    """The history of `text` after `FROM a`."""
    return [line.history.created_by for line in stage(text, args).history]


def images(made: Plan) -> list[str]:
    names = (image.name for image in made.images.values())
    return [name.removeprefix("docker.io/library/") for name in names]


def rules(made: Plan) -> list[str]:
    return [warning.rule for warning in made.warnings]


def failure(text: str, args: Mapping[str, str] | None = None) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        plan(text, args)
    return caught.value


def refused(text: str, args: Mapping[str, str] | None = None) -> str:
    """What is said about `text` after `FROM a`."""
    return failure(f"FROM a\n{text}", args).message


# 1. What a plan shows of directives, comments and here-documents


def test_D7_rules_are_skipped_by_name_or_all() -> None:
    text = "FROM a\nENV K v\nMAINTAINER x\n"
    assert rules(plan(text)) == ["LegacyKeyValueFormat", "MaintainerDeprecated"]
    assert rules(plan(f"# check=skip=MaintainerDeprecated\n{text}")) == ["LegacyKeyValueFormat"]
    both = "LegacyKeyValueFormat,MaintainerDeprecated"
    assert rules(plan(f"# check=skip={both}\n{text}")) == []
    assert rules(plan(f"# check=skip=all\n{text}")) == []
    assert len(rules(plan(f"# check=skip=maintainerdeprecated\n{text}"))) == 2


def test_D7_warnings_can_be_errors() -> None:
    text = "FROM a\nENV K v\n"
    assert plan(text).violations == ()
    assert plan(f"# check=error=false\n{text}").violations == ()
    assert plan(f"# check=error=true\n{text}").violations == ("LegacyKeyValueFormat",)
    assert plan(f"# check=skip=all;error=true\n{text}").violations == ()


@pytest.mark.parametrize("names", ["InvalidDefinitionDescription", "all", "Other,all"])
def test_D7_experimental_rules_are_asked_for(names: str) -> None:
    text = "# nothing of the kind\nFROM a AS b\n"
    assert rules(plan(f"# check=skip=none\n\n{text}")) == []
    assert rules(plan(f"# check=experimental={names}\n\n{text}")) == [
        "InvalidDefinitionDescription"
    ]


def test_D7_a_build_argument_replaces_the_directive() -> None:
    text = "# check=skip=all\nFROM a\nENV K v\n"
    given = plan(text, {"BUILDKIT_DOCKERFILE_CHECK": "error=true"})
    assert rules(given) == list(given.violations) == ["LegacyKeyValueFormat"]
    with pytest.raises(UsageError, match='invalid check option "foo"'):
        plan(text, {"BUILDKIT_DOCKERFILE_CHECK": "foo"})


def test_D8_a_comment_is_for_the_instruction_below() -> None:
    text = "FROM a\n# check=skip=LegacyKeyValueFormat\nENV K v\nENV L w\n"
    assert [warning.span.start for warning in plan(text).warnings if warning.span] == [4]
    text = "FROM a\n# check=skip=all;error=true\nENV K v\nENV L w\n"
    made = plan(text)
    assert rules(made) == ["LegacyKeyValueFormat"] and made.violations == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [("FROM a AS B\n", "StageNameCasing"), ("ARG A \\\n\n B\nFROM a\n", "NoEmptyContinuation")],
)
def test_D8_from_and_arg_too(text: str, rule: str) -> None:
    assert rules(plan(text)) == [rule]
    assert rules(plan(f"#\n# check=skip={rule}\n{text}")) == []


@pytest.mark.parametrize("names", ["all", "InvalidDefinitionDescription"])
def test_D8_a_comment_can_enable_a_rule(names: str) -> None:
    text = f"# x\n# check=experimental={names}\nARG A\n# y\nARG B\nFROM z\n"
    text += f"# x\n# check=experimental={names}\nFROM a AS b\n# y\nFROM a AS c\n"
    found = [warning.span for warning in plan(text).warnings]
    assert [span.start for span in found if span] == [3, 9]


def test_L6_a_comment_describes_a_stage_or_an_argument() -> None:
    text = (
        "# OTHER no\n# V the version\n\nARG V=1\n# app the program\nFROM a:$V AS app\n"
        "# no description\nARG W\n"
    )
    asked = request(text)
    [target] = targets(asked.dockerfile)
    assert target.description == "the program"
    found = outline(asked, resolve(asked))
    assert found.description == "the program"
    assert [(one.name, one.description) for one in found.arguments] == [
        ("V", "the version"),
        ("W", ""),
    ]


def test_H6_leading_tabs_go_and_blanks_stay() -> None:
    copy = step(Copy, "COPY <<-EOF /f\n\t\tx\n \ty\n\tz\tz\n\tEOF\n")
    assert copy.inline == (InlineFile("EOF", "x\n \ty\nz\tz\n"),)
    assert step(Copy, "COPY <<EOF /f\n\tx\nEOF\n").inline == (InlineFile("EOF", "\tx\n"),)


@pytest.mark.parametrize("text", ["COPY <<-EOF /f", "RUN <<-EOF"])
def test_H6_tabs_go_at_the_start_of_lines_only(text: str) -> None:
    line = "a\v\tb\r\tc\x1c\td\x85\te\u2028\tf\n"
    [found] = stage(f"{text}\n\t{line}EOF\n").steps
    assert isinstance(found, Run | Copy)
    body = found.argv[-1] if isinstance(found, Run) else found.inline[0].content
    assert body == line


def test_H7_each_is_a_file_named_after_its_delimiter() -> None:
    copy = step(Copy, "COPY --chown=1:2 --chmod=600 <<a.txt f <<b.txt /dir/\n1\na.txt\n2\nb.txt\n")
    assert copy.inline == (InlineFile("a.txt", "1\n"), InlineFile("b.txt", "2\n"))
    assert (copy.sources, copy.destination) == (("f",), "/dir/")
    assert (copy.chown, copy.chmod) == ("1:2", "600")
    single = step(Copy, "COPY <<EOF /path\nx\nEOF\n")
    assert (single.inline, single.destination) == ((InlineFile("EOF", "x\n"),), "/path")


@pytest.mark.parametrize(
    ("delimiter", "name"),
    [("../../a", "a"), ("/a", "a"), ("a/", "a"), ("b/../../a", "a"), ("./b//a", "b/a")],
)
def test_C4_no_delimiter_leads_out_of_the_destination(delimiter: str, name: str) -> None:
    """As no other source does: a layer with `..` in its names is refused elsewhere, or escapes."""
    copy = step(Copy, f"COPY <<{delimiter} /dir/\n1\n{delimiter}\n")
    assert copy.inline == (InlineFile(name, "1\n"),)


@pytest.mark.parametrize("delimiter", [".", "..", "/", "a/.."])
def test_H7_a_delimiter_that_names_no_file(delimiter: str) -> None:
    with pytest.raises(DockerfileError, match=f"<<{delimiter} names no file"):
        step(Copy, f"COPY <<{delimiter} /dir/\n1\n{delimiter}\n")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("$V ${V} ${U:-d} $U.", "1 1 d ."),
        ("'$V' \"$V\"", "'1' \"1\""),
        ('\\$V \\\\ \\n \\"', '$V \\ n "'),
        ("a\\\nb", "a\nb"),
    ],
)
def test_H8_bodies_are_expanded(body: str, wanted: str) -> None:
    text = f"ENV V=1\nCOPY <<EOF /f\n{body}\nEOF\n"
    assert step(Copy, text).inline == (InlineFile("EOF", f"{wanted}\n"),)
    assert step(Copy, text.replace("<<EOF", "<<'EOF'")).inline == (InlineFile("EOF", f"{body}\n"),)
    assert step(Copy, text.replace("COPY", "ADD")).inline[0].content == f"{wanted}\n"


def test_D5_bodies_are_expanded_with_backslashes_whatever_the_directive() -> None:
    made = plan("# escape=`\nFROM a\nENV V=1\nCOPY <<EOF /f\n`$V \\$V\nEOF\n")
    [copy] = last(made).steps
    assert isinstance(copy, Copy)
    assert copy.inline == (InlineFile("EOF", "`1 $V\n"),)


def test_D5_the_escape_quotes_words_too() -> None:
    made = plan("# escape=`\nARG A=`$x\nFROM a\nARG A\nENV V=a`$b W=a\\b X=`a` b\nRUN y\n")
    found = seen(made)
    assert (found["A"], found["V"], found["W"], found["X"]) == ("$x", "a$b", "a\\b", "a b")


@pytest.mark.parametrize(
    ("word", "body", "script"),
    [
        ("<<EOF", "set -e\na\n", "set -e\na\n"),
        ("<< EOF", "a\n", "a\n"),
        ("<<'EOF'", "$V\n", "$V\n"),
        ("<<EOF", "$V \\$V\n", "$V \\$V\n"),
        ("<<-EOF", "\tx\n\t\ty\n", "x\ny\n"),
        ("<<-'EOF'", "\tx\n", "x\n"),
        ("<<EOF", "", ""),
    ],
)
def test_H9_a_lone_here_document_is_the_script(word: str, body: str, script: str) -> None:
    run = step(Run, f"ENV V=1\nRUN {word}\n{body}EOF\n")
    assert (run.argv, run.scripts) == (("/bin/sh", "-c", script), ())
    run = step(Run, f'SHELL ["/bin/bash", "-c"]\nRUN --network=none {word}\n{body}EOF\n')
    assert (run.argv, run.network) == (("/bin/bash", "-c", script), "none")


@pytest.mark.parametrize(
    "word",
    [
        "<<'one two'",
        '<<one" two"',
    ],
)
def test_H9_its_name_may_be_quoted_anywhere(word: str) -> None:
    assert step(Run, f"RUN {word}\nx\none two\n").argv == ("/bin/sh", "-c", "x\n")


@pytest.mark.parametrize("word", ["<<NAME", "<<'NAME'", "<<-NAME"])
def test_H9_a_shebang_makes_it_a_file(word: str) -> None:
    run = step(Run, f"ENV V=1\nRUN {word}\n#!/usr/bin/env python3\nprint($V)\nNAME\n")
    assert run.argv == ("/dev/pipes/NAME",)
    assert run.scripts == (("NAME", "#!/usr/bin/env python3\nprint($V)\n"),)


def test_H9_tabs_go_before_a_shebang_is_looked_for() -> None:
    run = step(Run, "RUN <<-NAME\n\t#!/bin/x\n\ty\n\tNAME\n")
    assert run.scripts == (("NAME", "#!/bin/x\ny\n"),)


@pytest.mark.parametrize(
    "text",
    [
        "<<EOF bash\nx\nEOF",
        "python3 <<EOF\n#!x\nEOF",
        "cat <<A > /a && cat <<B > /b\n1\nA\n2\nB",
        "cat <<-'A' $V\n\t$V\nA",
        "3<<EOF cat <&3\nx\nEOF",
        "<<A <<B\n1\nA\n2\nB",
    ],
)
def test_H10_other_words_leave_it_to_the_shell(text: str) -> None:
    run = step(Run, f"ENV V=1\nRUN --network=none {text}\n")
    assert (run.argv, run.scripts) == (("/bin/sh", "-c", text), ())


@pytest.mark.parametrize("word", ["-", "<", "< -"])
def test_H10_however_odd_the_other_word_is(word: str) -> None:
    run = step(Run, f"RUN {word} <<EOF\nx\nEOF\n")
    assert run.argv == ("/bin/sh", "-c", f"{word} <<EOF\nx\nEOF")


def test_H11_a_trigger_runs_with_its_bodies() -> None:
    text = "FROM a AS p\nONBUILD RUN <<-EOF\n\tx\n\tEOF\nONBUILD COPY <<f /f\n$V\nf\n"
    made = plan(f"{text}FROM p\n", base=Execution(env=("V=1",)))
    run, copy = last(made).steps
    assert isinstance(run, Run) and run.argv == ("/bin/sh", "-c", "x\n")
    assert isinstance(copy, Copy) and copy.inline == (InlineFile("f", "1\n"),)


def test_H12_names_and_scripts_are_told() -> None:
    text = "COPY f <<a <<b /d/\n1\na\n2\nb\nRUN <<EOF\nset -e\nmake\nEOF\n"
    assert told(text) == [
        "COPY f <<a <<b /d/ # buildkit",
        "RUN /bin/sh -c set -e\nmake\n # buildkit",
    ]
    copy, run = stage(text).steps
    assert copy.name == "[2/3] COPY f <<a <<b /d/"
    assert run.name == "[3/3] RUN <<EOF (set -e...)"


# 2.3 Where expansion happens


@pytest.mark.parametrize("define", ["ENV v=1", "ARG v=1"])
def test_E1_instructions_are_expanded(define: str) -> None:
    copy = step(Copy, f"{define}\nCOPY --chown=$v --chmod=$v a$v b$v /$v/")
    assert (copy.sources, copy.destination) == (("a1", "b1"), "/1/")
    assert (copy.chown, copy.chmod) == ("1", "1")
    add = step(Copy, f"{define}\nARG sum={SHA}\nADD --checksum=$sum http://h/$v /$v")
    assert (add.fetched, add.destination) == ((UrlSource("http://h/1", SHA),), "/1")
    text = f"{define}\nENV k$v=v$v\nLABEL k$v=v$v\nEXPOSE 8$v\nSTOPSIGNAL $v\nUSER u$v"
    found = config(f'{text}\nVOLUME /$v\nVOLUME ["/j$v"]\nWORKDIR /$v')
    assert "k1=v1" in found.env and found.labels == {"k1": "v1"}
    assert (found.exposed_ports, found.stop_signal, found.user) == (("81/tcp",), "1", "u1")
    assert (found.volumes, found.working_dir) == (("/1", "/j1"), "/1")
    assert environment(f"FROM a\n{define}\nARG w=2$v\nRUN x")["w"] == "21"
    assert step(Copy, f"{define}\nCOPY <<E /f\n$v\nE").inline[0].content == "1\n"


def test_E1_mounts_are_expanded() -> None:
    text = (
        "ENV v=1 c=cache l=locked z=5m t=true u=0700\n"
        "RUN --mount=target=/b$v,source=/s$v,rw=$t"
        " --mount=type=$c,id=i$v,target=/c$v,sharing=$l,uid=$v,gid=$v,mode=$u"
        " --mount=type=tmpfs,target=/t$v,size=$z"
        " --mount=type=secret,id=s$v,env=E$v,required=$t x"
    )
    bind, cache, tmpfs, secret = step(Run, text).mounts
    assert isinstance(bind, BindMount) and isinstance(cache, CacheMount)
    assert (bind.target, bind.source.lstrip("/"), bind.read_only) == ("/b1", "s1", False)
    assert (cache.target, cache.id.endswith("i1"), cache.sharing) == ("/c1", True, "locked")
    assert (cache.uid, cache.gid, cache.mode) == (1, 1, 0o700)
    assert tmpfs == TmpfsMount("/t1", 5 << 20)
    assert isinstance(secret, SecretMount)
    assert (secret.id, secret.env, secret.required) == ("s1", "E1", True)


def test_E1_only_what_is_above_counts() -> None:
    assert config("ARG v\nENV k=[$v]\nENV v=1\nENV l=[$v]").env[1:] == ("k=[]", "v=1", "l=[1]")


def test_E2_from_knows_the_global_scope_only() -> None:
    made = plan(
        "ARG v=1 p=arm64\nARG w=${v}2\nFROM --platform=linux/$p x$w:t$v$l AS b\nENV l=9\nARG v=9\n"
        "FROM y$v$l$w\nCOPY --from=b f /f\n"
    )
    assert images(made) == ["x12:t1", "y112:latest"]
    assert made.stage(0).platform == ARM64
    assert images(plan("FROM a$V\n", {"V": "1"})) == ["a:latest"]


def test_E2_from_knows_the_automatic_arguments() -> None:
    made = plan("ARG d=b$BUILDARCH\nFROM --platform=$BUILDPLATFORM $d$TARGETARCH\n", platform=ARM64)
    assert images(made) == ["bamd64arm64:latest"]
    assert last(made).platform == AMD64


def test_E3_commands_are_left_alone() -> None:
    text = 'ENV v=1\nSHELL ["/bin/$v", "-c"]\nCMD c $v\nENTRYPOINT ["e", "$v"]\n'
    found = config(f"{text}HEALTHCHECK CMD h $v")
    assert found.shell == ("/bin/$v", "-c")
    assert found.cmd == ("/bin/$v", "-c", "c $v")
    assert found.entrypoint == ("e", "$v")
    assert found.healthcheck is not None and found.healthcheck.test == ("CMD-SHELL", "h $v")
    assert step(Run, "ENV v=1\nRUN r ${v}").argv == ("/bin/sh", "-c", "r ${v}")
    assert step(Run, 'ENV v=1\nRUN ["r", "$v"]').argv == ("r", "$v")
    assert stage("ENV v=1\nMAINTAINER me $v").config.author == "me $v"


def test_E3_some_flags_are_left_alone() -> None:
    define = "ENV v=none t=true\n"
    assert step(Copy, f"{define}COPY --exclude=*.$v . /x").exclude == ("*.$v",)
    assert refused(f"{define}RUN --network=$v x") == 'invalid network mode "$v"'
    assert refused(f"{define}RUN --security=$v x") == 'security "$v" is not valid'
    for text in (
        "COPY --link=$t a b",
        "COPY --parents=$t a b",
        "ADD --keep-git-dir=$t a b",
        "ADD --unpack=$t a b",
    ):
        error = failure(f"FROM a\n{define}{text}")
        assert isinstance(error, BadFlag) and "not: $t" in error.message
    assert isinstance(failure(f"FROM a\n{define}HEALTHCHECK --retries=$v CMD x"), SyntaxProblem)
    assert isinstance(failure(f"FROM a\n{define}HEALTHCHECK --interval=$v CMD x"), SyntaxProblem)


def test_E3_triggers_are_expanded_when_they_run() -> None:
    text = "FROM a AS p\nENV v=1\nONBUILD ENV w=$v$u\nENV v=2\n"
    assert last(plan(text)).config.execution.on_build == ("ENV w=$v$u",)
    assert "w=2" in last(plan(f"{text}FROM p\n")).config.execution.env


def test_E4_copy_from_is_no_place_for_variables() -> None:
    assert refused("ARG v=b\nCOPY --from=$v x y") == (
        "variable expansion is not supported for --from, define a new stage with FROM using ARG"
        " from global scope as a workaround"
    )


def test_E4_nor_is_a_mounts() -> None:
    assert "'from' doesn't support variable expansion, define alias stage instead" in refused(
        "ARG v=b\nRUN --mount=from=$v,target=/x y"
    )


def test_E5_the_shell_expands_with_env_and_arg() -> None:
    run = step(Run, "ENV e=1\nARG a=2\nRUN echo $e $a")
    assert run.argv == ("/bin/sh", "-c", "echo $e $a")
    assert dict(run.env) == {"PATH": "/base", "e": "1", "a": "2"}


# 3. ARG and ENV


def test_A1_arg_sets_one_or_more_names() -> None:
    found = environment('FROM a\nARG a=1 b c="x y" d=$a\nRUN x')
    assert found == {"PATH": "/base", "a": "1", "c": "x y", "d": "1"}
    assert refused("ARG") == "ARG requires at least one argument"
    assert refused("ARG =x") == "ARG names can not be blank"


def test_A2_global_arguments_are_evaluated_in_order() -> None:
    text = "ARG C=$A\nARG A=1 B=${A}2\nARG T=$TARGETARCH\nFROM x$B:t$C$T\n"
    assert images(plan(text)) == ["x12:tamd64"]
    assert images(plan(text, {"A": "3", "T": ""})) == ["x32:t"]


def test_A2_a_required_argument() -> None:
    text = "ARG V=${V:?need V}\nFROM a:$V\n"
    error = failure(text)
    assert isinstance(error, ExpansionFailed) and "V: need V" in error.message
    assert images(plan(text, {"V": "1"})) == ["a:1"]
    local = "FROM a\nARG V=${V:?need V}\nRUN x"
    assert "V: need V" in failure(local).message
    assert environment(local, {"V": "1"})["V"] == "1"


@pytest.mark.parametrize(
    ("text", "args", "value"),
    [
        ("ARG V=1\nFROM a\nRUN x", {}, None),
        ("ARG V=1\nFROM a\nRUN x", {"V": "2"}, None),
        ("ARG V=1\nFROM a\nARG V\nRUN x", {}, "1"),
        ("ARG V=1\nFROM a\nARG V\nRUN x", {"V": "2"}, "2"),
        ("FROM a\nARG V\nRUN x", {}, None),
        ("FROM a\nARG V\nRUN x", {"V": "2"}, "2"),
        ("FROM a\nARG V\nRUN x", {"V": ""}, ""),
        ("ARG V\nFROM a\nARG V\nRUN x", {}, None),
        ("ARG V=\nFROM a\nARG V\nRUN x", {}, ""),
    ],
)
def test_A3_a_stage_imports_by_name(text: str, args: dict[str, str], value: str | None) -> None:
    assert environment(text, args).get("V") == value


def test_A3_global_values_are_not_in_stages() -> None:
    made = plan("ARG V=1\nFROM a\nENV K=[$V]\nCOPY x$V /y\n")
    assert "K=[]" in last(made).config.execution.env
    assert "UndefinedVar" in rules(made)


@pytest.mark.parametrize(("args", "value"), [({}, "3"), ({"V": "2"}, "2"), ({"V": ""}, "")])
def test_A4_a_default_hides_the_global_value(args: dict[str, str], value: str) -> None:
    assert environment("ARG V=1\nFROM a\nARG V=3\nRUN x", args)["V"] == value


def test_A4_a_default_hides_the_automatic_value() -> None:
    assert seen(plan("FROM a\nARG TARGETARCH=x\nRUN y", platform=ARM64))["TARGETARCH"] == "x"


def test_A5_arguments_are_inherited_with_the_stage() -> None:
    first, second = stage("RUN x\nARG X=1\nRUN y").steps
    assert isinstance(first, Run) and isinstance(second, Run)
    assert "X" not in dict(first.env) and dict(second.env)["X"] == "1"
    assert environment("FROM a AS p\nARG X=1\nFROM p AS q\nFROM q\nRUN x")["X"] == "1"
    assert "X" not in environment("FROM a AS p\nARG X=1\nFROM a\nCOPY --from=p x x\nRUN x")
    assert "X" not in environment("FROM a AS p\nARG X=1\nFROM a\nRUN x")


def test_A6_arguments_are_in_runs_and_history_but_not_in_the_configuration() -> None:
    made = stage("RUN a\nARG X=1 U\nRUN b")
    first, second = made.steps
    assert isinstance(first, Run) and isinstance(second, Run)
    assert "X" not in dict(first.env) and dict(second.env)["X"] == "1"
    assert "U" not in dict(second.env)
    assert made.history[-1].history.created_by == "RUN |2 X=1 U= /bin/sh -c b # buildkit"
    assert made.config.execution.env == ("PATH=/base",)


@pytest.mark.parametrize(
    ("text", "value", "env"),
    [
        ("ENV X=1\nARG X=2", "2", ("X=1",)),
        ("ARG X=2\nENV X=1", "1", ("X=1",)),
        ("ENV X=1\nARG X", "1", ("X=1",)),
        ("ARG X=2\nENV X=1\nARG X=3", "3", ("X=1",)),
        ("ARG X=2", "2", ()),
    ],
)
def test_A7_the_later_of_arg_and_env_wins(text: str, value: str, env: tuple[str, ...]) -> None:
    made = stage(f"{text}\nRUN x\nLABEL l=$X")
    [run] = made.steps
    assert isinstance(run, Run) and dict(run.env)["X"] == value
    assert made.config.execution.labels == {"l": value}
    assert made.config.execution.env == ("PATH=/base", *env)


def test_A8_an_argument_nobody_declares_is_ignored_with_a_warning() -> None:
    made = plan("ARG VERSION\nFROM a\nRUN x", {"VERSOIN": "1"})
    assert "VERSOIN" not in seen(made)
    [warning] = made.warnings
    assert "VERSOIN" in warning.message and "did you mean VERSION?" in warning.message
    assert plan("FROM a AS x\nARG V\nFROM b", {"V": "1"}).warnings == ()


def test_A8_a_trigger_declares_arguments_too() -> None:
    made = plan("FROM a\nRUN x", {"T": "5"}, base=Execution(on_build=("ARG T=1",)))
    assert seen(made)["T"] == "5"
    assert made.warnings == ()


def test_A8_stages_that_are_not_needed_declare_arguments_too() -> None:
    assert plan("FROM a AS x\nARG V\nFROM b", {"V": "1"}, target="x").warnings == ()
    assert plan("FROM a\nFROM b AS x\nARG V", {"V": "1"}, target="0").warnings == ()


def test_A8_many_of_them_are_said_without_comparing_each_with_all() -> None:
    text = "".join(f"ARG name{n}\n" for n in range(3000)) + "FROM a"
    made = plan(text, {f"nane{n}": "1" for n in range(3000)})
    assert len(made.warnings) == 3000
    assert made.warnings[0].message.endswith("(did you mean name0?)")


AUTOMATIC = {
    "TARGETPLATFORM": "linux/arm/v7",
    "TARGETOS": "linux",
    "TARGETARCH": "arm",
    "TARGETVARIANT": "v7",
    "TARGETOSVERSION": "",
    "TARGETSTAGE": "default",
    "BUILDPLATFORM": "linux/amd64",
    "BUILDOS": "linux",
    "BUILDARCH": "amd64",
    "BUILDVARIANT": "",
    "BUILDOSVERSION": "",
}


@pytest.mark.parametrize(("name", "value"), AUTOMATIC.items())
def test_A9_automatic_arguments(name: str, value: str) -> None:
    platform = Platform.parse("linux/arm/v7")
    assert seen(plan(f"FROM a\nARG {name}\nRUN x", platform=platform))[name] == value
    assert name not in seen(plan("FROM a\nRUN x", platform=platform))
    assert images(plan(f"FROM x${{{name}}}y\n", {name: "given"})) == ["xgiveny:latest"]
    made = plan(f"FROM a\nARG {name}\nRUN x", {name: "given"}, platform=platform)
    assert seen(made)[name] == "given" and made.warnings == ()


@pytest.mark.parametrize(
    ("text", "target", "name"),
    [
        ("FROM a AS p\nFROM b AS q", "p", "p"),
        ("FROM a AS p\nFROM b AS q", "", "q"),
        ("FROM a AS p\nFROM b", "", "default"),
    ],
)
def test_A9_the_target_stage(text: str, target: str, name: str) -> None:
    text = f"{text}\n".replace("\n", "\nARG TARGETSTAGE\nRUN x\n")
    assert seen(plan(text, target=target))["TARGETSTAGE"] == name


@pytest.mark.parametrize(
    ("written", "meant", "variant"),
    [
        ("linux/x86_64", "linux/amd64", ""),
        ("linux/aarch64", "linux/arm64", ""),
        ("linux/arm64/v8", "linux/arm64", ""),
        ("linux/armhf", "linux/arm/v7", "v7"),
        ("linux/arm", "linux/arm/v7", "v7"),
        ("linux/arm/v6", "linux/arm/v6", "v6"),
        ("linux/amd64", "linux/amd64", ""),
        ("windows/amd64", "windows/amd64", ""),
    ],
)
def test_A10_platforms_are_normalised(written: str, meant: str, variant: str) -> None:
    assert str(last(plan(f"FROM --platform={written} a")).platform) == meant
    made = plan("FROM a\nARG TARGETPLATFORM TARGETVARIANT\nRUN x", platform=Platform.parse(written))
    assert (seen(made)["TARGETPLATFORM"], seen(made)["TARGETVARIANT"]) == (meant, variant)


PROXIES = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"]


@pytest.mark.parametrize("name", [*PROXIES, *map(str.lower, PROXIES)])
def test_A11_proxies_reach_runs_in_both_cases(name: str) -> None:
    made = plan("FROM a\nRUN x", {name: "p"})
    [run] = last(made).steps
    assert isinstance(run, Run)
    assert dict(run.proxies) == {name.upper(): "p", name.lower(): "p"}
    assert run == last(plan("FROM a\nRUN x")).steps[0]
    assert made.warnings == ()


def test_A11_they_are_in_no_history_and_configuration() -> None:
    made = last(plan("FROM a\nENV K=[$HTTP_PROXY]\nRUN x", {"HTTP_PROXY": "p"}))
    lines = [line.history.created_by for line in made.history]
    assert lines == ["ENV K=[]", "RUN /bin/sh -c x # buildkit"]
    assert made.config.execution.env == ("PATH=/base", "K=[]")


def test_A11_unless_they_are_declared() -> None:
    made = last(plan("FROM a\nARG HTTP_PROXY\nRUN x", {"HTTP_PROXY": "p"}))
    lines = [line.history.created_by for line in made.history]
    assert lines == ["ARG HTTP_PROXY=p", "RUN |1 HTTP_PROXY=p /bin/sh -c x # buildkit"]
    assert made.steps != last(plan("FROM a\nARG HTTP_PROXY\nRUN x")).steps


def test_A11_declared_in_one_case_they_reach_runs_in_both() -> None:
    run = step(Run, "ARG HTTP_PROXY\nRUN x", {"HTTP_PROXY": "p"})
    found = dict(run.proxies) | dict(run.env)
    assert (found["HTTP_PROXY"], found["http_proxy"]) == ("p", "p")


@pytest.mark.parametrize("declare", ["", "ARG http_proxy\n", "ENV HTTP_PROXY=e\n"])
def test_A11_where_both_cases_are_given_the_lower_wins(declare: str) -> None:
    run = step(Run, f"{declare}RUN x", {"HTTP_PROXY": "upper", "http_proxy": "lower"})
    assert dict(run.proxies) == {"HTTP_PROXY": "lower", "http_proxy": "lower"}


@pytest.mark.parametrize("declare", ["ARG http_proxy\n", "ARG HTTP_PROXY\n", "ARG HTTP_PROXY=d\n"])
def test_A11_a_declared_one_that_is_given_in_the_other_case_is_in_the_key(declare: str) -> None:
    given = [{"HTTP_PROXY": "u", "http_proxy": value} for value in ("p", "q")]
    given += [{"HTTP_PROXY": "q"}, {"HTTP_PROXY": "p"}]
    runs = [step(Run, f"{declare}RUN x", args) for args in given]
    assert runs[0] != runs[1] and runs[2] != runs[3]
    for run in runs:
        seen = dict(run.env + run.proxies)
        name = declare.split()[1].partition("=")[0]
        assert dict(run.env)[name] == seen[name]
    assert step(Run, f"{declare}RUN x", {"http_proxy": "p"}) != step(Run, f"{declare}RUN x")


def test_A11_an_empty_value_is_none() -> None:
    assert step(Run, "RUN x", {"HTTP_PROXY": "", "no_proxy": "n"}).proxies == (
        ("NO_PROXY", "n"),
        ("no_proxy", "n"),
    )


SPECIAL = [
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_SYNTAX",
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
]


@pytest.mark.parametrize("name", SPECIAL)
def test_A12_special_arguments_need_no_declaration(name: str) -> None:
    made = plan("FROM a\nRUN x", {name: "1"})
    assert made.warnings == () and name not in seen(made)


def test_A12_what_some_of_them_do() -> None:
    assert plan("FROM a", {"SOURCE_DATE_EPOCH": "7"}).epoch == 7
    text = "RUN --mount=type=cache,id=i,target=/c x"
    cache = step(Run, text, {"BUILDKIT_CACHE_MOUNT_NS": "ns"}).mounts[0]
    plain = step(Run, text).mounts[0]
    assert isinstance(cache, CacheMount) and isinstance(plain, CacheMount)
    assert cache.id.startswith("ns") and cache.id.endswith("i") and cache.id != plain.id
    assert step(Run, "RUN x", {"BUILDKIT_SANDBOX_HOSTNAME": "h"}).hostname == "h"


@pytest.mark.parametrize("name", ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"])
def test_A12_sbom_arguments_are_never_in_the_environment(name: str) -> None:
    assert name not in environment(f"FROM a\nARG {name}=true\nRUN x")
    assert name not in environment(f"ARG {name}=1\nFROM a\nARG {name}\nRUN x", {name: "1"})


def test_A13_env_sets_pairs() -> None:
    found = config("ENV a=1 b='x y' c=x\\ y d= \"e f\"=g").env[1:]
    assert found == ("a=1", "b=x y", "c=x y", "d=", "e f=g")
    assert refused("ENV a=1 x") == (
        'Syntax error - can\'t find = in "x". Must be of the form: name=value'
    )


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("K v w  x", "K=v w  x"),
        ("ONE TWO= THREE=x", "ONE=TWO= THREE=x"),
        ("K \"a  b\" 'c' $PATH", "K=a  b c /base"),
        ("K \\$x", "K=$x"),
    ],
)
def test_A14_the_legacy_form(text: str, entry: str) -> None:
    made = plan(f"FROM a\nENV {text}\n")
    assert last(made).config.execution.env == ("PATH=/base", entry)
    assert rules(made) == ["LegacyKeyValueFormat"]


def test_A15_entries_keep_their_places() -> None:
    base = Execution(env=("A=1", "PATH=/p", "B=2"))
    assert config("ENV C=3 B=4\nENV A=5", base).env == ("A=5", "PATH=/p", "B=4", "C=3")


def test_A14_a_name_must_not_expand_to_nothing() -> None:
    error = failure("FROM a\nENV a=1 $UNSET=2")
    assert error.message == "ENV names can not be blank"
    assert error.span is not None and (error.span.start, error.span.word) == (2, "$UNSET")


def test_A15_the_same_name_twice() -> None:
    assert config("ENV X=1 Y=2 X=3").env == ("PATH=/base", "X=3", "Y=2")
    assert told("ENV X=1 Y=2 X=3") == ["ENV X=1 Y=2 X=3"]
    assert told("LABEL X=1 Y=2 X=3") == ["LABEL X=1 Y=2 X=3"]


def test_A15_what_the_base_has_is_left_as_it_is() -> None:
    base = Execution(env=("ODD", "A=1", "PATH=/p", "A=2", "B="))
    assert config("ENV C=3", base).env == ("ODD", "A=1", "PATH=/p", "A=2", "B=", "C=3")
    assert config("ENV A=3 ODD=4", base).env == ("ODD=4", "A=3", "PATH=/p", "A=2", "B=")


@pytest.mark.parametrize("text", ["ENV A{}=x${{A{}}}", "LABEL a{}=x{}", "ARG A{}=x{}"])
def test_A15_thousands_of_names(text: str) -> None:
    lines = [text.format(n, n - 1) for n in range(5000)]
    made = plan("\n".join(["FROM scratch", *lines]))
    assert len(last(made).history) == 5000


def test_A16_there_is_always_a_path() -> None:
    assert last(plan("FROM scratch")).config.execution.env == (f"PATH={DEFAULT_PATH}",)
    assert config("RUN x", Execution(env=("A=1",))).env == ("A=1", f"PATH={DEFAULT_PATH}")
    assert config("RUN x", Execution(env=("PATH=",))).env == ("PATH=",)
    assert (
        last(plan("FROM scratch", platform=Platform("windows", "amd64"))).config.execution.env == ()
    )
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert path == DEFAULT_PATH


# 8.1 Metadata


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("WORKDIR /a\nWORKDIR b\nWORKDIR c", "/a/b/c"),
        ("WORKDIR /a/b\nWORKDIR ..", "/a"),
        ("WORKDIR /x/../y//z/.", "/y/z"),
        ("WORKDIR /a b  c", "/a b  c"),
        ('WORKDIR "/a b"', "/a b"),
        ("WORKDIR /a\nWORKDIR $UNSET", "/a"),
        ('WORKDIR /a\nWORKDIR ""', "/a"),
        ("WORKDIR ../..", "/"),
        ("ENV D=/d\nWORKDIR $D/e", "/d/e"),
    ],
)
def test_K1_workdir_is_joined_and_cleaned(text: str, path: str) -> None:
    made = stage(f"{text}\nRUN x")
    assert made.config.execution.working_dir == path
    run = made.steps[-1]
    assert isinstance(run, Run) and run.cwd == path


def test_K1_the_directory_belongs_to_the_user() -> None:
    one, two = stage("WORKDIR /a\nUSER 5:6\nWORKDIR b").steps
    assert isinstance(one, MakeDirectory) and isinstance(two, MakeDirectory)
    assert (one.path, one.user, two.path, two.user) == ("/a", "", "/a/b", "5:6")


@pytest.mark.parametrize("path", ["/", "/x/..", "..", "$UNSET"])
def test_K1_the_root_makes_no_layer(path: str) -> None:
    made = stage(f"WORKDIR {path}\nRUN x")
    assert len(made.steps) == 1
    line = made.history[0]
    assert (line.history.created_by, line.history.empty_layer, line.step) == (
        "WORKDIR /",
        True,
        None,
    )


def test_K1_a_base_without_a_working_directory_keeps_none() -> None:
    assert config("ENV a=1").working_dir == ""
    assert config("WORKDIR a").working_dir == "/a"
    assert config("WORKDIR b", Execution(working_dir="/w")).working_dir == "/w/b"
    assert stage("COPY f x").steps[0].destination == "/x"  # type: ignore[union-attr]


def test_K1_exactly_one_argument() -> None:
    assert refused("WORKDIR") == "WORKDIR requires exactly one argument"


def test_K2_user_is_kept_as_written() -> None:
    made = stage("USER name:123\nRUN x\nCOPY f /f\nADD f /f\nWORKDIR /d")
    assert made.config.execution.user == "name:123"
    run, copy, add, directory = made.steps
    assert isinstance(run, Run) and run.user == "name:123"
    assert isinstance(directory, MakeDirectory) and directory.user == "name:123"
    assert isinstance(copy, Copy) and isinstance(add, Copy)
    assert (copy.chown, add.chown) == ("", "")
    assert refused("USER") == "USER requires exactly one argument"


def test_K2_no_user_is_root() -> None:
    made = stage("USER u\nUSER $UNSET\nRUN x")
    run = made.steps[0]
    assert isinstance(run, Run) and run.user == made.config.execution.user == ""
    assert [line.history.created_by for line in made.history][:2] == ["USER u", "USER "]


def test_K3_shell_is_for_later_shell_forms() -> None:
    text = 'RUN a\nSHELL ["/bin/bash", "-ec"]\nRUN b\nCMD c\nENTRYPOINT d\nHEALTHCHECK CMD e'
    made = stage(text)
    first, second = made.steps
    assert isinstance(first, Run) and first.argv == ("/bin/sh", "-c", "a")
    assert isinstance(second, Run) and second.argv == ("/bin/bash", "-ec", "b")
    found = made.config.execution
    assert found.shell == ("/bin/bash", "-ec")
    assert found.cmd == ("/bin/bash", "-ec", "c") and found.entrypoint == ("/bin/bash", "-ec", "d")
    assert found.healthcheck is not None and found.healthcheck.test == ("CMD-SHELL", "e")
    assert refused("SHELL /bin/sh -c") == "SHELL requires the arguments to be in JSON form"
    assert refused("SHELL []") == "SHELL requires at least one argument"


def test_K3_the_shell_of_the_base_is_used() -> None:
    found = config("CMD c", Execution(shell=("/bin/bash", "-c")))
    assert found.cmd == ("/bin/bash", "-c", "c")


@pytest.mark.parametrize(
    ("text", "cmd"),
    [
        ('CMD ["a", "b c"]', ("a", "b c")),
        ("CMD a b", ("/bin/sh", "-c", "a b")),
        ("CMD ['a']", ("/bin/sh", "-c", "['a']")),
        ("CMD []", ()),
        ("CMD a\nCMD b", ("/bin/sh", "-c", "b")),
    ],
)
def test_K4_cmd(text: str, cmd: tuple[str, ...]) -> None:
    found = config(text, Execution(cmd=("old",)))
    assert found.cmd == cmd
    document = found.to_document()
    assert document["ArgsEscaped"] is True
    assert document.get("Cmd", []) == list(cmd)


@pytest.mark.parametrize("name", ["CMD", "ENTRYPOINT"])
def test_K4_K5_the_last_one_wins_with_a_warning(name: str) -> None:
    made = plan(f'FROM a\n{name} ["a"]\n{name} ["b"]\n')
    assert rules(made) == ["MultipleInstructionsDisallowed"]
    found = last(made).config.execution
    assert (found.cmd if name == "CMD" else found.entrypoint) == ("b",)


def test_K5_entrypoint() -> None:
    base = Execution(entrypoint=("e",), cmd=("c",))
    assert config('ENTRYPOINT ["x", "y"]').entrypoint == ("x", "y")
    assert config("ENTRYPOINT x y").entrypoint == ("/bin/sh", "-c", "x y")
    assert "Entrypoint" not in config("ENTRYPOINT []", base).to_document()
    assert not config("ENTRYPOINT []", base).cmd


@pytest.mark.parametrize(
    ("text", "cmd"),
    [
        ('FROM a\nENTRYPOINT ["x"]', None),
        ('FROM a\nCMD ["d"]\nENTRYPOINT ["x"]', ("d",)),
        ('FROM a\nENTRYPOINT ["x"]\nCMD ["d"]', ("d",)),
        ('FROM a AS p\nCMD ["d"]\nFROM p\nENTRYPOINT ["x"]', None),
        ('FROM a\nCMD ["d"]', ("d",)),
        ("FROM a", ("c",)),
    ],
)
def test_K5_an_entrypoint_clears_an_inherited_cmd(text: str, cmd: tuple[str, ...] | None) -> None:
    made = plan(text, base=Execution(entrypoint=("e",), cmd=("c",)))
    assert last(made).config.execution.cmd == cmd


def test_K5_a_cmd_of_a_trigger_is_the_stages_own() -> None:
    base = Execution(cmd=("c",), on_build=('CMD ["t"]',))
    assert config('ENTRYPOINT ["x"]', base).cmd == ("t",)


@pytest.mark.parametrize("name", ["CMD", "ENTRYPOINT"])
def test_K5_history_of_nothing(name: str) -> None:
    assert told(f"{name} []") == [f"{name} []"]
    assert told(f"{name} ['a']") == [f"""{name} ["/bin/sh" "-c" "['a']"]"""]


def test_K6_nothing_is_an_empty_command() -> None:
    found = config("CMD\nENTRYPOINT")
    assert found.cmd == found.entrypoint == ("/bin/sh", "-c", "")
    assert step(Run, "RUN").argv == ("/bin/sh", "-c", "")


@pytest.mark.parametrize(
    ("text", "ports", "lint"),
    [
        ("80", ["80/tcp"], []),
        ("0 65535", ["0/tcp", "65535/tcp"], []),
        ("53/udp 54/sctp 55/tcp", ["53/udp", "54/sctp", "55/tcp"], []),
        ("53/UDP", ["53/udp"], ["ExposeProtoCasing"]),
        ("7000-7002/udp", ["7000/udp", "7001/udp", "7002/udp"], []),
        ("8080:80", ["80/tcp"], ["ExposeInvalidFormat"]),
        ("127.0.0.1:8080:80", ["80/tcp"], ["ExposeInvalidFormat"]),
        ("[::1]:8080:80/udp", ["80/udp"], ["ExposeInvalidFormat"]),
        ("$P", ["3000/tcp", "4000/udp"], []),
        ("9 80 443", ["443/tcp", "80/tcp", "9/tcp"], []),
    ],
)
def test_K7_ports(text: str, ports: list[str], lint: list[str]) -> None:
    made = plan(f'FROM a\nARG P="3000 4000/udp"\nEXPOSE {text}\n')
    assert last(made).config.execution.to_document()["ExposedPorts"] == {port: {} for port in ports}
    assert last(made).history[-1].history.created_by == f"EXPOSE [{' '.join(ports)}]"
    assert rules(made) == lint


def test_K7_words_are_sorted_before_they_are_expanded() -> None:
    text = "ARG P=9 Q='8 7'\nEXPOSE 80 $P 80 $Q"
    assert told(text)[-1] == "EXPOSE [9/tcp 8/tcp 7/tcp 80/tcp 80/tcp]"
    assert config(text).exposed_ports == ("7/tcp", "8/tcp", "80/tcp", "9/tcp")


@pytest.mark.parametrize(
    ("port", "ports"),
    [
        ("1-2:80", ["80/tcp"]),
        ("1-2:80-81/udp", ["80/udp", "81/udp"]),
        (":80", ["80/tcp"]),
        ("::1:8080:80", ["80/tcp"]),
        ("80-80", ["80/tcp"]),
        ("080", ["80/tcp"]),
    ],
)
def test_K7_hosts_and_ranges(port: str, ports: list[str]) -> None:
    assert told(f"EXPOSE {port}") == [f"EXPOSE [{' '.join(ports)}]"]


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("/tcp", 'invalid port: "/tcp": no port specified'),
        ("80:", 'invalid port: "80:": no port specified'),
        ("80/http", 'invalid port: "80/http": invalid proto: http'),
        ("80/HTTP", "invalid proto: HTTP"),
        ("a:1:80", "invalid IP address: a"),
        ("[::1:1:80", "invalid IP address: [::1"),
        ("x:80", "invalid hostPort: x"),
        ("1-3:80-81", "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
        ("x", "invalid containerPort: x"),
        ("65536", "invalid containerPort: 65536"),
        ("9-8", "invalid containerPort: 9-8"),
        ("-1", "invalid containerPort: -1"),
    ],
)
def test_K7_wrong_ports(port: str, message: str) -> None:
    assert message in refused(f"EXPOSE {port}")
    assert refused("EXPOSE") == "EXPOSE requires at least one argument"


def test_K8_volumes() -> None:
    assert config("VOLUME /a /b", Execution(volumes=("/c",))).volumes == ("/a", "/b", "/c")
    assert config('VOLUME ["/a b"]').volumes == ("/a b",)
    message = "VOLUME specified can not be an empty string"
    assert refused('VOLUME [""]') == message
    assert refused("VOLUME $UNSET") == message
    made = stage("VOLUME /v\nRUN x > /v/f\nCOPY f /v/")
    assert len(made.steps) == 2


def test_K9_labels() -> None:
    base = Execution(labels={"a": "0", "z": "0"})
    found = config("LABEL a=1 \"b c\"='d e'\nLABEL f g  h\nLABEL f=2", base).labels
    assert found == {"a": "1", "z": "0", "b c": "d e", "f": "2"}
    assert config("LABEL f g  h").labels == {"f": "g  h"}
    assert rules(plan("FROM a\nLABEL f g\n")) == ["LegacyKeyValueFormat"]
    text = "FROM a AS p\nLABEL x=1\nFROM {}\nCOPY --from=p f /f\n"
    assert last(plan(text.format("p"))).config.execution.labels == {"x": "1"}
    assert last(plan(text.format("b"))).config.execution.labels == {}
    given = plan("FROM a\nLABEL x=1 y=1\n", labels={"x": "2", "n": ""})
    assert last(given).config.execution.labels == {"x": "2", "y": "1", "n": ""}


def test_K9_labels_of_the_command_line_come_last_and_are_not_told() -> None:
    made = plan("FROM a AS p\nLABEL x=1\nFROM p", labels={"x": "2", "y": "3"})
    assert last(made).config.execution.labels == {"x": "2", "y": "3"}
    assert made.stage(0).config.execution.labels == {"x": "1"}
    assert [line.history.created_by for line in last(made).history] == []


def test_K10_maintainer_is_the_author() -> None:
    made = plan("FROM a\nMAINTAINER Me <m@e>\n")
    assert last(made).config.author == "Me <m@e>"
    assert rules(made) == ["MaintainerDeprecated"]
    assert last(plan("FROM a AS p\nMAINTAINER x\nFROM p\n")).config.author == "x"


@pytest.mark.parametrize(
    "signal", ["SIGTERM", "term", "TERM", "sigkill", "15", "9", "SIGRTMIN+3", "RTMAX-1"]
)
def test_K11_signals_are_kept_as_written(signal: str) -> None:
    assert config(f"STOPSIGNAL {signal}").stop_signal == signal


@pytest.mark.parametrize("number", ["99", "015", "+9", "9999"])
def test_K11_any_number_is_a_signal(number: str) -> None:
    assert config(f"STOPSIGNAL {number}").stop_signal == number


@pytest.mark.parametrize("signal", ["FOO", "SIGFOO", "1.5", "0", "00", "SIGSIGTERM", "²"])
def test_K11_wrong_signals(signal: str) -> None:
    assert refused(f"STOPSIGNAL {signal}") == f"invalid signal: {signal}"


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("CMD curl x", {"Test": ["CMD-SHELL", "curl x"]}),
        ('CMD ["curl", "x"]', {"Test": ["CMD", "curl", "x"]}),
        ("NONE", {"Test": ["NONE"]}),
        ("--interval=5m --retries=2 CMD x", {"Interval": 300_000_000_000, "Retries": 2}),
        (
            "--timeout=1ms --start-period=1h --start-interval=1.5s CMD x",
            {
                "Timeout": 1_000_000,
                "StartPeriod": 3_600_000_000_000,
                "StartInterval": 1_500_000_000,
            },
        ),
        ("--interval=0 --timeout=0s --retries=0 CMD x", {"Test": ["CMD-SHELL", "x"]}),
    ],
)
def test_K12_health_checks(text: str, document: dict[str, object]) -> None:
    found = config(f"HEALTHCHECK {text}").to_document()["Healthcheck"]
    assert found == {"Test": ["CMD-SHELL", "x"]} | document


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1ms", "1ms"),
        ("1.5ms", "1.5ms"),
        ("90s", "1m30s"),
        ("1.05s", "1.05s"),
        ("1h", "1h0m0s"),
        ("25h1m", "25h1m0s"),
        ("2h0.25s", "2h0m0.25s"),
        ("1000001us", "1.000001s"),
        ("1000000001ns", "1.000000001s"),
    ],
)
def test_K12_durations_are_told_as_go_prints_them(written: str, shown: str) -> None:
    assert told(f'HEALTHCHECK --timeout={written} --retries=3 CMD ["a", "b c"]') == [
        f"HEALTHCHECK {{Test:[CMD a b c] Interval:0s Timeout:{shown} StartPeriod:0s"
        " StartInterval:0s Retries:3}"
    ]


def test_K13_triggers_are_kept_as_written() -> None:
    made = stage("ONBUILD RUN  make   $x\nONBUILD copy a b\n", base=Execution(on_build=("RUN z",)))
    assert made.config.execution.on_build == ("RUN  make   $x", "copy a b")
    assert [line.history.created_by for line in made.history] == ["RUN /bin/sh -c z # buildkit"]
    assert len(made.steps) == 1
    assert stage("ONBUILD COPY only").config.execution.on_build == ("COPY only",)


def runs(made: PlannedStage) -> list[str]:
    """What the RUNs of a stage hand to the shell."""
    return [one.argv[-1] for one in made.steps if isinstance(one, Run)]


def test_K14_triggers_run_in_order_before_the_stages_own() -> None:
    made = stage("RUN c", base=Execution(on_build=("ENV a=1", "RUN a", "RUN b")))
    assert runs(made) == ["a", "b", "c"]
    assert "a=1" in made.config.execution.env and made.config.execution.on_build == ()
    assert [one.name for one in made.steps] == [
        "[2/4] ONBUILD RUN a",
        "[3/4] ONBUILD RUN b",
        "[4/4] RUN c",
    ]


def test_K14_they_run_for_stages_too_and_only_once() -> None:
    made = plan("FROM a AS p\nONBUILD RUN t\nRUN p\nFROM p AS c\nRUN c\nFROM c AS g\nRUN g\n")
    assert [runs(one) for one in made.stages] == [["p"], ["t", "c"], ["g"]]
    assert [one.config.execution.on_build for one in made.stages] == [("RUN t",), (), ()]


def test_K14_they_know_the_names_of_the_childs_file() -> None:
    base = Execution(on_build=("COPY --from=src /x /y", "RUN --mount=from=src,target=/m t"))
    others = {"plain": BASE}
    made = plan("FROM plain AS src\nFROM plain\nFROM trigger\n", base=base, others=others)
    assert [one.index for one in made.stages] == [0, 2]
    copy, run = last(made).steps
    assert isinstance(copy, Copy) and copy.origin == StageOrigin(0)
    assert isinstance(run, Run)
    [mount] = run.mounts
    assert isinstance(mount, BindMount) and mount.origin == StageOrigin(0)
    made = plan("FROM trigger\n", base=base, contexts=("src",))
    assert made.images.keys() == {"docker.io/library/trigger:latest linux/amd64"}


def test_K14_they_are_told_as_if_they_stood_there() -> None:
    base = Execution(on_build=("ARG v=1", "RUN make $v", "COPY a b /c/", "LABEL a=$v"))
    assert told("", None) == []
    made = stage("", base=base)
    assert [line.history.created_by for line in made.history] == [
        "ARG v=1",
        "RUN |1 v=1 /bin/sh -c make $v # buildkit",
        "COPY a b /c/ # buildkit",
        "LABEL a=1",
    ]


def test_K14_a_thousand_triggers() -> None:
    made = stage("RUN x", base=Execution(on_build=("RUN t",) * 20_000))
    assert (len(made.steps), made.steps[19_999].name) == (20_001, "[20001/20002] ONBUILD RUN t")
    assert made.steps[20_000].name == "[20002/20002] RUN x"


def test_K14_copying_from_an_image_triggers_nothing() -> None:
    others = {"trigger": Execution(on_build=("RUN t",))}
    text = "FROM a\nCOPY --from=trigger x y\nRUN --mount=from=trigger,target=/m r\n"
    assert runs(last(plan(text, others=others))) == ["r"]
    text = "FROM a AS p\nONBUILD RUN t\nFROM a\nCOPY --from=p x y\nRUN r\n"
    assert runs(last(plan(text))) == ["r"]


@pytest.mark.parametrize(
    ("trigger", "kind"),
    [
        ("COPY only", SyntaxProblem),
        ("NOPE x", UnknownInstruction),
        ("RUN --nope x", BadFlag),
        ("RUN a\nRUN b", SyntaxProblem),
        ("ONBUILD RUN x", SyntaxProblem),
        ("FROM x", SyntaxProblem),
        ("EXPOSE x", DockerfileError),
        ("ENV a=${b:?c}", ExpansionFailed),
        ("COPY --from=7 x y", DockerfileError),
    ],
)
def test_K14_errors_are_at_from(trigger: str, kind: type[DockerfileError]) -> None:
    with pytest.raises(kind) as caught:
        plan("# one\n\nFROM a\nRUN x\n", base=Execution(on_build=(trigger,)))
    assert caught.value.span is not None
    assert (caught.value.span.start, caught.value.span.end) == (3, 3)


# 8.2 and 8.3 Layers, configuration, history


@pytest.mark.parametrize("text", ["RUN x", "COPY a b", "ADD a b", "WORKDIR /a", 'RUN ["x"]'])
def test_Y1_what_makes_a_layer(text: str) -> None:
    made = stage(text)
    assert len(made.steps) == 1
    assert [(line.step, line.history.empty_layer) for line in made.history] == [(0, False)]


@pytest.mark.parametrize(
    "text",
    [
        "ARG A=1",
        "ENV A=1",
        "LABEL a=1",
        "WORKDIR /",
        "USER u",
        'SHELL ["s"]',
        "CMD c",
        "ENTRYPOINT e",
        "EXPOSE 1",
        "VOLUME /v",
        "STOPSIGNAL 9",
        "HEALTHCHECK NONE",
        "MAINTAINER m",
    ],
)
def test_Y1_what_is_history_only(text: str) -> None:
    made = stage(text)
    assert made.steps == ()
    assert [(line.step, line.history.empty_layer) for line in made.history] == [(None, True)]


def test_Y1_what_is_not_even_that() -> None:
    assert stage("ONBUILD RUN x").history == ()
    assert stage("").history == ()


FULL = Execution(
    user="u",
    exposed_ports=("80/tcp",),
    env=("PATH=/p", "A=1"),
    entrypoint=("e",),
    cmd=("c",),
    volumes=("/v",),
    working_dir="/w",
    labels={"l": "1"},
    stop_signal="SIGINT",
    shell=("/bin/bash", "-c"),
    healthcheck=Healthcheck(("NONE",)),
)


@pytest.mark.parametrize("text", ["FROM a", "FROM a AS p\nFROM p"])
def test_Y2_everything_is_inherited_but_created_and_triggers(text: str) -> None:
    old = History("old", created="2020-01-01T00:00:00Z")
    layer = Digest.of(b"layer")
    base = ImageConfig(
        AMD64,
        execution=Execution(
            **{f: getattr(FULL, f) for f in FULL.__slots__} | {"on_build": ("ENV T=1",)}
        ),
        diff_ids=(layer,),
        history=(old,),
        created="2020-01-01T00:00:00Z",
        author="me",
    )
    found = last(plan(text, base=base)).config
    expected = {f: getattr(FULL, f) for f in FULL.__slots__} | {"env": (*FULL.env, "T=1")}
    assert found.execution == Execution(**expected)
    assert (found.author, found.history, found.created) == ("me", (old,), "")
    assert found.diff_ids == (layer,)


def test_Y2_scratch_starts_with_nothing() -> None:
    found = last(plan("FROM scratch")).config
    assert (found.author, found.history, found.diff_ids) == ("", (), ())
    assert (found.execution.working_dir, found.execution.cmd) == ("/", None)


def test_Y3_the_platform_is_the_one_asked_for() -> None:
    assert last(plan("FROM a", platform=ARM64)).config.platform == ARM64
    assert last(plan("FROM scratch", platform=ARM64)).config.platform == ARM64
    assert last(plan("FROM --platform=linux/arm64 a")).config.platform == ARM64


def test_Y3_or_the_bases_if_none_was() -> None:
    base = ImageConfig(ARM64, BASE, unknown={"os.version": "10.0"})
    found = last(plan("FROM a", base=base)).config
    assert (found.platform, found.unknown) == (ARM64, {"os.version": "10.0"})
    assert last(plan("FROM scratch")).config.platform == AMD64


def test_Y3_a_stage_of_a_stage_has_that_ones_platform() -> None:
    base = ImageConfig(ARM64, BASE)
    assert last(plan("FROM a AS p\nFROM p", base=base)).config.platform == ARM64


def test_Y3_whatever_platform_the_targets_base_has() -> None:
    base = ImageConfig(AMD64, BASE, unknown={"os.version": "10", "os.features": ["f"]})
    made = last(plan("FROM --platform=linux/amd64 a AS amd64", base=base, platform=ARM64))
    assert (made.config.platform, made.platform) == (ARM64, AMD64)
    assert made.config.unknown == {"os.features": ["f"]}
    made = last(plan("FROM a", base=base, platform=AMD64))
    assert (made.config.platform, made.config.unknown) == (AMD64, base.unknown)


def test_Y3_only_the_target_is_changed() -> None:
    made = plan("FROM --platform=linux/amd64 a AS amd64\nFROM amd64", platform=ARM64)
    assert [one.config.platform for one in made.stages] == [AMD64, ARM64]
    assert [one.platform for one in made.stages] == [AMD64, AMD64]


def test_Y3_a_variant_stays_where_none_was_asked_for() -> None:
    base = ImageConfig(Platform("linux", "amd64", "v3"), BASE)
    assert last(plan("FROM a", base=base, platform=AMD64)).config.platform.variant == "v3"


def test_Y4_layers_of_the_base_come_first() -> None:
    layers = (Digest.of(b"1"), Digest.of(b"2"))
    made = stage("RUN x\nENV a=1\nRUN y", base=ImageConfig(AMD64, BASE, diff_ids=layers))
    assert made.config.diff_ids == layers
    assert [line.step for line in made.history] == [0, None, 1]


def test_Y5_layers_without_an_instruction_have_their_comment() -> None:
    made = plan("FROM tree\nRUN x", contexts=("tree",))
    merged, ran = last(made).history
    assert (merged.history.comment, merged.step) == ("buildkit.exporter.image.v0", 0)
    assert (ran.history.created_by, ran.step) == ("RUN /bin/sh -c x # buildkit", 1)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("RUN make", "RUN /bin/sh -c make # buildkit"),
        ('RUN ["ls", "a b"]', "RUN ls a b # buildkit"),
        ("RUN --network=none make", "RUN /bin/sh -c make # buildkit"),
        ("COPY a b /c/", "COPY a b /c/ # buildkit"),
        (
            "ARG v=1\nCOPY --link --exclude=x --chmod=64$v --chown=$v --parents a$v /b$v",
            "COPY --parents --chown=1 --chmod=641 a1 /b1 # buildkit",
        ),
        ("COPY --from=img a /b", "COPY a /b # buildkit"),
        ("COPY f <<a <<'b' /c/\na\nb", "COPY f <<a <<b /c/ # buildkit"),
        ("ADD --chown=1 f <<a /c/\na", "ADD --chown=1 f <<a /c/ # buildkit"),
        ("COPY f $UNSET", "COPY f  # buildkit"),
        (
            "ADD --unpack --keep-git-dir --link https://h/x.tar /c",
            "ADD https://h/x.tar /c # buildkit",
        ),
        ("RUN --mount=type=secret,id=x,env=E echo $E", "RUN /bin/sh -c echo $E # buildkit"),
        ("WORKDIR $UNSET", "WORKDIR /"),
        ('VOLUME ["/a b"]', "VOLUME [/a b]"),
        (f"ADD --checksum={SHA} http://h/x /c", "ADD http://h/x /c # buildkit"),
        ('COPY ["a b", "c"]', "COPY a b c # buildkit"),
        ("WORKDIR a/../b", "WORKDIR /b"),
        ("ENV a=1 b='x y' c=$PATH", "ENV a=1 b=x y c=/base"),
        ("ENV a 1  2", "ENV a=1  2"),
        ('LABEL a=1 "b c"=2', "LABEL a=1 b c=2"),
        ("ARG k=v k2", "ARG k=v k2"),
        ("ARG k=${x:-d}", "ARG k=d"),
        ("USER x:y", "USER x:y"),
        ("STOPSIGNAL term", "STOPSIGNAL term"),
        ("MAINTAINER a  b", "MAINTAINER a  b"),
        ('CMD ["a", "b\\"c\\n"]', 'CMD ["a" "b\\"c\\n"]'),
        ("CMD a b", 'CMD ["/bin/sh" "-c" "a b"]'),
        ("CMD []", "CMD []"),
        ('ENTRYPOINT ["e", "x y"]', 'ENTRYPOINT ["e" "x y"]'),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ("VOLUME /b /a", "VOLUME [/b /a]"),
        ("EXPOSE 5000 2375", "EXPOSE [2375/tcp 5000/tcp]"),
        (
            "HEALTHCHECK NONE",
            "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s"
            " Retries:0}",
        ),
        (
            "HEALTHCHECK --interval=5m --timeout=3s CMD x",
            "HEALTHCHECK {Test:[CMD-SHELL x] Interval:5m0s Timeout:3s StartPeriod:0s"
            " StartInterval:0s Retries:0}",
        ),
    ],
)
def test_Y6_history(text: str, line: str) -> None:
    assert told(text)[-1] == line


def test_Y6_runs_tell_the_arguments_in_scope() -> None:
    text = "ARG foo=bar\nARG bar=123\nARG foo=bar2\nRUN ls /etc/"
    assert told(text)[-1] == "RUN |2 foo=bar2 bar=123 /bin/sh -c ls /etc/ # buildkit"
    assert told("ARG a=1 b\nENV a=2\nRUN x")[-1] == "RUN |2 a=2 b= /bin/sh -c x # buildkit"
    made = plan("FROM a AS p\nARG a=1\nFROM p\nARG b=2\nRUN x")
    line = last(made).history[-1].history.created_by
    assert line == "RUN |2 a=1 b=2 /bin/sh -c x # buildkit"


def test_Y6_git_sources_are_told_too() -> None:
    made = stage("ADD --keep-git-dir=true https://h/r.git#v1:sub /x")
    [add] = made.steps
    assert isinstance(add, Copy) and isinstance(add.fetched[0], GitSource)
    assert made.history[0].history.created_by == "ADD https://h/r.git#v1:sub /x # buildkit"


# What COPY and ADD of a plan show


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("x", "/w/x"), ("x/", "/w/x/"), ("x/.", "/w/x/"), (".", "/w/"), ("./", "/w/"), ("$UNSET", "/w/"),
        ("/", "/"), ("/a/../b", "/b"), ("../x", "/x"), ("//a//b/", "/a/b/"), ("..", "/"),
    ],
)  # fmt: skip
def test_C9_destinations(written: str, path: str) -> None:
    assert step(Copy, f"WORKDIR /w\nCOPY f {written}").destination == path
    assert step(Copy, f"WORKDIR /w\nADD --link f {written}").destination == path


@pytest.mark.parametrize("mode", ["600", "0755", "7777", "u=rwX,go=rX", "+x", "a-w"])
def test_C12_modes_are_kept_as_written(mode: str) -> None:
    assert step(Copy, f"COPY --chmod={mode} f /f").chmod == mode
    assert step(Copy, f"ARG m={mode}\nADD --chmod=$m f /f").chmod == mode


def test_C22_sources_start_at_the_root_of_what_they_are_from() -> None:
    copy = step(Copy, "WORKDIR /w\nENV v=x\nCOPY --from=img a /b/$v ../c /d/")
    assert copy.sources == ("a", "/b/x", "../c")
    assert copy.destination == "/d/"


def test_C23_excludes_are_kept_in_order() -> None:
    assert step(Copy, "COPY --exclude=a --exclude=!b --exclude=$c . /d").exclude == (
        "a",
        "!b",
        "$c",
    )


def test_C25_a_link_is_dropped_where_modes_are_changed() -> None:
    assert step(Copy, "COPY --link f /f").link
    assert not step(Copy, "COPY --link --chmod=600 f /f").link
    assert step(Copy, "COPY --link --chmod=$UNSET f /f").link
    assert told("COPY --link f /f") == told("COPY f /f")


@pytest.mark.parametrize(
    ("flag", "unpack"), [("", True), ("--unpack=false ", False), ("--unpack ", True)]
)
def test_C26_C27_what_is_unpacked(flag: str, unpack: bool) -> None:
    assert step(Copy, f"ADD {flag}a.tar /x").unpack is unpack
    assert not step(Copy, "COPY a.tar /x").unpack
    fetched = step(Copy, f"ADD {flag}http://h/a.tar /x").fetched[0]
    assert isinstance(fetched, UrlSource) and fetched.unpack is (flag == "--unpack ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"ADD --checksum={SHA} http://h/a http://h/b /x",
            "checksum can't be specified for multiple sources",
        ),
        (f"ADD --checksum={SHA} f /x", "checksum requires HTTP(S) or Git sources"),
        ("ADD --checksum=md5:1 http://h/a /x", 'invalid checksum "md5:1" for http://h/a'),
        ("ADD --checksum=x https://h/r.git /x", 'invalid checksum "x" for https://h/r.git'),
        (
            f"ADD --checksum={'a' * 40} https://h/r.git?checksum={'b' * 40} /x",
            f'checksum mismatch "{"a" * 40}" != "{"b" * 40}"',
        ),
    ],
)
def test_C28_checksums(text: str, message: str) -> None:
    assert refused(text) == message


def test_C3_variables_hide_no_remote_source_from_copy() -> None:
    assert refused("ARG u=http://h/a\nCOPY $u /x") == "source can't be a URL for COPY"
    assert refused("ARG u=https://h/r.git\nCOPY $u /x") == "source can't be a git ref for COPY"
