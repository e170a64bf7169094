"""Stages and what they need (dockerfile-language 4), rule by rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from assembler.dockerfile.parser import parse
from assembler.errors import DockerfileError, StageCycle, SyntaxProblem, UndefinedStage
from assembler.oci.config import DEFAULT_PATH, Execution, ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts, FilesContext, ImageContext, NamedContext
from assembler.plan.document import from_document, to_document
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import (
    ContextBase,
    ImageBase,
    Plan,
    PlannedStage,
    ResolvedImage,
    ScratchBase,
    StageBase,
)
from assembler.plan.steps import (
    BindMount,
    ContextOrigin,
    Copy,
    ImageOrigin,
    Run,
    ScratchOrigin,
    StageOrigin,
)
from assembler.source import Source

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BASE = Execution(env=("PATH=/base",))


def request(text: str, args: Mapping[str, str] | None = None) -> PlanRequest:
    """Asks for the plan of `text`, lines separated by ` / `."""
    source = Source("Dockerfile", text.replace(" / ", "\n") + "\n")
    return PlanRequest(dockerfile=parse(source), build_platform=AMD64, build_args=args or {})


def resolve(
    asked: PlanRequest, images: Mapping[str, ImageConfig] | None = None
) -> dict[str, ResolvedImage]:
    """What is needed: the configuration `images` has under the short name, else a plain one."""
    found: dict[str, ResolvedImage] = {}
    while missing := needs(asked, found):
        for need in missing:
            short = need.image.removeprefix("docker.io/library/").removesuffix(":latest")
            config = (images or {}).get(short) or ImageConfig(need.platform, BASE)
            manifest = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
            found[need.key] = ResolvedImage(need.image, manifest, config, ())
    return found


def plan(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    images: Mapping[str, ImageConfig] | None = None,
    contexts: Mapping[str, NamedContext] | None = None,
    **more: object,
) -> Plan:
    asked = replace(request(text, args), contexts=Contexts(contexts or {}), **more)  # type: ignore[arg-type]
    return make(asked, resolve(asked, images))


def last(made: Plan) -> PlannedStage:
    return made.stage(made.target)


def images(made: Plan) -> list[str]:
    return [key.removeprefix("docker.io/library/") for key in made.images]


def indexes(made: Plan) -> list[int]:
    return [stage.index for stage in made.stages]


def copied(made: Plan) -> object:
    """Where the target's last COPY takes its files from."""
    step = last(made).steps[-1]
    assert isinstance(step, Copy)
    return step.origin


def mounted(made: Plan) -> object:
    """Where the mount of the target's last RUN takes its files from."""
    step = last(made).steps[-1]
    assert isinstance(step, Run)
    [mount] = step.mounts
    assert isinstance(mount, BindMount)
    return mount.origin


def refused(text: str, args: Mapping[str, str] | None = None, **more: object) -> str:
    with pytest.raises(DockerfileError) as caught:
        plan(text, args, **more)  # type: ignore[arg-type]
    assert caught.value.span is not None or "target" in more
    return caught.value.message


@pytest.mark.parametrize("word", ["AS", "as", "As"])
def test_S1_as_in_any_case(word: str) -> None:
    assert plan(f"FROM --platform=linux/arm64 a {word} b / RUN x").stage(0).name == "b"


@pytest.mark.parametrize("line", ["FROM", "FROM a b", "FROM a AS", "FROM a TO b", "FROM a AS b c"])
def test_S1_one_or_three_arguments(line: str) -> None:
    assert refused(line) == "FROM requires either one or three arguments"


def test_S2_names_are_in_lower_case() -> None:
    assert [stage.name for stage in plan("FROM a AS Build-1_x.Y").stages] == ["build-1_x.y"]
    assert plan("FROM a AS B", target="b").target == 0


