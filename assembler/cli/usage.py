"""Records of the store as `docker buildx du` and `prune` show and choose them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from assembler.cache.usage import Usage, human
from assembler.dockerfile.durations import parse_duration
from assembler.engine.recorder import timestamp
from assembler.errors import UsageError
from assembler.source import printable

if TYPE_CHECKING:
    from assembler.cache.pruning import Filter

_SPANS = {
    "year": 31536000, "month": 2592000, "week": 604800, "day": 86400, "hour": 3600, "minute": 60,
    "second": 1,
}  # fmt: skip


def filters_of(words: Sequence[str]) -> tuple[list[Filter], float]:
    """The filters that `--filter` words mean, and for how many seconds a record must not have been
    used (`until`). Raises UsageError."""
    from assembler.cache.pruning import parse_filter

    filters: dict[str, Filter] = {}
    unused = 0.0
    for word in words:
        key, equals, value = word.partition("=")
        if key in ("until", "unused-for"):
            unused = _seconds(key, value)
        elif key in filters:
            raise UsageError(f"--filter {key}: only one value is expected")
        else:
            filters[key] = parse_filter(key, value if equals else None)
    return list(filters.values()), unused


def _seconds(key: str, value: str) -> float:
    try:
        return parse_duration(value) / 1e9
    except ValueError as error:
        hint = f"--filter {key}=24h"
        raise UsageError(f"--filter {key}={value}: not a duration: {error}", hint=hint) from error


def table(found: Iterable[Usage], now: float) -> Iterable[str]:
    """The lines of the table; `*` marks what is mutable, and the size of what is shared."""
    rows = [("ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED")]
    for one in found:
        shared = "*" if one.shared else ""
        mutable = "*" if one.mutable else ""
        reclaimable = str(not one.in_use).lower()
        rows.append(
            (one.id + mutable, reclaimable, human(one.size) + shared, ago(now - one.last_used))
        )
    width = max(len(row[0]) for row in rows)
    for id, reclaimable, size, last in rows:
        yield f"{printable(id):<{width}}  {reclaimable:<11}  {size:<9}  {last}"


def paragraphs(found: Iterable[Usage], now: float) -> Iterable[str]:
    """The lines of the verbose form."""
    for one in found:
        values: dict[str, Any] = {
            "ID": one.id,
            "Parent": ",".join(one.parents),
            "Created at": timestamp(one.created),
            "Mutable": str(one.mutable).lower(),
            "Reclaimable": str(not one.in_use).lower(),
            "Shared": str(one.shared).lower(),
            "Size": human(one.size),
            "Description": one.description,
            "Usage count": one.count,
            "Last used": ago(now - one.last_used),
            "Type": one.type,
        }
        for key, value in values.items():
            if value != "":
                yield f"{key + ':':<13} {printable(str(value))}"
        yield ""


def summary(found: Sequence[Usage]) -> Iterable[str]:
    """The sums below the records."""
    total = sum(one.size for one in found)
    shared = sum(one.size for one in found if one.shared)
    if shared:
        yield f"Shared:      {human(shared)}"
        yield f"Private:     {human(total - shared)}"
    yield f"Reclaimable: {human(sum(one.size for one in found if not one.in_use))}"
    yield f"Total:       {human(total)}"


def as_json(one: Usage) -> str:
    """The record as buildx's JSON object, on one line."""
    document = {
        "ID": one.id,
        "Parents": list(one.parents),
        "CreatedAt": timestamp(one.created),
        "Mutable": one.mutable,
        "Reclaimable": not one.in_use,
        "Shared": one.shared,
        "Size": one.size,
        "Description": one.description,
        "UsageCount": one.count,
        "LastUsedAt": timestamp(one.last_used),
        "Type": one.type,
    }
    return json.dumps(document)


def ago(seconds: float) -> str:
    """How long ago, in the largest unit of which there are two."""
    for unit, length in _SPANS.items():
        count = int(seconds // length)
        if count >= 2 or (count and unit == "second"):
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "less than a second ago"
