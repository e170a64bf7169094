"""Progress on a terminal, as pictures of it."""

from __future__ import annotations

import io
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.cli.display.colors import USUAL, colors
from assembler.cli.display.layout import present
from assembler.cli.display.step_logs import StepLogs
from assembler.cli.display.tty import Tty
from assembler.events import (
    Event,
    Finished,
    Planned,
    Requested,
    VertexDone,
    VertexFailed,
    VertexMissed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    VertexWaiting,
    Warned,
)
from assembler.source import Source, Span, columns_of
from tests.terminal import Terminal

BEFORE = "$ assemble build .\n"


class Shown:
    """A display on a terminal; `now` is the time. What is drawn is on the terminal at once."""

    def __init__(
        self, columns: int = 61, rows: int = 24, *, before: str = BEFORE, **options: object
    ) -> None:
        self.terminal = Terminal(columns, rows, before)
        self.now = 100.0
        self.stream = io.StringIO()
        self.display = Tty(self.stream, self._size, clock=lambda: self.now, **options)  # type: ignore[arg-type]

    def _size(self) -> tuple[int, int]:
        return self.terminal.columns, self.terminal.rows

    def __call__(self, *events: Event) -> Shown:
        """Have `events` happen."""
        for event in events:
            self.now = max(self.now, event.time)
            if isinstance(event, VertexOutput):
                self.display.watch(event)
            self.display(event)
        self._written()
        return self

    def draw(self, at: float | None = None) -> str:
        """What is drawn `at` a time; all that was written for that."""
        self.now = self.now if at is None else at
        self.display.draw()
        return self._written()

    def _written(self) -> str:
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        self.terminal.write(text)
        return text

    @property
    def screen(self) -> str:
        """The terminal without the line of the shell."""
        return self.terminal.everything.removeprefix(BEFORE)

    def end(self, at: float, *, failed: bool = False) -> str:
        """What stays."""
        return self(Finished(at, failed)).screen


def picture(text: str) -> str:
    """`text`, a picture with a margin of `|`."""
    return "\n".join(line.partition("|")[2] for line in text.strip().splitlines())


def started(id: str, name: str, at: float = 100.0) -> VertexStarted:
    return VertexStarted(id, name, at)


def done(id: str, at: float, **more: object) -> VertexDone:
    return VertexDone(id, "", at, **more)  # type: ignore[arg-type]


def cached(id: str, name: str, at: float = 100.0) -> tuple[Event, Event]:
    return started(id, name, at), done(id, at, cached=True)


def said(id: str, output: str | bytes, at: float = 100.0) -> VertexOutput:
    return VertexOutput(id, output.encode() if isinstance(output, str) else output, at)


MAKE = started("0/1", "[build 3/4] RUN make", 101.0)
A_BUILD: tuple[Event, ...] = (
    *cached("0/base", "[build 1/4] FROM docker.io/library/debian:12"),
    started("0/0", "[build 2/4] RUN apt-get install -y make"),
    done("0/0", 101.0),
    Planned(("0/base", "0/0", "0/1", "0/2", "1/0", "export"), 100.5),
    MAKE,
)


def test_a_build_is_drawn_as_buildx_draws_it() -> None:
    shown = Shown()(*A_BUILD, said("0/1", "cc -o x\nlinking"))
    shown.draw(104.3)
    assert shown.screen == picture("""
        |[+] Building 4.3s (2/6)
        | => CACHED [build 1/4] FROM docker.io/library/debian:12 0.0s
        | => [build 2/4] RUN apt-get install -y make             1.0s
        | => [build 3/4] RUN make                                3.3s
        | => => # cc -o x
        | => => # linking
    """)
    assert shown.terminal.hidden


