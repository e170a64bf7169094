"""What a target can be told: buildx' `--call outline` and `--call targets`."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.dockerfile.parser import parse
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, needs, outline
from assembler.plan.outline import Outline, targets
from assembler.plan.plan import ResolvedImage
from assembler.source import Source


def outlined(text: str, args: Mapping[str, str] | None = None, target: str = "") -> Outline:
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)),
        build_args=args or {},
        target=target,
        build_platform=Platform("linux", "amd64"),
    )
    resolved: dict[str, ResolvedImage] = {}
    while missing := needs(request, resolved):
        for need in missing:
            manifest = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
            config = ImageConfig(need.platform)
            resolved[need.key] = ResolvedImage(need.image, manifest, config, ())
    return outline(request, resolved)


def arguments(found: Outline) -> list[tuple[int, str, str, str]]:
    return [(one.span.start, one.name, one.value, one.description) for one in found.arguments]


ARGUMENTS = """
ARG inherited=box
ARG inherited2=box2
ARG unused=abc${inherited2}
# sfx is a suffix
ARG sfx="usy${inherited}"

FROM b${sfx} AS first
# this is not assigned to anything
ARG FOO=123
# BAR is a number
ARG BAR=456
RUN true

FROM alpine${unused} AS second
ARG BAZ
RUN true

FROM scratch AS third
ARG ABC=a
# check=skip=all
ARG password
# alternate_password will show up in the outline
# check=skip=all
ARG alternate_password

# target defines build target
FROM third AS target
COPY --from=first /etc/passwd /

FROM second
"""


def test_arguments_are_those_the_target_and_its_stages_read() -> None:
    found = outlined(ARGUMENTS, {"BAR": "678"}, "target")
    assert (found.name, found.description) == ("target", "defines build target")
    assert arguments(found) == [
        (2, "inherited", "box", ""),
        (6, "sfx", "usybox", "is a suffix"),
        (10, "FOO", "123", ""),
        (12, "BAR", "678", "is a number"),
        (20, "ABC", "a", ""),
        (22, "password", "", ""),
        (25, "alternate_password", "", "will show up in the outline"),
    ]


def test_of_several_definitions_the_last_is_shown() -> None:
    text = (
        "\nARG FOO=123\nARG ABC=abc\nARG DEF=def\nARG FOO=${FOO}${ABC}\nARG BAR=${FOO}456\n"
        "ARG FOO=${FOO}456${BAR}\nFROM scratch\nARG FOO\nARG INFOO=123\nARG INBAR=${INFOO}456\n"
        "ARG INFOO=${INFOO}456${INBAR}\n"
    )
    assert arguments(outlined(text)) == [
        (3, "ABC", "abc", ""),
        (6, "BAR", "123abc456", ""),
        (7, "FOO", "123abc456123abc456", ""),
        (11, "INBAR", "123456", ""),
        (12, "INFOO", "123456123456", ""),
    ]


def test_an_earlier_definition_that_nothing_reads_brings_nothing() -> None:
    text = "ARG OLD=1\nARG V=$OLD\nARG V=2\nFROM a:$V\n"
    assert arguments(outlined(text)) == [(3, "V", "2", "")]
    given = "ARG OTHER=1\nARG V=$OTHER\nFROM a:$V\n"
    assert arguments(outlined(given, {"V": "9"})) == [(2, "V", "9", "")]


def test_a_name_belongs_to_the_nearest_stage() -> None:
    text = "FROM scratch AS a\nARG X=1\nFROM a AS b\nARG X=2\nFROM scratch\nARG X=3\nCOPY --from=b / /\n"
    assert arguments(outlined(text)) == [(6, "X", "3", "")]
    assert arguments(outlined(text, target="b")) == [(4, "X", "2", "")]


def test_automatic_arguments_are_not_listed() -> None:
    text = "FROM --platform=$BUILDPLATFORM a\nARG TARGETARCH\nARG TARGETOS=x\n"
    assert arguments(outlined(text)) == [(3, "TARGETOS", "x", "")]


SECRETS = """
FROM busybox AS first
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true

FROM alpine AS second
RUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true

FROM scratch AS third
ARG BAR
RUN --mount=type=secret,id=second${BAR} true

FROM third AS target
COPY --from=first /foo /
RUN --mount=type=ssh,id=ssh3,required --mount=type=cache,target=/c true

FROM second
"""


def test_secrets_agents_and_caches_of_what_the_target_needs() -> None:
    found = outlined(SECRETS, {"BAR": "678"}, "target")
    assert [(one.name, one.required, one.span.start) for one in found.secrets] == [
        ("passwd", True, 3),
        ("second678", False, 10),
    ]
    assert [(one.name, one.required, one.span.start) for one in found.agents] == [
        ("default", False, 3),
        ("ssh3", True, 14),
    ]
    assert [(one.name, one.span.start) for one in found.caches] == [("/c", 14)]
    assert arguments(found) == [(9, "BAR", "678", "")]


def test_what_one_run_requires_is_required() -> None:
    text = "FROM scratch\nRUN --mount=type=secret,id=s a\nRUN --mount=type=secret,id=s,required b\n"
    [secret] = outlined(text).secrets
    assert (secret.name, secret.required, secret.span.start) == ("s", True, 2)


def test_targets_with_their_descriptions() -> None:
    text = (
        "\n# build defines stage for compiling the binary\nFROM $BASE AS build\n\n"
        "FROM --platform=$BUILDPLATFORM busybox as Second\n\nFROM alpine\n\n"
        "# binary returns the compiled binary\n# binary second line\nFROM second AS binary\n"
    )
    found = targets(parse(Source("Dockerfile", text)))
    assert [
        (one.name, one.base, one.platform, one.description, one.default, one.span.start)
        for one in found
    ] == [
        ("build", "$BASE", "", "defines stage for compiling the binary", False, 3),
        ("second", "busybox", "$BUILDPLATFORM", "", False, 5),
        ("", "alpine", "", "", False, 7),
        ("binary", "second", "", "returns the compiled binary", True, 11),
    ]
