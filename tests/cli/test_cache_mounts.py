"""`mounts=true` of --cache-to and --cache-from, and how large a mount may be."""

from __future__ import annotations

import pytest

from assembler.cli.caches import sources_of, targets_of
from assembler.errors import UsageError

PLACE = "type=registry,ref=r.example/c:1"


def test_M7_mounts_travel_where_that_is_asked_for() -> None:
    found = targets_of([PLACE, f"{PLACE},mounts=true", "type=local,dest=d,mounts=1"], {})
    assert [one.mounts for one in found] == [False, True, True]
    (source,) = sources_of([f"{PLACE},mounts=true"])
    assert source.mounts


def test_M7_the_size_that_a_mount_may_have() -> None:
    words = [f"{PLACE},mounts=true,mounts-max-size={size}" for size in ("10g", "512MB", "7")]
    assert [one.largest_mount for one in targets_of(words, {})] == [10 << 30, 512 << 20, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mounts=true,mounts-max-size=much", "mounts-max-size=much is not a size"),
        ("mounts=true,mounts-max-size=0", "mounts-max-size=0 is not a size"),
        ("mounts-max-size=1g", "mounts-max-size is for mounts=true"),
        ("mounts=perhaps", "mounts"),
    ],
)
def test_M7_what_is_no_bound_is_a_mistake(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        targets_of([f"{PLACE},{words}"], {})


def test_M7_an_image_carries_no_mounts() -> None:
    with pytest.raises(UsageError, match="mounts"):
        targets_of(["type=inline,mounts=true"], {})