def test_at_the_end_each_step_has_a_line_and_its_output_is_gone() -> None:
    shown = Shown()(*A_BUILD, said("0/1", "cc -o x\n"))
    shown.draw(104.3)
    shown(done("0/1", 105.0), started("export", "exporting layers", 105.0))
    shown(done("export", 105.4, detail="sha256:0123"))
    assert shown.end(105.5) == picture("""
        |[+] Building 5.5s (4/4) FINISHED
        | => CACHED [build 1/4] FROM docker.io/library/debian:12 0.0s
        | => [build 2/4] RUN apt-get install -y make             1.0s
        | => [build 3/4] RUN make                                4.0s
        | => exporting layers                                    0.4s
        | => => sha256:0123
    """)
    assert not shown.terminal.hidden and shown.terminal.wraps
    assert shown.terminal.cursor == (7, 0)


def test_a_build_that_was_never_drawn_leaves_the_same() -> None:
    shown, drawn = Shown(), Shown()
    drawn(*A_BUILD).draw()
    assert shown(*A_BUILD).end(107.0) == drawn.end(107.0)


def test_the_output_of_what_failed_stays_in_full_and_of_that_alone() -> None:
    shown = Shown(41)(*A_BUILD, started("1/0", "[test 1/1] RUN check", 101.0))
    shown(said("1/0", "checking\n"), said("0/1", "cc\nerror: no \x1b[31msuch\x1b[0m file, ", 101.5))
    shown(said("0/1", f"{'x' * 40}\n" + "".join(f"{n}\n" for n in range(30)), 103.25))
    shown.draw()
    shown(VertexFailed("0/1", "", "exit code: 2", 103.5))
    shown(VertexFailed("1/0", "", "", 103.5, cancelled=True))
    text = shown.end(103.5, failed=True)
    assert text.startswith(
        picture("""
        |[+] Building 3.5s (2/6) FAILED
        | => CACHED [build 1/4] FROM docker… 0.0s
        | => [build 2/4] RUN apt-get instal… 1.0s
        | => ERROR [build 3/4] RUN make      2.5s
        | => CANCELED [test 1/1] RUN check   2.5s
        |------
        | > [build 3/4] RUN make:
        |0.500 cc
        |2.250 error: no such file, xxxxxxxxxxxxxx
        |xxxxxxxxxxxxxxxxxxxxxxxxxx
        |2.250 0
        |2.250 1
    """)
    )
    assert text.endswith("\n2.250 29\n------")


def test_only_the_last_lines_of_output_are_drawn_and_none_is_wider_than_the_terminal() -> None:
    shown = Shown(25)(MAKE, said("0/1", "".join(f"{n} {'x' * 30}\n" for n in range(100))))
    shown.draw(101.0)
    assert shown.screen == picture("""
        |[+] Building 0.0s (0/1)
        | => [build 3/4] RU… 0.0s
        | => => # 94 xxxxxxxxxxx…
        | => => # 95 xxxxxxxxxxx…
        | => => # 96 xxxxxxxxxxx…
        | => => # 97 xxxxxxxxxxx…
        | => => # 98 xxxxxxxxxxx…
        | => => # 99 xxxxxxxxxxx…
    """)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("10%\r20%\r30%", "30%"),
        ("10%\r20%\r", "20%"),
        ("downloading\rdone\x1b[K\n", "done"),
        ("downloading\r\x1b[2Kdone\n", "done"),
        ("100%\b\b\b5\n", "150%"),
        ("ab\x1b[2Dc\x1b[1Cd\x1b[1Ge\n", "ebd"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07bell \x07\n", "red bell \\x07"),
        ("a\tb\n", "a       b"),
        ("\x1bPq#0;2;0\x1b\\sixel \x1b[?1049h\x1b[5;5Hhome\x1b[2J\n", "sixel home"),
        ("\x9b31m\x1b(0x\x1b", "\\x9b31mx"),
        ("e\u0301 \u202e\u200b\n", "e\u0301 \\u202e\\u200b"),
        (b"\xff\xfe\n", "\N{REPLACEMENT CHARACTER}" * 2),
        ("\r\n", ""),
    ],
)
def test_output_shows_what_a_terminal_would_show_and_steers_nothing(
    output: str | bytes, line: str
) -> None:
    shown = Shown()(MAKE, said("0/1", output))
    shown.draw()
    assert shown.screen.splitlines()[2:] == [f" => => # {line}".rstrip()]


