"""Whose listings go along with a shared cache: those of COPYs whose layers do."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest

from assembler.cache.imported import Seen
from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.engine.exporting import known_stages, selections
from assembler.engine.services import Services
from assembler.oci.digest import Digest
from assembler.oci.image import Layer
from assembler.plan.plan import Plan
from assembler.store.store import Store
from assembler.values import replace
from tests.engine.test_execution import Workshop

TEXT = """\
FROM scratch AS one
COPY --link a /a
RUN ["sh", "write /one 1"]
FROM scratch
RUN --mount=type=bind,source=secret,target=/in ["sh", "write /two 2"]
COPY --from=one /one /
ADD --link b <<EOF /both/
text
EOF
ADD --link https://example.com/f /
"""


class Exporting(Workshop):
    """A workshop that asks for the selections of its builds' COPYs; `forged` are given out in the
    place of the digest of what a step read, `packed` in that of the layers of the image."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.found: set[Digest] = set()
        self.read: dict[str, str] = {}
        self.forged = ""
        self.packed: Container[Digest] | None = None

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        given = super().services(store, cache, cancellation)

        def described(plan: Plan, layers: dict[Digest, Layer], variant: str) -> dict[str, Any]:
            seen = Seen(cache)

            def inputs(key: Digest) -> str:
                document = json.loads(seen.records[key].inputs)
                for origin in document["origins"]:
                    self.read[document["step"].partition("] ")[2]] = origin["digest"]
                    origin["digest"] = self.forged or origin["digest"]
                return json.dumps(document)

            known = known_stages(plan, replace(given, cache=seen))
            packed = layers if self.packed is None else self.packed
            self.found = selections(plan, known, inputs, packed)
            return {}

        return replace(given, described=described)


class Everything:
    """Has every layer."""

    def __contains__(self, identity: object) -> bool:
        return True


@pytest.fixture
def workshop(tmp_path: Path, without_owners: None) -> Exporting:
    made = Exporting(tmp_path)
    made.remote.files["https://example.com/f"] = b"f"
    for name in ("a", "b", "secret"):
        (made.context / name).write_text(name)
    return made


def of(workshop: Exporting, *sources: str) -> set[str]:
    """The digests of what steps with these words read."""
    return {digest for name, digest in workshop.read.items() if set(sources) & set(name.split())}


def test_listings_go_along_with_the_layers_that_have_the_files(workshop: Exporting) -> None:
    workshop.build(TEXT)
    assert len(workshop.found) == 2, "the image has three layers of copies, one of a URL"
    assert {str(one) for one in workshop.found} == of(workshop, "/one", "b")
    workshop.packed = Everything()
    (workshop.context / "b").write_text("changed")
    workshop.build(TEXT)
    assert {str(one) for one in workshop.found} == of(workshop, "/one", "b", "a")
    workshop.packed = ()
    workshop.build(TEXT, no_cache=True)
    assert workshop.found == set()


@pytest.mark.parametrize("forged", [str(Digest.of(b"of a mount")), "sha256:x", "x"])
def test_B14_a_cache_does_not_have_other_listings_told_than_those_of_its_layers(
    workshop: Exporting, forged: str
) -> None:
    workshop.forged, workshop.packed = forged, Everything()
    workshop.build(TEXT)
    assert workshop.found == set()