@pytest.mark.parametrize("name", ["1x", "-x", "a/b", "a$b", "ä"])
def test_S2_letters_first_and_no_symbols(name: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        plan(f"FROM a AS {name}")
    assert caught.value.message == (
        f'invalid name for build stage: "{name}", name can\'t start with a number or contain symbols'
    )


def test_S3_an_image_must_have_a_name() -> None:
    assert refused("ARG X / FROM ${X}") == "base name (${X}) should not be blank"
    assert refused("FROM a / FROM $X$Y / FROM a") == "base name ($X$Y) should not be blank"
    assert images(plan("ARG X / FROM ${X}", {"X": "b"})) == ["b:latest linux/amd64"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM --platform=$X a", "empty platform value from expression $X"),
        (
            "FROM --platform=$TARGETPLATFROM a",
            "empty platform value from expression $TARGETPLATFROM (did you mean TARGETPLATFORM?)",
        ),
        (
            "ARG MYPLAT=linux/arm64 / FROM --platform=$MYPLT a",
            "empty platform value from expression $MYPLT (did you mean MYPLAT?)",
        ),
    ],
)
def test_S3_a_platform_must_not_be_empty(text: str, message: str) -> None:
    assert refused(text) == message


def test_S3_a_platform_must_be_one() -> None:
    assert refused("FROM --platform=a/b/c/d x").startswith("failed to parse platform a/b/c/d: ")
    message = refused("ARG OS=linux / FROM --platform=$OSX/a/b/c x")
    assert message.startswith("failed to parse platform /a/b/c: ")
    assert message.endswith(" (did you mean OS?)")


FILES, IMAGE = FilesContext("ctx"), ImageContext("docker.io/library/other:latest")


def test_S4_first_a_context_named_like_the_stage() -> None:
    text = "FROM a AS b / RUN x / ENV k=v / FROM b / COPY --from=b f f"
    made = plan(text, contexts={"b": FILES})
    assert made.stage(0).base == ContextBase("ctx")
    assert [step.name for step in made.stage(0).steps] == ["[b 1/1] FROM ctx"]
    assert last(made).config.execution.env == (f"PATH={DEFAULT_PATH}",)
    made = plan(text, contexts={"b": IMAGE})
    assert images(made) == ["other:latest linux/amd64"]
    assert made.stage(0).steps == () and copied(made) == StageOrigin(0)


def test_S4_a_replaced_stage_has_no_triggers() -> None:
    text = "FROM a AS b / ONBUILD RUN t / FROM b / RUN x"
    assert len(last(plan(text)).steps) == 2
    assert len(last(plan(text, contexts={"b": FILES})).steps) == 1


def test_S4_its_platform_counts() -> None:
    text = "FROM --platform=linux/arm64 a AS b / RUN x"
    assert last(plan(text, contexts={"b::linux/arm64": FILES})).base == ContextBase("ctx")
    assert len(last(plan(text, contexts={"b::linux/arm64": FILES})).steps) == 1
    assert isinstance(last(plan(text, contexts={"b::linux/amd64": FILES})).base, ImageBase)


@pytest.mark.parametrize("name", ["one", "One", "ONE"])
def test_S4_then_an_earlier_stage_in_any_case(name: str) -> None:
    made = plan(f"FROM a AS One / FROM {name}", contexts={"two": FILES})
    assert last(made).base == StageBase(0)


def test_S4_a_later_stage_is_an_image() -> None:
    assert images(plan("FROM b / FROM a AS b", target="0")) == ["b:latest linux/amd64"]
    assert images(plan("FROM x AS x")) == ["x:latest linux/amd64"]


def test_S4_then_scratch_whatever_the_contexts() -> None:
    contexts: dict[str, NamedContext] = {"scratch": FILES, "context": FILES}
    assert isinstance(last(plan("FROM scratch", contexts=contexts)).base, ScratchBase)
    assert isinstance(last(plan("FROM context", contexts=contexts)).base, ImageBase)


