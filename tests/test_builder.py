"""What the builder asks others for while a plan is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from assembler.builder import Builder
from assembler.cancellation import Cancellation
from assembler.dockerfile.parser import parse
from assembler.environment import Environment
from assembler.errors import DockerfileError, UsageError
from assembler.plan.steps import GitSource, UrlSource
from assembler.request import BuildRequest
from assembler.source import Source


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    environment = Environment.read({"HOME": str(tmp_path)})
    with Builder(environment, store=str(tmp_path / "s"), cancellation=Cancellation()) as made:
        yield made


def request(text: str, **args: str) -> BuildRequest:
    return BuildRequest(dockerfile=parse(Source("Dockerfile", text)), build_args=args)


CLOCK = "FROM scratch AS clock\nADD https://h/f.tar /d\nFROM scratch\n"


def test_T1_the_time_of_a_stage_is_asked_for(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[UrlSource | GitSource] = []
    monkeypatch.setattr(builder.remotes, "epoch", lambda source: asked.append(source) or 7)
    assert builder.plan(request(CLOCK, SOURCE_DATE_EPOCH="clock")).epoch == 7
    assert asked == [UrlSource("https://h/f.tar")]
    assert builder.plan(request(CLOCK, SOURCE_DATE_EPOCH="8")).epoch == 8
    assert builder.plan(request(CLOCK)).epoch is None
    offline = builder.plan(request(CLOCK, SOURCE_DATE_EPOCH="clock"), offline=True)
    assert (offline.epoch, len(asked)) == (None, 1)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("FROM alpin\n", " (did you mean alpine?)"),
        ("FROM scratch AS build\nFROM scratch\nCOPY --from=biuld f f\n", " (did you mean build?)"),
        ("FROM nothing/like-it\n", ""),
    ],
)
def test_S15_an_image_that_is_not_there_may_be_a_misspelt_name(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, text: str, suggestion: str
) -> None:
    def resolve(name: str, *_: object, span: object, **__: object) -> None:
        raise DockerfileError(f"{name}: not found")

    monkeypatch.setattr(builder.images, "resolve", resolve)
    with pytest.raises(DockerfileError) as caught:
        builder.plan(request(text))
    assert caught.value.message.partition(": not found")[2] == suggestion


@pytest.mark.parametrize("option", ["runtime", "snapshotter"])
def test_an_unknown_choice_is_refused_with_those_there_are(tmp_path: Path, option: str) -> None:
    environment = Environment.read()
    with pytest.raises(UsageError, match=f"unknown {option} 'fast'") as caught:
        Builder(environment, store=str(tmp_path), cancellation=Cancellation(), **{option: "fast"})  # type: ignore[arg-type]
    assert "auto" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