def test_more_output_than_can_be_looked_at_is_neither_kept_nor_written() -> None:
    shown = Shown()(MAKE)
    shown.draw()
    lines = "".join(f"{n} compiling and linking\n" for n in range(10_000)).encode()
    for _ in range(100):
        shown.display.watch(said("0/1", lines))
    assert len(shown.draw()) < 300
    assert shown.screen.splitlines()[-1] == " => => # 9999 compiling and linking"
    tail = shown.display._board.works["0/1"].tail
    assert tail is not None and len(tail._bytes) <= 16 << 10


def test_a_frame_writes_what_changed() -> None:
    shown = Shown()(*A_BUILD, said("0/1", "cc -o x\n"))
    assert len(shown.draw(104.3)) > 200
    assert shown.draw() == ""
    assert shown.draw(104.4) == (
        "\x1b[?7l\x1b[16G4s (2/6)\x1b[3B\x1b[59G4s\r\x1b[3A\x1b[?7h"
    )  # fmt: skip


def stages(count: int) -> list[Event]:
    return [started(f"{n}/0", f"[stage-{n} 1/3] RUN make {n}") for n in range(count)]


def test_fifty_stages_at_once_share_the_rows_there_are() -> None:
    shown = Shown(41, 8)(*stages(50), *(said(f"{n}/0", "out\n") for n in range(50)))
    shown.draw(101.0)
    assert shown.terminal.screen == picture("""
        |$ assemble build .
        |[+] Building 1.0s (0/50)
        | => [stage-0 1/3] RUN make 0        1.0s
        | => [stage-1 1/3] RUN make 1        1.0s
        | => [stage-2 1/3] RUN make 2        1.0s
        | => [stage-3 1/3] RUN make 3        1.0s
        | => [stage-4 1/3] RUN make 4        1.0s
        | => … and 45 more
    """)
    assert not shown.terminal.scrollback


def test_where_there_is_little_room_each_that_runs_has_as_much_output() -> None:
    shown = Shown(41, 10)(*stages(3))
    shown(*(said(f"{n}/0", f"{n}a\n{n}b\n{n}c\n") for n in range(3)))
    shown.draw(101.0)
    assert shown.terminal.screen == picture("""
        |$ assemble build .
        |[+] Building 1.0s (0/3)
        | => [stage-0 1/3] RUN make 0        1.0s
        | => => # 0c
        | => [stage-1 1/3] RUN make 1        1.0s
        | => => # 1b
        | => => # 1c
        | => [stage-2 1/3] RUN make 2        1.0s
        | => => # 2b
        | => => # 2c
    """)


SEVERAL: tuple[Event, ...] = (
    *cached("0/base", "[a 1/5] FROM debian"),
    *cached("0/0", "[a 2/5] RUN one"),
    started("0/1", "[a 3/5] RUN two"), done("0/1", 104.0),
    *cached("1/base", "[b 1/3] FROM debian"),
    started("1/0", "[b 2/3] RUN three"), done("1/0", 103.0),
    started("0/2", "[a 4/5] RUN four", 104.0),
)  # fmt: skip


