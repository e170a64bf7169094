"""The language's vectors for ARG, ENV, FROM, metadata and history (dockerfile-language 14, 16)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from assembler.dockerfile.parser import parse
from assembler.errors import AssemblerError
from assembler.oci.config import Execution, Healthcheck, ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan import keys
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, PlannedStage, ResolvedImage
from assembler.plan.resolution import Need
from assembler.plan.steps import Run
from assembler.source import Source

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BASE = Execution(env=("PATH=/base",))


def plan(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    base: Execution = BASE,
    target: str = "",
    platform: Platform | None = None,
) -> Plan:
    """The plan of `text`, lines separated by ` / `, every image being `base`."""
    source = Source("Dockerfile", text.replace(" / ", "\n") + "\n")
    request = PlanRequest(
        dockerfile=parse(source),
        build_args=args or {},
        target=target,
        platform=platform,
        build_platform=AMD64,
    )
    resolved: dict[str, ResolvedImage] = {}
    while missing := needs(request, resolved):
        for need in missing:
            resolved[need.key] = image(need, base)
    return make(request, resolved)


def image(need: Need, base: Execution) -> ResolvedImage:
    manifest = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
    return ResolvedImage(need.image, manifest, ImageConfig(need.platform, base), ())


def target_of(made: Plan) -> PlannedStage:
    return made.stage(made.target)


def environment(made: Plan) -> dict[str, str]:
    """The environment of the target's last RUN."""
    runs = [step for step in target_of(made).steps if isinstance(step, Run)]
    return dict(runs[-1].env)


def names(made: Plan) -> list[str]:
    return [resolved.name for resolved in made.images.values()]


@pytest.mark.parametrize(
    ("text", "args", "name"),
    [
        ("ARG V=1 / FROM a:$V", {}, "a:1"),
        ("ARG V=1 / FROM a:$V", {"V": "2"}, "a:2"),
        ("ARG A=1 / ARG B=${A}2 / FROM x:$B", {}, "x:12"),
        ("ARG V=${V:?need} / FROM a", {"V": "1"}, "a:latest"),
        ("ARG x=idlebox / FROM busy${x#idle}", {}, "busybox:latest"),
    ],
)
def test_A2_global_arguments_name_images(text: str, args: dict[str, str], name: str) -> None:
    assert names(plan(text, args)) == [f"docker.io/library/{name}"]


@pytest.mark.parametrize(
    ("text", "args", "variable", "value"),
    [
        ("ARG V=1 / FROM a / RUN echo $V", {}, "V", None),
        ("ARG V=1 / FROM a / ARG V / RUN echo $V", {}, "V", "1"),
        ("ARG V=1 / FROM a / ARG V=3 / RUN echo $V", {}, "V", "3"),
        ("ARG V=1 / FROM a / ARG V=3 / RUN echo $V", {"V": "2"}, "V", "2"),
        ("FROM a AS b / ARG X=1 / FROM b / RUN echo $X", {}, "X", "1"),
        ("FROM a AS b / ARG X=1 / FROM a / RUN echo $X", {}, "X", None),
        ("FROM a / ENV X=1 / ARG X=2 / RUN echo $X", {}, "X", "2"),
        ("FROM a / ARG X=2 / ENV X=1 / RUN echo $X", {}, "X", "1"),
        ("FROM a / ENV X=1 / ARG X / RUN echo $X", {}, "X", "1"),
        ("FROM a / ARG X / ENV X=${X:-d} / RUN x", {"X": ""}, "X", "d"),
        ("FROM a / ENV a=h / ENV a=b d=$a / ENV g=$a / RUN x", {}, "d", "h"),
        ("FROM a / ENV a=h / ENV a=b d=$a / ENV g=$a / RUN x", {}, "g", "b"),
        ("FROM a / ENV K v w  x / RUN x", {}, "K", "v w  x"),
        ('FROM a / ENV K=v\\ w L="x y" / RUN x', {}, "K", "v w"),
        ('FROM a / ENV K=v\\ w L="x y" / RUN x', {}, "L", "x y"),
        ("FROM a / ENV P=$PATH:/x / RUN x", {}, "P", "/base:/x"),
        ("FROM a / ENV X=1 X=2 / RUN x", {}, "X", "2"),
    ],
)
def test_A3_A4_A5_A7_V10_what_a_run_sees(
    text: str, args: dict[str, str], variable: str, value: str | None
) -> None:
    assert environment(plan(text, args)).get(variable) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("FROM a / ARG TARGETARCH / RUN echo $TARGETARCH", "arm64"),
        ("FROM a / ARG TARGETARCH=x / RUN echo $TARGETARCH", "x"),
        ("FROM a / RUN echo $TARGETARCH", None),
    ],
)
def test_A9_platform_arguments_must_be_declared(text: str, value: str | None) -> None:
    assert environment(plan(text, platform=ARM64)).get("TARGETARCH") == value


