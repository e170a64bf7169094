"""How blobs on their way are shown: in a log, on a terminal, as statuses."""

from __future__ import annotations

import io
import json
import re

from assembler.cli.display.footer import Footer
from assembler.cli.display.plain import Plain
from assembler.cli.display.rawjson import RawJson
from assembler.events import (
    Event,
    Finished,
    VertexDone,
    VertexFailed,
    VertexProgress,
    VertexStarted,
    Warned,
)  # fmt: skip

PUSH = VertexStarted("push", "pushing r.example/app:1", 100.0)
ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
MB = 1_000_000


def moved(seconds: float, item: str, current: int, total: int = 200 * MB) -> VertexProgress:
    return VertexProgress("push", item, current, total, 100 + seconds)


def logged(*events: Event) -> list[str]:
    stream = io.StringIO()
    plain = Plain(stream)
    for event in events:
        plain(event)
    return stream.getvalue().splitlines()


def screen(*events: Event, columns: int = 100) -> tuple[list[str], list[str]]:
    """What stays on a terminal, and what stood there after each event."""
    stream = io.StringIO()
    plain = Plain(stream, footer=Footer(lambda: columns))
    seen = []
    for event in events:
        plain(event)
        seen.append("\n".join(played(stream.getvalue())))
    return played(stream.getvalue()), seen


def played(text: str) -> list[str]:
    """The lines of a terminal that got `text`."""
    lines: list[str] = []
    for piece in re.findall(r"\x1b\[\d+A\x1b\[J|[^\x1b]+", text):
        if piece.startswith("\x1b"):
            del lines[-int(piece[2 : piece.index("A")]) :]
        else:
            lines += piece.split("\n")[:-1]
    return lines


def test_a_log_has_a_line_of_a_blob_now_and_then_as_buildx_prints_it() -> None:
    steps = [moved(n / 10, ONE, n * MB) for n in range(201)]
    assert logged(PUSH, *steps) == [
        "#1 pushing r.example/app:1",
        f"#1 {ONE} 50.00MB / 200.00MB 5.0s",
        f"#1 {ONE} 100.00MB / 200.00MB 10.0s",
        f"#1 {ONE} 150.00MB / 200.00MB 15.0s",
        f"#1 {ONE} 200.00MB / 200.00MB 20.0s done",
    ]


def test_a_log_says_nothing_of_blobs_that_are_there_and_of_those_that_stand_still() -> None:
    there = moved(0, TWO, 200 * MB)
    still = [moved(n, ONE, MB) for n in range(100)]
    assert logged(PUSH, there, there, *still) == ["#1 pushing r.example/app:1"]


def test_a_blob_that_goes_ahead_of_its_vertex_names_it() -> None:
    events = [moved(0, ONE, MB), moved(1, ONE, 200 * MB), PUSH, VertexDone("push", PUSH.name, 102)]
    assert logged(*events) == [
        "#1 push",
        f"#1 {ONE} 200.00MB / 200.00MB 1.0s done",
        "#1 DONE 2.0s",
    ]


def test_a_terminal_shows_bytes_rate_and_time_left_of_several_blobs_at_once() -> None:
    steps = [
        moved(n + late, item, n * rate * MB)
        for n in range(9)
        for item, rate, late in ((ONE, 10, 0), (TWO, 20, 0.5))
    ]
    left, seen = screen(PUSH, *steps)
    assert left == [
        "#1 pushing r.example/app:1",
        "#1 sha256:111111111111 80.00MB / 200.00MB 10.00MB/s 13s left",
        "#1 sha256:222222222222 160.00MB / 200.00MB 20.00MB/s 3s left",
    ]
    assert all(len(shown.splitlines()) <= 3 for shown in seen)


def test_a_terminal_is_clean_when_blobs_have_come_failed_or_the_work_is_over() -> None:
    begun = [PUSH, moved(0, ONE, 0), moved(1, ONE, MB), moved(1, TWO, MB)]
    name = "#1 pushing r.example/app:1"
    assert screen(*begun, moved(2, ONE, 200 * MB))[0] == [
        name,
        f"#1 {ONE} 200.00MB / 200.00MB 2.0s done",
        "#1 sha256:222222222222 1.00MB / 200.00MB",
    ]
    failed = VertexFailed("push", PUSH.name, "refused", 102.0)
    assert screen(*begun, failed)[0] == [name, "#1 ERROR: refused"]
    assert screen(*begun, Finished(102.0))[0] == [name]


def test_text_goes_above_what_moves() -> None:
    retry = Warned("r.example: the upload is tried again in 2 s: 503", 101.0)
    left, _ = screen(PUSH, moved(0, ONE, 0), moved(1, ONE, MB), retry, moved(2, ONE, 3 * MB))
    assert left[1] == "WARNING: r.example: the upload is tried again in 2 s: 503"
    assert left[2].startswith("#1 sha256:111111111111 3.00MB / 200.00MB")


def test_no_line_is_wider_than_the_terminal_and_many_blobs_are_summed_up() -> None:
    blobs = [moved(n, f"sha256:{n:064}", 1) for n in range(20)]
    left, _ = screen(PUSH, *blobs, columns=30)
    assert max(map(len, left)) <= 29 and len(left) == 9
    assert left[-1] == "… and 13 more"


def test_a_rate_is_of_what_came_lately_and_of_nothing_before_a_new_beginning() -> None:
    fast = [moved(n, ONE, n * 10 * MB) for n in range(9)]
    slow = [moved(9 + n, ONE, 80 * MB + n * MB) for n in range(8)]
    assert screen(PUSH, *fast, *slow)[0][-1].endswith("1.00MB/s 1m54s left")
    anew = [moved(20, ONE, 0), moved(21, ONE, 5 * MB)]
    assert screen(PUSH, *fast, *anew)[0][-1].endswith("5.00MB/s 40s left")


def test_statuses_are_buildkits_and_not_one_for_every_piece() -> None:
    stream = io.StringIO()
    raw = RawJson(stream)
    raw(PUSH)
    for n in range(201):
        raw(moved(n / 1024, ONE, n * MB))
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    statuses = [one for document in documents for one in document.get("statuses", [])]
    assert [one["current"] // MB for one in statuses] == [0, 103, 200]
    assert statuses[-1] == {
        "id": ONE,
        "vertex": documents[0]["vertexes"][0]["digest"],
        "current": 200 * MB,
        "total": 200 * MB,
        "timestamp": "1970-01-01T00:01:40.195312Z",
        "started": "1970-01-01T00:01:40.000000Z",
        "completed": "1970-01-01T00:01:40.195312Z",
    }
    assert "completed" not in statuses[0]