def test_steps_that_are_done_become_one_line_of_their_stage_where_the_terminal_is_short() -> None:
    shown = Shown(41, 7)(*SEVERAL)
    shown.draw(105.0)
    assert shown.terminal.screen == picture("""
        |$ assemble build .
        |[+] Building 5.0s (5/6)
        | => [a] 3 steps done, 2 cached      4.0s
        | => CACHED [b 1/3] FROM debian      0.0s
        | => [b 2/3] RUN three               3.0s
        | => [a 4/5] RUN four                1.0s
    """)
    shown.terminal.resize(41, 5)
    shown.draw()
    assert shown.terminal.screen == picture("""
        |[+] Building 5.0s (5/6)
        | => [a] 3 steps done, 2 cached      4.0s
        | => [b] 2 steps done, 1 cached      3.0s
        | => [a 4/5] RUN four                1.0s
    """)
    shown.terminal.resize(41, 4)
    shown.draw()
    assert shown.terminal.screen == picture("""
        |[+] Building 5.0s (5/6)
        | => 5 steps done, 3 cached          4.0s
        | => [a 4/5] RUN four                1.0s
    """)
    shown.terminal.resize(41, 24)
    shown.draw()
    assert "RUN two" in shown.terminal.screen, "all of it where there is room again"


def test_twenty_columns_and_three_rows_show_what_runs() -> None:
    shown = Shown(20, 3, before="")(*SEVERAL)
    shown.draw(105.0)
    assert shown.terminal.everything == picture("""
        |[+] Building 5.0s …
        | => [a 4/5] R… 1.0s
    """)
    shown(started("1/1", "[b 3/3] RUN five", 105.0))
    shown.draw()
    assert shown.terminal.everything.splitlines()[-1] == " => [a 4/5] R… 1.0s"


@pytest.mark.parametrize("columns", [1, 2, 5, 13])
@pytest.mark.parametrize("rows", [1, 2])
def test_no_terminal_is_too_small(columns: int, rows: int) -> None:
    shown = Shown(columns, rows, before="")(*SEVERAL)
    for at in (105.0, 106.0, 107.0):
        shown.draw(at)
    assert len(shown.terminal.everything.splitlines()) <= 1
    shown.end(108.0)
    assert len(shown.terminal.scrollback) + shown.terminal.cursor[0] == 7


def test_what_failed_is_never_folded_away() -> None:
    shown = Shown(41, 4)(*SEVERAL, VertexFailed("0/2", "", "exit code: 1", 105.0))
    shown(started("1/1", "[b 3/3] RUN five", 105.0), started("2/0", "[c 1/1] RUN six", 105.0))
    shown.draw(106.0)
    assert shown.terminal.screen.splitlines()[2] == " => ERROR [a 4/5] RUN four          1.0s"


def test_wide_and_combining_characters_have_the_columns_they_take() -> None:
    name = "[build 1/2] RUN echo 日本語日本語 e\u0301 \N{GRINNING FACE}"
    shown = Shown(38)(started("0/0", name), said("0/0", "日本語" * 20))
    shown.draw(101.0)
    assert shown.screen == picture("""
        |[+] Building 1.0s (0/1)
        | => [build 1/2] RUN echo 日本語… 1.0s
        | => => # 日本語日本語日本語日本語日…
    """)
    shown.terminal.resize(60, 24)
    shown.draw()
    assert shown.screen.splitlines()[1] == f" => {name}             1.0s"


def test_characters_that_the_terminal_is_not_sent_do_not_count() -> None:
    shown = Shown(40)
    stream = io.TextIOWrapper(
        io.BytesIO(), encoding="latin-1", errors="backslashreplace", newline=""
    )
    shown.display._stream = stream
    shown(started("0/0", f"[build 1/2] RUN echo 日本 {'x' * 40}"))
    shown.display.draw()
    stream.seek(0)
    shown.terminal.write(stream.read())
    assert shown.screen.splitlines()[1] == " => [build 1/2] RUN echo ?? xxx? 0.0s"