@pytest.mark.parametrize("name", ["ctx", "ctx:latest", "docker.io/library/ctx", "library/ctx"])
def test_S4_then_a_context_by_familiar_name(name: str) -> None:
    assert last(plan(f"FROM {name}", contexts={"ctx": FILES})).base == ContextBase("ctx")
    assert isinstance(last(plan("FROM ctx:1", contexts={"ctx": FILES})).base, ImageBase)


def test_S4_a_context_for_the_platform_comes_first() -> None:
    contexts: dict[str, NamedContext] = {"c::linux/arm64": FILES, "c": IMAGE}
    assert last(plan("FROM c", contexts=contexts, platform=ARM64)).base == ContextBase("ctx")
    assert isinstance(last(plan("FROM c", contexts=contexts)).base, ImageBase)


def test_S4_then_an_image() -> None:
    assert images(plan("FROM a / FROM b AS c")) == ["b:latest linux/amd64"]


def test_S5_a_stage_gives_files_configuration_arguments_and_platform() -> None:
    text = (
        "FROM --platform=linux/arm64 a AS p / ENV E=1 / ARG A=2 / RUN x / USER u / FROM p / RUN y"
    )
    made = plan(text)
    assert (last(made).base, last(made).platform) == (StageBase(0), ARM64)
    assert last(made).config.execution.env == ("PATH=/base", "E=1")
    assert last(made).config.execution.user == "u"
    run = last(made).steps[-1]
    assert isinstance(run, Run) and dict(run.env)["A"] == "2"
    assert last(plan(text.replace("FROM p", "FROM --platform=linux/amd64 p"))).platform == ARM64


def test_S6_scratch_is_empty() -> None:
    made = last(plan("FROM scratch", platform=ARM64))
    assert (made.config.diff_ids, made.config.history, made.steps) == ((), (), ())
    assert made.config.platform == ARM64
    assert made.config.execution == Execution(env=(f"PATH={DEFAULT_PATH}",), working_dir="/")


def test_S6_other_images_get_no_working_directory() -> None:
    assert last(plan("FROM a")).config.execution.working_dir == ""
    assert last(plan("FROM a / RUN x")).steps[0].cwd == "/"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("names", "required"),
    [
        ((), ()),
        (("a",), (0,)),
        (("B", "0"), (0, 1)),
        (("c",), ()),
        (("*",), (0, 1)),
        (("*", "b"), (0, 1)),
    ],
)
def test_stages_that_are_required_are_planned(
    names: tuple[str, ...], required: tuple[int, ...]
) -> None:
    asked = request("FROM scratch AS a / FROM scratch AS b / FROM scratch AS c")
    made = make(replace(asked, require=names), {})
    assert (made.required, made.target) == (required, 2)
    assert {stage.index for stage in made.stages} == {*required, 2}
    assert from_document(to_document(made)) == made


def test_a_required_stage_must_be_one() -> None:
    asked = replace(request("FROM scratch AS tests / FROM scratch"), require=("test",))
    with pytest.raises(UndefinedStage, match='required stage "test" could not be found'):
        make(asked, {})


@pytest.mark.parametrize("name", ["0", "+0", "00"])
def test_S7_copy_takes_an_index(name: str) -> None:
    assert copied(plan(f"FROM a AS x / FROM a / COPY --from={name} f f")) == StageOrigin(0)


@pytest.mark.parametrize(("name", "shown"), [("2", "2"), ("-1", "-1"), ("007", "7")])
def test_S7_an_index_that_is_none(name: str, shown: str) -> None:
    text = f"FROM a / FROM a / COPY --from={name} f f"
    assert refused(text) == f"invalid stage index {shown}"


def test_S7_a_number_no_index_can_be_is_a_name() -> None:
    made = plan(f"FROM a / COPY --from={'9' * 30} f f")
    assert copied(made) == ImageOrigin(f"docker.io/library/{'9' * 30}:latest linux/amd64")


