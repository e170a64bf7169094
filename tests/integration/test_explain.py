"""Why steps run, in the very words: a handful of changes to one build, one after the other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from assembler.cache.document import CacheDocument
from assembler.cache.listings import parsed, part

pytestmark = pytest.mark.integration

BASE = "FROM busybox\nCOPY base /base\n"
DOCKERFILE = """\
FROM mine AS build
ARG VERSION=1
ENV MODE=a
COPY src /src
RUN --mount=type=bind,source=in,target=/in cat /src/* /in/* > /out
FROM mine
COPY --from=build /out /out
RUN cat /out
"""
COPY, RUN, FROM_BUILD, LAST = (
    "COPY src /src",
    "RUN --mount=type=bind,source=in,target=/in cat /src/* /in/* > /out",
    "COPY --from=build /out /out",
    "RUN cat /out",
)
DIGESTS = re.compile(r"\(sha256 [0-9a-f]{12} → [0-9a-f]{12}\)")


class Project:
    """A context, and what its builds say."""

    def __init__(self, assemble: Any, path: Path) -> None:
        self.assemble = assemble
        self.path = path
        self.shown: dict[str, str] = {}
        (path / "base").mkdir(parents=True)
        self.write("Base", BASE)
        self.write("base/release", "1")
        self.write("Dockerfile", DOCKERFILE)
        self.write("src/app.py", "1")
        self.write("src/run.sh", "1")
        self.write("in/data", "1")
        self.base()

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(text)

    def replace(self, old: str, new: str) -> None:
        text = (self.path / "Dockerfile").read_text()
        assert old in text
        self.write("Dockerfile", text.replace(old, new))

    def base(self) -> None:
        self.assemble("build", "-t", "mine", "-f", self.path / "Base", self.path)

    def build(self, *options: str, code: int = 0) -> dict[str, str]:
        """What is said of each step: `cached`, or why it ran; the progress is in `shown`."""
        done = self.assemble("build", "-t", "app", *options, self.path, code=code)
        self.shown, name = {}, "FROM"
        for line in done.stderr.splitlines():
            match = re.fullmatch(r"#[0-9]+ (\[.*?\] )?(.*)", line)
            if match and match[1]:
                name = match[2]
            elif match and not name.startswith("FROM") and match[2].startswith(("RUN: ", "CACHED")):
                self.shown[name] = match[2]
        document = json.loads(self.assemble("explain", "--json").stdout)
        assert document["build"]["tags"] == ["app:latest"]
        said = {}
        for step in document["steps"]:
            because = [DIGESTS.sub("(…)", one["text"]) for one in step["because"]]
            said[step["instruction"]] = "; ".join(because) or step["verdict"]
        return said


@pytest.fixture
def project(assemble: Any, tmp_path: Path) -> Project:
    return Project(assemble, tmp_path / "context")


def below(name: str) -> str:
    return f"the step before it, {name}, changed"


def test_each_change_is_named_by_the_step_that_sees_it_first(project: Project) -> None:
    first = "no earlier build is known"
    assert project.build() == dict.fromkeys((COPY, RUN, FROM_BUILD, LAST), first)
    assert project.shown == {}, "there is nothing to compare with"

    assert project.build() == dict.fromkeys((COPY, RUN, FROM_BUILD, LAST), "cached")
    assert re.fullmatch(r"CACHED \(local, [0-9]+ (s|min) old\)", project.shown[RUN])

    project.write("src/app.py", "2")
    changed = {
        COPY: "COPY src: src/app.py changed (…)",
        RUN: below("COPY src /src (2/3)"),
        FROM_BUILD: "COPY --from=build /out: out changed (…)",
        LAST: below("COPY --from=build /out /out (2/3)"),
    }
    assert project.build() == changed
    assert project.shown[COPY] == "RUN: src/app.py changed"
    assert project.shown[RUN] == "RUN: the step before it, COPY src /src (2/3), changed"

    project.write("src/new.py", "")
    (project.path / "src/run.sh").chmod(0o755)
    said = project.build()
    assert said[COPY] == "COPY src: src/new.py added; COPY src: src/run.sh mode 0644 → 0755"
    assert project.shown[COPY] == "RUN: src/new.py added (and 1 more)"
    assert said[FROM_BUILD] == said[LAST] == "cached", "the same files came out of it"

    said = project.build("--build-arg", "VERSION=2")
    assert said[COPY] == "cached" and said[RUN] == "ARG VERSION 1 → 2"
    assert project.shown[RUN] == "RUN: ARG VERSION 1 → 2"

    project.replace("ENV MODE=a", "ENV MODE=b\nUSER root\nWORKDIR /")
    said = project.build()
    assert said[RUN] == "ENV MODE a → b; USER root added", (
        "of the nearest build, which had VERSION=1"
    )

    project.write("in/data", "2")
    said = project.build()
    assert said[RUN] == "--mount=type=bind,target=/in: in/data changed (…)"

    project.replace("COPY src /src", "RUN true\nCOPY src /src")
    said = project.build()
    assert said["RUN true"] == "instruction is new"
    assert said[COPY] == "the step before it, RUN true (2/4), is new"

    project.write("base/release", "2")
    project.base()
    said = project.build()
    assert DIGESTS.sub("(…)", said["RUN true"]) == "base docker.io/library/mine:latest moved (…)"
    assert project.shown["RUN true"] == "RUN: base moved"

    said = project.build("--no-cache-filter", "build")
    assert said["RUN true"] == said[RUN] == "--no-cache"
    assert project.shown[COPY] == "RUN: --no-cache"


def test_a_step_that_failed_and_one_whose_result_is_gone_are_no_changes(project: Project) -> None:
    project.replace("RUN cat /out", "RUN exit 3")
    project.build(code=1)
    assert project.build(code=1)["RUN exit 3"] == "it failed in the build before"
    project.replace("RUN exit 3", "RUN exit 0")
    assert project.build()["RUN exit 0"] == "the command exit 3 → exit 0"
    project.replace("COPY src /src", "COPY gone /src")
    gone = project.build(code=1)
    assert (gone["COPY gone /src"], gone[RUN]) == ("failed", "unneeded")
    project.replace("COPY gone /src", "COPY src /src")

    assert project.build("--cache-ttl", "1ms")[COPY] == "older than --cache-ttl"

    project.assemble("rmi", "app")
    project.assemble("prune", "--all", "--force")
    assert project.build() == {
        COPY: "result was pruned",
        RUN: "result was pruned",
        FROM_BUILD: "result was pruned",
        "RUN exit 0": "result was pruned",
    }

    builds = project.assemble("history").stdout.splitlines()
    assert [line.split()[2] for line in builds[1:]] == [
        "Completed", "Completed", "Error", "Completed", "Error", "Error", "Completed",
    ]  # fmt: skip
    one = project.assemble("explain", "app", "--against", "^1", "--step", "RUN").stdout
    assert one.splitlines()[3].endswith("run         the same")


def test_a_fresh_machine_says_what_it_takes_from_a_shared_cache_and_why_not(
    project: Project, tmp_path: Path
) -> None:
    project.write("Dockerfile", "FROM scratch\nWORKDIR /a\nCOPY --chmod=600 src /src\n")
    project.build("--cache-to", f"type=local,dest={tmp_path / 'cache'},mode=max")

    def fresh(name: str, *options: str) -> list[str]:
        env = {"ASSEMBLE_STORE": str(tmp_path / name)}
        source = f"type=local,src={tmp_path / 'cache'}"
        project.assemble("build", "--cache-from", source, *options, project.path, **env)
        output = project.assemble("explain", **env).stdout
        assert str(tmp_path) not in output
        return [re.split("  +", line, maxsplit=2)[2] for line in output.splitlines()[2:]]

    for line in fresh("one"):
        assert re.fullmatch("from directory cache, [0-9]+ (s|min) old", line)
    project.replace("600", "644")
    assert fresh("two")[1] == "--chmod 600 → 644"
    project.replace("644", "600")
    project.write("src/app.py", "2")
    assert DIGESTS.sub("(…)", fresh("three")[1]) == "COPY src: src/app.py changed (…)"


TRAVELLING = """\
FROM mine AS one
COPY src /src
RUN --mount=type=bind,source=in,target=/in cat /in/*
FROM mine
COPY --from=one /src/app.py /app
ADD --link in/*.tar /archive/
"""
FIRST, BOUND, SECOND, ADDED = (line for line in TRAVELLING.splitlines() if "FROM " not in line)


@pytest.mark.parametrize("form", ["mode=max", "mode=max,image-manifest=false", "mode=min"])
def test_a_machine_that_knows_a_shared_cache_only_names_the_files(
    project: Project, tmp_path: Path, form: str
) -> None:
    bare = project.assemble.env["ASSEMBLE_STORE"]  # with the base

    def on(machine: str, *options: str) -> dict[str, str]:
        shutil.copytree(bare, tmp_path / machine, symlinks=True)
        project.assemble.env["ASSEMBLE_STORE"] = str(tmp_path / machine)
        return {name: DIGESTS.sub("(…)", one) for name, one in project.build(*options).items()}

    first, second = tmp_path / "first", tmp_path / "second"
    project.write("Dockerfile", TRAVELLING)
    project.write("in/a.tar", "no archive")
    on("one", "--cache-to", f"type=local,dest={first},{form}")
    # a machine that runs nothing passes on what it was told
    said = on(
        "two",
        "--cache-from",
        f"type=local,src={first}",
        "--cache-to",
        f"type=local,dest={second},{form}",
    )
    assert set(said.values()) == {"cached"}
    assert listed(first) == listed(second)
    assert ("src/run.sh" in listed(first)) == ("max" in form), "names are in layers that are there"
    assert "in/a.tar" in listed(first) and "in/data" not in listed(first), (
        "of mounts there are none"
    )

    project.write("src/app.py", "2")
    project.write("in/b.tar", "none either")
    said = on("three", "--cache-from", f"type=local,src={second}")
    files = "src/app.py changed (…)" if "max" in form else "its files changed"
    assert said[FIRST] == f"COPY src: {files}"
    assert said[SECOND] == "COPY --from=one /src/app.py: src/app.py changed (…)"
    assert project.shown[SECOND] == "RUN: src/app.py changed"
    assert said[ADDED] == "ADD in/*.tar: in/b.tar added"
    assert (
        said[BOUND] == f"{below(f'{FIRST} (2/3)')}; --mount=type=bind,target=/in: its files changed"
    )
    kept = {path.name.partition(".")[2] for path in (tmp_path / "three/listings").iterdir()}
    assert kept == {"", "imported"}


def listed(layout: Path) -> list[str]:
    """The files that the listings of the cache in `layout` name."""
    blobs = [path.read_bytes() for path in (layout / "blobs/sha256").iterdir()]
    for content in blobs:
        if content.startswith(b'{"version":1') and b'"listings"' in content:
            document = CacheDocument.parse(content)
            assert document.listings is not None
            blob = (layout / "blobs/sha256" / document.listings.blob.digest.hex).read_bytes()
            parts = [part(document.listings, blob, one) for one in document.listings.sizes]
            return sorted(path for one in parts for path in parsed(one) or ())
    return []


def test_nothing_that_is_secret_or_of_the_host_is_in_a_record(project: Project) -> None:
    secret, proxy = "hush-hush", "http://user:hidden@proxy:1"
    project.write("secret", secret)
    project.replace("RUN cat /out", "RUN --mount=type=secret,id=s,env=S test -n $S")
    options = (
        "--secret",
        f"id=s,src={project.path / 'secret'}",
        "--build-arg",
        f"http_proxy={proxy}",
    )
    project.build(*options)
    project.write("src/app.py", "2")
    project.build(*options)

    store = Path(project.assemble.env["ASSEMBLE_STORE"])
    from assembler.store.builds import Builds

    builds = Builds(str(store / "builds"))
    told = [(store / "builds" / name).read_text() for name in builds._names()]
    told += [json.dumps(builds.inputs(one.id)) for one in builds.recent()]
    told += [project.assemble("explain", "--json").stdout, project.assemble("history").stdout]
    assert any("src/app.py" in text for text in told)
    for text in told:
        for word in (secret, "hidden", str(project.path), str(store)):
            assert word not in text
