"""`--unset`: what a base has, and the image is not to have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from assembler.dockerfile.parser import parse as parse_dockerfile
from assembler.errors import UsageError
from assembler.oci.config import Execution, Healthcheck
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.plan.unset import parse, unset
from assembler.source import Source

WHOLE = Execution(
    user="u", exposed_ports=("53/udp", "80/tcp"), env=("A=1", "AB=2"), entrypoint=("/e",), cmd=("c",),
    volumes=("/a", "/b"), working_dir="/w", labels={"x": "1", "y": "2"}, stop_signal="SIGINT",
    shell=("/sh",), healthcheck=Healthcheck(("CMD", "x")), on_build=("RUN x",), unknown={"Other": 1},
)  # fmt: skip


@pytest.mark.parametrize(
    ("word", "changed"),
    [
        ("volume", {"volumes": ()}),
        ("volumes:/a", {"volumes": ("/b",)}),
        ("expose", {"exposed_ports": ()}),
        ("expose:80", {"exposed_ports": ("53/udp",)}),
        ("ports:53/udp", {"exposed_ports": ("80/tcp",)}),
        ("env", {"env": ()}),
        ("env:A", {"env": ("AB=2",)}),
        ("labels", {"labels": {}}),
        ("label:x", {"labels": {"y": "2"}}),
        ("entrypoint,CMD", {"entrypoint": None, "cmd": None}),
        ("healthcheck", {"healthcheck": None}),
        ("onbuild,user,workdir", {"on_build": (), "user": "", "working_dir": ""}),
        ("stopsignal,shell", {"stop_signal": "", "shell": ()}),
        ("", {}),
    ],
)
def test_the_rest_stays(word: str, changed: dict[str, Any]) -> None:
    assert unset(WHOLE, parse([word])) == (replace(WHOLE, **changed), ())


def test_what_is_not_there_is_told() -> None:
    left, absent = unset(Execution(env=("A=1",)), parse(["volume", "env:A,env:A", "expose:80"]))
    assert left == Execution()
    assert list(map(str, absent)) == ["volume", "env:A", "expose:80/tcp"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mounts", "there is no 'mounts' to unset"),
        ("cmd:x", "no name can follow"),
        ("env:", "no name can follow"),
        (":x", "there is no '' to unset"),
    ],
)
def test_words_that_mean_nothing(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(["volume", word])


def test_it_is_the_target_s_configuration_before_labels_of_the_command_line() -> None:
    text = "FROM scratch AS a\nVOLUME /a\nLABEL x=1\nFROM a\nEXPOSE 80\n"
    asked = PlanRequest(
        dockerfile=parse_dockerfile(Source("Dockerfile", text)),
        build_platform=Platform("linux", "amd64"),
        labels={"x": "2"},
        unset=parse(["volume,label", "cmd"]),
    )
    made = make(asked, {})
    assert made.stage(1).config.execution.volumes == ()
    assert made.stage(1).config.execution.exposed_ports == ("80/tcp",)
    assert made.stage(1).config.execution.labels == {"x": "2"}
    assert made.stage(0).config.execution.volumes == ("/a",)
    assert [warning.message for warning in made.warnings] == ["--unset cmd: the image has none"]
