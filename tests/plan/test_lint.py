"""Every lint rule of dockerfile-language 9: BuildKit's names, texts and places."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.lint import RULES, CheckOptions
from assembler.dockerfile.parser import parse_prefix
from assembler.errors import UsageError
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, examine, make, needs
from assembler.plan.plan import PlanWarning, ResolvedImage
from assembler.plan.resolution import Need
from assembler.source import Source
from tests.bounds import cpu_seconds

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
PAGE = "https://docs.docker.com/go/dockerfile/rule"

Found = list[tuple[int, str, str]]
"""Line, rule and message of each warning."""


def request(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    target: str = "",
    ignore: str = "",
    platform: Platform | None = None,
    every_stage: bool = True,
) -> PlanRequest:
    rules = IgnoreRules.parse(Source(".dockerignore", ignore)) if ignore else None
    return PlanRequest(
        dockerfile=parse_prefix(Source("Dockerfile", text))[0],
        build_args=args or {},
        target=target,
        platform=platform,
        build_platform=AMD64,
        ignore=rules,
        every_stage=every_stage and not target,
    )


def image(need: Need, config: ImageConfig | None = None) -> ResolvedImage:
    manifest = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
    known = ImageConfig(need.platform, Execution(env=("PATH=/base",)))
    return ResolvedImage(need.image, manifest, config or known, ())


def images(asked: PlanRequest, config: ImageConfig | None = None) -> dict[str, ResolvedImage]:
    """Every image that is needed, with the configuration `config`."""
    resolved: dict[str, ResolvedImage] = {}
    while missing := needs(asked, resolved):
        resolved |= {need.key: image(need, config) for need in missing}
    return resolved


def told(warnings: tuple[PlanWarning, ...]) -> Found:
    return [(one.span.start if one.span else 0, one.rule, one.message) for one in warnings]


def lint(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    config: ImageConfig | None = None,
    target: str = "",
    ignore: str = "",
    platform: Platform | None = None,
) -> Found:
    """What `check` finds in `text`, lines separated by ` / ` where it has no line end."""
    text = text if "\n" in text else text.replace(" / ", "\n")
    asked = request(text, args, target=target, ignore=ignore, platform=platform)
    warnings, error = examine(asked, images(asked, config))
    assert error is None, error
    return told(warnings)


def only(rule: str, text: str, args: Mapping[str, str] | None = None) -> list[tuple[int, str]]:
    """Line and message of what `rule` alone finds."""
    return [(line, message) for line, name, message in lint(text, args) if name == rule]


# the table


def test_every_rule_has_buildkits_name_page_and_description() -> None:
    pages = {name: rule.url.removeprefix(PAGE) for name, rule in RULES.items()}
    assert pages == {
        "StageNameCasing": "/stage-name-casing/",
        "FromAsCasing": "/from-as-casing/",
        "NoEmptyContinuation": "/no-empty-continuation/",
        "ConsistentInstructionCasing": "/consistent-instruction-casing/",
        "DuplicateStageName": "/duplicate-stage-name/",
        "ReservedStageName": "/reserved-stage-name/",
        "JSONArgsRecommended": "/json-args-recommended/",
        "MaintainerDeprecated": "/maintainer-deprecated/",
        "UndefinedArgInFrom": "/undefined-arg-in-from/",
        "UndefinedVar": "/undefined-var/",
        "WorkdirRelativePath": "/workdir-relative-path/",
        "MultipleInstructionsDisallowed": "/multiple-instructions-disallowed/",
        "LegacyKeyValueFormat": "/legacy-key-value-format/",
        "InvalidBaseImagePlatform": "",
        "RedundantTargetPlatform": "/redundant-target-platform/",
        "SecretsUsedInArgOrEnv": "/secrets-used-in-arg-or-env/",
        "InvalidDefaultArgInFrom": "/invalid-default-arg-in-from/",
        "FromPlatformFlagConstDisallowed": "/from-platform-flag-const-disallowed/",
        "CopyIgnoredFile": "/copy-ignored-file/",
        "ExposeProtoCasing": "/expose-proto-casing/",
        "ExposeInvalidFormat": "/expose-invalid-format/",
        "InvalidDefinitionDescription": "/invalid-definition-description/",
    }
    assert [name for name, rule in RULES.items() if rule.experimental] == [
        "InvalidDefinitionDescription"
    ]
    assert RULES["UndefinedVar"].description == "Variables should be defined before their use"
    assert RULES["CopyIgnoredFile"].description == (
        "Attempting to Copy file that is excluded by .dockerignore"
    )


# names and casing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Bad", [(1, "Stage name 'Bad' should be lowercase")]),
        ("FROM --platform=$BUILDPLATFORM a AS x / FROM b AS aB_c", [(2, "Stage name 'aB_c' should be lowercase")]),
        ("FROM a AS good-1.x / FROM A.io/b", []),
    ],
)  # fmt: skip
def test_StageNameCasing(text: str, expected: list[tuple[int, str]]) -> None:
    assert only("StageNameCasing", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a as b", [(1, "'as' and 'FROM' keywords' casing do not match")]),
        ("from a AS b", [(1, "'AS' and 'from' keywords' casing do not match")]),
        ("FROM a As b", [(1, "'As' and 'FROM' keywords' casing do not match")]),
        ("FROM --platform=linux/$TARGETARCH a as b", [(1, "'as' and 'FROM' keywords' casing do not match")]),
        ("FROM a AS b / from b as c", []),
        ("From a as b", []),
        ("FROM a", []),
    ],
)  # fmt: skip
def test_FromAsCasing(text: str, expected: list[tuple[int, str]]) -> None:
    assert only("FromAsCasing", text) == expected


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("FROM a\n# note\nCOPY x \\\n\n.\nCOPY x \\\n.\n", [5]),
        ("FROM a\nRUN a \\\n\n \t\n b \\\n # c\n\n c\nRUN d\n", [8]),
        ("FROM a\nRUN <<E \\\n\n cat\nbody\n\nE\nRUN x\n", [4]),
        ("FROM a\n\nRUN a \\\n # comment\n b\n\nRUN <<E\n\nE\n", []),
    ],
)
def test_L4_NoEmptyContinuation_is_said_once_of_the_line_that_ends_it(
    text: str, lines: list[int]
) -> None:
    assert only("NoEmptyContinuation", text) == [(n, "Empty continuation line") for n in lines]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("From a as b / FROM a AS c", [(1, "From", "uppercase")]),
        ("FROM a / copy x /1 / COPY x /2", [(2, "copy", "uppercase")]),
        ("frOM a as b / from a as c", [(1, "frOM", "lowercase")]),
        ("from a / COPY x /1 / copy x /2", [(2, "COPY", "lowercase")]),
        ("from a / COPY x /1 / COPY x /2", [(1, "from", "uppercase")]),
        ("FROM a / copy x /1 / copy x /2", [(1, "FROM", "lowercase")]),
        ("FROM a / copy x /", [(2, "copy", "uppercase")]),
        ("From a / Copy x /", [(1, "From", "uppercase"), (2, "Copy", "uppercase")]),
        ("from a / copy x /1", []),
        ("FROM a / COPY x /1", []),
        ("arg X=1 / FROM a / RUN x", []),
        ("FROM a\nRUN <<'EOT'\nenv\nlower x\nEOT\n", []),
        ("FROM a / ONBUILD run x / RUN x", []),
    ],
)
def test_ConsistentInstructionCasing(text: str, found: list[tuple[int, str, str]]) -> None:
    assert only("ConsistentInstructionCasing", text) == [
        (line, f"Command '{word}' should match the case of the command majority ({case})")
        for line, word, case in found
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS b / FROM a AS b", [(2, 'Duplicate stage name "b", stage names should be unique')]),
        ("FROM a AS b / FROM a AS B / FROM a AS b",
         [(2, 'Duplicate stage name "b", stage names should be unique'),
          (3, 'Duplicate stage name "b", stage names should be unique')]),
        ("FROM a AS b1 / FROM a AS b2 / FROM a / FROM a", []),
    ],
)  # fmt: skip
def test_S9_DuplicateStageName(text: str, expected: list[tuple[int, str]]) -> None:
    assert only("DuplicateStageName", text) == expected


def test_S17_ReservedStageName() -> None:
    message = 'Stage name should not use the same name as reserved stage "%s"'
    text = "FROM scratch AS scratch / FROM scratch AS Context"
    assert only("ReservedStageName", text) == [(1, message % "scratch"), (2, message % "context")]
    assert only("ReservedStageName", "FROM scratch / FROM scratch AS contexts") == []


# forms


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a / CMD run me", [(2, "CMD")]),
        ("FROM a / ENTRYPOINT run me", [(2, "ENTRYPOINT")]),
        ("from a / cmd x / entrypoint y", [(2, "cmd"), (3, "entrypoint")]),
        ("FROM a / CMD ['single', 'quotes']", [(2, "CMD")]),
        ('FROM a / CMD ["x"] / ENTRYPOINT ["y"]', []),
        ('FROM a / SHELL ["/bin/custom"] / CMD x / ENTRYPOINT y', []),
        ('FROM a AS b / SHELL ["/bin/custom"] / FROM b / ENTRYPOINT x', []),
        ("FROM a / HEALTHCHECK CMD x", []),
        ("FROM a / RUN x", []),
    ],
)
def test_JSONArgsRecommended(text: str, found: list[tuple[int, str]]) -> None:
    assert only("JSONArgsRecommended", text) == [
        (
            line,
            f"JSON arguments recommended for {name} to prevent unintended behavior related to OS"
            " signals",
        )
        for line, name in found
    ]


def test_JSONArgsRecommended_knows_the_shell_of_the_base_image() -> None:
    config = ImageConfig(AMD64, Execution(shell=("/bin/bash", "-c")))
    assert lint("FROM a / CMD x", config=config) == []


def test_MaintainerDeprecated() -> None:
    message = "Maintainer instruction is deprecated in favor of using label"
    assert only("MaintainerDeprecated", "FROM a / MAINTAINER me") == [(2, message)]
    assert only("MaintainerDeprecated", "FROM a / maintainer me") == [(2, message)]
    assert only("MaintainerDeprecated", "FROM a / LABEL maintainer=me") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a / ENV k value", [(2, "ENV")]),
        ("FROM a / LABEL k some value", [(2, "LABEL")]),
        ("from a / env k v / label k v", [(2, "env"), (3, "label")]),
        ("FROM a / ENV ONE TWO= THREE=x", [(2, "ENV")]),
        ("FROM a / ENV k=value / LABEL k=value m='a b'", []),
    ],
)
def test_A14_LegacyKeyValueFormat(text: str, found: list[tuple[int, str]]) -> None:
    assert only("LegacyKeyValueFormat", text) == [
        (line, f'"{name} key=value" should be used instead of legacy "{name} key value" format')
        for line, name in found
    ]


def again(name: str, line: int) -> tuple[int, str]:
    return line, (
        f"Multiple {name} instructions should not be used in the same stage because only the last"
        " one will be used"
    )


def test_MultipleInstructionsDisallowed_is_said_of_the_one_in_vain() -> None:
    rule = "MultipleInstructionsDisallowed"
    once = 'ENTRYPOINT ["a"] / CMD ["a"] / HEALTHCHECK CMD ["a"]'
    wanted = [again("ENTRYPOINT", 2), again("CMD", 3), again("HEALTHCHECK", 4)]
    assert only(rule, f"FROM a / {once} / RUN x / {once}") == wanted
    assert only(rule, 'FROM a / CMD ["1"] / CMD ["2"] / CMD ["3"]') == [
        again("CMD", 2),
        again("CMD", 3),
    ]
    assert only(rule, 'FROM a / HEALTHCHECK CMD ["x"] / HEALTHCHECK NONE') == [
        again("HEALTHCHECK", 2)
    ]
    assert only(rule, f"FROM a / {once} / FROM a / {once}") == []
    assert only(rule, f"FROM a AS b / {once} / FROM b / {once}") == []


@pytest.mark.parametrize("above", ["first", "second"])
def test_MultipleInstructionsDisallowed_is_kept_quiet_above_either(above: str) -> None:
    comment = "# check=skip=MultipleInstructionsDisallowed / "
    first, second = (comment if above == name else "" for name in ("first", "second"))
    assert lint(f'FROM a / {first}CMD ["a"] / {second}CMD ["b"]') == []


# paths


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a / WORKDIR app/", [(2, "app/")]),
        ("FROM a / WORKDIR app / WORKDIR b", [(2, "app")]),
        ("FROM a / ARG D=x / WORKDIR $D/y", [(3, "x/y")]),
        ("FROM a AS b / WORKDIR x / FROM a / WORKDIR y", [(2, "x"), (4, "y")]),
        ("FROM a AS b / WORKDIR x / FROM b / WORKDIR y", [(2, "x")]),
        ("FROM a AS b / WORKDIR /app / FROM b AS c / FROM c / WORKDIR sub", []),
        ("FROM a / ENV D=/x / WORKDIR ${D}", []),
        ("FROM a / WORKDIR /", []),
    ],
)
def test_WorkdirRelativePath(text: str, found: list[tuple[int, str]]) -> None:
    assert only("WorkdirRelativePath", text) == [
        (
            line,
            f'Relative workdir "{path}" can have unexpected results if the base image changes',
        )
        for line, path in found
    ]


@pytest.mark.parametrize(
    ("text", "ignore", "found"),
    [
        ("FROM a / COPY Dockerfile . / ADD Dockerfile /w", "Dockerfile\n", [(2, "Copy", "Dockerfile"), (3, "Add", "Dockerfile")]),
        ("FROM a / COPY ./d/../f /", "f\n", [(2, "Copy", "f")]),
        ("FROM a / COPY /f /", "f\n", [(2, "Copy", "/f")]),
        ("FROM a / COPY d/x /", "d\n", [(2, "Copy", "d/x")]),
        ("FROM a / COPY a b c /x/", "*.md\nb\n", [(2, "Copy", "b")]),
        ("FROM a / ARG F=f / COPY $F /", "f\n", [(3, "Copy", "f")]),
        ("FROM a / COPY *.md /", "*.md\n", [(2, "Copy", "*.md")]),
        ('FROM a / COPY ["a b", "/"]', "a b\n", [(2, "Copy", "a b")]),
        ("FROM a / COPY . .", "*\n", [(2, "Copy", ".")]),
        ("FROM a\nCOPY / .", "**\n", [(2, "Copy", "/")]),
        ("FROM a / ADD . .", "**/*\n", [(2, "Add", ".")]),
        ("FROM a / COPY . .", ".*\n", []),
        ("FROM a / COPY Dockerfile .", "**\n!Dockerfile\n", []),
        ("FROM a / COPY . .", "**\n!Dockerfile\n", []),
        ("FROM a / COPY f .", "", []),
        ("FROM a AS b / FROM a / COPY --from=b f .", "f\n", []),
        ("FROM a / ADD https://h/f . / ADD https://h/r.git /r", "**\n", []),
        ("FROM a\nCOPY <<f /x\nE\nf\n", "f\n", []),
    ],
)  # fmt: skip
def test_G8_CopyIgnoredFile(text: str, ignore: str, found: list[tuple[int, str, str]]) -> None:
    assert lint(text, ignore=ignore) == [
        (
            line,
            "CopyIgnoredFile",
            f'Attempting to {verb} file "{path}" that is excluded by .dockerignore',
        )
        for line, verb, path in found
    ]


# variables


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM --platform=$BUILDPLATFORM a", []),
        ("ARG base=a / FROM $base", []),
        ("ARG DEBUG / FROM scratch${DEBUG}", []),
        ("ARG DEBUG / FROM scra${DEBUG:-tch}", []),
        ("ARG tag=latest / FROM a:${tag}${version} AS b", [(2, "version", "")]),
        ("FROM a:${VERSION:-12}", [(1, "VERSION", "")]),
        ("FROM a${SUFFIX+-slim}", [(1, "SUFFIX", "")]),
        ("ARG VERSION=1 / FROM a:1$VERSOIN", [(2, "VERSOIN", " (did you mean VERSION?)")]),
        ("FROM --platform=linux/amd64$BULIDPLATFORM a AS linux", [(1, "BULIDPLATFORM", " (did you mean BUILDPLATFORM?)")]),
        ("FROM a AS b / ARG X=1 / FROM a:1$X", [(3, "X", "")]),
    ],
)  # fmt: skip
def test_UndefinedArgInFrom(text: str, found: list[tuple[int, str, str]]) -> None:
    assert only("UndefinedArgInFrom", text) == [
        (line, f"FROM argument '{name}' is not declared{hint}") for line, name, hint in found
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a / COPY $foo .", [(2, "foo", "")]),
        ("FROM a / COPY $foo . / ARG foo=bar / RUN echo $foo", [(2, "foo", "")]),
        ("FROM a / COPY ${foo:-x} .", [(2, "foo", "")]),
        ("FROM a / COPY x${foo:+-y} .", [(2, "foo", "")]),
        ("FROM a / COPY ${foo#x} . / ADD ${bar/a/b} .", [(2, "foo", ""), (3, "bar", "")]),
        ("FROM a / ARG DIR_BINARIES=b / ARG DIR_ASSETS=a / COPY $DIR_ASSET .", [(4, "DIR_ASSET", " (did you mean $DIR_ASSETS?)")]),
        ("FROM a / ENV PATH=$PAHT:/x", [(2, "PAHT", " (did you mean $PATH?)")]),
        ("FROM a / ENV a=1 b=$a", [(2, "a", "")]),
        ("FROM a / ARG b=$a a=1", [(2, "a", "")]),
        ("FROM a / COPY --chown=$U --chmod=${M} x $D", [(2, "D", ""), (2, "M", ""), (2, "U", "")]),
        ("FROM a / LABEL k=$v / USER root$u / WORKDIR /x$w / VOLUME /x$o", [(2, "v", ""), (3, "u", ""), (4, "w", ""), (5, "o", "")]),
        ("FROM a / EXPOSE 80$p / STOPSIGNAL 1$s", [(2, "p", ""), (3, "s", "")]),
        ("FROM a / RUN --mount=type=cache,target=/c$d x", [(2, "d", "")]),
        ("FROM a\nCOPY <<E /x\n$one ${two}\nE\n", [(2, "one", ""), (2, "two", "")]),
        ("FROM a AS b / ARG X=1 / FROM a / COPY $X .", [(4, "X", "")]),
        ("ARG X=1 / FROM a / COPY $X .", [(3, "X", "")]),
        ("FROM scratch / ENV P=$PATH", []),
        ("FROM a / ENV P=$PATH", []),
        ("FROM a / ARG foo / COPY D${foo} .", []),
        ("FROM a AS b / ARG foo=D / FROM b / COPY $foo .", []),
        ("FROM a / ARG a=1 b=$a", []),
        ("FROM a / RUN echo $foo / CMD echo $foo / ENTRYPOINT [\"$foo\"] / HEALTHCHECK CMD $foo", []),
        ("FROM a\nRUN <<E\n$foo\nE\nCOPY <<\"E\" /x\n$foo\nE\n", []),
        ("FROM a / COPY \\$foo '$bar' /", []),
        ("FROM a / ONBUILD COPY $foo /", []),
        ("FROM a / ARG BUILDKIT_SBOM_SCAN_STAGE=1 / LABEL x=$BUILDKIT_SBOM_SCAN_STAGE", []),
    ],
)  # fmt: skip
def test_V3_LN1_UndefinedVar(text: str, found: list[tuple[int, str, str]]) -> None:
    assert only("UndefinedVar", text) == [
        (line, f"Usage of undefined variable '${name}'{hint}") for line, name, hint in found
    ]


def test_A2_a_default_that_a_build_argument_overrides_uses_nothing() -> None:
    assert only("UndefinedVar", "FROM a / ARG V=$nope", {"V": "1"}) == []
    assert only("UndefinedVar", "FROM a / ARG V=${nope:?} / ENV W=$V", {"V": "1"}) == []


def test_UndefinedVar_says_nothing_where_the_base_is_not_known() -> None:
    asked = request("FROM a AS b\nCOPY $x .\nFROM scratch\nCOPY $y .\nFROM b\nCOPY $z .\n")
    warnings, error = examine(asked, {})
    assert error is None
    assert told(warnings) == [(4, "UndefinedVar", "Usage of undefined variable '$y'")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a / ARG SECRET_PASSPHRASE", [(2, 'ARG "SECRET_PASSPHRASE"')]),
        ("FROM a / ENV SUPER_Secret=foo", [(2, 'ENV "SUPER_Secret"')]),
        ("FROM a / ENV password=bar secret=baz", [(2, 'ENV "password"'), (2, 'ENV "secret"')]),
        ("FROM a / ARG super_duper_secret_token=foo auth=bar", [(2, 'ARG "super_duper_secret_token"'), (2, 'ARG "auth"')]),
        ("FROM a / ENV apikey=bar sunflower=foo", [(2, 'ENV "apikey"')]),
        ("FROM a / ENV git_key=", [(2, 'ENV "git_key"')]),
        ("FROM a / ENV A=key / ENV my_$A=1", [(3, 'ENV "my_key"')]),
        ("FROM a / ENV pword=1 / ENV passwd=1 / ENV x_credentials_y=1", [(2, 'ENV "pword"'), (3, 'ENV "passwd"'), (4, 'ENV "x_credentials_y"')]),
        ("FROM a / ENV PUBLIC_KEY= / ARG public_token / ARG SECRET_PASSPHRASE_FILE", []),
        ("FROM a / ENV password_file=bar secret_File=baz / ARG AUTH_MODULE_VERSION", []),
        ("FROM a / ENV KEYBOARD=us MONKEY=1 author=me / LABEL token=x", []),
        ("ARG TOKEN=x / FROM a", []),
    ],
)  # fmt: skip
def test_SecretsUsedInArgOrEnv(text: str, found: list[tuple[int, str]]) -> None:
    assert only("SecretsUsedInArgOrEnv", text) == [
        (line, f"Do not use ARG or ENV instructions for sensitive data ({what})")
        for line, what in found
    ]


@pytest.mark.parametrize(
    ("text", "args", "found"),
    [
        ("ARG V / FROM a:$V", {"V": "1"}, [(2, "a:$V")]),
        ("ARG I / FROM $I", {"I": "a"}, [(2, "$I")]),
        ('ARG S="box:" / FROM busy${S}', {"S": "box:1"}, [(2, "busy${S}")]),
        ("ARG BUILD_TAG / FROM a:$BUILD_TAG", {"BUILD_TAG": "1"}, [(2, "a:$BUILD_TAG")]),
        ("ARG V=latest / FROM a:${V}", {"V": "x"}, []),
        ('ARG V="" / FROM a:stable${V}', {"V": "-musl"}, []),
        ("ARG V / FROM a:stable${V}", {"V": "-musl"}, []),
        ("ARG V=${V:?need it} / FROM a:$V", {"V": "1"}, []),
        ("FROM a AS Base / FROM Base", {}, []),
        ("FROM a:$TARGETARCH", {}, []),
    ],
)
def test_InvalidDefaultArgInFrom(
    text: str, args: dict[str, str], found: list[tuple[int, str]]
) -> None:
    assert only("InvalidDefaultArgInFrom", text, args) == [
        (line, f"Default value for ARG {name} results in empty or invalid base image name")
        for line, name in found
    ]


# platforms


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM --platform=$TARGETPLATFORM a", [(1, "$TARGETPLATFORM")]),
        ("FROM a / FROM --platform=${TARGETPLATFORM} a", [(2, "${TARGETPLATFORM}")]),
        ("FROM --platform=${TARGETPLATFORM:-linux/arm64} a", [(1, "${TARGETPLATFORM:-linux/arm64}")]),
        ("FROM --platform=$BUILDPLATFORM a", []),
        ("FROM --platform=$TARGETOS/$TARGETARCH a", []),
        ("FROM a", []),
    ],
)  # fmt: skip
def test_RedundantTargetPlatform(text: str, found: list[tuple[int, str]]) -> None:
    assert only("RedundantTargetPlatform", text) == [
        (
            line,
            f"Setting platform to predefined {name} in FROM is redundant as this is the default"
            " behavior",
        )
        for line, name in found
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM --platform=linux/amd64 a", [(1, "linux/amd64")]),
        ("FROM --platform=linux/amd64 a AS build / FROM a", [(1, "linux/amd64")]),
        ("FROM --platform=linux/arm/v7 a AS amd64", [(1, "linux/arm/v7")]),
        ("FROM --platform=linux/amd64 a AS my_amd64_stage", []),
        ("FROM --platform=linux/amd64 a AS linux", []),
        ("ARG P=linux/amd64 / FROM --platform=$P a", []),
        ("FROM --platform=linux/${TARGETARCH} a", []),
    ],
)
def test_S13_FromPlatformFlagConstDisallowed(text: str, found: list[tuple[int, str]]) -> None:
    assert only("FromPlatformFlagConstDisallowed", text) == [
        (line, f'FROM --platform flag should not use constant value "{value}"')
        for line, value in found
    ]


def test_S13_InvalidBaseImagePlatform() -> None:
    arm = ImageConfig(ARM64)
    assert lint("ARG N=a / FROM ${N}:1", config=arm, platform=AMD64) == [
        (
            2,
            "InvalidBaseImagePlatform",
            'Base image a:1 was pulled with platform "linux/arm64", expected "linux/amd64" for'
            " current build",
        )
    ]
    assert lint("FROM a", config=arm, platform=ARM64) == []
    assert lint("FROM a", config=arm) == [], "no platform was asked for, so it is adopted (S14)"


# EXPOSE


def test_K7_ExposeProtoCasing() -> None:
    text = "FROM a / ARG P=1/SCTP / EXPOSE 80/TcP 8080/TCP 8081/udp 8082 $P"
    assert [message for _, message in only("ExposeProtoCasing", text)] == [
        f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
        for port in ("1/SCTP", "80/TcP", "8080/TCP")
    ]
    assert only("ExposeProtoCasing", "FROM a / EXPOSE 80/tcp 81/udp 82") == []


def test_K7_ExposeInvalidFormat() -> None:
    text = "FROM a / EXPOSE 127.0.0.1:80:80 [::1]:8080:8080 5000:5000 8000 :8001"
    assert only("ExposeInvalidFormat", text) == [
        (
            2,
            "EXPOSE instruction should not define an IP address or host-port mapping, found"
            f" '{port}'",
        )
        for port in ("127.0.0.1:80:80", "5000:5000", "[::1]:8080:8080")
    ]
    assert only("ExposeInvalidFormat", "FROM a / EXPOSE 80 81-83/udp") == []


# descriptions


DESCRIBED = """\
# check=skip=all;experimental=InvalidDefinitionDescription
# foo this is the foo
ARG foo=bar

