"""Threads at one stream (layer.pipe)."""

from __future__ import annotations

import threading

import pytest

from assembler.layer.pipe import DEPTH, Ahead, Beside


def ahead(*pieces: bytes) -> Ahead:
    left = iter(pieces)
    return Ahead(lambda: next(left, b""), "test")


def test_a_read_gives_all_that_was_asked_for_whatever_the_pieces() -> None:
    with ahead(b"one", b"two", b"three") as stream:
        assert [stream.read(4), stream.read(3), stream.read(9), stream.read(1)] == [
            b"onet",
            b"wot",
            b"hree",
            b"",
        ]


def test_a_piece_that_is_wanted_whole_is_not_copied() -> None:
    piece = bytes(1000)
    with ahead(piece, b"rest") as stream:
        assert stream.read(1000) is piece
        assert stream.read() == b"rest"


def test_what_is_skipped_is_passed_over_piece_by_piece() -> None:
    with ahead(b"one", b"two", b"three") as stream:
        assert [stream.skip(2), stream.skip(9), stream.skip(1), stream.read(9)] == [
            2,
            1,
            1,
            b"wothree",
        ]
        assert stream.skip(9) == 0


def test_what_fails_ahead_is_raised_behind_what_came_before_it() -> None:
    def produce() -> bytes:
        if not came:
            came.append(True)
            return b"good"
        raise ConnectionError("broken")

    came: list[bool] = []
    with Ahead(produce, "test") as stream:
        assert stream.skip(4) == 4
        with pytest.raises(ConnectionError):
            stream.skip(1)


def test_pieces_are_seen_beside_in_order_by_the_end_of_the_block() -> None:
    seen: list[bytes] = []
    pieces = [b"%d" % number for number in range(5 * DEPTH)]
    with Beside(seen.append, "test") as beside:
        for piece in pieces:
            beside.put(piece)
    assert seen == pieces


def test_no_more_pieces_wait_beside_than_there_is_room_for() -> None:
    go, seen = threading.Event(), threading.Semaphore(0)

    def consume(piece: bytes) -> None:
        go.wait()
        seen.release()

    put: list[int] = []

    def fill(beside: Beside) -> None:
        for number in range(DEPTH + 1):
            beside.put(b"piece")
            put.append(number)

    with Beside(consume, "test") as beside:
        filling = threading.Thread(target=fill, args=(beside,))
        filling.start()
        filling.join(0.2)
        assert len(put) <= DEPTH
        go.set()
        filling.join()
    assert len(put) == DEPTH + 1


def test_what_fails_beside_is_raised_by_the_end_of_the_block() -> None:
    def consume(piece: bytes) -> None:
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"), Beside(consume, "test") as beside:
        beside.put(b"piece")
    assert not beside._thread.is_alive()
