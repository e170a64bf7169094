"""The table of docs/cache.md: for each change of fixtures/changes.py exactly those steps run that see
it (rules R7, C21, A6, A11, M7, S12, 18.3)."""

from __future__ import annotations

import fnmatch
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assembler.engine.services import Sandbox
from assembler.events import VertexDone
from assembler.linux.cgroups import unlimited
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.plan.plan import ResolvedImage
from assembler.runtime.base import BindSource, Process, Root, RunMount
from assembler.store.store import Store
from fixtures.changes import ALL, BUILD, CHANGES, DOCKERFILE, Build, Change, step_name
from tests.engine.graphs import Directories
from tests.engine.runtimes import FakeRuntime
from tests.engine.test_execution import LINUX, Workshop


class Shell(FakeRuntime):
    """A runtime that knows `cat`, `echo` and `sort` with their output redirected."""

    def execute(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
    ) -> int:
        """See `FakeRuntime.execute`."""
        files: dict[str, str] = {}
        for layer in reversed(root.lowers):
            files |= _files(layer, "")
        for mount in mounts:
            if isinstance(mount, BindSource):
                files |= _files(mount.source, mount.target)
        words, _, into = process.argv[-1].partition(" > ")
        program, *rest = words.split()
        named = [_absolute(process.cwd, word) for word in rest if not word.startswith("-")]
        text = " ".join(rest) + "\n"
        if program != "echo":
            text = "".join(
                files[path] for name in named for path in sorted(fnmatch.filter(files, name))
            )
        if program == "sort":
            text = "".join(sorted(text.splitlines(keepends=True)))
        place = Path(root.upper + _absolute(process.cwd, into))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return 0


def _files(source: str, target: str) -> dict[str, str]:
    top = Path(source)
    if top.is_file():
        return {target: top.read_text()}
    found = (path for path in top.rglob("*") if path.is_file())
    return {f"{target}/{path.relative_to(top)}": path.read_text() for path in found}


def _absolute(cwd: str, word: str) -> str:
    return word if word.startswith("/") else f"{cwd}/{word}"


class Yard(Workshop):
    """Makes the builds of the table in one store."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.runtime: Any = Shell()

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """See `Services.sandbox`."""
        directories = Directories(self.directory / "layers")
        yield Sandbox(directories, self.runtime, unlimited(), (), "full")

    def steps(self, build: Build) -> set[str]:
        """The steps that run for `build`."""
        self.images = {"docker.io/library/base:latest": self._base(build)}
        self.context, self.rules = build.write(self.directory), build.ignored
        more = {"shared_memory": build.shared_memory} if build.shared_memory else {}
        self.build(build.dockerfile, build_args=build.args, no_cache=frozenset(build.fresh), **more)
        done = [one for one in self.events if isinstance(one, VertexDone) and not one.cached]
        return {step_name(one.name) for one in done} - {""}

    def _base(self, build: Build) -> ResolvedImage:
        """An image of one file, in the store."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo("version")
            member.size = len(build.base)
            archive.addfile(member, io.BytesIO(build.base.encode()))
        content = out.getvalue()
        with Store.open(str(self.directory / "store")) as store, store.blobs.ingest() as ingest:
            ingest.write(content)
            layer = Descriptor(LAYER_TAR, *ingest.commit())
        config = ImageConfig(
            LINUX, Execution(labels={"version": build.label}), (Digest.of(content),)
        )
        manifest = Descriptor(MANIFEST, Digest.of(build.label.encode()), 1)
        return ResolvedImage("docker.io/library/base:latest", manifest, config, (layer,))


@pytest.mark.usefixtures("without_owners")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_R7_C21_the_steps_that_see_a_change_run_and_no_others(
    change: Change, tmp_path: Path
) -> None:
    yard = Yard(tmp_path)
    yard.steps(BUILD)
    assert yard.steps(change.make(BUILD)) == change.steps


def test_the_table_of_the_documentation_is_this_one() -> None:
    text = (Path(__file__).parents[2] / "docs/cache.md").read_text()
    assert f"```Dockerfile\n{DOCKERFILE}```\n" in text
    told: dict[str, set[str]] = {}
    for line in text[text.index("| change | steps that run |") :].splitlines()[2:]:
        _, name, steps, _ = line.split("|")
        told[name.strip()] = {step.strip() for step in steps.split(",")}
    named = {frozenset(): {"none"}, ALL: {f"all {len(ALL)}"}}
    assert told == {one.name: named.get(one.steps, set(one.steps)) for one in CHANGES}