@pytest.mark.parametrize("columns", [20, 35, 59, 61, 100])
@pytest.mark.parametrize("rows", [3, 6, 24])
def test_a_terminal_that_is_resized_is_drawn_anew_where_it_was(columns: int, rows: int) -> None:
    def build(shown: Shown) -> Shown:
        return shown(*A_BUILD, said("0/1", "cc -o x\nlinking\n"))

    shown = build(Shown(60, 24, before="one\ntwo\n"))
    shown.draw(104.3)
    shown.terminal.resize(columns, rows)
    shown.draw()
    fresh = build(Shown(columns, rows, before="one\ntwo\n"))
    fresh.draw(104.3)
    assert shown.terminal.everything == fresh.terminal.everything
    shown.terminal.resize(60, 24)
    assert shown.end(105.0) == build(Shown(60, 24, before="one\ntwo\n")).end(105.0)


def test_text_that_stays_goes_above_what_moves() -> None:
    shown = Shown(46)(MAKE, said("0/1", "cc\n"))
    shown.draw()
    shown(Warned("r.example: the upload is tried again\x1b[2J in 2 s: status 503", 102.0))
    shown(Requested("GET https://r.example/v2/ 200", 102.0))
    shown.draw()
    below = picture("""
        |WARNING: r.example: the upload is tried again\\
        |x1b[2J in 2 s: status 503
        |DEBUG: GET https://r.example/v2/ 200
        |[+] Building 1.0s (0/1)
        | => [build 3/4] RUN make                 1.0s
        | => => # cc
    """)
    assert shown.screen == below
    shown.draw(103.0)
    assert shown.screen == below.replace("1.0s", "2.0s")
    assert shown.end(103.0).startswith(below.partition("[+]")[0] + "[+] Building 2.0s")


FILE = Source("Dockerfile", "FROM a as b\nCMD x\n")
CASING = Warned("casing does not match", 1.0, "FromAsCasing", Span(FILE, 1, 1, "as"))


def test_warnings_about_the_file_are_listed_at_the_end() -> None:
    text = Shown()(CASING, MAKE, CASING, done("0/1", 102.0)).end(102.0)
    assert text == picture("""
        |[+] Building 1.0s (1/1) FINISHED
        | => [build 3/4] RUN make                                1.0s
        |
        | 1 warning found (use assemble --debug to expand):
        | - FromAsCasing: casing does not match (line 1)
    """)
    assert "More info: https://" in Shown(expand=True)(CASING).end(2.0)
    assert Shown()().end(1.0) == BEFORE.strip(), "nothing where there is nothing to say"


def test_a_step_says_why_it_runs_and_whom_it_waits_for() -> None:
    shown = Shown(50)(MAKE, VertexMissed("0/1", "src/app.py changed\x1b (and 2 more)", 101.0))
    shown(VertexWaiting("0/1", "waiting for process 4711", 101.0))
    shown.draw()
    assert shown.screen == picture("""
        |[+] Building 0.0s (0/1)
        | => [build 3/4] RUN make                     0.0s
        | => => why: src/app.py changed\\x1b (and 2 more)
        | => => waiting for process 4711
    """)
    shown(said("0/1", "cc\n"), done("0/1", 102.0))
    assert shown.end(102.0).splitlines()[1:] == [
        " => [build 3/4] RUN make                     1.0s",
        " => => why: src/app.py changed\\x1b (and 2 more)",
    ]


def test_a_cached_step_says_from_where_and_how_old_it_is_where_there_is_room() -> None:
    known = done("0/1", 101.0, cached=True, source="local", ran=101.0 - 3 * 86400)
    assert Shown(60)(MAKE, known).end(101.0).splitlines()[1] == (
        " => CACHED [build 3/4] RUN make                        0.0s"
    )
    assert Shown(61)(MAKE, known).end(101.0).splitlines()[1] == (
        " => CACHED [build 3/4] RUN make         local, 3 d old  0.0s"
    )


