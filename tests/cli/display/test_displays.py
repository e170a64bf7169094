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
from assembler.events import VertexDone, VertexFailed, VertexOutput, VertexStarted, Warned
from assembler.source import Source, Span


def shown(*events: object) -> str:
    stream = io.StringIO()
    plain = Plain(stream)
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