def test_S7_then_a_stage_a_context_or_an_image() -> None:
    text = "FROM a AS One / FROM a / COPY --from={} f f"
    assert copied(plan(text.format("oNE"))) == StageOrigin(0)
    assert copied(plan(text.format("two"), contexts={"two": FILES})) == ContextOrigin("ctx")
    assert copied(plan(text.format("one"), contexts={"two": FILES})) == StageOrigin(0)
    assert copied(plan(text.format("x:1"))) == ImageOrigin("docker.io/library/x:1 linux/amd64")
    made = plan(text.format("x:1"), platform=ARM64)
    assert copied(made) == ImageOrigin("docker.io/library/x:1 linux/arm64")


def test_S7_mounts_take_names_only() -> None:
    text = "FROM a AS One / FROM a / RUN --mount=from={},target=/m x"
    assert mounted(plan(text.format("ONE"))) == StageOrigin(0)
    assert mounted(plan(text.format("0"))) == ImageOrigin("docker.io/library/0:latest linux/amd64")
    assert mounted(plan(text.format("two"), contexts={"two": FILES})) == ContextOrigin("ctx")


def test_S7_scratch_is_an_empty_directory() -> None:
    assert copied(plan("FROM a / COPY --from=scratch /f /x")) == ScratchOrigin()
    made = plan("FROM a / RUN --mount=from=scratch,target=/m,rw x")
    assert mounted(made) == ScratchOrigin() and images(made) == ["a:latest linux/amd64"]
    assert copied(plan("FROM a AS scratch / FROM a / COPY --from=scratch f f")) == StageOrigin(0)
    assert from_document(to_document(made)).stages == made.stages


def test_S8_a_stage_must_come_before() -> None:
    text = "FROM x AS a / {} / FROM x AS b"
    assert refused(text.format("COPY --from=b x y"), target="a") == (
        'cannot copy from stage "b", it needs to be defined before current stage "a"'
    )
    assert refused(text.format("RUN --mount=target=/x,from=b y"), target="a") == (
        'cannot mount from stage "b" to "/x", stage needs to be defined before current command'
    )
    assert refused("FROM x / COPY --from=1 a b / FROM x AS y", target="0") == (
        'cannot copy from stage "1", it needs to be defined before current stage "stage-0"'
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("FROM x AS a / COPY --from=b f f / FROM x AS b / COPY --from=a f f", "a"),
        ("FROM x AS a / COPY --from=a f f", "a"),
        ("FROM x / COPY --from=0 f f", "stage-0"),
        ("FROM x AS a / RUN --mount=from=b,target=/m y / FROM a AS b", "a"),
        ("FROM x AS a / COPY --from=c f f / FROM a AS b / FROM b AS c", "a"),
        ("FROM x AS a / COPY --from=b f f / FROM a AS b / FROM x AS unrelated", "a"),
    ],
)
def test_S8_stages_that_need_each_other(text: str, name: str) -> None:
    with pytest.raises(StageCycle) as caught:
        plan(text)
    assert caught.value.message == f"circular dependency detected on stage: {name}"


def test_S8_a_trigger_too_needs_what_comes_before() -> None:
    config = ImageConfig(AMD64, Execution(on_build=("COPY --from=b f f",)))
    with pytest.raises(UndefinedStage) as caught:
        plan("FROM x / FROM t AS a / RUN x / FROM a AS b", images={"t": config})
    assert caught.value.span is not None and caught.value.span.start == 2


def test_S8_a_long_chain_is_no_circle() -> None:
    lines = ["FROM scratch AS s0"]
    lines += [f"FROM s{n - 1} AS s{n}\nCOPY --from=s{n - 1} f f" for n in range(1, 3000)]
    assert len(plan("\n".join(lines)).stages) == 3000


def test_S9_the_later_of_two_names_wins() -> None:
    text = "FROM a AS x / FROM x AS y / FROM b AS x / FROM x AS z / COPY --from=x f f"
    made = plan(text)
    assert last(made).base == StageBase(2) and copied(made) == StageOrigin(2)
    assert plan(text, target="y").stage(1).base == StageBase(0)
    assert plan(text, target="x").target == 2
    assert [one.rule for one in made.warnings] == ["DuplicateStageName"]


