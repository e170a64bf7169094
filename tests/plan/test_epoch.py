"""SOURCE_DATE_EPOCH (dockerfile-language 8.4): where it comes from, and what it does to a plan."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from assembler.dockerfile.parser import parse
from assembler.errors import AssemblerError, DockerfileError, UsageError
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make, time_source
from assembler.plan.plan import Plan
from assembler.plan.steps import GitSource, Run, UrlSource
from assembler.source import Source

AMD64 = Platform("linux", "amd64")
SHA = "sha256:" + "0" * 64
STAGE = "FROM scratch AS clock / ADD https://h/f.tar /d"
GIT = "FROM scratch AS Clock / ARG ref=v1 / ADD https://h/r.git#$ref /d"


def request(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    epoch: int | None = None,
    epochs: Mapping[str, int | None] | None = None,
) -> PlanRequest:
    """Asks for the plan of `text`, lines separated by ` / `."""
    return PlanRequest(
        dockerfile=parse(Source("Dockerfile", text.replace(" / ", "\n") + "\n")),
        build_args=args or {},
        build_platform=AMD64,
        epoch=epoch,
        epochs=epochs or {},
    )


def plan(
    text: str,
    args: Mapping[str, str] | None = None,
    *,
    epoch: int | None = None,
    epochs: Mapping[str, int | None] | None = None,
) -> Plan:
    return make(request(text, args, epoch=epoch, epochs=epochs), {})


def given(value: str) -> dict[str, str]:
    return {"SOURCE_DATE_EPOCH": value}


@pytest.mark.parametrize(
    ("text", "args", "epoch", "result"),
    [
        ("FROM scratch", {}, None, None),
        ("FROM scratch", given("7"), None, 7),
        ("FROM scratch", given("0"), None, 0),
        ("FROM scratch", {}, 8, 8),
        ("FROM scratch", given("7"), 8, 7),
        ("FROM scratch", given(""), 8, None),
        ("ARG SOURCE_DATE_EPOCH=9 / FROM scratch", {}, None, 9),
        ("ARG SOURCE_DATE_EPOCH=9 / FROM scratch", {}, 8, 8),
        ("ARG SOURCE_DATE_EPOCH=9 / FROM scratch", given("7"), 8, 7),
        ("ARG SOURCE_DATE_EPOCH / FROM scratch", {}, None, None),
        ("FROM scratch / ARG SOURCE_DATE_EPOCH=9", {}, None, None),
    ],
)
def test_T1_sources(text: str, args: dict[str, str], epoch: int | None, result: int | None) -> None:
    assert plan(text, args, epoch=epoch).epoch == result


@pytest.mark.parametrize("value", ["x", "1.5", "-1", "1e3", " 7", "nowhere", "9" * 19])
def test_T1_what_is_no_time(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan("FROM scratch AS there", given(value))
    assert caught.value.message == f"invalid SOURCE_DATE_EPOCH: {value}"


def test_T1_the_context_has_a_time_or_none() -> None:
    assert plan("FROM scratch", given("context"), epochs={"context": 5}).epoch == 5
    assert plan("FROM scratch", given("context"), epochs={"context": None}).epoch is None
    assert plan("FROM scratch", given("context")).epoch is None


def test_T1_so_has_a_named_context() -> None:
    assert plan("FROM scratch", given("src"), epochs={"src": 5}).epoch == 5
    assert plan(f"{STAGE} / FROM scratch", given("clock"), epochs={"clock": 5}).epoch == 5


def test_T1_a_stage_of_one_remote_add() -> None:
    asked = request(f"{STAGE} / FROM scratch", given("CLOCK"))
    wanted = time_source(asked)
    assert wanted is not None
    assert (wanted.name, wanted.source) == ("CLOCK", UrlSource("https://h/f.tar"))
    assert plan(f"{STAGE} / FROM scratch", given("CLOCK")).epoch is None
    assert plan(f"{STAGE} / FROM scratch", given("CLOCK"), epochs={"CLOCK": 6}).epoch == 6
    assert time_source(request(f"{STAGE} / FROM scratch", given("7"))) is None
    assert time_source(request(f"{STAGE} / FROM scratch")) is None


def test_T1_arguments_are_expanded_in_it() -> None:
    wanted = time_source(request(GIT, given("clock")))
    assert wanted is not None and isinstance(wanted.source, GitSource)
    assert wanted.source.repository.ref == "v1"
    wanted = time_source(request(GIT, {**given("clock"), "ref": "v2"}))
    assert wanted is not None and isinstance(wanted.source, GitSource)
    assert wanted.source.repository.ref == "v2"
    text = f"ARG b=scratch / FROM $b AS c / ADD --checksum={SHA} http://h/x /d"
    wanted = time_source(request(text, given("c")))
    assert wanted is not None and wanted.source == UrlSource("http://h/x", SHA)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("FROM a AS c / ADD http://h/x /d", "must use FROM scratch", 1),
        ("FROM scratch AS c", "must contain exactly one remote ADD", 1),
        (
            "FROM scratch AS c / ADD http://h/x /d / ADD http://h/y /d",
            "must contain exactly one remote ADD",
            1,
        ),
        (
            "FROM scratch AS c / ADD http://h/x http://h/y /d",
            "must contain exactly one remote ADD",
            2,
        ),
        ("FROM scratch AS c / ADD x /d", "source must be a single HTTP(S) or Git ADD", 2),
        (
            "FROM scratch AS c / ADD http://h/x /d / RUN x",
            "does not meet source-only requirements: unsupported RUN instruction",
            3,
        ),
        (
            "FROM scratch AS c / COPY x /d",
            "does not meet source-only requirements: unsupported COPY instruction",
            2,
        ),
    ],
)
def test_T1_other_stages_have_no_time(text: str, message: str, line: int) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(text, given("c"))
    assert caught.value.message == f"SOURCE_DATE_EPOCH stage {message}"
    assert caught.value.span is not None and caught.value.span.start == line


def test_T1_a_url_that_is_none_is_blamed() -> None:
    with pytest.raises(DockerfileError, match="http://h:x/: Port could not be cast") as caught:
        plan("FROM scratch AS c / ADD http://h:x/ /d", given("c"))
    assert caught.value.span is not None and caught.value.span.start == 2


def test_T2_the_plan_says_what_time_everything_has() -> None:
    assert plan("FROM scratch / WORKDIR /a", epoch=3).epoch == 3
    assert (
        plan("FROM scratch / WORKDIR /a", epoch=3).stages
        == plan("FROM scratch / WORKDIR /a").stages
    )


def seen(made: Plan) -> str | None:
    run = made.stage(made.target).steps[-1]
    assert isinstance(run, Run)
    return dict(run.env).get("SOURCE_DATE_EPOCH")


DECLARED = "FROM scratch / ARG SOURCE_DATE_EPOCH / RUN x"


@pytest.mark.parametrize(
    ("text", "args", "epoch", "value"),
    [
        (DECLARED, given("7"), None, "7"),
        (DECLARED, {}, 8, "8"),
        (f"ARG SOURCE_DATE_EPOCH=9 / {DECLARED}", {}, None, "9"),
        (f"ARG SOURCE_DATE_EPOCH=9 / {DECLARED}", {}, 8, "8"),
        (DECLARED, {}, None, None),
        ("FROM scratch / RUN x", given("7"), 8, None),
    ],
)
def test_T4_an_argument_gives_it_to_run(
    text: str, args: dict[str, str], epoch: int | None, value: str | None
) -> None:
    assert seen(plan(text, args, epoch=epoch)) == value


@pytest.mark.parametrize(("time", "value"), [(5, "5"), (None, None)])
def test_T4_in_seconds_whatever_was_given(time: int | None, value: str | None) -> None:
    assert seen(plan(DECLARED, given("context"), epochs={"context": time})) == value
    text = f"ARG SOURCE_DATE_EPOCH=context / {DECLARED}"
    assert seen(plan(text, epochs={"context": time})) == value
    assert seen(plan(f"{STAGE} / {DECLARED}", given("clock"), epochs={"clock": time})) == value


def test_T1_mistakes_have_a_hint() -> None:
    with pytest.raises(AssemblerError) as caught:
        plan("FROM scratch", given("x"))
    assert "number of seconds" in caught.value.hint
