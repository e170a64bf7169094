"""What is told before the build of stages whose programs the host may not execute (N15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.dockerfile.parser import parse
from assembler.engine.emulation import check, foreseen
from assembler.engine.execution import execute
from assembler.engine.forecast import forecast
from assembler.engine.services import Services
from assembler.errors import DockerfileError
from assembler.events import Warned
from assembler.linux.elf import program_for
from assembler.linux.emulators import Host
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, ResolvedImage
from assembler.remotes import Unfetched
from assembler.source import Source
from assembler.store.store import Store
from tests.engine.test_execution import LINUX, PlainDirectories, Workshop
from tests.linux.test_emulators import emulator, host, kernel

ARM = Platform("linux", "arm64")
RUN = 'RUN ["/bin/sh", "write /made 1"]\n'


class Yard(Workshop):
    """A workshop with the images `arm` and `own`, whose /bin/sh is for one architecture, and `odd`,
    which says that it is for arm64 and is not."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.host = host()
        self.entered_early = 0
        for name, architecture, platform in (
            ("arm", "arm64", ARM), ("own", "amd64", LINUX), ("odd", "amd64", ARM)
        ):  # fmt: skip
            for file, content in ((name, architecture), ("own", "amd64")):
                (self.context / file).write_bytes(program_for(content))
                (self.context / file).chmod(0o755)
            text = f"FROM scratch\nCOPY {name} /bin/sh\nCOPY own /opt/own\nENV PATH=/opt:/bin\n"
            made = self.build(text)
            self.images[name] = ResolvedImage(
                name, made.manifest.descriptor, replace(made.config, platform=platform),
                made.manifest.layers,
            )  # fmt: skip

    @contextmanager
    def asking(
        self, text: str, no_cache: bool, platform: Platform = ARM
    ) -> Iterator[tuple[Plan, Services]]:
        """The plan of `text` and what the engine is given for it."""
        asked = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)), platform=platform,
            build_platform=LINUX, epoch=self.epoch, no_cache=frozenset("*" if no_cache else ""),
            allow=frozenset(("security.insecure",)),
        )  # fmt: skip
        found = {
            need.key: self.images[need.image.split("/")[-1].split(":")[0]]
            for need in needs(asked, {})
        }
        with (
            Store.open(str(self.directory / "store")) as store,
            LocalCache(str(self.directory / "cache.db")) as cache,
            Cancellation() as cancellation,
        ):
            self.events.clear()
            services = replace(self.services(store, cache, cancellation), host=lambda: self.host)
            yield make(asked, found), services

    def told(self, text: str, *, no_cache: bool = False, platform: Platform = ARM) -> list[str]:
        """What is warned of before the build. Raises DockerfileError for one that is refused."""
        with self.asking(text, no_cache, platform) as (plan, services):
            published = PlainDirectories(self.directory / "layers")
            check(plan, services, published, Unfetched(), self._enter)
        return [event.message for event in self.events if isinstance(event, Warned)]

    def ran(self, text: str) -> None:
        """A build of `text` by an emulator."""
        with self.asking(text, False) as (plan, services):
            execute(plan, services)

    def _enter(self) -> None:
        self.entered_early += 1


@pytest.fixture
def yard(tmp_path: Path, without_owners: None) -> Yard:
    return Yard(tmp_path)


def refused(yard: Yard, text: str, *, no_cache: bool = False) -> DockerfileError:
    """The error for `text`."""
    with pytest.raises(DockerfileError) as caught:
        yard.told(text, no_cache=no_cache)
    assert not yard.runtime.ran and caught.value.span is not None
    return caught.value


def test_N15_what_is_sure_to_fail_is_refused_at_its_line(yard: Yard) -> None:
    yard.runtime.ran.clear()
    error = refused(yard, f"FROM arm AS app\nWORKDIR /w\n{RUN}")
    assert error.message == (
        "stage app cannot be built on this host (linux/amd64): /bin/sh is a program for linux/arm64:"
        " no emulator for linux/arm64 is registered here"
    )
    assert error.hint.endswith("--install arm64")
    assert error.span is not None and error.span.start == 3
    assert yard.entered_early == 1


@pytest.mark.parametrize(
    "text",
    [
        "FROM arm\nCOPY own /etc/own\n" + RUN,
        "FROM arm\nCOPY --from=own / /own/\n" + RUN.replace("/made", "/own/made"),
        "FROM arm\n" + RUN.replace("/bin/sh", "sh"),
        "FROM arm AS a\nCOPY own /x\nFROM a\n" + RUN,
        "FROM --platform=linux/amd64 arm\n" + RUN,
        "FROM own AS a\n" + RUN + "FROM arm\n" + RUN,
        "FROM arm\nRUN --mount=type=cache,target=/c " + RUN[4:],
        "FROM arm\nRUN <<EOF\n#!/bin/sh\nEOF\n",
    ],
    ids=["copy beside", "copy of an image", "by PATH", "two stages", "only the image says so",
         "after another stage", "mount beside", "by a script of its own"],
)  # fmt: skip
def test_N15_other_steps_do_not_hide_it(yard: Yard, text: str) -> None:
    yard.runtime.ran.clear()
    assert "/bin/sh is a program for linux/arm64" in refused(yard, text, no_cache=True).message