def test_what_is_built_again_for_a_second_output_keeps_its_first_time() -> None:
    shown = Shown()(MAKE, done("0/1", 105.0), *cached("0/1", MAKE.name, 106.0))
    assert shown.end(107.0).splitlines()[1] == (
        " => [build 3/4] RUN make                                4.0s"
    )
    broken = VertexFailed("0/1", "", "the blob is damaged", 105.0)
    shown = Shown()(MAKE, broken, started("0/1", MAKE.name, 106.0), done("0/1", 108.0))
    assert shown.end(109.0).splitlines() == [
        "[+] Building 8.0s (1/1) FINISHED",
        " => [build 3/4] RUN make                                2.0s",
    ]


def test_colours_are_the_line_s_and_none_are_written_without_them() -> None:
    plain, painted = Shown(), Shown(colors=USUAL)
    for shown in (plain, painted):
        shown(*A_BUILD, said("0/1", "cc\n"))
    assert not re.search(r"\x1b\[[0-9;]*m", plain.draw())
    text = painted.draw()
    assert "\x1b[36m => CACHED" in text and "\x1b[2m => => # cc\x1b[0m" in text
    assert plain.screen == painted.screen


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, USUAL),
        ({"NO_COLOR": "1", "BUILDKIT_COLORS": "run=green"}, {}),
        ({"NO_COLOR": ""}, USUAL),
        ({"BUILDKIT_COLORS": "run=green"}, {**USUAL, "DONE": "32", "CACHED": "32"}),
        ({"BUILDKIT_COLORS": "ERROR=255,0,7:warning=light-blue"},
         {**USUAL, "ERROR": "38;2;255;0;7", "WARNING": "94"}),
        ({"BUILDKIT_COLORS": "cancel=orange:error=1,2:run=256,0,0:x=red::="}, USUAL),
    ],
)  # fmt: skip
def test_colours_are_chosen_as_with_buildx(
    variables: dict[str, str], found: dict[str, str]
) -> None:
    assert colors(variables) == found


def test_who_stops_the_process_has_a_terminal_as_it_was_and_below_the_lines() -> None:
    shown = Shown()(*A_BUILD)
    shown.draw()
    lines = shown.screen
    shown.display.pause()
    shown._written()
    assert not shown.terminal.hidden and shown.terminal.wraps
    shown.terminal.write("$ fg\r\n")
    shown.draw()
    assert shown.screen == f"{lines}\n$ fg\n{lines}" and shown.terminal.hidden


def test_a_process_that_is_about_to_die_gives_the_terminal_back() -> None:
    shown = Shown()(*A_BUILD)
    assert shown.display.restoring == ""
    shown.draw()
    lines = shown.screen
    shown.terminal.write(shown.display.restoring)
    assert shown.screen == lines and shown.terminal.cursor == (5, 0)
    assert not shown.terminal.hidden and shown.terminal.wraps


def test_nothing_is_drawn_when_another_has_the_terminal_now_and_all_that_stays_is_told() -> None:
    ours = True
    shown = Shown(foreground=lambda: ours)(*A_BUILD)
    shown.draw()
    shown.display.pause()
    shown._written()
    ours = False
    shown(Warned("mind this", 102.0))
    assert shown.draw() == ""
    assert "\nWARNING: mind this\n[+] Building 2.0s" in shown.end(102.0)


def test_what_never_was_in_the_foreground_as_below_timeout_1_is_drawn_all_the_same() -> None:
    assert Shown(foreground=lambda: False)(*A_BUILD).draw()


def test_a_shared_cache_that_failed_is_no_build_that_did() -> None:
    shown = Shown()(started("import", "importing cache from r.example/a"))
    shown(VertexFailed("import", "", "connection refused", 101.0), MAKE, done("0/1", 102.0))
    assert shown.end(102.0) == picture("""
        |[+] Building 2.0s (1/2) FINISHED
        | => ERROR importing cache from r.example/a              1.0s
        | => => connection refused
        | => [build 3/4] RUN make                                1.0s
    """)