def test_S13_a_stage_may_have_the_builders_platform() -> None:
    made = plan(
        "FROM --platform=$BUILDPLATFORM a AS b / FROM a / COPY --from=b x y", platform=ARM64
    )
    assert sorted(made.images) == [
        "docker.io/library/a:latest linux/amd64",
        "docker.io/library/a:latest linux/arm64",
    ]


@pytest.mark.parametrize(
    "text", ["FROM a / ENV X=1 / ARG X=2 / RUN x", "FROM a / ARG X=2 / ENV X=1 / RUN x"]
)
def test_A7_only_env_reaches_the_configuration(text: str) -> None:
    assert target_of(plan(text)).config.execution.env == ("PATH=/base", "X=1")


def test_A11_proxies_are_for_runs_only() -> None:
    made = plan("FROM a / RUN env", {"HTTP_PROXY": "p"})
    step = target_of(made).steps[0]
    assert isinstance(step, Run)
    assert dict(step.proxies) == {"HTTP_PROXY": "p", "http_proxy": "p"}
    assert "p" not in dict(step.env).values()
    assert target_of(made).history[0].history.created_by == "RUN /bin/sh -c env # buildkit"


def test_A11_a_declared_proxy_is_an_argument_like_others() -> None:
    made = plan("FROM a / ARG HTTP_PROXY / RUN x", {"HTTP_PROXY": "p"})
    assert environment(made)["HTTP_PROXY"] == "p"
    assert (
        target_of(made).history[-1].history.created_by
        == "RUN |1 HTTP_PROXY=p /bin/sh -c x # buildkit"
    )
    other = plan("FROM a / ARG HTTP_PROXY / RUN x", {"HTTP_PROXY": "q"})
    parent = keys.scratch_key(AMD64)
    one, two = (keys.definition_key(parent, target_of(each).steps[0], []) for each in (made, other))
    assert one != two


def test_A8_an_unused_build_argument_is_warned_about_with_the_nearest_name() -> None:
    warnings = plan("ARG VERSION / FROM a", {"VERSIO": "1"}).warnings
    assert any("VERSIO" in w.message and "did you mean VERSION?" in w.message for w in warnings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ARG V=${V:?need} / FROM a", "V: need"),
        ("FROM ${X}", "base name (${X}) should not be blank"),
        ("FROM a / COPY --from=9 x y", "invalid stage index 9"),
        (
            "FROM a AS a / COPY --from=b x y / FROM c AS b",
            "it needs to be defined before current stage",
        ),
        (
            "FROM a / RUN --mount=type=cahe,target=/x y",
            'unsupported mount type "cahe" (did you mean cache?)',
        ),
        (
            "FROM a / RUN --mount=taget=/x y",
            "unexpected key 'taget' in 'taget=/x' (did you mean target?)",
        ),
        (
            "FROM a / RUN --mount=type=cache,target=/x,sharing=locke y",
            '"locke" (did you mean locked?)',
        ),
        ("FROM a / RUN --mount=type=bind,target=/ y", 'invalid mount target "/"'),
        (
            "FROM a / RUN --mount=type=bind,target=/x,mode=0755 y",
            'mode not allowed for "bind" type mounts',
        ),
        ("FROM a / RUN --network=lan y", 'invalid network mode "lan"'),
        ("FROM a / STOPSIGNAL FOO", "invalid signal: FOO"),
        ("FROM a / EXPOSE x", "invalid containerPort: x"),
        ("FROM a / EXPOSE 70000", "invalid containerPort: 70000"),
        ("FROM a / EXPOSE 80/http", "invalid proto: http"),
    ],
)
def test_mistakes_are_said_as_buildkit_says_them(text: str, message: str) -> None:
    if "AS b" in text:
        with pytest.raises(AssemblerError) as caught:
            plan(text, target="a")
    else:
        with pytest.raises(AssemblerError) as caught:
            plan(text)
    assert message in caught.value.message


def test_S10_targets_are_found_in_any_case_and_by_index() -> None:
    text = "FROM a AS one / FROM a AS two"
    assert plan(text, target="ONE").target == 0
    assert plan(text, target="1").target == 1
    with pytest.raises(AssemblerError, match=r"\(did you mean two\?\)"):
        plan(text, target="tow")