@pytest.mark.parametrize(
    "text",
    [
        "FROM arm\nCOPY own /bin/sh\n" + RUN,
        "FROM arm\nCOPY . /\n" + RUN,
        "FROM arm\nCOPY own /bin/\n" + RUN,
        "FROM arm\nCOPY own /x/\nCOPY own /x/y/\n" + RUN,
        "FROM scratch\nCOPY own /bin/sh\n" + RUN,
        "FROM arm\nRUN --mount=type=bind,target=/bin " + RUN[4:],
        "FROM arm\nCOPY own /opt/sh\n" + RUN.replace("/bin/sh", "sh"),
        "FROM arm\nRUN --security=insecure " + RUN[4:],
    ],
    ids=["over it", "over all", "beside it", "maybe through a link", "all of it", "mounted over",
         "before it in PATH", "privileged"],
)  # fmt: skip
def test_N15_what_may_be_another_program_by_then_is_a_warning(yard: Yard, text: str) -> None:
    (said,) = yard.told(text, no_cache=True)
    assert said.startswith(f"Dockerfile:{text.count(chr(10), 0, text.index('RUN')) + 1}: stage ")
    assert "is for linux/arm64, whose programs this host (linux/amd64) does not execute" in said
    assert said.endswith("--install arm64")


def test_N15_programs_of_the_host_in_an_image_for_another_are_no_matter(yard: Yard) -> None:
    assert yard.told("FROM odd\n" + RUN) == []
    assert yard.told("FROM arm\n" + RUN.replace("/bin/sh", "own")) == []


def test_N15_results_that_are_known_need_no_emulator(yard: Yard) -> None:
    text = "FROM arm\n" + RUN
    yard.ran(text)
    assert yard.told(text) == []
    assert yard.entered_early == 0, "nothing is looked at"
    refused_again = f'{text}RUN ["/bin/sh", "write /more 1"]\n'
    yard.runtime.ran.clear()
    error = refused(yard, refused_again)
    assert error.span is not None and error.span.start == 3


def test_N15_a_result_that_may_turn_out_to_be_known_is_a_warning(yard: Yard) -> None:
    text = 'FROM --platform=$BUILDPLATFORM own AS a\nARG V=1\nRUN ["/bin/sh", "write /o $V"]\nFROM arm\nCOPY --from=a /o /o\n'
    assert len(yard.told(text + RUN)) == 1
    assert yard.entered_early == 0


def test_N15_a_stage_that_nothing_needs_is_not_looked_at(yard: Yard) -> None:
    assert yard.told("FROM arm AS a\n" + RUN + "FROM own\n" + RUN) == []


@pytest.mark.parametrize(
    "on",
    [
        host(emulator(fixed=True), known=kernel()),
        host(known=kernel("arm64")),
        host(known=lambda program: None),
        Host("amd64", None, lambda program: None),
        host(emulator(fixed=False, interpreter="/opt/own"), known=kernel()),
    ],
    ids=["registered", "the kernel does", "unknown", "unseen", "in the image"],
)
def test_N15_what_may_be_executed_is_built(yard: Yard, on: Host) -> None:
    yard.host = on
    assert yard.told("FROM arm\n" + RUN) == []


def test_N15_an_emulator_that_the_image_lacks_is_named(yard: Yard) -> None:
    yard.host = host(emulator(fixed=False), known=kernel("arm64"))
    yard.runtime.ran.clear()
    assert "registered without the flag F" in refused(yard, "FROM arm\n" + RUN).message
    assert len(yard.told("FROM arm\nCOPY own /usr/bin/\n" + RUN)) == 1, "which may be it"


def test_N15_builds_for_the_host_and_without_RUN_ask_nothing(yard: Yard) -> None:
    def asked(program: bytes) -> bool:
        raise AssertionError

    yard.host = Host("amd64", None, asked)
    assert yard.told("FROM own\n" + RUN, platform=LINUX) == []
    assert yard.told("FROM arm\nCOPY own /x\n") == []


def test_N15_a_forecast_warns_and_looks_at_nothing(yard: Yard) -> None:
    with yard.asking("FROM arm\n" + RUN, False) as (plan, services):
        found = forecast(plan, services, PlainDirectories(yard.directory / "layers"))
        (said,) = foreseen(plan, found, services)
    assert said.message.startswith("Dockerfile:2: stage stage-0 is for linux/arm64")