def test_a_terminal_that_somebody_made_non_blocking_gets_all_of_it() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reader, 1 << 16):
            got.extend(piece)

    with open(writer, "w", encoding="utf-8") as stream:
        display = Tty(stream, lambda: (80, 24))
        for n in range(5000):
            display(started(f"{n}/0", f"[{n} 1/1] RUN {'x' * 60}"))
        thread = threading.Thread(target=read)
        thread.start()
        display(Finished(101.0))
    thread.join()
    os.close(reader)
    assert got.count(b" => [") == 5000


def test_a_terminal_that_hung_up_stops_nothing() -> None:
    shown = Shown()(*A_BUILD)
    shown.draw()
    shown.stream.close()
    shown.display.draw()
    for event in (said("0/1", "cc\n"), done("0/1", 105.0), Finished(106.0)):
        shown.display(event)


def test_all_output_is_seen_and_what_is_kept_is_bounded_as_a_log_is(tmp_path: Path) -> None:
    shown = Shown()
    logs = StepLogs(shown.display, str(tmp_path), 8, -1, watch=shown.display.watch)
    logs(MAKE)
    logs(said("0/1", "one\ntwo\nthree\nfour\n", 101.0))
    shown.draw()
    assert shown.screen.splitlines()[2:] == [
        f" => => # {word}" for word in ("one", "two", "three", "four")
    ]
    logs(VertexFailed("0/1", "", "exit code: 1", 102.0))
    kept = [line.partition(" ")[2] for line in shown.end(102.0).splitlines()[4:-1]]
    assert kept[:4] == ["one", "two", "", "[output clipped, log limit 0.0078125KiB reached]"]
    assert kept[4:9] == ["", "[the last lines:]", "three", "four", ""]
    assert kept[9].startswith("[all of the output: /")


NASTY = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"\x1b[", b"\x1b]0;", b"\x1b]52;c;", b"\x1bP", b"\x9b", b"\xc2\x9b", b"\x1b[9999999A", b"\n",
         b"\r", b"\x1b[2J", b"\x1b[?1049h", b"\x07", b"\x1b\\", b"\x08", b"\t", "日".encode(),
         "\u0301".encode(), "\u202e".encode(), b"\x1b[9999999999999999G", b"\x1bc", b"\x0e",
         b"\x1b[" + b"9" * 5000 + b"C", b"\xf0\x9f\x98\x80", b"x" * 3000]
    ),
)  # fmt: skip


@given(
    st.lists(NASTY, max_size=30),
    st.integers(8, 90),
    st.integers(1, 30),
    st.integers(8, 90),
    st.text(max_size=30),
)
def test_hostile_output_never_leaves_its_lines(
    pieces: list[bytes], columns: int, rows: int, later: int, name: str
) -> None:
    before = "".join(f"line {n}\n" for n in range(5))
    shown = Shown(columns, rows, before=before)
    shown(started("0/0", f"[{name} 1/2] RUN {name}"), *stages(2))
    for number, piece in enumerate(pieces):
        shown(said("0/0", piece), said("1/0", piece[::-1]))
        if number % 3 == 0:
            shown.draw(shown.now + 0.1)
            assert shown.terminal.everything.startswith(before.rstrip())
            assert shown.terminal.cursor[0] + len(shown.terminal.scrollback) == 5
            assert shown.terminal.top == 5, "the cursor was above"
    shown.terminal.resize(later, rows)
    shown.draw()
    shown(VertexFailed("0/0", "", "exit code: 1", shown.now))
    text = shown.end(shown.now)
    assert text.startswith(f"{before}[+] Buil"[: len(before) + min(later - 2, 8)])
    assert not shown.terminal.hidden and shown.terminal.wraps
    assert shown.terminal.cursor[1] == 0


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from(
            ["start", "say", "move", "wait", "done", "cached", "fail", "cancel", "warn"]
        ),
        st.text("ab日\u0301\x1b\n\r", max_size=20),
    ),
    max_size=20,
)