def test_S11_only_reachable_stages_are_planned() -> None:
    made = plan("FROM a AS one / FROM b AS two / FROM c / COPY --from=one x y")
    assert [stage.index for stage in made.stages] == [0, 2]
    assert names(made) == ["docker.io/library/a:latest", "docker.io/library/c:latest"]


def test_S7_copy_from_takes_names_in_any_case() -> None:
    assert [
        stage.index for stage in plan("FROM a AS Base / FROM a / COPY --from=BASE x y").stages
    ] == [0, 1]


CONFIGS = [
    ("FROM scratch / CMD a b", BASE, "cmd", ("/bin/sh", "-c", "a b")),
    ('FROM scratch / CMD ["a"] / ENTRYPOINT ["b"]', BASE, "cmd", ("a",)),
    ('FROM scratch / CMD ["a"] / ENTRYPOINT ["b"]', BASE, "entrypoint", ("b",)),
    ('FROM a / ENTRYPOINT ["b"]', Execution(cmd=("a",)), "entrypoint", ("b",)),
    ('FROM a / ENTRYPOINT ["b"]', Execution(cmd=("a",)), "cmd", None),
    ('FROM a AS p / CMD ["a"] / FROM p / ENTRYPOINT ["b"]', BASE, "cmd", None),
    ('FROM a / CMD ["c"]', Execution(entrypoint=("b",)), "entrypoint", ("b",)),
    ('FROM a / CMD ["c"]', Execution(entrypoint=("b",)), "cmd", ("c",)),
    ("FROM a / ENTRYPOINT []", Execution(entrypoint=("b",)), "entrypoint", ()),
    ("FROM a / ENTRYPOINT []", Execution(entrypoint=("b",)), "cmd", None),
    ('FROM scratch / SHELL ["/bin/bash","-ec"] / CMD x', BASE, "cmd", ("/bin/bash", "-ec", "x")),
    (
        "FROM scratch / EXPOSE 80 443/TCP 53/udp",
        BASE,
        "exposed_ports",
        ("443/tcp", "53/udp", "80/tcp"),
    ),
    (
        "FROM scratch / EXPOSE 7000-7002",
        BASE,
        "exposed_ports",
        ("7000/tcp", "7001/tcp", "7002/tcp"),
    ),
    ("FROM scratch / EXPOSE 0.0.0.0:1234:5678", BASE, "exposed_ports", ("5678/tcp",)),
    (
        'FROM scratch / ARG P="3000 4000/udp" / EXPOSE $P',
        BASE,
        "exposed_ports",
        ("3000/tcp", "4000/udp"),
    ),
    ("FROM scratch / USER a:b", BASE, "user", "a:b"),
    ("FROM scratch / VOLUME /a /b", BASE, "volumes", ("/a", "/b")),
    ("FROM scratch / STOPSIGNAL term", BASE, "stop_signal", "term"),
    ("FROM scratch / STOPSIGNAL SIGTERM", BASE, "stop_signal", "SIGTERM"),
    ("FROM scratch / STOPSIGNAL 15", BASE, "stop_signal", "15"),
    ("FROM scratch / HEALTHCHECK NONE", BASE, "healthcheck", Healthcheck(("NONE",))),
    ("FROM scratch / ONBUILD RUN make", BASE, "on_build", ("RUN make",)),
    ('FROM a / LABEL "a b"="c d" e=f', BASE, "labels", {"a b": "c d", "e": "f"}),
    ("FROM scratch / WORKDIR /a / WORKDIR b / WORKDIR ../c", BASE, "working_dir", "/a/c"),
    ("FROM scratch / WORKDIR /a / WORKDIR $UNSET", BASE, "working_dir", "/a"),
]


@pytest.mark.parametrize(("text", "base", "field", "value"), CONFIGS)
def test_K_the_configuration(text: str, base: Execution, field: str, value: object) -> None:
    assert getattr(target_of(plan(text, base=base)).config.execution, field) == value


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("EXPOSE 80 443/TCP 53/udp", ["ExposeProtoCasing"]),
        ("EXPOSE 0.0.0.0:1234:5678", ["ExposeInvalidFormat"]),
        ("EXPOSE 7000-7002", []),
    ],
)
def test_K7_what_is_said_about_ports(text: str, rules: list[str]) -> None:
    assert [warning.rule for warning in plan(f"FROM scratch / {text}").warnings] == rules


def test_K10_the_author() -> None:
    assert target_of(plan("FROM scratch / MAINTAINER x")).config.author == "x"


