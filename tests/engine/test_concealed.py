"""What steps print without the build's secrets, above any runtime (reliability.md B5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.engine.concealed import Concealed, passwords
from assembler.engine.services import Services
from assembler.errors import HostError, ProcessFailed, StepError, UsageError
from assembler.events import VertexFailed, VertexOutput
from assembler.runtime.base import FileContent, Process, Root, RunMount
from assembler.store.store import Store
from assembler.store.working import Tell, Turn
from tests.engine.runtimes import FakeRuntime
from tests.engine.test_execution import Workshop

TOKEN = "canary-of-the-token"
SECRET = "--mount=type=secret,id=token"


class Printing(FakeRuntime):
    """A runtime whose commands are `print WORD…`, `file`, `variable NAME`, `fail WORD…` and `break
    WORD…`; each byte is a piece of its own."""

    def execute(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
    ) -> int:
        verb, _, rest = process.argv[-1].partition(" ")
        said = rest.encode()
        if verb == "file":
            said = b"".join(one.content for one in mounts if isinstance(one, FileContent))
        if verb == "variable":
            said = dict(process.env)[rest].encode()
        for at in range(len(said)):
            output(said[at : at + 1])
        if verb == "break":
            raise HostError(f"podman failed: {rest}", "podman", hint=f"not {rest}")
        if verb == "refuse":
            raise StepError(f"crun: {rest}")
        return int(verb == "fail")


class Press(Workshop):
    """Builds with secrets."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.runtime: Any = Printing()
        self.told: list[bytes] = []
        self.secrets: dict[str, Callable[[], bytes]] = {"token": lambda: f"{TOKEN}\n".encode()}

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        services = super().services(store, cache, cancellation)
        return replace(services, secrets=self.secrets, claims=self.claims)

    @contextmanager
    def claims(self, name: str, tell: Tell, check: Any = None) -> Iterator[Turn]:
        """A turn whose owner is heard by `told`."""
        turn = Turn()
        turn.say = self.told.append  # type: ignore[method-assign]
        yield turn

    def printed(self, *lines: str, **request: Any) -> list[bytes]:
        """What each step printed of a build of these RUNs."""
        runs = "".join(f"RUN {line}\n" for line in lines)
        self.build(f"FROM scratch\n{runs}", **request)
        found: dict[str, bytes] = {}
        for event in self.events:
            if isinstance(event, VertexOutput):
                found[event.vertex] = found.get(event.vertex, b"") + event.output
        return [found[vertex] for vertex in sorted(found)]


@pytest.fixture
def press(tmp_path: Path, without_owners: None) -> Press:
    return Press(tmp_path)


def test_B5_a_step_that_prints_its_secret_prints_asterisks(press: Press) -> None:
    lines = (
        f'{SECRET} ["file"]',
        f'{SECRET},env=TOKEN ["variable TOKEN"]',
        f'["print Authorization: {TOKEN}!"]',
    )
    assert press.printed(*lines) == [b"***\n", b"***\n", b"Authorization: ***!"]


def test_B5_nor_does_any_other_step_whether_it_mounts_it_or_not(press: Press) -> None:
    assert press.printed(f'["print <{TOKEN}>"]', '["print it is free"]') == [
        b"<***>",
        b"it is free",
    ]


def test_B5_builds_that_wait_for_a_step_are_told_no_secret_of_it(press: Press) -> None:
    press.printed(f'{SECRET} ["print it is {TOKEN}!"]')
    assert b"".join(press.told) == b"it is ***!"


def test_B5_a_secret_that_was_replaced_while_the_build_runs_is_hidden_too(press: Press) -> None:
    values = iter([b"first-of-all", b"second-one", b"third-one"])
    press.secrets = {"token": lambda: next(values)}
    mounts = f'{SECRET} ["print first-of-all second-one third-one"]'
    again = mounts.replace("print", "print again")
    assert press.printed(mounts, again) == [b"*** *** third-one", b"again *** *** ***"]


def test_B5_a_secret_that_cannot_be_read_any_more_ends_only_who_mounts_it(press: Press) -> None:
    def gone() -> bytes:
        raise UsageError("secret other: no such file")

    press.secrets["other"] = gone
    assert press.printed(f'["print {TOKEN}"]') == [b"***"]
    with pytest.raises(UsageError):
        press.printed('--mount=type=secret,id=other ["file"]')


def test_B5_errors_made_of_output_have_no_secret_either(press: Press) -> None:
    for verb in ("break", "refuse"):
        with pytest.raises((HostError, StepError)) as caught:
            press.printed(f'{SECRET} ["{verb} {TOKEN}"]')
        assert TOKEN not in caught.value.message + caught.value.hint + str(caught.value)
        (failed,) = (one for one in press.events if isinstance(one, VertexFailed))
        assert "***" in failed.message
    with pytest.raises(ProcessFailed):
        press.printed(f'{SECRET} ["fail it was {TOKEN[:-1]}"]')
    said = b"".join(one.output for one in press.events if isinstance(one, VertexOutput))
    assert said == f"it was {TOKEN[:-1]}".encode(), "what was held back is shown"


def test_B5_passwords_of_proxies_are_hidden(press: Press) -> None:
    url = "http://me:p%40ssw0rd@proxy.example:3128"
    args = {"HTTP_PROXY": url}
    shown = press.printed('["variable HTTP_PROXY"]', '["print p@ssw0rd"]', build_args=args)
    assert shown == [b"http://me:***@proxy.example:3128", b"***"]
    urls = ("proxy:3128", "u:pass@h:1", "http://token@h", "http://h/a:b@c", "localhost,.example")
    assert passwords([("http_proxy", url) for url in urls]) == {b"pass", b"token"}


def test_without_secrets_output_is_the_displays_own(press: Press) -> None:
    press.secrets = {"empty": lambda: b"\n", "short": lambda: b"abc"}
    assert Concealed().masks(press.secrets, ()) is None
    assert Concealed().masks({}, ()) is None
    assert press.printed('["print abc"]') == [b"abc"]


def test_M9_the_key_of_a_step_and_its_image_do_not_depend_on_what_is_hidden(press: Press) -> None:
    text = f'FROM scratch\nRUN {SECRET} ["file"]\n'
    hidden = press.build(text)
    press.secrets = {}
    assert press.build(text).digest == hidden.digest
    assert press.runtime.ran == []