# base this is the base image
FROM scratch AS base

# version this is the version number
ARG version=latest

# baz this is the baz
ARG foo=baz bar=qux baz=quux
#
ARG bit=bat

# check=skip=UndefinedVar
ARG bat=bit

# comment for something other than ARG or FROM
COPY Dockerfile .
FROM base
# not said of a stage without a name
FROM base
"""
MISDESCRIBED = """\
# check=experimental=InvalidDefinitionDescription
# bar this is the bar
ARG foo=bar
# BasE this is the BasE image
FROM scratch AS base
# definitely a bad comment
ARG version=latest
# definitely a bad comment
ARG foo=baz bar=qux baz=quux
"""


def test_L6_InvalidDefinitionDescription_is_experimental() -> None:
    rule = "InvalidDefinitionDescription"
    assert only(rule, DESCRIBED) == []
    assert only(rule, MISDESCRIBED) == [
        (3, "Comment for ARG should follow the format: `# foo <description>`"),
        (5, "Comment for FROM should follow the format: `# base <description>`"),
        (7, "Comment for ARG should follow the format: `# version <description>`"),
        (9, "Comment for ARG should follow the format: `# <arg_key> <description>`"),
    ]
    assert only(rule, MISDESCRIBED.partition("\n")[2]) == []
    assert len(only(rule, MISDESCRIBED.replace("experimental=Inv", "experimental=all,Inv"))) == 4


# what a file wants to hear

NOISY = "FROM scratch as base\ncopy x .\n"


@pytest.mark.parametrize(
    ("directive", "rules"),
    [
        ("", ["FromAsCasing", "ConsistentInstructionCasing"]),
        ("#check=skip=all\n", []),
        ("#check=skip=all;error=true\n", []),
        ("# check = skip=ConsistentInstructionCasing, FromAsCasing\n", []),
        ("#check=skip=ConsistentInstructionCasing\n", ["FromAsCasing"]),
        ("#check=skip=fromascasing\n", ["FromAsCasing", "ConsistentInstructionCasing"]),
        ("#check=error=false;skip=FromAsCasing\n", ["ConsistentInstructionCasing"]),
        ("#!/usr/bin/env x\n#check=skip=all\n", []),
        ("\n#check=skip=FromAsCasing\n", ["ConsistentInstructionCasing"]),
        ("\n#check=skip=all\n\n#\n", ["FromAsCasing", "ConsistentInstructionCasing"]),
    ],
)
def test_D7_the_directive_chooses_rules(directive: str, rules: list[str]) -> None:
    assert [rule for _, rule, _ in lint(directive + NOISY)] == rules


def test_D7_warnings_can_be_errors() -> None:
    def violations(text: str, args: Mapping[str, str] | None = None) -> tuple[str, ...]:
        return make(request(text, args), {}).violations

    assert violations("#check=error=true\n" + NOISY) == (
        "ConsistentInstructionCasing",
        "FromAsCasing",
    )
    assert violations("#check=skip=FromAsCasing;error=true\n" + NOISY) == (
        "ConsistentInstructionCasing",
    )
    assert violations("#check=skip=all;error=true\n" + NOISY) == ()
    assert violations(NOISY) == ()
    given = {"BUILDKIT_DOCKERFILE_CHECK": "skip=ConsistentInstructionCasing;error=true"}
    assert violations("#check=skip=all\n" + NOISY, given) == ("FromAsCasing",)
    silent = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    assert violations("#check=error=true\n" + NOISY, silent) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("foo", 'invalid check option "foo"'),
        ("skip=a;foo=b", 'invalid check option "foo"'),
        ("error=perhaps", 'failed to parse check option "error=perhaps": not a boolean'),
    ],
)
def test_D7_a_wrong_option_is_an_error(options: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        CheckOptions.parse(options)
    assert str(raised.value) == message
    with pytest.raises(UsageError, match="BUILDKIT_DOCKERFILE_CHECK"):
        examine(request("FROM scratch\n", {"BUILDKIT_DOCKERFILE_CHECK": options}), {})


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("FROM a\n# check=skip=LegacyKeyValueFormat\nENV k v\nENV l w\n", [4]),
        ("FROM a\n# check=skip=LegacyKeyValueFormat // for now\nENV k v\n", []),
        ("FROM a\n# check=skip=all\n\nENV k v\n", []),
        ("FROM a\n# check=skip=all\n# why\nENV k v\n", []),
        ("FROM a\n# check=skip=all\n#\nENV k v\n", [4]),
        ("FROM a\n# check=skip=Other\nENV k v\n", [3]),
        ("FROM a\n# check=nonsense\nENV k v\n", [3]),
        ("FROM a\n# CHECK = skip=all\nENV k v\n", []),
        ("FROM a\n# check=skip=all\nRUN x \\\n\n y\n", []),
        ("# c\n# check=skip=all\nARG X\n# check=skip=all\nFROM a as b\nENV k v\n", [6]),
    ],
)
def test_D8_a_comment_is_for_the_instruction_below_it(text: str, lines: list[int]) -> None:
    assert [line for line, _, _ in lint(text)] == lines


def test_D8_a_comment_cannot_make_errors() -> None:
    text = "FROM scratch\n# check=error=true\nENV k v\n"
    assert make(request(text), {}).violations == ()


# LN1: what is looked at


STAGES = "FROM scratch AS first\nCOPY $foo .\nFROM scratch AS second\nCOPY $bar .\n"


def test_LN1_a_build_looks_at_what_the_target_needs_and_check_at_everything() -> None:
    foo = (2, "UndefinedVar", "Usage of undefined variable '$foo'")
    bar = (4, "UndefinedVar", "Usage of undefined variable '$bar'")
    assert lint(STAGES) == [foo, bar]
    assert told(make(request(STAGES, every_stage=False), {}).warnings) == [bar]
    assert lint(STAGES, target="first") == [foo]
    assert lint(STAGES, target="second") == [bar]


def test_LN1_the_text_of_every_stage_is_looked_at() -> None:
    text = "FROM scratch as X\nMAINTAINER me\nFROM a:1$nope\nFROM scratch AS last\n"
    found = {rule for _, rule, _ in lint(text, target="last")}
    assert found == {
        "FromAsCasing",
        "StageNameCasing",
        "MaintainerDeprecated",
        "UndefinedArgInFrom",
    }


def test_warnings_come_by_line() -> None:
    text = "FROM a AS B\ncopy $x .\nCMD x\nCMD y\nFROM b as c\n"
    lines = [line for line, _, _ in lint(text)]
    assert lines == sorted(lines) and len(lines) > 5


def test_a_thing_is_said_once() -> None:
    assert len(lint("FROM a / COPY $x $x /$x")) == 1


# before an error


def test_warnings_before_a_parse_error_are_kept() -> None:
    text = "FROM scratch AS Bad\nMAINTAINER me\nBADCMD\nFROM scratch AS Worse\n"
    dockerfile, error = parse_prefix(Source("Dockerfile", text))
    asked = PlanRequest(dockerfile=dockerfile, build_platform=AMD64)
    warnings, same = examine(asked, {}, error)
    assert [(line, rule) for line, rule, _ in told(warnings)] == [
        (1, "StageNameCasing"),
        (2, "MaintainerDeprecated"),
    ]
    assert same is error is not None
    assert error.message == "dockerfile parse error on line 3: unknown instruction: BADCMD"


@pytest.mark.parametrize(
    ("text", "message", "rules"),
    [
        ("FROM scratch as a\nCMD x\nCOPY --from=later x y\nFROM scratch AS later\n",
         'cannot copy from stage "later", it needs to be defined before current stage "a"', ["FromAsCasing"]),
        ("FROM scratch\nCMD x\nEXPOSE 1:2\nEXPOSE nope\nCMD y\n", "invalid containerPort: nope", ["JSONArgsRecommended", "ExposeInvalidFormat"]),
        ("FROM scratch AS a\nCMD x\nFROM scratch\nENV k v\nENV x=${y:?}\n",
         'failed to process "${y:?}": y: is not allowed to be unset', ["JSONArgsRecommended", "LegacyKeyValueFormat"]),
        ("ARG A\nFROM --platform=$BULIDPLATFORM scratch\n",
         "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)", ["UndefinedArgInFrom"]),
    ],
)  # fmt: skip
def test_warnings_before_another_error_are_kept(text: str, message: str, rules: list[str]) -> None:
    warnings, error = examine(request(text), {})
    assert error is not None and error.message == message
    assert [rule for _, rule, _ in told(warnings)] == rules


# places and scale


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("FROM a AS Bad", "Bad"),
        ("FROM a as x", "as"),
        ("FROM a / WORKDIR rel", "rel"),
        ("FROM a / COPY x$foo .", "foo"),
        ("FROM a / ENV x=1 token=2", "token"),
        ("FROM a / CMD x", "CMD"),
        ("FROM --platform=linux/amd64 a", "linux/amd64"),
        ("FROM a / EXPOSE 1 2/TCP", "2/TCP"),
    ],
)
def test_a_warning_knows_its_word(text: str, word: str) -> None:
    asked = request(text.replace(" / ", "\n"))
    [warning] = examine(asked, images(asked))[0]
    assert warning.span is not None and warning.span.word == word
    place = warning.span.place()
    assert place is not None
    line = text.split(" / ")[place.line - 1]
    assert line[place.start : place.end] == word


def test_a_thousand_stages_are_looked_at_in_a_second() -> None:
    lines = ["FROM scratch AS s0"]
    for number in range(1, 1000):
        lines += [f"FROM s{number - 1} AS s{number}", "ARG A=1", "ENV k$A v", "WORKDIR x", "CMD x"]
    asked = request("\n".join(lines))
    with cpu_seconds(2):
        warnings, error = examine(asked, {})
        assert error is None and len(warnings) == 999 * 2 + 1