def test_K12_health_checks() -> None:
    made = plan("FROM scratch / HEALTHCHECK --interval=5m --retries=2 CMD curl x")
    health = target_of(made).config.execution.healthcheck
    assert health is not None
    assert (health.test, health.interval, health.retries) == (
        ("CMD-SHELL", "curl x"),
        300000000000,
        2,
    )
    shown = target_of(made).history[0].history.created_by
    assert shown == (
        "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:5m0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}"
    )


def test_A16_scratch_has_the_default_path() -> None:
    env = target_of(plan("FROM scratch / ENV P=$PATH")).config.execution.env
    assert env[1] == "P=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_Y6_history_is_written_as_buildkit_writes_it() -> None:
    text = (
        "FROM a AS base / FROM busybox / LABEL l=v / COPY --from=base foo2 foo3 / WORKDIR / / "
        'RUN echo bar > foo4 / RUN ["ls"] / EXPOSE 2375 5000 1234/udp'
    ).replace("WORKDIR / / ", "WORKDIR /\n")
    lines = target_of(plan(text)).history
    assert [(line.history.created_by, line.history.empty_layer) for line in lines] == [
        ("LABEL l=v", True),
        ("COPY foo2 foo3 # buildkit", False),
        ("WORKDIR /", True),
        ("RUN /bin/sh -c echo bar > foo4 # buildkit", False),
        ("RUN ls # buildkit", False),
        ("EXPOSE [1234/udp 2375/tcp 5000/tcp]", True),
    ]
    assert [line.step for line in lines] == [None, 0, None, 1, 2, None]


def test_Y6_arguments_in_scope_are_told_with_a_run() -> None:
    made = plan("FROM a / ARG foo=bar / ARG bar=123 / ARG foo=bar2 / RUN ls /etc/")
    assert target_of(made).history[-1].history.created_by == (
        "RUN |2 foo=bar2 bar=123 /bin/sh -c ls /etc/ # buildkit"
    )


def test_K14_triggers_of_a_base_stage_run_in_its_child_only() -> None:
    made = plan(
        "FROM a AS src / FROM a AS base / ONBUILD COPY --from=src /in/f /out/f / FROM base AS mid / FROM mid"
    )
    assert made.sources(made.stage(2)) == {0, 1}
    steps = {stage.name or "last": len(stage.steps) for stage in made.stages}
    assert steps == {"src": 0, "base": 0, "mid": 1, "last": 0}
    assert target_of(made).config.execution.on_build == ()


def test_K14_triggers_of_a_base_image_add_what_they_need() -> None:
    base = Execution(on_build=("COPY --from=src /x /y",))
    made = plan("FROM scratch AS src / FROM withtriggers", base=base)
    assert len(made.stages) == 2 and len(target_of(made).steps) == 1


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("RUN make", ("/bin/sh", "-c", "make")),
        ('RUN ["make","all"]', ("make", "all")),
        ("RUN <<EOF\nset -e\na\nEOF", ("/bin/sh", "-c", "set -e\na\n")),
        ('SHELL ["/bin/bash","-c"]\nRUN <<EOF\nbody\nEOF', ("/bin/bash", "-c", "body\n")),
        ("RUN <<EOF python3\nprint(1)\nEOF", ("/bin/sh", "-c", "<<EOF python3\nprint(1)\nEOF")),
        ("RUN <<EOF\n#!/usr/bin/env python3\nx\nEOF", ("/dev/pipes/EOF",)),
        ("RUN <<-EOF\n\tx\n\tEOF", ("/bin/sh", "-c", "x\n")),
    ],
)
def test_R1_H9_H10_what_is_executed(text: str, argv: tuple[str, ...]) -> None:
    step = target_of(plan(f"FROM a\n{text}")).steps[-1]
    assert isinstance(step, Run) and step.argv == argv


def test_S18_steps_are_numbered_as_buildx_numbers_them() -> None:
    made = plan("FROM a AS build / WORKDIR /x / RUN make / FROM scratch / COPY --from=build /x /")
    titles = [step.name for stage in made.stages for step in stage.steps]
    assert titles == [
        "[build 2/3] WORKDIR /x",
        "[build 3/3] RUN make",
        "[stage-1 1/1] COPY --from=build /x /",
    ]
    assert plan("FROM a / RUN make").stages[0].steps[0].name == "[2/2] RUN make"


@pytest.mark.parametrize(("value", "epoch"), [("1700000000", 1700000000), ("", None)])
def test_T1_source_date_epoch(value: str, epoch: int | None) -> None:
    assert plan("FROM a", {"SOURCE_DATE_EPOCH": value}).epoch == epoch
    with pytest.raises(AssemblerError, match="invalid SOURCE_DATE_EPOCH: x"):
        plan("FROM a", {"SOURCE_DATE_EPOCH": "x"})
