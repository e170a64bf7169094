"""All output of a step is kept; what is shown of it is bounded."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from assembler.cli.display.step_logs import MAX_SIZE, MAX_SPEED, StepLogs, limits
from assembler.events import Event, Finished, VertexDone, VertexFailed, VertexOutput, VertexStarted


class Shown:
    """Collects what a display is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def output(self) -> bytes:
        return b"".join(one.output for one in self.events if isinstance(one, VertexOutput))


def started(logs: StepLogs, vertex: str = "a") -> None:
    logs(VertexStarted(vertex, f"[{vertex}] RUN x", 0.0))


def test_short_output_passes_as_it_came_and_is_in_a_file(tmp_path: Path) -> None:
    shown = Shown()
    logs = StepLogs(shown, str(tmp_path))
    started(logs)
    logs(VertexOutput("a", b"one\xff\x1b[31m", 0.1))
    logs(VertexOutput("a", b"two\n", 0.2))
    logs(VertexDone("a", "[a] RUN x", 0.3))
    assert shown.output == b"one\xff\x1b[31mtwo\n"
    assert Path(logs.path("a")).read_bytes() == shown.output


def test_a_step_without_output_has_no_file(tmp_path: Path) -> None:
    logs = StepLogs(Shown(), str(tmp_path))
    started(logs)
    logs(VertexDone("a", "[a] RUN x", 0.3))
    assert logs.path("a") == ""
    assert list(tmp_path.iterdir()) == []


def test_too_much_is_cut_with_buildkits_words_and_the_place_of_the_rest(tmp_path: Path) -> None:
    shown = Shown()
    logs = StepLogs(shown, str(tmp_path), max_speed=-1)
    started(logs)
    for number in range(400):
        logs(VertexOutput("a", b"%07d\n" % number * 2048, number))
    logs(VertexDone("a", "[a] RUN x", 500.0))
    path = logs.path("a")
    wanted = f"\n[output clipped, log limit 2MiB reached]\n\n[all of the output: {path}]\n"
    assert shown.output[MAX_SIZE:] == wanted.encode()
    assert os.path.getsize(path) == 400 * 2048 * 8


def test_a_flood_is_cut_by_the_second(tmp_path: Path) -> None:
    shown = Shown()
    logs = StepLogs(shown, str(tmp_path))
    started(logs)
    logs(VertexOutput("a", b"x" * (1 << 20), 0.5))
    logs(Finished(1.0))
    assert shown.output.startswith(b"x" * MAX_SPEED + b"\n[output clipped, log limit 200KiB/s")


def test_the_last_lines_of_a_cut_step_that_fails_are_shown(tmp_path: Path) -> None:
    shown = Shown()
    logs = StepLogs(shown, str(tmp_path), max_size=10)
    started(logs)
    logs(VertexOutput("a", b"0123456789 and much more\n", 0.1))
    logs(VertexOutput("a", b"error: the reason\n", 0.2))
    logs(VertexFailed("a", "[a] RUN x", "exit code: 1", 0.3))
    assert b"[the last lines:]\n and much more\nerror: the reason\n" in shown.output


def test_minus_one_is_no_limit(tmp_path: Path) -> None:
    shown = Shown()
    size, speed = limits({"BUILDKIT_STEP_LOG_MAX_SIZE": "-1", "BUILDKIT_STEP_LOG_MAX_SPEED": "-1"})
    logs = StepLogs(shown, str(tmp_path), size, speed)
    started(logs)
    logs(VertexOutput("a", b"x" * (3 << 20), 0.5))
    logs(Finished(1.0))
    assert shown.output == b"x" * (3 << 20)


def test_limits_come_from_buildkits_variables_and_nonsense_is_passed_over() -> None:
    assert limits({}) == (MAX_SIZE, MAX_SPEED)
    assert limits({"BUILDKIT_STEP_LOG_MAX_SIZE": "7"}) == (7, MAX_SPEED)
    for nonsense in ("fast", "\N{SUPERSCRIPT TWO}", "-", "1_000", "9" * 5000):
        assert limits({"BUILDKIT_STEP_LOG_MAX_SPEED": nonsense}) == (MAX_SIZE, MAX_SPEED)


def test_steps_at_once_have_a_file_each(tmp_path: Path) -> None:
    logs = StepLogs(Shown(), str(tmp_path))
    for vertex in ("a", "b"):
        started(logs, vertex)
        logs(VertexOutput(vertex, vertex.encode(), 0.1))
    logs(Finished(1.0))
    assert [Path(logs.path(vertex)).read_bytes() for vertex in ("a", "b")] == [b"a", b"b"]


def test_steps_may_start_while_others_open_their_files(tmp_path: Path) -> None:
    logs = StepLogs(Shown(), str(tmp_path))
    names = [f"{letter}{number}" for letter in "abcd" for number in range(100)]

    def run(letter: str) -> None:
        for number in range(100):
            started(logs, f"{letter}{number}")
            logs(VertexOutput(f"{letter}{number}", b"x", 0.1))
            logs(VertexDone(f"{letter}{number}", "RUN x", 0.2))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, "abcd"))
    assert len({logs.path(name) for name in names}) == len(names)
    assert all(os.path.getsize(logs.path(name)) == 1 for name in names)


def test_only_the_last_builds_are_kept(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"2020010{number // 10}T00000{number % 10}-1").mkdir()
    logs = StepLogs(Shown(), str(tmp_path))
    started(logs)
    logs(VertexOutput("a", b"x", 0.1))
    logs(Finished(1.0))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 20
    assert os.path.dirname(logs.path("a")).endswith(names[-1])


def test_a_log_that_cannot_be_written_is_told_and_ends_no_build(tmp_path: Path) -> None:
    shown = Shown()
    (tmp_path / "file").write_text("")
    logs = StepLogs(shown, str(tmp_path / "file" / "logs"))
    started(logs)
    logs(VertexOutput("a", b"still shown\n", 0.1))
    logs(VertexDone("a", "[a] RUN x", 0.3))
    assert shown.output.startswith(b"still shown\n")
    assert b"[the log file is not whole: Not a directory]" in shown.output


def test_a_full_disk_is_told_when_what_was_buffered_is_lost(tmp_path: Path) -> None:
    shown = Shown()
    logs = StepLogs(shown, str(tmp_path))
    started(logs)
    logs(VertexOutput("a", b"x", 0.1))
    first = logs._steps["a"].file
    assert first is not None
    first.close()
    logs._steps["a"].file = open("/dev/full", "wb", buffering=1 << 16)  # noqa: SIM115
    logs(VertexOutput("a", b"y" * 10, 0.2))
    logs(VertexDone("a", "[a] RUN x", 0.3))
    assert b"[the log file is not whole: No space left on device]" in shown.output
