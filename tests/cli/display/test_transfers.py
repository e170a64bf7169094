"""How blobs on their way are shown: in a log, on a terminal, as statuses."""

from __future__ import annotations

import io
import json

from assembler.cli.display.board import Board
from assembler.cli.display.plain import Plain
from assembler.cli.display.rawjson import RawJson
from assembler.events import (
    Event,
    VertexDone,
    VertexFailed,
    VertexProgress,
    VertexStarted,
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


def live(*events: Event) -> list[str]:
    """What is said of the blobs of `events` that are on their way, to somebody who watches."""
    board = Board()
    for event in events:
        board.take(event)
    return [transfer.live() for transfer in board.works["push"].moving.values()]


def test_somebody_who_watches_sees_bytes_rate_and_time_left_of_several_blobs_at_once() -> None:
    steps = [
        moved(n + late, item, n * rate * MB)
        for n in range(9)
        for item, rate, late in ((ONE, 10, 0), (TWO, 20, 0.5))
    ]
    assert live(PUSH, *steps) == [
        "sha256:111111111111 80.00MB / 200.00MB 10.00MB/s 13s left",
        "sha256:222222222222 160.00MB / 200.00MB 20.00MB/s 3s left",
    ]


def test_nothing_is_on_its_way_when_blobs_have_come_failed_or_the_work_is_over() -> None:
    begun = [PUSH, moved(0, ONE, 0), moved(1, ONE, MB), moved(1, TWO, MB)]
    assert live(*begun, moved(2, ONE, 200 * MB)) == ["sha256:222222222222 1.00MB / 200.00MB"]
    assert live(*begun, VertexFailed("push", PUSH.name, "refused", 102.0)) == []
    assert live(*begun, VertexDone("push", PUSH.name, 102.0), moved(3, TWO, 2 * MB)) == []


def test_a_rate_is_of_what_came_lately_and_of_nothing_before_a_new_beginning() -> None:
    fast = [moved(n, ONE, n * 10 * MB) for n in range(9)]
    slow = [moved(9 + n, ONE, 80 * MB + n * MB) for n in range(8)]
    assert live(PUSH, *fast, *slow)[0].endswith("1.00MB/s 1m54s left")
    anew = [moved(20, ONE, 0), moved(21, ONE, 5 * MB)]
    assert live(PUSH, *fast, *anew)[0].endswith("5.00MB/s 40s left")


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