def test_S9_for_every_copy_wherever_it_is() -> None:
    text = "FROM a AS x / FROM a AS y / COPY --from=x f f / FROM b AS x"
    assert "needs to be defined before" in refused(text, target="y")


def test_S10_targets() -> None:
    text = "FROM a AS one / FROM a AS two / FROM a"
    targets = {name: plan(text, target=name).target for name in ("", "one", "TWO", "2", "0")}
    assert targets == {"": 2, "one": 0, "TWO": 1, "2": 2, "0": 0}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tow", 'target stage "tow" could not be found (did you mean two?)'),
        ("nothing", 'target stage "nothing" could not be found'),
        ("3", 'target stage "3" could not be found'),
        ("-1", 'target stage "-1" could not be found'),
        ("9" * 5000, f'target stage "{"9" * 5000}" could not be found'),
    ],
)
def test_S10_targets_that_are_none(target: str, message: str) -> None:
    with pytest.raises(UndefinedStage) as caught:
        plan("FROM a AS one / FROM a AS two / FROM a", target=target)
    assert caught.value.message == message
    assert caught.value.hint == "stages with a name: one, two"


def test_S11_only_what_is_needed() -> None:
    text = (
        "FROM a AS base / FROM b AS unused / FROM c AS copied / FROM d AS mounted / FROM e AS far"
        " / FROM base / COPY --from=copied f f / RUN --mount=from=mounted,target=/m x"
    )
    made = plan(text)
    assert indexes(made) == [0, 2, 3, 5]
    assert images(made) == [f"{name}:latest linux/amd64" for name in "acd"]
    assert indexes(plan(text, every_stage=True)) == [0, 1, 2, 3, 4, 5]
    assert indexes(plan(text, target="far")) == [4]


def test_S11_triggers_need_things_too() -> None:
    config = ImageConfig(AMD64, Execution(on_build=("COPY --from=b f f", "COPY --from=x:1 f f")))
    text = "FROM a AS a / FROM b AS b / FROM t"
    assert indexes(plan(text, images={"t": config})) == [1, 2]
    assert "x:1 linux/amd64" in images(plan(text, images={"t": config}))
    assert indexes(plan(text)) == [2]


def test_S11_each_stage_follows_what_it_needs() -> None:
    text = "FROM a AS a / FROM a AS b / FROM a AS c / COPY --from=b f f / COPY --from=a f f"
    made = plan(text)
    seen: set[int] = set()
    for stage in made.stages:
        assert made.sources(stage) <= seen
        seen.add(stage.index)


@pytest.mark.parametrize(
    ("no_cache", "fresh"),
    [((), []), (("*",), [0, 1, 2]), (("one",), [0]), (("2",), [2]), (("one", "two"), [0, 1])],
)
def test_S12_stages_that_take_nothing_from_the_cache(
    no_cache: tuple[str, ...], fresh: list[int]
) -> None:
    text = "FROM a AS one / FROM one AS Two / FROM two"
    made = plan(text, no_cache=frozenset(no_cache))
    assert [stage.index for stage in made.stages if stage.fresh] == fresh


def test_S13_from_chooses_the_platform_of_its_image() -> None:
    text = "FROM --platform=$BUILDPLATFORM a AS tools / FROM a / COPY --from=tools f f"
    made = plan(text, platform=ARM64)
    assert images(made) == ["a:latest linux/amd64", "a:latest linux/arm64"]
    assert [stage.platform for stage in made.stages] == [AMD64, ARM64]
    assert images(plan("FROM a")) == ["a:latest linux/amd64"]


def test_S13_an_image_of_another_platform_is_used_with_a_warning() -> None:
    other = {"a": ImageConfig(ARM64, BASE)}
    made = plan("FROM --platform=linux/amd64 a AS amd64", images=other)
    assert [one.rule for one in made.warnings] == ["InvalidBaseImagePlatform"]
    assert last(made).platform == AMD64
    made = plan("FROM a", images=other, platform=AMD64)
    assert [one.rule for one in made.warnings] == ["InvalidBaseImagePlatform"]


