"""What `assemble inspect` shows of an image."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from assembler.cli.inspect import text
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Case:
    """Lines of a history, and what is shown of them beside layers of 10 and 2,000 bytes."""

    name: str
    history: list[dict[str, object]]
    shown: list[str]


CASES = (
    Case(
        "each layer has its size",
        [{"created_by": "base"}, {"created_by": "ENV a=b", "empty_layer": True}, {"created_by": "RUN x"}],
        ["  +           10  base", "  -               ENV a=b", "  +         2000  RUN x"],
    ),
    Case(
        "a history of other layers has no sizes",
        [{"created_by": "base"}, {"created_by": "ENV a=b", "empty_layer": True}],
        ["  + base", "  - ENV a=b"],
    ),
    Case("no history", [], []),
    Case(
        "text cannot move the cursor",
        [{"created_by": "RUN \x1b[2J"}, {"created_by": "b"}],
        ["  +           10  RUN \\x1b[2J", "  +         2000  b"],
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_history(case: Case) -> None:
    digests = [Digest.of(b"0"), Digest.of(b"1")]
    config = {
        "architecture": "amd64", "os": "linux", "history": case.history,
        "rootfs": {"type": "layers", "diff_ids": list(map(str, digests))},
    }  # fmt: skip
    layers = [
        Layer(Descriptor(LAYER, *one), one[0]) for one in zip(digests, (10, 2000), strict=True)
    ]
    image = Image.create(ImageConfig.parse(json.dumps(config).encode()), tuple(layers))
    lines = text(image).splitlines()
    assert lines[lines.index("History:") + 1 :] == case.shown
