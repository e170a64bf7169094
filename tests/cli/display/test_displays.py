"""Progress as text and as JSON."""

from __future__ import annotations

import base64
import io
import json
import signal

import pytest

from assembler.cli.display.failure import exit_status, failure
from assembler.cli.display.plain import LINE_LIMIT, Plain
from assembler.cli.display.rawjson import RawJson
from assembler.errors import Cancelled, NoSpace, StepError, UsageError
from assembler.events import (
    Finished,
    VertexDone,
    VertexFailed,
    VertexMissed,
    VertexOutput,
    VertexStarted,
    VertexWaiting,
    Warned,
)
from assembler.source import Source, Span


def shown(*events: object, expand: bool = False) -> str:
    stream = io.StringIO()
    plain = Plain(stream, expand=expand)
    for event in events:
        plain(event)  # type: ignore[arg-type]
    return stream.getvalue()


RUN = VertexStarted("1/0", "[build 2/4] RUN make", 100.0)


def test_a_step_looks_as_buildx_prints_it() -> None:
    assert shown(
        RUN,
        VertexOutput("1/0", b"cc -o x\nlinking", 100.25),
        VertexOutput("1/0", b" done\n", 100.5),
        VertexDone("1/0", RUN.name, 101.5),
    ) == ("#1 [build 2/4] RUN make\n#1 0.250 cc -o x\n#1 0.500 linking done\n#1 DONE 1.5s\n")


def test_switching_between_steps_repeats_the_name() -> None:
    other = VertexStarted("2/0", "[test 2/2] RUN check", 100.0)
    text = shown(
        RUN, other, VertexDone("1/0", RUN.name, 101.0), VertexDone("2/0", other.name, 102.0, True)
    )
    assert text.endswith(
        "\n\n#1 [build 2/4] RUN make\n#1 DONE 1.0s\n\n#2 [test 2/2] RUN check\n#2 CACHED\n"
    )


def test_a_step_says_why_it_runs() -> None:
    reason = VertexMissed("1/0", "src/app.py changed\x1b[2J (and 2 more)", 100.0)
    text = shown(RUN, reason, VertexDone("1/0", RUN.name, 101.0))

    assert text == (
        "#1 [build 2/4] RUN make\n#1 RUN: src/app.py changed\\x1b[2J (and 2 more)\n#1 DONE 1.0s\n"
    )


WAITING = VertexWaiting("1/0", "waiting for process 4711, which has been at it for 12.3 s", 100.5)


def test_a_line_about_who_is_waited_for_is_told_apart_from_output() -> None:
    gone = VertexWaiting("1/0", "process 4711 is gone; going on without it", 101.0)
    text = shown(
        RUN, WAITING, VertexOutput("1/0", b"cc a.c\ncc b", 100.75), gone,
        VertexOutput("1/0", b"cc a.c\n", 101.25), VertexDone("1/0", RUN.name, 101.5),
    )  # fmt: skip
    assert text.splitlines() == [
        "#1 [build 2/4] RUN make",
        "#1 waiting for process 4711, which has been at it for 12.3 s",
        "#1 0.750 cc a.c",
        "#1 1.000 cc b",
        "#1 process 4711 is gone; going on without it",
        "#1 1.250 cc a.c",
        "#1 DONE 1.5s",
    ]


def test_the_status_of_BuildKit_has_who_is_waited_for_beside_the_logs() -> None:
    stream = io.StringIO()
    json_lines = RawJson(stream)
    json_lines(RUN)
    json_lines(WAITING)
    _, said = map(json.loads, stream.getvalue().splitlines())
    (status,) = said.pop("statuses")
    assert not said
    assert (status["id"], status["current"]) == (WAITING.message, 0) and "completed" not in status


@pytest.mark.parametrize(
    ("source", "ran", "said"),
    [
        ("local", 102.0 - 3 * 86400, "CACHED (local, 3 d old)"),
        ("local", 0.0, "CACHED (local)"),
        ("from ghcr.io/o/app:cache", 42.0, "CACHED (from ghcr.io/o/app:cache, 1 min old)"),
        ("from ghcr.io/o/app:cache", 0.0, "CACHED (from ghcr.io/o/app:cache)"),
        ("local", 200.0, "CACHED (local, 0 s old)"),
        ("", 0.0, "CACHED"),
    ],
)
def test_a_cached_step_says_from_where_and_how_old_it_is(
    source: str, ran: float, said: str
) -> None:
    done = VertexDone("1/0", RUN.name, 102.0, True, source=source, ran=ran)

    assert shown(RUN, done).splitlines()[-1] == f"#1 {said}"


def test_the_status_of_BuildKit_has_no_place_for_why_a_step_runs() -> None:
    stream = io.StringIO()
    RawJson(stream)(VertexMissed("1/0", "src/app.py changed", 100.0))

    assert stream.getvalue() == ""


def test_B12_escapes_and_control_characters_do_not_reach_the_terminal() -> None:
    text = shown(
        RUN, VertexOutput("1/0", b"\x1b[31mred\x1b[0m \x07\x1b]0;title\x07bell \xff\n", 100.0)
    )
    assert text.splitlines()[1] == "#1 0.000 red \\x07bell \N{REPLACEMENT CHARACTER}"


def test_B12_every_line_has_a_prefix() -> None:
    text = shown(RUN, VertexOutput("1/0", b"::add-mask::x\r::error::y\n##vso[x]\n", 100.0))
    assert all(line.startswith("#1 ") for line in text.splitlines())


