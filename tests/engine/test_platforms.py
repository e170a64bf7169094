"""One plan with several targets, executed: images of several platforms at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.dockerfile.parser import parse
from assembler.engine.execution import execute
from assembler.errors import StepError
from assembler.oci.image import Image
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make
from assembler.plan.several import merged
from assembler.source import Source
from assembler.store.store import Store
from tests.engine.test_execution import Workshop

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
CROSS = """\
FROM --platform=$BUILDPLATFORM scratch AS build
RUN ["sh", "write /once 1"]
ARG TARGETARCH
RUN ["sh", "{word} /out x"]
FROM scratch
COPY --from=build /out /once /
"""


class Platforms(Workshop):
    """Builds for two platforms at once."""

    def images_of(
        self, text: str, *platforms: Platform, no_cache: bool = False
    ) -> tuple[Image, ...]:
        self.runtime.ran.clear()
        self.events.clear()
        plans = [
            make(
                PlanRequest(
                    dockerfile=parse(Source("Dockerfile", text)),
                    platform=platform,
                    build_platform=AMD64,
                    epoch=self.epoch,
                    no_cache=frozenset("*" if no_cache else ""),
                ),
                {},
            )
            for platform in platforms
        ]
        with (
            Store.open(str(self.directory / "store")) as store,
            LocalCache(str(self.directory / "cache.db")) as cache,
            Cancellation() as cancellation,
        ):
            services = self.working(store, cache, cancellation)
            return execute(merged(plans, alone=False), services)

    def working(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Any:
        """As `services`, with turns as builds on a store have them."""
        from assembler.values import replace

        return replace(self.services(store, cache, cancellation), claims=store.working.claim)


@pytest.fixture
def platforms(tmp_path: Path, without_owners: None) -> Platforms:
    return Platforms(tmp_path)


def test_O3_platforms_run_at_once_and_share_what_is_the_same(platforms: Platforms) -> None:
    made = platforms.images_of(CROSS.replace("{word}", "meet"), AMD64, ARM64)
    assert [image.config.platform for image in made] == [AMD64, ARM64]
    assert len(platforms.runtime.ran) == 3, "the first step once, the second for both at once"
    assert platforms.files(made[0]) == {"out": "x", "once": "1"} == platforms.files(made[1])
    again = platforms.images_of(CROSS.replace("{word}", "meet"), AMD64, ARM64)
    assert (again, platforms.runtime.ran) == (made, [])


def test_S12_without_the_cache_a_shared_step_runs_once_in_each_build(platforms: Platforms) -> None:
    text = CROSS.replace("{word}", "write")
    for _ in range(2):
        platforms.images_of(text, AMD64, ARM64, no_cache=True)
        assert len(platforms.runtime.ran) == 3


def test_one_platform_gives_the_image_that_it_gives_among_others(platforms: Platforms) -> None:
    text = CROSS.replace("{word}", "write")
    _, arm = platforms.images_of(text, AMD64, ARM64)
    platforms.entered = 0
    (alone,) = platforms.images_of(text, ARM64)
    assert (alone, platforms.entered) == (arm, 0)
    assert platforms.images_of(text, ARM64, AMD64)[0] == arm


def test_another_platform_beside_one_that_is_known(platforms: Platforms) -> None:
    text = CROSS.replace("{word}", "write")
    (amd,) = platforms.images_of(text, AMD64)
    both = platforms.images_of(text, AMD64, ARM64)
    assert (both[0], len(platforms.runtime.ran)) == (amd, 1)


def test_a_step_of_all_that_fails_is_tried_once(platforms: Platforms) -> None:
    text = CROSS.replace("write /once 1", "fail 7")
    for no_cache in (True, False):
        with pytest.raises(StepError, match="7"):
            platforms.images_of(text, AMD64, ARM64, no_cache=no_cache)
        assert len(platforms.runtime.ran) == 1


def test_the_failure_of_one_ends_all(platforms: Platforms) -> None:
    text = CROSS.replace('RUN ["sh", "{word} /out x"]', 'RUN ["sh", "fail 7"]')
    with pytest.raises(StepError, match="7"):
        platforms.images_of(text, AMD64, ARM64)