def test_S14_a_stage_adopts_the_platform_of_the_only_image_there_is() -> None:
    made = plan("FROM a / RUN x", images={"a": ImageConfig(ARM64, BASE)})
    assert (last(made).platform, last(made).config.platform) == (ARM64, ARM64)
    assert made.warnings == ()
    assert [need.exact for need in needs(request("FROM a"), {})] == [False]
    exact = replace(request("FROM a"), platform=AMD64)
    assert [need.exact for need in needs(exact, {})] == [True]
    assert [need.exact for need in needs(request("FROM --platform=linux/amd64 a"), {})] == [True]


def test_S15_what_is_no_name_is_compared_with_the_stages() -> None:
    message = refused("FROM a AS build / FROM a / COPY --from=Build! f f")
    assert message.startswith('failed to parse stage name "Build!": ')
    assert message.endswith(" (did you mean build?)")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a", "docker.io/library/a:latest"),
        ("a:1", "docker.io/library/a:1"),
        ("a/b", "docker.io/a/b:latest"),
        ("index.docker.io/a", "docker.io/library/a:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("h:5000/a/b:c", "h:5000/a/b:c"),
        (f"a:1@sha256:{'0' * 64}", f"docker.io/library/a:1@sha256:{'0' * 64}"),
    ],
)
def test_S16_names_are_completed(name: str, image: str) -> None:
    assert list(plan(f"FROM {name}").images) == [f"{image} linux/amd64"]
    assert copied(plan(f"FROM scratch / COPY --from={name} f f")) == ImageOrigin(
        f"{image} linux/amd64"
    )


@pytest.mark.parametrize("name", ["scratch", "context"])
def test_S17_reserved_names_are_legal_but_warned_about(name: str) -> None:
    made = plan(f"FROM a AS {name} / FROM b / COPY --from={name} f f")
    assert [one.rule for one in made.warnings] == ["ReservedStageName"]
    assert copied(made) == StageOrigin(0)


def titles(made: Plan) -> list[str]:
    return [step.name for stage in made.stages for step in stage.steps]


def test_S18_steps_are_numbered() -> None:
    text = "FROM a AS one / ENV x=y / COPY f f / FROM scratch / WORKDIR /w / ADD f f / COPY --from=one f f"
    assert titles(plan(text)) == [
        "[one 2/2] COPY f f",
        "[stage-1 1/3] WORKDIR /w",
        "[stage-1 2/3] ADD f f",
        "[stage-1 3/3] COPY --from=one f f",
    ]
    assert titles(plan("FROM a AS one / RUN x")) == ["[2/2] RUN x"]
    many = "FROM a / " + " / ".join(["RUN x"] * 9)
    assert titles(plan(many))[0] == "[ 2/10] RUN x"


def test_S18_triggers_are_shown_as_such() -> None:
    config = ImageConfig(AMD64, Execution(on_build=("ENV a=b", "RUN x", "COPY f f")))
    assert titles(plan("FROM t / RUN x", images={"t": config})) == [
        "[2/4] ONBUILD RUN x",
        "[3/4] ONBUILD COPY f f",
        "[4/4] RUN x",
    ]


def test_S18_a_trigger_that_makes_nothing_counts_for_no_other() -> None:
    config = ImageConfig(AMD64, Execution(on_build=("WORKDIR $UNSET",)))
    assert titles(plan("FROM t / RUN x", images={"t": config}))[0].endswith("] RUN x")


@pytest.mark.parametrize(
    ("name", "short"), [("app:1", "app:1"), ("team/app", "team/app"), ("docker.io/app", "")]
)
def test_S16_a_name_without_a_registry_is_kept_as_it_was_written(name: str, short: str) -> None:
    assert [need.short for need in needs(request(f"FROM {name}"), {})] == [short]
