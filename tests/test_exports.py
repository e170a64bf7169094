"""A cache in an image: what it is, and that the image does without one that nobody would read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assembler.cache.local import LocalCache
from assembler.cache.origins import Origins
from assembler.cancellation import Cancellation
from assembler.engine.services import Services
from assembler.events import Warned
from assembler.exports import inline
from assembler.oci.config import INLINE_CACHE
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.plan.plan import Plan
from assembler.store.store import Store
from tests.engine.test_execution import Workshop

TEXT = "FROM scratch\nCOPY f /f\n"


class Inline(Workshop):
    """A workshop whose images have a cache in them."""

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        given = super().services(store, cache, cancellation)

        def described(plan: Plan, layers: dict[Digest, Layer], variant: str) -> dict[str, Any]:
            return inline(plan, given, Origins(cache), layers, variant)

        return replace(given, described=described)


@pytest.fixture
def workshop(tmp_path: Path) -> Inline:
    made = Inline(tmp_path)
    (made.context / "f").write_text("content")
    return made


def cache_in(image: Image) -> Any:
    return json.loads(image.config_content).get(INLINE_CACHE)


def test_a_cache_in_an_image_names_its_layers_by_their_steps(workshop: Inline) -> None:
    image = workshop.build(TEXT)
    found = cache_in(image)
    assert [one["blob"]["digest"] for one in found["layers"]] == [
        str(layer.digest) for layer in image.manifest.layers
    ]
    assert [(step["layer"], "inputs" in step) for step in found["steps"]] == [(0, False)]


def test_M7_a_cache_that_nobody_would_read_for_its_size_is_left_out_and_told(
    workshop: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assembler.cache.document.MAX_CONFIG", 10)
    image = workshop.build(TEXT)
    assert cache_in(image) is None
    (warning,) = (event for event in workshop.events if isinstance(event, Warned))
    assert warning.message.startswith("the image goes without its cache: ")