def happening(display: Shown, id: str, what: str, text: str) -> None:
    """Have that happen to a vertex, if it can."""
    works, now = display.display._board.works, display.now
    runs = id in works and not works[id].over
    if what == "warn":
        display(Warned(text, now))
    elif what == "start" and not runs:
        display(started(id, f"[stage-{int(id) % 3} {id}/9] RUN {text}", now))
    elif runs and what == "say":
        display(said(id, text, now))
    elif runs and what == "move":
        display(VertexProgress(id, f"sha256:{text}", len(text), 20, now))
    elif runs and what == "wait":
        display(VertexWaiting(id, text, now), VertexMissed(id, text[::-1], now))
    elif runs and what in ("done", "cached"):
        display(done(id, now, cached=what == "cached", detail=text))
    elif runs and what in ("fail", "cancel"):
        display(VertexFailed(id, "", text, now, cancelled=what == "cancel"))


@given(EVENTS, st.integers(1, 70), st.integers(1, 15))
def test_what_is_drawn_by_changes_is_what_is_drawn_anew_and_fits(
    events: list[tuple[int, str, str]], columns: int, rows: int
) -> None:
    shown = Shown(columns, rows)
    for id, what, text in events:
        happening(shown, str(id), what, text)
        shown.draw(shown.now + 0.1)
        if not shown.display._board.works:
            continue
        lines = present(shown.display._board, columns - 1, max(1, rows - 1), shown.now, "Building")
        assert len(lines) <= max(1, rows - 1)
        assert all(columns_of(text) < columns for text, _ in lines)
        fresh = Terminal(columns, rows)
        fresh.write("\r\n".join(text for text, _ in lines))
        row = shown.terminal.cursor[0]
        assert "\n".join(shown.terminal.screen.split("\n")[row:]) == fresh.screen


ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def test_blobs_on_their_way_are_below_their_work_and_stay_when_they_have_come() -> None:
    def moved(at: float, item: str, current: int) -> VertexProgress:
        return VertexProgress("push", item, current * 1_000_000, 200_000_000, at)

    shown = Shown(70, title="Pushing")(started("push", "pushing r.example/app:1"))
    shown(*(moved(100.0 + n, ONE, 10 * n) for n in range(9)), moved(108.0, TWO, 200))
    shown.draw(108.0)
    assert shown.screen == picture("""
        |[+] Pushing 8.0s (0/1)
        | => pushing r.example/app:1                                      8.0s
        | => => sha256:111111111111 80.00MB / 200.00MB 10.00MB/s 13s left
    """), "of what was there already nothing is said"
    shown(moved(112.0, ONE, 200), done("push", 113.0, detail="sha256:abc"))
    assert shown.end(113.0) == picture("""
        |[+] Pushing 13.0s (1/1) FINISHED
        | => pushing r.example/app:1                                     13.0s
        | => => sha256:111111111111 200.00MB                             12.0s
        | => => sha256:abc
    """)


def test_many_blobs_are_summed_up() -> None:
    blobs = [VertexProgress("push", f"sha256:{n:064}", n, 99, 100.0) for n in range(20)]
    shown = Shown(40)(*blobs)
    shown.draw()
    seven = [f" => => sha256:000000000000 {n}B / 99B" for n in range(7)]
    assert shown.screen.splitlines()[2:] == [" => => … 13 others", *seven]
    shown.terminal.resize(40, 5)
    shown.draw()
    assert shown.terminal.screen.splitlines()[-2:] == seven[-2:]


@pytest.mark.parametrize("asked", [0, 1, 20])
def test_the_lines_of_output_are_as_many_as_are_asked_for(asked: int) -> None:
    shown = Shown(output=asked)(MAKE, said("0/1", "x\n" * 30))
    shown.draw()
    assert shown.screen.count(" => => # x") == asked