def test_a_line_without_an_end_is_not_held_for_ever() -> None:
    text = shown(RUN, *[VertexOutput("1/0", b"x" * 1000, 100.0) for _ in range(200)])
    assert len(text) > LINE_LIMIT


def test_failure_and_cancellation_are_told_apart() -> None:
    failed = VertexFailed("1/0", RUN.name, "exit code: 1", 101.0)
    assert shown(RUN, failed).endswith("#1 ERROR: exit code: 1\n")
    assert shown(RUN, VertexFailed("1/0", RUN.name, "", 101.0, True)).endswith("#1 CANCELED\n")


def test_a_closed_stream_stops_nothing() -> None:
    stream = io.StringIO()
    plain = Plain(stream)
    stream.close()
    plain(RUN)
    plain(Warned("still here", 100.0))


FILE = Source("sub/Dockerfile", "FROM a as b\nCMD x\n")
CASING = Warned(
    "'as' and 'FROM' keywords' casing do not match", 1.0, "FromAsCasing", Span(FILE, 1, 1, "as")
)
ARGUMENTS = Warned("JSON arguments recommended", 2.0, "JSONArgsRecommended", Span(FILE, 2, 2))


def test_warnings_about_the_file_are_listed_at_the_end_as_buildx_lists_them() -> None:
    text = shown(CASING, RUN, ARGUMENTS, CASING, VertexDone("1/0", RUN.name, 101.5), Finished(102))
    assert text == (
        "#1 [build 2/4] RUN make\n"
        "#1 DONE 1.5s\n"
        "\n"
        " 2 warnings found (use assemble --debug to expand):\n"
        " - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
        " - JSONArgsRecommended: JSON arguments recommended (line 2)\n"
    )
    assert shown(CASING, Finished(1)) == (
        "\n"
        " 1 warning found (use assemble --debug to expand):\n"
        " - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
    )
    assert shown(Finished(1)) == ""


def test_warnings_are_expanded_on_request() -> None:
    assert shown(CASING, Finished(1), expand=True) == (
        "\n"
        " 1 warning found:\n"
        " - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
        "The 'as' keyword should match the case of the 'from' keyword\n"
        "More info: https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n"
        "sub/Dockerfile:1\n"
        "--------------------\n"
        "   1 | >>> FROM a as b\n"
        "     |            ^^\n"
        "   2 |     CMD x\n"
        "--------------------\n"
        "\n"
    )


def test_a_warning_about_something_else_is_shown_at_once() -> None:
    assert shown(Warned("the cache was\x1b rebuilt", 1.0), Finished(2)) == (
        "WARNING: the cache was\\x1b rebuilt\n"
    )


def test_rawjson_warnings_are_buildkits() -> None:
    stream = io.StringIO()
    display = RawJson(stream)
    for event in (CASING, Warned("of no rule", 1.0), Finished(2.0)):
        display(event)
    casing, other = (json.loads(line)["warnings"] for line in stream.getvalue().splitlines())
    decoded = [base64.b64decode(text).decode() for text in casing[0].pop("detail")]
    assert decoded == ["The 'as' keyword should match the case of the 'from' keyword"]
    assert base64.b64decode(casing[0].pop("short")).decode() == (
        "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"
    )
    assert casing == [
        {
            "level": 1,
            "url": "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
            "sourceInfo": {
                "filename": "sub/Dockerfile",
                "data": base64.b64encode(FILE.text.encode()).decode(),
                "language": "Dockerfile",
            },
            "range": [{"start": {"line": 1}, "end": {"line": 1}}],
        }
    ]
    assert other == [{"level": 1, "short": base64.b64encode(b"of no rule").decode()}]


def test_rawjson_is_solve_status() -> None:
    stream = io.StringIO()
    display = RawJson(stream)
    for event in (
        RUN,
        VertexOutput("1/0", b"hi\n", 100.5),
        VertexDone("1/0", RUN.name, 101.0, True),
    ):
        display(event)
    started, output, done = map(json.loads, stream.getvalue().splitlines())
    assert started["vertexes"][0]["name"] == RUN.name
    assert base64.b64decode(output["logs"][0]["data"]) == b"hi\n"
    assert output["logs"][0]["vertex"] == started["vertexes"][0]["digest"]
    assert done["vertexes"][0]["cached"] is True and done["vertexes"][0]["completed"]


def test_a_failure_ends_with_the_error_line_and_a_hint() -> None:
    source = Source("Dockerfile", "FROM a\nRUN\tmake all\n")
    text = failure(StepError("it broke", Span(source, 2, 2, "all"), hint="mend it"))
    assert ">>> RUN make all" in text
    assert "^^^" in text.splitlines()[4]
    assert text.endswith("hint: mend it\nERROR: it broke")


def test_an_excerpt_fits_the_terminal() -> None:
    source = Source("Dockerfile", f"FROM a\nRUN {'x' * 500} all\n")
    text = failure(StepError("it broke", Span(source, 2, 2, "all")), columns=60)
    assert max(map(len, text.splitlines())) <= 60 and "^^^" in text


def test_an_empty_file_has_no_excerpt() -> None:
    error = StepError("the Dockerfile cannot be empty", Span(Source("Dockerfile", ""), 1, 1))
    assert failure(error) == "ERROR: the Dockerfile cannot be empty"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StepError("x"), 1),
        (UsageError("x"), 2),
        (NoSpace("x"), 102),
        (Cancelled(signal=signal.SIGINT), 130),
        (Cancelled(signal=signal.SIGTERM), 143),
        (ZeroDivisionError("x"), 100),
    ],
)
def test_exit_statuses(error: BaseException, status: int) -> None:
    assert exit_status(error) == status
